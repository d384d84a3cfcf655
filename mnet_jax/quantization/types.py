"""How a run quantizes its network. Nothing here imports JAX, so configs can use it."""

from dataclasses import dataclass, field, replace
from typing import Literal

from mnet_jax.models.types import Granularity, Quantization
from mnet_jax.validation import is_whole, make_fields_plain, require, require_choice

RangeMethod = Literal["min-max", "percentile", "mse"]
# Post-training methods, each with the steps of those before it, and quantization-aware training.
Method = Literal["ptq", "ptq-equalized", "ptq-corrected", "ptq-adaround", "qat"]
CORRECTED_ALONE = "bias correction alone"  # the rung of a ladder to which no other adds


@dataclass(frozen=True, kw_only=True)
class QuantizationConfig:
    """The quantization of a trained network.

    Attributes:
      method: `ptq` rounds the trained network. `ptq-equalized` first equalizes the ranges of
        channels across layers and absorbs high biases; `ptq-corrected` also corrects biases (arXiv
        1906.04721); `ptq-adaround` also learns which kernels round up (arXiv 2004.10568). `qat`
        trains the rounding network further (arXiv 1902.08153).
      setting: bits, granularity and symmetry.
      ranges: how the ranges of kernels and activations are chosen: all values (`min-max`), all but
        0.01 % at each end (`percentile`), or those with the least squared error (`mse`).
      calibration_images: number of training images from which the ranges of activations are chosen.
      qat_epochs: epochs of `qat` after the training of the float network. A run with pretrained
        weights has no float training, and `qat` takes the epochs and the rate of that run.
      qat_learning_rate: peak learning rate of these epochs; it falls to zero as half a cosine.
      dampening: weight of the loss that pulls kernels to the middle of their rounding interval,
        against oscillation (arXiv 2203.11086, section 4.1); 0 for none. It rises from zero to this
        value during training.
    """

    method: Method = "ptq"
    setting: Quantization = field(default_factory=Quantization)
    ranges: RangeMethod = "min-max"
    calibration_images: int = 256
    qat_epochs: int = 10
    qat_learning_rate: float = 0.01
    dampening: float = 0.0

    def __post_init__(self) -> None:
        make_fields_plain(self)
        require_choice("method", self.method, Method)
        require_choice("ranges", self.ranges, RangeMethod)
        bits = self.setting.weight_bits
        rounds = bits > 0 or self.method not in ("ptq-corrected", "ptq-adaround")
        require(rounds, "weight_bits", bits, f"2 to 8 for {self.method}")
        images = self.calibration_images
        require(images >= 1, "calibration_images", images, "1 image or more")
        require(self.qat_epochs >= 1, "qat_epochs", self.qat_epochs, "1 or more")
        rate = self.qat_learning_rate
        require(rate > 0, "qat_learning_rate", rate, "above 0")
        require(self.dampening >= 0, "dampening", self.dampening, "0 or more")

    @property
    def trains(self) -> bool:
        """Whether the method trains the quantized network."""
        return self.method == "qat"


@dataclass(frozen=True, kw_only=True)
class LadderConfig:
    """Which rungs a ladder has.

    Attributes:
      bits: bits of kernels and activations, 2 to 8.
      granularity: whether kernels have one step (`tensor`), one for each channel, or first one
        and then the other.
      setting: the other settings of quantization; its bits and granularity are not used.
      ranges: how the ranges of kernels and activations are chosen.
      adaround: steps of AdaRound for each layer; 0 leaves it out.
    """

    bits: tuple[int, ...] = (8, 6, 4)
    granularity: tuple[Granularity, ...] = ("tensor", "channel")
    setting: Quantization = field(default_factory=Quantization)
    ranges: RangeMethod = "min-max"
    adaround: int = 0

    def __post_init__(self) -> None:
        make_fields_plain(self)
        for name in ("bits", "granularity"):
            values = getattr(self, name)
            once = 0 < len(values) == len({*values})
            require(once, name, " ".join(map(str, values)), "one value or more, each once")
        for bits in self.bits:
            require(is_whole(bits) and 2 <= bits <= 8, "bits", bits, "2 to 8")
        for each in self.granularity:
            require_choice("granularity", each, Granularity)
        require_choice("ranges", self.ranges, RangeMethod)
        count = self.adaround
        require(is_whole(count) and count >= 0, "adaround", count, "0 or more")

    def quantization(self, bits: int, granularity: Granularity) -> Quantization:
        """Returns the quantization of a rung."""
        return replace(
            self.setting, weight_bits=bits, activation_bits=bits, granularity=granularity
        )
