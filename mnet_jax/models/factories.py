"""The papers' networks as modules: `mnet_jax.architectures`' options, and how to compute.

The options are written out, so that editors and type checkers see them; a test holds them equal to
the architecture's. A variant has its version's.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, Concatenate, Literal, ParamSpec

import jax.numpy as jnp

from mnet_jax import architectures
from mnet_jax.architectures.dialects import DialectName
from mnet_jax.architectures.mobilenet_v3 import LastStage
from mnet_jax.architectures.mobilenet_v3 import Variant as V3Variant
from mnet_jax.architectures.mobilenet_v4 import Variant as V4Variant
from mnet_jax.architectures.spec import Shortcut
from mnet_jax.architectures.transforms import Bottleneck, Convolution, InputStride
from mnet_jax.models.network import MobileNet
from mnet_jax.ops import Lowering

Options = ParamSpec("Options")


def mobilenet_v1(
    *,
    width: float = 1.0,
    num_classes: int = 1000,
    convolution: Convolution = "depthwise",
    depth: Literal["full", "shallow"] = "full",
    activation: Literal["relu6", "relu"] = "relu6",
    dropout: float | None = None,
    dialect: DialectName = "paper",
    norm_momentum: float | None = None,
    input_stride: InputStride = 4,
    dtype: Any = jnp.float32,
    lowering: Lowering = "auto",
) -> MobileNet:
    """MobileNet V1 (arXiv 1704.04861), a Linen module from images [b, h, w, 3] to logits.

    Args:
      width: the width multiplier alpha (section 3.3).
      num_classes: number of logits.
      convolution: `full` is the control of Table 4.
      depth: `shallow` leaves out the five 14x14x512 layers (Table 5).
      activation: the paper says ReLU; every released implementation has ReLU6.
      dropout: rate before the classifier; None is the dialect's.
      dialect: whose padding, rounding, normalization constants and initialization.
      norm_momentum: share of BatchNorm's running statistics kept at each step; None is the
        dialect's.
      input_stride: product of the first two strides; 1 at 32x32 pixels and below.
      dtype: type of the computation; parameters and statistics are float32.
      lowering: of convolutions; see `mnet_jax.ops.depthwise_conv`.

    Raises:
      ValueError: an option is not legal; one line with its name, value and what is.
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
    bottleneck: Bottleneck = "linear",
    shortcut: Shortcut = "bottleneck",
    activation: Literal["relu6", "relu"] = "relu6",
    dropout: float | None = None,
    dialect: DialectName = "paper",
    norm_momentum: float | None = None,
    input_stride: InputStride = 4,
    dtype: Any = jnp.float32,
    lowering: Lowering = "auto",
) -> MobileNet:
    """MobileNet V2 (arXiv 1801.04381), a Linen module from images [b, h, w, 3] to logits.

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
        dialect's.
      input_stride: product of the first two strides; 1 at 32x32 pixels and below.
      dtype: type of the computation; parameters and statistics are float32.
      lowering: of convolutions; see `mnet_jax.ops.depthwise_conv`.

    Raises:
      ValueError: an option is not legal; one line with its name, value and what is.
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
    variant: V3Variant,
    *,
    width: float = 1.0,
    num_classes: int = 1000,
    minimalistic: bool = False,
    squeeze_excite: bool | None = None,
    hard_swish_from: int | None = None,
    stem: Literal[16, 32] = 16,
    last_stage: LastStage = "efficient",
    bottleneck: Bottleneck = "linear",
    shortcut: Shortcut = "bottleneck",
    dropout: float | None = None,
    dialect: DialectName = "paper",
    norm_momentum: float | None = None,
    input_stride: InputStride = 4,
    dtype: Any = jnp.float32,
    lowering: Lowering = "auto",
) -> MobileNet:
    """MobileNet V3 (arXiv 1905.02244), a Linen module from images [b, h, w, 3] to logits.

    Args:
      variant: `large` (Table 1) or `small` (Table 2).
      width: the width multiplier.
      num_classes: number of logits.
      minimalistic: 3x3 kernels, no squeeze-and-excitation and ReLU throughout, for hardware that
        is slow at the rest; unless the next two options say otherwise.
      squeeze_excite: whether the rows that the table marks have it; None is the variant's.
      hard_swish_from: the rows with that many channels or more (at width 1), the stem and the tail
        have h-swish, the other rows ReLU (Table 5: 16, 80, 112); 0 for ReLU throughout; None is
        the variant's.
      stem: channels of the first convolution (section 5.1).
      last_stage: `efficient` pools before it widens for the last time, `original` is what the
        search found (Fig. 5).
      bottleneck: what follows a projection.
      shortcut: what the identities connect.
      dropout: rate before the classifier; None is the dialect's.
      dialect: whose padding, rounding, normalization constants and initialization.
      norm_momentum: share of BatchNorm's running statistics kept at each step; None is the
        dialect's.
      input_stride: product of the first two strides; 1 at 32x32 pixels and below.
      dtype: type of the computation; parameters and statistics are float32.
      lowering: of convolutions; see `mnet_jax.ops.depthwise_conv`.

    Raises:
      ValueError: an option is not legal; one line with its name, value and what is.
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


