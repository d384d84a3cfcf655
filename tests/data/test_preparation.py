"""A set is prepared once, whole or not at all, whoever else does and whatever the disk does."""

import multiprocessing
import os
import stat
from functools import partial

import numpy as np
import pytest
import tensorflow_datasets as tfds
from messages import one_line

from mnet_jax import data
from mnet_jax.config import DataConfig
from mnet_jax.data import preparation

pytestmark = pytest.mark.usefixtures("data_folder")
complaint = partial(one_line, data.DataError)


def _load_digits(root, barrier, results):
    os.environ["TFDS_DATA_DIR"] = str(root)
    barrier.wait(timeout=60)
    results.put(data.load(DataConfig(name="digits", resolution=8)).test.labels.tolist())


def test_two_processes_prepare_at_once(tmp_path, monkeypatch):
    """This one and another."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(2), context.Queue()
    other = context.Process(target=_load_digits, args=(tmp_path, barrier, results))
    other.start()
    barrier.wait(timeout=60)
    here = data.load(DataConfig(name="digits", resolution=8)).test.labels.tolist()
    assert results.get(timeout=60) == here and len(here) == 500
    other.join()
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
    stale = tmp_path / f"{preparation.SCRATCH}killed"
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
    complaint(lambda: data.load(DataConfig(name="digits")), blocked, "TFDS_DATA_DIR")


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
    complaint(lambda: data.load(DataConfig(name="digits")), tmp_path, "No space left")
    assert not list(tmp_path.iterdir()) and not list(scratch.iterdir())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_costs_a_warning(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    assert len(data.load(DataConfig(name="digits")).test) == 500
