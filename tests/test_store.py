"""A trial is on disk whole or not at all, whatever kills or edits; nothing doubtful is used."""

import errno
import hashlib
import json
import math
import os
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnet_jax import serialization
from mnet_jax.ablation import store
from mnet_jax.ablation.store import Store, Trial, comparable, failure, key_of, missing, success
from mnet_jax.architectures import mobilenet_v1, mobilenet_v2
from mnet_jax.config import DataConfig, RmsProp, RunConfig, Sgd, TrainingConfig
from mnet_jax.result import EpochRecord, RunResult

ENVIRONMENT = {"jax": "0.7.2", "device": "cpu"}
SPEC = mobilenet_v2(num_classes=10)


def make_config(seed=0, **changes):
    return RunConfig(**{"spec": SPEC, "seed": seed} | changes)


def make_result(accuracy=0.9, epochs=2, **changes):
    record = EpochRecord(
        epoch=1, step=10, learning_rate=0.1, train_loss=1.5, train_accuracy=0.5,
        validation_loss=1.2, validation_accuracy=0.6, seconds=2.0, images_per_second=600.0,
    )  # fmt: skip
    result = RunResult(
        params=2_236_682, madds=5_900_000, test_loss=0.3, test_accuracy=accuracy, test_count=360,
        history=tuple(replace(record, epoch=i + 1) for i in range(epochs)),
        images_per_second=612.5, seconds=30.25,
    )  # fmt: skip
    return replace(result, **changes)


def make_trial(seed=0, accuracy=0.9, **changes):
    return success(make_config(seed, **changes), make_result(accuracy), ENVIRONMENT)


def path_of(directory, trial):
    return directory / "trials" / f"{trial.key}.json"


def snapshot(directory):
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


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
    Store(tmp_path).write(trial)
    assert Store(tmp_path).read() == ({trial.key: trial}, ())


@given(st.floats(allow_nan=False, allow_infinity=False), st.text(min_size=1))
def test_any_number_and_text_survives(number, text):
    config = make_config()
    finished = success(config, make_result(test_loss=number), {"device": text})
    failed = failure(config, text, {})
    for trial in (finished, failed):
        assert serialization.from_json(Trial, serialization.to_json(trial)) == trial


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
        "from mnet_jax.ablation.store import key_of; from mnet_jax.config import RunConfig;"
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
    assert Store(directory).read() == ({}, ())
    assert list(tmp_path.iterdir()) == []


def test_trials_come_in_the_order_they_ended(tmp_path):
    times = ["2026-01-02T00:00:00+00:00", "2026-01-01T23:00:00.500+00:00", "2026-01-03T00:00:00Z"]
    for seed, finished in enumerate(times):
        Store(tmp_path).write(replace(make_trial(seed), finished=finished))
    trials, _ = Store(tmp_path).read()
    assert [trial.config.seed for trial in trials.values()] == [1, 0, 2]


def test_a_result_replaces_a_failure_and_never_the_reverse(tmp_path):
    config = make_config()
    failed, finished = failure(config, "out of memory", {}), success(config, make_result(), {})
    trials = Store(tmp_path)
    for trial, kept in [(failed, failed), (finished, finished), (failed, finished)]:
        trials.write(trial)
        assert trials.read()[0] == {trial.key: kept}


# Files that cannot be vouched for.


def _edit(path, change):
    sealed = json.loads(path.read_text())
    change(sealed["trial"])
    path.write_text(json.dumps(sealed))


def _edit_and_seal(path, change):
    """An edit by someone who knows the format, or a file of another version."""
    sealed = json.loads(path.read_text())
    change(sealed["trial"])
    canonical = json.dumps(sealed["trial"], sort_keys=True, separators=(",", ":"))
    sealed["sha256"] = hashlib.sha256(canonical.encode()).hexdigest()
    path.write_text(json.dumps(sealed))


def _nest(plain, *path_and_value):
    *path, last, value = path_and_value
    for step in path:
        plain = plain[step]
    plain[last] = value


DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "torn": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "zeros": lambda path: path.write_bytes(bytes(len(path.read_bytes()))),
    "not text": lambda path: path.write_bytes(b"\xff\xfe\x00"),
    "a list": lambda path: path.write_text("[]"),
    "too deep": lambda path: path.write_text("[" * 100_000),
    "other JSON": lambda path: path.write_text('{"accuracy": 1}'),
    "accuracy": lambda path: _edit(path, lambda t: _nest(t, "result", "test_accuracy", 0.99)),
    "NaN": lambda path: _edit(path, lambda t: _nest(t, "result", "test_accuracy", math.nan)),
    "seed": lambda path: _edit_and_seal(path, lambda t: _nest(t, "config", "seed", 7)),
    "illegal": lambda path: _edit_and_seal(path, lambda t: _nest(t, "config", "seed", -1)),
    "unknown field": lambda path: _edit_and_seal(path, lambda t: _nest(t, "result", "f1", 0.5)),
    "no result": lambda path: _edit_and_seal(path, lambda t: _nest(t, "result", None)),
    "text": lambda path: _edit_and_seal(path, lambda t: _nest(t, "result", "params", "5")),
    "local time": lambda path: _edit_and_seal(
        path, lambda t: _nest(t, "finished", "2026-01-01T10:00:00+02:00")
    ),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_doubtful_file_is_reported_and_kept(tmp_path, damage):
    good, bad = make_trial(0), make_trial(1)
    trials = Store(tmp_path)
    trials.write(good)
    trials.write(bad)
    damage(path_of(tmp_path, bad))
    before = snapshot(tmp_path)
    found, complaints = trials.read()
    assert found == {good.key: good}
    assert len(complaints) == 1
    assert complaints[0].startswith(f"{path_of(tmp_path, bad)}: not used, ")
    assert "\n" not in complaints[0]
    assert missing(found, [good.config, bad.config]) == (bad.config,)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("damage", ["torn", "seed", "too deep"])
def test_running_it_again_sets_the_doubtful_file_aside(tmp_path, damage):
    trial = make_trial()
    trials = Store(tmp_path)
    trials.write(trial)
    DAMAGES[damage](path_of(tmp_path, trial))
    evidence = path_of(tmp_path, trial).read_bytes()
    trials.write(trial)
    assert trials.read() == ({trial.key: trial}, ())
    assert evidence in snapshot(tmp_path).values()


def test_a_copy_under_another_name_is_foreign(tmp_path):
    trial, other = make_trial(0), make_trial(1)
    Store(tmp_path).write(trial)
    path_of(tmp_path, trial).rename(path_of(tmp_path, other))
    found, complaints = Store(tmp_path).read()
    assert found == {}
    assert trial.key in complaints[0]


def test_what_is_no_file_and_what_is_no_json(tmp_path):
    trial = make_trial()
    Store(tmp_path).write(trial)
    (tmp_path / "trials" / "notes.txt").write_text("mine")
    (tmp_path / "trials" / "folder.json").mkdir()
    found, complaints = Store(tmp_path).read()
    assert list(found) == [trial.key]
    assert [Path(line.split(":")[0]).name for line in complaints] == ["folder.json"]


# Values that are refused.


@pytest.mark.parametrize(
    ("result", "name"),
    [
        (make_result(test_loss=math.nan), "result.test_loss"),
        (make_result(images_per_second=math.inf), "result.images_per_second"),
        (
            make_result(history=(replace(make_result().history[0], train_loss=-math.inf),)),
            r"result.history.0.train_loss",
        ),
    ],
)
def test_refuses_numbers_that_are_not_finite(tmp_path, result, name):
    with pytest.raises(ValueError, match=f"^{name}: got -?(nan|inf), legal: finite numbers$"):
        Store(tmp_path).write(success(make_config(), result, ENVIRONMENT))
    assert list(tmp_path.iterdir()) == []


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


def test_a_failures_cause_becomes_one_line():
    assert failure(make_config(), " a\n  b\r\n", {}).cause == "a b"
    assert failure(make_config(), "\n", {}).cause
    assert failure(make_config(), "no file caf\udce9", {}).cause == "no file caf\\udce9"


def test_a_directory_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("in the way")
    for directory in (tmp_path / "file", tmp_path / "file" / "deeper"):
        with pytest.raises(ValueError, match=r"^cannot write .*file.*trials.*: ") as caught:
            Store(directory).write(make_trial())
        assert "\n" not in str(caught.value)
        with pytest.raises(ValueError, match=r"^cannot read .*file.*: "):
            Store(directory).read()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_that_cannot_be_written(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ValueError, match=r"^cannot write .*: Permission denied$"):
        Store(tmp_path).write(make_trial())


# Death at any time.


@pytest.mark.parametrize("call", ["os.replace", "os.fsync", "builtins.open"])
def test_a_disk_that_fails_leaves_the_earlier_trial(tmp_path, monkeypatch, call):
    earlier = make_trial(accuracy=0.8)
    trials = Store(tmp_path)
    trials.write(earlier)
    before = snapshot(tmp_path)

    def fail(*arguments, **keywords):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(call, fail)
        with pytest.raises(ValueError, match=r"^cannot write .*: No space left on device$"):
            trials.write(make_trial(accuracy=0.9))
    assert snapshot(tmp_path) == before


