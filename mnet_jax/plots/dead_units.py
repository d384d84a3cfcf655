"""Draws the shares of dead units and dead kernels, layer by layer, in several networks."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from mnet_jax.plots.means import bands_note, draw_means
from mnet_jax.plots.style import COLOURS, add_caption, count_layers, label, new_figure

if TYPE_CHECKING:  # it imports JAX
    from mnet_jax.analysis.dead_units import Activity, ActivityMeasurement

_LEAST_TOP_PERCENT = 1.0  # least upper end of an axis, so that tiny shares do not look large
_SHARES = {
    "never active": lambda activity: activity.never_active.mean(),
    "always active": lambda activity: activity.always_active.mean(),
    "clipped at 6": lambda activity: activity.clipped.mean(),
}


def draw(networks: "Mapping[str, Sequence[ActivityMeasurement]]", threshold: float) -> Figure:
    """Draws the shares of dead units, clipped values and dead kernels, layer by layer.

    A dead unit is a channel that is never or always active.

    Args:
      networks: for each network's name, the measurements of its models (such as one for each seed).
        If there are several models, their means are drawn.
      threshold: relative norm up to which a kernel is dead; see `Kernels.dead`.
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
        axes.set_ylim(0, max(axes.get_ylim()[1], _LEAST_TOP_PERCENT))
    add_caption(
        figure,
        "The V2 paper's reason for linear bottlenecks (arXiv 1801.04381, section 3.2; it has no "
        "figure of it), on test images. A kernel is dead if its norm is at most "
        f"{threshold:g} of the layer's largest." + bands_note(networks.values()),
    )
    return figure


def _places(found: "Sequence[Activity]", longest: Sequence[str]) -> Sequence[int]:
    """Returns the x positions of a network's layers.

    `longest` has the layer names of the longest network. If it contains all names of this network,
    the x position of a layer is the index of its name in `longest`. Otherwise the layers are
    numbered from 0.
    """
    names = [activity.layer for activity in found]
    return [longest.index(name) for name in names] if {*names} <= {*longest} else range(len(names))
