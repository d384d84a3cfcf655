"""Dilated depthwise convolution is the sum over taps too."""

import numpy as np
import pytest
from depthwise_taps import LOWERINGS, arrays, check, oracle
from grids import pairwise


def test_the_oracle_with_dilation_is_that_of_a_kernel_with_zeros_between_its_taps():
    x, kernel = arrays((2, 9, 12, 3), (3, 5))
    holed = np.zeros((5, 13, 3))
    holed[::2, ::3] = kernel
    for padding in ("SAME", "VALID", ((2, 0), (1, 3))):
        plain = oracle(x, holed, (1, 1), padding)
        np.testing.assert_allclose(
            oracle(x, kernel, (1, 1), padding, dilation=(2, 3)), plain, atol=1e-12
        )


@pytest.mark.parametrize(
    "window, padding, lowering",
    pairwise(
        [
            (3, (2, 2), (2, 11, 8, 3)),
            (3, (4, 4), (2, 11, 9, 3)),
            (3, (2, 1), (2, 7, 10, 3)),
            (5, (2, 2), (2, 13, 9, 3)),
            (5, (4, 4), (1, 17, 19, 2)),
            (5, (2, 1), (2, 9, 11, 3)),
        ],
        ["SAME", "VALID", ((2, 0), (1, 3))],
        LOWERINGS,
    ),
    ids=str,
)
def test_dilated_output_and_gradients_equal_the_sum_over_taps(window, padding, lowering):
    kernel, dilation, shape = window
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
