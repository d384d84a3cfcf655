"""Cross-layer equalization and absorption of high biases (arXiv 1906.04721, section 4.1).

Both change the weights of a folded network. Equalization does not change the function that the
network computes in floating point, and absorption hardly changes it.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from mnet_jax.architectures import Layer, NetworkSpec
from mnet_jax.quantization.dataflow import Pair, layer_inputs, pairs, unpaired
from mnet_jax.quantization.folding import STATISTICS, flat, with_flat
from mnet_jax.validation import require

Variables = Mapping[str, Any]

# A channel whose range is below this share of the layer's largest is dead. V1 trained on ImageNet
# has channels of 1e-13, while those that it uses have 1e-3 and more.
DEAD = 1e-10
DEVIATIONS = 3  # standard deviations below the mean that absorption keeps (section 4.1.3)


def equalize(
    spec: NetworkSpec, variables: Variables, *, iterations: int = 100, tolerance: float = 1e-3
) -> dict[str, Any]:
    """Makes the ranges of channels alike by rescaling them between layers; see `rescale`.

    For arguments, errors and the method see `equalizing_factors`.
    """
    factors = equalizing_factors(spec, variables, iterations=iterations, tolerance=tolerance)
    return rescale(spec, variables, factors)


def equalizing_factors(
    spec: NetworkSpec, variables: Variables, *, iterations: int = 100, tolerance: float = 1e-3
) -> dict[str, np.ndarray]:
    """Returns the factors [c] of cross-layer equalization, by the name of each pair's first layer.

    A channel has two ranges: r1 is its largest absolute weight in the kernel that computes the
    channel, and r2 its largest absolute weight in the kernels that read it. The factor of the
    channel is s = sqrt(r1 / r2) (equation 11), and both ranges become sqrt(r1 r2). A layer takes
    part in several pairs, so the method goes through all pairs repeatedly, until no factor changes.

    A channel is dead if its r1 is at most `DEAD` times the pair's largest r1, or its r2 at most
    `DEAD` times the pair's largest r2. The factor of a dead channel is 1, with one exception. If
    the channel's other range exceeds the ranges of all living channels, that range would determine
    the step of the kernel. Then the factor reduces that range to the largest range of a living
    channel. (The factor remains 1 if the channel is a nonzero constant that the next layer reads,
    because the constant would grow.)

    Args:
      spec: the network.
      variables: the variables of the folded network.
      iterations: the most times that each pair is treated.
      tolerance: largest relative change of a factor at which the method has converged.

    Raises:
      ValueError: no pair of layers can be rescaled; names the first layer and the reason.
    """
    found = pairs(spec)
    if not found:
        name, reason = next(iter(unpaired(spec).items()))
        raise ValueError(f"{name}: {reason}")
    params = flat(variables, "params")
    # Ranges need absolute values only, in float64 as they are rescaled many times.
    sizes = {path: np.abs(params[path], dtype=np.float64) for path in _kernel_paths(found)}
    alive = [_alive(sizes, pair) for pair in found]
    factors = {pair.first.name: np.ones(pair.first.outputs) for pair in found}
    for _ in range(iterations):
        change = 0.0
        for pair, living in zip(found, alive, strict=True):
            before, after = _ranges(sizes, pair)
            ratio = np.where(living, before, 1) / np.where(living, after, 1)
            factor = np.sqrt(ratio)
            _rescale_kernels(sizes, pair, factor)
            factors[pair.first.name] *= factor
            change = max(change, np.abs(np.log(factor)).max())
        if change < tolerance:
            break
    for pair, living in zip(found, alive, strict=True):
        factor = _dead_factor(sizes, pair, living, params[bias_path(pair.first)])
        _rescale_kernels(sizes, pair, factor)
        factors[pair.first.name] *= factor
    return factors


def rescale(
    spec: NetworkSpec, variables: Variables, factors: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """Divides output channels of layers by factors, and multiplies the kernels that read them.

    The network's function does not change. Biases and statistics are rescaled too.

    Args:
      spec: the network.
      variables: the variables of the folded network.
      factors: for each layer to rescale, by name, positive numbers [c] that divide its output
        channels.

    Raises:
      ValueError: a layer's outputs cannot be rescaled.
    """
    known, refused = {pair.first.name: pair for pair in pairs(spec)}, unpaired(spec)
    params, statistics = flat(variables, "params"), flat(variables, STATISTICS)
    for name, values in factors.items():
        if name not in known:
            raise ValueError(f"{name}: {refused.get(name, 'no layer of the network')}")
        pair, factor = known[name], np.asarray(values, np.float32)
        positive = factor.shape == (pair.first.outputs,) and bool((factor > 0).all())
        require(positive, name, values, f"{pair.first.outputs} positive numbers")
        _rescale_kernels(params, pair, factor)
        params[bias_path(pair.first)] = params[bias_path(pair.first)] / factor
        for path in (f"{name}/mean", f"{name}/deviation"):
            if path in statistics:
                statistics[path] = statistics[path] / factor
    return with_flat(variables, params=params, **{STATISTICS: statistics})


def absorb_high_biases(
    spec: NetworkSpec, variables: Variables, *, through_padding: bool = False
) -> dict[str, Any]:
    """Moves constant parts of a layer's outputs into the bias of the next layer (section 4.1.3).

    Equalization can make a bias, and with it the range of an activation, very large. If a value x
    before ReLU is never below a constant c > 0, then ReLU(x - c) = ReLU(x) - c. So c can be
    subtracted from the bias, and W c added to the bias of the next layer, whose kernel is W. As in
    the paper, c is the mean of x minus three standard deviations. In a normal distribution, 0.14 %
    of the values are below this c, and for these the result changes.

    Constants are absorbed only after a ReLU, and not in pairs with squeeze-and-excitation. There a
    gate would multiply c, so W c would not be constant.

    Args:
      spec: the network.
      variables: the variables of the folded network, with `statistics`.
      through_padding: whether to absorb into kernels larger than 1 x 1 too, as the paper does. This
        changes the outputs at the border, because the padding remains 0 and does not become -c. On
        small maps, most outputs are at the border.

    Raises:
      ValueError: the variables have no statistics.
    """
    params, statistics = flat(variables, "params"), flat(variables, STATISTICS)
    require(bool(statistics), "variables", "no statistics", "variables from `fold`")
    inputs = layer_inputs(spec)
    for pair in pairs(spec):
        first, follower = pair.first, pair.followers[-1]
        mean = f"{first.name}/mean"
        exact = follower.kernel == 1 or through_padding
        gated = inputs[follower.name].gated
        if first.activation != "relu" or not exact or gated or mean not in statistics:
            continue
        least = statistics[mean] - DEVIATIONS * statistics[f"{first.name}/deviation"]
        absorbed = np.maximum(least, 0).astype(np.float32)
        params[bias_path(first)] = params[bias_path(first)] - absorbed
        statistics[mean] = statistics[mean] - absorbed
        passed_on = constant_output(follower, params[follower.kernel_path], absorbed)
        params[bias_path(follower)] = params[bias_path(follower)] + passed_on
    return with_flat(variables, params=params, **{STATISTICS: statistics})


def bias_path(layer: Layer) -> str:
    """Returns the path of a layer's bias in the parameters of a folded network."""
    assert layer.bias_path, layer.name
    return layer.bias_path


