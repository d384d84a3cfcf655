"""Folded networks in plain JAX, with a mark at each tensor that LiteRT quantizes."""

import jax
import jax.numpy as jnp
import numpy as np
from litert_files import convert, fake_quantized
from small_networks import quick_jit

from mnet_jax.architectures import InvertedResidual, walk
from mnet_jax.architectures.shapes import REFERENCE_RESOLUTION

# LiteRT has no hard sigmoid: it is a ReLU6 with six times the step, and a product with a sixth.
TIMES_SIX, SIXTH = "/6", "1/6"
DIMENSIONS = ("NHWC", "HWIO", "NHWC")
ACTIVATIONS = {
    "linear": lambda x: x,
    "relu": jax.nn.relu,
    "relu6": lambda x: jnp.clip(x, 0, 6),
    "hard_swish": lambda x: x * (jnp.clip(x + 3, 0, 6) * np.float32(1 / 6)),
}


def random_params(spec, seed=0):
    """Params of a folded network, flat, with channels of different ranges."""
    rng, params = np.random.default_rng(seed), {}
    for layer in walk(spec, REFERENCE_RESOLUTION):
        fan_in = np.prod(layer.kernel_shape[: 2 if layer.kind == "depthwise" else -1])
        ranges = np.exp(rng.normal(0, 0.3, layer.outputs)) * np.sqrt(2 / fan_in)
        kernel = rng.normal(size=layer.kernel_shape) * ranges
        params[layer.kernel_path] = kernel.astype(np.float32)
        bias = rng.normal(0, 0.3, layer.outputs)
        params[bias_path(layer)] = bias.astype(np.float32)
    return params


def bias_path(layer):
    return f"{layer.name}/norm/bias" if layer.normalized else f"{layer.name}/bias"


def forward(spec, params, images, mark, mark_kernel):
    """The logits of a folded network.

    `mark(path, x)` is applied to each activation, and `mark_kernel(layer, kernel)` to each kernel,
    in the layout of LiteRT's operation.
    """
    layers = {layer.name: layer for layer in walk(spec, images.shape[1:3])}

    def apply(name, x):
        layer = layers[name]
        kernel, bias = params[layer.kernel_path], params[bias_path(layer)]
        if kernel.ndim == 2:
            y = x @ mark_kernel(layer, kernel) + bias
        else:
            groups = x.shape[-1] if layer.kind == "depthwise" else 1
            kernel = kernel[:, :, None] if groups > 1 else kernel
            y = bias + jax.lax.conv_general_dilated(
                x,
                mark_kernel(layer, kernel),
                (layer.stride,) * 2,
                layer.pads,
                rhs_dilation=(layer.dilation,) * 2,
                dimension_numbers=DIMENSIONS,
                feature_group_count=groups,
            )
        if layer.activation == "hard_sigmoid":
            wide = mark(f"{name}/output_quantizer{TIMES_SIX}", jnp.clip(y + 3, 0, 6))
            return mark(f"{name}/output_quantizer", wide * mark(SIXTH, np.float32(1 / 6)))
        if layer.activation == "hard_swish":
            y = mark(f"{name}/preactivation_quantizer", y)
        return mark(f"{name}/output_quantizer", ACTIVATIONS[layer.activation](y))

    def squeezed(part, x):
        name = f"{part}/squeeze_excite"
        pooled = mark(f"{name}/pooled_quantizer", x.mean((1, 2)))
        gate = apply(f"{name}/expand", apply(f"{name}/reduce", pooled))
        return mark(f"{name}/output_quantizer", x * gate[:, None, None])

    x, skip = apply("stem", mark("input_quantizer", images)), None
    for i, block in enumerate(spec.blocks):
        part, start = f"block_{i}", x
        shortcut = block.shortcut if isinstance(block, InvertedResidual) else "none"
        for role in (
            "start",
            "expand",
            "sum",
            "depthwise",
            "pointwise",
            "squeeze",
            "project",
            None,
        ):
            name = part if role is None else f"{part}/{role}"
            if role == "sum" and skip is not None:
                x = mark(f"{part}/skip_quantizer", x + skip)
            if role == "squeeze" and getattr(block, "squeeze", 0):
                x = squeezed(part, x)
            if role == "project":
                skip = x if shortcut == "expansion" else None
            if name in layers:
                x = apply(name, x)
        if shortcut == "bottleneck":
            x = mark(f"{part}/sum_quantizer", start + x)
    if spec.head.conv:
        x = apply("head/conv", x)
    x = mark("head/pooled_quantizer", x.mean((1, 2)))
    if spec.head.hidden:
        x = apply("head/hidden", x)
    return apply("head/classifier", x)


def calibrated(spec, params, images):
    """(step, zero) of every activation from its range: of all activations, no two the same step."""

    def ranges(images):
        found = {}

        def record(path, x):
            found[path] = jnp.minimum(x.min(), 0), jnp.maximum(x.max(), 0)
            return x

        forward(spec, params, images, record, lambda layer, kernel: kernel)
        return found

    affines = {}
    for i, (path, (low, high)) in enumerate(quick_jit(ranges)(images).items()):
        if path == SIXTH or path.endswith(TIMES_SIX):
            continue
        step = np.float32((high - low) / 255 * (1 + i / 1000))
        affines[path] = (step, int(np.clip(round(-128 - float(low) / float(step)), -128, 127)))
    return affines


def kernel_steps(spec, params):
    """The steps of each layer's kernel, by its name: largest weights of its channels over 127."""
    kernels = {layer.name: params[layer.kernel_path] for layer in walk(spec, REFERENCE_RESOLUTION)}
    return {
        name: (np.abs(kernel).max(tuple(range(kernel.ndim - 1))) / 127).astype(np.float32)
        for name, kernel in kernels.items()
    }


def litert_file(spec, params, affines, steps, shape):
    """The LiteRT file of a network with these activations and kernels."""

    def mark(path, x):
        if path == SIXTH:
            return fake_quantized(x, np.float32(x) / 127)
        step, zero = affines[path.removesuffix(TIMES_SIX)]
        return fake_quantized(x, 6 * step if path.endswith(TIMES_SIX) else step, zero)

    def mark_kernel(layer, kernel):
        step = steps[layer.name]
        return fake_quantized(kernel, step, 0, kernel.ndim - 1 if step.ndim else None, narrow=True)

    return convert(lambda images: forward(spec, params, images, mark, mark_kernel), shape)
