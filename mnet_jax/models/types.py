"""The option types of models. Nothing here imports JAX, so configs can use them."""

from dataclasses import dataclass, replace
from typing import Literal

from mnet_jax.validation import make_fields_plain, require, require_choice

Remat = Literal["none", "blocks"]  # what the backward pass recomputes; see `MobileNet`
Granularity = Literal["tensor", "channel"]
Symmetry = Literal["symmetric", "asymmetric"]
StepSizes = Literal["learned", "fixed"]

# Starts of the paths of layers and quantizers that have `edge_bits`.
_EDGE_WEIGHTS = ("stem", "head/classifier")
_EDGE_ACTIVATIONS = ("input_quantizer", "head/pooled", "head/hidden", "head/classifier")


@dataclass(frozen=True, kw_only=True)
class Quantization:
    """Simulated quantization of a network: each layer rounds its kernel and its output.

    The defaults are LiteRT's scheme of 8 bits (arXiv 1712.05877).

    Attributes:
      weight_bits: bits of kernels, 2 to 8; 0 leaves kernels unquantized.
      activation_bits: bits of activations, 2 to 8; 0 leaves activations unquantized.
      granularity: whether a kernel has one step for all values (`tensor`), or one for each output
        channel (`channel`). Activations always have one step.
      weight_symmetry: whether zero is the middle of a kernel's range. Symmetric kernels do not use
        the lowest integer, as LiteRT requires.
      activation_symmetry: whether zero is the middle of an activation's range.
      edge_bits: least bits at the ends of a network, where low bits cost much and save little (LSQ,
        arXiv 1902.08153, section 3): of the kernels of the stem and the classifier, and of the
        image and all activations after the pool.
      step_sizes: whether training changes the steps by their gradients (LSQ), or leaves them fixed.
    """

    weight_bits: int = 8
    activation_bits: int = 8
    granularity: Granularity = "channel"
    weight_symmetry: Symmetry = "symmetric"
    activation_symmetry: Symmetry = "asymmetric"
    edge_bits: int = 8
    step_sizes: StepSizes = "learned"

    def __post_init__(self) -> None:
        make_fields_plain(self)
        for name in ("weight_bits", "activation_bits"):
            bits = getattr(self, name)
            require(bits == 0 or 2 <= bits <= 8, name, bits, "2 to 8, or 0 for none")
        require(2 <= self.edge_bits <= 8, "edge_bits", self.edge_bits, "2 to 8")
        require_choice("granularity", self.granularity, Granularity)
        require_choice("weight_symmetry", self.weight_symmetry, Symmetry)
        require_choice("activation_symmetry", self.activation_symmetry, Symmetry)
        require_choice("step_sizes", self.step_sizes, StepSizes)

    def at(self, path: str) -> "Quantization":
        """Returns the quantization of one layer, whose bits may be `edge_bits`.

        Args:
          path: path of a layer or of a quantizer, such as `block_0/expand` or `input_quantizer`.
        """
        weights, activations = self.weight_bits, self.activation_bits
        if path.startswith(_EDGE_WEIGHTS) and weights:
            weights = max(weights, self.edge_bits)
        if path.startswith(_EDGE_ACTIVATIONS) and activations:
            activations = max(activations, self.edge_bits)
        return replace(self, weight_bits=weights, activation_bits=activations)