def constant_output(layer: Layer, kernel: np.ndarray, inputs: np.ndarray) -> np.ndarray:
    """Returns a layer's outputs [n], without bias, for an input that is constant over positions.

    Args:
      layer: the layer.
      kernel: its kernel.
      inputs: the value of each input channel, [c].
    """
    if layer.kind == "depthwise":
        return kernel.sum((0, 1)) * inputs
    return inputs @ kernel.reshape(-1, *kernel.shape[-2:]).sum(0)


def _kernel_paths(found: tuple[Pair, ...]) -> set[str]:
    layers = (layer for pair in found for layer in (pair.first, *pair.followers))
    return {layer.kernel_path for layer in layers}


def _ranges(sizes: Mapping[str, np.ndarray], pair: Pair) -> tuple[np.ndarray, np.ndarray]:
    """Returns the ranges [c] of a pair's channels: in the first kernel, and in the followers'."""
    before = _range(sizes[pair.first.kernel_path], axis=-1)
    after = [_range(sizes[layer.kernel_path], axis=_input_axis(layer)) for layer in pair.followers]
    return before, np.max(after, axis=0)


def _range(sizes: np.ndarray, axis: int) -> np.ndarray:
    """Returns the largest value of each channel of a kernel; `axis` is that of the channels."""
    return np.moveaxis(sizes, axis, -1).reshape(-1, sizes.shape[axis]).max(0)


def _input_axis(layer: Layer) -> int:
    """Returns the axis of the input channels in a layer's kernel."""
    return -1 if layer.kind == "depthwise" else -2


def _alive(sizes: Mapping[str, np.ndarray], pair: Pair) -> np.ndarray:
    """Returns which channels of a pair are not dead, bool [c]; see `equalizing_factors`."""
    before, after = _ranges(sizes, pair)
    return (before > DEAD * before.max()) & (after > DEAD * after.max())


def _dead_factor(
    sizes: Mapping[str, np.ndarray], pair: Pair, living: np.ndarray, bias: np.ndarray
) -> np.ndarray:
    """Returns the factors [c] that keep dead channels within the ranges of living ones.

    Args:
      sizes: absolute kernels by path.
      pair: the layers.
      living: which channels are not dead, bool [c].
      bias: bias of the first layer, [c].
    """
    before, after = _ranges(sizes, pair)
    factor = np.ones_like(before)
    if not living.any():
        return factor
    unread = ~living & (after <= DEAD * after[living].max())
    factor[unread] = np.maximum(before[unread] / before[living].max(), 1)
    is_zero = ~living & ~unread & (bias <= 0) & (pair.first.activation == "relu")
    factor[is_zero] = np.minimum(after[living].max() / after[is_zero], 1)
    return factor


def _rescale_kernels(kernels: dict[str, np.ndarray], pair: Pair, factor: np.ndarray) -> None:
    """Rescales the kernels of a pair in place.

    The output channels of the first layer's kernel are divided by `factor` [c]; the input channels
    of its followers' kernels are multiplied by `factor`.
    """
    first = pair.first.kernel_path
    kernels[first] = kernels[first] / factor
    for layer in pair.followers:
        axes = factor if layer.kind == "depthwise" else factor[:, None]
        kernels[layer.kernel_path] = kernels[layer.kernel_path] * axes
