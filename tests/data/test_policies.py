"""Policies: the papers' tables, torchvision's pixels, and draws that follow the image."""

import colorsys

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from mnet_jax.config import DataConfig
from mnet_jax.data import batches, policies
from mnet_jax.data.draws import Draws
from mnet_jax.data.order import ImageIndices
from mnet_jax.data.policies import apply_operations
from mnet_jax.data.scaling import scaled
from mnet_jax.data.sources import ArraySource

LIKELY = 1e-4
RNG = np.random.default_rng(0)
# Smooth, so that an operation's effect is more than noise, and not square.
SMALL = Image.fromarray(RNG.integers(0, 256, (6, 8, 3), dtype=np.uint8))
PICTURE = np.asarray(SMALL.resize((40, 30), Image.Resampling.BICUBIC))
GRAY = np.asarray(Image.fromarray(PICTURE).convert("L"))[:, :, None]
VALUES = {  # of each operation in its own measure
    "identity": (0.0,), "shear_x": (-0.3, 0.2), "shear_y": (-0.1, 0.3),
    "translate_x": (-7, 12), "translate_y": (-12, 7), "rotate": (-30.0, 10.0, 90.0),
    "auto_contrast": (0.0,), "equalize": (0.0,), "invert": (0.0,),
    "solarize": (0.0, 100.0, 142.2, 256.0),
    "posterize": (1, 4, 8), "brightness": (0.1, 1.9), "contrast": (0.1, 1.9), "color": (0.1, 1.9),
    "sharpness": (0.1, 1.9), "hue": (-0.25, 0.1),
}  # fmt: skip
CASES = [(operation, value) for operation, values in VALUES.items() for value in values]
TORCHVISIONS = {  # names of operations
    "identity": "Identity", "shear_x": "ShearX", "shear_y": "ShearY", "translate_x": "TranslateX",
    "translate_y": "TranslateY", "rotate": "Rotate", "auto_contrast": "AutoContrast",
    "equalize": "Equalize", "invert": "Invert", "solarize": "Solarize", "posterize": "Posterize",
    "brightness": "Brightness", "contrast": "Contrast", "color": "Color", "sharpness": "Sharpness",
}  # fmt: skip
ENHANCEMENTS = ("brightness", "contrast", "color", "sharpness")


@pytest.fixture(scope="module")
def torchvision():
    pytest.importorskip("torchvision", reason="torchvision is the oracle")
    from torchvision.transforms import autoaugment, functional

    return autoaugment, functional


def draws(count, seed=0):
    return Draws.of(seed, np.zeros(count, int), np.arange(count))


# Operations.


@pytest.mark.parametrize(("operation", "value"), CASES)
def test_pixels_are_torchvisions(operation, value, torchvision):
    autoaugment, functional = torchvision
    for image in (PICTURE, GRAY):
        picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
        if operation == "hue":
            expected = functional.adjust_hue(picture, value)
        else:
            magnitude = value - 1 if operation in ENHANCEMENTS else value
            fill = [128.0] * image.shape[-1]
            nearest = functional.InterpolationMode.NEAREST
            name = TORCHVISIONS[operation]
            expected = autoaugment._apply_op(picture, name, magnitude, nearest, fill)
        found = apply_operations(image, [(operation, value)])
        np.testing.assert_array_equal(found, np.asarray(expected).reshape(image.shape))


@pytest.mark.parametrize(("operation", "value"), CASES)
def test_gray_is_the_color_of_three_equal_channels(operation, value):
    color = apply_operations(np.repeat(GRAY, 3, axis=2), [(operation, value)])
    gray = apply_operations(GRAY, [(operation, value)])
    assert gray.shape == GRAY.shape and gray.dtype == np.uint8
    np.testing.assert_array_equal(color, np.repeat(gray, 3, axis=2))


