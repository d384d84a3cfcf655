"""The central square of an image, as timm and PIL prepare it."""

import io

import numpy as np
import pytest
from messages import one_line
from PIL import Image, ImageFilter
from sklearn.datasets import load_sample_images

from mnet_jax import data
from mnet_jax.config import DataConfig
from mnet_jax.data.encoded import EncodedImage
from mnet_jax.data.resize import central_view, crop
from mnet_jax.data.types import View

PHOTOGRAPHS = [Image.fromarray(image) for image in load_sample_images().images]  # 640 x 427
SETTINGS = [(0.875, "bilinear"), (0.95, "bicubic"), (1.0, "bicubic")]


def timm_pixels(picture, side, share, interpolation):
    """The image that timm's evaluation gives to a model, uint8 [side, side, 3]."""
    transforms = pytest.importorskip("timm.data", reason="timm is the oracle")
    transform = transforms.create_transform(
        (3, side, side), crop_pct=share, interpolation=interpolation,
        mean=(0, 0, 0), std=(1, 1, 1), is_training=False,
    )  # fmt: skip
    return np.rint(transform(picture).permute(1, 2, 0).numpy() * 255).astype(np.uint8)


def view_of(side, share, interpolation):
    return View(resolution=side, photographs=True, crop_share=share, interpolation=interpolation)


def levels_apart(a, b):
    return np.abs(a.astype(int) - b)


@pytest.mark.parametrize("picture", PHOTOGRAPHS, ids=["temple", "flower"])
@pytest.mark.parametrize(("share", "interpolation"), SETTINGS)
def test_where_timm_cuts_whole_pixels_the_images_are_equal(picture, share, interpolation):
    """At 0.95, 190 of 200 pixels; at 0.875, 196 of 224; both sides leave even borders."""
    side = {0.875: 196, 0.95: 190, 1.0: 200}[share]
    short = round(side / share)
    for size in ((2 * short, 3 * short), (3 * short, 2 * short), (5 * short // 2, 5 * short // 2)):
        image = picture.resize(size)
        ours = central_view(np.asarray(image), view_of(side, share, interpolation))
        apart = levels_apart(ours, timm_pixels(image, side, share, interpolation))
        assert apart.max() <= 1, size


@pytest.mark.parametrize("size", [(333, 501), (640, 427), (301, 299), (997, 641)])
@pytest.mark.parametrize(("share", "interpolation"), SETTINGS)
def test_at_any_size_the_image_is_timms_up_to_its_rounding(size, share, interpolation):
    """timm rounds the resized image's sides and the crop's corner to whole pixels.

    Its square is thus up to half a pixel away, and up to a pixel larger or smaller. In a smooth
    image, this changes few levels; a square of another size changes many.
    """
    side = 160
    picture = PHOTOGRAPHS[1].resize(size)
    smooth = picture.filter(ImageFilter.GaussianBlur(6 * min(size) / side))
    theirs = timm_pixels(smooth, side, share, interpolation)
    apart = levels_apart(
        central_view(np.asarray(smooth), view_of(side, share, interpolation)), theirs
    )
    assert (apart <= 2).mean() > 0.9
    other = 0.875 if share > 0.9 else 1.0
    elsewhere = central_view(np.asarray(smooth), view_of(side, other, interpolation))
    assert levels_apart(elsewhere, theirs).mean() > 5 * apart.mean()


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_timms_own_square_has_timms_pixels(interpolation):
    """Given the square that timm's rounding selects, the filter is timm's to within a level."""
    width, height, side, share = 501, 333, 160, 0.9
    image = PHOTOGRAPHS[0].resize((width, height))
    down = int(side / share)
    across = int(down * width / height)
    left, top = round((across - side) / 2), round((down - side) / 2)
    x, y = width / across, height / down
    box = (left * x, top * y, (left + side) * x, (top + side) * y)
    ours = crop(np.asarray(image), box, side, interpolation)
    assert levels_apart(ours, timm_pixels(image, side, share, interpolation)).max() <= 1


@pytest.mark.parametrize("picture", PHOTOGRAPHS, ids=["temple", "flower"])
@pytest.mark.parametrize(("share", "interpolation"), SETTINGS)
def test_a_jpeg_that_is_decoded_smaller_is_still_the_view(picture, share, interpolation):
    content = io.BytesIO()
    picture.resize((1601, 1203)).save(content, "JPEG", quality=90)
    encoded = EncodedImage(content.getvalue(), "photograph")
    for side in (224, 160, 96, 32):
        view = view_of(side, share, interpolation)
        apart = levels_apart(central_view(encoded, view), central_view(encoded.pixels(), view))
        assert apart.mean() < 0.5 and apart.max() <= 12


def test_the_square_is_the_share_of_the_shorter_side():
    ramp = np.broadcast_to(np.arange(200, dtype=np.uint8)[None, :, None], (100, 200, 3))
    for share, side in ((0.95, 95), (0.8, 80), (1.0, 100)):
        for interpolation in ("bilinear", "bicubic"):
            seen = central_view(ramp, view_of(side, share, interpolation))
            left = 100 - side / 2
            expected = left + np.arange(side)
            assert np.abs(seen[0, :, 0] - expected).max() <= 0.5, "at its own scale"


def test_a_whole_image_has_no_border_to_cut_off():
    image = np.asarray(PHOTOGRAPHS[0].crop((0, 0, 64, 64)))
    view = View(resolution=64, photographs=False, crop_share=0.5)
    assert central_view(image, view) is image and view.central_share == 1.0


@pytest.mark.parametrize("augmentation", ["none", "resized_crop_flip"])
def test_a_config_resizes_for_training_and_evaluation_alike(tmp_path, augmentation):
    """A constant crop would not tell: the filters differ at edges, by more than rounding."""
    for split in ("train", "test"):
        for name, picture in zip("ab", PHOTOGRAPHS, strict=True):
            (tmp_path / split / name).mkdir(parents=True)
            for k, size in enumerate([(300, 200), (200, 280)]):
                picture.resize(size).save(tmp_path / split / name / f"{k}.png")
    config = DataConfig(
        name="folder", directory=str(tmp_path), resolution=64, batch_size=2,
        augmentation=augmentation,
    )  # fmt: skip
    bicubic = config.with_view(view_of(64, 0.95, "bicubic"))
    assert (bicubic.crop_share, bicubic.interpolation) == (0.95, "bicubic")
    assert bicubic.view(photographs=True) == view_of(64, 0.95, "bicubic")
    source = data.load(bicubic).test
    (first, _) = data.eval_batches(source, bicubic)
    whole = [central_view(source[i]["image"], view_of(64, 0.95, "bicubic")) for i in range(2)]
    np.testing.assert_allclose(first["image"], np.stack(whole) / np.float32(127.5) - 1, atol=1e-6)
    trained = [next(data.train_batches(source, c, 0))["image"] for c in (config, bicubic)]
    assert np.abs(trained[0] - trained[1]).max() > 0.1


@pytest.mark.parametrize("share", [0, -0.5, 1.01, float("nan"), "0.5"])
def test_an_illegal_share_is_refused(share):
    one_line(
        ValueError, lambda: View(resolution=8, photographs=True, crop_share=share), "crop_share"
    )
    one_line(ValueError, lambda: DataConfig(crop_share=share), "crop_share")


def test_an_unknown_filter_is_refused():
    one_line(ValueError, lambda: DataConfig(interpolation="area"), "legal: bilinear, bicubic")
