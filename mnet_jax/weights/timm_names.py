"""The names of timm's networks, as specs: `mobilenetv2_110d.ra_in1k` and others.

A name has a network, a width in hundredths, a mark of a variant, and after a point the tag of the
training. No list of names is kept: every width and tag is legal. Some of timm's networks have
layers that a `NetworkSpec` does not describe; `REFUSED` has the words by which they are refused.

Nothing here imports JAX.
"""

import math
import re
from dataclasses import dataclass, replace
from typing import Any

from mnet_jax.architectures import FACTORIES, ConvNorm, InvertedResidual, NetworkSpec
from mnet_jax.architectures.dialects import DialectName, round_channels
from mnet_jax.architectures.transforms import with_repeats
from mnet_jax.validation import one_line
from mnet_jax.weights.arithmetic import variants_of

# Words of the names of networks that are refused, and what these networks have.
REFUSED = {
    "aa": "average pooling before strides",
    "blur": "blur pooling",
    "rw": "squeeze-and-excitation with h-swish and other channels",
}
# The repeats of each row of timm's tables, in stages: in timm's `blocks.2.0`, 2 is the stage and 0
# the block in the stage. The last stage of V3 and V4 is the convolution before the pool.
ROWS: dict[str, tuple[tuple[int, ...], ...]] = {
    "mobilenet_v1": ((1,), (2,), (2,), (6,), (2,)),
    "mobilenet_v2": ((1,), (2,), (3,), (4,), (3,), (3,), (1,)),
    "mobilenet_v3_large": ((1,), (1, 1), (3,), (1, 1, 2), (2,), (3,), (1,)),
    "mobilenet_v3_small": ((1,), (1, 1), (1, 2), (2,), (3,), (1,)),
    "mobilenet_v4_conv_small": ((2,), (2,), (6,), (6,), (1,)),  # V4's depth is never scaled, so
    "mobilenet_v4_conv_medium": ((1,), (2,), (8,), (11,), (1,)),  # its stages are not divided
    "mobilenet_v4_conv_large": ((1,), (2,), (11,), (13,), (1,)),
    "mobilenet_v4_hybrid_medium": ((1,), (2,), (12,), (16,), (1,)),
    "mobilenet_v4_hybrid_large": ((1,), (2,), (15,), (18,), (1,)),
}
# The depth multipliers that a `d` after a width means.
DEPTHS = {
    ("mobilenet_v2", 1.1): 1.2,
    ("mobilenet_v2", 1.2): 1.4,
    ("mobilenet_v3_large", 1.5): 1.2,
}
CLASSES = {"in1k": 1000, "in12k": 11821}  # by the data set at the end of a tag
V2_STEM, V2_LAST = 32, 1280  # channels at every width of V2 with a depth multiplier
V1_HEAD = 1024  # channels at width 1 of the convolution before the pool in `100h`

_NAME = re.compile(
    r"(?P<tensorflow>tf_)?mobilenetv(?P<version>[1-4])(?P<words>(?:_[a-z]+)*)"
    r"(?:_(?P<width>[0-9]{3})(?P<mark>[dh]?))?(?:\.(?P<tag>[a-z0-9_]+))?"
)
_LEGAL = "a name of timm's MobileNet V1 to V4, such as mobilenetv4_conv_small.e2400_r224_in1k"


@dataclass(frozen=True, kw_only=True)
class TimmName:
    """The parts of a timm name.

    Attributes:
      network: name of our network.
      width: the width multiplier.
      depth: timm's depth multiplier.
      dialect: `slim` for weights that were trained in TensorFlow (`tf_`), else `timm`.
      minimalistic: whether it is V3's minimalistic network.
      head_conv: whether V1 has a convolution before the pool (`h`).
      tag: the tag of the training; empty if there is none.
    """

    network: str
    width: float
    depth: float
    dialect: DialectName
    minimalistic: bool
    head_conv: bool
    tag: str

    @property
    def num_classes(self) -> int | None:
        """Number of classes of the weights; None if the tag does not say.

        Without a tag, it is the number of classes that timm gives the network.
        """
        return CLASSES.get(self.tag.rpartition("_")[2]) if self.tag else CLASSES["in1k"]

    @property
    def resolution(self) -> int | None:
        """Side in pixels of the training images, if the tag has it: 224 for `e500_r224_in1k`."""
        sides = re.findall(r"(?:^|_)r([1-9][0-9]{1,3})(?=_|$)", self.tag)
        return int(sides[-1]) if sides else None


def parse_timm_name(name: str) -> TimmName:
    """Returns the parts of a timm name, with or without the tag.

    Raises:
      ValueError: it is no name of timm's MobileNet V1 to V4, or the network is one of those that
        are refused; the message says why.
    """
    found = _NAME.fullmatch(name) if isinstance(name, str) else None
    if found is None:
        raise _refusal(name, _LEGAL)
    words = found["words"].split("_")[1:]
    for word in words:
        if word in REFUSED:
            raise _refusal(name, f"a network without {REFUSED[word]}")
    version, mark = f"mobilenet_v{found['version']}", found["mark"] or ""
    minimalistic = version == "mobilenet_v3" and words[-1:] == ["minimal"]
    network = "_".join([version, *words[: len(words) - minimalistic]])
    width = int(found["width"]) / 100 if found["width"] else 1.0
    depth = DEPTHS.get((network, width)) if mark == "d" else 1.0
    legal = (
        network in FACTORIES
        and width > 0
        and bool(found["width"] or version == "mobilenet_v4")
        and (version == "mobilenet_v3" or not found["tensorflow"])
        and (mark != "h" or version == "mobilenet_v1")
    )
    if not legal:
        raise _refusal(name, _LEGAL)
    if depth is None:
        known = ", ".join(f"{round(100 * w)}d of {n}" for n, w in DEPTHS)
        raise _refusal(name, f"a known depth multiplier: {known}")
    return TimmName(
        network=network,
        width=width,
        depth=depth,
        dialect="slim" if found["tensorflow"] else "timm",
        minimalistic=minimalistic,
        head_conv=mark == "h",
        tag=found["tag"] or "",
    )


