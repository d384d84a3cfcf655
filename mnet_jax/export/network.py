"""What an exported file holds: a folded network, how images are scaled, and quantization steps."""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mnet_jax import quantization
from mnet_jax.architectures import Layer, NetworkSpec, walk
from mnet_jax.architectures.shapes import REFERENCE_RESOLUTION
from mnet_jax.data.scaling import black_and_white
from mnet_jax.models import MobileNet, SavedModel, View
from mnet_jax.models.inputs import RGB
from mnet_jax.quantization import Quantization, integer
from mnet_jax.quantization.dataflow import layer_inputs
from mnet_jax.quantization.folding import flat
from mnet_jax.validation import require

IMAGE = "image"  # name of the file's input
WHITE = 255
# What LiteRT and ONNX Runtime compute: int8, kernels symmetric.
EIGHT_BITS = Quantization(weight_bits=8, activation_bits=8, granularity="channel")

Affine = tuple[np.float32, int]  # step and zero


@dataclass(frozen=True, kw_only=True)
class Integers:
    """The steps of a network's int8 tensors.

    Attributes:
      affines: step and zero of each activation, by the path of its quantizer.
      kernel_steps: step of each layer's kernel, () or [n] for n output channels, by layer name.
    """

    affines: Mapping[str, Affine]
    kernel_steps: Mapping[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Network:
    """A folded network with its preprocessing: what is written to a file.

    Attributes:
      model: the folded network, in floating point or in 8 bits.
      variables: its variables.
      view: the preprocessing of images. A file has its scaling; cropping and resizing are left to
        the program that calls it.
      class_names: names in the order of the logits; empty if unknown.
      takes_pixels: whether a file takes pixels, uint8 from 0 to 255, and scales them. If not, it
        takes scaled images, float32.
      params: the parameters, float32, by path.
      integers: the steps of a network in 8 bits; None in floating point.
    """

    model: MobileNet
    variables: Mapping[str, Any]
    view: View
    class_names: tuple[str, ...]
    takes_pixels: bool
    params: Mapping[str, np.ndarray]
    integers: Integers | None

    @staticmethod
    def of(saved: SavedModel, view: View | None = None, *, takes_pixels: bool = True) -> "Network":
        """Returns the network of a saved model, with batch normalization folded.

        Args:
          saved: the model.
          view: the preprocessing; by default the one that was saved with the model.
          takes_pixels: as the attribute.

        Raises:
          ValueError: the model has no view, other than 3 input channels, or parameters that are
            not finite; or it is quantized, but not to 8 bits for kernels and activations, or with a
            step with which a bias does not fit into int32.
        """
        view = view or saved.view
        require(view is not None, "view", None, "a view, for the model was saved without one")
        assert view is not None
        model, variables = saved.model, saved.variables
        channels = model.spec.stem.inputs
        require(channels == RGB, "in_channels", channels, "3, as exported files take RGB images")
        if not model.folded:
            model, variables = model.clone(folded=True), folded(model.spec, variables)
        params = flat(variables, "params")
        for name, value in params.items():
            require(
                bool(np.isfinite(value).all()), name, "values that are not finite", "finite ones"
            )
        return Network(
            model=model,
            variables=variables,
            view=view,
            class_names=saved.class_names,
            takes_pixels=takes_pixels,
            params=params,
            integers=_integers(model.spec, params, model.quantization),
        )

    @property
    def spec(self) -> NetworkSpec:
        """The architecture."""
        return self.model.spec

    @property
    def output(self) -> str:
        """Name of the file's output: `logits`, or `features` for a network without classes."""
        return "logits" if self.spec.head.num_classes else "features"

    @property
    def resolution(self) -> int:
        """Height and width of the images in pixels."""
        return self.view.resolution

    @property
    def scaling(self) -> tuple[np.ndarray, np.ndarray]:
        """Factor [3] by which pixels are multiplied, and offset [3] that is then added."""
        black, white = black_and_white(self.view.scaling)
        return (white - black) / np.float32(WHITE), black

    def scaled(self, images: jax.Array) -> jax.Array:
        """Scales images [b, h, w, 3], if they are pixels, to what the network takes."""
        if not self.takes_pixels:
            return images
        factor, offset = self.scaling
        return images.astype(jnp.float32) * factor + offset

    def logits(self, images: jax.Array) -> jax.Array:
        """Returns the output [b, n] for images [b, h, w, 3], as a file takes them."""
        return self.model.apply(self.variables, self.scaled(images), train=False)  # type: ignore[return-value]

    @functools.cached_property
    def compiled(self) -> Callable[[np.ndarray], jax.Array]:
        """`logits`, compiled for each batch size."""
        return jax.jit(self.logits)

    def logits_of(self, batches: Iterable[np.ndarray]) -> np.ndarray:
        """Returns the logits [n, classes] of all images of batches."""
        return np.concatenate([np.asarray(self.compiled(batch)) for batch in batches])

    def kernel(self, layer: Layer) -> np.ndarray:
        """Returns the kernel of a layer."""
        return self.params[layer.kernel_path]

    def bias(self, layer: Layer) -> np.ndarray | None:
        """Returns the bias of a layer [n]; None if it has none."""
        return self.params[layer.bias_path] if layer.bias_path else None

    def scale(self, layer: Layer) -> np.ndarray:
        """Returns the scale [n] that is left of a normalization without a kernel."""
        return self.params[layer.scale_path]


def in_eight_bits(network: Network, batches: Sequence[np.ndarray]) -> Network:
    """Returns a network in 8 bits: one step for each channel of a kernel, biases corrected.

    Args:
      network: the network; one that is quantized is returned as it is.
      batches: training images [b, h, w, 3], as the file takes them, to calibrate ranges and to
        correct biases; at least one batch.

    Raises:
      ValueError: there are no batches.
    """
    if network.integers:
        return network
    legal = "one or more, from which the ranges of activations are chosen"
    require(bool(batches), "batches", "none", legal)
    scaled = [np.asarray(network.scaled(jnp.asarray(batch))) for batch in batches]
    seen = quantization.observe(network.model, network.variables, scaled)
    model, values = quantization.quantized(network.model, network.variables, EIGHT_BITS, seen)
    values = quantization.correct_biases(model, values, scaled, exact=network.variables)
    saved = SavedModel(model, {"params": values["params"]}, network.class_names, network.view)
    return Network.of(saved, takes_pixels=network.takes_pixels)


def integers_of(path: str) -> str:
    """Returns the name of an int8 tensor in an ONNX file, by the path of its quantizer."""
    return f"{path}/integers"


def folded(spec: NetworkSpec, variables: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the variables of a network with batch normalization folded into its kernels."""
    return {"params": quantization.fold(spec, variables)["params"]}


def _integers(
    spec: NetworkSpec, params: Mapping[str, Any], setting: Quantization | None
) -> Integers | None:
    if setting is None:
        return None
    bits = setting.weight_bits, setting.activation_bits
    require(bits == (8, 8), "bits", " and ".join(map(str, bits)), "8 for kernels and activations")
    affines, steps = integer.read_quantizers(params)
    inputs = layer_inputs(spec)
    fitted = {}
    for layer in walk(spec, REFERENCE_RESOLUTION):
        assert layer.bias_path  # quantized layers have one
        x_step, _ = affines[inputs[layer.name].quantizer]
        fitted[layer.name] = integer.kernel_step(
            layer, params[layer.kernel_path], params[layer.bias_path], x_step, steps
        )
    return Integers(
        affines={path: (np.float32(step), int(zero)) for path, (step, zero) in affines.items()},
        kernel_steps=fitted,
    )
