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
    multiplied into the preceding kernel, and the shift becomes a bias. If the native kernels run
    the pointwise convolutions, the pointwise kernels are also packed into the order in which the
    native kernels read them, and each block without squeeze-and-excitation runs as one operation
    (`mnet_jax.ops.inverted_residual`).

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
        if layer.normalized:
            _fold(params, statistics, layer, epsilon)
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


def _fold(
    params: dict[str, Any], statistics: Mapping[str, Any], layer: Layer, epsilon: float
) -> None:
    """Folds a layer's normalization into its kernel and a bias, in place."""
    kernel, norm = layer.kernel_path, f"{layer.name}/norm"
    scale, bias, mean, var = (f"{norm}/{variable}" for variable in ("scale", "bias", "mean", "var"))
    _require_names([kernel, scale, bias], params)
    _require_names([mean, var], statistics)
    rate = params.pop(scale) * jax.lax.rsqrt(statistics[var] + epsilon)
    # The last axis of every kernel is that of the output channels.
    params[kernel] = params[kernel] * ops.over_channels(rate, params[kernel])
    params[bias] = jnp.asarray(params[bias] - statistics[mean] * rate)


def _require_names(names: Iterable[str], variables: Mapping[str, Any]) -> None:
    for name in names:
        require(name in variables, "variables", f"none called {name}", "the model's")
