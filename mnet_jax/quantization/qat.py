"""Quantization-aware training: oscillation of kernels, dampening, and statistics after training.

In training at few bits, a weight near the border between two levels jumps from one level to the
other at almost every step, because each jump reverses the sign of the gradient. The running
statistics of batch normalization then average over many different kernels and fit none of them
(arXiv 2203.11086).
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import traverse_util
from jax.typing import ArrayLike

from mnet_jax import ops
from mnet_jax.architectures import walk
from mnet_jax.architectures.shapes import REFERENCE_RESOLUTION
from mnet_jax.models.network import MobileNet
from mnet_jax.models.quantizers import kernel_range, nonzero
from mnet_jax.validation import require

Array = jax.Array
Tree = Mapping[str, Any]

MOMENTUM = 0.01  # of the frequency of oscillation (arXiv 2203.11086, section 3.2)
FREQUENT = 0.005  # a weight with a higher frequency oscillates (arXiv 2203.11086, section 5.1)


class Oscillation(NamedTuple):
    """How often each integer of a network's quantized kernels reverses its direction. A pytree.

    Attributes:
      integers: the kernels' integers after the last step, int16, by the path of the layer.
      direction: the sign of the last change of each integer, int16; 0 before the first change.
      frequency: how often each integer reverses, float32: a moving average over steps, where a step
        counts 1 if the integer changed against `direction`, and 0 if not.
    """

    integers: dict[str, Array]
    direction: dict[str, Array]
    frequency: dict[str, Array]

    def share(self, threshold: float = FREQUENT) -> Array:
        """Returns the share of the weights that oscillate: whose frequency is above `threshold`."""
        if not self.frequency:
            return jnp.zeros(())
        frequent = jnp.stack([jnp.sum(f > threshold) for f in self.frequency.values()])
        return jnp.sum(frequent) / sum(f.size for f in self.frequency.values())


@partial(jax.jit, static_argnums=0)
def oscillation(model: MobileNet, variables: Tree) -> Oscillation:
    """Returns the oscillation before the first step: none.

    Args:
      model: a quantized network.
      variables: its `params` and `batch_stats`.
    """
    integers = _integers(model, variables)
    still = {name: jnp.zeros_like(q) for name, q in integers.items()}
    return Oscillation(
        integers=integers,
        direction=still,
        frequency={name: jnp.zeros(q.shape, jnp.float32) for name, q in integers.items()},
    )


def update_oscillation(model: MobileNet, before: Oscillation, variables: Tree) -> Oscillation:
    """Returns the oscillation after a step (arXiv 2203.11086, equation 5 and section 3.2).

    Args:
      model: a quantized network.
      before: the oscillation before the step.
      variables: the network's variables after the step.
    """
    integers = _integers(model, variables)
    direction, frequency = {}, {}
    for name, now in integers.items():
        change = jnp.sign(now - before.integers[name])
        turned = change * before.direction[name] < 0
        direction[name] = jnp.where(change == 0, before.direction[name], change)
        old = before.frequency[name]
        frequency[name] = old + MOMENTUM * (turned - old)
    return Oscillation(integers=integers, direction=direction, frequency=frequency)


def dampening(model: MobileNet, variables: Tree) -> Array:
    """Returns the squared distance of the kernels from the levels that they are rounded to.

    Added to the loss, it pulls weights to the middle of their rounding interval. Weights outside
    the quantizer's range do not count (arXiv 2203.11086, equation 7).

    Args:
      model: a quantized network.
      variables: its `params` and `batch_stats`.
    """
    total = jnp.zeros(())
    for kernel in _kernels(model, variables):
        clipped = jnp.clip(kernel.ratio, kernel.low, kernel.high)
        distance = clipped - jax.lax.stop_gradient(jnp.round(clipped))
        total += jnp.sum((distance * kernel.unit) ** 2)
    return total


def reestimate_statistics(
    model: MobileNet, variables: Tree, batches: Iterable[ArrayLike]
) -> dict[str, Any]:
    """Returns the variables with running statistics recomputed for the current weights.

    The new statistics are the means of the batches' statistics (arXiv 2203.11086, section 4).
    Frozen parts of the network keep their statistics.

    Kernels are rounded with the rate of the running variance. So that the integers of a kernel stay
    those with which the statistics were computed, the step of each channel is rescaled as the rate
    of the channel. A kernel with one step for all channels cannot follow the rates: some of its
    integers change.

    Args:
      model: the network.
      variables: its `params` and `batch_stats`.
      batches: training images [b, h, w, 3], augmented as in training; one batch or more.
    """
    # Without momentum, the running statistics after a step are those of its batch.
    dialect = replace(model.spec.dialect, norm_momentum=0.0)
    model = model.clone(spec=replace(model.spec, dialect=dialect), axis_name=None)
    found = [_statistics(model, variables, images) for images in batches]
    require(bool(found), "batches", "none", "one or more")
    means = jax.tree.map(lambda *values: jnp.mean(jnp.stack(values), axis=0), *found)
    params = _with_rescaled_steps(model, variables, means)
    return {**variables, "params": params, "batch_stats": means}


def _with_rescaled_steps(model: MobileNet, variables: Tree, batch_stats: Tree) -> Tree:
    """Returns the parameters with steps [c] that round kernels to the same integers as before.

    Args:
      model: the network.
      variables: its `params`, and its `batch_stats` before.
      batch_stats: the new running statistics.
    """
    params = traverse_util.flatten_dict(variables["params"], sep="/")
    before = traverse_util.flatten_dict(variables["batch_stats"], sep="/")
    after = traverse_util.flatten_dict(batch_stats, sep="/")
    epsilon = model.spec.dialect.norm_epsilon
    for layer in walk(model.spec, REFERENCE_RESOLUTION):
        path, norm = f"{layer.name}/kernel_quantizer/step", f"{layer.name}/norm"
        step = params.get(path)
        if step is None or step.ndim == 0 or not layer.normalized:
            continue
        old, new = (
            nonzero(params[f"{norm}/scale"] * jax.lax.rsqrt(tree[f"{norm}/var"] + epsilon))
            for tree in (before, after)
        )
        params[path] = step * jnp.abs(new / old)
    found: Tree = traverse_util.unflatten_dict(params, sep="/")
    return found


@partial(jax.jit, static_argnums=0)
def _statistics(model: MobileNet, variables: Tree, images: Array) -> Tree:
    """Returns the running statistics after a step of training on `images`."""
    rngs = {"dropout": jax.random.key(0)}
    _, state = model.apply(variables, images, train=True, mutable=["batch_stats"], rngs=rngs)
    found: Tree = state["batch_stats"]
    return found


class _Kernel(NamedTuple):
    """A quantized kernel.

    Attributes:
      layer: the path of its layer.
      ratio: the kernel before rounding, in steps of its quantizer: kernel / unit.
      unit: the step on the scale of the kernel parameter, without gradient; broadcasts to it.
      low: the smallest value of the rounded `ratio`: the quantizer's smallest integer minus `zero`.
      high: the largest value, likewise.
    """

    layer: str
    ratio: Array
    unit: Array
    low: Array
    high: Array


def _integers(model: MobileNet, variables: Tree) -> dict[str, Array]:
    """Returns the integers of all quantized kernels minus the quantizer's `zero`, by layer."""
    return {
        kernel.layer: jnp.clip(jnp.round(kernel.ratio), kernel.low, kernel.high).astype(jnp.int16)
        for kernel in _kernels(model, variables)
    }


