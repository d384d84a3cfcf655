"""Dead units and dead kernels, layer by layer, of several networks."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from mnet_jax.drawing import COLOURS, add_caption, count_layers, new_figure

if TYPE_CHECKING:  # it imports JAX
    from mnet_jax.analysis.activations import Activity, Kernels

_LEAST_PERCENT = 1.0  # that an axis reaches to, so that nothing looks like something
_SHARES = {
    "never active": lambda activity: activity.never.mean(),
    "always active": lambda activity: activity.always.mean(),
    "clipped at 6": lambda activity: activity.clipped.mean(),
}


def draw(
    activities: "Mapping[str, Sequence[Activity]]",
    kernels: "Mapping[str, Sequence[Kernels]]",
    threshold: float,
) -> Figure:
    """Shares of channels and of values behind each non-linearity, and of dead kernels.

    Args:
      activities: by the network's name.
      kernels: by the network's name.
      threshold: of a kernel's norm, below which it is dead; see `Kernels.dead`.
    """
    figure = new_figure(12.0, 7.0)
    panels = figure.subplots(2, 2).ravel()
    for axes, (title, share) in zip(panels, _SHARES.items(), strict=False):
        for (name, found), colour in zip(activities.items(), COLOURS, strict=False):
            percents = [100 * share(activity) for activity in found]
            axes.plot(
                _places(found, activities),
                percents,
                "o-",
                color=colour,
                markersize=3.5,
                linewidth=1,
                label=name,
            )
        axes.set_title(title, loc="left", fontsize=11)
        count_layers(axes, "non-linearity")
    panels[0].set_ylabel("channels of the layer (%)")
    panels[1].set_ylabel("channels of the layer (%)")
    panels[2].set_ylabel("values of the layer (%)")
    for (name, layers), colour in zip(kernels.items(), COLOURS, strict=False):
        percents = [100 * layer.dead(threshold).mean() for layer in layers]
        panels[3].plot(percents, "o-", color=colour, markersize=3.5, linewidth=1, label=name)
    panels[3].set_title("dead depthwise kernels", loc="left", fontsize=11)
    panels[3].set_ylabel("kernels of the layer (%)")
    count_layers(panels[3], "depthwise layer")
    for axes in panels:
        axes.set_ylim(0, max(axes.get_ylim()[1], _LEAST_PERCENT))
    add_caption(
        figure,
        "What the V2 paper gives as the reason for linear bottlenecks (arXiv 1801.04381, section "
        "3.2; it has no figure of it), on test images. A kernel is dead whose norm is "
        f"{threshold:g} of the layer's largest or less.",
    )
    return figure


def _places(
    found: "Sequence[Activity]", activities: "Mapping[str, Sequence[Activity]]"
) -> Sequence[int]:
    """Where to draw a network's layers: those of one name one above the other, if they can be."""
    longest = [activity.layer for activity in max(activities.values(), key=len)]
    names = [activity.layer for activity in found]
    return [longest.index(name) for name in names] if {*names} <= {*longest} else range(len(names))
