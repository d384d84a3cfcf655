"""A folder of images is a set: a class a folder, each image once, in a split that stays."""

import os
import shutil
from functools import partial

import pytest
from messages import one_line
from PIL import Image
from special_files import make_special

from mnet_jax import data
from mnet_jax.config import DataConfig
from mnet_jax.data import folder as folders

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
    assert {dataset.test[i]["label"] for i in range(len(dataset.test))} == {0, 1}
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


def load(root, **options):
    return data.load(DataConfig(name="folder", directory=str(root), resolution=6, **options))


def numbers(source):
    """The images of a split by the red that `write_images` gave them."""
    return {int(source[index]["image"][0, 0, 0]) for index in range(len(source))}


def splits_of(root):
    dataset = load(root)
    return [numbers(split) for split in (dataset.train, dataset.validation, dataset.test)]


def test_an_image_more_or_less_moves_no_other_one(tmp_path):
    write_images(tmp_path, {"": {"a": 40, "b": 30}})
    before = splits_of(tmp_path)
    assert all(before)
    Image.new("RGB", (6, 6), (200, 0, 255)).save(tmp_path / "a" / "00.png")
    (tmp_path / "b" / "17.png").unlink()
    gone = 40 + 17 + 1
    after = splits_of(tmp_path)
    assert [split - {200} for split in after] == [split - {gone} for split in before]
    assert sum(200 in split for split in after) == 1


@pytest.mark.parametrize("count", range(2, 9))
def test_every_class_is_trained_and_tested_however_few_its_images(tmp_path, count):
    write_images(tmp_path, {"": {"a": count, "b": 2, "c": count}})
    dataset = load(tmp_path)
    for splits in ((dataset.train, dataset.validation), (dataset.test,)):
        found = {split[i]["label"] for split in splits for i in range(len(split))}
        assert found == {0, 1, 2}
    assert len(dataset.train) and len(dataset.validation)


def test_a_listing_is_of_paths_and_sizes_alone(tmp_path):
    first = write_images(tmp_path / "first", {"": {"a": 5, "b": 4}})
    listing = load(first).listing
    copy = tmp_path / "copy"
    shutil.copytree(first, copy)
    os.utime(copy / "a" / "0.png", (0, 0))
    (copy / "a" / "notes.txt").touch()
    assert load(copy).listing == listing and listing.startswith("9 files")

    def changed(change):
        other = tmp_path / "changed"
        shutil.rmtree(other, ignore_errors=True)
        shutil.copytree(first, other)
        change(other)
        return load(other).listing

    found = [
        listing,
        changed(lambda root: (root / "a" / "0.png").unlink()),
        changed(lambda root: (root / "a" / "0.png").rename(root / "a" / "x.png")),
        changed(lambda root: (root / "a" / "0.png").rename(root / "b" / "x.png")),
        changed(lambda root: (root / "a").rename(root / "c")),
        changed(lambda root: shutil.copy(root / "a" / "0.png", root / "a" / "x.png")),
        changed(lambda root: Image.effect_noise((6, 6), 50).save(root / "a" / "0.png")),
    ]
    assert len({*found}) == len(found)


def test_files_that_are_not_those_of_the_listing_are_refused(tmp_path):
    write_images(tmp_path, {"train": {"a": 5, "b": 4}, "test": {"a": 1, "b": 1}})
    listing = load(tmp_path).listing
    assert load(tmp_path, listing=listing).listing == listing
    (tmp_path / "test" / "a" / "0.png").rename(tmp_path / "test" / "a" / "1.png")
    now = load(tmp_path).listing
    complaint(lambda: load(tmp_path, listing=listing), "listing: got", listing, now, "as they were")


def test_only_a_folder_has_a_listing():
    one_line(ValueError, lambda: DataConfig(name="digits", listing="9 files"), "listing", "folder")


def test_links_to_nothing_are_told(tmp_path):
    write_images(tmp_path, {"": {"a": 4, "b": 4}})
    for index in range(4):
        (tmp_path / "b" / f"link{index}.png").symlink_to(tmp_path / "gone" / f"{index}.png")
    complaint(lambda: load(tmp_path), "4 of 8 images", tmp_path / "b", "link0.png", "link to no")
    for index in range(4):
        (tmp_path / "b" / f"link{index}.png").unlink()
        (tmp_path / "b" / f"link{index}.png").symlink_to(tmp_path / "a" / f"{index}.png")
    assert load(tmp_path).listing.startswith("12 files")


@pytest.mark.parametrize("kind", ["a FIFO", "a socket", "a character device"])
@pytest.mark.parametrize("bad_images", [0, 5])
def test_special_files_among_the_images_are_not_opened(tmp_path, monkeypatch, kind, bad_images):
    write_images(tmp_path, {"": {"a": 4, "b": 4}})
    make_special(tmp_path / "a" / "x.png", kind, monkeypatch)
    complaint(
        lambda: load(tmp_path, bad_images=bad_images), "1 of 5 images", f"x.png is {kind}"
    )  # fmt: skip


def test_a_folder_without_end_is_not_read_to_its_end(tmp_path, monkeypatch):
    write_images(tmp_path, {"": {"a": 9, "b": 9}})
    (tmp_path / "a" / "around").symlink_to(tmp_path)
    assert load(tmp_path).listing.startswith("18 files")
    monkeypatch.setattr(folders, "MOST_ENTRIES", 15)
    complaint(lambda: load(tmp_path), tmp_path, "15 files or more, legal: fewer")


def test_names_of_files_forge_no_line(tmp_path):
    write_images(tmp_path, {"": {"a": 2, "b": 1}})
    (tmp_path / "b").rename(tmp_path / "b\n\x1b[31mexperiments.train: fine")
    assert complaint(lambda: load(tmp_path), "one image").isprintable()
    (tmp_path / "a").rename(tmp_path / "c")
    (tmp_path / "c" / "0\nfine.png").write_bytes(b"no image")
    shutil.copytree(tmp_path / "c", tmp_path / "b")
    shutil.rmtree(next(tmp_path.glob("*fine")))
    assert complaint(lambda: load(tmp_path), "got no image").isprintable()
