"""Contenders in turn on each case, and what came of it."""

import contextlib
import dataclasses
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from mnet_jax.analysis.roofline import Machine
from mnet_jax.benchmark.cases import Case, CompileCase
from mnet_jax.benchmark.contenders import OURS, Contender
from mnet_jax.benchmark.worker import Worker, WorkerError


@dataclass(frozen=True, kw_only=True)
class Timing:
    """One contender on one case.

    Attributes:
      contender: its name.
      seconds: of a call, one for each round.
      setup_seconds: from the imported framework to the end of the first call.
      failure: why there are no seconds, in one line; None where there are.
    """

    contender: str
    seconds: tuple[float, ...]
    setup_seconds: float | None
    failure: str | None

    @property
    def median_seconds(self) -> float:
        """Over the rounds."""
        return statistics.median(self.seconds)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All contenders on one case.

    Attributes:
      label: the case's.
      madds: of its least work.
      moved_bytes: likewise.
      timings: one a contender, ours first.
    """

    label: str
    madds: int
    moved_bytes: int
    timings: tuple[Timing, ...]

    def ratios(self, timing: Timing) -> tuple[float, ...]:
        """Ours over this contender's time, round by round: below 1 we are ahead."""
        ours = next((t for t in self.timings if t.contender == OURS), None)
        if ours is None:
            return ()
        return tuple(a / b for a, b in zip(ours.seconds, timing.seconds, strict=False))

    def over_bound(self, timing: Timing, machine: Machine) -> float | None:
        """The median time over the roofline's bound; None where no work is known."""
        bound = machine.bound_seconds(madds=self.madds, moved_bytes=self.moved_bytes)
        return timing.median_seconds / bound if bound and timing.seconds else None


@dataclass(frozen=True, kw_only=True)
class BenchmarkResult:
    """A whole benchmark, as its JSON keeps it.

    Attributes:
      suite: which.
      machine: measured in the same run, before and after; the better of the two.
      environment: software, device, and what was set.
      comparisons: one a case.
    """

    suite: str
    machine: Machine
    environment: dict[str, str]
    comparisons: tuple[Comparison, ...]


def compare(
    case: Case,
    contenders: Sequence[Contender],
    rounds: int,
    environment: Mapping[str, str],
    report: Callable[[str], None] = lambda line: None,
) -> Comparison:
    """Times the contenders that take the case, A B C A B C, each in a process of its own.

    Args:
      case: what to run.
      contenders: installed ones.
      rounds: how many samples each gives.
      environment: what all processes are started with.
      report: told who is being prepared.
    """
    taking = [contender for contender in contenders if contender.takes(case)]
    measure = _compile_times if isinstance(case, CompileCase) else _call_times
    timings = measure(case, taking, rounds, environment, report)
    work = case.work
    return Comparison(
        label=case.label,
        madds=work.madds,
        moved_bytes=work.moved_bytes,
        timings=tuple(timings),
    )


def _call_times(
    case: Case,
    contenders: Sequence[Contender],
    rounds: int,
    environment: Mapping[str, str],
    report: Callable[[str], None],
) -> list[Timing]:
    """All contenders are prepared, run once uncounted, and then sampled in turn: what else the
    machine does meets them alike."""
    timings: dict[str, Timing] = {}
    with contextlib.ExitStack() as stack:
        workers = {}
        for contender in contenders:
            report(f"{case.label}: preparing {contender.name}")
            try:
                worker = stack.enter_context(Worker(contender.name, case, environment))
            except WorkerError as error:
                timings[contender.name] = _failed(contender, str(error))
                continue
            workers[contender.name] = worker
            timings[contender.name] = Timing(
                contender=contender.name,
                seconds=(),
                setup_seconds=worker.setup_seconds,
                failure=None,
            )
        for worker in workers.values():  # since they were prepared, others have had the caches
            worker.run()
        for _ in range(rounds):
            for name, worker in workers.items():
                seconds = (*timings[name].seconds, worker.run())
                timings[name] = dataclasses.replace(timings[name], seconds=seconds)
    return [timings[contender.name] for contender in contenders]


def _compile_times(
    case: Case,
    contenders: Sequence[Contender],
    rounds: int,
    environment: Mapping[str, str],
    report: Callable[[str], None],
) -> list[Timing]:
    """A new process for each sample, whose setup is the sample."""
    seconds: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    failures: dict[str, str] = {}
    for _ in range(rounds):
        for contender in contenders:
            report(f"{case.label}: {contender.name}")
            try:
                with Worker(contender.name, case, environment) as worker:
                    seconds[contender.name].append(worker.setup_seconds)
            except WorkerError as error:
                failures[contender.name] = str(error)
    return [
        Timing(
            contender=contender.name,
            seconds=tuple(seconds[contender.name]),
            setup_seconds=None,
            failure=failures.get(contender.name),
        )
        for contender in contenders
    ]


def _failed(contender: Contender, cause: str) -> Timing:
    return Timing(contender=contender.name, seconds=(), setup_seconds=None, failure=cause)
