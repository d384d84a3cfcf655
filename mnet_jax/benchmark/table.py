"""Makes the table by which the lowering `auto` chooses (`ops.choice`), from measured times."""

import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import partial

from mnet_jax.benchmark.cases import Case, DepthwiseCase, Derivative
from mnet_jax.benchmark.timing import BenchmarkResult, Comparison, Timing
from mnet_jax.ops.choice import Ranking, ShapeClass, Table, TableEntry, class_of
from mnet_jax.ops.types import Measured

ORDER: tuple[Measured, ...] = ("grouped", "shifted", "native")


def table_from(
    result: BenchmarkResult, cases: Sequence[Case], command: str, device: tuple[str, str]
) -> Table:
    """Makes a table from a benchmark of `contenders.LOWERINGS`.

    Args:
      result: the times of the lowerings.
      cases: the cases of `suites.table_cases` that were timed, in the result's order.
      command: the command line of the benchmark.
      device: backend and kind of the device.
    """
    classes: dict[ShapeClass, dict[Derivative, list[Comparison]]] = {}
    for case, comparison in zip(cases, result.comparisons, strict=True):
        assert isinstance(case, DepthwiseCase)
        timed = classes.setdefault(
            class_of(case.shape, case.kernel, case.stride), defaultdict(list)
        )
        timed[case.derivative].append(comparison)
    backend, device_kind = device
    rank = partial(_ranking, on_cpu=backend == "cpu")
    entries = [
        TableEntry(
            shapes=shapes,
            layers=len(timed["forward"]),
            forward=rank(timed["forward"]),
            backward=rank(timed["both gradients"]),
        )
        for shapes, timed in classes.items()
    ]
    return Table(
        backend=backend,
        device_kind=device_kind,
        command=command,
        environment=result.environment,
        entries=tuple(entry for entry in entries if entry.forward.order and entry.backward.order),
    )


def _ranking(layers: Sequence[Comparison], *, on_cpu: bool) -> Ranking:
    """Ranks the lowerings by their times on `layers`; on accelerators, `grouped` is preferred.

    On accelerators, another lowering comes before `grouped` only if it is faster in every round of
    every layer, since compilers keep improving grouped convolutions.
    """
    ran = [low for low in ORDER if all(_timing(layer, low).seconds for layer in layers)]
    ratios: dict[Measured, float] = {}
    if "grouped" in ran:
        ratios = {low: _mean_ratio(layers, low) for low in ran}

    def rank(low: Measured) -> tuple[int, float]:
        if on_cpu or low == "grouped":
            return (1, ratios[low])
        return (0 if all(_is_faster(layer, low) for layer in layers) else 2, ratios[low])

    return Ranking(
        order=tuple(sorted(ratios, key=rank)),
        ratios={low: round(ratio, 4) for low, ratio in ratios.items()},
    )


def _mean_ratio(layers: Iterable[Comparison], lowering: Measured) -> float:
    """Returns a lowering's time divided by that of `grouped`: the geometric mean over layers."""
    return statistics.geometric_mean(
        _timing(layer, lowering).median_seconds / _timing(layer, "grouped").median_seconds
        for layer in layers
    )


def _is_faster(comparison: Comparison, lowering: Measured) -> bool:
    """Returns whether a lowering's slowest round is faster than the fastest round of `grouped`."""
    slowest = max(_timing(comparison, lowering).seconds)
    return slowest < min(_timing(comparison, "grouped").seconds)


def _timing(comparison: Comparison, lowering: str) -> Timing:
    return next(timing for timing in comparison.timings if timing.contender == lowering)
