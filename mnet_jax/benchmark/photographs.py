"""Writes photographs for timing the input pipeline: crops of scikit-learn's two sample images."""

from pathlib import Path

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 500, 375  # the most frequent size in ImageNet
_ZOOM = (0.45, 0.88)  # width of a crop, relative to the samples' 640 pixels
_GRAIN = (2.0, 8.0)  # standard deviation of the noise, in pixel values; else files are too small
_QUALITY = (80, 96)


def write_photographs(folder: Path, count: int) -> None:
    """Writes `count` JPEG files to `folder`/train and four to `folder`/test, in two equal classes.

    Each file is a different crop of a sample image, with different noise. The mean size of the
    files is 60 to 70 KB; half of ImageNet's files are at least as large.
    """
    from sklearn.datasets import load_sample_images  # here, as it takes a second

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
