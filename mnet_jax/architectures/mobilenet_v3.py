"""MobileNet V3 (arXiv 1905.02244), Tables 1 and 2."""

from typing import Literal, NamedTuple

from mnet_jax.architectures.dialects import (
    ChannelRules,
    DialectName,
    channel_rules_of,
    dialect_of,
    last_channels,
    make_divisible,
    round_channels,
    stem_channels,
)
from mnet_jax.architectures.spec import (
    Activation,
    ConvNorm,
    Head,
    Hidden,
    InvertedResidual,
    NetworkSpec,
    Shortcut,
)
from mnet_jax.architectures.transforms import (
    Bottleneck,
    InputStride,
    squeeze_channels,
    with_bottleneck,
    with_input_stride,
    with_shortcut,
)
from mnet_jax.validation import is_whole, require, require_choice, with_plain_arguments

VERSION = "mobilenet_v3"
STEM = 16
Variant = Literal["large", "small"]
LastStage = Literal["efficient", "original"]
Stem = Literal[16, 32]


class TableRow(NamedTuple):
    """A block, as a row of the paper's tables describes it."""

    kernel: int
    expanded: int
    channels: int
    squeeze: bool
    swish: bool
    stride: int


LARGE = (  # kernel, expanded, channels, squeeze-and-excitation, h-swish, stride
    TableRow(3, 16, 16, False, False, 1),
    TableRow(3, 64, 24, False, False, 2),
    TableRow(3, 72, 24, False, False, 1),
    TableRow(5, 72, 40, True, False, 2),
    TableRow(5, 120, 40, True, False, 1),
    TableRow(5, 120, 40, True, False, 1),
    TableRow(3, 240, 80, False, True, 2),
    TableRow(3, 200, 80, False, True, 1),
    TableRow(3, 184, 80, False, True, 1),
    TableRow(3, 184, 80, False, True, 1),
    TableRow(3, 480, 112, True, True, 1),
    TableRow(3, 672, 112, True, True, 1),
    TableRow(5, 672, 160, True, True, 2),
    TableRow(5, 960, 160, True, True, 1),
    TableRow(5, 960, 160, True, True, 1),
)
LARGE_HIDDEN = 1280
SMALL = (
    TableRow(3, 16, 16, True, False, 2),
    TableRow(3, 72, 24, False, False, 2),
    TableRow(3, 88, 24, False, False, 1),
    TableRow(5, 96, 40, True, True, 2),
    TableRow(5, 240, 40, True, True, 1),
    TableRow(5, 240, 40, True, True, 1),
    TableRow(5, 120, 48, True, True, 1),
    TableRow(5, 144, 48, True, True, 1),
    TableRow(5, 288, 96, True, True, 2),
    TableRow(5, 576, 96, True, True, 1),
    TableRow(5, 576, 96, True, True, 1),
)
SMALL_HIDDEN = 1024  # the table says 1280; every released implementation has 1024
_TABLES = {"large": (LARGE, LARGE_HIDDEN), "small": (SMALL, SMALL_HIDDEN)}
LAST_EXPANSION = 6  # of the 1x1 convolution before the pool: 160 to 960 channels, 96 to 576


