"""Layers and networks under what JAX does to other people's programs.

Arrays that are sharded explicitly or vary over manual axes, 64 bits, NaN checks, export. The oracle
is the same function under a plain jit.
"""

import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transformed
from depthwise_taps import needs_compiler
from flax import linen as nn
from jax import export
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from lowerings import every_lowering
from messages import one_line
from virtual_devices import printed_on_eight_devices

from mnet_jax import models, ops
from mnet_jax.ops import native

pytestmark = pytest.mark.usefixtures("quickly_compiled")
PROGRAM = Path(__file__).parents[1] / "support" / "transformations_program.py"
TOLERANCE = 1e-5  # relative: float32, and sums in another order
DEEP = 1e-4  # of a network's gradients, ten layers and as many normalizations deep
CALL = "custom_call @mnet_"  # of a kernel, in a lowered program
STEP = transformed.VARIABLES, transformed.IMAGES, transformed.LABELS

every_layer = pytest.mark.parametrize("layer", transformed.LAYERS)
single = pytest.mark.skipif(jax.device_count() > 1, reason="native is for a single device")


@pytest.fixture
def configured():
    """Sets an option of JAX for a test."""
    before = {}

    def configure(name, value):
        before.setdefault(name, getattr(jax.config, name))
        jax.config.update(name, value)

    yield configure
    for name, value in before.items():
        jax.config.update(name, value)


def of_layer(name, lowering):
    """Its value and gradients as a function, and the arguments."""
    function, arrays = transformed.LAYERS[name]
    return transformed.value_and_gradients(partial(function, lowering)), arrays


@pytest.fixture(scope="module")
def distances():
    return json.loads(printed_on_eight_devices(PROGRAM))


@pytest.mark.slow
@pytest.mark.parametrize("way", ["explicitly", "manually"])
def test_eight_devices_that_share_a_batch_give_what_one_gives(distances, way):
    found = {name: far for name, far in distances.items() if name.startswith(way)}
    assert {name for name in transformed.LAYERS if f"{way}, auto, {name}" not in found} == set()
    assert found.pop(f"{way}, a network") < DEEP
    worst = max(found, key=found.get)
    assert found[worst] < TOLERANCE, worst


@pytest.mark.slow
def test_other_shardings_are_computed_or_refused_in_one_line(distances):
    for name in ("channels", "images' channels", "kernel's channels"):
        assert max(distances[f"{name}, {lowering}"] for lowering in ("shifted", "auto")) < TOLERANCE
        assert "lowering is grouped" in distances[f"{name}, grouped"].splitlines()[-1]
    assert max(distances[f"columns, {lowering}"] for lowering in ("grouped", "auto")) < TOLERANCE
    assert "lowering is shifted" in distances["columns, shifted"]
    assert not any("\n" in found for found in distances.values() if isinstance(found, str))


