"""The papers' networks as Linen modules, one factory for each version and variant.

Written by `python -m tools.write_factories`, do not edit. To change an option, its default or its
documentation, change `mnet_jax.architectures` (`dtype` and `lowering`: `MobileNet`), and run it.
"""

from typing import Any, Literal

import jax.numpy as jnp

from mnet_jax import architectures
from mnet_jax.models.network import MobileNet


def mobilenet_v1(
    *,
    width: float = 1.0,
    num_classes: int = 1000,
    convolution: Literal["depthwise", "full"] = "depthwise",
    depth: Literal["full", "shallow"] = "full",
    activation: Literal["relu6", "relu"] = "relu6",
    dropout: float | None = None,
    dialect: Literal["paper", "slim", "keras", "torchvision", "timm"] = "paper",
    norm_momentum: float | None = None,
    input_stride: Literal[4, 2, 1] = 4,
    dtype: Any = jnp.float32,
    lowering: Literal["auto", "grouped", "shifted", "native"] = "auto",
) -> MobileNet:
    """MobileNet V1 (arXiv 1704.04861) as a Linen module.

    It maps images [b, h, w, 3] to logits [b, num_classes].

    Args:
      width: the width multiplier alpha (section 3.3).
      num_classes: number of logits.
      convolution: `full` is the control of Table 4.
      depth: `shallow` leaves out the five 14x14x512 layers (Table 5).
      activation: the paper says ReLU; every released implementation has ReLU6.
      dropout: rate before the classifier; None is the dialect's.
      dialect: whose padding, rounding, normalization constants and initialization.
      norm_momentum: share of BatchNorm's running statistics kept at each step; None is the
        dialect's. The paper's needs tens of thousands of steps.
      input_stride: product of the first two strides; 1 at 32x32 pixels and below.
      dtype: type of the computation; parameters, statistics and logits are float32.
      lowering: of convolutions; see `mnet_jax.ops.depthwise_conv`.

    Raises:
      ValueError: an option is not legal; one line with its name, its value and the legal ones.
    """
    spec = architectures.mobilenet_v1(
        width=width,
        num_classes=num_classes,
        convolution=convolution,
        depth=depth,
        activation=activation,
        dropout=dropout,
        dialect=dialect,
        norm_momentum=norm_momentum,
        input_stride=input_stride,
    )
    return MobileNet(spec=spec, dtype=dtype, lowering=lowering)


def mobilenet_v2(
    *,
    width: float = 1.0,
    num_classes: int = 1000,
    expansion: int = 6,
    bottleneck: Literal["linear", "relu6"] = "linear",
    shortcut: Literal["bottleneck", "expansion", "none"] = "bottleneck",
    activation: Literal["relu6", "relu"] = "relu6",
    dropout: float | None = None,
    dialect: Literal["paper", "slim", "keras", "torchvision", "timm"] = "paper",
    norm_momentum: float | None = None,
    input_stride: Literal[4, 2, 1] = 4,
    dtype: Any = jnp.float32,
    lowering: Literal["auto", "grouped", "shifted", "native"] = "auto",
) -> MobileNet:
    """MobileNet V2 (arXiv 1801.04381) as a Linen module.

    It maps images [b, h, w, 3] to logits [b, num_classes].

    Args:
      width: the width multiplier; the last convolution grows above 1 and does not shrink below.
      num_classes: number of logits.
      expansion: t of every block but the first, which has none.
      bottleneck: what follows a projection (Fig. 6a).
      shortcut: what the identities connect (Fig. 6b).
      activation: of every layer that is not linear.
      dropout: rate before the classifier; None is the dialect's.
      dialect: whose padding, rounding, normalization constants and initialization.
      norm_momentum: share of BatchNorm's running statistics kept at each step; None is the
        dialect's. The paper's needs thousands of steps.
      input_stride: product of the first two strides; 1 at 32x32 pixels and below.
      dtype: type of the computation; parameters, statistics and logits are float32.
      lowering: of convolutions; see `mnet_jax.ops.depthwise_conv`.

    Raises:
      ValueError: an option is not legal; one line with its name, its value and the legal ones.
    """
    spec = architectures.mobilenet_v2(
        width=width,
        num_classes=num_classes,
        expansion=expansion,
        bottleneck=bottleneck,
        shortcut=shortcut,
        activation=activation,
        dropout=dropout,
        dialect=dialect,
        norm_momentum=norm_momentum,
        input_stride=input_stride,
    )
    return MobileNet(spec=spec, dtype=dtype, lowering=lowering)


