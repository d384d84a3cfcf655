"""The papers' ablations, each a preset: `python -m experiments.ablate --preset v1-depthwise`.

A preset runs at one of three scales: `smoke`, `desk` or `full`. Each scale has one data set. A
preset is data: it lists the axis values of each arm and, for each scale, the values that all arms
share. All other values are those of a recipe of `options.recipes`.

All arms of a preset start from the same recipe. At `smoke` and `desk` this is the recipe for V2 on
the scale's data set. Its learning rate was chosen for V2, and is not tuned for V1, V3 and V4. At
`desk`, a trial takes about three minutes on two CPU cores (estimated from multiply-adds), one of
quantization less, and training ends while accuracy still rises. The few epochs at `smoke` only show
that a preset runs.
"""

from collections.abc import Mapping
from typing import Any

from mnet_jax.ablation.claims import Claim, Expectation
from mnet_jax.ablation.preset import Preset, ScaleName, Values


def _along(axis: str, *values: Any) -> tuple[Values, ...]:
    """Makes an arm for each value of an axis."""
    return tuple({axis: value} for value in values)


_ALIKE = 0.01  # two arms count as equal up to one percentage point; our choice, not a paper's


def _claim(
    direction: Expectation, text: str, source: str, margin: float = 0.0, **arms: Any
) -> Claim:
    """Makes a claim about the arms with these axis values; without values, about all arms."""
    labels = {axis: f"{value}" for axis, value in arms.items()}
    return Claim(direction=direction, text=text, source=source, arms=labels, margin=margin)


def _shared_v1(*, small_width: float, desk_epochs: int) -> dict[ScaleName, Values]:
    """Returns `Preset.shared` for V1; `small_width` is the width multiplier at smoke and desk."""
    small: Values = {"model": "mobilenet_v1", "width": small_width}
    return {
        "smoke": {**small, "epochs": 3},
        "desk": {**small, "epochs": desk_epochs},
    }


_SHARED_V2: Mapping[ScaleName, Values] = {
    "smoke": {"model": "mobilenet_v2", "epochs": 3},
    "desk": {"model": "mobilenet_v2", "epochs": 5},
}
_SHARED_V3: Mapping[ScaleName, Values] = {
    "smoke": {"model": "mobilenet_v3_large", "epochs": 3},
    "desk": {"model": "mobilenet_v3_large", "epochs": 5},
}


def _briefly_quantized(shared: Mapping[ScaleName, Values]) -> dict[ScaleName, Values]:
    """Adds one epoch of quantization-aware training to each scale of `shared`."""
    return {scale: {**values, "qat_epochs": 1} for scale, values in shared.items()}


_QUANTIZED: tuple[Values, ...] = (
    {"quantization": "none"},
    {"quantization": "ptq", "bits": 8, "granularity": "tensor"},
    {"quantization": "ptq", "bits": 8, "granularity": "channel"},
    {"quantization": "qat", "bits": 8, "granularity": "channel"},
    {"quantization": "qat", "bits": 4, "granularity": "channel"},
    {"quantization": "qat", "bits": 3, "granularity": "channel"},
)
_WHITEPAPER, _OSCILLATIONS = "arXiv 1806.08342", "arXiv 2203.11086"
_TRAINED_IN_8_BITS = _claim(
    "equal",
    "quantization-aware training in 8 bits loses almost nothing",
    _WHITEPAPER,
    margin=_ALIKE,
    quantization="qat",
    bits=8,
)
_ROUNDED_IN_8_BITS = (
    _claim(
        "worse",
        "after training, 8 bits with one step for each kernel lose accuracy",
        _WHITEPAPER,
        quantization="ptq",
        bits=8,
        granularity="tensor",
    ),
    _claim(
        "worse",
        "after training, 8 bits with one step for each channel lose accuracy",
        _WHITEPAPER,
        quantization="ptq",
        bits=8,
        granularity="channel",
    ),
)
_TRAINED_IN_FEW_BITS = tuple(
    _claim(
        "worse",
        f"quantization-aware training in {bits} bits loses accuracy",
        _OSCILLATIONS,
        quantization="qat",
        bits=bits,
    )
    for bits in (4, 3)
)