def mobilenet_v4(
    variant: V4Variant,
    *,
    width: float = 1.0,
    num_classes: int = 1000,
    bottleneck: Bottleneck = "linear",
    shortcut: Shortcut = "bottleneck",
    dropout: float | None = None,
    dialect: DialectName = "paper",
    norm_momentum: float | None = None,
    input_stride: InputStride = 4,
    dtype: Any = jnp.float32,
    lowering: Lowering = "auto",
) -> MobileNet:
    """MobileNet V4 (arXiv 2404.10518), a Linen module from images [b, h, w, 3] to logits.

    Args:
      variant: `conv_small`, `conv_medium` or `conv_large` (appendix D).
      width: the width multiplier.
      num_classes: number of logits.
      bottleneck: what follows a projection.
      shortcut: what the identities connect.
      dropout: rate before the classifier; None is the dialect's.
      dialect: whose padding, rounding, normalization constants and initialization.
      norm_momentum: share of BatchNorm's running statistics kept at each step; None is the
        dialect's.
      input_stride: product of the first two strides; 1 at 32x32 pixels and below.
      dtype: type of the computation; parameters and statistics are float32.
      lowering: of convolutions; see `mnet_jax.ops.depthwise_conv`.

    Raises:
      ValueError: an option is not legal; one line with its name, value and what is.
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


def _variant(
    build: Callable[Concatenate[Any, Options], MobileNet], variant: str, title: str
) -> Callable[Options, MobileNet]:
    """`build` with its variant chosen, with a name, a signature and a docstring of its own."""

    @functools.wraps(build)
    def network(*args: Options.args, **options: Options.kwargs) -> MobileNet:
        return build(variant, *args, **options)

    network.__name__ = network.__qualname__ = f"{build.__name__}_{variant}"
    signature = inspect.signature(build)
    _, *rest = signature.parameters.values()
    network.__signature__ = signature.replace(parameters=rest)  # type: ignore[attr-defined]
    lines = (inspect.getdoc(build) or title).splitlines()  # python -OO has no docstrings
    told = [line for line in lines[1:] if not line.startswith("  variant: ")]
    network.__doc__ = "\n".join(
        [f"{title}, a Linen module from images [b, h, w, 3] to logits.", *told]
    )
    return network


mobilenet_v3_large = _variant(
    mobilenet_v3, "large", "MobileNet V3-Large (arXiv 1905.02244, Table 1)"
)
mobilenet_v3_small = _variant(
    mobilenet_v3, "small", "MobileNet V3-Small (arXiv 1905.02244, Table 2)"
)
mobilenet_v4_conv_small = _variant(
    mobilenet_v4, "conv_small", "MobileNet V4-Conv-S (arXiv 2404.10518)"
)
mobilenet_v4_conv_medium = _variant(
    mobilenet_v4, "conv_medium", "MobileNet V4-Conv-M (arXiv 2404.10518)"
)
mobilenet_v4_conv_large = _variant(
    mobilenet_v4, "conv_large", "MobileNet V4-Conv-L (arXiv 2404.10518)"
)