def mobilenet_v3(
    variant: Literal["large", "small"],
    *,
    width: float = 1.0,
    num_classes: int = 1000,
    minimalistic: bool = False,
    squeeze_excite: bool | None = None,
    hard_swish_from: int | None = None,
    stem: Literal[16, 32] = 16,
    last_stage: Literal["efficient", "original"] = "efficient",
    bottleneck: Literal["linear", "relu6"] = "linear",
    shortcut: Literal["bottleneck", "expansion", "none"] = "bottleneck",
    dropout: float | None = None,
    dialect: Literal["paper", "slim", "keras", "torchvision", "timm"] = "paper",
    norm_momentum: float | None = None,
    input_stride: Literal[4, 2, 1] = 4,
    dtype: Any = jnp.float32,
    lowering: Literal["auto", "grouped", "shifted", "native"] = "auto",
) -> MobileNet:
    """MobileNet V3 (arXiv 1905.02244) as a Linen module.

    It maps images [b, h, w, 3] to logits [b, num_classes].

    Args:
      variant: `large` (Table 1) or `small` (Table 2).
      width: the width multiplier.
      num_classes: number of logits.
      minimalistic: 3x3 kernels, no squeeze-and-excitation and ReLU throughout, for hardware that
        is slow at the rest; unless the next two options say otherwise.
      squeeze_excite: whether the rows that the table marks have it; None is the variant's.
      hard_swish_from: the rows with that many channels or more (at width 1), the stem and the tail
        have h-swish, the other rows ReLU (Table 5: 16, 80, 112); 0 for ReLU throughout, stem and
        tail included; None is the variant's.
      stem: channels of the first convolution (section 5.1: 32 before, 16 with h-swish).
      last_stage: `efficient` pools before it widens for the last time, `original` is what the
        search found: one more inverted residual, as in V2, and a wide convolution (Fig. 5).
      bottleneck: what follows a projection.
      shortcut: what the identities connect.
      dropout: rate before the classifier; None is the dialect's.
      dialect: whose padding, rounding, normalization constants and initialization.
      norm_momentum: share of BatchNorm's running statistics kept at each step; None is the
        dialect's.
      input_stride: product of the first two strides; 1 at 32x32 pixels and below.
      dtype: type of the computation; parameters, statistics and logits are float32.
      lowering: of convolutions; see `mnet_jax.ops.depthwise_conv`.

    Raises:
      ValueError: an option is not legal; one line with its name, its value and the legal ones.
    """
    spec = architectures.mobilenet_v3(
        variant,
        width=width,
        num_classes=num_classes,
        minimalistic=minimalistic,
        squeeze_excite=squeeze_excite,
        hard_swish_from=hard_swish_from,
        stem=stem,
        last_stage=last_stage,
        bottleneck=bottleneck,
        shortcut=shortcut,
        dropout=dropout,
        dialect=dialect,
        norm_momentum=norm_momentum,
        input_stride=input_stride,
    )
    return MobileNet(spec=spec, dtype=dtype, lowering=lowering)


