"""Times the contenders in turn on each case."""

import contextlib
import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from mnet_jax.analysis.cost import Machine
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

# The threads of other frameworks spin for a while after a call, waiting for the next call. Without
# a pause, the next contender would have to share the cores with these threads.
REST_SECONDS = 0.2


@dataclass(frozen=True, kw_only=True)
class Timing:
    """The times of one contender on one case.

    Attributes:
      contender: the contender's name.
      seconds: time of a call in seconds, one value per round.
      setup_seconds: time from the end of the imports to the end of the first call.
      failure: the cause of a failure in one line; None if there was none.
    """

    contender: str
    seconds: tuple[float, ...]
    setup_seconds: float | None
    failure: str | None

    @property
    def median_seconds(self) -> float:
        """Median over the rounds of the time of a call."""
        return statistics.median(self.seconds)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The times of all contenders on one case.

    Attributes:
      label: the name of the case.
      madds: least multiply-adds of the case.
      moved_bytes: least bytes read from and written to memory.
      timings: one per contender, ours first.
      group: the group of cases whose times are summed in a report; None if the case is in no sum.
      count: the number of such layers; in the group's sum, the case's time is multiplied by it.
      images: number of images per call; None if the case is neither a network nor an input
        pipeline.
    """

    label: str
    madds: int
    moved_bytes: int
    timings: tuple[Timing, ...]
    group: str | None = None
    count: int = 1
    images: int | None = None

    def ratios(self, timing: Timing) -> tuple[float, ...]:
        """Returns our time divided by the time in `timing`, by round; below 1, we are faster."""
        ours = next((t for t in self.timings if t.contender == OURS), None)
        if ours is None:
            return ()
        return tuple(a / b for a, b in zip(ours.seconds, timing.seconds, strict=False))

    def over_bound(self, timing: Timing, machine: Machine) -> float | None:
        """Returns the median time divided by the roofline's bound; None if either is missing."""
        bound = machine.bound_seconds(madds=self.madds, moved_bytes=self.moved_bytes)
        return timing.median_seconds / bound if bound and timing.seconds else None


@dataclass(frozen=True, kw_only=True)
class BenchmarkResult:
    """The result of a benchmark, as stored in its JSON file.

    Attributes:
      suite: name of the suite.
      machine: the better of two measurements, before and after the cases.
      environment: software versions, device and settings.
      comparisons: one per case.
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
    """Times the contenders on each case that they can run, in the order A B C A B C.

    Each contender has its own process. If all cases are single layers, which are many and short, a
    contender runs all of them in the same process. Otherwise each contender starts a new process
    for each case. The caller's compilation cache is never used.

    Args:
      cases: the cases to run.
      contenders: contenders whose packages are installed.
      rounds: number of samples of each contender on each case.
      environment: environment variables of all processes.
      report: called with a line of text before a contender is prepared.
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
    """Returns the environment variables for a compilation cache in `directory`; None: no cache."""
    if directory is None:
        return {"JAX_ENABLE_COMPILATION_CACHE": "false"}
    return {"JAX_ENABLE_COMPILATION_CACHE": "true", "JAX_COMPILATION_CACHE_DIR": directory}


@contextlib.contextmanager
def _workers(
    contenders: Sequence[Contender], environment: Mapping[str, str]
) -> Iterator[list[Worker]]:
    """Yields a worker for each contender, and ends the workers' processes at exit."""
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
    """Prepares all contenders, runs each once untimed, and then times them in turn.

    Because the contenders take turns, other load on the machine affects all of them alike.
    """
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
    for worker in ready:  # preparing the others has evicted this contender's data from the caches
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
    """Times the setup of each contender, in a new process for each sample."""
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
