"""Receptive fields against the pixels whose change changes an output."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_networks import SMALL, mixed, model_and_variables, quick_jit, small_hybrid

from mnet_jax import architectures
from mnet_jax.analysis.cost import receptive_fields
from mnet_jax.models import activation_paths

ROWS, COLUMNS = 416, 32  # only rows are looked at


def without_squeeze(spec):
    """Its convolutions alone: squeeze-and-excitation sees the whole image."""
    blocks = tuple(
        dataclasses.replace(block, squeeze=0) if hasattr(block, "squeeze") else block
        for block in spec.blocks
    )
    return dataclasses.replace(spec, blocks=blocks)


def averaging(path, x):
    """What makes of every layer a mean of its inputs."""
    name = path[-1].key
    if name == "kernel":
        return np.full(x.shape, 1 / math.prod(x.shape[:-1]), x.dtype)
    return np.full_like(x, name in ("scale", "var", "layer_scale"))


@pytest.mark.parametrize("name", [*SMALL, "mixed"])
def test_the_last_map_sees_what_its_gradient_says(name):
    spec = without_squeeze((SMALL | {"mixed": mixed})[name]())
    model, variables = model_and_variables(spec)
    # Means with weights above zero all the way, so that nothing cancels and no unit is off.
    variables = jax.tree_util.tree_map_with_path(averaging, variables)
    field = next(f for f in reversed(receptive_fields(spec)) if f.layer.startswith("block"))
    place = next(p for p in activation_paths(spec) if p.layer == field.layer)

    def middle(images, at):
        _, state = model.apply(variables, images, train=False, mutable=["preactivations"])
        x = place.of(state["preactivations"])
        return x[0, x.shape[1] // 2 + at, x.shape[2] // 2].sum()

    slope_of = quick_jit(jax.grad(middle))
    starts = []
    for at in (0, 1):
        slope = slope_of(jnp.full((1, ROWS, COLUMNS, 3), 0.5), at)
        seen = np.flatnonzero(np.abs(np.asarray(slope)).sum(axis=(0, 2, 3)) > 0)
        assert seen[-1] - seen[0] + 1 == field.side < ROWS
        starts.append(seen[0])
    assert starts[1] - starts[0] == field.step


def test_attention_sees_the_whole_image():
    spec = small_hybrid(dialect="timm")
    model, variables = model_and_variables(spec)
    variables = jax.tree_util.tree_map_with_path(averaging, variables)
    fields = {field.layer: field for field in receptive_fields(spec)}
    first = [*fields].index("block_4/attend")
    assert all(field.side for field in [*fields.values()][:first])
    assert not any(field.side for field in [*fields.values()][first:])
    assert (fields["block_4/key/project"].step, fields["block_4/output"].step) == (32, 16)

    def corner(images, block):
        _, state = model.apply(variables, images, train=False, mutable=["intermediates"])
        x = state["intermediates"][f"{block}_output"][0]
        return x[0, x.shape[1] // 2, 0].sum()

    images = jnp.full((1, ROWS, COLUMNS, 3), 0.5)
    for block, layer in (("block_3", "project"), ("block_4", "output")):
        slope = quick_jit(jax.grad(functools.partial(corner, block=block)))(images)
        seen = np.flatnonzero(np.abs(np.asarray(slope)).sum(axis=(0, 2, 3)) > 0)
        assert len(seen) == (fields[f"{block}/{layer}"].side or ROWS)


def test_v1_by_hand():
    """3 and 3 at step 1 and 2, then 3 at steps 2, 4, 4, 8, 8, six at 16 and one at 32."""
    last = next(
        f for f in reversed(receptive_fields(architectures.mobilenet_v1())) if "depth" in f.layer
    )
    steps = [1, 2, 2, 4, 4, 8, 8, *[16] * 6, 32]
    assert last.side == 1 + 2 * sum(steps)
    assert last.step == 32
