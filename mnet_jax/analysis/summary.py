"""The cost of a network as plain text, from its spec."""

from mnet_jax.analysis.cost import Cost, count
from mnet_jax.architectures.shapes import Layer
from mnet_jax.architectures.spec import NetworkSpec

HEADINGS = ("layer", "kind", "output", "params", "MAdds")
LEFT = 3  # columns of text; the others are numbers


def summary(spec: NetworkSpec, resolution: int | tuple[int, int]) -> str:
    """Returns a table with a row for each layer, and the network's totals, for one image.

    MAdds are multiply-adds; see `analysis.cost` for what is counted.

    Args:
      spec: the network.
      resolution: side of a square image in pixels, or (rows, columns).

    Raises:
      ValueError: the image is too small for the network.
    """
    cost = count(spec, resolution)
    rows = [HEADINGS]
    for row in cost.rows:
        layer = row.layer
        texts = layer.name, layer.kind, output_text(layer)
        rows.append((*texts, f"{row.params:,}", f"{row.madds:,}"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    sides = (resolution, resolution) if isinstance(resolution, int) else resolution
    pixels = "x".join(map(str, (*sides, spec.stem.inputs)))
    lines = [f"{spec.name}, width {spec.width:g}, images {pixels}", ""]
    lines += [_line(row, widths) for row in rows]
    return "\n".join([*lines, "", *totals(cost)])


def totals(cost: Cost) -> list[str]:
    """Returns a network's parameters and multiply-adds, a line each."""
    with_statistics = cost.params + cost.statistics
    return [
        f"parameters  {cost.params:,} trainable, {with_statistics:,} with running statistics",
        f"MAdds       {cost.madds:,} an image",
    ]


def output_text(layer: Layer) -> str:
    """Returns the shape of a layer's output, such as `112x112x32`."""
    return "x".join(map(str, (*layer.output_size, layer.outputs)))


def _line(row: tuple[str, ...], widths: list[int]) -> str:
    cells = [
        text.ljust(width) if i < LEFT else text.rjust(width)
        for i, (text, width) in enumerate(zip(row, widths, strict=True))
    ]
    return "  ".join(cells).rstrip()