@single
@needs_compiler
@pytest.mark.parametrize("lowering", ["native", "auto"])
@pytest.mark.parametrize("layer", ["depthwise", "full", "inverted_residual"])
def test_kernels_on_a_mesh_of_one_device_keep_the_types_of_arrays(layer, lowering):
    native.build()
    both, (images, *others) = of_layer(layer, lowering)
    want = jax.jit(both)(images, *others)
    mesh = jax.make_mesh((1,), ("batch",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh):
        batch, everywhere = NamedSharding(mesh, P("batch")), NamedSharding(mesh, P())
        placed = jax.device_put(images, batch), *jax.device_put(others, everywhere)
        lowered = jax.jit(both).lower(*placed)
        y, of_images, *of_others = lowered.compile()(*placed)
        specs = P("batch"), *(P() for _ in others)
        mapped = jax.shard_map(both, mesh=mesh, in_specs=specs, out_specs=(P("batch"), *specs))
        found = jax.jit(mapped)(*placed)
    assert CALL in lowered.as_text()  # and the kernels compute it
    assert y.sharding.spec[0] == of_images.sharding.spec[0] == "batch"
    assert transformed.distance((y, of_images, *of_others), want) < TOLERANCE
    assert transformed.distance(found, want) < TOLERANCE


def layers_of(lowering):
    """Those that a lowering computes in a way of its own: only the kernels are for all layers."""
    if lowering in ("native", "auto"):
        return list(transformed.LAYERS)
    return [name for name in transformed.LAYERS if name.startswith("depthwise_conv")]


@every_lowering
def test_64_bits_change_no_layer_of_32(lowering, configured):
    want = {}
    for wide in (False, True):
        configured("jax_enable_x64", wide)
        for name in layers_of(lowering):
            both, arrays = of_layer(name, lowering)
            found = jax.jit(both)(*arrays)
            if not wide:
                want[name] = found
                continue
            assert {a.dtype for a in found} == {np.dtype(np.float32)}, name
            assert transformed.distance(found, want[name]) < TOLERANCE, name


@every_lowering
def test_nan_checks_raise_no_alarm_at_finite_numbers(lowering, configured, exhaustive):
    # What nobody writes is what lay there before: NaN, as far as this can see to it.
    nothing = [jnp.full(size, jnp.nan) for size in (8, 12, 16, 24, 20) for _ in range(50)]
    jax.block_until_ready(nothing)
    del nothing
    configured("jax_debug_nans", True)
    for name in transformed.LAYERS if exhaustive else layers_of(lowering):
        both, arrays = of_layer(name, lowering)
        both(*arrays)
    transformed.inference(lowering, *STEP[:2])


def symbolic(array):
    """The same with any number of images."""
    (batch,) = export.symbolic_shape("batch")
    return jax.ShapeDtypeStruct((batch, *array.shape[1:]), array.dtype)


def assert_portable(exported):
    """It calls nothing that another machine lacks."""
    assert CALL not in exported.mlir_module()


@every_lowering
@every_layer
def test_layers_and_gradients_are_exported_for_any_batch(layer, lowering):
    if lowering == "native":
        native.build()
    both, (images, *others) = of_layer(layer, lowering)
    exported = export.export(jax.jit(both))(symbolic(images), *others)
    assert exported.out_avals[0].shape[0] == exported.in_avals[0].shape[0]
    assert_portable(exported)


@every_lowering
@pytest.mark.parametrize("platforms", [None, ("cpu", "tpu", "cuda")], ids=["here", "anywhere"])
def test_networks_are_exported_for_any_batch_and_platform(lowering, platforms):
    variables, images, _ = STEP
    infer, params = transformed.fused(lowering)
    apply = jax.jit(partial(transformed.inference, lowering))
    for function, tree in ((apply, variables), (jax.jit(infer), params)):
        for shaped in (images, symbolic(images)):
            exported = export.export(function, platforms=platforms)(tree, shaped)
            assert_portable(exported)


@every_lowering
def test_an_exported_network_gives_what_the_network_gives(lowering):
    variables, images, _ = STEP
    infer, params = transformed.fused(lowering)
    want = jax.jit(partial(transformed.inference, "grouped"))(variables, images)
    exported = export.export(jax.jit(infer))(params, symbolic(images))
    assert transformed.distance(exported.call(params, images), want) < TOLERANCE


@single
@needs_compiler
def test_an_export_does_not_depend_on_whether_the_kernels_are_compiled(monkeypatch):
    """Nor on what was traced before it, nor does what runs here on what was exported."""
    native.build()
    both, arrays = of_layer("depthwise", "auto")
    both = jax.jit(both)
    assert CALL in both.lower(*arrays).as_text()
    assert_portable(export.export(both)(*arrays))
    assert CALL in both.lower(*arrays).as_text()
    monkeypatch.setattr(native, "is_built", lambda: False)
    jax.clear_caches()
    assert_portable(export.export(jax.jit(of_layer("depthwise", "auto")[0]))(*arrays))


def test_rows_of_unknown_number_are_refused():
    (rows,) = export.symbolic_shape("rows")
    x = jax.ShapeDtypeStruct((2, rows, 16, 8), jnp.float32)
    call = export.export(jax.jit(ops.depthwise_conv))
    one_line(ValueError, lambda: call(x, transformed.WINDOW), "x", "rows", "symbol")
    images = jax.ShapeDtypeStruct((2, rows, 16, 3), jnp.float32)
    apply = export.export(jax.jit(partial(transformed.inference, "auto")))
    one_line(ValueError, lambda: apply(transformed.VARIABLES, images), "images", "rows", "symbols")


@pytest.mark.parametrize("rate", [0.0, 0.2, 0.5])
def test_dropout_is_flaxs(rate):
    x = transformed.X

    def dropped(layer):
        return layer.apply({}, x, deterministic=False, rngs={"dropout": jax.random.key(3)})

    np.testing.assert_array_equal(dropped(models.Dropout(rate)), dropped(nn.Dropout(rate)))


@pytest.mark.slow
@pytest.mark.parametrize("layer", ["dropout", "stochastic depth"])
def test_dropout_follows_images_that_are_sharded(distances, layer):
    assert distances[f"explicitly, {layer}"] == 0
