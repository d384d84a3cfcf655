"""V2's Fig. 1 asked of trained networks: what a non-linearity would leave of their bottlenecks."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from mnet_jax.drawing import BLACK, COLOURS, add_caption, count_layers, new_figure

if TYPE_CHECKING:  # it imports JAX
    from mnet_jax.analysis.bottlenecks import Bottleneck


def draw(networks: "Mapping[str, Sequence[Bottleneck]]", activation: str) -> Figure:
    """What a non-linearity would leave of each bottleneck, and what expansions do leave.

    Args:
      networks: by name.
      activation: the non-linearity that is tried behind bottlenecks.
    """
    figure = new_figure(12.0, 5.0)
    left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
    for (name, found), colour in zip(networks.items(), COLOURS, strict=False):
        lost = [100 * (1 - b.recovered) for b in found]
        kept = {
            i: 100 * (1 - b.recovered_expanded)
            for i, b in enumerate(found)
            if b.recovered_expanded is not None
        }
        left.plot(lost, "o-", color=colour, markersize=5, label=f"{name}: {activation} behind it")
        if kept:
            left.plot(
                [*kept], [*kept.values()], "s:", color=colour, markersize=4,
                label=f"{name}: behind its expansion",
            )  # fmt: skip
        right.plot([b.rank for b in found], "o-", color=colour, markersize=5, label=name)
    layers = max(networks.values(), key=len)
    right.plot([b.channels for b in layers], ":", color=BLACK, label="channels")
    left.set_ylabel("variance that no affine map reads off (%)")
    left.set_title("What is lost of each bottleneck", loc="left", fontsize=11)
    right.set_ylabel("effective rank")
    right.set_title("How many dimensions a bottleneck uses", loc="left", fontsize=11)
    right.set_ylim(bottom=0)
    left.set_yscale("log")
    for axes in (left, right):
        count_layers(axes, "bottleneck")
    add_caption(
        figure,
        "The question of the V2 paper's Fig. 1 (arXiv 1801.04381, section 3.2) asked of trained "
        "networks, on test images: half of them are fitted to, the other half judge. What a "
        "network itself has behind a bottleneck is taken off before.",
    )
    return figure
