"""A few damaged images do not end a training; they are named, counted and stood in for."""

import dataclasses
from functools import partial

import numpy as np
import pytest
from messages import one_line
from PIL import Image

from mnet_jax import data
from mnet_jax.commands import planning
from mnet_jax.config import DataConfig
from mnet_jax.data.sources import ReplacingSource

complaint = partial(one_line, data.DataError)
CLASSES, COUNT = 3, 8


@pytest.fixture
def photographs(tmp_path):
    """The training files of 3 classes; an image's red says its class, its size its number."""
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for label in range(CLASSES):
            folder = tmp_path / split / f"class{label}"
            folder.mkdir(parents=True)
            for number in range(COUNT):
                noise = rng.integers(0, 256, (40 + number, 60, 3), np.uint8)
                noise[..., 0] = 100 * label
                Image.fromarray(noise).save(folder / f"{number}.png")
    return sorted(tmp_path.glob("train/*/*.png"))


def config_of(photographs, **options):
    root = photographs[0].parents[2]
    return DataConfig(
        name="folder", directory=str(root), resolution=16, batch_size=4, **options
    )  # fmt: skip


def cut(path):
    """Its header stays whole, its pixels do not."""
    path.write_bytes(path.read_bytes()[:2000])


def training_files(photographs):
    """Those of the training split, in its order."""
    source = data.load(config_of(photographs)).train
    return [source.source.paths[index] for index in source.indices]


def take(config, batches):
    dataset = data.load(config)
    iterator = data.train_batches(dataset.train, config, seed=0)
    try:
        return [next(iterator) for _ in range(batches)]
    finally:
        iterator.close()


@pytest.mark.parametrize("augmentation", ["none", "resized_crop_flip"])
def test_training_goes_on_and_tells_which(photographs, caplog, augmentation):
    paths = {str(path): path for path in photographs}
    names = training_files(photographs)
    pixels, header = names[2], names[5]
    cut(paths[pixels])
    paths[header].write_bytes(b"no image")
    config = config_of(photographs, bad_images=2, augmentation=augmentation)
    for _ in range(2):  # each run counts for itself
        caplog.clear()
        batches = take(config, 12)
        for batch in batches:  # the class can still be seen
            red = np.round((batch["image"][..., 0].mean(axis=(1, 2)) + 1) * 127.5 / 100)
            assert red.tolist() == batch["label"].tolist()
        message = [record.getMessage() for record in caplog.records]
        assert len(message) == 2 and all("of at most 2" in line for line in message)
        assert any(pixels in line for line in message) and any(header in line for line in message)
    again = take(config, 12)
    for one, other in zip(batches, again, strict=True):
        np.testing.assert_array_equal(one["image"], other["image"])
    complaint(lambda: take(dataclasses.replace(config, bad_images=1), 12), "bad_images", "up to 1")
    complaint(lambda: take(dataclasses.replace(config, bad_images=0), 12))


def test_the_next_whole_image_of_the_class_stands_in(photographs):
    names = training_files(photographs)
    source = data.load(config_of(photographs, bad_images=9)).train
    whole = [source[index] for index in range(len(source))]
    label = whole[0]["label"]
    mates = [index for index, example in enumerate(whole) if example["label"] == label]
    for index in mates[:2]:
        cut(next(path for path in photographs if str(path) == names[index]))
    for index in (mates[0], mates[1], mates[0]):
        example = source[index]
        assert example["label"] == label
        np.testing.assert_array_equal(example["image"], whole[mates[2]]["image"])
    for index in mates[2:]:
        np.testing.assert_array_equal(source[index]["image"], whole[index]["image"])
        cut(next(path for path in photographs if str(path) == names[index]))
    complaint(lambda: [source[index] for index in mates], f"class {label}")


def test_where_all_is_whole_sparing_changes_nothing(photographs):
    source = data.load(config_of(photographs)).train
    sparing = ReplacingSource(source, 5)
    assert len(sparing) == len(source) and sparing.shape == source.shape
    for index in range(len(source)):
        np.testing.assert_array_equal(sparing[index]["image"], source[index]["image"])
        assert sparing[index]["label"] == source[index]["label"]


def test_evaluation_is_of_the_images_themselves(photographs):
    path = photographs[0].parents[2] / "test" / "class1" / "3.png"
    cut(path)
    config = config_of(photographs, bad_images=9)
    dataset = data.load(config)
    complaint(lambda: list(data.eval_batches(dataset.test, config)), path)


def test_images_of_one_size_are_spared_too(photographs):
    """They would otherwise be decoded at the start, all at once."""
    for path in photographs[0].parents[2].rglob("*.png"):
        Image.open(path).resize((60, 40)).save(path)
    cut(photographs[4])
    photographs[9].write_bytes(b"")
    dataset = data.load(config_of(photographs, bad_images=3))
    assert dataset.train.shape == (40, 60, 3)
    assert len([dataset.train[index] for index in range(len(dataset.train))]) == len(dataset.train)


def test_a_too_large_image_counts_as_a_damaged_one(photographs, caplog):
    files = training_files(photographs)
    Image.new("RGB", (61, 60)).save(files[3])
    complaint(lambda: take(config_of(photographs, max_image_pixels=3600), 5), files[3], "3,660")
    batches = take(config_of(photographs, max_image_pixels=3600, bad_images=1), 5)
    assert len(batches) == 5 and caplog.text.count("3,660 pixels, legal: up to 3,600") == 1


def test_a_command_counts_a_set_as_its_runs_will_read_them(photographs):
    photographs[0].write_bytes(b"no image")
    for path in photographs[1:]:
        Image.open(path).resize((60, 40)).save(path)  # of one size: every header is read
    config = config_of(photographs, bad_images=1)
    assert planning.load(config).num_classes == CLASSES
    strict = dataclasses.replace(config, bad_images=0)
    one_line(ValueError, lambda: planning.load(strict), photographs[0])