def mobilenet_v3_large(
    *,
    width: float = 1.0,
    num_classes: int = 1000,
    minimalistic: bool = False,
    squeeze_excite: bool | None = None,
    hard_swish_from: int | None = None,
    stem: Literal[16, 32] = 16,
    last_stage: Literal["efficient", "original"] = "efficient",
    bottleneck: Literal["linear", "relu6"] = "linear",
    shortcut: Literal["bottleneck", "expansion", "none"] = "bottleneck",
    dropout: float | None = None,
    dialect: Literal["paper", "slim", "keras", "torchvision", "timm"] = "paper",
    norm_momentum: float | None = None,
    input_stride: Literal[4, 2, 1] = 4,
    dtype: Any = jnp.float32,
    lowering: Literal["auto", "grouped", "shifted", "native"] = "auto",
) -> MobileNet:
    """MobileNet V3-Large (arXiv 1905.02244, Table 1) as a Linen module.

    It maps images [b, h, w, 3] to logits [b, num_classes].

    Args:
      width: the width multiplier.
      num_classes: number of logits.
      minimalistic: 3x3 kernels, no squeeze-and-excitation and ReLU throughout, for hardware that
        is slow at the rest; unless the next two options say otherwise.
      squeeze_excite: whether the rows that the table marks have it; None is the variant's.
      hard_swish_from: the rows with that many channels or more (at width 1), the stem and the tail
        have h-swish, the other rows ReLU (Table 5: 16, 80, 112); 0 for ReLU throughout, stem and
        tail included; None is the variant's.
      stem: channels of the first convolution (section 5.1: 32 before, 16 with h-swish).
      last_stage: `efficient` pools before it widens for the last time, `original` is what the
        search found: one more inverted residual, as in V2, and a wide convolution (Fig. 5).
      bottleneck: what follows a projection.
      shortcut: what the identities connect.
      dropout: rate before the classifier; None is the dialect's.
      dialect: whose padding, rounding, normalization constants and initialization.
      norm_momentum: share of BatchNorm's running statistics kept at each step; None is the
        dialect's.
      input_stride: product of the first two strides; 1 at 32x32 pixels and below.
      dtype: type of the computation; parameters, statistics and logits are float32.
      lowering: of convolutions; see `mnet_jax.ops.depthwise_conv`.

    Raises:
      ValueError: an option is not legal; one line with its name, its value and the legal ones.
    """
    spec = architectures.mobilenet_v3(
        "large",
        width=width,
        num_classes=num_classes,
        minimalistic=minimalistic,
        squeeze_excite=squeeze_excite,
        hard_swish_from=hard_swish_from,
        stem=stem,
        last_stage=last_stage,
        bottleneck=bottleneck,
        shortcut=shortcut,
        dropout=dropout,
        dialect=dialect,
        norm_momentum=norm_momentum,
        input_stride=input_stride,
    )
    return MobileNet(spec=spec, dtype=dtype, lowering=lowering)


def mobilenet_v3_small(
    *,
    width: float = 1.0,
    num_classes: int = 1000,
    minimalistic: bool = False,
    squeeze_excite: bool | None = None,
    hard_swish_from: int | None = None,
    stem: Literal[16, 32] = 16,
    last_stage: Literal["efficient", "original"] = "efficient",
    bottleneck: Literal["linear", "relu6"] = "linear",
    shortcut: Literal["bottleneck", "expansion", "none"] = "bottleneck",
    dropout: float | None = None,
    dialect: Literal["paper", "slim", "keras", "torchvision", "timm"] = "paper",
    norm_momentum: float | None = None,
    input_stride: Literal[4, 2, 1] = 4,
    dtype: Any = jnp.float32,
    lowering: Literal["auto", "grouped", "shifted", "native"] = "auto",
) -> MobileNet:
    """MobileNet V3-Small (arXiv 1905.02244, Table 2) as a Linen module.

    It maps images [b, h, w, 3] to logits [b, num_classes].

    Args:
      width: the width multiplier.
      num_classes: number of logits.
      minimalistic: 3x3 kernels, no squeeze-and-excitation and ReLU throughout, for hardware that
        is slow at the rest; unless the next two options say otherwise.
      squeeze_excite: whether the rows that the table marks have it; None is the variant's.
      hard_swish_from: the rows with that many channels or more (at width 1), the stem and the tail
        have h-swish, the other rows ReLU (Table 5: 16, 80, 112); 0 for ReLU throughout, stem and
        tail included; None is the variant's.
      stem: channels of the first convolution (section 5.1: 32 before, 16 with h-swish).
      last_stage: `efficient` pools before it widens for the last time, `original` is what the
        search found: one more inverted residual, as in V2, and a wide convolution (Fig. 5).
      bottleneck: what follows a projection.
      shortcut: what the identities connect.
      dropout: rate before the classifier; None is the dialect's.
      dialect: whose padding, rounding, normalization constants and initialization.
      norm_momentum: share of BatchNorm's running statistics kept at each step; None is the
        dialect's.
      input_stride: product of the first two strides; 1 at 32x32 pixels and below.
      dtype: type of the computation; parameters, statistics and logits are float32.
      lowering: of convolutions; see `mnet_jax.ops.depthwise_conv`.

    Raises:
      ValueError: an option is not legal; one line with its name, its value and the legal ones.
    """
    spec = architectures.mobilenet_v3(
        "small",
        width=width,
        num_classes=num_classes,
        minimalistic=minimalistic,
        squeeze_excite=squeeze_excite,
        hard_swish_from=hard_swish_from,
        stem=stem,
        last_stage=last_stage,
        bottleneck=bottleneck,
        shortcut=shortcut,
        dropout=dropout,
        dialect=dialect,
        norm_momentum=norm_momentum,
        input_stride=input_stride,
    )
    return MobileNet(spec=spec, dtype=dtype, lowering=lowering)


