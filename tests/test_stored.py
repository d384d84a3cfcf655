"""Sets that TFDS prepared are read as they were written, or refused in one line."""

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
