"""What is appended is read as it was, and a trial is chosen by its config, whatever is asked."""

import hashlib
import math
import os
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stored_trials import ENVIRONMENT, make_config, make_result, make_sweep, make_trial
from trial_stand_ins import result_of

from mnet_jax import serialization
from mnet_jax.ablation import events
from mnet_jax.ablation.events import failure, from_line, key_of, success, to_line
from mnet_jax.ablation.store import Contents, Store, comparable, missing
from mnet_jax.architectures import mobilenet_v1, mobilenet_v2
from mnet_jax.config import DataConfig, RmsProp, Sgd, TrainingConfig


@pytest.mark.parametrize(
    "trial",
    [
        make_trial(),
        make_trial(3, 0.1 + 0.2, training=TrainingConfig(optimizer=RmsProp())),
        make_trial(spec=mobilenet_v1(num_classes=10), data=DataConfig(directory="/data/ä b")),
        failure(make_config(), "NonFiniteError: the loss is nan", ENVIRONMENT),
    ],
    ids=["defaults", "rmsprop", "v1", "failed"],
)
def test_what_is_written_is_read(tmp_path, trial):
    Store(tmp_path).append(trial)
    store = Store(tmp_path)
    assert store.read() == Contents(trials={trial.key: trial}, sweeps=(), running={})
    assert store.complaints == ()


def test_every_event_is_read_as_it_was(tmp_path):
    sweep, trial = make_sweep(seeds=(0, 4)), make_trial(4)
    other = make_sweep(command="ablate --bottleneck 'ä b'")
    for event in (sweep, events.start(trial.key, "worker"), trial, other):
        assert from_line(to_line(event).removesuffix(b"\n")) == event
        Store(tmp_path).append(event)
    found = Store(tmp_path).read()
    assert found == Contents(trials={trial.key: trial}, sweeps=(sweep, other), running={})
    assert found.sweeps[0].configs == (make_config(0), make_config(4))


@given(st.floats(allow_nan=False, allow_infinity=False), st.text(min_size=1))
def test_any_number_and_text_survives(number, text):
    config = make_config()
    finished = success(config, replace(make_result(), test_loss=number), {"device": text})
    failed = failure(config, text, {})
    for trial in (finished, failed):
        assert from_line(to_line(trial).removesuffix(b"\n")) == trial


def test_key_is_the_hash_of_the_whole_config():
    config = make_config()
    digest = hashlib.sha256(serialization.to_json(config).encode()).hexdigest()
    assert key_of(config) == digest[:16]
    others = [
        make_config(seed=1),
        make_config(spec=mobilenet_v2(num_classes=10, bottleneck="relu6")),
        make_config(data=DataConfig(resolution=28)),
        make_config(training=TrainingConfig(optimizer=Sgd(nesterov=True))),
    ]
    assert len({key_of(other) for other in [config, *others]}) == 5
    same = make_config(training=TrainingConfig(learning_rate=1))
    assert key_of(same) == key_of(make_config(training=TrainingConfig(learning_rate=1.0)))


def test_key_is_the_same_in_another_process():
    code = (
        "from mnet_jax.ablation.events import key_of; from mnet_jax.config import RunConfig;"
        "from mnet_jax.architectures import mobilenet_v2; import sys;"
        "print(key_of(RunConfig(spec=mobilenet_v2(num_classes=10))));"
        "assert 'jax' not in sys.modules"
    )
    environment = os.environ | {"PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert run.stdout.strip() == key_of(make_config())


def test_reading_writes_nothing(tmp_path):
    directory = tmp_path / "none" / "yet"
    assert Store(directory).read() == Contents(trials={}, sweeps=(), running={})
    assert list(tmp_path.iterdir()) == []


def test_trials_come_in_the_order_they_ended(tmp_path):
    for seed in (1, 0, 2):
        Store(tmp_path).append(make_trial(seed))
    trials = Store(tmp_path).read().trials
    assert [trial.config.seed for trial in trials.values()] == [1, 0, 2]


def test_a_result_replaces_a_failure_and_nothing_a_result(tmp_path):
    config = make_config()
    failed, worse = failure(config, "out of memory", {}), failure(config, "killed", {})
    finished, other = (success(config, make_result(accuracy), {}) for accuracy in (0.9, 0.8))
    trials = Store(tmp_path)
    steps = [(failed, failed), (worse, worse), (finished, finished), (failed, finished),
             (other, finished)]  # fmt: skip
    for trial, kept in steps:
        trials.append(trial)
        assert trials.read().trials == {trial.key: kept}


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"test_loss": math.nan}, "result.test_loss"),
        ({"images_per_second": math.inf}, "result.images_per_second"),
        (
            {"history": (replace(make_result().history[0], train_loss=-math.inf),)},
            r"result.history.0.train_loss",
        ),
    ],
)
def test_refuses_numbers_that_are_not_finite(tmp_path, changes, name):
    result = replace(make_result(), **changes)
    with pytest.raises(ValueError, match=f"^{name}: got -?(nan|inf), legal: finite numbers$"):
        Store(tmp_path).append(success(make_config(), result, ENVIRONMENT))
    assert list(tmp_path.iterdir()) == []


