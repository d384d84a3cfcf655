"""The operations of a network in inference, in the order in which data flows through them.

A network is a few kinds of operations: layers, means over space, sums of shortcuts, the products of
squeeze-and-excitation, and attention. Batch normalization and layer scales are folded into layers,
as `models.fuse` does. `compute` passes a tensor through the operations. What a tensor is, and what
an operation does, is up to the caller: the same walk computes with arrays, writes the nodes of a
graph, or records which layer reads the output of which.
"""

from collections.abc import Mapping
from typing import Protocol, TypeVar

from mnet_jax.architectures.shapes import Layer, walk
from mnet_jax.architectures.spec import Attention, Block, InvertedResidual, NetworkSpec

T = TypeVar("T")


class Operations(Protocol[T]):
    """The operations of a network on tensors of type T.

    Each method returns the output of an operation. The operation is identified by the layer, or by
    the path of the quantizer of its output (`quantization`), such as `block_1/sum_quantizer`.
    """

    def layer(self, layer: Layer, x: T) -> T:
        """Applies a layer that is not `attention`: the convolution, its bias and its activation.

        A layer of kind `norm` multiplies each channel by a scale, and adds a bias.
        """
        ...

    def attend(self, layer: Layer, query: T, key: T, value: T) -> T:
        """Applies attention: softmax(q k^T / sqrt(d)) v for each head, with d channels per head.

        The channels of a query are those of the first head, then those of the second, and so on. So
        are those of a key and a value, if the heads do not share them, and those of the result.

        Args:
          layer: the layer, of kind `attention`.
          query: feature map of `layer.inputs` channels.
          key: feature map of the size `layer.heads.key_size`.
          value: feature map of the key's shape.
        """
        ...

    def mean(self, path: str, x: T) -> T:
        """Takes the mean of a feature map [b, h, w, c] over space: [b, c]."""
        ...

    def add(self, path: str, left: T, right: T) -> T:
        """Adds two feature maps."""
        ...

    def scale(self, path: str, x: T, gate: T) -> T:
        """Multiplies the channels of a feature map [b, h, w, c] by a gate [b, c]."""
        ...


def compute(spec: NetworkSpec, size: int | tuple[int, int], x: T, operations: Operations[T]) -> T:
    """Passes an image through the operations of a network, and returns its output.

    Args:
      spec: the architecture.
      size: height and width of the image in pixels; one number stands for both.
      x: the image.
      operations: what each operation does.
    """
    layers = {layer.name: layer for layer in walk(spec, size)}
    x = operations.layer(layers["stem"], x)
    skip = None
    for i, block in enumerate(spec.blocks):
        x, skip = _through(f"block_{i}", block, layers, x, skip, operations)
    if "head/conv" in layers:
        x = operations.layer(layers["head/conv"], x)
    x = operations.mean("head/pooled_quantizer", x)
    if "head/hidden" in layers:
        x = operations.layer(layers["head/hidden"], x)
    return operations.layer(layers["head/classifier"], x) if "head/classifier" in layers else x


def _through(
    part: str,
    block: Block,
    layers: Mapping[str, Layer],
    x: T,
    skip: T | None,
    operations: Operations[T],
) -> tuple[T, T | None]:
    """Passes a tensor through the operations of a block.

    Args:
      part: name of the block.
      block: its spec.
      layers: all layers of the network by name.
      x: the block's input.
      skip: the tensor that the block adds to the output of its expansion layer, or None.
      operations: what each operation does.

    Returns:
      The block's output, and `skip` for the next block.
    """
    if isinstance(block, Attention):
        return _attention(part, block, layers, x, operations), None
    shortcut = block.shortcut if isinstance(block, InvertedResidual) else "none"
    start, squeeze, wide = x, f"{part}/squeeze_excite", None
    for layer in [layer for layer in layers.values() if layer.part == part]:
        if skip is not None and layer.role not in ("start", "expand"):
            x, skip = operations.add(f"{part}/skip_quantizer", x, skip), None
        if layer.role == "squeeze_excite/reduce":
            pooled = operations.mean(f"{squeeze}/pooled_quantizer", x)
            gate = operations.layer(layer, pooled)
        elif layer.role == "squeeze_excite/expand":
            gate = operations.layer(layer, gate)
            x = operations.scale(f"{squeeze}/output_quantizer", x, gate)
        else:
            wide = x if layer.role == "project" and shortcut == "expansion" else None
            x = operations.layer(layer, x)
    if shortcut == "bottleneck":
        x = operations.add(f"{part}/sum_quantizer", start, x)
    return x, wide


def _attention(
    part: str, block: Attention, layers: Mapping[str, Layer], x: T, operations: Operations[T]
) -> T:
    """Passes a tensor through the operations of an attention block."""
    normalized = operations.layer(layers[f"{part}/input"], x)

    def branch(*roles: str) -> T:
        y = normalized
        for name in (f"{part}/{role}" for role in roles):
            y = operations.layer(layers[name], y) if name in layers else y
        return y

    query = branch("query")
    key, value = (branch(f"{of}/downsample", f"{of}/project") for of in ("key", "value"))
    y = operations.attend(layers[f"{part}/attend"], query, key, value)
    y = operations.layer(layers[f"{part}/output"], y)
    return operations.add(f"{part}/sum_quantizer", x, y) if block.shortcut == "bottleneck" else y