@with_plain_arguments
def mobilenet_v3(
    variant: Variant,
    *,
    width: float = 1.0,
    num_classes: int = 1000,
    in_channels: int = 3,
    minimalistic: bool = False,
    squeeze_excite: bool | None = None,
    hard_swish_from: int | None = None,
    stem: Stem = 16,
    last_stage: LastStage = "efficient",
    bottleneck: Bottleneck = "linear",
    shortcut: Shortcut = "bottleneck",
    dropout: float | None = None,
    dialect: DialectName = "paper",
    norm_momentum: float | None = None,
    input_stride: InputStride = 4,
) -> NetworkSpec:
    """Returns the spec of MobileNet V3 (arXiv 1905.02244).

    Args:
      variant: `large` (Table 1) or `small` (Table 2).
      width: the width multiplier.
      num_classes: number of logits; with 0 the network returns features, see `Head`.
      in_channels: channels of the images: 3 for RGB, 1 for gray, more for other cameras. Weights
        for RGB can be adapted; see `models.with_in_channels`.
      minimalistic: no squeeze-and-excitation, 3x3 depthwise kernels, and ReLU instead of h-swish,
        for hardware where the alternatives are slow. The next two options override this one.
      squeeze_excite: whether the rows marked in the table have squeeze-and-excitation; None means
        yes, unless `minimalistic`.
      hard_swish_from: rows with at least this many channels (at width 1) have h-swish, the others
        ReLU (Table 5: 16, 80, 112). The stem and the layers after the rows have h-swish too. The
        value 0 replaces every h-swish by ReLU. None takes the table's value, or 0 if
        `minimalistic`.
      stem: channels of the first convolution; h-swish allows 16 instead of 32 (section 5.1).
      last_stage: `efficient` pools before the last widening of the channels. `original` is the
        result of the search: another inverted residual, as in V2, then a wide convolution (Fig. 5).
      bottleneck: activation after each projection.
      shortcut: the tensors that identity shortcuts connect.
      dropout: dropout rate before the classifier; None takes the dialect's.
      dialect: the implementation whose padding, channel rounding, normalization constants and
        initialization are used.
      norm_momentum: fraction of BatchNorm's running statistics kept at each step; None takes the
        dialect's.
      input_stride: product of the first two strides; use 1 for images of 32x32 pixels or less.

    Raises:
      ValueError: an option is not legal; the message gives its name, its value and legal values.
    """
    require_choice("variant", variant, Variant)
    require_choice("stem", stem, Stem)
    require_choice("last_stage", last_stage, LastStage)
    _require_options(minimalistic, squeeze_excite, hard_swish_from)
    table, hidden = _TABLES[variant]
    if hard_swish_from is None:
        hard_swish_from = 0 if minimalistic else min(row.channels for row in table if row.swish)
    if squeeze_excite is None:
        squeeze_excite = not minimalistic
    rows = tuple(
        row._replace(
            kernel=3 if minimalistic else row.kernel,
            squeeze=row.squeeze and squeeze_excite,
            swish=0 < hard_swish_from <= row.channels,
        )
        for row in table
    )
    rules = channel_rules_of(VERSION, dialect)
    ends: Activation = "hard_swish" if hard_swish_from else "relu"
    first = stem_channels(stem, width, rules)
    last = last_channels(hidden, width, rules)
    blocks = _blocks(rows, first, width, rules)
    if last_stage == "original":
        blocks.append(_last_block(blocks[-1].outputs, ends))
        conv, hidden_layer = last, None
    else:
        conv = _pooled_channels(rows[-1].channels, blocks[-1].outputs, width, rules)
        hidden_layer = Hidden(channels=last, activation=ends, normalized=False)
    spec = NetworkSpec(
        name=f"mobilenet_v3_{variant}",
        width=float(width),
        dialect=dialect_of(VERSION, dialect, norm_momentum),
        stem=ConvNorm(inputs=in_channels, outputs=first, kernel=3, stride=2, activation=ends),
        blocks=tuple(blocks),
        head=Head(
            conv=ConvNorm(inputs=blocks[-1].outputs, outputs=conv, kernel=1, activation=ends),
            hidden=hidden_layer,
            dropout=rules.dropout if dropout is None else dropout,
            num_classes=num_classes,
        ),
    )
    spec = with_bottleneck(with_input_stride(spec, input_stride), bottleneck)
    return with_shortcut(spec, shortcut)


def _require_options(
    minimalistic: bool, squeeze_excite: bool | None, hard_swish_from: int | None
) -> None:
    """Raises ValueError unless the options that change the table's rows are legal."""
    whole = hard_swish_from is None or (is_whole(hard_swish_from) and hard_swish_from >= 0)
    require(whole, "hard_swish_from", hard_swish_from, "a number of channels, or 0 for nowhere")
    require(isinstance(minimalistic, bool), "minimalistic", minimalistic, "True, False")
    choice = squeeze_excite is None or isinstance(squeeze_excite, bool)
    require(choice, "squeeze_excite", squeeze_excite, "True, False, None")


def _pooled_channels(row_channels: int, outputs: int, width: float, rules: ChannelRules) -> int:
    """Returns the channels of the convolution before the pool, for the efficient last stage.

    Args:
      row_channels: output channels of the last row, as in the table.
      outputs: output channels of the last row at this width.
      width: the width multiplier.
      rules: conventions of the dialect.
    """
    if rules.pooled == "ratio":
        return LAST_EXPANSION * outputs
    return round_channels(LAST_EXPANSION * row_channels, width, rules.rounding)


def _blocks(
    rows: tuple[TableRow, ...], inputs: int, width: float, rules: ChannelRules
) -> list[InvertedResidual]:
    """Returns the blocks of a table's rows; the stem before them has `inputs` channels."""
    blocks, before = [], STEM  # `before`: input channels in the table; `inputs`: at this width
    for row in rows:
        wide = _expanded(row.expanded, before, inputs, width, rules)
        block = InvertedResidual(
            inputs=inputs,
            expanded=wide,
            outputs=round_channels(row.channels, width, rules.rounding),
            kernel=row.kernel,
            stride=row.stride,
            activation="hard_swish" if row.swish else "relu",
            squeeze=squeeze_channels(wide) if row.squeeze else 0,
        )
        blocks.append(block)
        inputs, before = block.outputs, row.channels
    return blocks


def _last_block(inputs: int, activation: Activation) -> InvertedResidual:
    """Returns the last block of the original last stage (Fig. 5), built like V2's last block."""
    return InvertedResidual(
        inputs=inputs,
        expanded=LAST_EXPANSION * inputs,
        outputs=2 * inputs,
        activation=activation,
    )


def _expanded(expanded: int, before: int, inputs: int, width: float, rules: ChannelRules) -> int:
    """Returns the expanded channels of a table row at a width.

    A row that does not expand in the table, such as the first row, does not expand at any width.

    Args:
      expanded: expanded channels in the table.
      before: input channels in the table.
      inputs: input channels at this width.
      width: the width multiplier.
      rules: conventions of the dialect.
    """
    if expanded == before:
        return inputs
    if rules.expansion == "scaled":
        return round_channels(expanded, width, rules.rounding)
    return make_divisible(inputs * expanded / before)
