"""Draws depthwise kernels and feature maps as grids of small images, one row per layer."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from mnet_jax.plots.style import add_caption, label, new_figure

SIGNED = "PuOr"  # purple to orange through white: also distinct to the colour-blind
GROWING = "viridis"
_WIDTH = 12.0  # inches
_NAME = 1.9  # inches at the left for the rows' names


def draw_kernels(kernels: Mapping[str, np.ndarray], most: int = 24) -> Figure:
    """Draws depthwise kernels; in each layer, those with the largest norms come first.

    Each layer has its own colour scale, since a normalization follows every depthwise layer.

    Args:
      kernels: the kernels [k, k, c], by the layer's path.
      most: maximum number of kernels drawn per layer.
    """
    ordered = {name: kernel[..., _largest(kernel, most)] for name, kernel in kernels.items()}
    limits = {name: float(np.abs(kernel).max()) or 1.0 for name, kernel in ordered.items()}
    tiles = {name: kernel / limits[name] for name, kernel in ordered.items()}
    figure = _draw_rows(
        tiles,
        {name: f"{name} ({kernels[name].shape[-1]})" for name in kernels},
        most,
        Normalize(-1, 1),
        SIGNED,
        "weight, over the largest of its row",
    )
    add_caption(
        figure,
        "Depthwise kernels (V1 paper, arXiv 1704.04861, Fig. 2b: one filter for each channel; the "
        f"papers show none). At most {most} per layer, those with the largest norm first; in "
        "brackets, the number of kernels in the layer.",
    )
    return figure


def draw_maps(image: np.ndarray, maps: Mapping[str, np.ndarray], most: int = 16) -> Figure:
    """Draws an image and its feature maps; in each layer, those with the largest variances first.

    Args:
      image: uint8 [h, w, 3], as the network sees it.
      maps: the feature maps [h, w, c], by the layer's path.
      most: maximum number of channels drawn per layer.
    """
    rows, names = {"image": image[..., None] / 255.0}, {"image": "image"}
    for name, values in maps.items():
        chosen = values[..., _largest(values - values.mean(axis=(0, 1)), most)]
        low, high = chosen.min(axis=(0, 1)), chosen.max(axis=(0, 1))
        rows[name] = (chosen - low) / np.where(high > low, high - low, 1)
        height, width, channels = values.shape
        names[name] = f"{name} ({height}x{width}x{channels})"
    figure = _draw_rows(
        rows, names, most, Normalize(0, 1), GROWING, "activation, from a map's least to its most"
    )
    add_caption(
        figure,
        "Feature maps after each convolution's normalization and activation function (rows of V2's "
        f"Table 2, arXiv 1801.04381; the papers show none). At most {most} channels per layer, "
        "those that vary most over the image first.",
    )
    return figure


def _largest(values: np.ndarray, most: int) -> np.ndarray:
    """Returns the indices of the channels with the largest sums of squares, largest first."""
    return np.argsort(-(values**2).sum(axis=(0, 1)), kind="stable")[:most]


def _draw_rows(
    rows: Mapping[str, np.ndarray],
    names: Mapping[str, str],
    most: int,
    scale: Normalize,
    colours: str,
    unit: str,
) -> Figure:
    """Draws each array of `rows` as a row of tiles, with the array's label from `names`.

    An array is [h, w, tiles], or [h, w, 3, tiles] in colour.
    """
    tile = (_WIDTH - _NAME) / most
    figure = new_figure(_WIDTH, tile * len(rows) + 1.6)
    figure.set_layout_engine("constrained", w_pad=0.01, h_pad=0.01, wspace=0.02, hspace=0.02)
    grid = figure.subplots(len(rows), most, squeeze=False)
    for line, (name, tiles) in zip(grid, rows.items(), strict=True):
        for column, axes in enumerate(line):
            _clear(axes)
            if column < tiles.shape[-1]:
                axes.imshow(tiles[..., column], norm=scale, cmap=colours, interpolation="nearest")
        line[0].set_ylabel(label(names[name]), rotation=0, ha="right", va="center", fontsize=8)
    figure.colorbar(
        ScalarMappable(scale, colours), ax=grid, location="bottom", fraction=0.02, pad=0.01,
        aspect=60, label=unit,
    )  # fmt: skip
    return figure


def _clear(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
