"""A folder of images is a set: a class a folder, each image once, in a split that stays."""

from functools import partial

import pytest
from conftest import one_line
from PIL import Image

from mnet_jax import data
from mnet_jax.config import DataConfig

pytestmark = pytest.mark.usefixtures("data_folder")
complaint = partial(one_line, data.DataError)


def write_images(root, splits, sizes=((6, 6),), suffix="png"):
    """A folder of images: `splits` maps a split ("" for none) to its number of images per class."""
    number = 0
    for split, counts in splits.items():
        for name, count in counts.items():
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                size = sizes[number % len(sizes)]
                number += 1
                Image.new("RGB", size, (number, 0, 255)).save(folder / f"{index}.{suffix}")
    return root


@pytest.mark.parametrize("folder", ["test", "val", "validation"])
def test_folder_with_splits(tmp_path, folder):
    write_images(tmp_path, {"train": {"b": 5, "a": 4}, folder: {"b": 1, "a": 2}})
    (tmp_path / "train" / "a" / "notes.txt").touch()
    (tmp_path / "train" / "a" / "._0.png").touch()
    (tmp_path / "train" / ".cache").mkdir()
    dataset = data.load(DataConfig(name="folder", directory=str(tmp_path), resolution=6))
    assert dataset.class_names == ("a", "b")
    assert len(dataset.train) + len(dataset.validation) == 9
    assert [dataset.test[i]["label"] for i in range(3)] == [0, 0, 1]
    # Images are numbered in the order of writing: train's b, a, then test's b, a.
    assert [int(dataset.test[i]["image"][0, 0, 0]) for i in range(3)] == [11, 12, 10]


@pytest.mark.parametrize("sizes", [((6, 6),), ((6, 6), (9, 7))])
def test_flat_folder_is_split_once_each(tmp_path, sizes):
    write_images(tmp_path, {"": {"a": 10, "b": 20}}, sizes)
    dataset = data.load(DataConfig(name="folder", directory=str(tmp_path), resolution=6))
    splits = (dataset.train, dataset.validation, dataset.test)
    ids = [int(split[i]["image"][0, 0, 0]) for split in splits for i in range(len(split))]
    assert sorted(ids) == list(range(1, 31))
    assert [dataset.test[i]["label"] for i in range(6)] == [0, 0, 1, 1, 1, 1]
    assert isinstance(dataset.test, data.ArraySource) == (len(sizes) == 1)


def test_folders_that_cannot_serve(tmp_path):
    def refused(root, *named):
        config = DataConfig(name="folder", directory=None if root is None else str(root))
        complaint(lambda: data.load(config), *named)

    refused(None, "directory")
    refused(tmp_path / "absent", tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", tmp_path / "empty", "2 or more")
    refused(write_images(tmp_path / "one", {"": {"cat": 4}}), "cat", "2 or more")
    hollow = write_images(tmp_path / "hollow", {"": {"cat": 4, "dog": 0}})
    refused(hollow, hollow / "dog", ".png")
    refused(write_images(tmp_path / "few", {"": {"cat": 4, "dog": 1}}), "dog", "one image")
    refused(write_images(tmp_path / "untested", {"train": {"a": 2, "b": 2}}), "test/")
    differing = {"train": {"a": 2, "b": 2}, "test": {"a": 2, "c": 2}}
    refused(write_images(tmp_path / "differing", differing), "b, c")


@pytest.mark.parametrize("sizes", [((6, 6),), ((6, 6), (9, 7))])
def test_an_image_that_cannot_be_decoded_is_named(tmp_path, sizes):
    write_images(tmp_path, {"": {"a": 4, "b": 4}}, sizes)
    bad = tmp_path / "a" / "3.png"
    bad.write_bytes(bad.read_bytes()[:-30])
    config = DataConfig(name="folder", directory=str(tmp_path), batch_size=8, resolution=6)

    def use():
        dataset = data.load(config)
        for split in (dataset.train, dataset.validation, dataset.test):
            list(data.eval_batches(split, config))

    complaint(use, bad)
    Image.new("I;16", (6, 6)).save(bad)
    complaint(use, bad, "8-bit")
    bad.write_bytes(b"")
    complaint(use, bad)
