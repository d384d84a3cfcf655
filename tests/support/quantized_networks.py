"""Folded networks in plain JAX, with a mark at each tensor that LiteRT quantizes."""

import jax
import jax.numpy as jnp
import numpy as np

from mnet_jax.architectures import InvertedResidual, walk

DIMENSIONS = ("NHWC", "HWIO", "NHWC")
ACTIVATIONS = {
    "linear": lambda x: x,
    "relu": jax.nn.relu,
    "relu6": lambda x: jnp.clip(x, 0, 6),
    "hard_swish": lambda x: x * (jnp.clip(x + 3, 0, 6) * np.float32(1 / 6)),
}


def random_params(spec, resolution, seed=0):
    """Params of a folded network, flat, with channels of different ranges."""
    rng, params = np.random.default_rng(seed), {}
    for layer in walk(spec, resolution):
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
            wide = mark(f"{name}/output_quantizer/6", jnp.clip(y + 3, 0, 6))
            return mark(f"{name}/output_quantizer", wide * mark("1/6", np.float32(1 / 6)))
        if layer.activation == "hard_swish":
            y = mark(f"{name}/preactivation_quantizer", y)
        return mark(f"{name}/output_quantizer", ACTIVATIONS[layer.activation](y))

    def squeezed(part, x):
        name = f"{part}/squeeze_excite"
        pooled = mark(f"{name}/pooled_quantizer", x.mean((1, 2)))
        gate = apply(f"{name}/expand", apply(f"{name}/reduce", pooled))
        return mark(f"{name}/output_quantizer", x * gate[:, None, None])

    x = apply("stem", mark("input_quantizer", images))
    for i, block in enumerate(spec.blocks):
        part, start = f"block_{i}", x
        for role in ("start", "expand", "depthwise", "pointwise", "project", None):
            name = part if role is None else f"{part}/{role}"
            if role == "project" and getattr(block, "squeeze", 0):
                x = squeezed(part, x)
            if name in layers:
                x = apply(name, x)
        if isinstance(block, InvertedResidual) and block.shortcut == "bottleneck":
            x = mark(f"{part}/sum_quantizer", start + x)
    if spec.head.conv:
        x = apply("head/conv", x)
    x = mark("head/pooled_quantizer", x.mean((1, 2)))
    if spec.head.hidden:
        x = apply("head/hidden", x)
    return apply("head/classifier", x)
