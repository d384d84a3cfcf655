"""The time of two programs, measured in turn."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

ROUND_SECONDS = 0.1  # of a round of each program, or of one call if that is longer


@dataclass(frozen=True, kw_only=True)
class Latency:
    """The time of a program beside that of another one.

    Attributes:
      seconds: of a call, the median over rounds.
      ratios: seconds of a call divided by those of the other program, of each round.
    """

    seconds: float
    ratios: tuple[float, ...]


def latency_beside(
    program: Callable[[], object], other: Callable[[], object], rounds: int
) -> Latency:
    """Measures a program in turn with another one, so that a busy machine slows both.

    Args:
      program: runs the program once, and returns when it has ended.
      other: runs the other one once.
      rounds: number of measurements of each, 1 or more.
    """
    calls = [_calls_a_round(each) for each in (program, other)]
    times = [
        [_seconds(each, count) for each, count in zip((program, other), calls, strict=True)]
        for _ in range(rounds)
    ]
    return Latency(
        seconds=median(own for own, _ in times),
        ratios=tuple(own / others for own, others in times),
    )


def _calls_a_round(program: Callable[[], object]) -> int:
    program()  # compiles, or loads
    return max(1, math.ceil(ROUND_SECONDS / _seconds(program, 1)))


def _seconds(program: Callable[[], object], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        program()
    return (time.perf_counter() - start) / calls
