"""AdaRound: learned rounding of kernels (arXiv 2004.10568).

Rounding each weight to nearest minimizes the error of the weights, not that of the layer's outputs.
AdaRound decides for each weight whether to round it down or up, layer by layer, so that the layer's
outputs on some images change least.

A convolution is computed as the product of a matrix of patches and the kernel, so that a sample of
the output positions is enough. The gradients are written out in NumPy: for the many shapes of a
network's kernels, compiling them would take longer than computing them.
"""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from mnet_jax.architectures import Layer, walk
from mnet_jax.architectures.spec import Activation, Gate
from mnet_jax.models.network import MobileNet
from mnet_jax.models.quantizers import kernel_range
from mnet_jax.quantization.calibration import observed_values
from mnet_jax.quantization.correction import kernel_quantizer, require_rounded_kernels
from mnet_jax.quantization.dataflow import layer_inputs
from mnet_jax.quantization.equalization import bias_path
from mnet_jax.quantization.folding import flat, with_flat
from mnet_jax.validation import is_whole, require

Array = jax.Array
Variables = Mapping[str, Any]

ZETA, GAMMA = 1.1, -0.1  # ends to which the sigmoid is stretched (section 3.3)
BETAS = (20.0, 2.0)  # exponents of the regularizer, from the first to the last iteration
WARMUP = 0.2  # share of the iterations without regularizer
REGULARIZER = 10.0  # its weight, where the error of rounding to nearest is 1
LEARNING_RATE = 0.02  # of Adam
MOMENTUMS = (0.9, 0.999)  # of Adam's mean and mean square of gradients
POSITIONS = 4096  # output positions of a layer, over all images, that are used
BATCH = 128  # of them, in an iteration

MOST_IMAGES = 32  # from which the rounding is learned


