"""Sets that TFDS prepared are read as they were written, or refused in one line."""

import io
import json
import os
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from messages import one_line
from PIL import Image
from special_files import make_special

from mnet_jax import data
from mnet_jax.config import DataConfig
from mnet_jax.data import disk

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


TRAP = "from pathlib import Path\nPath(__file__).with_name('ran').touch()\n"
TENSOR = "a_trap.payload.Tensor"
OWN = "tensorflow_datasets.core.features"
LEGACY = {  # as TFDS wrote features before 4.5
    "type": f"{OWN}.features_dict.FeaturesDict",
    "content": {
        "image": {"type": f"{OWN}.image_feature.Image", "content": {
            "shape": [8, 8, 3], "dtype": "uint8", "encoding_format": "png"}},
        "label": {"type": f"{OWN}.class_label_feature.ClassLabel", "content": {"num_classes": 2}},
        "file": {"type": f"{OWN}.text_feature.Text", "content": {}},
    },
}  # fmt: skip


def naming(kind, named):
    """features.json and dataset_info.json with a feature `file` of a class, in one of the ways."""
    sequence, old = f"{OWN}.sequence_feature.Sequence", {"type": named, "content": {}}
    new = {"pythonClassName": named, "text": {}}
    legacy = json.dumps({"feature": old, "length": None})
    file = {
        "directly": new,
        "in a sequence": {"pythonClassName": sequence, "sequence": {"feature": new}},
        "in JSON": {"pythonClassName": sequence, "jsonFeature": {"json": legacy}},
        "as before": old,
        "in a sequence as before": {"type": sequence, "content": json.loads(legacy)},
        "in JSON as before": {"type": sequence, "proto_cls": "tensorflow_datasets.Sequence",
                              "content": json.dumps({"feature": new})},
    }.get(kind)  # fmt: skip
    if file is None:
        return None, {"features": new}
    if "as before" in kind:
        return {**LEGACY, "content": {**LEGACY["content"], "file": file}}, {}
    parts = {
        "image": {"pythonClassName": f"{OWN}.image_feature.Image", "image": {
            "dtype": "uint8", "shape": {"dimensions": ["8", "8", "3"]}}},
        "label": {"pythonClassName": f"{OWN}.class_label_feature.ClassLabel",
                  "classLabel": {"numClasses": "2"}},
        "file": file,
    }  # fmt: skip
    whole = f"{OWN}.features_dict.FeaturesDict"
    return {"pythonClassName": whole, "featuresDict": {"features": parts}}, {}


def changed_info(place, change):
    path = Path(place) / "dataset_info.json"
    info = json.loads(path.read_text())
    change(info)
    path.write_text(json.dumps(info))
    return path


@pytest.fixture
def trap(tmp_path, monkeypatch):
    """The current folder, where Python looks first: a module in it tells that it was run."""
    package = tmp_path / "a_trap"
    package.mkdir()
    for name in ("__init__", "payload"):
        (package / f"{name}.py").write_text(TRAP)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")
    yield package / "ran"
    sys.modules.pop("a_trap.payload", None), sys.modules.pop("a_trap", None)


@pytest.mark.parametrize(
    "kind",
    ["directly", "in a sequence", "in JSON", "as before", "in a sequence as before",
     "in JSON as before", "in the other file"],
)  # fmt: skip
def test_a_prepared_set_that_names_foreign_code_does_not_run_it(tmp_path, trap, kind):
    """TFDS alone imports it, whichever way it is named."""
    place = Path(prepare(tmp_path, 8, {"train": (4, 0), "test": (2, 1)}).data_path)
    features, added = naming(kind, TENSOR)
    if features:
        (place / "features.json").write_text(json.dumps(features))
    changed_info(place, lambda info: info.update(added))
    config = DataConfig(name="photo_set", directory=".", resolution=8)
    complaint(lambda: data.load(config), "photo_set", TENSOR, "legal: TFDS's own")
    assert not trap.exists()


def test_features_as_older_versions_of_tfds_wrote_them(tmp_path):
    place = Path(prepare(tmp_path, 8, {"train": (4, 0), "test": (2, 1)}).data_path)
    (place / "features.json").write_text(json.dumps(LEGACY))
    dataset = data.load(DataConfig(name="photo_set", directory=str(tmp_path), resolution=8))
    assert [dataset.test[i]["image"][0, 0].tolist() for i in (0, 1)] == [[0, 5, 250], [1, 5, 250]]


@pytest.mark.parametrize("claimed", [2 * 10**9, 21, 19, -1, 10**30])
def test_a_set_that_claims_other_examples_than_it_has_is_refused(tmp_path, claimed):
    """A permutation of two thousand million takes 15 GiB."""
    place = prepare(tmp_path, 8, {"train": (20, 0), "test": (5, 1)}).data_path

    def claim(info):
        info["splits"][0]["shardLengths"] = [str(claimed)]

    changed_info(place, claim)
    config = DataConfig(name="photo_set", directory=str(tmp_path), resolution=8)
    complaint(lambda: data.load(config), "photo_set", place)


