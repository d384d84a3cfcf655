"""Networks in integers: what a phone computes, in JAX.

    network = integer.convert(spec, params, affines)
    logits = integer.apply(network, images)

The arithmetic is that of LiteRT's reference kernels (`integer_operations`): int8 activations and
weights, int32 accumulators and biases, fixed-point multipliers. If a LiteRT file has the same
tensors as `Network`, one after each operation, then LiteRT's interpreter with the resolver
`BUILTIN_REF` computes the same int8 tensors and logits to the last bit. Some converters move biases
between layers or give the hard sigmoid a tensor of its own; their files hold different networks.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from mnet_jax.architectures import Layer
from mnet_jax.architectures.flow import compute
from mnet_jax.architectures.shapes import REFERENCE_RESOLUTION, require_quantizable
from mnet_jax.architectures.spec import Activation, Gate, NetworkSpec
from mnet_jax.quantization.integer_arithmetic import (
    HIGHEST,
    LARGEST_WEIGHT,
    LOWEST,
    Affine,
    dequantize,
    quantize,
)
from mnet_jax.quantization.integer_operations import (
    Addition,
    Convolution,
    HardSwish,
    Mean,
    Product,
)
from mnet_jax.validation import require

Array = jax.Array
STEP_OF_ZEROS = np.float32(1)  # of an activation that is always 0: any step represents it exactly

INPUT, LOGITS = "input_quantizer", "head/classifier/output_quantizer"
LARGEST_BIAS = 2**30  # leaves room for the products in an int32 accumulator


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Network:
    """A network in integers, a pytree.

    Attributes:
      operations: the operation that computes each tensor, by the path of the tensor's quantizer,
        such as `block_0/depthwise/output_quantizer`.
      affines: step and zero of each tensor, by the same paths.
      spec: the architecture.
    """

    operations: dict[str, Any]
    affines: dict[str, Affine]
    spec: NetworkSpec = dataclasses.field(metadata={"static": True})


def convert(
    spec: NetworkSpec,
    params: Mapping[str, Any],
    affines: Mapping[str, tuple[Any, Any]],
    kernel_steps: Mapping[str, Any] | None = None,
) -> Network:
    """Returns a folded network in integers.

    Args:
      spec: the architecture.
      params: parameters of the folded network (`models.fuse`, without panels).
      affines: (step, zero) of each activation, by the path of its quantizer: `input_quantizer`,
        `stem/output_quantizer` ...; before a hard swish also `stem/preactivation_quantizer`.
      kernel_steps: step of each layer's kernel, () or [n] for n output channels, by the layer's
        name. If None, the step of a channel is its largest absolute weight divided by 127, or more
        if the channel's bias needs it.

    Raises:
      ValueError: a parameter or an affine is missing or not legal.
    """
    require_quantizable(spec)
    flat = traverse_util.flatten_dict(params, sep="/")
    converter = _Converter(flat, affines, kernel_steps)
    compute(spec, REFERENCE_RESOLUTION, converter.affine(INPUT), converter)
    network = Network(
        operations=converter.operations,
        affines={path: converter.affine(path) for path in [INPUT, *converter.operations]},
        spec=spec,
    )
    return jax.tree.map(jnp.asarray, network)


def read_quantizers(
    params: Mapping[str, Any],
) -> tuple[dict[str, tuple[Any, Any]], dict[str, np.ndarray]]:
    """Returns the arguments `affines` and `kernel_steps` of `convert`.

    An activation that was always 0 where its range was chosen has step 0 and is not rounded. An
    integer needs a step: it gets `STEP_OF_ZEROS`, with which 0 stays exact.

    Args:
      params: parameters of a network with quantizers, each with a `step` and, if it is asymmetric,
        a `zero`. All of them must have 8 bits.

    Raises:
      ValueError: a kernel has a zero other than 0, which LiteRT does not support.
    """
    flat = traverse_util.flatten_dict(params, sep="/")
    affines: dict[str, tuple[Any, Any]] = {}
    kernel_steps = {}
    for name, step in flat.items():
        path, _, last = name.rpartition("/")
        if last != "step":
            continue
        step = np.abs(np.asarray(step))  # a learned step may be negative
        zero = np.asarray(flat.get(f"{path}/zero", 0))
        layer = path.removesuffix("/kernel_quantizer")
        if layer == path:
            affines[path] = (np.where(step == 0, STEP_OF_ZEROS, step), zero)
        else:
            require(not zero.any(), f"{path}/zero", zero.tolist(), "0, as LiteRT's weights have")
            kernel_steps[layer] = step
    return affines, kernel_steps


@jax.jit
def tensors(
    network: Network, images: Array, given: Mapping[str, Array] | None = None
) -> dict[str, Array]:
    """Returns every int8 tensor of a network by the path of its quantizer.

    Args:
      network: the network.
      images: real [b, h, w, c], with the scaling of the float network.
      given: the tensors of another implementation, by the same paths. Each operation then takes
        its inputs from here, so a difference of one operation does not change the next ones. None
        takes the network's own tensors.
    """
    found = {INPUT: quantize(images, network.affines[INPUT])}
    size = (images.shape[1], images.shape[2])
    taken = found if given is None else given
    compute(network.spec, size, taken[INPUT], _Runner(network.operations, found, taken))
    return found


def apply(network: Network, images: Array) -> Array:
    """Returns the float32 logits [b, num_classes] of images [b, h, w, c]."""
    return dequantize(tensors(network, images)[LOGITS], network.affines[LOGITS])


class _Converter:
    """Makes the operations of a network; a tensor is represented by its affine."""

    def __init__(
        self,
        params: Mapping[str, Any],
        affines: Mapping[str, tuple[Any, Any]],
        kernel_steps: Mapping[str, Any] | None,
    ) -> None:
        self.operations: dict[str, Any] = {}
        self._params, self._affines, self._kernel_steps = params, affines, kernel_steps

    def affine(self, path: str) -> Affine:
        """Returns the affine of a tensor, in the types of LiteRT's files."""
        step, zero = _found(self._affines, path, "affines")
        step, zero = np.float32(step), float(zero)
        require(bool(np.isfinite(step) and step > 0), f"{path}: step", float(step), "above 0")
        legal = f"a whole number from {LOWEST} to {HIGHEST}"
        require(LOWEST <= zero <= HIGHEST and zero == int(zero), f"{path}: zero", zero, legal)
        return Affine(step, np.int32(zero))

    def layer(self, layer: Layer, x: Affine) -> Affine:
        path = f"{layer.name}/output_quantizer"
        if layer.activation != "hard_swish":
            output = self.affine(path)
            self.operations[path] = self._convolution(layer, x, output, layer.activation)
            return output
        before = self.affine(f"{layer.name}/preactivation_quantizer")
        convolution = self._convolution(layer, x, before, "linear")
        self.operations[f"{layer.name}/preactivation_quantizer"] = convolution
        return self._put(path, HardSwish.of, before)

    def attend(self, layer: Layer, query: Affine, key: Affine, value: Affine) -> Affine:
        raise NotImplementedError(layer.name)  # refused by `require_quantizable`

    def mean(self, path: str, x: Affine) -> Affine:
        return self._put(path, Mean.of, x)

    def add(self, path: str, left: Affine, right: Affine) -> Affine:
        return self._put(path, Addition.of, left, right)

    def scale(self, path: str, x: Affine, gate: Affine) -> Affine:
        return self._put(path, Product.of, x, gate)

    def _put(self, path: str, make: Callable[..., Any], *inputs: Affine) -> Affine:
        output = self.affine(path)
        self.operations[path] = make(*inputs, output)
        return output

    def _convolution(
        self, layer: Layer, x: Affine, output: Affine, activation: Activation | Gate
    ) -> Convolution:
        kernel = np.asarray(_found(self._params, layer.kernel_path, "params"), np.float32)
        assert layer.bias_path  # quantized layers have one
        bias = np.asarray(_found(self._params, layer.bias_path, "params"), np.float32)
        step = kernel_step(layer, kernel, bias, x.step, self._kernel_steps)
        return Convolution.of(kernel, bias, step, x, output, activation)