def timm_spec(name: str, num_classes: int = 1000) -> NetworkSpec:
    """Returns the network that timm has under a name.

        spec = weights.timm_spec("mobilenetv2_110d.ra_in1k")
        model = models.MobileNet(spec=spec)
        variables = weights.from_timm(state_dict, model)

    Args:
      name: a timm name, with or without the tag.
      num_classes: number of logits.

    Raises:
      ValueError: as `parse_timm_name`; or the width is too small.
    """
    parts = parse_timm_name(name)
    options: dict[str, Any] = {"minimalistic": True} if parts.minimalistic else {}
    spec = FACTORIES[parts.network](
        width=parts.width, num_classes=num_classes, dialect=parts.dialect, **options
    )
    if parts.depth != 1:
        spec = _deeper(spec, parts.depth)
    return _with_head_conv(spec) if parts.head_conv else spec


def timm_variants(spec: NetworkSpec, dialect: DialectName) -> list[NetworkSpec]:
    """Returns timm's networks with a spec's name, width and classes: of each depth and head.

    Args:
      spec: the network.
      dialect: the dialect of the result.
    """
    published = variants_of(spec, dialect)
    more = [_deeper(one, depth) for one in published for depth in _depths_of(spec)]
    if spec.name == "mobilenet_v1":
        more += map(_with_head_conv, published)
    return [*published, *more]


def stages_of(spec: NetworkSpec) -> tuple[int, ...]:
    """Returns the number of convolutional blocks in each of timm's stages.

    From V3 on, the last block of the last stage is the convolution before the pool.

    Args:
      spec: a network of `timm_variants`.
    """
    count = len(spec.blocks) + (spec.head.hidden is not None)
    for depth in (1.0, *_depths_of(spec)):
        stages = tuple(map(sum, _scaled_rows(spec.name, depth)))
        if sum(stages) == count:
            return stages
    raise ValueError(f"blocks: got {count} in {spec.name}, legal: those of timm's networks")


def _refusal(name: object, legal: str) -> ValueError:
    return ValueError(f"timm_name: got {one_line(repr(name))}, legal: {legal}")


def _depths_of(spec: NetworkSpec) -> list[float]:
    """Returns the depth multipliers, other than 1, of timm's networks with a spec's name."""
    return [depth for (network, _), depth in DEPTHS.items() if network == spec.name]


def _scaled_rows(network: str, depth: float) -> list[tuple[int, ...]]:
    """Returns the repeats of each row after scaling the depth; V2's ends keep theirs."""
    rows = ROWS[network]
    fixed = (0, len(rows) - 1) if network == "mobilenet_v2" else ()
    return [row if i in fixed else _scaled(row, depth) for i, row in enumerate(rows)]


def _scaled(repeats: tuple[int, ...], depth: float) -> tuple[int, ...]:
    """Scales the repeats of the rows of a stage as timm does.

    The number of blocks in the stage is rounded up (EfficientNet, arXiv 1905.11946). The new blocks
    are distributed over the rows from the last to the first.
    """
    before = sum(repeats)
    after = math.ceil(before * depth)
    found: list[int] = []
    for count in reversed(repeats):
        found.append(max(1, round(count / before * after)))
        before -= count
        after -= found[-1]
    return tuple(reversed(found))


def _deeper(spec: NetworkSpec, depth: float) -> NetworkSpec:
    """Applies timm's depth multiplier to a network of V2 or V3.

    V3's convolution before the pool is repeated too: all but the last become blocks. V2's ends have
    the channels of width 1.
    """
    before = [count for row in ROWS[spec.name] for count in row]
    after = [count for row in _scaled_rows(spec.name, depth) for count in row]
    if spec.name == "mobilenet_v2":
        return _with_fixed_ends(with_repeats(spec, before, after))
    spec = with_repeats(spec, before[:-1], after[:-1])
    first = spec.head.conv
    assert first is not None
    *blocks, last = first, *[replace(first, inputs=first.outputs)] * (after[-1] - 1)
    return replace(spec, blocks=(*spec.blocks, *blocks), head=replace(spec.head, conv=last))


def _with_fixed_ends(spec: NetworkSpec) -> NetworkSpec:
    """Gives V2's stem and last convolution their channels of width 1."""
    first, conv = spec.blocks[0], spec.head.conv
    assert isinstance(first, InvertedResidual) and conv is not None
    return replace(
        spec,
        stem=replace(spec.stem, outputs=V2_STEM),
        blocks=(replace(first, inputs=V2_STEM, expanded=V2_STEM), *spec.blocks[1:]),
        head=replace(spec.head, conv=replace(conv, outputs=V2_LAST)),
    )


def _with_head_conv(spec: NetworkSpec) -> NetworkSpec:
    """Adds a convolution before the pool to V1, with at least the channels of width 1."""
    outputs = round_channels(V1_HEAD, max(1.0, spec.width), "divisible")
    inputs, activation = spec.blocks[-1].outputs, spec.stem.activation
    conv = ConvNorm(inputs=inputs, outputs=outputs, kernel=1, activation=activation)
    return replace(spec, head=replace(spec.head, conv=conv))