class _Problem(NamedTuple):
    """A layer whose rounding is learned: its kernel is `base + span * up`, with `up` from 0 to 1.

    Attributes:
      activation: the layer's activation.
      patches: inputs of n output positions: [n, i], or [n, t, c] for a depthwise convolution of t
        taps.
      kernel: in float; [i, c], or [t, c].
      bias: [c].
      base: the kernel rounded down, of the kernel's shape.
      span: the quantizer's step; 0 where there is no choice, because the weight is at the end of
        the quantizer's range or the quantizer is off. Of the kernel's shape.
    """

    activation: Activation | Gate
    patches: np.ndarray
    kernel: np.ndarray
    bias: np.ndarray
    base: np.ndarray
    span: np.ndarray

    def outputs(
        self, kernel: np.ndarray, rows: np.ndarray | slice
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns outputs [n, c] at some positions, and the activation's derivative there."""
        patches = self.patches[rows]
        if patches.ndim == 2:
            return _activated(patches @ kernel + self.bias, self.activation)
        return _activated(np.einsum("ntc,tc->nc", patches, kernel) + self.bias, self.activation)

    def pull_back(self, gradient: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Returns the gradient of the kernel, given that of the values before the activation."""
        patches = self.patches[rows]
        if patches.ndim == 2:
            return patches.T @ gradient
        return np.einsum("ntc,nc->tc", patches, gradient)


def adaround(
    model: MobileNet,
    variables: Variables,
    images: Array | np.ndarray,
    *,
    iterations: int = 500,
    seed: int = 0,
) -> dict[str, Any]:
    """Learns whether to round each weight down or up.

    For each layer, the mean squared error of the outputs after the activation is minimized. The
    inputs of the layer are those in the network in float. The decision is relaxed to h(V), a
    rectified sigmoid from 0 to 1. The regularizer 1 - |2 h(V) - 1|^beta, whose exponent decreases
    during learning, makes the decision binary (equations 21 to 24). The error is divided by the
    error of rounding to nearest, and the regularizer is a mean over weights. So the balance of the
    two depends neither on the scale of a layer nor on the bits. If the error of the learned
    rounding is not smaller than that of rounding to nearest, the layer is rounded to nearest.

    Args:
      model: a folded quantized network.
      variables: its variables.
      images: [b, h, w, 3]. If there are more than `MOST_IMAGES`, that many are used, at equal
        distances, because the activations of all of them are in memory at the same time.
      iterations: steps of Adam for each layer.
      seed: seed of the positions and their order.

    Returns:
      The variables with rounded kernels, which the network's quantizers leave unchanged. A weight
      that is within the range of its quantizer changes by at most one step.

    Raises:
      ValueError: the model is not folded or has no rounded kernels, or an argument is not legal.
    """
    require_rounded_kernels(model)
    whole = is_whole(iterations) and iterations >= 1
    require(whole, "iterations", iterations, "a whole number, 1 or more")
    assert model.quantization is not None
    count = min(len(images), MOST_IMAGES)
    images = np.asarray(images)[np.linspace(0, len(images) - 1, count).round().astype(int)]
    inputs = layer_inputs(model.spec)
    values = jax.device_get(_layer_inputs(model, variables, images))
    params = flat(variables, "params")
    _, rows, columns, _ = images.shape
    for i, layer in enumerate(walk(model.spec, (rows, columns))):
        kernel = params[layer.kernel_path]
        step, zero = kernel_quantizer(params, layer.name)
        low, high = (bound - zero for bound in kernel_range(model.quantization.at(layer.name)))
        divisor = np.where(step == 0, 1, step)
        down = np.clip(np.floor(kernel / divisor), low, high)
        choices = (step > 0) & (down < high) & (kernel / divisor >= low)
        generator = np.random.default_rng([seed, i])
        shape = (-1, kernel.shape[-1])
        problem = _Problem(
            layer.activation,
            _patches(layer, values[inputs[layer.name].quantizer], generator),
            kernel.reshape(shape),
            params[bias_path(layer)],
            np.where(step == 0, kernel, down * step).astype(np.float32).reshape(shape),
            (choices * step).astype(np.float32).reshape(shape),
        )
        up = _learned(problem, iterations, generator).reshape(kernel.shape)
        found = np.where(step == 0, kernel, (down + choices * up) * step)
        params[layer.kernel_path] = found.astype(np.float32)
    return with_flat(variables, params=params)


@partial(jax.jit, static_argnames="model")
def _layer_inputs(model: MobileNet, variables: Variables, images: Array) -> dict[str, Array]:
    """Returns the inputs of all layers in the network in float, by the paths of quantizers."""
    names = {x.quantizer for x in layer_inputs(model.spec).values()}
    values = observed_values(model, variables, images)
    return {name: value for name, value in values.items() if name in names}


def _patches(layer: Layer, x: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Returns the inputs of up to `POSITIONS` outputs of a layer; see `_Problem.patches`.

    Args:
      layer: the layer.
      x: its input, [b, h, w, c] or [b, c].
      generator: draws the positions.
    """
    channels = x.shape[-1]
    if layer.kind in ("conv", "depthwise"):
        reach = layer.dilation * (layer.kernel - 1) + 1
        x = np.pad(x, [(0, 0), *layer.pads, (0, 0)])
        windows = np.lib.stride_tricks.sliding_window_view(x, (reach, reach), axis=(1, 2))
        stride, dilation = layer.stride, layer.dilation
        x = windows[:, ::stride, ::stride, :, ::dilation, ::dilation]
    spatial = x.shape[: 3 if layer.kind != "dense" else 1]
    count = int(np.prod(spatial))
    chosen = generator.permutation(count)[:POSITIONS]
    found = x[np.unravel_index(chosen, spatial)]
    if layer.kind not in ("conv", "depthwise"):
        return found
    taps = np.moveaxis(found, 1, -1).reshape(len(chosen), -1, channels)
    return taps if layer.kind == "depthwise" else taps.reshape(len(chosen), -1)


def _learned(problem: _Problem, iterations: int, generator: np.random.Generator) -> np.ndarray:
    """Returns which weights of a layer's kernel to round up: 1, or 0 to round down."""
    divisor = np.where(problem.span == 0, 1, problem.span)
    rest = np.clip((problem.kernel - problem.base) / divisor, 0, 1)
    everywhere = slice(None)
    target = problem.outputs(problem.kernel, everywhere)[0]

    def error(up: np.ndarray) -> float:
        found, _ = problem.outputs(problem.base + problem.span * up, everywhere)
        return float(np.mean((found - target) ** 2))

    nearest = np.round(rest)
    most = error(nearest)
    if most == 0:
        return nearest
    v = -np.log((ZETA - GAMMA) / (rest - GAMMA) - 1)  # where the share is `rest`
    mean, square = np.zeros_like(v), np.zeros_like(v)
    for i in range(iterations):
        sigmoid = 1 / (1 + np.exp(-v))
        up = np.clip(sigmoid * (ZETA - GAMMA) + GAMMA, 0, 1)
        rows = generator.integers(0, len(target), BATCH)
        gradient = _error_gradient(problem, up, rows, target[rows]) / most
        done = (i / iterations - WARMUP) / (1 - WARMUP)
        if done >= 0:
            gradient += REGULARIZER * _regularizer_gradient(up, done)
        gradient *= sigmoid * (1 - sigmoid) * (ZETA - GAMMA)
        gradient *= (up > 0) & (up < 1)
        mean = MOMENTUMS[0] * mean + (1 - MOMENTUMS[0]) * gradient
        square = MOMENTUMS[1] * square + (1 - MOMENTUMS[1]) * gradient**2
        first = mean / (1 - MOMENTUMS[0] ** (i + 1))
        second = square / (1 - MOMENTUMS[1] ** (i + 1))
        v -= LEARNING_RATE * first / (np.sqrt(second) + 1e-8)
    learned = (v >= 0).astype(np.float32)  # the share is 1/2 or more
    return learned if error(learned) < most else nearest


def _error_gradient(
    problem: _Problem, up: np.ndarray, rows: np.ndarray, target: np.ndarray
) -> np.ndarray:
    """Returns the gradient of the mean squared error with respect to `up`."""
    found, slope = problem.outputs(problem.base + problem.span * up, rows)
    of_before = 2 / target.size * (found - target) * slope
    return problem.pull_back(of_before, rows) * problem.span


def _regularizer_gradient(up: np.ndarray, done: float) -> np.ndarray:
    """Returns the gradient of the mean of 1 - |2 up - 1|^beta; `done` (0 to 1) determines beta."""
    beta = BETAS[1] + (BETAS[0] - BETAS[1]) * (1 + math.cos(math.pi * done)) / 2
    centred = 2 * up - 1
    return -2 * beta / up.size * np.sign(centred) * np.abs(centred) ** (beta - 1)


def _activated(x: np.ndarray, activation: Activation | Gate) -> tuple[np.ndarray, np.ndarray]:
    """Returns an activation function of x, and its derivative."""
    if activation == "linear":
        return x, np.ones_like(x)
    if activation in ("relu", "relu6"):
        most = np.float32(6 if activation == "relu6" else np.inf)
        return np.clip(x, 0, most), ((x > 0) & (x < most)).astype(x.dtype)
    gate, slope = np.clip(x / 6 + 0.5, 0, 1), (np.abs(x) < 3) / np.float32(6)
    if activation == "hard_sigmoid":
        return gate, slope
    return x * gate, gate + x * slope
