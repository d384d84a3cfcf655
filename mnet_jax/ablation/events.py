"""What a sweep's journal tells: a sweep was called, a trial was started, a trial ended.

A line of the journal is one event in canonical JSON behind the SHA-256 of just that text:

    {"sha256":"<64 hexadecimal digits>","event":{"type":"Trial", ...}}

The bytes are fixed to the last one, so a line that differs in any bit is no line.
"""

import hashlib
import json
import os
import re
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from mnet_jax import serialization
from mnet_jax.ablation.axes import AXES, RETIRED_AXES
from mnet_jax.ablation.statistics import Method
from mnet_jax.config import Arm, RunConfig
from mnet_jax.result import RunResult
from mnet_jax.validation import require

KEY_DIGITS = 16
KEY = re.compile(f"[0-9a-f]{{{KEY_DIGITS}}}")
LINE = re.compile(rb'\{"sha256":"([0-9a-f]{64})","event":(.*)\}')


def key_of(config: RunConfig) -> str:
    """The name of a config's trial: 16 hex digits of the SHA-256 of its canonical JSON."""
    return hashlib.sha256(serialization.to_json(config).encode()).hexdigest()[:KEY_DIGITS]


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """One call of the command: what was asked for, and all that its report needs.

    Attributes:
      command: the line that was typed.
      preset: the claim of a paper that was asked for by name; None where axes were named.
      arms: of each arm its run with seed 0, in the order of the table's rows.
      seeds: what every arm is trained with.
      baseline: the arm that the others are compared with, as `arms`; not always one of them.
      axes: the names of the axes that were varied.
      started: when it was called, ISO 8601 in UTC.
      interval: of the report's means and differences.
    """

    command: str
    preset: str | None
    arms: tuple[RunConfig, ...]
    seeds: tuple[int, ...]
    baseline: RunConfig
    axes: tuple[str, ...]
    started: str
    interval: Method = "t"

    def __post_init__(self) -> None:
        require(bool(self.arms), "arms", (), "one or more")
        require(bool(self.seeds), "seeds", (), "one or more")
        require(min(self.seeds) >= 0, "seeds", self.seeds, "0 or more each")
        known = {axis.name for axis in (*AXES, *RETIRED_AXES)}
        unknown = next((name for name in self.axes if name not in known), None)
        require(unknown is None, "axes", unknown, "names of axes, such as width")
        seeded = next((arm for arm in (*self.arms, self.baseline) if arm.seed), None)
        require(seeded is None, "seed", seeded and seeded.seed, "0 in an arm")
        _require_utc("started", self.started)

    @property
    def configs(self) -> tuple[RunConfig, ...]:
        """Every trial that was asked for: all arms with the first seed, then with the next."""
        return tuple(replace(arm, seed=seed) for seed in self.seeds for arm in self.arms)


