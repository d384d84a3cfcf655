"""Augmentations and views, pixel by pixel."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mnet_jax.data import augment
from mnet_jax.data.draws import Draws
from mnet_jax.data.resize import central_view
from mnet_jax.data.types import View


def test_a_view_keeps_proportions_and_photographs_lose_their_border():
    ramp = np.broadcast_to(np.arange(256, dtype=np.uint8)[None, :, None], (128, 256, 3))
    view = View(resolution=128, photographs=False)
    whole = central_view(ramp, view)
    np.testing.assert_array_equal(whole, ramp[:, 64:192])  # the centre, at its own scale
    middle = central_view(
        ramp, View(resolution=112, photographs=True)
    )  # 224/256 of 128: no scaling again
    np.testing.assert_array_equal(middle, ramp[8:120, 72:184])
    assert central_view(whole, view) is whole


def draws(count, seed=0):
    return Draws.of(seed, np.zeros(count, int), np.arange(count))


IMAGES = np.random.default_rng(1).integers(0, 256, (40, 16, 24, 3), dtype=np.uint8)


@given(st.integers(0, 2**32))
def test_shift_is_a_crop_of_the_edge_padded_image(seed):
    shifted = augment.shift(IMAGES[:4], draws(4, seed))
    for image, moved in zip(IMAGES[:4], shifted, strict=True):
        padded = np.pad(image, ((2, 2), (3, 3), (0, 0)), mode="edge")
        crops = [padded[y : y + 16, x : x + 24] for y in range(5) for x in range(7)]
        assert any((moved == crop).all() for crop in crops)


def test_shift_reaches_every_offset_and_no_more():
    image = np.zeros((2000, 8, 8, 1), np.uint8)
    image[:, 4, 4] = 1
    at = np.argwhere(augment.shift(image, draws(2000))[..., 0])[:, 1:]
    counts = np.unique(at, axis=0, return_counts=True)[1]
    assert len(at) == 2000 and len(counts) == 9  # side 8: one pixel each way
    assert counts.min() > 150  # 222 expected


def test_flip_mirrors_about_half():
    images = np.tile(IMAGES, (25, 1, 1, 1))
    flipped = augment.flip(images, draws(1000))
    same, other = (
        [(a == b).all() for a, b in zip(flipped, expected, strict=True)]
        for expected in (images, images[:, :, ::-1])
    )
    assert all(a != b for a, b in zip(same, other, strict=True))
    assert 400 < sum(other) < 600


SIZES = st.lists(st.tuples(st.integers(1, 400), st.integers(1, 400)), min_size=1, max_size=8)


@given(sizes=SIZES, seed=st.integers(0, 2**32))
def test_crop_boxes_are_inside_and_of_legal_aspect(sizes, seed):
    heights, widths = np.array(sizes).T
    boxes = augment.crop_boxes(heights, widths, draws(len(sizes), seed))
    for (height, width), (left, top, right, bottom) in zip(sizes, boxes, strict=True):
        assert 0 <= left < right <= width and 0 <= top < bottom <= height
        wide, tall = right - left, bottom - top
        # Rounding to whole pixels moves either side by at most one.
        assert (wide - 1) / (tall + 1) <= 4 / 3 and (wide + 1) / (tall - 1 or 0.5) >= 3 / 4
        if min(height, width) > 40 and max(height, width) / min(height, width) < 1.3:
            assert 0.07 * height * width < wide * tall <= height * width


def test_crop_boxes_have_every_area_and_place():
    """Of the crops of Inception in a square, those below a quarter of it always fit."""
    side, count = 1000, 20000
    boxes = augment.crop_boxes(np.full(count, side), np.full(count, side), draws(count))
    left, top, right, bottom = boxes.T
    areas = (right - left) * (bottom - top) / side**2
    small = areas[areas < 0.25]
    expected = stats.uniform(0.08, 0.25 - 0.08)
    assert stats.kstest(small, expected.cdf).pvalue > 1e-4
    logs = np.log((right - left) / (bottom - top))[areas < 0.25]
    spread = 2 * np.log(4 / 3)
    assert stats.kstest(logs, stats.uniform(-spread / 2, spread).cdf).pvalue > 1e-4
    for start, room in ((left, side - (right - left)), (top, side - (bottom - top))):
        assert stats.kstest((start + 0.5) / (room + 1), "uniform").pvalue > 1e-4


def test_erasing_is_a_box_of_noise_in_some_images():
    count, side = 3000, 48
    images = np.full((count, side, side, 3), 2.0, np.float32)  # which noise never is
    erased = augment.erase(images, draws(count), 0.25)
    noise = (erased != 2.0).all(axis=3)
    assert (noise == (erased != 2.0).any(axis=3)).all() and (images == 2.0).all()
    chosen = np.flatnonzero(noise.any(axis=(1, 2)))
    # Nearly every try fits within ten.
    assert stats.binomtest(len(chosen), count, 0.25).pvalue > 1e-4
    for i in chosen:
        rows, columns = np.flatnonzero(noise[i].any(axis=1)), np.flatnonzero(noise[i].any(axis=0))
        box = noise[i, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert box.all() and box.sum() == noise[i].sum()
        assert 0.015 < box.mean(where=True) * box.size / side**2 < 0.42
        assert 0.25 < box.shape[1] / box.shape[0] < 4
    values = erased[noise][:, 1]
    assert stats.kstest(values[:: len(values) // 5000], stats.uniform(-1, 2).cdf).pvalue > 1e-4
    assert augment.erase(images, draws(count), 0.0) is images
