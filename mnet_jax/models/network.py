"""A Linen module that builds any network from its spec, and the paths of its activations."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from mnet_jax.analysis import summary
from mnet_jax.architectures import dense_tasks
from mnet_jax.architectures import spec as architecture
from mnet_jax.architectures.shapes import REFERENCE_RESOLUTION, Role, require_quantizable, walk
from mnet_jax.architectures.spec import Activation, Kind, NetworkSpec, is_residual
from mnet_jax.models import attention, blocks, layers
from mnet_jax.models.normalization import Setting, sow
from mnet_jax.models.quantizers import activation_quantizer, rounded
from mnet_jax.models.types import Quantization, Remat
from mnet_jax.ops import Lowering, Pending
from mnet_jax.validation import is_whole, require, require_choice

Array = jax.Array


class MobileNet(nn.Module):
    """Any network of the family, built from its spec.

    The names of the parameters are those of `architectures.walk`: `stem`, `block_0` ..., `head`.

    Applied with `mutable=["intermediates"]`, the network also returns named activations. At the top
    are `stem_output`, `block_0_output` ...; in each block (`block_0` ...) `started`, `expanded`,
    `filtered`, `weighed` and `projected`; in an attention block `normalized`, `queries`,
    `downsampled_keys`, `keys`, `downsampled_values`, `values`, `attended` and `projected`; in
    `head` `conv_output`, `pooled` and `hidden_output`. As with Flax's `sow`, each is a tuple of one
    array. With `mutable=["preactivations"]` the network returns, under the same names except
    `pooled` and `hidden_output`, the inputs of the layers' activation functions. Folded and
    quantized networks cannot return these inputs.
    `models.activation_paths` lists the names.

    Attributes:
      spec: the architecture.
      dtype: type of the computation; parameters, statistics and logits are float32.
      lowering: how convolutions are computed; see `mnet_jax.ops.depthwise_conv`.
      axis_name: pmap axis over which batch normalization averages its statistics, or None.
      frozen: number of leading parts (the stem, then blocks) that run in inference mode even if
        `train=True`, and get no gradient, for fine-tuning of the other parts.
      folded: whether batch normalization is folded into the kernels, for inference only; see
        `models.fuse`.
      packed: whether pointwise kernels are stored as panels, which the native kernels read faster;
        see `models.fuse`.
      quantization: how kernels and activations are rounded (`mnet_jax.quantization`), or None.
      remat: `blocks` stores only the input of each block for the backward pass and recomputes the
        rest: less memory, a third more arithmetic.
      drop_path: rate of stochastic depth in training; see `drop_path_rates`. Like `frozen`, it is a
        setting of training and no part of the spec: the trained network is the same without it.
    """

    spec: NetworkSpec
    dtype: Any = jnp.float32
    lowering: Lowering = "auto"
    axis_name: str | None = None
    frozen: int = 0
    folded: bool = False
    packed: bool = False
    remat: Remat = "none"
    drop_path: float = 0.0
    quantization: Quantization | None = None

    def setup(self) -> None:
        require_choice("remat", self.remat, Remat)
        together = not (self.packed and self.quantization)
        require(together, "packed", self.packed, "False in a quantized network")
        classifies = self.spec.head.num_classes > 0 or self.quantization is None
        require(classifies, "num_classes", 0, "1 or more in a quantized network")
        if self.quantization:
            require_quantizable(self.spec)
        parts = 1 + len(self.spec.blocks)
        whole = is_whole(self.frozen) and 0 <= self.frozen <= parts
        require(whole, "frozen", self.frozen, f"0 to the {parts} parts before the head")
        require(0 <= self.drop_path < 1, "drop_path", self.drop_path, "0 to below 1")
        setting = Setting(
            dialect=self.spec.dialect,
            dtype=self.dtype,
            lowering=self.lowering,
            axis_name=self.axis_name,
            folded=self.folded,
            packed=self.packed,
            quantization=self.quantization,
        )
        self.input_quantizer = activation_quantizer(setting.at("input_quantizer"))
        self.stem = _module(self.spec.stem, setting.at("stem"))
        rates = drop_path_rates(self.spec, self.drop_path)
        self.block = [
            _module(block, setting, drop_path=rate)
            for block, rate in zip(self.spec.blocks, rates, strict=True)
        ]
        self.head = Head(self.spec.head, setting)

    def __call__(self, images: Array, train: bool) -> Array:
        """Returns the float32 logits [b, num_classes] of images [b, h, w, c].

        Without a classifier (`num_classes=0`) the network returns the classifier's input: float32
        features [b, `spec.features`], as timm's models do. These are pooled after the head's
        pointwise layer (V1, V2) and pass through the hidden layer, if there is one (V3, V4).

        Training (`train=True`) needs `mutable=["batch_stats"]` and `rngs={"dropout": key}`. `train`
        can be positional, because Flax's transformations pass it on by position:
        `nn.remat(MobileNet, static_argnums=(2,))`.

        Raises:
          ValueError: the images have another shape or are too small for the network; in training a
            layer would normalize a single value per channel; or `preactivations` are requested of a
            folded or quantized network.
        """
        *_, x = self._outputs(images, train=train)
        return self.head(x, train=train)

    def features(self, images: Array, train: bool) -> dict[int, Array]:
        """Returns the last feature map of each stride, by stride: {2: [b, h/2, w/2, c], 4: ...}.

        The coarsest map is the one that the head pools, after the head's pointwise layer; the V3
        paper calls this map C5 (section 6.3). Apply with `method="features"`; see `as_backbone` for
        finer maps.

        Raises:
          ValueError: as `__call__`.
        """
        maps, stride = {}, 1
        parts = [self.spec.stem, *self.spec.blocks]
        for part, x in zip(parts, self._outputs(images, train=train), strict=True):
            stride *= part.stride
            maps[stride] = x.value()
        return maps | {stride: self.head.last_map(x, train=train)}

    def block_maps(self, images: Array, blocks: tuple[int, ...], train: bool) -> tuple[Array, ...]:
        """Returns the outputs of chosen blocks, and last the map that the head pools.

        Apply with `method="block_maps"`; in contrast to `features`, any block can be chosen.

        Args:
          images: [b, h, w, c].
          blocks: indices of blocks in `spec.blocks`.
          train: as in `__call__`.

        Raises:
          ValueError: as `__call__`.
        """
        kept = {}
        for part, x in enumerate(self._outputs(images, train=train)):
            if part - 1 in blocks:  # part 0 is the stem
                kept[part - 1] = x.value()
        return *(kept[i] for i in blocks), self.head.last_map(x, train=train)

    def as_backbone(
        self, *, output_stride: dense_tasks.OutputStride = 32, reduced_tail: bool = False
    ) -> "MobileNet":
        """Returns the network for segmentation or detection; apply it with `method="features"`.

        Args:
          output_stride: stride of the coarsest map: 32, or 16 or 8 by dilation. The shapes of the
            variables do not depend on it.
          reduced_tail: whether to halve the channels from the last strided block on (V3 paper,
            section 6.3). This changes the shapes of the variables.

        Raises:
          ValueError: an argument is not legal, or the network has no tail to reduce.
        """
        spec = dense_tasks.with_reduced_tail(self.spec) if reduced_tail else self.spec
        return self.clone(spec=dense_tasks.with_output_stride(spec, output_stride))

    def summary(self, resolution: int | tuple[int, int]) -> str:
        """Returns a table of the layers, with outputs, parameters and multiply-adds, and totals.

        The numbers are computed from the spec, without tracing or compilation; Flax's `tabulate`
        traces the network. `print(model.summary(224))` shows the table.

        Args:
          resolution: side of a square image in pixels, or (rows, columns).

        Raises:
          ValueError: the image is too small for the network.
        """
        return summary.summary(self.spec, resolution)

    def _outputs(self, images: Array, *, train: bool) -> Iterator[Pending]:
        """Yields the outputs of the stem and of each block, in order."""
        _require_images(images, self.spec)
        requested = (
            self.is_mutable_collection("preactivations")
            and not self.is_mutable_collection("params")  # of `init` and `mutable=True`
        )
        known = not (self.folded or self.quantization)
        legal = "a network that is neither folded nor quantized"
        require(known or not requested, "preactivations", self.spec.name, legal)
        images = rounded(images, self.input_quantizer)
        x = self.stem.pending(images, train=train and self.frozen < 1)
        x = jax.lax.stop_gradient(x) if self.frozen == 1 else x
        sow(self, "stem_output", x)
        yield x
        skip = None
        for i, (spec, block) in enumerate(zip(self.spec.blocks, self.block, strict=True)):
            learns = train and self.frozen < i + 2
            through = partial(_through, spec=spec, train=learns)
            if self.remat == "blocks" and learns:
                through = nn.remat(through)
            x, skip = through(block, x, skip)
            if self.frozen == i + 2:
                x, skip = jax.lax.stop_gradient((x, skip))
            sow(self, f"block_{i}_output", x)
            yield x


def drop_path_rates(spec: NetworkSpec, rate: float) -> tuple[float, ...]:
    """Returns the probability that an image skips a block in training, for each block.

    It is `rate * i / n` for block i of n, counted from 0, as in timm; arXiv 1603.09382 (section 3)
    counts from 1. Where timm counts the last pointwise convolution as a block (V3 and V4), its n
    is larger by 1. A block without a shortcut around it is never skipped.
    """
    blocks = spec.blocks
    return tuple(rate * i / len(blocks) * is_residual(block) for i, block in enumerate(blocks))


class Head(nn.Module):
    """Maps the last block's output [b, h, w, c] to logits [b, num_classes], or to features.

    The layers are: a pointwise convolution (optional), the mean over space, a hidden layer
    (optional), dropout and the classifier (optional). A normalized hidden layer (V4) has the
    parameters of a convolution, `conv` and `norm`. A hidden layer with a bias (V3) has `kernel` and
    `bias`, like the classifier.
    """

    spec: architecture.Head
    setting: Setting

    def setup(self) -> None:
        spec, setting = self.spec, self.setting
        initializer = setting.dialect.initializer
        if spec.conv:
            self.conv = layers.ConvNorm(
                spec.conv.outputs, activation=spec.conv.activation, setting=setting
            )
        if spec.hidden:
            self.hidden = _hidden(spec.hidden, setting.at("head/hidden"))
        self.dropout = layers.Dropout(spec.dropout)
        init = layers.kernel_init(initializer, "dense")
        self.pooled_quantizer = activation_quantizer(setting.at("head/pooled"))
        setting = setting.at("head/classifier")
        if spec.num_classes:
            self.classifier = layers.Dense(spec.num_classes, init, setting=setting)

    def last_map(self, x: Pending, *, train: bool) -> Array:
        """Returns the feature map that the head pools."""
        if self.spec.conv:
            x = self.conv.pending(x, train=train)
            sow(self, "conv_output", x)
        return x.value()

    def __call__(self, x: Pending, train: bool) -> Array:
        pooled = jnp.mean(self.last_map(x, train=train), axis=(1, 2), dtype=jnp.float32)
        pooled = rounded(pooled, self.pooled_quantizer)
        self.sow("intermediates", "pooled", pooled)
        if self.spec.hidden:
            if isinstance(self.hidden, layers.ConvNorm):
                pooled = self.hidden(pooled, train=train)
            else:
                pooled = self.hidden(pooled)
            self.sow("intermediates", "hidden_output", pooled)
        kept = self.dropout(pooled, deterministic=not train)
        outputs = self.classifier(kept) if self.spec.num_classes else kept
        return outputs.astype(jnp.float32)


def _through(
    block: Any,
    x: Pending,
    skip: Array | None,
    *,
    spec: architecture.Block,
    train: bool,
) -> tuple[Pending, Array | None]:
    """Applies a block.

    Returns:
      The block's output, and the array that the next block adds to the output of its expansion
      layer: this block's expanded tensor if the block has an `expansion` shortcut, else None.
    """
    if not isinstance(spec, architecture.InvertedResidual):
        return block.pending(x, train=train), skip
    if spec.shortcut == "expansion":
        wide = block.widen(x, skip=skip, train=train)
        return block.narrow(wide, train=train), wide.value()
    return block.pending(x, skip=skip, train=train), None


def _module(spec: architecture.Block, setting: Setting, *, drop_path: float = 0.0) -> Any:
    """Returns the module of one block; for `drop_path` see `drop_path_rates`."""
    if isinstance(spec, architecture.Attention):
        return attention.Attention(
            heads=spec.heads,
            head_channels=spec.head_channels,
            kind=spec.kind,
            downsampling=spec.downsampling,
            kernel=spec.kernel,
            shortcut=spec.shortcut,
            layer_scale=spec.layer_scale,
            drop_path=drop_path,
            setting=setting,
        )
    window: dict[str, Any] = {
        "kernel": spec.kernel,
        "stride": spec.stride,
        "dilation": spec.dilation,
        "activation": spec.activation,
        "setting": setting,
    }
    if isinstance(spec, architecture.ConvNorm):
        return layers.ConvNorm(spec.outputs, **window)
    if isinstance(spec, architecture.Separable):
        return blocks.DepthwiseSeparable(spec.outputs, **window)
    if isinstance(spec, architecture.FusedInvertedResidual):
        return blocks.FusedInvertedResidual(
            spec.outputs, spec.expanded, bottleneck=spec.bottleneck, **window
        )
    return blocks.InvertedResidual(
        outputs=spec.outputs,
        expanded=spec.expanded if spec.expands else None,
        start_kernel=spec.start_kernel,
        squeeze=spec.squeeze,
        bottleneck=spec.bottleneck,
        shortcut=spec.shortcut,
        layer_scale=spec.layer_scale,
        drop_path=drop_path,
        **window,
    )


def _hidden(spec: architecture.Hidden, setting: Setting) -> layers.ConvNorm | layers.Dense:
    """Returns the dense layer between pool and classifier."""
    if spec.normalized:
        return layers.ConvNorm(spec.channels, activation=spec.activation, setting=setting)
    # All implementations but torchvision use a 1x1 convolution here, and initialize it as a
    # convolution.
    kind: Kind = "dense" if setting.dialect.name == "torchvision" else "pointwise"
    init = layers.kernel_init(setting.dialect.initializer, kind)
    return layers.Dense(spec.channels, init, spec.activation, setting)


def _require_images(images: Array, spec: NetworkSpec) -> None:
    shape, channels = tuple(getattr(images, "shape", ())), spec.stem.inputs
    if len(shape) != 4 or shape[-1] != channels or shape[0] < 1:
        got = f"shape {shape}" if hasattr(images, "shape") else type(images).__name__
        raise ValueError(f"images: got {got}, legal: [b, h, w, {channels}] with b 1 or more")
    _, rows, columns, _ = shape
    known = isinstance(rows, int) and isinstance(columns, int)
    require(known, "images", f"shape {shape}", "rows and columns that are no symbols")
    for _ in walk(spec, (rows, columns)):
        pass  # raises ValueError if a layer would have an empty output


@dataclass(frozen=True, kw_only=True)
class ActivationPath:
    """The location of a layer's output among the activations that a network returns.

    Attributes:
      layer: path of the layer's parameters, as in `architectures.Layer.name`.
      activation: the layer's activation function.
      path: names that lead to the output in the collections `intermediates` and `preactivations`.
    """

    layer: str
    activation: Activation
    path: tuple[str, ...]

    def of(self, collection: Mapping[str, Any]) -> Array:
        """Returns the layer's entry in a collection: [b, h, w, c], or [b, c] for a dense layer."""
        found: Any = collection
        for name in self.path:
            found = found[name]
        return found[0]


