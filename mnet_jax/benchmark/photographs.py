"""Photographs as JPEG files, for timing what reads them: parts of scikit-learn's two samples."""

from pathlib import Path

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 500, 375  # the most frequent size in ImageNet
_ZOOM = (0.45, 0.88)  # of the samples' 640 pixels
_GRAIN = (2.0, 8.0)  # deviation of a sensor's noise, of 255: without it the files are too small
_QUALITY = (80, 96)


def write_photographs(folder: Path, count: int) -> None:
    """Writes `count` files to `folder`/train, and a few to `folder`/test, half of each class.

    Each is another part of a sample, with noise of its own: 60 to 70 KB in the mean, as much as
    half of ImageNet's files have or more.
    """
    from sklearn.datasets import load_sample_images  # here: it takes a second

    rng = np.random.default_rng(0)
    for name, sample in zip(("building", "flower"), load_sample_images().images, strict=True):
        for split, number in (("train", count // 2), ("test", 2)):
            place = folder / split / name
            place.mkdir(parents=True)
            for index in range(number):
                picture = _part(Image.fromarray(sample), rng)
                picture.save(place / f"{index}.jpg", quality=int(rng.integers(*_QUALITY)))


def _part(sample: Image.Image, rng: np.random.Generator) -> Image.Image:
    width = sample.width * rng.uniform(*_ZOOM)
    height = width * HEIGHT / WIDTH
    left, top = rng.uniform(0, sample.width - width), rng.uniform(0, sample.height - height)
    box = (left, top, left + width, top + height)
    part = sample.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC, box=box)
    noise = rng.normal(0.0, rng.uniform(*_GRAIN), (HEIGHT, WIDTH, 1))
    return Image.fromarray(np.clip(np.asarray(part) + noise, 0, 255).astype(np.uint8))