def _run_until_killed(directory, ready):
    """A process that writes trials, seed after seed, for ever; killed once `ready()`."""
    code = f"""
    import sys
    sys.path[:0] = {[str(Path(__file__).parent), *sys.path]!r}
    from test_store import Store, make_trial
    seed = 0
    while True:
        Store({str(directory)!r}).write(make_trial(seed, accuracy=seed / 1e6))
        seed += 1
        print(seed, flush=True)  # so many are promised
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True
    )
    try:
        ready(process)
    finally:
        process.send_signal(signal.SIGKILL)
        output, _ = process.communicate()
    return output


@pytest.mark.parametrize("delay", [0.0, 0.0013, 0.0031])
def test_a_kill_loses_nothing_that_had_finished(tmp_path, delay):
    promised = 0

    def ready(process):
        nonlocal promised
        while promised < 5:
            promised = int(process.stdout.readline())
        time.sleep(delay)

    rest = _run_until_killed(tmp_path, ready)
    promised = max([promised, *map(int, rest.split())])
    found, complaints = Store(tmp_path).read()
    assert complaints == ()
    assert {trial.config.seed for trial in found.values()} >= set(range(promised))
    assert all(t.result.test_accuracy == t.config.seed / 1e6 for t in found.values())


def test_a_kill_between_the_write_and_the_rename(tmp_path):
    """The one instant with two files: killed there, the earlier trial stands, unharmed."""
    earlier = make_trial(accuracy=0.8)
    Store(tmp_path).write(earlier)
    code = f"""
    import os, signal, sys
    sys.path[:0] = {[str(Path(__file__).parent), *sys.path]!r}
    from test_store import Store, make_trial
    os.replace = lambda *paths: os.kill(os.getpid(), signal.SIGKILL)
    Store({str(tmp_path)!r}).write(make_trial(accuracy=0.9))
    """
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False)
    assert run.returncode == -signal.SIGKILL
    left = [path.name for path in snapshot(tmp_path)]
    assert len(left) == 2
    assert Store(tmp_path).read() == ({earlier.key: earlier}, ())
    Store(tmp_path).write(make_trial(accuracy=0.9))
    assert Store(tmp_path).read()[0][earlier.key].result.test_accuracy == 0.9


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="asks Linux what was synced")
def test_it_is_on_disk_before_it_is_named(tmp_path, monkeypatch):
    """What a loss of power needs: file synced, then renamed, then its directory synced."""
    calls = []
    fsync, rename = os.fsync, os.replace
    monkeypatch.setattr(
        os, "fsync", lambda fd: (calls.append(Path(f"/proc/self/fd/{fd}").resolve()), fsync(fd))
    )
    monkeypatch.setattr(os, "replace", lambda *p: (calls.append("rename"), rename(*p)))
    trial = make_trial()
    Store(tmp_path / "new").write(trial)
    made, file, renamed, named = calls[:-3], *calls[-3:]
    assert made == [tmp_path.resolve(), tmp_path.resolve() / "new"]
    assert file.name.startswith(f".{trial.key}.json.") and renamed == "rename"
    assert named == (tmp_path / "new" / "trials").resolve()


def _write_all(directory, seeds, accuracy):
    for seed in seeds:
        Store(directory).write(make_trial(seed, accuracy))


def test_processes_write_at_once(tmp_path):
    """Four writers, half of their trials the same: all whole, each as one of them wrote it."""
    with ProcessPoolExecutor(4, mp_context=get_context("spawn")) as pool:
        writers = [
            pool.submit(_write_all, tmp_path, range(10 * i, 10 * i + 20), i / 8) for i in range(4)
        ]
        while not all(writer.done() for writer in writers):
            _, complaints = Store(tmp_path).read()
            assert complaints == ()
        for writer in writers:
            writer.result()
    found, complaints = Store(tmp_path).read()
    assert complaints == ()
    assert sorted(trial.config.seed for trial in found.values()) == list(range(50))
    for trial in found.values():
        writer = 8 * trial.result.test_accuracy
        assert trial.config.seed - 10 * writer in range(20)
    assert all(path.suffix == ".json" for path in snapshot(tmp_path))


# Choosing among trials.


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


def test_write_file_leaves_no_other_file(tmp_path):
    for content in (b"one", b"two"):
        store.write_file(tmp_path / "deep" / "er" / "report.md", content)
        assert list(snapshot(tmp_path).values()) == [content]