# The name under which a part of the network stores (`sow`) a layer's output, by the layer's role.
_SOWN_NAMES: dict[Role, str] = {
    "start": "started",
    "expand": "expanded",
    "depthwise": "filtered",
    "project": "projected",
    "input": "normalized",
    "query": "queries",
    "key/downsample": "downsampled_keys",
    "key/project": "keys",
    "value/downsample": "downsampled_values",
    "value/project": "values",
    "attend": "attended",
    "output": "projected",
    "conv": "conv_output",
    "hidden": "hidden_output",
}
# The output of a layer with one of these roles is the output of its part of the network.
_LAST_ROLES: tuple[Role | None, ...] = (None, "pointwise")


def activation_paths(spec: NetworkSpec) -> tuple[ActivationPath, ...]:
    """Returns the paths of all layers whose outputs are among the intermediates, in network order.

    The classifier and the dense layers of squeeze-and-excitation have no path.
    """
    paths = []
    for layer in walk(spec, REFERENCE_RESOLUTION):
        if layer.role in _LAST_ROLES:
            path: tuple[str, ...] = (f"{layer.part}_output",)
        elif layer.role in _SOWN_NAMES:
            path = (layer.part, _SOWN_NAMES[layer.role])
        else:
            continue
        activation = layer.activation
        assert activation != "hard_sigmoid" and activation != "sigmoid"  # only gates have these
        paths.append(ActivationPath(layer=layer.name, activation=activation, path=path))
    return tuple(paths)
