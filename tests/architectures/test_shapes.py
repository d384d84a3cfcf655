"""Padding and output sizes, by the rules of the implementations.

Oracles: lax's own SAME, torchvision's and Keras' rules written out by hand.
"""

import pytest
from jax import lax
from messages import one_line

from mnet_jax.architectures import FACTORIES, walk
from mnet_jax.architectures.shapes import pad_amounts


@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2])
class TestPadAmounts:
    sizes = range(1, 41)

    def test_same_is_laxs(self, kernel, stride):
        for size in self.sizes:
            expected = lax.padtype_to_pads((size,), (kernel,), (stride,), "SAME")
            assert [pad_amounts("same", kernel, stride, size)] == list(map(tuple, expected)), size

    def test_symmetric_is_torchs(self, kernel, stride):
        """(kernel - 1) // 2 on both sides, in torchvision's ConvNormActivation."""
        for size in self.sizes:
            pads = pad_amounts("symmetric", kernel, stride, size)
            assert pads == ((kernel - 1) // 2,) * 2

    def test_end_is_keras_v1s_extended_to_every_kernel(self, kernel, stride):
        """ZeroPadding2D(((0, 1), (0, 1))) and "valid" where strided, "same" elsewhere."""
        for size in self.sizes:
            pads = pad_amounts("end", kernel, stride, size)
            half = kernel // 2
            assert pads == ((half, half) if stride == 1 else (0, half))


def test_same_is_keras_v2s_correct_pad_before_strided_depthwise():
    """`imagenet_utils.correct_pad`: half the kernel, one less in front at even sizes."""
    for size in range(3, 41):
        for kernel in (3, 5):
            half = kernel // 2
            expected = (half - (1 - size % 2), half)
            if size >= kernel:
                assert pad_amounts("same", kernel, 2, size) == expected


def test_same_and_symmetric_give_the_same_shapes_and_differ_at_even_sizes_only():
    for size in range(3, 41):
        same, symmetric = (pad_amounts(rule, 3, 2, size) for rule in ("same", "symmetric"))
        outputs = {(size + sum(pads) - 3) // 2 + 1 for pads in (same, symmetric)}
        assert len(outputs) == 1
        assert (same == symmetric) == (size % 2 == 1)


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("dilation", [1, 2, 4])
def test_dilated_windows_are_padded_as_lax_and_torch_pad_them(kernel, dilation):
    """lax pads for the length that the kernel reaches; torch (kernel - 1) // 2 * dilation."""
    reach = dilation * (kernel - 1) + 1
    for size in range(1, 20):
        expected = lax.padtype_to_pads((size,), (reach,), (1,), "SAME")
        assert pad_amounts("same", kernel, 1, size, dilation) == tuple(expected[0])
        assert pad_amounts("end", kernel, 1, size, dilation) == tuple(expected[0])
        symmetric = (kernel - 1) // 2 * dilation
        assert pad_amounts("symmetric", kernel, 1, size, dilation) == (symmetric, symmetric)


@pytest.mark.parametrize("size", [112, 168, 224])
@pytest.mark.parametrize(
    "network", ["mobilenet_v1", "mobilenet_v2", "mobilenet_v3_large", "mobilenet_v4_conv_small"]
)
def test_paddings_of_the_dialects_give_equal_shapes_at_stride_2_and_unequal_zeros(network, size):
    """At 224 SAME pads (0, 1) where torch pads (1, 1): the classic fault of weight converters."""
    sizes = {}
    for dialect in ("paper", "timm"):
        spec = FACTORIES[network](dialect=dialect)
        strided = [layer for layer in walk(spec, size) if layer.stride == 2]
        assert len(strided) >= 5
        sizes[dialect] = [(layer.input_size, layer.output_size) for layer in strided]
        for layer in strided:
            half = layer.kernel // 2
            even = layer.input_size[0] % 2 == 0
            pads = (half - 1, half) if dialect == "paper" and even else (half, half)
            assert layer.pads == (pads, pads)
    assert sizes["paper"] == sizes["timm"]


@pytest.mark.parametrize(
    ("network", "options", "resolution", "words"),
    [
        ("mobilenet_v2", {}, 0, ("got 0", "1 pixel")),
        ("mobilenet_v3_large", {}, 0, ("got 0", "1 pixel")),
        ("mobilenet_v4_conv_small", {}, (32, -1), ("got (32, -1)", "1 pixel")),
        ("mobilenet_v1", {"dialect": "keras"}, 8, ("large enough",)),
    ],
)
def test_images_too_small_are_one_line(network, options, resolution, words):
    spec = FACTORIES[network](**options)
    one_line(ValueError, lambda: list(walk(spec, resolution)), "resolution: ", "legal: ", *words)
