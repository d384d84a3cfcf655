"""Depthwise convolution against explicit loops over taps in float64."""

import subprocess
import sys
import textwrap
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mnet_jax.ops import depthwise_conv

LOWERINGS = ("grouped", "shifted", "auto")


def _pads(padding, sizes, reaches, strides):
    if padding == "VALID":
        return ((0, 0), (0, 0))
    if padding == "SAME":
        totals = [
            max((-(-n // s) - 1) * s + reach - n, 0)
            for n, reach, s in zip(sizes, reaches, strides, strict=True)
        ]
        return tuple((t // 2, t - t // 2) for t in totals)
    return padding


def oracle(x, kernel, strides, padding, g=None, dilation=(1, 1)):
    """The output in float64, or for an output gradient g those of x and the kernel."""
    x, kernel = np.asarray(x, np.float64), np.asarray(kernel, np.float64)
    (kh, kw), (sh, sw), (dh, dw) = kernel.shape[:2], strides, dilation
    reaches = (dh * (kh - 1) + 1, dw * (kw - 1) + 1)
    pads = _pads(padding, x.shape[1:3], reaches, strides)
    padded = np.pad(x, ((0, 0), *pads, (0, 0)))
    h, w = ((padded.shape[1 + a] - reaches[a]) // strides[a] + 1 for a in (0, 1))
    y, dx, dk = np.zeros((len(x), h, w, x.shape[3])), np.zeros_like(padded), np.zeros_like(kernel)
    for i in range(kh):
        for j in range(kw):
            top, left = dh * i, dw * j
            tap = np.s_[:, top : top + (h - 1) * sh + 1 : sh, left : left + (w - 1) * sw + 1 : sw]
            y += padded[tap] * kernel[i, j]
            if g is not None:
                dx[tap] += np.asarray(g, np.float64) * kernel[i, j]
                dk[i, j] = (padded[tap] * np.asarray(g, np.float64)).sum((0, 1, 2))
    if g is None:
        return y
    (top, _), (left, _) = pads
    return dx[:, top : top + x.shape[1], left : left + x.shape[2]], dk


def arrays(shape, kernel, dtype=jnp.float32):
    rng = np.random.default_rng(0)
    size = (kernel, kernel) if isinstance(kernel, int) else kernel
    return (
        jnp.asarray(rng.normal(size=shape), dtype),
        jnp.asarray(rng.normal(size=(*size, shape[3])), dtype),
    )


def check(x, kernel, strides, padding, lowering, tolerance=2e-5, dilation=(1, 1)):
    """Compares the output and both gradients, relative to the largest value that is expected."""

    @jax.jit
    def both(x, kernel, g):
        call = partial(
            depthwise_conv, strides=strides, padding=padding, lowering=lowering, dilation=dilation
        )
        y, pull = jax.vjp(call, x, kernel)
        return y, *pull(g)

    output = oracle(x, kernel, strides, padding, dilation=dilation)
    g = jnp.asarray(np.cos(np.arange(output.size)).reshape(output.shape), x.dtype)
    y, dx, dk = both(x, kernel, g)
    want = (output, *oracle(x, kernel, strides, padding, g, dilation))
    for got, expected in zip((y, dx, dk), want, strict=True):
        assert got.dtype == x.dtype
        scale = max(np.abs(expected).max(), 1e-3)
        chex.assert_shape(got, expected.shape)
        chex.assert_trees_all_close(
            np.asarray(got, np.float64) / scale, expected / scale, atol=tolerance, rtol=0
        )


@pytest.mark.parametrize("padding", ["SAME", "VALID", ((2, 0), (1, 3))], ids=str)
@pytest.mark.parametrize("strides", [(1, 1), (2, 2)], ids=str)
@pytest.mark.parametrize("kernel", [3, 5, 7])
def test_output_and_gradients_equal_the_sum_over_taps(padding, strides, kernel):
    check(*arrays((2, 11, 8, 3), kernel), strides, padding, "shifted")


@pytest.mark.parametrize("lowering", ["grouped", "auto"])
@pytest.mark.parametrize("padding", ["SAME", "VALID", ((2, 0), (1, 3))], ids=str)
@pytest.mark.parametrize("kernel, strides", [(3, (1, 1)), (5, (2, 2))], ids=str)
def test_other_lowerings_equal_the_sum_over_taps(lowering, padding, kernel, strides):
    check(*arrays((2, 11, 8, 3), kernel), strides, padding, lowering)


@pytest.mark.parametrize(
    "shape, kernel, strides, padding",
    [
        # What follows a stride of 2 on even and odd sizes, and PyTorch's symmetric padding.
        ((2, 8, 9, 4), 3, (2, 2), ((1, 1), (1, 1))),
        ((2, 9, 8, 4), 5, (2, 2), ((2, 2), (2, 2))),
        # Images smaller than the kernel, of which some taps meet nothing but zeros.
        ((3, 1, 1, 5), 3, (1, 1), "SAME"),
        ((3, 1, 1, 5), 5, (2, 2), "SAME"),
        ((3, 2, 1, 5), 7, (1, 1), "SAME"),
        ((3, 2, 3, 5), 7, (2, 2), "SAME"),
        ((2, 1, 1, 2), 5, (2, 2), ((2, 4), (3, 2))),
        ((2, 1, 2, 2), 1, (4, 4), ((2, 2), (0, 0))),  # no tap meets the one row
        ((2, 2, 3, 2), 3, (1, 1), ((5, 4), (7, 1))),  # whole windows of zeros
        # Unequal strides and kernels, strides past the kernel, rows that are left out.
        ((2, 9, 10, 3), (3, 5), (1, 2), "SAME"),
        ((2, 9, 10, 3), (5, 1), (3, 2), "VALID"),
        ((2, 10, 11, 3), 3, (4, 3), "VALID"),
        ((2, 10, 11, 3), 2, (3, 5), ((1, 0), (0, 1))),
        # Widths on both sides of a block of positions, prime ones, and many rows in one block.
        ((1, 3, 16, 2), 3, (1, 1), "SAME"),
        ((1, 5, 17, 2), 3, (1, 1), "SAME"),
        ((1, 37, 2, 2), 3, (1, 1), "SAME"),
        ((1, 5, 59, 2), 5, (2, 2), "SAME"),
        ((1, 2, 113, 2), 7, (1, 1), "SAME"),
        ((1, 26, 4, 2), 3, (2, 1), "VALID"),
        # Batches.
        ((16, 4, 4, 3), 3, (1, 1), "SAME"),
        ((130, 3, 2, 3), 3, (2, 2), "SAME"),
        ((1, 6, 6, 1), 3, (1, 1), "SAME"),
    ],
    ids=str,
)
def test_unusual_shapes(shape, kernel, strides, padding):
    check(*arrays(shape, kernel), strides, padding, "shifted")


@pytest.mark.parametrize("padding", [((5, 4), (7, 1)), ((2, 3), (2, 2))], ids=str)
def test_grouped_with_padding_of_a_kernel_and_more(padding):
    check(*arrays((2, 2, 3, 2), 3), (1, 1), padding, "grouped")


def test_the_oracle_with_dilation_is_that_of_a_kernel_with_zeros_between_its_taps():
    x, kernel = arrays((2, 9, 12, 3), (3, 5))
    holed = np.zeros((5, 13, 3))
    holed[::2, ::3] = kernel
    for padding in ("SAME", "VALID", ((2, 0), (1, 3))):
        plain = oracle(x, holed, (1, 1), padding)
        np.testing.assert_allclose(
            oracle(x, kernel, (1, 1), padding, dilation=(2, 3)), plain, atol=1e-12
        )


@pytest.mark.parametrize("lowering", LOWERINGS)
@pytest.mark.parametrize("padding", ["SAME", "VALID", ((2, 0), (1, 3))], ids=str)
@pytest.mark.parametrize(
    "kernel, dilation, shape",
    [
        (3, (2, 2), (2, 11, 8, 3)),
        (3, (4, 4), (2, 11, 9, 3)),
        (3, (2, 1), (2, 7, 10, 3)),
        (5, (2, 2), (2, 13, 9, 3)),
        (5, (4, 4), (1, 17, 19, 2)),
        (5, (2, 1), (2, 9, 11, 3)),
    ],
    ids=str,
)
def test_dilated_output_and_gradients_equal_the_sum_over_taps(
    kernel, dilation, shape, padding, lowering
):
    check(*arrays(shape, kernel), (1, 1), padding, lowering, dilation=dilation)


@pytest.mark.parametrize("lowering", LOWERINGS[:2])
@pytest.mark.parametrize(
    "shape, kernel, padding, dilation",
    [
        # PyTorch's symmetric padding of a dilated kernel, odd and even sizes.
        ((2, 14, 7, 4), 3, ((2, 2), (2, 2)), (2, 2)),
        ((2, 7, 14, 4), 5, ((8, 8), (8, 8)), (4, 4)),
        # Images smaller than the distance of two taps: some or all but one meet zeros alone.
        ((3, 1, 1, 5), 3, "SAME", (2, 2)),
        ((3, 2, 3, 5), 3, "SAME", (4, 4)),
        ((2, 3, 1, 5), 5, "SAME", (4, 2)),
        ((2, 4, 4, 2), 3, "SAME", (5, 7)),
        # Whole windows of zeros, more zeros on one side, one tap alone.
        ((2, 2, 3, 2), 3, ((9, 5), (1, 11)), (2, 3)),
        ((2, 5, 6, 2), 1, ((1, 0), (0, 2)), (3, 2)),
        # Unequal kernels, prime lengths, batches.
        ((2, 9, 8, 3), (3, 1), "SAME", (2, 1)),
        ((1, 59, 4, 2), 3, "SAME", (2, 3)),
        ((1, 3, 113, 2), 5, "SAME", (1, 6)),
        ((130, 3, 2, 3), 3, "SAME", (2, 2)),
    ],
    ids=str,
)
def test_unusual_dilated_shapes(shape, kernel, padding, dilation, lowering):
    check(*arrays(shape, kernel), (1, 1), padding, lowering, dilation=dilation)


@pytest.mark.parametrize("lowering", LOWERINGS[:2])
@pytest.mark.parametrize("strides, dilation", [((2, 1), (1, 2)), ((1, 3), (4, 1))], ids=str)
def test_one_axis_strides_and_the_other_is_dilated(strides, dilation, lowering):
    for padding in ("SAME", ((1, 2), (3, 2))):
        check(*arrays((2, 11, 12, 3), 3), strides, padding, lowering, dilation=dilation)


@pytest.mark.parametrize("dilation", [(2, 2), (4, 4), (2, 1)], ids=str)
@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("lowering", LOWERINGS)
def test_dilated_bfloat16(lowering, kernel, dilation):
    tolerance = 2**-8 if lowering == "shifted" else 2**-6
    operands = arrays((4, 13, 14, 8), kernel, jnp.bfloat16)
    check(*operands, (1, 1), "SAME", lowering, tolerance, dilation)


def test_dilated_values_and_nan_stay_where_they_are_seen():
    x, kernel = arrays((2, 9, 11, 2), 3)
    x = x.at[0, 0, 0].set(jnp.nan).at[0, 8, 10].set(jnp.inf)
    for padding in ("SAME", "VALID"):
        grouped, shifted = (
            depthwise_conv(x, kernel, padding=padding, lowering=lowering, dilation=(2, 3))
            for lowering in LOWERINGS[:2]
        )
        chex.assert_trees_all_equal(jnp.isfinite(grouped), jnp.isfinite(shifted))


@pytest.mark.parametrize("lowering", LOWERINGS)
def test_one_integer_is_both_dilations_and_1_is_none(lowering):
    x, kernel = arrays((1, 7, 8, 2), 3)
    call = partial(depthwise_conv, x, kernel, lowering=lowering)
    chex.assert_trees_all_equal(call(dilation=2), call(dilation=(2, 2)))
    chex.assert_trees_all_equal(call(dilation=1), call())


@pytest.mark.parametrize("lowering", ["shifted", "auto"])
def test_dilated_second_order_gradients_equal_those_of_the_grouped_form(lowering):
    x, kernel = arrays((2, 7, 6, 3), 3)

    def penalty(lowering, x, kernel):
        def energy(x, kernel):
            return jnp.sin(depthwise_conv(x, kernel, lowering=lowering, dilation=(2, 3))).sum()

        dx, dk = jax.grad(energy, (0, 1))(x, kernel)
        return (dx**2).sum() + (dk**3).sum()

    first, second = (
        jax.grad(partial(penalty, low), (0, 1))(x, kernel) for low in ("grouped", lowering)
    )
    chex.assert_trees_all_close(first, second, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("strides", [(1, 1), (2, 2)], ids=str)
@pytest.mark.parametrize("lowering", LOWERINGS)
def test_bfloat16(lowering, strides):
    # One rounding to 8 bits is off by 2^-8 at most; XLA's own form may round each partial sum.
    tolerance = 2**-8 if lowering == "shifted" else 2**-6
    check(*arrays((4, 14, 14, 8), 3, jnp.bfloat16), strides, "SAME", lowering, tolerance)


def test_bfloat16_taps_are_added_in_float32():
    # 256 + 1 is 256 in bfloat16, so a sum in it would lose every one of the eight ones.
    kernel = jnp.ones((3, 3, 1), jnp.bfloat16)
    x = jnp.ones((1, 3, 3, 1), jnp.bfloat16).at[0, 0, 0, 0].set(256)
    y = depthwise_conv(x, kernel, padding="VALID", lowering="shifted")
    assert float(y[0, 0, 0, 0]) == 264


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize("strides", [1, 2])
def test_no_value_reaches_a_place_that_does_not_see_it(padding, strides):
    # NaN in a corner spreads to the outputs that see it and not, as zero times NaN, any further.
    x, kernel = arrays((2, 9, 9, 2), 3)
    x = x.at[0, 0, 0].set(jnp.nan).at[0, 8, 8].set(jnp.inf)
    grouped, shifted = (
        depthwise_conv(x, kernel, strides, padding, lowering) for lowering in LOWERINGS[:2]
    )
    chex.assert_trees_all_equal(jnp.isfinite(grouped), jnp.isfinite(shifted))


def test_no_value_reaches_a_gradient_that_does_not_see_it():
    # With no padding the last column of x meets the last taps only, the first one the first.
    x, kernel = arrays((1, 5, 5, 2), 3)
    x = x.at[0, 0, 0].set(jnp.nan)
    y, pull = jax.vjp(partial(depthwise_conv, padding="VALID", lowering="shifted"), x, kernel)
    _, dk = pull(jnp.ones_like(y))
    chex.assert_trees_all_equal(jnp.isnan(dk[..., 0]), jnp.arange(9).reshape(3, 3) == 0)
    dx, _ = pull(jnp.ones_like(y).at[0, 0, 0].set(jnp.nan))
    want = np.zeros((5, 5), bool)
    want[:3, :3] = True
    chex.assert_trees_all_equal(jnp.isnan(dx[0, ..., 0]), want)


def test_one_integer_is_both_strides():
    x, kernel = arrays((1, 7, 8, 2), 3)
    for lowering in LOWERINGS:
        chex.assert_trees_all_equal(
            depthwise_conv(x, kernel, 2, "SAME", lowering),
            depthwise_conv(x, kernel, (2, 2), "SAME", lowering),
        )


def test_kernel_of_another_dtype_is_cast_and_keeps_its_own_gradient_dtype():
    x, kernel = arrays((1, 6, 6, 2), 3)
    x = x.astype(jnp.bfloat16)
    for lowering in LOWERINGS:
        y, pull = jax.vjp(partial(depthwise_conv, lowering=lowering), x, kernel)
        dx, dk = pull(y)
        assert (y.dtype, dx.dtype, dk.dtype) == (jnp.bfloat16, jnp.bfloat16, jnp.float32)


@pytest.mark.parametrize("strides", [1, 2])
@pytest.mark.parametrize("lowering", ["shifted", "auto"])
def test_second_order_gradients_equal_those_of_the_grouped_form(lowering, strides):
    x, kernel = arrays((2, 5, 6, 3), 3)

    def penalty(lowering, x, kernel):
        def energy(x, kernel):
            return jnp.sin(depthwise_conv(x, kernel, strides, lowering=lowering)).sum()

        dx, dk = jax.grad(energy, (0, 1))(x, kernel)
        return (dx**2).sum() + (dk**3).sum()

    first, second = (
        jax.grad(partial(penalty, low), (0, 1))(x, kernel) for low in ("grouped", lowering)
    )
    chex.assert_trees_all_close(first, second, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("lowering", LOWERINGS)
def test_vmap_over_images_and_over_kernels(lowering):
    x, _ = arrays((6, 5, 6, 3), 3)
    kernels = jax.random.normal(jax.random.key(1), (3, 3, 3, 3))

    def loss(x, kernel):
        return (depthwise_conv(x, kernel, 2, lowering=lowering) ** 2).sum()

    xs = x.reshape(3, 2, 5, 6, 3)
    got = jax.jit(jax.vmap(jax.grad(loss, (0, 1))))(xs, kernels)
    want = [jax.grad(loss, (0, 1))(a, k) for a, k in zip(xs, kernels, strict=True)]
    chex.assert_trees_all_close(
        got, jax.tree.map(lambda *a: jnp.stack(a), *want), rtol=1e-5, atol=1e-4
    )


def test_auto_follows_the_platform_that_it_is_lowered_for():
    x, kernel = arrays((2, 8, 8, 4), 3)

    @jax.jit
    def step(x, kernel):
        return jax.grad(lambda x, k: jnp.sin(depthwise_conv(x, k)).sum(), (0, 1))(x, kernel)

    for platform in ("cuda", "tpu"):
        text = step.trace(x, kernel).lower(lowering_platforms=(platform,)).as_text()
        assert text.count("stablehlo.convolution") == 3
        assert "stablehlo.select" not in text
    # Nothing of the other lowering is left on a CPU, nor a choice at run time.
    lowered = step.trace(x, kernel).lower(lowering_platforms=("cpu",))
    assert "stablehlo.convolution" not in lowered.as_text()
    if jax.default_backend() == "cpu":
        compiled = lowered.compile().as_text()
        assert "conditional" not in compiled
        # The loop that keeps the output's gradient from being computed again for every tap.
        assert " while(" in compiled


def test_forward_mode_is_refused_rather_than_wrong():
    x, kernel = arrays((1, 4, 4, 1), 3)
    jax.jvp(lambda x: depthwise_conv(x, kernel, lowering="grouped"), (x,), (x,))
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(lambda x: depthwise_conv(x, kernel, lowering="shifted"), (x,), (x,))


DEVICES = """
    import re
    import jax
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 8)
    import chex, jax.numpy as jnp
    from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec as P
    from mnet_jax.ops import depthwise_conv

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
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(DEVICES)], capture_output=True, text=True
    )
    assert done.returncode == 0 and "checked" in done.stdout, done.stderr[-3000:]


@pytest.mark.parametrize(
    "change, name",
    [
        ({"x": (4, 4, 2)}, "x"),
        ({"x": (0, 4, 4, 2)}, "x"),
        ({"kernel": (3, 3)}, "kernel"),
        ({"kernel": (3, 3, 1, 2)}, "kernel"),
        ({"kernel": (3, 3, 3)}, "kernel"),
        ({"strides": 0}, "strides"),
        ({"strides": (1, -1)}, "strides"),
        ({"strides": (1, 1, 1)}, "strides"),
        ({"strides": (1.5, 1)}, "strides"),
        ({"padding": "same"}, "padding"),
        ({"padding": ((1, 1),)}, "padding"),
        ({"padding": ((1, 1), (-1, 1))}, "padding"),
        ({"padding": 1}, "padding"),
        ({"padding": "VALID", "kernel": (5, 3, 2)}, "padding"),
        ({"padding": ((0, 0), (1, 0)), "kernel": (3, 6, 2)}, "padding"),
        ({"lowering": "fast"}, "lowering"),
        ({"dilation": 0}, "dilation"),
        ({"dilation": -2}, "dilation"),
        ({"dilation": (2, 0)}, "dilation"),
        ({"dilation": (2, 2, 2)}, "dilation"),
        ({"dilation": (1.5, 1)}, "dilation"),
        ({"dilation": 2, "strides": 2}, "dilation"),
        ({"dilation": (1, 2), "strides": (1, 2)}, "dilation"),
        ({"dilation": 2, "padding": "VALID"}, "padding"),
        ({"dilation": (1, 4), "padding": ((0, 0), (2, 2))}, "padding"),
    ],
    ids=str,
)
def test_errors_name_the_argument(change, name):
    arguments = {"x": (1, 4, 4, 2), "kernel": (3, 3, 2), **change}
    arguments |= {key: jnp.ones(arguments[key]) for key in ("x", "kernel")}
    with pytest.raises(ValueError, match=rf"^{name}: got .*, legal: [^\n]+$"):
        depthwise_conv(**arguments)


def test_integers_are_refused():
    with pytest.raises(ValueError, match=r"^x: got .*int8"):
        depthwise_conv(jnp.ones((1, 4, 4, 2), jnp.int8), jnp.ones((3, 3, 2)))
