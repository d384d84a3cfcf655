"""Inverted residual blocks with folded normalization, as one operation.

If the layers run one after the other, the expanded feature map is written to memory and read back
twice. A native kernel computes the expanded map row by row, and filters and projects the rows while
they are in the cache.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mnet_jax.ops import native, panels
from mnet_jax.ops.convolution import depthwise, pointwise, uses_native
from mnet_jax.ops.forward_mode import without_forward_mode
from mnet_jax.ops.layer import (
    Finish,
    InvertedResidualLayer,
    InvertedResidualOperands,
    Layer,
    Pending,
)
from mnet_jax.ops.lowering import geometry_of
from mnet_jax.ops.types import Lowering
from mnet_jax.validation import require

Array = jax.Array
LEAST_COLUMNS = 8  # pixels; a tile of a matrix product has a row for each pixel (native/product.h)


class FoldedConv(NamedTuple):
    """A convolution into which batch normalization is folded, with its bias and activation.

    Attributes:
      kernel: pointwise [c, n] or packed into panels (`pack`), or depthwise [k, k, n].
      finish: bias and activation applied to the convolution's output.
    """

    kernel: Array
    finish: Finish


def inverted_residual(
    x: Array,
    expand: FoldedConv | None,
    filtering: FoldedConv,
    project: FoldedConv,
    *,
    strides: int | Sequence[int] = 1,
    padding: str | Sequence[Sequence[int]] = "SAME",
    dilation: int | Sequence[int] = 1,
    skip: Array | None = None,
    lowering: Lowering = "auto",
) -> Array:
    """Applies expansion, depthwise convolution, projection and shortcut (V2, arXiv 1801.04381).

    V1's depthwise separable convolution is the case without expansion and shortcut.

    Args:
      x: [b, h, w, c].
      expand: pointwise, c to e channels; None if x is not expanded.
      filtering: depthwise, e channels.
      project: pointwise, e to n channels.
      strides: of the depthwise convolution.
      padding: of the depthwise convolution.
      dilation: of the depthwise convolution.
      skip: [b, h', w', n], added to the output of the projection.
      lowering: as in `depthwise_conv`.

    Returns:
      [b, h', w', n].

    Raises:
      ValueError: shapes disagree.
      NativeError: "native" was requested and is not available.
    """
    window: dict[str, Any] = {"strides": strides, "padding": padding, "dilation": dilation}
    geometry = geometry_of(x, filtering.kernel.shape[:2], *window.values())
    if skip is not None:
        shape = (x.shape[0], *(axis.output for axis in geometry), project.finish.bias.shape[0])
        require(skip.shape == shape, "skip", skip.shape, str(shape))
    before = expand.finish.activation if expand else "linear"
    block = InvertedResidualLayer(
        activations=(before, filtering.finish.activation, project.finish.activation),
        geometry=geometry,
    )
    if _has_kernel(x, expand, filtering, project, block, lowering):
        arrays = without_forward_mode((x, expand, filtering, project, skip), lowering)
        x, expand, filtering, project, skip = arrays
        return _at_once(x, expand, filtering, project, block, skip)
    z = Pending(x=x)
    if expand:
        z = Pending(x=pointwise(z, expand.kernel, lowering=lowering, finish=expand.finish).y)
    kernel, finish = filtering
    z = Pending(x=depthwise(z, kernel, **window, lowering=lowering, finish=finish).y)
    y = pointwise(z, project.kernel, lowering=lowering, finish=project.finish).y
    return y if skip is None else y + skip


def _has_kernel(
    x: Array,
    expand: FoldedConv | None,
    filtering: FoldedConv,
    project: FoldedConv,
    block: InvertedResidualLayer,
    lowering: Lowering,
) -> bool:
    """Whether the native kernel for inverted residuals computes this block."""
    columns = block.geometry[1]
    layer = Layer(block.activations[1], block.geometry, statistics=False)
    return (
        all(map(native.activates, block.activations))
        and all(layer.kernel.ndim == 1 for layer in (expand, project) if layer)
        and min(columns.input, columns.output) >= LEAST_COLUMNS
        and uses_native(Pending(x=x), filtering.kernel, layer, lowering, alone=False)
    )


def _at_once(
    x: Array,
    expand: FoldedConv | None,
    filtering: FoldedConv,
    project: FoldedConv,
    block: InvertedResidualLayer,
    skip: Array | None,
) -> Array:
    """Checks the shapes of a block's arrays, then computes the block with the native kernel."""
    inputs, expanded = x.shape[-1], filtering.kernel.shape[-1]
    if expand:
        panels.require_fit(expand.kernel, inputs, expanded)
    else:
        require(inputs == expanded, "x", x.shape, f"[b, h, w, {expanded}], as the kernel is")
    panels.require_fit(project.kernel, expanded, project.finish.bias.shape[0])
    for layer in filter(None, (expand, filtering)):
        bias = layer.finish.bias.shape
        require(bias == (expanded,), "bias", bias, f"[{expanded}]")
    nothing = jnp.zeros(0, x.dtype)
    # The kernel adds the shortcut before the last activation, so that activation must be linear.
    inside = block.activations[2] == "linear"
    operands = InvertedResidualOperands(
        x=x,
        expand=expand.kernel if expand else nothing,
        expand_bias=expand.finish.bias if expand else nothing,
        kernel=filtering.kernel,
        bias=filtering.finish.bias,
        project=project.kernel,
        project_bias=project.finish.bias,
        skip=skip if skip is not None and inside else nothing,
    )
    y = native.inverted_residual(block, *operands)
    return y if skip is None or inside else y + skip