def mobilenet_v4(
    variant: Literal["conv_small", "conv_medium", "conv_large"],
    *,
    width: float = 1.0,
    num_classes: int = 1000,
    bottleneck: Literal["linear", "relu6"] = "linear",
    shortcut: Literal["bottleneck", "expansion", "none"] = "bottleneck",
    dropout: float | None = None,
    dialect: Literal["paper", "slim", "keras", "torchvision", "timm"] = "paper",
    norm_momentum: float | None = None,
    input_stride: Literal[4, 2, 1] = 4,
    dtype: Any = jnp.float32,
    lowering: Literal["auto", "grouped", "shifted", "native"] = "auto",
) -> MobileNet:
    """MobileNet V4 (arXiv 2404.10518) as a Linen module.

    It maps images [b, h, w, 3] to logits [b, num_classes].

    Args:
      variant: `conv_small`, `conv_medium` or `conv_large` (appendix D).
      width: the width multiplier.
      num_classes: number of logits.
      bottleneck: what follows a projection.
      shortcut: what the identities connect.
      dropout: rate before the classifier; None is the dialect's.
      dialect: whose padding, normalization constants and initialization.
      norm_momentum: share of BatchNorm's running statistics kept at each step; None is the
        dialect's.
      input_stride: product of the first two strides; 1 at 32x32 pixels and below.
      dtype: type of the computation; parameters, statistics and logits are float32.
      lowering: of convolutions; see `mnet_jax.ops.depthwise_conv`.

    Raises:
      ValueError: an option is not legal; one line with its name, its value and the legal ones.
    """
    spec = architectures.mobilenet_v4(
        variant,
        width=width,
        num_classes=num_classes,
        bottleneck=bottleneck,
        shortcut=shortcut,
        dropout=dropout,
        dialect=dialect,
        norm_momentum=norm_momentum,
        input_stride=input_stride,
    )
    return MobileNet(spec=spec, dtype=dtype, lowering=lowering)


def mobilenet_v4_conv_small(
    *,
    width: float = 1.0,
    num_classes: int = 1000,
    bottleneck: Literal["linear", "relu6"] = "linear",
    shortcut: Literal["bottleneck", "expansion", "none"] = "bottleneck",
    dropout: float | None = None,
    dialect: Literal["paper", "slim", "keras", "torchvision", "timm"] = "paper",
    norm_momentum: float | None = None,
    input_stride: Literal[4, 2, 1] = 4,
    dtype: Any = jnp.float32,
    lowering: Literal["auto", "grouped", "shifted", "native"] = "auto",
) -> MobileNet:
    """MobileNet V4-Conv-S (arXiv 2404.10518) as a Linen module.

    It maps images [b, h, w, 3] to logits [b, num_classes].

    Args:
      width: the width multiplier.
      num_classes: number of logits.
      bottleneck: what follows a projection.
      shortcut: what the identities connect.
      dropout: rate before the classifier; None is the dialect's.
      dialect: whose padding, normalization constants and initialization.
      norm_momentum: share of BatchNorm's running statistics kept at each step; None is the
        dialect's.
      input_stride: product of the first two strides; 1 at 32x32 pixels and below.
      dtype: type of the computation; parameters, statistics and logits are float32.
      lowering: of convolutions; see `mnet_jax.ops.depthwise_conv`.

    Raises:
      ValueError: an option is not legal; one line with its name, its value and the legal ones.
    """
    spec = architectures.mobilenet_v4(
        "conv_small",
        width=width,
        num_classes=num_classes,
        bottleneck=bottleneck,
        shortcut=shortcut,
        dropout=dropout,
        dialect=dialect,
        norm_momentum=norm_momentum,
        input_stride=input_stride,
    )
    return MobileNet(spec=spec, dtype=dtype, lowering=lowering)


