"""Quantization-aware training: oscillation of kernels, dampening, and statistics after training.

In training at few bits, a weight near the border of two levels jumps between them at almost every
step, because its gradient changes sign whenever its rounded value does. The running statistics of
batch normalization then follow no fixed network (arXiv 2203.11086).
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
from mnet_jax.models.quantizers import kernel_levels, nonzero
from mnet_jax.validation import require

Array = jax.Array
Tree = Mapping[str, Any]

MOMENTUM = 0.01  # of the frequency of oscillation (arXiv 2203.11086, section 3.2)
FREQUENT = 0.005  # a weight with a higher frequency oscillates (arXiv 2203.11086, section 5.1)


class Oscillation(NamedTuple):
    """How often the quantized kernels of a network change their direction. A pytree.

    Attributes:
      integers: the kernels' integers after the last step, int16, by the path of the layer.
      direction: the sign of the last change of each integer, int16; 0 before the first change.
      frequency: moving average over steps of whether the integer changed against its direction,
        float32.
    """

    integers: dict[str, Array]
    direction: dict[str, Array]
    frequency: dict[str, Array]

    def share(self, threshold: float = FREQUENT) -> Array:
        """Returns the share of the weights that oscillate: whose frequency is above `threshold`."""
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
    """Returns the variables with running statistics computed anew, by the network as it is now.

    The new statistics are the means of the batches' statistics (arXiv 2203.11086, section 4).
    Frozen parts keep theirs.

    Args:
      model: the network.
      variables: its `params` and `batch_stats`.
      batches: images [b, h, w, 3], one batch or more.
    """
    # Without momentum, the running statistics after a step are those of its batch.
    dialect = replace(model.spec.dialect, norm_momentum=0.0)
    model = model.clone(spec=replace(model.spec, dialect=dialect), axis_name=None)
    found = [_statistics(model, variables, images) for images in batches]
    require(bool(found), "batches", "none", "one or more")
    means = jax.tree.map(lambda *values: jnp.mean(jnp.stack(values), axis=0), *found)
    return {**variables, "batch_stats": means}


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
      ratio: the kernel that is rounded, in steps: kernel / unit.
      unit: the size of a step in the units of the kernel, with no gradient; broadcasts to it.
      low: the smallest integer less the integer that represents 0.
      high: the largest one.
    """

    layer: str
    ratio: Array
    unit: Array
    low: Array
    high: Array


def _integers(model: MobileNet, variables: Tree) -> dict[str, Array]:
    """Returns the integers of all quantized kernels, less those that represent 0, by layer."""
    return {
        kernel.layer: jnp.clip(jnp.round(kernel.ratio), kernel.low, kernel.high).astype(jnp.int16)
        for kernel in _kernels(model, variables)
    }


def _kernels(model: MobileNet, variables: Tree) -> Iterator[_Kernel]:
    """Yields the quantized kernels of a network, which round the folded kernel of inference."""
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
        low, high = kernel_levels(model.quantization.at(layer.name))
        yield _Kernel(layer.name, kernel / unit, unit, low - zero, high - zero)