def test_a_result_that_is_refused_is_a_failed_trial(tmp_path):
    trials = Store(tmp_path)
    kept = trials.finish(make_config(), result_of(math.nan), ENVIRONMENT)
    assert kept.result is None and kept.cause.startswith("result.test_loss: got nan")
    assert trials.read().trials == {kept.key: kept}
    fine = trials.finish(make_config(1), result_of(1), ENVIRONMENT)
    assert fine.result == result_of(1)
    lost = trials.finish(make_config(2), "no\nmemory", ENVIRONMENT)
    assert lost.cause == "no memory" and lost.environment == ENVIRONMENT
    assert trials.read().trials == {trial.key: trial for trial in (kept, fine, lost)}


@pytest.mark.parametrize(
    "changes",
    [
        {"key": "0" * 16},
        {"cause": "both"},
        {"result": None},
        {"result": None, "cause": "two\nlines"},
        {"result": None, "cause": ""},
        {"finished": "yesterday"},
        {"finished": "2026-01-01T00:00:00"},
        {"finished": "2026-01-01T00:00:00+01:00"},
    ],
)
def test_a_trial_checks_itself(changes):
    with pytest.raises(ValueError, match=f"^({'|'.join([*changes, 'cause'])}): got "):
        replace(make_trial(), **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"arms": ()},
        {"seeds": ()},
        {"baseline": make_config(3)},
        {"arms": (make_config(3),)},
        {"started": "now"},
    ],
)
def test_a_sweep_checks_itself(changes):
    with pytest.raises(ValueError, match=f"^({'|'.join([*changes, 'seed'])}): got "):
        replace(make_sweep(), **changes)


def test_a_failures_cause_becomes_one_line():
    assert failure(make_config(), " a\n  b\r\n", {}).cause == "a b"
    assert failure(make_config(), "\n", {}).cause
    assert failure(make_config(), "no file caf\udce9", {}).cause == "no file caf\\udce9"


def test_missing_keeps_the_order_and_drops_what_is_asked_twice():
    configs = [make_config(seed) for seed in (4, 2, 0, 2, 1, 3)]
    finished, failed = make_trial(2), failure(make_config(1), "killed", {})
    trials = {trial.key: trial for trial in (finished, failed)}
    assert [config.seed for config in missing(trials, configs)] == [4, 0, 1, 3]
    assert missing({}, []) == ()


def test_comparable_has_the_same_data_and_recipe():
    base = make_config()
    relu6 = mobilenet_v2(num_classes=10, bottleneck="relu6")
    alike = [
        make_trial(),
        make_trial(5, spec=relu6),
        failure(make_config(7, spec=relu6), "killed", {}),
    ]
    unlike = [
        make_trial(data=DataConfig(resolution=64)),
        make_trial(training=TrainingConfig(epochs=21)),
        make_trial(training=TrainingConfig(optimizer=Sgd(momentum=0.8))),
    ]
    trials = {trial.key: trial for trial in [*unlike, *alike]}
    assert comparable(trials, [base]) == tuple(alike)
    assert comparable(trials, [base, unlike[0].config]) == (unlike[0], *alike)
    assert comparable(trials, []) == ()


def test_data_of_one_and_recipe_of_another_is_not_comparable():
    data, training = DataConfig(resolution=64), TrainingConfig(epochs=21)
    mixed = make_trial(data=data, training=training)
    configs = [make_config(data=data), make_config(training=training)]
    assert comparable({mixed.key: mixed}, configs) == ()