def _kernels(model: MobileNet, variables: Tree) -> Iterator[_Kernel]:
    """Yields the quantized kernels of a network.

    The quantizers round the kernels of inference, with batch normalization folded in.
    """
    assert model.quantization is not None
    params = traverse_util.flatten_dict(variables["params"], sep="/")
    statistics = traverse_util.flatten_dict(variables["batch_stats"], sep="/")
    for layer in walk(model.spec, REFERENCE_RESOLUTION):
        quantizer, norm = f"{layer.name}/kernel_quantizer", f"{layer.name}/norm"
        kernel, step = params[layer.kernel_path], params.get(f"{quantizer}/step")
        if step is None:
            continue
        unit = jnp.where(step == 0, 1, jnp.abs(step))
        if layer.normalized:
            var = statistics[f"{norm}/var"] + model.spec.dialect.norm_epsilon
            unit = unit / nonzero(params[f"{norm}/scale"] * jax.lax.rsqrt(var))
        zero = params.get(f"{quantizer}/zero", jnp.zeros_like(step))
        unit, zero = (
            ops.over_channels(jax.lax.stop_gradient(a), kernel) if a.ndim else a
            for a in (unit, zero)
        )
        low, high = kernel_range(model.quantization.at(layer.name))
        yield _Kernel(layer.name, kernel / unit, unit, low - zero, high - zero)