def mobilenet_v4_conv_medium(
    *,
    width: float = 1.0,
    num_classes: int = 1000,
    bottleneck: Literal["linear", "relu6"] = "linear",
    shortcut: Literal["bottleneck", "expansion", "none"] = "bottleneck",
    dropout: float | None = None,
    dialect: Literal["paper", "slim", "keras", "torchvision", "timm"] = "paper",
    norm_momentum: float | None = None,
    input_stride: Literal[4, 2, 1] = 4,
    dtype: Any = jnp.float32,
    lowering: Literal["auto", "grouped", "shifted", "native"] = "auto",
) -> MobileNet:
    """MobileNet V4-Conv-M (arXiv 2404.10518) as a Linen module.

    It maps images [b, h, w, 3] to logits [b, num_classes].

    Args:
      width: the width multiplier.
      num_classes: number of logits.
      bottleneck: what follows a projection.
      shortcut: what the identities connect.
      dropout: rate before the classifier; None is the dialect's.
      dialect: whose padding, normalization constants and initialization.
      norm_momentum: share of BatchNorm's running statistics kept at each step; None is the
        dialect's.
      input_stride: product of the first two strides; 1 at 32x32 pixels and below.
      dtype: type of the computation; parameters, statistics and logits are float32.
      lowering: of convolutions; see `mnet_jax.ops.depthwise_conv`.

    Raises:
      ValueError: an option is not legal; one line with its name, its value and the legal ones.
    """
    spec = architectures.mobilenet_v4(
        "conv_medium",
        width=width,
        num_classes=num_classes,
        bottleneck=bottleneck,
        shortcut=shortcut,
        dropout=dropout,
        dialect=dialect,
        norm_momentum=norm_momentum,
        input_stride=input_stride,
    )
    return MobileNet(spec=spec, dtype=dtype, lowering=lowering)


def mobilenet_v4_conv_large(
    *,
    width: float = 1.0,
    num_classes: int = 1000,
    bottleneck: Literal["linear", "relu6"] = "linear",
    shortcut: Literal["bottleneck", "expansion", "none"] = "bottleneck",
    dropout: float | None = None,
    dialect: Literal["paper", "slim", "keras", "torchvision", "timm"] = "paper",
    norm_momentum: float | None = None,
    input_stride: Literal[4, 2, 1] = 4,
    dtype: Any = jnp.float32,
    lowering: Literal["auto", "grouped", "shifted", "native"] = "auto",
) -> MobileNet:
    """MobileNet V4-Conv-L (arXiv 2404.10518) as a Linen module.

    It maps images [b, h, w, 3] to logits [b, num_classes].

    Args:
      width: the width multiplier.
      num_classes: number of logits.
      bottleneck: what follows a projection.
      shortcut: what the identities connect.
      dropout: rate before the classifier; None is the dialect's.
      dialect: whose padding, normalization constants and initialization.
      norm_momentum: share of BatchNorm's running statistics kept at each step; None is the
        dialect's.
      input_stride: product of the first two strides; 1 at 32x32 pixels and below.
      dtype: type of the computation; parameters, statistics and logits are float32.
      lowering: of convolutions; see `mnet_jax.ops.depthwise_conv`.

    Raises:
      ValueError: an option is not legal; one line with its name, its value and the legal ones.
    """
    spec = architectures.mobilenet_v4(
        "conv_large",
        width=width,
        num_classes=num_classes,
        bottleneck=bottleneck,
        shortcut=shortcut,
        dropout=dropout,
        dialect=dialect,
        norm_momentum=norm_momentum,
        input_stride=input_stride,
    )
    return MobileNet(spec=spec, dtype=dtype, lowering=lowering)
