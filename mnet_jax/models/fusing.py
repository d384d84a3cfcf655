"""Folding of batch normalization into convolutions, for inference."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util

from mnet_jax import ops
from mnet_jax.architectures import Layer, walk
from mnet_jax.architectures.shapes import REFERENCE_RESOLUTION
from mnet_jax.models.network import MobileNet
from mnet_jax.validation import require

Params = Mapping[str, Any]


def fuse(
    model: MobileNet, variables: Mapping[str, Any]
) -> tuple[Callable[[Params, jax.Array], jax.Array], Params]:
    """Folds the batch normalization of a trained network into its convolutions.

        infer, params = models.fuse(model, variables)
        logits = jax.jit(infer)(params, images)

    With fixed statistics, batch normalization scales and shifts each channel. The scale is
    multiplied into the preceding kernel, and the shift becomes a bias. A layer scale is multiplied
    into both. The normalization of an attention block's input has no preceding kernel, and remains
    as a scale and a bias.

    If the native kernels run the pointwise convolutions, the pointwise kernels are also packed into
    the order in which the native kernels read them, and each block without squeeze-and-excitation
    and attention runs as one operation (`mnet_jax.ops.inverted_residual`).

    Args:
      model: the network.
      variables: its `params` and `batch_stats`.

    Returns:
      A pair `(infer, params)`. `infer(params, images)` maps images [b, h, w, 3] to float32 logits
      [b, num_classes]; they equal `model.apply(variables, images, train=False)` up to rounding.
      `params` has the names of the model's parameters, except that a packed kernel is called
      `panels` (`mnet_jax.ops.pack`) instead of `kernel`.

    Raises:
      ValueError: the model is folded already, or the variables do not belong to it.
    """
    require(not model.folded, "model", "a folded one", "one with batch normalization")
    params = traverse_util.flatten_dict(variables["params"], sep="/")
    statistics = traverse_util.flatten_dict(variables.get("batch_stats", {}), sep="/")
    epsilon = model.spec.dialect.norm_epsilon
    packed = model.quantization is None and ops.reads_panels(model.dtype, model.lowering)
    for layer in walk(model.spec, REFERENCE_RESOLUTION):
        fold_layer(params, statistics, layer, epsilon)
        if layer.normalized:
            assert layer.bias_path
            params[layer.bias_path] = jnp.asarray(params[layer.bias_path])
        # The dense layers of squeeze-and-excitation are too small for packing to pay off.
        if packed and (layer.kind == "pointwise" or layer.part == "head"):
            kernel = layer.kernel_path
            _require_names([kernel], params)
            params[kernel.removesuffix("kernel") + "panels"] = ops.pack(params.pop(kernel))
    folded = model.clone(folded=True, packed=packed)

    def infer(params: Params, images: jax.Array) -> jax.Array:
        logits = folded.apply({"params": params}, images, train=False)
        assert isinstance(logits, jax.Array)  # no state is returned, since nothing is mutable
        return logits

    return infer, traverse_util.unflatten_dict(params, sep="/")


def fold_layer(
    params: dict[str, Any], statistics: Mapping[str, Any], layer: Layer, epsilon: float
) -> None:
    """Folds a layer's normalization and layer scale into its kernel and a bias, in place.

    A layer of kind `norm` has no kernel; the scale and the bias of its normalization take up the
    running statistics.

    Args:
      params: parameters by path, arrays of NumPy or of JAX. The kernel and the normalization's bias
        are replaced. The normalization's scale, if there is a kernel, and the layer scale are
        removed.
      statistics: running statistics by path.
      layer: any layer; one without normalization and layer scale remains.
      epsilon: constant that the normalization adds to the variance.

    Raises:
      ValueError: a variable of the layer is missing.
    """
    if layer.normalized:
        norm = f"{layer.name}/norm"
        _require_names([f"{norm}/bias"], params)
        rate = normalization_rate(params, statistics, layer, epsilon)
        params[f"{norm}/bias"] = params[f"{norm}/bias"] - statistics[f"{norm}/mean"] * rate
        if layer.has_kernel:
            _scale_outputs(params, layer, rate)
            del params[f"{norm}/scale"]
        else:
            params[f"{norm}/scale"] = rate
    if layer.scaled:
        _require_names([layer.layer_scale_path], params)
        scale = params.pop(layer.layer_scale_path)
        _scale_outputs(params, layer, scale)
        if layer.bias_path:
            params[layer.bias_path] = params[layer.bias_path] * scale


def _scale_outputs(params: dict[str, Any], layer: Layer, factors: Any) -> None:
    """Multiplies the output channels of a layer's kernel by factors [n], in place."""
    _require_names([layer.kernel_path], params)
    kernel = params[layer.kernel_path]
    # The last axis of every kernel is that of the output channels.
    params[layer.kernel_path] = kernel * factors.reshape((1,) * (kernel.ndim - 1) + (-1,))


def normalization_rate(
    params: Mapping[str, Any], statistics: Mapping[str, Any], layer: Layer, epsilon: float
) -> Any:
    """Returns the factor [c] by which a layer's normalization multiplies each channel.

    For the arguments see `fold_layer`.
    """
    norm = f"{layer.name}/norm"
    _require_names([f"{norm}/scale"], params)
    _require_names([f"{norm}/mean", f"{norm}/var"], statistics)
    return params[f"{norm}/scale"] * (statistics[f"{norm}/var"] + epsilon) ** -0.5


def _require_names(names: Iterable[str], variables: Mapping[str, Any]) -> None:
    for name in names:
        require(name in variables, "variables", f"none called {name}", "the model's")
