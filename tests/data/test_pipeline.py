"""What goes in comes out, once each, in an order that a seed fixes and a checkpoint keeps."""

import dataclasses
import re
from functools import partial
from typing import get_args

import grain
import numpy as np
import orbax.checkpoint as ocp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from messages import one_line

from mnet_jax import data, process
from mnet_jax.config import DataConfig
from mnet_jax.data import Scaling

complaint = partial(one_line, data.DataError)
AUGMENTATIONS = ("none", "shift", "shift_flip", "resized_crop_flip")


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


@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_the_same_pixels_however_they_are_scaled(channels):
    """What is erased too: noise from black to white."""
    seen = {}
    for scaling in get_args(Scaling):
        config = DataConfig(batch_size=50, resolution=16, erasing=1.0, scaling=scaling)
        batch = next(data.train_batches(numbered(50, 16, channels), config, 0))
        seen[scaling] = data.pixels_of(batch["image"], scaling).astype(int)
    assert np.abs(seen["imagenet"] - seen["symmetric"]).max() <= 1  # of halves
    assert seen["imagenet"].min() == 0 and seen["imagenet"].max() == 255


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


def by_epoch(source, config, seed, epochs=2):
    """How every image looks in the first epochs: {(epoch, label): image}."""
    found, seen, iterator = {}, 0, data.train_batches(source, config, seed)
    while seen < epochs * len(source):
        batch = next(iterator)
        for image, label in zip(batch["image"], batch["label"], strict=True):
            found[seen // len(source), int(label)] = image
            seen += 1
    return {key: image for key, image in found.items() if key[0] < epochs}


@pytest.mark.parametrize("augmentation", ["shift_flip", "resized_crop_flip"])
def test_how_an_image_looks_depends_on_seed_and_epoch_alone(augmentation):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (30, 20, 20, 3), dtype=np.uint8)
    source = data.ArraySource(images, np.arange(30, dtype=np.int32))
    config = DataConfig(batch_size=8, resolution=20, augmentation=augmentation)
    expected = by_epoch(source, config, seed=3)
    for batch_size in (1, 13, 64):  # 13 and 64 run across the ends of epochs
        other = by_epoch(source, dataclasses.replace(config, batch_size=batch_size), seed=3)
        for key, image in expected.items():
            np.testing.assert_array_equal(other[key], image)
    anew = by_epoch(source, config, seed=4)
    for changed in (anew[0, 5], expected[1, 5]):
        assert (changed != expected[0, 5]).any()


@pytest.mark.parametrize("threads", [3, 5])
def test_threads_change_nothing(threads, monkeypatch):
    config = DataConfig(batch_size=16, resolution=20, policy="randaugment", erasing=0.5)
    rng = np.random.default_rng(0)
    source = data.ArraySource(
        rng.integers(0, 256, (50, 20, 20, 3), dtype=np.uint8), np.arange(50, dtype=np.int32)
    )
    expected = take(data.train_batches(source, config, 0), 12)
    monkeypatch.setattr(process, "usable_cores", lambda: threads)
    assert_same(take(data.train_batches(source, config, 0), 12), expected)


@pytest.mark.parametrize("count", [2, 3, 6])
def test_the_shards_side_by_side_are_the_batch(count):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (31, 12, 12, 1), dtype=np.uint8)
    source = data.ArraySource(images, np.arange(31, dtype=np.int32))
    config = DataConfig(batch_size=12, resolution=12, augmentation="shift_flip")
    shards = [data.Shard(index=index, count=count) for index in range(count)]

    def joined(batches):
        return [
            {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
            for parts in zip(*batches, strict=True)
        ]

    whole = take(data.train_batches(source, config, 1), 7)  # across two ends of epochs
    assert_same(joined([take(data.train_batches(source, config, 1, s), 7) for s in shards]), whole)
    whole = list(data.eval_batches(source, config))
    parts = [list(data.eval_batches(source, config, shard)) for shard in shards]
    assert all(len(item["label"]) == 12 // count for part in parts for item in part)
    assert_same(joined(parts), whole)
    if count == 6:  # the last batch has 7 images, which leaves a share of padding alone
        assert not parts[-1][-1]["mask"].any()


def test_shards_that_cannot_be():
    complains = partial(one_line, ValueError)
    config = DataConfig(batch_size=16, resolution=4)
    thirds = data.Shard(index=0, count=3)
    complains(lambda: data.train_batches(numbered(9), config, 0, thirds), "batch_size: got 16")
    complains(lambda: data.eval_batches(numbered(9), config, thirds), "multiples of the 3 hosts")
    complains(lambda: data.Shard(index=2, count=2), "index: got 2", "0 to below 2")
    complains(lambda: data.Shard(count=0), "count: got 0")


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


def test_nothing_to_train_on():
    complaint(lambda: data.train_batches(numbered(0), DataConfig(), 0), "without images")


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


@pytest.mark.parametrize(("cores", "threads"), [(1, 2), (6, 6), (96, 16)])
def test_as_many_threads_as_there_are_cores_to_use(monkeypatch, cores, threads):
    import grain

    requested = []
    options = grain.ReadOptions
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(cores)))
    monkeypatch.setattr("mnet_jax.host_memory.available_bytes", lambda: 2**36)
    monkeypatch.setattr(grain, "ReadOptions", lambda **kw: requested.append(kw) or options(**kw))
    config = DataConfig(resolution=224, batch_size=128)
    images = np.zeros((4, 8, 8, 3), np.uint8)
    data.train_batches(data.ArraySource(images, np.zeros(4, np.int32)), config, 0).close()
    assert requested[0]["num_threads"] == threads <= requested[0]["prefetch_buffer_size"]


@pytest.mark.parametrize("make", [data.train_batches, data.eval_batches])
def test_a_batch_that_memory_cannot_hold_is_refused_with_one_that_it_can(make, monkeypatch):
    """Instead of a MemoryError of NumPy's within the traceback of a thread."""
    memory = 5 * 10**9
    monkeypatch.setattr("mnet_jax.host_memory.available_bytes", lambda: memory)
    source = numbered(8)
    seed = {"seed": 0} if make is data.train_batches else {}

    def of(batch_size, **options):
        config = DataConfig(resolution=300, batch_size=batch_size, augmentation="none")
        return make(source, config, **seed, **options)

    message = one_line(ValueError, lambda: of(10**6), "batch_size: got 1000000", "300", "4.7 GiB")
    legal = int(re.search(r"legal: ([\d,]+) or fewer", message)[1].replace(",", ""))
    assert 0.2 * memory < legal * 300 * 300 * 3 * 4 < memory
    of(legal)
    one_line(ValueError, lambda: of(legal + 1), "batch_size")
    of(2 * legal, shard=data.Shard(index=0, count=2))
