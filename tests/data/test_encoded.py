"""Only as much of an image is decoded as is asked for; it shows what PIL's whole image shows."""

import contextlib
import io
import os
import resource
import struct
import threading
import time
import zlib
from functools import partial

import numpy as np
import pytest
from messages import one_line
from PIL import ExifTags, Image, ImageOps
from sklearn.datasets import load_sample_images
from special_files import make_special

from mnet_jax import data
from mnet_jax.config import DataConfig
from mnet_jax.data.encoded import EncodedImage, read_encoded, read_size
from mnet_jax.data.resize import central_view, crop
from mnet_jax.data.types import View

complaint = partial(one_line, data.DataError)
PHOTOGRAPHS = [Image.fromarray(image) for image in load_sample_images().images]  # 640 x 427


def written(picture, suffix="JPEG", **options):
    content = io.BytesIO()
    picture.save(content, suffix, **options)
    return content.getvalue()


def levels_apart(a, b):
    return np.abs(a.astype(int) - b)


@pytest.mark.parametrize("photograph", PHOTOGRAPHS, ids=["temple", "flower"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
@pytest.mark.parametrize("size", [(640, 427), (1601, 1203)])
def test_crops_are_those_of_the_whole_image(photograph, options, size):
    """Identical where decoding was not reduced; within a level in the mean where it was."""
    content = written(photograph.resize(size, Image.Resampling.LANCZOS), quality=90, **options)
    whole = np.asarray(Image.open(io.BytesIO(content)))
    encoded = EncodedImage(content, "photograph")
    np.testing.assert_array_equal(encoded.pixels(), whole)
    width, height = size
    boxes = [(0, 0, width, height), (0.125 * width, 33, 0.75 * width, height - 8), (7, 5, 72, 64)]
    for side in (224, 96, 32, 16):
        for box in boxes:
            apart = levels_apart(encoded.crop(box, side), crop(whole, box, side))
            shrinking = min(box[2] - box[0], box[3] - box[1]) / side
            assert apart.mean() < (1 if shrinking >= 4 else 1e-9), (side, box)
            assert apart.max() <= 12
        view = View(resolution=side, photographs=True)
        apart = levels_apart(central_view(encoded, view), central_view(whole, view))
        assert apart.mean() < 1


def test_a_small_crop_of_a_large_photograph_is_decoded_small():
    """A half of the sides is a quarter of the pixels that PIL ever makes."""
    content = written(PHOTOGRAPHS[0].resize((2000, 1500)))
    made = []
    resize = Image.Image.resize

    def watched(self, *args, **kwargs):
        made.append(self.size)
        return resize(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image.Image, "resize", watched)
        for side in (2000, 224, 128, 32):
            EncodedImage(content, "photograph").crop((0, 0, 2000, 1500), side)
    assert made == [(2000, 1500), (1000, 750), (500, 375), (250, 188)]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_a_file_is_seen_upright_and_a_record_as_it_is(tmp_path, orientation, suffix):
    picture = PHOTOGRAPHS[1].resize((120, 80))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    path = tmp_path / f"turned.{suffix}"
    picture.save(path, exif=exif)
    upright = ImageOps.exif_transpose(Image.open(path).convert("RGB"))
    encoded = read_encoded(str(path))
    assert encoded.shape == (*upright.size[::-1], 3)
    np.testing.assert_array_equal(encoded.pixels(), upright)
    whole = np.asarray(upright)
    for side, box in ((32, (10, 20, 70, 75)), (8, (0, 0, 80, 80))):
        assert levels_apart(encoded.crop(box, side), crop(whole, box, side)).mean() < 2
    record = EncodedImage(path.read_bytes(), "record")
    np.testing.assert_array_equal(record.pixels(), Image.open(path).convert("RGB"))


def test_damaged_exif_does_not_cost_the_image():
    content = written(PHOTOGRAPHS[0], exif=b"Exif\0\0no TIFF header at all")
    encoded = EncodedImage(content, "photograph", obey_orientation=True)
    assert encoded.shape == (427, 640, 3)


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [("L", "JPEG"), ("CMYK", "JPEG"), ("L", "PNG"), ("LA", "PNG"), ("RGBA", "PNG"), ("P", "PNG"),
     ("1", "PNG"), ("P", "GIF"), ("RGBA", "WEBP"), ("RGB", "BMP")],
)  # fmt: skip
def test_other_colours_come_as_rgb(mode, suffix):
    picture = PHOTOGRAPHS[1].resize((96, 64)).convert(mode)
    content = written(picture, suffix)
    whole = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    encoded = EncodedImage(content, "picture")
    assert encoded.shape == (64, 96, 3)
    np.testing.assert_array_equal(encoded.pixels(), whole)
    part = encoded.crop((8, 8, 72, 56), 32)
    np.testing.assert_array_equal(part, crop(whole, (8, 8, 72, 56), 32))
    # Colours survive, CMYK's inverted ones of Adobe included.
    original = np.asarray(picture.convert("RGB"))
    assert levels_apart(whole, original).mean() < 8


def test_gray_keeps_its_channel():
    content = written(PHOTOGRAPHS[0].convert("L"), "PNG")
    encoded = EncodedImage(content, "gray", channels=1)
    assert encoded.shape == (427, 640, 1) and encoded.pixels().shape == (427, 640, 1)
    assert encoded.crop((0, 0, 427, 427), 28).shape == (28, 28, 1)


def png(*pieces):
    """A PNG of chunks, each a name and its content."""
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content))
        + name
        + content
        + struct.pack(">I", zlib.crc32(name + content))
        for name, content in pieces
    )


