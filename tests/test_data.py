"""Data: what goes in comes out, once each, in an order that a seed fixes and a checkpoint keeps."""

import gzip
import multiprocessing
import os
import stat
import struct
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import grain
import numpy as np
import orbax.checkpoint as ocp
import pytest
import tensorflow_datasets as tfds
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_digits

from mnet_jax import data
from mnet_jax.config import DataConfig
from mnet_jax.data import augment, preparation, sources
from mnet_jax.data.builders import FASHION_FILES
from mnet_jax.data.resize import central_view

DEBIAN_FASHION = Path("/usr/share/datasets/fashion-mnist")
AUGMENTATIONS = ("none", "shift", "shift_flip", "resized_crop_flip")


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A TFDS data folder for the module, so that nothing is written to the home."""
    return tmp_path_factory.mktemp("tfds")


@pytest.fixture(autouse=True)
def data_folder(stored, tmp_path_factory, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(stored))
    # TFDS leaves an empty temporary folder behind for each builder that is not ours.
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path_factory.getbasetemp()))


def numbered(count, side=4, channels=1):
    """A source whose image i is filled with i, to recognise it by."""
    values = np.arange(count, dtype=np.uint8)[:, None, None, None]
    images = np.broadcast_to(values, (count, side, side, channels)).copy()
    return data.ArraySource(images, np.arange(count, dtype=np.int32))


def take(iterator, count):
    return [next(iterator) for _ in range(count)]


def assert_same(left, right):
    assert len(left) == len(right)
    for one, other in zip(left, right, strict=True):
        assert one.keys() == other.keys()
        for key in one:
            np.testing.assert_array_equal(one[key], other[key])


def one_line(call, *named):
    """The message of the DataError that `call` raises: one line that says each of `named`."""
    with pytest.raises(data.DataError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for name in named:
        assert str(name) in message
    return message


def write_idx(path, array, magic=None, declared=None):
    array = np.asarray(array, np.uint8)
    header = struct.pack(">I", 0x0800 | array.ndim if magic is None else magic)
    shape = array.shape if declared is None else declared
    path.write_bytes(
        gzip.compress(header + struct.pack(f">{len(shape)}I", *shape) + array.tobytes())
    )


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


# The sets


def test_digits_are_sklearns_each_once():
    config = DataConfig(name="digits", resolution=8)
    dataset = data.load(config)
    assert (len(dataset.train) + len(dataset.validation), len(dataset.test)) == (1297, 500)
    assert dataset.num_classes == 10 and dataset.class_names == tuple("0123456789")
    images, labels = load_digits(return_X_y=True)
    theirs = sorted((label, tuple(image)) for image, label in zip(images, labels, strict=True))
    ours = []
    for split in (dataset.train, dataset.validation, dataset.test):
        for index in range(len(split)):
            image, label = split[index]["image"], split[index]["label"]
            assert image.shape == (8, 8, 3) and image.dtype == np.uint8 and type(label) is int
            assert (image == image[..., :1]).all()
            ours.append((label, tuple(np.round(image[..., 0].ravel() / 255 * 16))))
    assert sorted(ours) == theirs


def test_digits_test_split_has_its_share_of_each_class():
    dataset = data.load(DataConfig(name="digits"))
    counts = np.bincount(load_digits().target)
    test = np.bincount([dataset.test[index]["label"] for index in range(500)])
    assert np.abs(test - counts * 500 / 1797).max() <= 1


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


@pytest.mark.skipif(not DEBIAN_FASHION.is_dir(), reason="dataset-fashion-mnist is not installed")
def test_debians_fashion(stored):
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


def test_validation_is_the_same_whatever_else_varies():
    config = DataConfig(name="digits", resolution=8)
    other = replace(config, resolution=16, batch_size=7, augmentation="shift_flip")
    np.testing.assert_array_equal(
        data.load(config).validation.labels, data.load(other).validation.labels
    )


@given(count=st.integers(2, 300), fraction=st.floats(0.001, 0.999))
def test_held_out_is_a_partition(count, fraction):
    kept, held = sources.held_out(count, fraction)
    assert sorted([*kept, *held]) == list(range(count)) and len(kept) and len(held)
    assert abs(len(held) - count * fraction) <= 1


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


class PhotoSet(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """PNG images as `tfds.features.Image`, of one size or of several; ImageNet's odd splits."""

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, *, side, splits, data_dir, version=None):
        self._side, self._splits = side, splits
        super().__init__(data_dir=data_dir, version=version)

    def _info(self):
        shape = (self._side, self._side, 3)
        features = {
            "image": tfds.features.Image(shape=shape),
            "label": tfds.features.ClassLabel(names=["cat", "dog"]),
            "file": tfds.features.Text(),
        }
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True
        )

    def _split_generators(self, dl_manager):
        return {name: self._generate_examples(*args) for name, args in self._splits.items()}

    def _generate_examples(self, count, label):
        for index in range(count):
            size = (self._side or 8 + index, self._side or 10)
            image = Image.new("RGB", size, (index, 5, 250))
            yield index, {"image": image, "label": label, "file": f"{index}.png"}