class _Runner:
    """Applies the operations of a network to int8 arrays, and keeps every tensor by its path.

    Args:
      operations: the operations, by the path of their outputs.
      found: gets the output of each operation.
      taken: the tensors that operations take as their inputs; `found`, or those of another
        implementation.
    """

    def __init__(
        self, operations: Mapping[str, Any], found: dict[str, Array], taken: Mapping[str, Array]
    ) -> None:
        self._operations, self._found, self._taken = operations, found, taken

    def layer(self, layer: Layer, x: Array) -> Array:
        path = f"{layer.name}/output_quantizer"
        window = (layer.stride, layer.pads, layer.dilation)
        if layer.activation != "hard_swish":
            return self._put(path, x, *window)
        return self._put(path, self._put(f"{layer.name}/preactivation_quantizer", x, *window))

    def attend(self, layer: Layer, query: Array, key: Array, value: Array) -> Array:
        raise NotImplementedError(layer.name)  # refused by `require_quantizable`

    def mean(self, path: str, x: Array) -> Array:
        return self._put(path, x)

    def add(self, path: str, left: Array, right: Array) -> Array:
        return self._put(path, left, right)

    def scale(self, path: str, x: Array, gate: Array) -> Array:
        return self._put(path, x, gate[:, None, None, :])

    def _put(self, path: str, *inputs: Any) -> Array:
        self._found[path] = self._operations[path](*inputs)
        return self._taken[path]