def test_operations_by_arithmetic():
    image = PICTURE.astype(int)
    for found, expected in (
        (apply_operations(PICTURE, []), image),
        (apply_operations(PICTURE, [("identity", 0.0)]), image),
        (apply_operations(PICTURE, [("invert", 0.0)]), 255 - image),
        (
            apply_operations(PICTURE, [("solarize", 100.0)]),
            np.where(image < 100, image, 255 - image),
        ),
        (apply_operations(PICTURE, [("posterize", 3)]), image // 32 * 32),
        (apply_operations(PICTURE, [("rotate", 180.0)]), image[::-1, ::-1]),
        (
            apply_operations(PICTURE, [("invert", 0.0), ("posterize", 1)]),
            (255 - image) // 128 * 128,
        ),
    ):
        np.testing.assert_array_equal(found, expected)
    moved = apply_operations(PICTURE, [("translate_x", 5), ("translate_y", -3)])
    np.testing.assert_array_equal(moved[:-3, 5:], PICTURE[3:, :-5])
    assert (moved[-3:] == 128).all() and (moved[:, :5] == 128).all()
    sheared = apply_operations(PICTURE, [("shear_x", 1.0)])
    for y in range(30):  # the centre of row y lies y + 1/2 below the edge that stays
        np.testing.assert_array_equal(sheared[y, : 39 - y], PICTURE[y, y + 1 :])
    half = apply_operations(PICTURE, [("brightness", 0.5)])
    assert np.abs(half - image / 2).max() <= 1
    lone = apply_operations(PICTURE, [("color", 0.0)])
    luma = image @ [0.299, 0.587, 0.114]  # of ITU-R 601-2, as Pillow says
    assert np.abs(lone - luma[..., None]).max() <= 1


def test_a_hue_moves_around_the_circle():
    red = np.full((2, 2, 3), (200, 40, 40), np.uint8)
    third = apply_operations(red, [("hue", 1 / 3)])[0, 0]
    hue = colorsys.rgb_to_hsv(*(third / 255))[0]
    assert abs(hue - 1 / 3) < 0.01 and third.max() == 200


# Policies.


def test_the_table_is_torchvisions(torchvision):
    autoaugment, _ = torchvision
    found = autoaugment.AutoAugment(autoaugment.AutoAugmentPolicy.IMAGENET).policies
    assert len(found) == len(policies.AUTOAUGMENT) == 25
    for pairs, expected in zip(policies.AUTOAUGMENT, found, strict=True):
        for (operation, probability, magnitude), (name, p, bin_) in zip(
            pairs, expected, strict=True
        ):
            assert (TORCHVISIONS[operation], probability) == (name, p)
            assert bin_ is None or bin_ == magnitude  # None where an operation has no strength


def test_randaugment_has_torchvisions_operations(torchvision):
    autoaugment, _ = torchvision
    names = autoaugment.RandAugment()._augmentation_space(31, (224, 224))
    assert {TORCHVISIONS[o] for o in policies.RANDAUGMENT} == names.keys()
    assert len({*policies.RANDAUGMENT}) == len(policies.RANDAUGMENT) == 14


@pytest.mark.parametrize("bins", [10, 31])
@pytest.mark.parametrize("side", [28, 224])
def test_ranges_are_torchvisions(bins, side, torchvision):
    """Ten bins are AutoAugment's magnitudes and 31 RandAugment's, whose 30 is the paper's 10."""
    autoaugment, _ = torchvision
    policy = autoaugment.AutoAugmentPolicy.IMAGENET
    whole = autoaugment.AutoAugment(policy)._augmentation_space(bins, (side, side))
    for operation, name in TORCHVISIONS.items():
        if name not in whole:
            continue
        magnitudes, signed = whole[name]
        for i in range(bins if magnitudes.ndim else 0):
            for reverse in (False, True):
                _, value = policies.step(operation, i / (bins - 1), reverse, side)
                expected = float(magnitudes[i]) * (-1 if signed and reverse else 1)
                if operation in ENHANCEMENTS:
                    expected += 1
                if operation.startswith("translate"):
                    expected = int(expected)
                if operation == "solarize":  # torchvision's begins at 255, the paper's at 256
                    expected *= 256 / 255
                assert value == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_beyond_their_ranges_operations_stay_legal():
    for operation in VALUES:
        for reverse in (False, True):
            found = apply_operations(PICTURE, [policies.step(operation, 3.0, reverse, 40)])
            assert found.shape == PICTURE.shape
    assert policies.step("brightness", 3.0, True, 40) == ("brightness", 0.1)
    assert policies.step("posterize", 3.0, False, 40) == ("posterize", 1)


def marked(monkeypatch):
    """The steps that each image gets, instead of its pixels."""
    seen = []
    monkeypatch.setattr(
        policies, "apply_operations", lambda image, steps: (seen.append([*steps]), image)[1]
    )
    return seen


def test_randaugment_draws_each_operation_as_often(monkeypatch):
    seen = marked(monkeypatch)
    images = np.zeros((7000, 20, 20, 1), np.uint8)
    policies.randaugment(images, draws(7000), layers=2, magnitude=10.0)
    assert {len(steps) for steps in seen} == {2}
    first, second = (
        np.array([policies.RANDAUGMENT.index(steps[layer][0]) for steps in seen])
        for layer in range(2)
    )
    pairs = np.bincount(14 * first + second, minlength=196)
    assert stats.chisquare(pairs).pvalue > LIKELY
    angles = [value for steps in seen for operation, value in steps if operation == "rotate"]
    assert {*angles} == {-30.0, 30.0}
    assert stats.binomtest(angles.count(30.0), len(angles)).pvalue > LIKELY


def test_autoaugment_draws_policies_and_operations_as_often_as_the_table_says(monkeypatch):
    seen = marked(monkeypatch)
    count = 20000
    policies.autoaugment(np.zeros((count, 20, 20, 1), np.uint8), draws(count))
    found = [operation for steps in seen for operation, _ in steps]
    for name in {operation for pair in policies.AUTOAUGMENT for operation, _, _ in pair}:
        expected = sum(p for pair in policies.AUTOAUGMENT for o, p, _ in pair if o == name) / 25
        assert abs(found.count(name) / count - expected) < 5 * np.sqrt(expected / count)
    firsts = [steps[0][1] for steps in seen if steps and steps[0][0] == "shear_x"]
    np.testing.assert_allclose(sorted({*firsts}), [-0.3 * 5 / 9, 0.3 * 5 / 9])


def test_colour_jitter_reaches_its_factors_in_every_order(monkeypatch):
    seen = marked(monkeypatch)
    count = 12000
    policies.colour_jitter(np.zeros((count, 4, 4, 3), np.uint8), draws(count), 0.4)
    orders = [tuple(operation for operation, _ in steps) for steps in seen]
    frequencies = [orders.count(order) for order in {*orders}]
    assert len(frequencies) == 24 and stats.chisquare(frequencies).pvalue > LIKELY
    for name in ("brightness", "contrast", "color"):
        values = [value for steps in seen for operation, value in steps if operation == name]
        assert stats.kstest(values, stats.uniform(0.6, 0.8).cdf).pvalue > LIKELY
    turns = [value for steps in seen for operation, value in steps if operation == "hue"]
    assert stats.kstest(turns, stats.uniform(-0.1, 0.2).cdf).pvalue > LIKELY


CONFIGS = [
    {"policy": "randaugment"},
    {"policy": "autoaugment"},
    {"colour_jitter": 0.4},
    {"erasing": 0.5},
    {"policy": "randaugment", "colour_jitter": 0.4, "erasing": 0.5,
     "augmentation": "resized_crop_flip"},
]  # fmt: skip


@pytest.mark.parametrize("changes", CONFIGS, ids=str)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1])
def test_an_image_looks_the_same_in_every_batch(changes, channels, seed):
    images = np.random.default_rng(1).integers(0, 256, (12, 28, 28, channels), dtype=np.uint8)
    source = ArraySource(images, np.arange(12, dtype=np.int32))
    config = DataConfig(**{"resolution": 28, "augmentation": "none"} | changes)

    def batch(*indices, epoch=0):
        places = ImageIndices(np.full(len(indices), epoch), np.array(indices))
        return batches.train_batch(source, config, seed, places)["image"]

    whole = batch(*range(12))
    assert whole.shape == (12, 28, 28, 3) and whole.dtype == np.float32
    assert whole.min() >= -1 and whole.max() <= 1
    np.testing.assert_array_equal(batch(7, 3, 11), whole[[7, 3, 11]])
    assert (batch(*range(12), epoch=1) != whole).any()
    assert (whole != scaled(images, "symmetric")).any()
    assert channels == 3 or (whole == whole[..., :1]).all(), "gray stays gray"