def prepare(folder, side, splits, file_format="array_record"):
    builder = PhotoSet(side=side, splits=splits, data_dir=folder)
    builder.download_and_prepare(file_format=file_format)
    return builder


@pytest.mark.parametrize("side", [8, None])
def test_prepared_tfds_set(tmp_path, side):
    prepare(tmp_path, side, {"train": (20, 1), "test": (5, 0)})
    for name in ("photo_set", "photo_set:1.0.0"):
        dataset = data.load(DataConfig(name=name, directory=str(tmp_path), resolution=8))
        assert dataset.class_names == ("cat", "dog")
        seen = [
            int(split[i]["image"][0, 0, 0])
            for split in (dataset.train, dataset.validation)
            for i in range(len(split))
        ]
        assert sorted(seen) == list(range(20))
        assert [dataset.test[i]["label"] for i in range(5)] == [0] * 5
        config = DataConfig(resolution=8, batch_size=4)
        (first, last) = data.eval_batches(dataset.test, config)
        np.testing.assert_allclose(first["image"][3, 4, 4], np.array([3, 5, 250]) / 127.5 - 1)
        assert last["mask"].tolist() == [1, 0, 0, 0]


def test_unlabelled_test_split_gives_way_to_validation(tmp_path):
    prepare(tmp_path, 8, {"train": (9, 1), "validation": (4, 0), "test": (6, -1)})
    dataset = data.load(DataConfig(name="photo_set", directory=str(tmp_path), resolution=8))
    assert [dataset.test[i]["label"] for i in range(len(dataset.test))] == [0] * 4


# Batches to train


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_the_stream_follows_from_the_seed(augmentation):
    config = DataConfig(batch_size=16, resolution=16, augmentation=augmentation)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (50, 20, 20, 3), dtype=np.uint8)
    source = data.ArraySource(images, np.arange(50, dtype=np.int32))
    first, again, other = (take(data.train_batches(source, config, seed), 8) for seed in (3, 3, 4))
    assert_same(first, again)
    assert any((x["label"] != y["label"]).any() for x, y in zip(first, other, strict=True))
    for batch in first:
        assert batch["image"].shape == (16, 16, 16, 3) and batch["image"].dtype == np.float32
        assert batch["label"].shape == (16,) and batch["label"].dtype == np.int32
        assert batch["image"].min() >= -1 and batch["image"].max() <= 1


