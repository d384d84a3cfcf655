"""Logits and activations equal other libraries', given their weights and running statistics.

Keras' own applications run on the JAX backend; torchvision's padding and epsilon are checked
against a functional network in torch.
"""

import os

os.environ["KERAS_BACKEND"] = "jax"

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mnet_jax import models
from mnet_jax.architectures import walk

keras = pytest.importorskip("keras", reason="Keras is the oracle")

KERAS_APPLICATIONS = {
    "mobilenet_v1": keras.applications.MobileNet,
    "mobilenet_v2": keras.applications.MobileNetV2,
}


def random_normalization(rng, channels):
    """scale, bias, mean and var that are far from the initial ones."""
    return [
        rng.uniform(low, high, channels).astype(np.float32)
        for low, high in ((0.5, 1.5), (-0.5, 0.5), (-0.5, 0.5), (0.5, 1.5))
    ]


def keras_names(layer):
    """Keras' names for the convolution and the normalization of a layer of ours."""
    block, _, part = layer.name.partition("/")
    if layer.name == "head/classifier":
        return {"mobilenet_v1": "conv_preds", "mobilenet_v2": "predictions"}, None
    if block == "stem":
        return {"mobilenet_v1": "conv1", "mobilenet_v2": "Conv1"}, {
            "mobilenet_v1": "conv1_bn",
            "mobilenet_v2": "bn_Conv1",
        }
    if layer.name == "head/conv":
        return {"mobilenet_v2": "Conv_1"}, {"mobilenet_v2": "Conv_1_bn"}
    i = int(block.removeprefix("block_"))
    short = {"depthwise": "dw", "pointwise": "pw"}.get(part)
    prefix = f"block_{i}_" if i else "expanded_conv_"
    v1, v2 = f"conv_{short}_{i + 1}", f"{prefix}{part}"
    return {"mobilenet_v1": v1, "mobilenet_v2": v2}, {
        "mobilenet_v1": f"{v1}_bn",
        "mobilenet_v2": f"{v2}_BN",
    }


def nested(flat):
    tree = {}
    for path, value in flat.items():
        *parents, last = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return tree


def variables_from_keras(keras_model, spec):
    """Our variables with the weights of a Keras application."""
    params, statistics = {}, {}
    for layer in walk(spec, 224):
        convolution, norm = (names and names[spec.name] for names in keras_names(layer))
        weights = keras_model.get_layer(convolution).get_weights()
        kernel = weights[0]
        if layer.kind == "depthwise":
            kernel = kernel[..., 0]
        elif layer.kind != "conv":
            kernel = kernel.reshape(layer.inputs, layer.outputs)
        if norm is None:
            params |= {f"{layer.name}/kernel": kernel, f"{layer.name}/bias": weights[1]}
            continue
        scale, bias, mean, var = keras_model.get_layer(norm).get_weights()
        params |= {
            f"{layer.name}/conv/kernel": kernel,
            f"{layer.name}/norm/scale": scale,
            f"{layer.name}/norm/bias": bias,
        }
        statistics |= {f"{layer.name}/norm/mean": mean, f"{layer.name}/norm/var": var}
    return {"params": nested(params), "batch_stats": nested(statistics)}


def randomize(keras_model, rng):
    """Gives every normalization random parameters and statistics, every bias a random value."""
    for layer in keras_model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights(random_normalization(rng, layer.gamma.shape[0]))
        elif getattr(layer, "use_bias", False):
            kernel, bias = layer.get_weights()
            layer.set_weights([kernel, rng.normal(size=bias.shape).astype(np.float32)])


