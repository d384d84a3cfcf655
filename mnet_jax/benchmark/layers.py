"""Times a network's layers one by one, for a comparison with the roofline."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mnet_jax.analysis.cost import Machine
from mnet_jax.architectures import NetworkSpec
from mnet_jax.architectures.spec import Kind
from mnet_jax.benchmark import machine
from mnet_jax.benchmark.contenders import CONTENDERS, OURS
from mnet_jax.benchmark.suites import layer_cases
from mnet_jax.benchmark.timing import compare


@dataclass(frozen=True, kw_only=True)
class TimedLayer:
    """The measurement of one layer of a network, as the forward pass of training runs it.

    Attributes:
      kind: the kind of the layer.
      label: the layer's shapes, for a table.
      count: number of such layers in the network.
      madds: multiply-adds of one call.
      moved_bytes: least bytes read from and written to memory in one call.
      seconds: time of one call in seconds, one value per round.
    """

    kind: Kind
    label: str
    count: int
    madds: int
    moved_bytes: int
    seconds: tuple[float, ...]


def time_layers(
    spec: NetworkSpec,
    resolution: int,
    batch_size: int,
    *,
    rounds: int,
    environment: Mapping[str, str],
    report: Callable[[str], None] = lambda line: None,
) -> tuple[Machine, tuple[TimedLayer, ...]]:
    """Times every distinct convolution and attention in float32, and measures the machine.

    The machine is measured before and after. For what is left out see `suites.layer_cases`.

    Args:
      spec: the network.
      resolution: side of the images in pixels.
      batch_size: number of images in a batch.
      rounds: number of samples of each layer.
      environment: environment variables of the processes.
      report: called with a line of text before a layer is prepared.

    Returns:
      The machine, with the better of the two measurements, and the timed layers.
    """
    before = machine.measure(environment)
    cases = layer_cases([spec], resolution, batch_size, directions=("forward",))
    ours = [contender for contender in CONTENDERS if contender.name == OURS]
    found = compare(cases, ours, rounds, environment, report)
    layers = tuple(
        TimedLayer(
            kind=case.kind,
            label=case.label,
            count=case.count,
            madds=comparison.madds,
            moved_bytes=comparison.moved_bytes,
            seconds=comparison.timings[0].seconds,
        )
        for case, comparison in zip(cases, found, strict=True)
    )
    return machine.better(before, machine.measure(environment)), layers
