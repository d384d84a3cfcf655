"""Fashion-MNIST is what its four files hold; files that cannot be vouched for are named."""

import dataclasses
import gzip
import hashlib
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from idx_files import write_idx
from messages import one_line

from mnet_jax import data
from mnet_jax.config import DataConfig
from mnet_jax.data import archived
from mnet_jax.data.builders import FASHION_FILES

DEBIAN_FASHION = Path("/usr/share/datasets/fashion-mnist")
pytestmark = pytest.mark.usefixtures("data_folder")
complaint = partial(one_line, data.DataError)


@pytest.fixture
def fashion(tmp_path):
    """A folder with a synthetic Fashion-MNIST of 40 and 12 images, and its arrays."""
    folder = tmp_path / "fashion"
    folder.mkdir()
    rng = np.random.default_rng(0)
    arrays = []
    for count in (40, 12):
        arrays += [rng.integers(0, 256, (count, 28, 28)), rng.integers(0, 10, count)]
    for name, array in zip(FASHION_FILES, arrays, strict=True):
        write_idx(folder / name, array)
    return folder, arrays


def test_fashion_is_what_the_files_hold(fashion):
    folder, (train_images, train_labels, test_images, test_labels) = fashion
    config = DataConfig(name="fashion_mnist", directory=str(folder), resolution=28)
    dataset = data.load(config)
    assert dataset.class_names[0] == "T-shirt/top" and dataset.num_classes == 10
    np.testing.assert_array_equal(dataset.test.images[..., 0], test_images)
    np.testing.assert_array_equal(dataset.test.labels, test_labels)
    images = np.concatenate([dataset.train.images, dataset.validation.images])[..., 0]
    labels = np.concatenate([dataset.train.labels, dataset.validation.labels])
    ours = sorted((int(y), x.tobytes()) for x, y in zip(images, labels, strict=True))
    theirs = zip(train_images.astype(np.uint8), train_labels, strict=True)
    assert ours == sorted((int(y), x.tobytes()) for x, y in theirs)


def test_other_fashion_files_are_another_set(fashion):
    folder, _ = fashion
    config = DataConfig(name="fashion_mnist", directory=str(folder), resolution=28)
    data.load(config)
    write_idx(folder / FASHION_FILES[2], np.full((12, 28, 28), 7))
    assert (data.load(config).test.images == 7).all()


def test_mnist_is_not_taken_for_it(fashion, monkeypatch):
    folder, _ = fashion
    config = DataConfig(name="fashion_mnist", directory=str(folder), resolution=28)
    labels = (folder / archived.MNIST_FILES[-1].name).read_bytes()
    published = dataclasses.replace(
        archived.MNIST_FILES[-1], sha256=hashlib.sha256(labels).hexdigest()
    )
    monkeypatch.setattr(archived, "MNIST_FILES", (*archived.MNIST_FILES[:-1], published))
    complaint(lambda: data.load(config), str(folder), "has the files of MNIST")


@pytest.mark.exhaustive  # tens of thousands of images are prepared
@pytest.mark.skipif(not DEBIAN_FASHION.is_dir(), reason="dataset-fashion-mnist is not installed")
def test_debians_fashion():
    dataset = data.load(DataConfig(name="fashion_mnist", resolution=28))
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (54000, 6000, 10000)
    labels = np.concatenate([dataset.train.labels, dataset.validation.labels])
    np.testing.assert_array_equal(np.bincount(labels), [6000] * 10)
    content = gzip.decompress((DEBIAN_FASHION / FASHION_FILES[2]).read_bytes())
    assert dataset.test.images.tobytes() == content[16:]


def test_fashion_in_xdg_data_dirs(fashion, tmp_path, monkeypatch):
    folder, arrays = fashion
    (tmp_path / "share" / "datasets").mkdir(parents=True)
    folder.rename(tmp_path / "share" / "datasets" / "fashion-mnist")
    monkeypatch.setenv("XDG_DATA_DIRS", f"/nowhere:{tmp_path / 'share'}")
    dataset = data.load(DataConfig(name="fashion_mnist", resolution=28))
    np.testing.assert_array_equal(dataset.test.labels, arrays[3])


def test_damaged_fashion_files_are_named(fashion):
    folder, (images, labels, *_) = fashion
    load = lambda: data.load(DataConfig(name="fashion_mnist", directory=str(folder)))  # noqa: E731
    pixels, classes = folder / FASHION_FILES[0], folder / FASHION_FILES[1]
    write_idx(pixels, images, magic=0x0801)
    complaint(load, pixels, "0x00000801", "0x00000803")
    write_idx(pixels, images[:-1], declared=images.shape)
    complaint(load, pixels, 39 * 784, "40, 28, 28")
    write_idx(pixels, images[:, :27])
    complaint(load, pixels, "27x28")
    pixels.write_bytes(gzip.compress(b"\0\0\x08"))
    complaint(load, pixels, "3 bytes")
    pixels.write_bytes(17 * gzip.compress(bytes(2**24)))  # members of one file
    complaint(load, pixels, "unpacks to more than 268435456 bytes")
    pixels.write_bytes(b"no gzip")
    complaint(load, pixels, "gzip")
    write_idx(pixels, images)
    pixels.write_bytes(pixels.read_bytes()[:-100])
    complaint(load, pixels)
    write_idx(pixels, images)
    write_idx(classes, labels[:-1])
    complaint(load, classes, 39, 40)
    write_idx(classes, np.where(np.arange(40) == 5, 10, labels))
    complaint(load, classes, "label 10")
    classes.unlink()
    complaint(load, classes.name, folder)


def test_no_fashion_anywhere_says_where_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_DATA_DIRS", str(tmp_path))
    monkeypatch.setattr("mnet_jax.data.builders._SYSTEM_SHARES", (str(tmp_path / "share"),))
    load = lambda: data.load(DataConfig(name="fashion_mnist"))  # noqa: E731
    complaint(load, tmp_path, "dataset-fashion-mnist", "directory")