def assert_relatively_close(ours, theirs, tolerance=1e-4):
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= tolerance * np.abs(theirs).max()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "width", "sizes"),
    [
        ("mobilenet_v1", 0.35, (96, 97)),
        ("mobilenet_v1", 1.0, (65, 64)),
        ("mobilenet_v2", 0.28, (96, 97)),
        ("mobilenet_v2", 1.4, (65, 64)),
    ],
)
def test_logits_activations_and_normalization_constants_equal_keras(network, width, sizes):
    """At even rows and odd columns or the reverse: Keras pads the two differently."""
    rng = np.random.default_rng(0)
    keras.utils.set_random_seed(0)
    application = KERAS_APPLICATIONS[network](
        weights=None,
        alpha=width,
        input_shape=(*sizes, 3),
        classes=10,
        classifier_activation=None,
    )
    randomize(application, rng)
    model = getattr(models, network)(width=width, num_classes=10, dialect="keras")
    dialect = model.spec.dialect
    norms = [v for v in application.layers if isinstance(v, keras.layers.BatchNormalization)]
    assert {(norm.epsilon, norm.momentum) for norm in norms} == {
        (dialect.norm_epsilon, dialect.norm_momentum)
    }
    variables = variables_from_keras(application, model.spec)
    images = rng.uniform(-1, 1, (2, *sizes, 3)).astype(np.float32)

    blocks = {
        "mobilenet_v1": {1: "conv_pw_2_relu", 11: "conv_pw_12_relu"},
        "mobilenet_v2": {1: "block_1_project_BN", 13: "block_13_project_BN", 14: "block_14_add"},
    }[network]
    outputs = [application.get_layer(name).output for name in blocks.values()]
    probe = keras.Model(application.input, [*outputs, application.output])
    *theirs, expected = probe(images, training=False)

    apply = jax.jit(lambda v, x: model.apply(v, x, train=False, mutable=["intermediates"]))
    logits, state = apply(variables, images)
    assert np.std(np.asarray(expected)) > 1e-3
    assert_relatively_close(logits, expected)
    for i, activation in zip(blocks, theirs, strict=True):
        assert_relatively_close(state["intermediates"][f"block_{i}_output"][0], activation)


def torch_logits(torch, spec, variables, images):
    """torchvision's MobileNetV2 in eval mode, written on torch.nn.functional over our names."""
    functional = torch.nn.functional

    def tensor(path, collection="params"):
        value = variables[collection]
        for key in path.split("/"):
            value = value[key]
        return torch.from_numpy(np.array(value))

    def layer(x, name, kernel=1, stride=1, groups=1, activation=True):
        weight = tensor(f"{name}/conv/kernel")
        if groups > 1:
            weight = weight[:, :, None, :]
        elif weight.ndim == 2:
            weight = weight[None, None]
        weight = weight.permute(3, 2, 0, 1)
        x = functional.conv2d(x, weight, stride=stride, padding=(kernel - 1) // 2, groups=groups)
        statistics = [tensor(f"{name}/norm/{key}", "batch_stats") for key in ("mean", "var")]
        affine = [tensor(f"{name}/norm/{key}") for key in ("scale", "bias")]
        x = functional.batch_norm(x, *statistics, *affine, eps=1e-5)
        return functional.hardtanh(x, 0.0, 6.0) if activation else x

    x = layer(torch.from_numpy(images).permute(0, 3, 1, 2), "stem", kernel=3, stride=2)
    for i, block in enumerate(spec.blocks):
        y, groups = x, block.expanded
        if i:
            y = layer(y, f"block_{i}/expand")
        y = layer(y, f"block_{i}/depthwise", kernel=3, stride=block.stride, groups=groups)
        y = layer(y, f"block_{i}/project", activation=False)
        x = x + y if block.stride == 1 and x.shape == y.shape else y
    x = layer(x, "head/conv").mean((2, 3))
    weight, bias = (tensor(f"head/classifier/{key}") for key in ("kernel", "bias"))
    return (x @ weight + bias).numpy()


def test_torchvision_dialect_equals_a_torch_network():
    torch = pytest.importorskip("torch", reason="torch is the oracle")
    rng = np.random.default_rng(1)
    model = models.mobilenet_v2(width=0.35, num_classes=10, dialect="torchvision")
    shapes = jax.eval_shape(
        lambda key: model.init(key, jnp.zeros((1, 32, 32, 3)), train=False), jax.random.key(0)
    )

    def value(path, leaf):
        name = path[-1].key
        if name == "kernel":
            fan_in = np.prod(leaf.shape[:2]) if len(leaf.shape) == 3 else np.prod(leaf.shape[:-1])
            return rng.normal(0, np.sqrt(2 / fan_in), leaf.shape).astype(np.float32)
        # Variances near epsilon, so that a wrong epsilon shows.
        low, high = {"var": (1e-3, 1e-2), "scale": (0.05, 0.1)}.get(name, (-0.5, 0.5))
        return rng.uniform(low, high, leaf.shape).astype(np.float32)

    variables = jax.tree_util.tree_map_with_path(value, shapes)
    images = rng.uniform(-1, 1, (2, 65, 50, 3)).astype(np.float32)
    logits = jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, images)
    assert_relatively_close(logits, torch_logits(torch, model.spec, variables, images))
