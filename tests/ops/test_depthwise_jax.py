"""Depthwise convolution under what JAX does to functions: grad, vmap, platforms, devices."""

import textwrap
from functools import partial

import chex
import jax
import jax.numpy as jnp
import pytest
from depthwise_taps import LOWERINGS, arrays
from small_networks import quick_jit
from virtual_devices import printed_on_eight_devices

from mnet_jax.ops import choice, depthwise_conv, native


@pytest.mark.parametrize("strides, dilation", [(1, 1), (2, 1), (1, (2, 3))], ids=str)
@pytest.mark.parametrize("lowering", ["shifted", "auto"])
def test_second_order_gradients_equal_those_of_the_grouped_form(lowering, strides, dilation):
    x, kernel = arrays((2, 7, 6, 3), 3)

    def penalty(lowering, x, kernel):
        def energy(x, kernel):
            y = depthwise_conv(x, kernel, strides, lowering=lowering, dilation=dilation)
            return jnp.sin(y).sum()

        dx, dk = jax.grad(energy, (0, 1))(x, kernel)
        return (dx**2).sum() + (dk**3).sum()

    first, second = (
        quick_jit(jax.grad(partial(penalty, low), (0, 1)))(x, kernel)
        for low in ("grouped", lowering)
    )
    chex.assert_trees_all_close(first, second, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("lowering", LOWERINGS)
def test_vmap_over_images_and_over_kernels(lowering):
    x, _ = arrays((6, 5, 6, 3), 3)
    kernels = jax.random.normal(jax.random.key(1), (3, 3, 3, 3))

    def loss(x, kernel):
        return (depthwise_conv(x, kernel, 2, lowering=lowering) ** 2).sum()

    xs = x.reshape(3, 2, 5, 6, 3)
    gradients = jax.grad(loss, (0, 1))
    got = quick_jit(jax.vmap(gradients))(xs, kernels)
    each = quick_jit(gradients)
    want = [each(a, k) for a, k in zip(xs, kernels, strict=True)]
    chex.assert_trees_all_close(
        got, jax.tree.map(lambda *a: jnp.stack(a), *want), rtol=1e-5, atol=1e-4
    )


def test_auto_follows_the_platform_that_it_is_lowered_for(monkeypatch):
    monkeypatch.setattr(choice, "_table", lambda backend: None)  # nothing was measured
    x, kernel = arrays((2, 8, 8, 4), 3)

    @jax.jit
    def step(x, kernel):
        return jax.grad(lambda x, k: jnp.sin(depthwise_conv(x, k)).sum(), (0, 1))(x, kernel)

    for platform in ("cuda", "tpu"):
        text = step.trace(x, kernel).lower(lowering_platforms=(platform,)).as_text()
        # A native gradient's stand-in and the rule in it compute the output again, which XLA drops.
        assert text.count("stablehlo.convolution") == (5 if native.is_built() else 3)
        assert native.is_built() or "stablehlo.select" not in text
    # Nothing of the other lowering is left on a CPU, nor a choice at run time.
    lowered = step.trace(x, kernel).lower(lowering_platforms=("cpu",))
    assert "stablehlo.convolution" not in lowered.as_text()
    if jax.default_backend() == "cpu":
        compiled = lowered.compile().as_text()
        assert "conditional" not in compiled
        if native.is_built():
            assert compiled.count('custom_call_target="mnet_depthwise') == 2
        else:  # the loop that keeps the output's gradient from being computed for every tap
            assert " while(" in compiled


def test_forward_mode_is_refused_rather_than_wrong():
    x, kernel = arrays((1, 4, 4, 1), 3)
    jax.jvp(lambda x: depthwise_conv(x, kernel, lowering="grouped"), (x,), (x,))
    for lowering in ("shifted", "auto"):

        def derivative(x, lowering=lowering):
            return jax.jvp(lambda x: depthwise_conv(x, kernel, lowering=lowering), (x,), (x,))

        message = f"^lowering: got '{lowering}', legal: 'grouped' for forward-mode derivatives "
        mapped = jax.vmap(derivative)
        for function, given in ((derivative, x), (jax.jit(derivative), x), (mapped, x[None])):
            with pytest.raises(TypeError, match=message):
                function(given)


DEVICES = """
    import re
    import jax
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 8)
    jax.config.update("jax_disable_most_optimizations", True)
    import chex, jax.numpy as jnp
    from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec as P
    from mnet_jax.ops import depthwise_conv, native

    mesh = Mesh(jax.devices(), ("data",), axis_types=(AxisType.Auto,))
    x = jax.random.normal(jax.random.key(0), (16, 9, 8, 4))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 4))
    for lowering in ("shifted", "auto"):
        for strides in (1, 2):
            def loss(x, kernel):
                return (depthwise_conv(x, kernel, strides, lowering=lowering) ** 2).sum()

            step = jax.value_and_grad(loss, (0, 1))
            want = jax.jit(step)(x, kernel)
            args = (
                jax.device_put(x, NamedSharding(mesh, P("data"))),
                jax.device_put(kernel, NamedSharding(mesh, P())),
            )
            program = jax.jit(step).lower(*args).compile()
            got = program(*args)
            chex.assert_trees_all_close(got, want, rtol=1e-4, atol=1e-3)
            assert got[1][0].sharding.spec[0] == "data", got[1][0].sharding
            moves = re.findall(r"all-gather|all-to-all|collective-permute", program.as_text())
            assert not moves, moves

            def local(x, kernel):
                value, (dx, dk) = step(x, kernel)
                return jax.lax.psum((value, dk), "i"), dx

            images = x.reshape(8, 2, 9, 8, 4)
            (value, dk), dx = jax.pmap(local, "i", in_axes=(0, None))(images, kernel)
            got = (value[0], (dx.reshape(x.shape), dk[0]))
            chex.assert_trees_all_close(got, want, rtol=1e-4, atol=1e-3)
    print("checked")
"""


def test_eight_devices_sharded_and_pmapped_without_moving_images():
    assert "checked" in printed_on_eight_devices("-c", textwrap.dedent(DEVICES))