def test_a_set_that_claims_a_million_classes_or_pixels_is_refused(tmp_path):
    place = Path(prepare(tmp_path, 8, {"train": (4, 0), "test": (2, 1)}).data_path)
    whole = (place / "features.json").read_text()
    (place / "label.labels.txt").unlink()
    config = DataConfig(name="photo_set", directory=str(tmp_path), resolution=8)
    for old, new, expected in (
        ('"numClasses": "2"', '"numClasses": "2000000000"', "2000000000 classes"),
        ('"8"', '"80000"', "6,400,000,000 pixels"),
    ):
        assert old in whole
        (place / "features.json").write_text(whole.replace(old, new))
        complaint(lambda: data.load(config), "photo_set", expected)


@pytest.mark.parametrize("template", ["../{SPLIT}", "/etc/{SPLIT}", "{SPLIT:>9999999999}"])
def test_a_set_whose_files_would_be_elsewhere_is_refused(tmp_path, template):
    place = prepare(tmp_path, 8, {"train": (4, 0), "test": (2, 1)}).data_path
    info = changed_info(place, lambda info: info["splits"][0].update(filepathTemplate=template))
    config = DataConfig(name="photo_set", directory=str(tmp_path))
    complaint(lambda: data.load(config), info, template)


@pytest.mark.parametrize("name", ["features.json", "label.labels.txt", "train"])
@pytest.mark.parametrize("kind", ["a FIFO", "a socket", "a character device"])
def test_special_files_in_a_prepared_set_are_not_opened(tmp_path, monkeypatch, name, kind):
    place = Path(prepare(tmp_path, 8, {"train": (4, 0), "test": (2, 1)}).data_path)
    (path,) = place.glob(f"*{name}*")
    path.unlink()
    make_special(path, kind, monkeypatch)
    config = DataConfig(name="photo_set", directory=str(tmp_path))
    complaint(lambda: data.load(config), "photo_set", path.name, f"is {kind}", "regular file")


@pytest.mark.skipif(not os.path.exists("/proc/kmsg"), reason="a file that blocks is Linux's")
@pytest.mark.parametrize("name", ["features.json", "label.labels.txt", "train"])
def test_entries_of_proc_in_a_prepared_set_are_not_waited_for(tmp_path, monkeypatch, name):
    place = Path(prepare(tmp_path, 8, {"train": (4, 0), "test": (2, 1)}).data_path)
    (path,) = place.glob(f"*{name}*")
    path.unlink()
    make_special(path, "an entry of /proc", monkeypatch)
    config = DataConfig(name="photo_set", directory=str(tmp_path))
    complaint(lambda: data.load(config), "photo_set", path.name, "a link to an empty file")


def test_looking_for_a_set_ends(tmp_path, monkeypatch):
    """Links that lead in a circle, hidden folders, more entries than anybody has sets."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    for name in ("up", "again"):
        (tmp_path / "a" / "b" / name).symlink_to(tmp_path)
        (tmp_path / name).symlink_to(tmp_path)
    os.mkfifo(tmp_path / "a" / "dataset_info.json")
    complaint(lambda: data.load(DataConfig(name="a", directory=str(tmp_path))), "'a'")
    prepare(tmp_path, 8, {"train": (4, 0), "test": (2, 1)})
    complaint(lambda: data.load(DataConfig(name="no", directory=str(tmp_path))), "photo_set")
    monkeypatch.setattr(disk, "MOST_ENTRIES", 3)
    complaint(lambda: data.load(DataConfig(name="no", directory=str(tmp_path))), "'no'")


def test_a_prepared_set_with_a_too_large_image_names_it(tmp_path):
    files = [encoded(picture, "PNG") for picture in pictures(4, [(30, 20), (10, 10)])]
    builder = StockSet(
        name="photos", shape=(None, None, 3), data_dir=tmp_path,
        splits={"train": files, "test": files},
    )  # fmt: skip
    builder.download_and_prepare(file_format="array_record")
    config = DataConfig(name="photos", directory=str(tmp_path), max_image_pixels=599)

    def use():
        dataset = data.load(config)
        return [dataset.test[index] for index in range(4)]

    complaint(use, "photos (test", "record", "30 x 20 are 600 pixels", "599")


def test_names_from_a_set_forge_no_line(tmp_path):
    place = prepare(tmp_path, 8, {"train": (4, 0), "test": (2, 1)}).data_path

    def rename(info):
        info["splits"] = [{**info["splits"][0], "name": "x\n\x1b[31mexperiments.train: fine"}]

    changed_info(place, rename)
    config = DataConfig(name="photo_set", directory=str(tmp_path))
    assert complaint(lambda: data.load(config), "experiments.train: fine").isprintable()
