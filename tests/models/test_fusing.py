"""Batch normalization folded into the kernels before it: the same logits without it."""

import jax
import numpy as np
import pytest
from depthwise_taps import needs_compiler
from flax.traverse_util import flatten_dict
from small_networks import (
    images_of,
    model_and_variables,
    quick_jit,
    small_hybrid,
    small_v1,
    small_v2,
    small_v3,
    small_v4,
)

from mnet_jax import models, ops
from mnet_jax.architectures import transforms
from mnet_jax.ops import native

pytestmark = pytest.mark.usefixtures("quickly_compiled")
NETWORKS = {
    "v1": small_v1(),
    "v2": small_v2(dialect="torchvision"),
    "v2 expansion shortcuts": small_v2(shortcut="expansion", bottleneck="relu6"),
    "v3": small_v3(dialect="keras"),
    "v4": small_v4(dialect="timm"),
    "hybrid": small_hybrid(dialect="timm"),
    "hybrid, gelu": transforms.with_activation(small_hybrid(shortcut="none"), "gelu"),
}


@pytest.mark.parametrize("spec", NETWORKS.values(), ids=NETWORKS)
def test_logits_are_those_of_the_model(spec):
    model, variables = model_and_variables(spec)
    images = images_of(2, 33, 50, 3)
    infer, params = models.fuse(model, variables)
    wanted = quick_jit(lambda v, x: model.apply(v, x, train=False))(variables, images)
    np.testing.assert_allclose(
        quick_jit(infer)(params, images), wanted, rtol=0, atol=1e-4 * np.abs(wanted).max()
    )
    named, fused = (set(flatten_dict(tree, sep="/")) for tree in (variables["params"], params))
    panels = {name for name in fused if name.endswith("/panels")}
    assert bool(panels) == ops.reads_panels(np.float32, "auto")
    of_panels = {name.replace("/panels", "/kernel") for name in panels}
    folded = {n for n in named if n.endswith(("/norm/scale", "/layer_scale"))}
    kept = {n for n in folded if n.endswith("/input/norm/scale")}  # before attention
    assert fused - panels | of_panels == named - folded | kept


@needs_compiler
@pytest.mark.parametrize(
    ("spec", "seen"),
    [(small_v2(), {"expanded", "filtered", "projected"}), (small_v1(), {"filtered"})],
    ids=["v2", "v1"],
)
def test_a_block_is_one_operation_unless_its_layers_are_looked_at(spec, seen):
    native.build()
    model, variables = model_and_variables(spec)
    images = images_of(1, 32, 32, 3)
    infer, params = models.fuse(model, variables)
    compiled = quick_jit(infer).lower(params, images).compile()
    # Of six blocks, 0 to 2 filter maps of 16 to 8 columns; the others come to 4.
    assert compiled.as_text().count('custom_call_target="mnet_inverted_forward"') == 3
    folded = model.clone(folded=True, packed=True)
    logits, state = folded.apply({"params": params}, images, train=False, mutable=["intermediates"])
    assert set(state["intermediates"]["block_1"]) == seen
    np.testing.assert_allclose(compiled(params, images), logits, rtol=1e-4, atol=1e-4)


def test_the_variables_are_left_alone():
    model, variables = model_and_variables(NETWORKS["v1"])
    names = jax.tree.structure(variables)
    models.fuse(model, variables)
    assert jax.tree.structure(variables) == names


def test_what_cannot_be_folded_is_refused():
    model, variables = model_and_variables(NETWORKS["v1"])
    with pytest.raises(ValueError, match=r"variables: got 'none called stem/.*', legal: the model"):
        models.fuse(model, {"params": {}})
    with pytest.raises(ValueError, match="model: got 'a folded one', legal: "):
        models.fuse(model.clone(folded=True), {"params": {}})
    del variables["params"]["head"]["classifier"]
    if ops.reads_panels(np.float32, "auto"):
        with pytest.raises(
            ValueError, match=r"variables: got 'none called head/classifier/kernel'"
        ):
            models.fuse(model, variables)
    images = np.zeros((1, 32, 32, 3), np.float32)
    with pytest.raises(ValueError, match="train: got True, legal: False, as batch norm"):
        model.clone(folded=True).init(jax.random.key(0), images, train=True)