@dataclass(frozen=True, kw_only=True)
class Started:
    """A process has leased a trial. Whether it still runs, its lock says (see `leases`).

    Attributes:
      key: of the trial.
      host: the machine's name.
      pid: the process.
      worker: random, one for each `Store`: names and numbers of processes come again.
      started: when, ISO 8601 in UTC.
    """

    key: str
    host: str
    pid: int
    worker: str
    started: str

    def __post_init__(self) -> None:
        legal = f"{KEY_DIGITS} hexadecimal digits"  # it names a file
        require(KEY.fullmatch(self.key) is not None, "key", self.key, legal)
        _require_utc("started", self.started)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One config and what became of it: a result, or the cause of its failure.

    Attributes:
      key: `key_of(config)`.
      config: everything that determines the result.
      result: what a finished run found; None where it failed.
      cause: why it failed, in one line; None where it finished.
      environment: what else was there: versions and device.
      finished: when it ended, ISO 8601 in UTC.
    """

    key: str
    config: RunConfig
    result: RunResult | None
    cause: str | None
    environment: dict[str, str]
    finished: str

    def __post_init__(self) -> None:
        expected = key_of(self.config)
        require(self.key == expected, "key", self.key, f"{expected}, the hash of the config")
        require((self.result is None) != (self.cause is None), "cause", self.cause,
                "a line where there is no result, else None")  # fmt: skip
        one_line = self.cause is None or self.cause.splitlines() == [self.cause]
        require(one_line, "cause", self.cause, "one line")
        _require_utc("finished", self.finished)


Event = Sweep | Started | Trial


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """What makes `serialization` tag an event with its type."""

    event: Event


def _require_utc(name: str, text: str) -> None:
    try:
        utc = datetime.fromisoformat(text).utcoffset() == timedelta(0)
    except ValueError:
        utc = False
    require(utc, name, text, "an ISO 8601 time in UTC")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def sweep(
    command: str,
    arms: Sequence[Arm],
    num_classes: int,
    seeds: Sequence[int],
    baseline: Arm,
    axes: Sequence[str],
    preset: str | None = None,
    interval: Method = "t",
) -> Sweep:
    """The sweep that is called just now, on a data set of so many classes."""
    return Sweep(
        command=command, preset=preset, seeds=tuple(seeds), axes=tuple(axes), started=_now(),
        interval=interval,
        arms=tuple(arm.config(num_classes) for arm in dict.fromkeys(arms)),
        baseline=baseline.config(num_classes),
    )  # fmt: skip


def start(key: str, worker: str) -> Started:
    """This process begins a trial just now."""
    return Started(
        key=key, host=socket.gethostname(), pid=os.getpid(), worker=worker, started=_now()
    )


def success(config: RunConfig, result: RunResult, environment: Mapping[str, str]) -> Trial:
    """The trial of a run that finished just now."""
    return Trial(
        key=key_of(config), config=config, result=result, cause=None,
        environment=dict(environment), finished=_now(),
    )  # fmt: skip


def failure(config: RunConfig, cause: str, environment: Mapping[str, str]) -> Trial:
    """The trial of a run that failed just now; a cause of several lines is joined to one."""
    line = " ".join(cause.split()) or "failed without a word"
    line = line.encode(errors="backslashreplace").decode()  # half characters, as of odd file names
    return Trial(
        key=key_of(config), config=config, result=None, cause=line,
        environment=dict(environment), finished=_now(),
    )  # fmt: skip


def to_line(event: Event) -> bytes:
    """An event as its line, the line break included; ValueError for a number that is not finite."""
    plain = serialization.to_plain(_Entry(event=event))["event"]
    _require_finite(plain)
    text = json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()
    return b'{"sha256":"%s","event":%s}\n' % (_seal(text), text)


def from_line(line: bytes) -> Event:
    """The event of a line without its line break; ValueError, one line, if it holds none."""
    sealed = LINE.fullmatch(line)
    if not sealed:
        raise ValueError("no line of a journal")
    seal, text = sealed.groups()
    if seal != _seal(text):
        raise ValueError("its content does not match its checksum")
    try:
        plain = json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    _require_finite(plain)
    return serialization.from_plain(_Entry, {"event": plain}).event


def _seal(text: bytes) -> bytes:
    return hashlib.sha256(text).hexdigest().encode()


def _require_finite(plain: Any) -> None:
    """Raises ValueError for a number that is NaN, infinite or too large for a float."""
    for name, value in _numbers(plain):
        finite = abs(value) <= sys.float_info.max
        require(finite, name, value if isinstance(value, float) else "too much", "finite numbers")


def _numbers(plain: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Every number in plain data with its path, such as `result.history.3.train_loss`."""
    if isinstance(plain, dict):
        for key, value in plain.items():
            yield from _numbers(value, f"{name}.{key}" if name else key)
    elif isinstance(plain, list | tuple):
        for index, value in enumerate(plain):
            yield from _numbers(value, f"{name}.{index}")
    elif isinstance(plain, int | float):
        yield name, plain
