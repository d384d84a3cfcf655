"""Single convolutions on JAX: alone, and as layers of a network."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mnet_jax import ops
from mnet_jax.benchmark.cases import DepthwiseCase, LayerCase, Run


def depthwise(case: DepthwiseCase, lowering: ops.Lowering) -> Run:
    """Runs a depthwise convolution alone, or its gradients."""
    strides = (case.stride, case.stride)
    x, kernel = _normal(*case.shape), _normal(case.kernel, case.kernel, case.shape[3])

    def forward(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return ops.depthwise_conv(x, kernel, strides, "SAME", lowering)

    g = jnp.ones(jax.eval_shape(forward, x, kernel).shape, jnp.float32)
    programs: dict[str, Callable[..., Any]] = {
        "forward": lambda x, kernel, g: forward(x, kernel),
        "input gradient": lambda x, kernel, g: jax.vjp(forward, x, kernel)[1](g)[0],
        "kernel gradient": lambda x, kernel, g: jax.vjp(forward, x, kernel)[1](g)[1],
        "both gradients": lambda x, kernel, g: jax.vjp(forward, x, kernel)[1](g),
    }
    return _compiled(programs[case.derivative], x, kernel, g)


def grouped(case: DepthwiseCase) -> Run:
    """Runs XLA's grouped convolution."""
    return depthwise(case, "grouped")


def shifted(case: DepthwiseCase) -> Run:
    """Runs the sum over taps."""
    return depthwise(case, "shifted")


def native(case: DepthwiseCase) -> Run:
    """Runs the native kernels, compiling them if necessary."""
    if jax.default_backend() != "cpu":
        raise ops.NativeError("lowering: native is for CPUs")
    return depthwise(case, "native")


def layer(case: LayerCase, lowering: ops.Lowering, pointwise: Callable[..., Any]) -> Run:
    """Runs a layer as `models` does; `pointwise` is `ops.pointwise` or a replacement for it."""
    channels = case.shape[3]
    convolve = _convolution(case, pointwise)

    def forward(norm: jax.Array | None, x: jax.Array, kernel: jax.Array) -> tuple:
        pending = ops.Pending(x=x, norm=norm, activation=case.activation or "linear")
        return tuple(convolve(pending, kernel, lowering=lowering, statistics=True))

    norm = jnp.zeros((3, channels)).at[1].set(1)  # mean, scale, bias
    x, kernel = _normal(*case.shape), _normal(*case.kernel_shape)
    given: tuple[Any, ...] = (norm, x) if case.activation else (None, x)
    if case.direction == "forward":
        return _compiled(forward, *given, kernel)
    # Outside of a jit, so that the forward pass's residuals are arguments of the backward pass.
    if case.activation:
        results, pull = jax.vjp(forward, *given, kernel)
    else:
        results, pull = jax.vjp(partial(forward, *given), kernel)
    return _compiled(lambda pull, g: pull(g), pull, jax.tree.map(jnp.ones_like, results))


def _convolution(case: LayerCase, pointwise: Callable[..., Any]) -> Callable[..., Any]:
    """Returns the layer's convolution, a function of a pending feature map and a kernel."""
    if case.kind == "pointwise":
        return pointwise
    return partial(ops.depthwise if case.kind == "depthwise" else ops.full, strides=case.stride)


def pointwise_as_convolution(
    x: ops.Pending, kernel: jax.Array, *, statistics: bool, lowering: ops.Lowering = "grouped"
) -> ops.Convolved:
    """Applies a 1x1 convolution as Flax does: with XLA's convolution, not as a matrix product."""
    y = lax.conv_general_dilated(
        x.value(), kernel[None, None], (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return ops.measured(y) if statistics else ops.Convolved(y)


def _normal(*shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)


def _compiled(program: Callable[..., Any], *arguments: Any) -> Run:
    call = jax.jit(program).lower(*arguments).compile()
    return lambda: jax.block_until_ready(call(*arguments))
