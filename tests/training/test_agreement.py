"""What processes of one run must have alike; here they are threads that exchange their arrays."""

import dataclasses
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils
from tiny_network import make_tiny_spec

import mnet_jax.runs.run
from mnet_jax import data
from mnet_jax.architectures import transforms
from mnet_jax.config import AdamW, DataConfig, RunConfig, TrainingConfig
from mnet_jax.training.agreement import DisagreementError, require_equal

CONFIG = RunConfig(spec=make_tiny_spec(), data=DataConfig(resolution=8, batch_size=64))


@pytest.fixture
def in_processes(monkeypatch):
    """A function that calls another in as many processes as it is given values, one each."""

    def together(call, values, devices=None):
        count = len(values)
        meeting, rows = threading.Barrier(count, timeout=30), {}
        index = threading.local()

        def gather(mine):
            rows[index.value] = np.asarray(mine)
            meeting.wait()
            everything = np.stack([rows[i] for i in range(count)])
            meeting.wait()
            return everything

        def run(i):
            index.value = i
            try:
                return call(values[i])
            except DisagreementError as error:
                return error

        owners = np.repeat(np.arange(count), devices or [1] * count)
        found = [SimpleNamespace(process_index=int(owner)) for owner in owners]
        monkeypatch.setattr(multihost_utils, "process_allgather", gather)
        monkeypatch.setattr(jax, "process_count", lambda: count)
        monkeypatch.setattr(jax, "devices", lambda: found)
        with ThreadPoolExecutor(count) as pool:
            return list(pool.map(run, range(count)))

    return together


def assert_refused(outcomes, *words):
    """All of them are refused in one line, the same for all, that says each of `words`."""
    assert [type(outcome) for outcome in outcomes] == [DisagreementError] * len(outcomes)
    (message,) = {str(outcome) for outcome in outcomes}
    assert len(message.splitlines()) == 1
    for word in words:
        assert word in message


def trained(**fields):
    return dataclasses.replace(CONFIG, training=TrainingConfig(**fields))


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (trained(learning_rate=0.01), ["training.learning_rate", "0.01", "0.1"]),
        (trained(mixup=0.2), ["training.mixup", "0.2", "0"]),  # left out of the first one's text
        (trained(optimizer=AdamW()), ["training.optimizer", "AdamW()", "Sgd()"]),
        (dataclasses.replace(CONFIG, seed=7), ["seed", "7", "0"]),
        (
            dataclasses.replace(CONFIG, spec=transforms.with_bottleneck(CONFIG.spec, "relu6")),
            ["bottleneck", "relu6", "linear"],
        ),
    ],
)
@pytest.mark.parametrize(("count", "at"), [(2, 1), (2, 0), (3, 2), (3, 1)])
def test_another_config_in_any_process_ends_all_naming_the_field_and_both_values(
    in_processes, other, words, count, at
):
    configs = [CONFIG] * count
    configs[at] = other
    assert_refused(in_processes(require_equal, configs), *words, f"process {at or 1}")


def test_processes_that_are_alike_go_on(in_processes):
    equal = [dataclasses.replace(CONFIG) for _ in range(3)]
    assert in_processes(require_equal, equal, devices=[4, 4, 4]) == [None] * 3


def test_processes_with_different_numbers_of_devices_are_refused(in_processes):
    outcomes = in_processes(require_equal, [CONFIG] * 3, devices=[2, 2, 1])
    assert_refused(outcomes, "devices: got 1 in process 2 and 2 in process 0")


@pytest.mark.parametrize(
    ("second", "words"),
    [
        ({"keep": "best"}, ["keep: got best in process 1 and last in process 0"]),
        ({"save_every_seconds": 60.0}, ["save_every_seconds: got 60 in process 1 and 0"]),
        ({"config": dataclasses.replace(CONFIG, seed=1)}, ["seed: got 1 in process 1 and 0"]),
    ],
)
def test_a_run_that_its_processes_begin_differently_is_refused(
    in_processes, tmp_path, second, words
):
    arguments = [{"config": CONFIG, "directory": tmp_path}] * 2
    arguments[1] = arguments[1] | second
    outcomes = in_processes(lambda given: mnet_jax.runs.run.run(**given), arguments)
    assert_refused(outcomes, *words)
    assert not list(tmp_path.iterdir())


def test_a_run_whose_processes_see_different_images_is_refused(in_processes, tmp_path, monkeypatch):
    load, lost = data.load, threading.local()
    lost.images = 0

    def loaded(config):
        dataset = load(config)
        fewer = dataclasses.replace(dataset.test, labels=dataset.test.labels[1:])
        return dataclasses.replace(dataset, test=fewer) if lost.images else dataset

    monkeypatch.setattr(data, "load", loaded)

    def call(images):
        lost.images = images
        monkeypatch.setattr(jax, "process_index", lambda: 1)  # the first has the directory's lock
        return mnet_jax.runs.run.run(CONFIG, tmp_path)

    assert_refused(in_processes(call, [0, 1]), "test_images: got 499 in process 1 and 500")
