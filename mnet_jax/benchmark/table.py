"""From times of depthwise convolutions to the table that `auto` follows (`ops.choice`)."""

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence

from mnet_jax.benchmark.cases import Case, DepthwiseCase
from mnet_jax.benchmark.timing import BenchmarkResult, Comparison, Timing
from mnet_jax.ops.choice import Entry, Measured, ShapeClass, Table, class_of

ORDER: tuple[Measured, ...] = ("grouped", "shifted", "native")


def table_from(
    result: BenchmarkResult, cases: Sequence[Case], command: str, device: tuple[str, str]
) -> Table:
    """A table of what the `contenders.LOWERINGS` took.

    Args:
      result: of them.
      cases: what was timed, in the result's order; of `suites.table_cases`.
      command: what was typed.
      device: its backend and kind.
    """
    classes: dict[ShapeClass, dict[tuple, list[Comparison]]] = {}
    for case, comparison in zip(cases, result.comparisons, strict=True):
        assert isinstance(case, DepthwiseCase)
        layers = classes.setdefault(
            class_of(case.shape, case.kernel, case.stride), defaultdict(list)
        )
        layers[case.shape, case.kernel, case.stride].append(comparison)
    backend, device_kind = device
    entries = [
        _entry(shapes, list(layers.values()), on_cpu=backend == "cpu")
        for shapes, layers in classes.items()
    ]
    return Table(
        backend=backend,
        device_kind=device_kind,
        command=command,
        environment=result.environment,
        entries=tuple(entry for entry in entries if entry.order),
    )


def _entry(shapes: ShapeClass, layers: Sequence[Sequence[Comparison]], *, on_cpu: bool) -> Entry:
    """The order is that of the times. An accelerator's grouped lowering, which compilers get better
    at, stands behind others only if these are faster in every round of every case."""
    every = [comparison for layer in layers for comparison in layer]
    ran = [low for low in ORDER if all(_timing(c, low).seconds for c in every)]
    ratios: dict[Measured, float] = {}
    if "grouped" in ran:
        ratios = {low: _mean_ratio(layers, low) for low in ran}

    def rank(low: Measured) -> tuple[int, float]:
        if on_cpu or low == "grouped":
            return (1, ratios[low])
        return (0 if all(_is_faster(c, low) for c in every) else 2, ratios[low])

    return Entry(
        shapes=shapes,
        order=tuple(sorted(ratios, key=rank)),
        ratios={low: round(ratio, 4) for low, ratio in ratios.items()},
        layers=len(layers),
    )


def _mean_ratio(layers: Iterable[Sequence[Comparison]], lowering: Measured) -> float:
    """The geometric mean of the layers' times over those of grouped, forward and backward."""
    logarithms = []
    for layer in layers:
        one, other = (
            sum(_timing(comparison, low).median_seconds for comparison in layer)
            for low in (lowering, "grouped")
        )
        logarithms.append(math.log(one / other))
    return math.exp(statistics.fmean(logarithms))


def _is_faster(comparison: Comparison, lowering: Measured) -> bool:
    """Than grouped, by more than either varied."""
    slowest = max(_timing(comparison, lowering).seconds)
    return slowest < min(_timing(comparison, "grouped").seconds)


def _timing(comparison: Comparison, lowering: str) -> Timing:
    return next(timing for timing in comparison.timings if timing.contender == lowering)
