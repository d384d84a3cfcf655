"""Sets that TFDS prepared are read as they were written, or refused in one line."""

import io
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from conftest import one_line
from PIL import Image

from mnet_jax import data
from mnet_jax.config import DataConfig

pytestmark = pytest.mark.usefixtures("data_folder")
complaint = partial(one_line, data.DataError)


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


class StockSet(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """As TFDS's own CIFAR and Imagenette: encoded images, in configs, under a name of theirs."""

    VERSION = tfds.core.Version("3.0.2")

    def __init__(self, *, name, shape, splits, data_dir, config=None):
        self.name, self._shape, self._splits = name, shape, splits
        config = config and tfds.core.BuilderConfig(name=config)
        super().__init__(data_dir=data_dir, config=config)

    def _info(self):
        features = {
            "id": tfds.features.Text(),
            "image": tfds.features.Image(shape=self._shape),
            "label": tfds.features.ClassLabel(num_classes=3),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(files) for split, files in self._splits.items()}

    def _generate_examples(self, files):
        for index, content in enumerate(files):
            example = {"image": io.BytesIO(content), "label": index % 3, "id": f"{index:05}"}
            yield index, example


def encoded(picture, suffix):
    content = io.BytesIO()
    picture.save(content, suffix)
    return content.getvalue()


def pictures(count, sizes, mode="RGB"):
    rng = np.random.default_rng(count)
    for index in range(count):
        width, height = sizes[index % len(sizes)]
        rough = rng.integers(0, 256, (4, 5, 3), np.uint8)
        yield Image.fromarray(rough).resize((width, height)).convert(mode)


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


def test_wrong_names_versions_and_configs(tmp_path):
    prepare(tmp_path, 8, {"train": (4, 0), "test": (2, 1)})

    def load(name):
        return lambda: data.load(DataConfig(name=name, directory=str(tmp_path)))

    complaint(load("photo_set:2.0.0"), "photo_set:2.0.0", "photo_set:1.0.0")
    complaint(load("photo_set/big"), "photo_set/big", "photo_set:1.0.0")
    complaint(load("photo set"), "photo set", "name/config")
    complaint(load("foto_set"), "did you mean photo_set")


def test_sets_that_cannot_serve(tmp_path):
    def load():
        return data.load(DataConfig(name="photo_set", directory=str(tmp_path)))

    cases = {"test": (2, 1)}, {"train": (4, 1)}, {"train": (4, 1), "test": (2, -1)}
    for splits in cases:
        place = prepare(tmp_path, 8, splits).data_path
        complaint(load, "photo_set", ", ".join(splits))
        place.rmtree()
    info = prepare(tmp_path, 8, {"train": (4, 0), "test": (2, 1)}).data_path / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    message = complaint(load, "tfrecord", "convert_format", "array_record", info.parent)
    assert "TFRECORD" not in message
    info.write_text("{")
    complaint(load, "photo_set", info.parent)


def test_a_damaged_shard_is_named(tmp_path):
    place = prepare(tmp_path, 8, {"train": (4, 0), "test": (2, 1)}).data_path
    for shard in Path(place).glob("*test*"):
        shard.unlink()
    config = DataConfig(name="photo_set", directory=str(tmp_path))
    complaint(lambda: data.load(config), "photo_set", "test")


def test_cifar_as_tfds_prepares_it(tmp_path):
    shown = list(pictures(30, [(32, 32)]))
    files = [encoded(picture, "PNG") for picture in shown]
    builder = StockSet(
        name="cifar10", shape=(32, 32, 3), splits={"train": files, "test": files}, data_dir=tmp_path
    )
    builder.download_and_prepare(file_format="array_record")
    for name in ("cifar10", "cifar10:3.0.2"):
        config = DataConfig(name=name, directory=str(tmp_path), resolution=32)
        dataset = data.load(config)
        assert isinstance(dataset.test, data.ArraySource) and dataset.num_classes == 3
        theirs = {np.asarray(picture).tobytes(): i % 3 for i, picture in enumerate(shown)}
        ours = {image.tobytes(): label for image, label in zip(
            dataset.test.images, dataset.test.labels, strict=True)}  # fmt: skip
        assert ours == theirs


def test_photographs_as_tfds_prepares_them(tmp_path):
    """Of many sizes, gray and CMYK among them, in configs of which one is asked for."""
    sizes = [(500, 375), (375, 500), (90, 160), (1000, 800)]
    shown = [*pictures(8, sizes), *pictures(2, sizes, "L"), *pictures(1, sizes, "CMYK")]
    files = [encoded(picture, "JPEG") for picture in shown]
    for config in ("320px-v2", "160px-v2"):
        builder = StockSet(
            name="imagenette", shape=(None, None, 3), data_dir=tmp_path, config=config,
            splits={"train": files, "validation": files},
        )  # fmt: skip
        builder.download_and_prepare(file_format="array_record")
    place = {"directory": str(tmp_path), "resolution": 64, "batch_size": 11}
    complaint(
        lambda: data.load(DataConfig(name="imagenette", **place)),
        "imagenette/320px-v2", "imagenette/160px-v2",
    )  # fmt: skip
    for name in ("imagenette/160px-v2", "imagenette/160px-v2:3.0.2"):
        config = DataConfig(name=name, augmentation="resized_crop_flip", **place)
        dataset = data.load(config)
        whole = {
            np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).tobytes(): i % 3
            for i, content in enumerate(files)
        }
        read = [dataset.test[i] for i in range(11)]
        assert {example["image"].tobytes(): example["label"] for example in read} == whole
        (batch,) = data.eval_batches(dataset.test, config)
        assert batch["image"].shape == (11, 64, 64, 3) and batch["mask"].all()
        batches = data.train_batches(dataset.train, config, seed=0)
        assert next(batches)["image"].shape == (11, 64, 64, 3)
        batches.close()


def test_a_damaged_record_is_named(tmp_path):
    files = [encoded(picture, "JPEG") for picture in pictures(4, [(90, 70), (80, 60)])]
    builder = StockSet(
        name="photos", shape=(None, None, 3), data_dir=tmp_path,
        splits={"train": files, "test": [files[0][:-200]]},
    )  # fmt: skip
    builder.download_and_prepare(file_format="array_record")
    config = DataConfig(name="photos", directory=str(tmp_path), batch_size=2)
    dataset = data.load(config)
    complaint(lambda: list(data.eval_batches(dataset.test, config)), "photos", "test", "record 0")
