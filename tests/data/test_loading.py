"""Sets by name: the digits that sklearn has, splits that stay, and names that nobody knows."""

import os
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from messages import one_line
from sklearn.datasets import load_digits

from mnet_jax import data
from mnet_jax.config import DataConfig
from mnet_jax.data import order

pytestmark = pytest.mark.usefixtures("data_folder")
complaint = partial(one_line, data.DataError)


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


def test_validation_is_the_same_whatever_else_varies():
    config = DataConfig(name="digits", resolution=8)
    other = replace(config, resolution=16, batch_size=7, augmentation="shift_flip")
    np.testing.assert_array_equal(
        data.load(config).validation.labels, data.load(other).validation.labels
    )


@given(count=st.integers(2, 300), fraction=st.floats(0.001, 0.999))
def test_held_out_is_a_partition(count, fraction):
    kept, held = order.held_out(count, fraction)
    assert sorted([*kept, *held]) == list(range(count)) and len(kept) and len(held)
    assert abs(len(held) - count * fraction) <= 1


NAMES = [f"class/{number}.png" for number in range(2000)]


@given(
    chosen=st.sets(st.integers(0, 1999), min_size=2, max_size=60), fraction=st.floats(0.001, 0.999)
)
def test_where_a_name_goes_is_its_own_matter(chosen, fraction):
    """Also among few; but then no side is left empty."""
    _, held = order.held_out_by_name(NAMES, fraction, "test")
    among_all = {*held.tolist()}
    few = sorted(chosen)
    kept, held = order.held_out_by_name([NAMES[at] for at in few], fraction, "test")
    assert sorted([*kept, *held]) == list(range(len(few))) and len(kept) and len(held)
    expected = {at for at in few if at in among_all}
    if expected and len(expected) < len(few):
        assert {few[at] for at in held} == expected


@pytest.mark.parametrize("fraction", [0.05, 0.2, 0.5])
def test_names_are_held_out_in_proportion_and_for_each_purpose_anew(fraction):
    """Within four standard deviations of a binomial count."""
    count = len(NAMES)
    held = {
        purpose: {*order.held_out_by_name(NAMES, fraction, purpose)[1].tolist()}
        for purpose in ("test", "validation")
    }
    for share, found in (
        (fraction, held["test"]), (fraction, held["validation"]),
        (fraction**2, held["test"] & held["validation"]),
    ):  # fmt: skip
        assert abs(len(found) - share * count) < 4 * (count * share * (1 - share)) ** 0.5


@pytest.mark.parametrize(
    ("name", "words"),
    [("cifar1o", ("cifar10", "digits", "folder")), ("cifar10", ("tfds build", "array_record"))],
    ids=["nobody knows it", "not prepared"],
)
def test_what_is_not_there_is_refused_in_seconds(data_folder, name, words):
    start = time.monotonic()
    message = complaint(lambda: data.load(DataConfig(name=name)), name, data_folder, *words)
    assert "TFRECORD" not in message and time.monotonic() - start < 10


def test_reading_starts_no_backend_and_no_tensorflow(data_folder):
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
    environment = os.environ | {"TFDS_DATA_DIR": str(data_folder / "fresh")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "" and done.stderr == ""
