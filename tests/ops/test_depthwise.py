"""Depthwise convolution is the sum over taps, whatever the lowering and the shapes."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from depthwise_taps import LOWERINGS, arrays, check
from grids import pairwise

from mnet_jax.ops import depthwise_conv

# One rounding to bfloat16's 8 bits is off by 2^-8 at most; XLA's own form may round partial sums.
TOLERANCES = {"grouped": 2**-6, "shifted": 2**-8, "auto": 2**-8, "native": 2**-8}


@pytest.mark.parametrize("lowering", LOWERINGS)
@pytest.mark.parametrize(
    "kernel, strides, padding, dtype",
    pairwise(
        [3, 5, 7],
        [(1, 1), (2, 2)],
        ["SAME", "VALID", ((2, 0), (1, 3))],
        [jnp.float32, jnp.bfloat16],
    ),
    ids=str,
)
def test_output_and_gradients_equal_the_sum_over_taps(lowering, kernel, strides, padding, dtype):
    tolerance = 2e-5 if dtype == jnp.float32 else TOLERANCES[lowering]
    check(*arrays((2, 11, 8, 3), kernel, dtype), strides, padding, lowering, tolerance)


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


@pytest.mark.parametrize(
    "lowering, kernel, dilation",
    pairwise(LOWERINGS, [3, 5], [(2, 2), (4, 4), (2, 1)]),
    ids=str,
)
def test_dilated_bfloat16(lowering, kernel, dilation):
    operands = arrays((4, 13, 14, 8), kernel, jnp.bfloat16)
    check(*operands, (1, 1), "SAME", lowering, TOLERANCES[lowering], dilation)


def test_bfloat16_taps_are_added_in_float32():
    # 256 + 1 is 256 in bfloat16, so a sum in it would lose every one of the eight ones.
    kernel = jnp.ones((3, 3, 1), jnp.bfloat16)
    x = jnp.ones((1, 3, 3, 1), jnp.bfloat16).at[0, 0, 0, 0].set(256)
    y = depthwise_conv(x, kernel, padding="VALID", lowering="shifted")
    assert float(y[0, 0, 0, 0]) == 264


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize("strides, dilation", [(1, 1), (2, 1), (1, (2, 3))], ids=str)
def test_no_value_reaches_a_place_that_does_not_see_it(padding, strides, dilation):
    # NaN in a corner spreads to the outputs that see it and not, as zero times NaN, any further.
    x, kernel = arrays((2, 9, 11, 2), 3)
    x = x.at[0, 0, 0].set(jnp.nan).at[0, 8, 10].set(jnp.inf)
    grouped, shifted = (
        depthwise_conv(x, kernel, strides, padding, lowering, dilation)
        for lowering in LOWERINGS[:2]
    )
    assert not jnp.isfinite(grouped).all()
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


@pytest.mark.parametrize("lowering", LOWERINGS)
def test_one_integer_is_both_strides_or_both_dilations_and_1_is_none(lowering):
    x, kernel = arrays((1, 7, 8, 2), 3)
    call = partial(depthwise_conv, x, kernel, lowering=lowering)
    for name in ("strides", "dilation"):
        chex.assert_trees_all_equal(call(**{name: 2}), call(**{name: (2, 2)}))
        chex.assert_trees_all_equal(call(**{name: 1}), call())


@pytest.mark.parametrize("lowering", LOWERINGS)
def test_kernel_of_another_dtype_is_cast_and_keeps_its_own_gradient_dtype(lowering):
    x, kernel = arrays((1, 6, 6, 2), 3)
    x = x.astype(jnp.bfloat16)
    y, pull = jax.vjp(partial(depthwise_conv, lowering=lowering), x, kernel)
    dx, dk = pull(y)
    assert (y.dtype, dx.dtype, dk.dtype) == (jnp.bfloat16, jnp.bfloat16, jnp.float32)


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
