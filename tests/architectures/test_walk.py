"""`Layer` says all that a layer is: NumPy computes it from that, and the libraries have the same.

Oracles: the network's own feature maps, and the modules that torchvision and timm run.
"""

import itertools

import by_hand
import jax
import numpy as np
import pytest
from flax import linen as nn
from small_networks import (
    images_of,
    mixed,
    model_and_variables,
    quick_jit,
    small_v1,
    small_v2,
    small_v3,
    small_v4,
)

from mnet_jax import models, ops
from mnet_jax.architectures import FACTORIES, walk

ACTIVATIONS = by_hand.ACTIVATIONS | {"hard_sigmoid": by_hand.hard_sigmoid}
SIZE = (48, 34)
SOME = {
    "v1, padded at the end": lambda: small_v1(dialect="keras"),
    "v2, activated bottlenecks": lambda: small_v2(bottleneck="relu6"),
    "v3, padded on both sides": lambda: small_v3(dialect="torchvision"),
    "v4": small_v4,
    "mixed": mixed,
}


def traffic(model, variables, images):
    """{path: (input, output)} of each convolution, dense layer and squeeze-and-excitation."""

    @quick_jit
    def run(variables, images):
        seen = {}

        def value(x):
            return x.value() if isinstance(x, ops.Pending) else x

        def watch(call, arguments, keywords, context):
            module, result = context.module, call(*arguments, **keywords)
            convolution = isinstance(module, models.ConvNorm) and context.method_name == "pending"
            if convolution or isinstance(module, models.Dense | models.SqueezeExcite):
                seen["/".join(module.path)] = (value(arguments[0]), value(result))
            return result

        with nn.intercept_methods(watch):
            model.apply(variables, images, train=False)
        return seen

    return jax.tree.map(np.asarray, run(variables, images))


def by_layer(layer, x, variables, epsilon):
    """What `layer` alone says that it makes of x."""
    named = {
        path: np.asarray(leaf_of(variables, path), np.float64) for path in layer.variable_shapes
    }
    kernel = named[f"params/{layer.kernel_path}"]
    assert {path: array.shape for path, array in named.items()} == layer.variable_shapes
    assert kernel.shape == layer.kernel_shape and x.shape[-1] == layer.inputs
    if layer.kind in ("conv", "depthwise"):
        assert x.shape[1:3] == layer.input_size
        y = by_hand.convolve_padded(x, kernel, layer.stride, layer.pads, layer.dilation)
    else:
        y = np.asarray(x, np.float64) @ kernel
    if layer.kind != "dense":
        assert y.shape[1:3] == layer.output_size
    if layer.normalized:
        scale, bias, mean, var = list(named.values())[1:]
        y = (y - mean) / np.sqrt(var + epsilon) * scale + bias
    else:
        y = y + named[f"params/{layer.name}/bias"]
    return ACTIVATIONS[layer.activation](y)


def leaf_of(tree, path):
    for name in path.split("/"):
        tree = tree[name]
    return tree


@pytest.mark.parametrize("name", SOME)
def test_numpy_computes_every_layer_from_what_its_layer_says(name):
    model, variables = model_and_variables(SOME[name](), lowering="grouped")
    epsilon = model.spec.dialect.norm_epsilon
    seen = traffic(model, variables, images_of(2, *SIZE, 3))
    layers = {layer.name: layer for layer in walk(model.spec, SIZE)}
    gates = {name for name in seen if name.endswith("squeeze_excite")}
    halves = {f"{gate}/{half}" for gate in gates for half in ("reduce", "expand")}
    assert layers.keys() == (seen.keys() - gates) | halves
    for path, (x, y) in seen.items():
        if path in gates:
            reduced = by_layer(layers[f"{path}/reduce"], x.mean((1, 2)), variables, epsilon)
            gate = by_layer(layers[f"{path}/expand"], reduced, variables, epsilon)
            expected = x * gate[:, None, None, :]
        else:
            expected = by_layer(layers[path], x, variables, epsilon)
        np.testing.assert_allclose(y, expected, rtol=1e-3, atol=1e-3, err_msg=path)


def test_a_layers_name_is_its_part_and_its_role():
    layers = list(walk(mixed(), SIZE))
    names = [(layer.name, layer.part, layer.role) for layer in layers]
    assert ("stem", "stem", None) in names
    assert ("block_3/start", "block_3", "start") in names
    assert ("block_2/squeeze_excite/reduce", "block_2", "squeeze_excite/reduce") in names
    assert names[-1] == ("head/classifier", "head", "classifier")
    parts = ["stem", *(f"block_{i}" for i in range(6)), "head"]
    assert [part for part, _ in itertools.groupby(layer.part for layer in layers)] == parts


