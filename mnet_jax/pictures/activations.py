"""Dead units and dead kernels, layer by layer, of several networks."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from mnet_jax.drawing import COLOURS, add_caption, count_layers, new_figure
from mnet_jax.lettering import label
from mnet_jax.pictures.means import draw_means, said_of_bands

if TYPE_CHECKING:  # it imports JAX
    from mnet_jax.analysis.activations import Activity, Survey

_LEAST_PERCENT = 1.0  # that an axis reaches to, so that nothing looks like something
_SHARES = {
    "never active": lambda activity: activity.never.mean(),
    "always active": lambda activity: activity.always.mean(),
    "clipped at 6": lambda activity: activity.clipped.mean(),
}


def draw(networks: "Mapping[str, Sequence[Survey]]", threshold: float) -> Figure:
    """Shares of channels and of values behind each non-linearity, and of dead kernels.

    Args:
      networks: by name; of several with one name, such as seeds, the means.
      threshold: of a kernel's norm, below which it is dead; see `Kernels.dead`.
    """
    figure = new_figure(12.0, 7.0)
    panels = figure.subplots(2, 2).ravel()
    looks = {"markersize": 3.5, "linewidth": 1}
    longest = [one.layer for one in max((s[0].activities for s in networks.values()), key=len)]
    for axes, (title, share) in zip(panels, _SHARES.items(), strict=False):
        for (name, seeds), colour in zip(networks.items(), COLOURS, strict=False):
            percents = [
                [100 * share(one) for one in same]
                for same in zip(*(seed.activities for seed in seeds), strict=True)
            ]
            places = _places(seeds[0].activities, longest)
            draw_means(axes, places, percents, "o-", color=colour, label=label(name), **looks)
        axes.set_title(title, loc="left", fontsize=11)
        count_layers(axes, "non-linearity")
    panels[0].set_ylabel("channels of the layer (%)")
    panels[1].set_ylabel("channels of the layer (%)")
    panels[2].set_ylabel("values of the layer (%)")
    for (name, seeds), colour in zip(networks.items(), COLOURS, strict=False):
        percents = [
            [100 * kernels.dead(threshold).mean() for kernels in same]
            for same in zip(*(seed.kernels for seed in seeds), strict=True)
        ]
        places = range(len(percents))
        draw_means(panels[3], places, percents, "o-", color=colour, label=label(name), **looks)
    panels[3].set_title("dead depthwise kernels", loc="left", fontsize=11)
    panels[3].set_ylabel("kernels of the layer (%)")
    count_layers(panels[3], "depthwise layer")
    for axes in panels:
        axes.set_ylim(0, max(axes.get_ylim()[1], _LEAST_PERCENT))
    add_caption(
        figure,
        "What the V2 paper gives as the reason for linear bottlenecks (arXiv 1801.04381, section "
        "3.2; it has no figure of it), on test images. A kernel is dead whose norm is "
        f"{threshold:g} of the layer's largest or less." + said_of_bands(networks.values()),
    )
    return figure


def _places(found: "Sequence[Activity]", longest: Sequence[str]) -> Sequence[int]:
    """Where to draw a network's layers: those of one name one above the other, if they can be."""
    names = [activity.layer for activity in found]
    return [longest.index(name) for name in names] if {*names} <= {*longest} else range(len(names))
