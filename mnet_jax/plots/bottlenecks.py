"""Draws how much of a trained network's information is lost in activation functions."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from mnet_jax.plots.means import bands_note, draw_means
from mnet_jax.plots.style import BLACK, COLOURS, add_caption, count_layers, label, new_figure

if TYPE_CHECKING:  # it imports JAX
    from mnet_jax.analysis.bottlenecks import Bottleneck


def draw(networks: "Mapping[str, Sequence[Sequence[Bottleneck]]]", activation: str) -> Figure:
    """Draws how much information each bottleneck loses, and the bottlenecks' effective ranks.

    The loss is measured after `activation` and, if an expansion follows, also after the expansion.

    Args:
      networks: for each network's name, a list of models (such as one for each seed); each model is
        a list of its bottlenecks. If there are several models, their means are drawn.
      activation: the activation function under test.
    """
    figure = new_figure(12.0, 5.0)
    left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
    for (name, seeds), colour in zip(networks.items(), COLOURS, strict=False):
        layers = [*zip(*seeds, strict=True)]
        places = range(len(layers))
        lost = [[100 * (1 - one.recovered) for one in same] for same in layers]
        expanded = {
            i: [100 * (1 - share) for one in same if (share := one.recovered_expanded) is not None]
            for i, same in enumerate(layers)
            if same[0].expanded_channels is not None
        }
        ranks = [[one.rank for one in same] for same in layers]
        looks = {"color": colour, "markersize": 5}
        draw_means(left, places, lost, "o-", label=label(f"{name}: after {activation}"), **looks)
        if expanded:
            draw_means(
                left, [*expanded], expanded.values(), "s:", color=colour, markersize=4,
                label=label(f"{name}: after its expansion"),
            )  # fmt: skip
        draw_means(right, places, ranks, "o-", label=label(name), **looks)
    longest = max((seeds[0] for seeds in networks.values()), key=len)
    right.plot([one.channels for one in longest], ":", color=BLACK, label="channels")
    left.set_ylabel("variance that no affine map reconstructs (%)")
    left.set_title("Lost information of each bottleneck", loc="left", fontsize=11)
    right.set_ylabel("effective rank")
    right.set_title("How many dimensions a bottleneck uses", loc="left", fontsize=11)
    right.set_ylim(bottom=0)
    left.set_yscale("log")
    for axes in (left, right):
        count_layers(axes, "bottleneck")
    add_caption(
        figure,
        "The question of the V2 paper's Fig. 1 (arXiv 1801.04381, section 3.2) for trained "
        "networks, on test images: the affine maps are fitted to half of them and evaluated on the "
        "other half. A network's own activation function after a bottleneck is removed first."
        + bands_note(networks.values()),
    )
    return figure
