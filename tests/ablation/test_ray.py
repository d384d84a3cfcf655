"""Trials on a Ray cluster of two nodes in this machine, one of which is killed while it works."""

import dataclasses
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from messages import assert_refused, call_command
from tiny_network import make_short_spec
from trial_stand_ins import FINE, KILLED, RAISING, saving, stand_in

from mnet_jax.ablation.runners import LocalRunner, RayRunner, RunnerError, Slots, on_ray, run
from mnet_jax.ablation.store import Store
from mnet_jax.commands import ablate
from mnet_jax.config import DataConfig, RunConfig, Sgd, TrainingConfig

ray = pytest.importorskip("ray")
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quickly_compiled")]
ROOT = Path(__file__).parents[2]
EPOCHS = 3
# Ray's are three seconds, five times: a node that answers late is not meant, but one that is gone.
QUICK_TO_NOTICE = {"health_check_period_ms": "300", "health_check_failure_threshold": "3"}
SMALL = "--model mobilenet_v1 --depth shallow --width 0.1 --resolution 8 --seeds 1 --runner ray"


@pytest.fixture(scope="module")
def shared(quickly_compiled):
    """A cluster of one node with one core, which soon notices that a node is gone."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        for name, value in QUICK_TO_NOTICE.items():
            patch.setenv(f"RAY_{name}", value)
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "tests" / "support")]))
        nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        nodes.wait_for_nodes()
        yield nodes
        nodes.shutdown()


@pytest.fixture
def cluster(shared):
    yield shared
    ray.shutdown()


def config_of(seed):
    return RunConfig(
        spec=make_short_spec(),
        data=DataConfig(name="digits", resolution=8, batch_size=128, augmentation="none"),
        training=TrainingConfig(
            epochs=EPOCHS, warmup_epochs=0.0, optimizer=Sgd(), learning_rate=0.01
        ),
        seed=seed,
    )


def saved(directory):
    """The steps of the checkpoints that are whole."""
    return [path.name for path in directory.glob("*") if path.name.isdigit()]


def without_times(result):
    history = [
        dataclasses.replace(record, seconds=0.0, images_per_second=0.0) for record in result.history
    ]
    return dataclasses.replace(result, history=tuple(history), seconds=0.0, images_per_second=0.0)


def test_a_node_that_dies_loses_no_trial(cluster, tmp_path):
    """The trial that it ran goes on elsewhere, from its checkpoint, to the same result."""
    wanted = {seed: config_of(seed) for seed in (0, 1)}
    begun = []
    second = cluster.add_node(num_cpus=1)
    runner = RayRunner(cluster.address, None, 1, trial=saving)
    assert runner.has_room()

    def kill_a_node():
        """Once both trials have something to go on from."""
        while not all(saved(tmp_path / str(seed) / "checkpoints") for seed in wanted):
            time.sleep(0.1)
        cluster.remove_node(second, allow_graceful=False)
        (tmp_path / "go on").touch()

    killer = threading.Thread(target=kill_a_node, daemon=True)
    killer.start()
    outcomes = list(
        run(
            iter(wanted.values()), runner, lambda c: tmp_path / str(c.seed), begun.append,
            lambda c, e: None,
        )
    )  # fmt: skip
    killer.join(60)
    assert not killer.is_alive()
    assert sorted(outcome.config.seed for outcome in outcomes) == [0, 1]
    assert [outcome.cause for outcome in outcomes] == [None, None]
    (lost,) = (config for config in wanted.values() if begun.count(config) == 2)
    first, again = sorted(int(n.read_text()) for n in tmp_path.glob(f"{lost.seed}/began-*"))
    assert first == 1 and again > 1, "it went on from its checkpoint"
    core = Slots(environments=({"PJRT_NPROC": "1"},))
    (undisturbed,) = run(
        iter([lost]), LocalRunner(core, saving),
        lambda c: tmp_path / "alone", lambda c: None, lambda c, e: None,
    )  # fmt: skip
    results = {outcome.config: without_times(outcome.result) for outcome in outcomes}
    assert [len(result.history) for result in results.values()] == [EPOCHS] * 2
    assert results[lost] == without_times(undisturbed.result)


def test_a_trial_that_fails_is_not_lost_and_one_that_crashes_is_tried_again(cluster, tmp_path):
    configs = [dataclasses.replace(config_of(0), seed=seed) for seed in (FINE, RAISING, KILLED)]
    begun = []
    runner = RayRunner(cluster.address, 1, 1, trial=stand_in)
    found = {
        outcome.config.seed: outcome
        for outcome in run(
            iter(configs), runner, lambda c: tmp_path / str(c.seed), begun.append, lambda c, e: None
        )
    }
    assert found[FINE].result.test_loss == FINE
    assert found[RAISING].cause == "ArithmeticError: the loss is sad"
    assert found[KILLED].result is None and "its worker was lost" in found[KILLED].cause
    assert [begun.count(config) for config in configs] == [1, 1, 3]


def test_what_no_node_has_is_refused(cluster):
    with pytest.raises(ValueError, match="cores_per_trial: got 2, legal: 1 to 1, as the nodes"):
        RayRunner(cluster.address, 2, 1)
    with pytest.raises(ValueError, match="devices_per_trial: got 2, legal: 1, as there are no acc"):
        RayRunner(cluster.address, 1, 2)


def test_a_sweep_on_a_cluster_of_its_own(tmp_path):
    words = [*SMALL.split(), "--epochs", "1", "--results", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "experiments.ablate", *words],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (trial,) = Store(tmp_path).read().trials.values()
    assert trial.result
    assert "trial 1 of 1" in done.stdout and not done.stderr


def test_a_cluster_that_is_not_there_is_one_line(tmp_path, monkeypatch, capfd):
    words = ["--runner", "ray", "--ray-address", "127.0.0.1:1", "--results", str(tmp_path)]
    answer = call_command(ablate, words, monkeypatch, capfd)
    assert_refused(answer, "ablate", "--ray-address: got '127.0.0.1:1'")
    assert not list(tmp_path.iterdir())


def test_a_server_that_says_nothing_is_no_cluster(monkeypatch):
    """It takes connections, for which Ray would wait without end."""
    monkeypatch.setattr(on_ray, "JOIN_SECONDS", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(
            ValueError, match=f"^ray_address: got '{address}', legal: a run"
        ) as message:
            RayRunner(address, None, 1)
    assert str(message.value).endswith("(no cluster answers within 1 seconds)")


def test_a_cluster_whose_only_node_is_gone_ends_the_sweep(monkeypatch, capfd):
    """Its head still answers, and would for ever; and Ray's pages are not shown."""
    from ray.cluster_utils import Cluster

    monkeypatch.setattr(on_ray, "GONE_SECONDS", {"own": 0.0, "other": 0.0})
    monkeypatch.setattr(on_ray, "LOOK_SECONDS", 0.0)
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        nodes.wait_for_nodes()
        runner = RayRunner(nodes.address, None, 1)
        assert runner.has_room()
        capfd.readouterr()
        nodes.head_node.kill_raylet()
        with pytest.raises(RunnerError, match=r"^the Ray cluster has had no node for 0 seconds$"):
            while True:
                runner.has_room()
        runner.end()
    finally:
        ray.shutdown()
        nodes.shutdown()
    assert "raylet" not in capfd.readouterr().out


def test_sigterm_ends_a_sweep_as_it_ends_every_other(tmp_path):
    """Ray's own handler would abort the process with a dump of its stack."""
    words = [*SMALL.split(), "--epochs", "1000", "--results", str(tmp_path)]
    sweep = subprocess.Popen(
        [sys.executable, "-m", "experiments.ablate", *words],
        cwd=ROOT, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while not (tmp_path / "leases").exists() and sweep.poll() is None:
        time.sleep(0.1)
    sweep.terminate()
    _, message = sweep.communicate(timeout=300)
    assert sweep.returncode == 130
    assert message.count("\n") == 1 and message.endswith("the same command goes on\n")
