"""Contenders in turn on each case, and what came of it."""

import contextlib
import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from mnet_jax.analysis.roofline import Machine
from mnet_jax.benchmark.cases import (
    Case,
    CompileCase,
    DepthwiseCase,
    InputCase,
    LayerCase,
    NetworkCase,
)
from mnet_jax.benchmark.contenders import OURS, Contender
from mnet_jax.benchmark.worker import Worker, WorkerError

# The threads of other frameworks spin for a while after a call, in case there is another. Whoever
# is next would have to share the cores with them.
REST_SECONDS = 0.2


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
      group: the cases that it is summed up with; None where there is no sum.
      count: how often the sum has it.
      images: how many a call reads or takes, where that is what matters.
    """

    label: str
    madds: int
    moved_bytes: int
    timings: tuple[Timing, ...]
    group: str | None = None
    count: int = 1
    images: int | None = None

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
    cases: Sequence[Case],
    contenders: Sequence[Contender],
    rounds: int,
    environment: Mapping[str, str],
    report: Callable[[str], None] = lambda line: None,
) -> list[Comparison]:
    """Times the contenders on each case that they take, A B C A B C, each in its own process.

    A network has new processes to itself. Single layers are many and short, and are run by the same
    ones in turn. A compilation cache that the caller may have is never used.

    Args:
      cases: what to run.
      contenders: installed ones.
      rounds: how many samples each gives.
      environment: what all processes are started with.
      report: told who is being prepared.
    """
    if all(isinstance(case, DepthwiseCase | LayerCase) for case in cases):
        with _workers(contenders, {**environment, **_compilation_cache(None)}) as workers:
            return [_compare(case, workers, rounds, report) for case in cases]
    found = []
    with tempfile.TemporaryDirectory() as cache:
        for case in cases:
            cached = isinstance(case, CompileCase) and case.cached
            kept = _compilation_cache(cache if cached else None)
            with _workers(contenders, {**environment, **kept}) as workers:
                found.append(_compare(case, workers, rounds, report))
    return found


def _compilation_cache(directory: str | None) -> dict[str, str]:
    """What makes JAX keep what it compiles there, or nowhere."""
    if directory is None:
        return {"JAX_ENABLE_COMPILATION_CACHE": "false"}
    return {"JAX_ENABLE_COMPILATION_CACHE": "true", "JAX_COMPILATION_CACHE_DIR": directory}


@contextlib.contextmanager
def _workers(
    contenders: Sequence[Contender], environment: Mapping[str, str]
) -> Iterator[list[Worker]]:
    """One a contender; those that are idle when this is left end."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(Worker(contender, environment)) for contender in contenders]


def _compare(
    case: Case, workers: Sequence[Worker], rounds: int, report: Callable[[str], None]
) -> Comparison:
    taking = [worker for worker in workers if worker.contender.takes(case)]
    measure = _compile_times if isinstance(case, CompileCase) else _call_times
    timings = measure(case, taking, rounds, report)
    work = case.work
    return Comparison(
        label=case.label,
        madds=work.madds,
        moved_bytes=work.moved_bytes,
        timings=tuple(timings),
        group=case.group if isinstance(case, LayerCase) else None,
        count=case.count if isinstance(case, LayerCase) else 1,
        images=_images(case),
    )


def _images(case: Case) -> int | None:
    if isinstance(case, InputCase):
        return case.images
    return case.batch_size if isinstance(case, NetworkCase) else None


def _call_times(
    case: Case, workers: Sequence[Worker], rounds: int, report: Callable[[str], None]
) -> list[Timing]:
    """All contenders are prepared, run once uncounted, and then sampled in turn: what else the
    machine does meets them alike."""
    timings: dict[Worker, Timing] = {}
    for worker in workers:
        report(f"{case.label}: preparing {worker.contender.name}")
        setup_seconds, failure = None, None
        try:
            setup_seconds = worker.prepare(case)
        except WorkerError as error:
            failure = str(error)
        timings[worker] = Timing(
            contender=worker.contender.name,
            seconds=(),
            setup_seconds=setup_seconds,
            failure=failure,
        )
    ready = [worker for worker, timing in timings.items() if timing.failure is None]
    for worker in ready:  # since they were prepared, others have had the caches
        worker.run()
    spins = any(worker.contender.packages for worker in ready)
    for _ in range(rounds):
        for worker in ready:
            time.sleep(REST_SECONDS if spins else 0)
            seconds = (*timings[worker].seconds, worker.run())
            timings[worker] = dataclasses.replace(timings[worker], seconds=seconds)
    return list(timings.values())


def _compile_times(
    case: Case, workers: Sequence[Worker], rounds: int, report: Callable[[str], None]
) -> list[Timing]:
    """A new process for each sample, whose setup is the sample."""
    seconds: dict[str, list[float]] = {worker.contender.name: [] for worker in workers}
    failures: dict[str, str] = {}
    for _ in range(rounds):
        for worker in workers:
            name = worker.contender.name
            report(f"{case.label}: {name}")
            try:
                seconds[name].append(worker.prepare(case))
            except WorkerError as error:
                failures[name] = str(error)
            worker.end()
    return [
        Timing(
            contender=name,
            seconds=tuple(samples),
            setup_seconds=None,
            failure=failures.get(name),
        )
        for name, samples in seconds.items()
    ]