@settings(max_examples=20, deadline=None)
@given(count=st.integers(1, 60), batch=st.integers(1, 40), seed=st.integers(0, 2**40))
def test_each_epoch_has_each_image_once(count, batch, seed):
    config = DataConfig(batch_size=batch, resolution=4, augmentation="none")
    iterator = data.train_batches(numbered(count), config, seed)
    batches = take(iterator, -(-3 * count // batch))
    labels = np.concatenate([item["label"] for item in batches])
    for epoch in range(3):
        assert sorted(labels[epoch * count : (epoch + 1) * count]) == list(range(count))
    # The labels number the images, so they must travel together.
    images = np.concatenate([item["image"] for item in batches])[:, 0, 0, 0]
    np.testing.assert_allclose(images, labels / 127.5 - 1, atol=1e-6)


def test_epochs_differ_in_order_and_in_augmentation():
    config = DataConfig(batch_size=60, resolution=8, augmentation="shift")
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (60, 8, 8, 1), dtype=np.uint8)
    source = data.ArraySource(images, np.arange(60, dtype=np.int32))
    first, second = take(data.train_batches(source, config, 0), 2)
    assert (first["label"] != second["label"]).any()
    by_image = [batch["image"][np.argsort(batch["label"])] for batch in (first, second)]
    # One of nine shifts each: all sixty the same twice would be a wonder.
    assert (by_image[0] != by_image[1]).any()


@pytest.mark.parametrize("augmentation", ["shift_flip", "resized_crop_flip"])
def test_a_saved_iterator_resumes_exactly(augmentation):
    config = DataConfig(batch_size=16, resolution=8, augmentation=augmentation)
    source = numbered(50, side=12)
    iterator = data.train_batches(source, config, 1)
    take(iterator, 5)
    state = iterator.get_state()
    expected = take(iterator, 6)
    fresh = data.train_batches(source, config, 1)
    fresh.set_state(state)
    assert_same(take(fresh, 6), expected)
    iterator.set_state(state)
    assert_same(take(iterator, 6), expected)


def test_an_iterator_resumes_through_orbax(tmp_path):
    config = DataConfig(batch_size=16, resolution=8, augmentation="shift_flip")
    iterator = data.train_batches(numbered(50, side=8), config, 1)
    with ocp.CheckpointManager(tmp_path) as manager:
        take(iterator, 7)
        args = ocp.args.Composite(data=grain.checkpoint.CheckpointSave(iterator))
        manager.save(7, args=args)
        manager.wait_until_finished()
        expected = take(iterator, 5)
        fresh = data.train_batches(numbered(50, side=8), config, 1)
        args = ocp.args.Composite(data=grain.checkpoint.CheckpointRestore(fresh))
        restored = manager.restore(7, args=args)["data"]
    assert_same(take(restored, 5), expected)


@pytest.mark.parametrize(("count", "batch", "steps"), [(100, 32, 3), (96, 32, 3), (5, 32, 1)])
def test_steps_per_epoch(count, batch, steps):
    assert data.steps_per_epoch(numbered(count), DataConfig(batch_size=batch)) == steps


def test_any_random_access_source_will_do():
    class Photographs:
        shape = None

        def __len__(self):
            return 5

        def __getitem__(self, index):
            image = np.full((20 + index, 30, 3), index, np.uint8)
            return {"image": image, "label": index}

    for augmentation in AUGMENTATIONS:
        config = DataConfig(batch_size=5, resolution=8, augmentation=augmentation)
        batch = next(data.train_batches(Photographs(), config, 0))
        expected = np.broadcast_to(batch["label"][:, None, None, None], (5, 8, 8, 3))
        np.testing.assert_allclose((batch["image"] + 1) * 127.5, expected, atol=1e-4)


# Batches to evaluate


@settings(max_examples=20, deadline=None)
@given(count=st.integers(0, 40), batch=st.integers(1, 17))
def test_evaluation_sees_each_image_once_in_order(count, batch):
    config = DataConfig(batch_size=batch, resolution=4)
    batches = data.eval_batches(numbered(count), config)
    for _ in range(2):  # and again
        seen = list(batches)
        assert len(seen) == len(batches)
        assert all(item["image"].shape == (batch, 4, 4, 3) for item in seen)
        assert sum(item["mask"].sum() for item in seen) == count
        labels = [y for item in seen for y, m in zip(item["label"], item["mask"], strict=True) if m]
        assert labels == list(range(count))
        for item in seen:
            assert not item["image"][item["mask"] == 0].any()
            assert not item["label"][item["mask"] == 0].any()
            assert item["mask"].dtype == np.float32


def test_a_view_keeps_proportions_and_photographs_lose_their_border():
    ramp = np.broadcast_to(np.arange(256, dtype=np.uint8)[None, :, None], (128, 256, 3))
    whole = central_view(ramp, 128, photograph=False)
    np.testing.assert_array_equal(whole, ramp[:, 64:192])  # the centre, at its own scale
    middle = central_view(ramp, 112, photograph=True)  # 224/256 of 128: no scaling again
    np.testing.assert_array_equal(middle, ramp[8:120, 72:184])
    assert central_view(whole, 128, photograph=False) is whole


# Augmentations

IMAGES = np.random.default_rng(1).integers(0, 256, (40, 16, 24, 3), dtype=np.uint8)


@given(st.integers(0, 2**32))
def test_shift_is_a_crop_of_the_edge_padded_image(seed):
    shifted = augment.shift(IMAGES[:4], np.random.default_rng(seed))
    for image, moved in zip(IMAGES[:4], shifted, strict=True):
        padded = np.pad(image, ((2, 2), (3, 3), (0, 0)), mode="edge")
        crops = [padded[y : y + 16, x : x + 24] for y in range(5) for x in range(7)]
        assert any((moved == crop).all() for crop in crops)


def test_shift_reaches_every_offset_and_no_more():
    image = np.zeros((2000, 8, 8, 1), np.uint8)
    image[:, 4, 4] = 1
    at = np.argwhere(augment.shift(image, np.random.default_rng(0))[..., 0])[:, 1:]
    counts = np.unique(at, axis=0, return_counts=True)[1]
    assert len(at) == 2000 and len(counts) == 9  # side 8: one pixel each way
    assert counts.min() > 150  # 222 expected


def test_flip_mirrors_about_half():
    flipped = augment.flip(np.tile(IMAGES, (25, 1, 1, 1)), np.random.default_rng(0))
    same = [(a == b).all() for a, b in zip(flipped, np.tile(IMAGES, (25, 1, 1, 1)), strict=True)]
    other = [
        (a == b).all()
        for a, b in zip(flipped, np.tile(IMAGES, (25, 1, 1, 1))[:, :, ::-1], strict=True)
    ]
    assert all(a != b for a, b in zip(same, other, strict=True))
    assert 400 < sum(other) < 600


@given(height=st.integers(1, 400), width=st.integers(1, 400), seed=st.integers(0, 2**32))
def test_crop_boxes_are_inside_and_of_legal_aspect(height, width, seed):
    left, top, right, bottom = augment.crop_box(height, width, np.random.default_rng(seed))
    assert 0 <= left < right <= width and 0 <= top < bottom <= height
    wide, tall = right - left, bottom - top
    # Rounding to whole pixels moves either side by at most one.
    assert (wide - 1) / (tall + 1) <= 4 / 3 and (wide + 1) / (tall - 1 or 0.5) >= 3 / 4
    if min(height, width) > 40 and max(height, width) / min(height, width) < 1.3:
        assert 0.07 * height * width < wide * tall <= height * width


# What a person can get wrong


def test_a_name_nobody_knows_is_refused_in_seconds(stored):
    start = time.monotonic()
    message = one_line(lambda: data.load(DataConfig(name="cifar1o")), "cifar1o", stored, "cifar10")
    assert "digits" in message and "folder" in message
    assert time.monotonic() - start < 10


def test_a_stock_set_that_is_not_prepared_is_refused_in_seconds(stored):
    start = time.monotonic()
    load = lambda: data.load(DataConfig(name="cifar10"))  # noqa: E731
    message = one_line(load, "cifar10", stored, "tfds build", "array_record")
    assert "TFRECORD" not in message and time.monotonic() - start < 10


def test_wrong_names_versions_and_configs(tmp_path):
    prepare(tmp_path, 8, {"train": (4, 0), "test": (2, 1)})

    def load(name):
        return lambda: data.load(DataConfig(name=name, directory=str(tmp_path)))

    one_line(load("photo_set:2.0.0"), "photo_set:2.0.0", "photo_set:1.0.0")
    one_line(load("photo_set/big"), "photo_set/big", "photo_set:1.0.0")
    one_line(load("photo set"), "photo set", "name/config")
    one_line(load("foto_set"), "did you mean photo_set")


def test_sets_that_cannot_serve(tmp_path):
    def load():
        return data.load(DataConfig(name="photo_set", directory=str(tmp_path)))

    cases = {"test": (2, 1)}, {"train": (4, 1)}, {"train": (4, 1), "test": (2, -1)}
    for splits in cases:
        place = prepare(tmp_path, 8, splits).data_path
        one_line(load, "photo_set", ", ".join(splits))
        place.rmtree()
    info = prepare(tmp_path, 8, {"train": (4, 0), "test": (2, 1)}).data_path / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    message = one_line(load, "tfrecord", "convert_format", "array_record", info.parent)
    assert "TFRECORD" not in message
    info.write_text("{")
    one_line(load, "photo_set", info.parent)


def test_a_damaged_shard_is_named(tmp_path):
    place = prepare(tmp_path, 8, {"train": (4, 0), "test": (2, 1)}).data_path
    for shard in Path(place).glob("*test*"):
        shard.unlink()
    config = DataConfig(name="photo_set", directory=str(tmp_path))
    one_line(lambda: data.load(config), "photo_set", "test")


def test_damaged_fashion_files_are_named(fashion):
    folder, (images, labels, *_) = fashion
    load = lambda: data.load(DataConfig(name="fashion_mnist", directory=str(folder)))  # noqa: E731
    pixels, classes = folder / FASHION_FILES[0], folder / FASHION_FILES[1]
    write_idx(pixels, images, magic=0x0801)
    one_line(load, pixels, "0x00000801", "0x00000803")
    write_idx(pixels, images[:-1], declared=images.shape)
    one_line(load, pixels, 39 * 784, "40, 28, 28")
    write_idx(pixels, images[:, :27])
    one_line(load, pixels, "27x28")
    pixels.write_bytes(gzip.compress(b"\0\0\x08"))
    one_line(load, pixels, "3 bytes")
    pixels.write_bytes(b"no gzip")
    one_line(load, pixels, "gzip")
    write_idx(pixels, images)
    pixels.write_bytes(pixels.read_bytes()[:-100])
    one_line(load, pixels)
    write_idx(pixels, images)
    write_idx(classes, labels[:-1])
    one_line(load, classes, 39, 40)
    write_idx(classes, np.where(np.arange(40) == 5, 10, labels))
    one_line(load, classes, "label 10")
    classes.unlink()
    one_line(load, classes.name, folder)


def test_no_fashion_anywhere_says_where_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_DATA_DIRS", str(tmp_path))
    monkeypatch.setattr("mnet_jax.data.builders._SYSTEM_SHARES", (str(tmp_path / "share"),))
    load = lambda: data.load(DataConfig(name="fashion_mnist"))  # noqa: E731
    one_line(load, tmp_path, "dataset-fashion-mnist", "directory")


def test_folders_that_cannot_serve(tmp_path):
    def refused(root, *named):
        config = DataConfig(name="folder", directory=None if root is None else str(root))
        one_line(lambda: data.load(config), *named)

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

    one_line(use, bad)
    Image.new("I;16", (6, 6)).save(bad)
    one_line(use, bad, "8-bit")
    bad.write_bytes(b"")
    one_line(use, bad)


def test_nothing_to_train_on():
    one_line(lambda: data.train_batches(numbered(0), DataConfig(), 0), "without images")


# Preparation


def _load_digits(root, results):
    os.environ["TFDS_DATA_DIR"] = str(root)
    results.put(data.load(DataConfig(name="digits", resolution=8)).test.labels.tolist())


def test_two_processes_prepare_at_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    workers = [context.Process(target=_load_digits, args=(tmp_path, results)) for _ in range(2)]
    for worker in workers:
        worker.start()
    answers = [results.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join()
    assert answers[0] == answers[1] and len(answers[0]) == 500
    assert [path.name for path in tmp_path.iterdir()] == ["mnet_digits"]


def test_the_second_to_finish_takes_the_firsts(tmp_path, monkeypatch):
    """The race itself: another process's set appears just before ours is renamed into place."""
    rename, first = preparation._rename, []

    def slow_rename(finished, place):
        if not first:
            first.append(place)
            data.load(DataConfig(name="digits"))
            first.append((place / "dataset_info.json").stat().st_ino)
        rename(finished, place)

    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(preparation, "_rename", slow_rename)
    assert len(data.load(DataConfig(name="digits")).test) == 500
    place, inode = first
    assert (place / "dataset_info.json").stat().st_ino == inode


def test_prepared_once_and_again_after_damage(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    config = DataConfig(name="digits", resolution=8)
    expected = data.load(config).train.images
    place = tmp_path / "mnet_digits" / "1.0.0"
    written = (place / "dataset_info.json").stat().st_mtime_ns
    data.load(config)
    assert (place / "dataset_info.json").stat().st_mtime_ns == written
    for damage in (
        lambda: (place / "dataset_info.json").unlink(),
        lambda: (place / "dataset_info.json").write_text("{"),
        lambda: [shard.unlink() for shard in place.glob("*train.array_record*")],
        lambda: [os.truncate(shard, 5000) for shard in place.glob("*train.array_record*")],
    ):
        damage()
        np.testing.assert_array_equal(data.load(config).train.images, expected)
    stale = tmp_path / f"{preparation._SCRATCH}killed"
    stale.mkdir()
    os.utime(stale, (0, 0))
    (place / "dataset_info.json").unlink()
    data.load(config)
    assert not stale.exists()


def test_a_folder_that_cannot_be_written_costs_a_warning(tmp_path, monkeypatch, caplog):
    blocked = tmp_path / "file"
    blocked.touch()  # a file where the folder should be stops root too, unlike permissions
    monkeypatch.setenv("TFDS_DATA_DIR", str(blocked))
    assert len(data.load(DataConfig(name="digits")).test) == 500
    (record,) = [item for item in caplog.records if item.name.startswith("mnet_jax")]
    assert str(blocked) in record.getMessage() and "TFDS_DATA_DIR" in record.getMessage()
    monkeypatch.setattr("tempfile.tempdir", str(blocked))
    one_line(lambda: data.load(DataConfig(name="digits")), blocked, "TFDS_DATA_DIR")


def test_a_full_disk_costs_a_warning(tmp_path, monkeypatch, caplog):
    """ArrayRecord's writer reports it as a RuntimeError; the scratch folder goes all the same."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    prepare, full = tfds.core.GeneratorBasedBuilder.download_and_prepare, [tmp_path]

    def limited(self, **kwargs):
        if any(str(folder) in self.data_dir for folder in full):
            raise RuntimeError("write() failed: No space left on device")
        prepare(self, **kwargs)

    monkeypatch.setattr(tfds.core.GeneratorBasedBuilder, "download_and_prepare", limited)
    scratch = tmp_path.with_name("scratch")
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    assert len(data.load(DataConfig(name="digits")).test) == 500
    assert "No space left" in caplog.text
    full.append(scratch)
    one_line(lambda: data.load(DataConfig(name="digits")), tmp_path, "No space left")
    assert not list(tmp_path.iterdir()) and not list(scratch.iterdir())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_costs_a_warning(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    assert len(data.load(DataConfig(name="digits")).test) == 500


def test_reading_starts_no_backend_and_no_tensorflow(stored):
    """In a fresh interpreter, all the way to a batch; and it prints nothing."""
    code = (
        "import sys; from mnet_jax import data; from mnet_jax.config import DataConfig\n"
        "config = DataConfig(name='digits')\n"
        "dataset = data.load(config)\n"
        "next(data.train_batches(dataset.train, config, 0))\n"
        "list(data.eval_batches(dataset.test, config))\n"
        "assert 'tensorflow' not in sys.modules\n"
        "bridge = sys.modules.get('jax._src.xla_bridge')\n"
        "assert bridge is None or not bridge._backends, bridge._backends\n"
    )
    environment = os.environ | {"TFDS_DATA_DIR": str(stored / "fresh")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "" and done.stderr == ""
