"""Each block alone, compiled and not, against the same layers in NumPy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from by_hand import inverted_residual, two_layers
from small_networks import compiled_or_not, images_of, quick_jit, random_variables, run

from mnet_jax import architectures, models
from mnet_jax.architectures.dialects import dialect_of

pytestmark = pytest.mark.usefixtures("quickly_compiled")


def assert_block_computes(block, variables, x, expected, compiled):
    ours = run(compiled, lambda v, x: block.apply(v, x, train=False), variables, x)
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4)


@compiled_or_not
@pytest.mark.parametrize(
    ("spec", "version", "module"),
    [
        (
            architectures.Separable(inputs=6, outputs=10, kernel=5, stride=2),
            "mobilenet_v1",
            models.DepthwiseSeparable,
        ),
        *(
            (
                architectures.FusedInvertedResidual(inputs=6, expanded=24, outputs=10, **window),
                "mobilenet_v4",
                models.FusedInvertedResidual,
            )
            for window in (
                {"kernel": 3, "stride": 2},
                {"kernel": 5, "bottleneck": "relu6"},
                {"kernel": 3, "dilation": 2},
            )
        ),
    ],
    ids=["separable", "fused strided", "fused clipped", "fused dilated"],
)
def test_separable_and_fused_blocks_are_their_two_layers(spec, version, module, compiled):
    x = images_of(2, 9, 8, 6)
    options = dataclasses.asdict(spec)
    del options["inputs"]
    block = module(**options)
    variables = random_variables(block, x, train=False)
    _, expected = two_layers(x, variables, spec, dialect_of(version, "paper"))
    assert_block_computes(block, variables, x, expected, compiled)


INVERTED = {
    "V2": {"shortcut": "bottleneck"},
    "V2 without shortcut": {},
    "V2's first": {"expanded": 6},
    "ExtraDW": {"start_kernel": 5, "kernel": 3, "shortcut": "bottleneck"},
    "ExtraDW strided": {"start_kernel": 3, "kernel": 5, "stride": 2, "outputs": 10},
    "ConvNext": {"start_kernel": 3, "kernel": 0, "activation": "relu"},
    "ConvNext strided": {"start_kernel": 5, "kernel": 0, "stride": 2, "outputs": 10},
    "FFN": {"kernel": 0, "shortcut": "bottleneck"},
    "one projection": {"kernel": 0, "expanded": 6, "outputs": 5},
    "V3": {"kernel": 5, "squeeze": 8, "activation": "hard_swish", "shortcut": "bottleneck"},
    "V3's first": {"squeeze": 4, "stride": 2, "expanded": 6, "activation": "relu"},
    "dilated": {
        "start_kernel": 3, "kernel": 5, "dilation": 2, "squeeze": 4, "bottleneck": "relu6",
    },
    "ConvNext dilated": {"start_kernel": 3, "kernel": 0, "squeeze": 4, "dilation": 3},
}  # fmt: skip


@pytest.mark.parametrize(
    ("case", "compiled"),
    [
        pytest.param(
            case,
            compiled,
            id=f"{name}, {'jit' if compiled else 'no jit'}",
            marks=() if compiled or name in ("V3", "ExtraDW strided") else pytest.mark.exhaustive,
        )
        for name, case in INVERTED.items()
        for compiled in (True, False)
    ],
)
def test_inverted_residual_is_its_layers(case, compiled):
    x = images_of(2, 9, 8, 6)
    spec = architectures.InvertedResidual(**({"inputs": 6, "expanded": 24, "outputs": 6} | case))
    options = dataclasses.asdict(spec)
    if options.pop("inputs") == spec.expanded:
        options["expanded"] = None
    block = models.InvertedResidual(**options)
    variables = random_variables(block, x, train=False)
    _, expected, _ = inverted_residual(x, variables, spec, dialect_of("mobilenet_v2", "paper"))
    assert_block_computes(block, variables, x, expected, compiled)


INVERTED_RESIDUAL = {"outputs": 6, "expanded": 12}
GRADED = {
    "fused": models.FusedInvertedResidual(outputs=5, expanded=12, stride=2),
    "ExtraDW": models.InvertedResidual(**INVERTED_RESIDUAL, start_kernel=3, kernel=5),
    "ConvNext": models.InvertedResidual(**INVERTED_RESIDUAL, start_kernel=3, kernel=0, stride=2),
    "FFN": models.InvertedResidual(**INVERTED_RESIDUAL, kernel=0, shortcut="bottleneck"),
    "V3": models.InvertedResidual(**INVERTED_RESIDUAL, squeeze=4, activation="hard_swish"),
    "dilated": models.InvertedResidual(**INVERTED_RESIDUAL, start_kernel=3, dilation=2, squeeze=4),
}


def assert_every_gradient_is_there(layer, x, **how):
    variables = random_variables(layer, x, **how)

    @quick_jit
    def gradients(params, x):
        def loss(params, x):
            return jnp.sin(layer.apply(variables | {"params": params}, x, **how)).sum()

        return jax.grad(loss, (0, 1))(params, x)

    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients(variables["params"], x)):
        assert bool(jnp.isfinite(leaf).all()) and float(jnp.abs(leaf).max()) > 0, path


@pytest.mark.parametrize("name", GRADED)
def test_every_parameter_and_the_input_of_a_block_have_a_gradient(name):
    assert_every_gradient_is_there(GRADED[name], images_of(3, 7, 6, 6), train=False)


def test_every_parameter_and_the_input_of_a_squeeze_excite_have_a_gradient():
    assert_every_gradient_is_there(models.SqueezeExcite(squeeze=4), images_of(3, 7, 6, 6))
