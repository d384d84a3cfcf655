"""The interpreter: a Linen module that builds any network from its spec."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from mnet_jax.architectures import spec as architecture
from mnet_jax.models import layers
from mnet_jax.ops.depthwise import Lowering

Array = jax.Array


class Head(nn.Module):
    """Pointwise layer if any, mean over space, dropout, classifier: [b, h, w, c] to logits."""

    spec: architecture.Head
    setting: layers.Setting

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        if self.spec.conv:
            conv = layers.ConvNorm(
                self.spec.conv.outputs,
                activation=self.spec.conv.activation,
                setting=self.setting,
                name="conv",
            )
            x = conv(x, train=train)
            self.sow("intermediates", "conv_output", x)
        x = jnp.mean(x, axis=(1, 2), dtype=jnp.float32)
        self.sow("intermediates", "pooled", x)
        x = nn.Dropout(self.spec.dropout, deterministic=not train)(x)
        classifier = nn.Dense(
            self.spec.num_classes,
            dtype=self.setting.dtype,
            kernel_init=layers.kernel_init(self.setting.dialect.initializer, "dense"),
            name="classifier",
        )
        return classifier(x).astype(jnp.float32)


class MobileNet(nn.Module):
    """Any network of the family, built from its spec.

    Parameters lie under the names of `architectures.walk`: `stem`, `block_0` ..., `head`. Applied
    with `mutable=["intermediates"]` it also returns named activations: `stem_output`,
    `block_0_output` ...; under `block_0` ... those inside, `expanded`, `filtered` and `projected`;
    under `head` `conv_output` and `pooled`. As with Flax's `sow`, each is a tuple of one array.

    Attributes:
      spec: the architecture.
      dtype: type of the computation; parameters, statistics and logits are float32.
      lowering: of depthwise convolutions; see `mnet_jax.ops.depthwise_conv`.
      axis_name: pmap axis over which batch normalization pools its statistics, if any.
    """

    spec: architecture.NetworkSpec
    dtype: Any = jnp.float32
    lowering: Lowering = "auto"
    axis_name: str | None = None

    @nn.compact
    def __call__(self, images: Array, *, train: bool) -> Array:
        """Logits float32 [b, num_classes] of images [b, h, w, 3].

        Training (`train=True`) needs `mutable=["batch_stats"]` and `rngs={"dropout": key}`.

        Raises:
          ValueError: the images are not of that shape, or too small for the network.
        """
        _require_images(images, self.spec)
        setting = layers.Setting(
            dialect=self.spec.dialect,
            dtype=self.dtype,
            lowering=self.lowering,
            axis_name=self.axis_name,
        )
        x = _layer(self.spec.stem, setting, "stem")(images.astype(self.dtype), train=train)
        self.sow("intermediates", "stem_output", x)
        skip = None
        for i, spec in enumerate(self.spec.blocks):
            block = _layer(spec, setting, f"block_{i}")
            if isinstance(spec, architecture.InvertedResidual):
                wide = block.widen(x, skip=skip, train=train)
                y = block.narrow(wide, train=train)
                skip = wide if spec.shortcut == "expansion" else None
                x = x + y if spec.shortcut == "bottleneck" else y
            else:
                x = block(x, train=train)
            self.sow("intermediates", f"block_{i}_output", x)
        return Head(self.spec.head, setting, name="head")(x, train=train)


def _layer(spec: architecture.Block, setting: layers.Setting, name: str) -> Any:
    """The unbound module of one block."""
    if isinstance(spec, architecture.ConvNorm):
        return layers.ConvNorm(
            spec.outputs, spec.kernel, spec.stride, spec.activation, setting, name=name
        )
    if isinstance(spec, architecture.Separable):
        return layers.DepthwiseSeparable(
            spec.outputs, spec.kernel, spec.stride, spec.activation, setting, name=name
        )
    return layers.InvertedResidual(
        outputs=spec.outputs,
        expanded=spec.expanded if spec.expands else None,
        kernel=spec.kernel,
        stride=spec.stride,
        activation=spec.activation,
        bottleneck=spec.bottleneck,
        shortcut=spec.shortcut,
        setting=setting,
        name=name,
    )


def _require_images(images: Array, spec: architecture.NetworkSpec) -> None:
    if images.ndim != 4 or images.shape[-1] != spec.stem.inputs:
        raise ValueError(
            f"images: got shape {tuple(images.shape)}, legal: [b, h, w, {spec.stem.inputs}]"
        )
    _, rows, columns, _ = images.shape
    for _ in architecture.walk(spec, (rows, columns)):
        pass  # raises where a layer would have no output