def png_header(width, height, bits=8):
    return b"IHDR", struct.pack(">IIBBBBB", width, height, bits, 2, 0, 0, 0)


PNG_END = (b"IDAT", zlib.compress(bytes(7))), (b"IEND", b"")


def sixteen_bit_png():
    """One pixel of RGB with 16 bits a channel, which PIL opens as if it had 8."""
    return png(png_header(1, 1, 16), *PNG_END)


def bombs():
    """Files of a few bytes that declare as many pixels as their format allows."""
    large = 60_000
    moving = (b"acTL", struct.pack(">II", 2, 0)), (
        b"fcTL", struct.pack(">IIIIIHHBB", 0, large, large, 0, 0, 1, 1, 1, 0),
    )  # fmt: skip
    bmp = bytearray(written(Image.new("RGB", (8, 8)), "BMP"))
    struct.pack_into("<ii", bmp, 18, large, large)
    jpeg = bytearray(written(Image.new("RGB", (8, 8))))
    struct.pack_into(">HH", jpeg, jpeg.index(b"\xff\xc0") + 5, large, large)
    gif = b"GIF89a" + struct.pack("<HHBBB", 8, 8, 0x80, 0, 0) + bytes(6) + b"!\xf9\x04\x08"
    frame = bytes(4) + b"," + struct.pack("<HHHHB", 0, 0, large, large, 0) + b"\2\2\x44\1\0;"
    webp = b"RIFF\x1a\0\0\0WEBPVP8L\x0d\0\0\0\x2f" + b"\xff\xff\xff\x0f" + bytes(8)
    extended = bytearray(written(Image.new("RGB", (8, 8)), "WEBP", exif=b"Exif\0\0MM"))
    extended[24:30] = b"\xff\x3f\0\xff\x3f\0"
    return {
        "png": png(png_header(large, large), *PNG_END),
        "moving png": png(png_header(large, large), *moving, *PNG_END),
        "png of two headers": png(png_header(8, 8), png_header(large, large), *moving, *PNG_END),
        "gif": b"GIF89a" + struct.pack("<HH", large, large) + gif[10:] + frame,
        "gif frame": gif + frame,
        "bmp": bytes(bmp),
        "jpeg": bytes(jpeg),
        "webp": webp,
        "extended webp": bytes(extended),
    }