PRESETS: dict[str, Preset] = {
    "v1-depthwise": Preset(
        source="V1, Table 4",
        claim="Depthwise separable convolutions lose 1.1 points to full convolutions (70.6 % and "
        "71.7 %), with an eighth of the multiply-adds and a seventh of the parameters.",
        arms=_along("convolution", "depthwise", "full"),
        recipe="v1-imagenet",
        shared=_shared_v1(small_width=0.25, desk_epochs=4),
        claims=(
            _claim(
                "better", "full convolutions beat separable ones", "V1, Table 4", convolution="full"
            ),
        ),
        result="docs/results/v1-depthwise",
    ),
    "v1-thin-or-shallow": Preset(
        source="V1, Table 5",
        claim="At equal cost a thinner network (width 0.75, 68.4 %) beats a shallower one (without "
        "the five 14x14x512 layers, 65.3 %).",
        arms=({"width": 0.75}, {"depth": "shallow"}, {}),
        arms_at=dict.fromkeys(("smoke", "desk"), ({"width": 0.375}, {"depth": "shallow"}, {})),
        recipe="v1-imagenet",
        shared=_shared_v1(small_width=0.5, desk_epochs=4),
        claims=(
            _claim(
                "worse",
                "a shallower network loses to a thinner one",
                "V1, Table 5",
                depth="shallow",
            ),
            _claim("better", "the whole network beats a thinner one", "V1, Table 6"),
        ),
        result="docs/results/v1-thin-or-shallow",
    ),
    "v1-width": Preset(
        source="V1, Table 6",
        claim="Accuracy falls smoothly with the width multiplier: 70.6, 68.4, 63.7 and 50.6 % at "
        "widths 1, 0.75, 0.5 and 0.25.",
        arms=_along("width", 1.0, 0.75, 0.5, 0.25),
        recipe="v1-imagenet",
        shared=_shared_v1(small_width=1.0, desk_epochs=2),
        claims=(_claim("worse", "a narrower network loses accuracy", "V1, Table 6"),),
    ),
    "v1-resolution": Preset(
        source="V1, Table 7",
        claim="Accuracy falls smoothly with the resolution: 70.6, 69.1, 67.2 and 64.4 % at 224, "
        "192, 160 and 128 pixels.",
        arms=_along("resolution", 224, 192, 160, 128),
        arms_at={  # the sides of the original images are 8 and 28 pixels
            "smoke": _along("resolution", 16, 14, 11, 9),
            "desk": _along("resolution", 28, 24, 20, 16),
        },
        recipe="v1-imagenet",
        shared=_shared_v1(small_width=0.5, desk_epochs=5),
        claims=(_claim("worse", "accuracy falls with smaller images", "V1, Table 7"),),
    ),
    "v2-linear-bottleneck": Preset(
        source="V2, Fig. 6a",
        claim="A linear bottleneck beats a bottleneck with ReLU6 (curves, no numbers).",
        arms=_along("bottleneck", "linear", "relu6"),
        recipe="v2-imagenet",
        shared=_SHARED_V2,
        claims=(
            _claim(
                "worse",
                "a ReLU6 bottleneck loses to a linear one",
                "V2, Fig. 6a",
                bottleneck="relu6",
            ),
        ),
        result="docs/results/v2-linear-bottleneck",
    ),
    "v2-shortcut": Preset(
        source="V2, Fig. 6b",
        claim="Shortcuts between bottlenecks beat shortcuts between expansions, and these beat a "
        "network without shortcuts (curves, no numbers).",
        arms=_along("shortcut", "bottleneck", "expansion", "none"),
        recipe="v2-imagenet",
        shared=_SHARED_V2,
        claims=(
            _claim(
                "worse",
                "shortcuts between expansions lose to those between bottlenecks",
                "V2, Fig. 6b",
                shortcut="expansion",
            ),
            _claim(
                "worse",
                "a network without shortcuts loses to one with shortcuts between bottlenecks",
                "V2, Fig. 6b",
                shortcut="none",
            ),
        ),
        result="docs/results/v2-shortcut",
    ),
    "v2-expansion": Preset(
        source="V2, section 4",
        claim="Expansion factors from 5 to 10 perform almost alike; small networks do better with "
        "slightly smaller factors (no numbers).",
        arms=_along("expansion", 6, 1, 3, 10),
        recipe="v2-imagenet",
        shared=_SHARED_V2,
        claims=(
            _claim(
                "equal",
                "expansion factors of 6 and 10 perform almost alike",
                "V2, section 4",
                margin=_ALIKE,
                expansion=10,
            ),
        ),
        result="docs/results/v2-expansion",
    ),
    "v3-activation": Preset(
        source="V3, Table 5",
        claim="h-swish beats ReLU (74.5 %). The number of channels from which layers use it "
        "matters less: 16 give 75.4 %, 80 give 75.2 % and 112 give 75.0 %.",
        arms=_along("hard_swish_from", 80, 0, 16, 112),
        recipe="v3-large-imagenet",
        shared=_SHARED_V3,
        claims=(
            _claim("worse", "ReLU alone loses to h-swish", "V3, Table 5", hard_swish_from=0),
            _claim(
                "equal",
                "the number of channels from which layers use h-swish matters little",
                "V3, Table 5",
                margin=_ALIKE,
            ),
        ),
    ),
    "v3-squeeze-excite": Preset(
        source="V3, section 5.3",
        claim="Squeeze-and-excitation with a quarter of the channels raises accuracy for a modest "
        "number of additional parameters (no numbers).",
        arms=_along("squeeze_excite", "published", "none", "all"),
        recipe="v3-large-imagenet",
        shared=_SHARED_V3,
        claims=(
            _claim(
                "worse",
                "a network without squeeze-and-excitation loses accuracy",
                "V3, section 5.3",
                squeeze_excite="none",
            ),
        ),
    ),
    "v3-tail": Preset(
        source="V3, section 5.1, Fig. 5",
        claim="The efficient last stage needs 30M fewer multiply-adds than the original one, with "
        "almost no loss of accuracy.",
        arms=_along("last_stage", "efficient", "original"),
        recipe="v3-large-imagenet",
        shared=_SHARED_V3,
        claims=(
            _claim(
                "equal",
                "the efficient last stage loses almost nothing",
                "V3, section 5.1",
                margin=_ALIKE,
                last_stage="original",
            ),
        ),
    ),
    # At each scale the widths are chosen so that each arm's MAdds are within 3 % of V2's.
    "v1-to-v4": Preset(
        source="all four papers",
        claim="At equal multiply-adds each version beats the previous one. (The papers used "
        "different training settings; here all use V2's recipe.)",
        arms=(
            {"model": "mobilenet_v1", "width": 0.72},
            {"model": "mobilenet_v2", "width": 1.0},
            {"model": "mobilenet_v3_large", "width": 1.12},
            {"model": "mobilenet_v4_conv_small", "width": 1.3},
        ),
        arms_at={
            "smoke": (
                {"model": "mobilenet_v1", "width": 0.39},
                {"model": "mobilenet_v2", "width": 0.5},
                {"model": "mobilenet_v3_large", "width": 0.55},
                {"model": "mobilenet_v4_conv_small", "width": 0.62},
            ),
            "desk": (
                {"model": "mobilenet_v1", "width": 0.4},
                {"model": "mobilenet_v2", "width": 0.5},
                {"model": "mobilenet_v3_large", "width": 0.55},
                {"model": "mobilenet_v4_conv_small", "width": 0.63},
            ),
        },
        recipe="v2-imagenet",
        shared={"smoke": {"epochs": 3}, "desk": {"epochs": 5}},
        claims=(
            _claim(
                "better",
                "each later version beats V1 at equal multiply-adds",
                "V2, Table 4; V3, Table 3; V4, Table 5",
            ),
        ),
    ),
    "v1-quantization": Preset(
        source=_WHITEPAPER,
        claim="In floating point V1 has 70.9 %. In 8 bits it has 0.1 % with one step for each "
        "kernel, 59.1 % with one for each channel, and 70.7 % after quantization-aware training. "
        "(4 and 3 bits: no numbers.)",
        arms=_QUANTIZED,
        recipe="v1-imagenet",
        shared=_briefly_quantized(_shared_v1(small_width=0.25, desk_epochs=4)),
        claims=(*_ROUNDED_IN_8_BITS, _TRAINED_IN_8_BITS),
        result="docs/results/v1-quantization",
    ),
    "v2-quantization": Preset(
        source=f"{_WHITEPAPER}, 2203.11086",
        claim="In floating point V2 has 71.9 %. In 8 bits it has 0.1 % with one step for each "
        "kernel, 69.8 % with one for each channel, and 71.1 % after quantization-aware training. "
        "Trained in 4 and 3 bits, with methods against oscillation that these arms do not use, it "
        "has 70.6 and 67.8 %, of 71.7 %.",
        arms=_QUANTIZED,
        recipe="v2-imagenet",
        shared=_briefly_quantized(_SHARED_V2),
        claims=(*_ROUNDED_IN_8_BITS, _TRAINED_IN_8_BITS, *_TRAINED_IN_FEW_BITS),
        result="docs/results/v2-quantization",
    ),
    "v3-quantization": Preset(
        source=_OSCILLATIONS,
        claim="Trained in 4 and 3 bits, with methods against oscillation that these arms do not "
        "use, V3-Small has 63.7 and 59.0 % (67.4 % in floating point, V3, Table 3).",
        arms=_QUANTIZED,
        recipe="v3-small-imagenet",
        shared=_briefly_quantized(
            {
                scale: {**values, "model": "mobilenet_v3_small"}
                for scale, values in _SHARED_V3.items()
            }
        ),
        claims=_TRAINED_IN_FEW_BITS,
        result="docs/results/v3-quantization",
    ),
}