def kernel_step(
    layer: Layer,
    kernel: np.ndarray,
    bias: np.ndarray,
    x_step: Any,
    given: Mapping[str, Any] | None = None,
) -> np.ndarray:
    """Returns the step of a layer's kernel: () or [n] for n output channels, above 0.

    Args:
      layer: the layer.
      kernel: its kernel [..., n].
      bias: its bias [n]. Steps of single channels are enlarged where the channel's bias would not
        fit into an int32 accumulator.
      x_step: step of the layer's input.
      given: steps by the names of layers; if None, the step of a channel is its largest absolute
        weight divided by 127.

    Raises:
      ValueError: the given step has another shape, is not legal, or is too small for a bias.
    """
    # The smallest steps with which the biases fit into an accumulator.
    least = np.abs(bias) / (LARGEST_BIAS * np.float64(x_step))
    if given is None:
        largest = np.abs(kernel).max(tuple(range(kernel.ndim - 1)))
        least = np.maximum(least, np.finfo(np.float32).tiny)
        return np.maximum(largest / LARGEST_WEIGHT, least).astype(np.float32)
    name, legal = f"kernel step of {layer.name}", f"() or ({layer.outputs},)"
    step = np.asarray(_found(given, layer.name, "kernel_steps"), np.float32)
    require(step.shape in ((), (layer.outputs,)), f"shape of {name}", step.shape, legal)
    finite = bool(((step >= 0) & (step < np.inf)).all() and (step.ndim or step > 0))
    require(finite, name, float(step.min()), "finite, and above 0 for a whole kernel")
    if step.ndim:
        return np.maximum(step, np.maximum(least, np.finfo(np.float32).tiny)).astype(np.float32)
    enough = bool((step >= least).all())
    require(enough, name, float(step), f"{least.max():g} or more, for its biases to fit int32")
    return step


def _found(mapping: Mapping[str, Any], name: str, argument: str) -> Any:
    require(name in mapping, argument, f"none called {name}", "one for each layer and tensor")
    return mapping[name]