# ---- the libraries

NAMES = {  # of PyTorch's and timm's modules
    "ReLU": "relu",
    "ReLU6": "relu6",
    "Hardswish": "hard_swish",
    "Hardsigmoid": "hard_sigmoid",
    "HardSwish": "hard_swish",
    "HardSigmoid": "hard_sigmoid",
    "GELU": "gelu",
}


def steps_of(module, size):
    """Every convolution and matrix of a PyTorch module as it runs, and what follows each.

    A list of (module, shape of its input, whether normalized, activation).
    """
    torch = pytest.importorskip("torch", reason="PyTorch, the extra [torch], is the oracle")
    torch.set_num_threads(1)  # of small images, where several only wait for each other
    ran = []

    def keep(part, inputs, output):
        ran.append((part, tuple(inputs[0].shape)))

    for part in module.modules():
        if isinstance(part, torch.nn.BatchNorm2d) or not list(part.children()):
            part.register_forward_hook(keep)
    with torch.no_grad():
        module.eval()(torch.zeros(1, 3, *size))
    starts = [
        i for i, (part, _) in enumerate(ran)
        if isinstance(part, torch.nn.Conv2d | torch.nn.Linear)
    ]  # fmt: skip
    steps = []
    for start, end in itertools.pairwise([*starts, len(ran)]):
        following = [part for part, _ in ran[start + 1 : end]]
        normalized = any(isinstance(part, torch.nn.BatchNorm2d) for part in following)
        found = [NAMES[t] for t in (type(part).__name__ for part in following) if t in NAMES]
        assert len(found) <= 1
        steps.append((*ran[start], normalized, found[0] if found else "linear"))
    return steps


def kernel_of(part):
    """The shape of a PyTorch kernel in our order of axes, without those of one element."""
    weight = tuple(part.weight.shape)
    if len(weight) == 2:
        return weight[::-1]
    outputs, inputs, *window = weight
    if part.groups > 1:
        assert part.groups == outputs and inputs == 1
        return (*window, outputs)
    return (inputs, outputs) if window == [1, 1] else (*window, inputs, outputs)


LIBRARIES = [
    ("torchvision", "mobilenet_v2", "mobilenet_v2"),
    ("torchvision", "mobilenet_v3_small", "mobilenet_v3_small"),
    ("torchvision", "mobilenet_v3_large", "mobilenet_v3_large"),
    ("timm", "mobilenetv1_100", "mobilenet_v1"),
    ("timm", "mobilenetv2_100", "mobilenet_v2"),
    ("timm", "mobilenetv3_small_100", "mobilenet_v3_small"),
    ("timm", "mobilenetv3_large_100", "mobilenet_v3_large"),
    ("timm", "mobilenetv4_conv_small", "mobilenet_v4_conv_small"),
    ("timm", "mobilenetv4_conv_medium", "mobilenet_v4_conv_medium"),
    ("timm", "mobilenetv4_hybrid_medium", "mobilenet_v4_hybrid_medium"),
    ("timm", "mobilenetv4_hybrid_large", "mobilenet_v4_hybrid_large"),
]


@pytest.mark.parametrize(("library", "name", "network"), LIBRARIES)
def test_layers_are_those_that_the_library_runs(library, name, network):
    zoo = pytest.importorskip(library, reason=f"{library} is the oracle")
    make = zoo.models.get_model if library == "torchvision" else zoo.create_model
    steps = steps_of(make(name), (96, 64))
    walked = walk(FACTORIES[network](dialect=library), (96, 64))
    layers = [layer for layer in walked if layer.has_kernel]
    for layer, (part, shape, normalized, activation) in zip(layers, steps, strict=True):
        assert layer.kernel_shape == kernel_of(part), layer.name
        assert layer.activation == activation, layer.name
        assert layer.normalized == normalized, layer.name
        assert bool(layer.bias_path) == (normalized or part.bias is not None), layer.name
        if layer.kind != "dense":
            window = ((layer.stride,) * 2, (layer.dilation,) * 2, layer.input_size)
            assert window == (part.stride, part.dilation, shape[2:]), layer.name
            assert layer.pads == tuple((zeros, zeros) for zeros in part.padding), layer.name