@pytest.mark.parametrize("kind", bombs())
def test_an_image_that_declares_too_many_pixels_is_refused_before_any_is_made(
    kind, tmp_path, recwarn
):
    """Pillow would take from 1 to 14 GB for one, and warn on the screen."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    path = tmp_path / "bomb"
    path.write_bytes(bombs()[kind])
    for use in (read_encoded, read_size):
        message = complaint(lambda use=use: use(str(path)), path, "pixels, legal: up to 50,000,000")
        assert "max_image_pixels" in message
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 100 * 2**10  # KiB
    assert not recwarn.list


@pytest.mark.parametrize(
    ("suffix", "options"),
    [("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("BMP", {}), ("GIF", {}),
     ("WEBP", {}), ("WEBP", {"lossless": True}), ("WEBP", {"exif": b"Exif\0\0"}),
     *((suffix, {"save_all": True, "append_images": [PHOTOGRAPHS[1].resize((9, 7))] * 3})
       for suffix in ("PNG", "GIF", "WEBP"))],
)  # fmt: skip
def test_the_limit_on_pixels_is_exact(suffix, options):
    """Of the whole picture; how many frames follow the first one is no matter."""
    if "append_images" in options:
        options = {**options, "append_images": [PHOTOGRAPHS[1].resize((90, 70))] * 3}
    content = written(PHOTOGRAPHS[0].resize((90, 70)), suffix, **options)
    assert EncodedImage(content, "x", max_pixels=6300).pixels().shape == (70, 90, 3)
    complaint(lambda: EncodedImage(content, "x", max_pixels=6299), "90 x 70 are 6,300", "6,299")


@pytest.fixture(scope="module")
def inflating():
    """Nearly 200 MiB of zeros, compressed."""
    zeros = zlib.compressobj(9)
    return b"".join(zeros.compress(bytes(2**24)) for _ in range(12)) + zeros.flush()


@pytest.mark.parametrize("name", [b"zTXt", b"iCCP"])
@pytest.mark.parametrize("first", [True, False])
def test_texts_that_inflate_take_no_memory(name, first, inflating, recwarn):
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    chunks = [(b"IDAT", zlib.compress(bytes(4))), (name, b"a\0\0" + inflating)]
    content = png(png_header(1, 1), *(reversed(chunks) if first else chunks), (b"IEND", b""))
    with contextlib.suppress(data.DataError):
        EncodedImage(content, "inflates").pixels()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 100 * 2**10  # KiB


def test_a_file_that_is_no_image_says_what_would_be_one(tmp_path):
    path = tmp_path / "a.png"
    for content in (b"", b"no image", written(PHOTOGRAPHS[0], "TIFF")):
        path.write_bytes(content)
        message = complaint(lambda: read_encoded(str(path)), path, "JPEG, PNG, WebP, BMP or GIF")
        assert "BytesIO" not in message


@pytest.mark.parametrize("kind", ["a FIFO", "a socket", "a character device"])
@pytest.mark.parametrize("use", [read_encoded, read_size])
def test_special_files_are_not_opened(tmp_path, monkeypatch, kind, use):
    make_special(tmp_path / "a.png", kind, monkeypatch)
    complaint(lambda: use(str(tmp_path / "a.png")), "a.png", f"is {kind}", "regular file")


@pytest.mark.skipif(not os.path.exists("/proc/kmsg"), reason="a file that blocks is Linux's")
@pytest.mark.parametrize("use", [read_encoded, read_size])
def test_a_regular_file_that_says_it_is_empty_is_not_waited_for(tmp_path, monkeypatch, use):
    make_special(tmp_path / "a.png", "an entry of /proc", monkeypatch)
    complaint(lambda: use(str(tmp_path / "a.png")), "a.png", "cannot be decoded")


def test_what_cannot_be_decoded_is_named():
    content = written(PHOTOGRAPHS[0])
    cut = EncodedImage(content[: len(content) // 2], "cut.jpg")  # its header is whole
    complaint(lambda: cut.crop((0, 0, 400, 400), 32), "cut.jpg", "truncated")
    complaint(cut.pixels, "cut.jpg", "truncated")
    complaint(lambda: EncodedImage(content[:50], "head.jpg"), "head.jpg")
    complaint(lambda: EncodedImage(b"", "empty.png"), "empty.png")
    complaint(lambda: EncodedImage(written(Image.new("I;16", (6, 6)), "PNG"), "deep.png"), "8-bit")
    complaint(lambda: EncodedImage(sixteen_bit_png(), "deep.png"), "8-bit")
    # A program in PostScript, under whatever name, is not run.
    complaint(lambda: EncodedImage(written(PHOTOGRAPHS[0], "EPS"), "photo.jpg"), "photo.jpg")
    complaint(lambda: read_encoded("/nowhere/photo.jpg"), "/nowhere/photo.jpg")


def test_decoding_lets_other_threads_run():
    """While one large image is decoded, another thread is never held up for most of that time."""
    encoded = EncodedImage(written(PHOTOGRAPHS[0].resize((6000, 4500))), "large")
    pauses, done = [], threading.Event()

    def tick():
        last = time.perf_counter()
        while not done.is_set():
            time.sleep(0.001)
            now = time.perf_counter()
            pauses.append(now - last)
            last = now

    other = threading.Thread(target=tick)
    other.start()
    start = time.perf_counter()
    encoded.crop((0, 0, 4500, 4500), 2000)
    taken = time.perf_counter() - start
    done.set()
    other.join()
    assert max(pauses) < taken / 2 and len(pauses) > 10


def test_a_batch_of_photographs_is_that_of_whole_images(tmp_path):
    for split in ("train", "test"):
        for i, name in enumerate("ab"):
            (tmp_path / split / name).mkdir(parents=True)
            for k, size in enumerate([(300, 200), (200, 280)]):
                picture = PHOTOGRAPHS[i].resize(size)
                picture.save(tmp_path / split / name / f"{k}.jpg", quality=95)
    config = DataConfig(name="folder", directory=str(tmp_path), resolution=64, batch_size=4)
    dataset = data.load(config)
    (batch,) = data.eval_batches(dataset.test, config)
    view = View(resolution=64, photographs=True)
    whole = [central_view(dataset.test[i]["image"], view) for i in range(4)]
    np.testing.assert_allclose(batch["image"], np.stack(whole) / np.float32(127.5) - 1, atol=1e-6)
    assert batch["label"].tolist() == [0, 0, 1, 1]
