"""Commands with `hf://owner/name` where they take a saved model: the same as with the file."""

import json
import os
import subprocess
import sys

import chex
import jax
import numpy as np
import optax
import pytest
from hub_server import HubServer, downloads
from messages import assert_refused, call_command
from PIL import Image
from small_networks import model_and_variables, random_like, shortened, small_v2

from mnet_jax import models
from mnet_jax.commands import ablate, convert, evaluate, export, features, planning, train
from mnet_jax.commands.arguments import parse
from mnet_jax.config import Pretrained
from mnet_jax.runs import pretrained
from mnet_jax.training.step import initial_state

pytestmark = pytest.mark.usefixtures("quickly_compiled")

REFERENCE = "hf://me/digits"
REFUSED = "hf://owner/name[@revision][/file.safetensors]"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The path of a saved model, which sees images of 32 pixels."""
    path = tmp_path_factory.mktemp("saved") / "digits.safetensors"
    model, variables = model_and_variables(shortened(small_v2(num_classes=10), 2))
    view = models.View(resolution=32, photographs=False, scaling="imagenet")
    models.save(path, model, variables, view=view)
    return path


@pytest.fixture
def commit(hub_server, saved):
    return hub_server.add("me/digits", {"model.safetensors": saved.read_bytes()})


@pytest.fixture
def call(monkeypatch, capfd, tmp_path):
    monkeypatch.chdir(tmp_path)
    return lambda module, *words: call_command(module, list(map(str, words)), monkeypatch, capfd)


def test_evaluate_and_features_take_a_reference(commit, saved, call, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    words = ("--image", "photo.png", "--checkpoint")
    found, expected = (call(evaluate, *words, path) for path in (REFERENCE, saved))
    assert found[:2] == expected[:2] and found[0] == 0
    for path, folder in ((REFERENCE, "a"), (saved, "b")):
        assert call(features, "--results", folder, "--checkpoint", path)[0] == 0
    assert (tmp_path / "a/kernels.png").read_bytes() == (tmp_path / "b/kernels.png").read_bytes()


def test_export_names_the_digest_of_the_file(commit, call, tmp_path):
    code, _, _ = call(export, "--checkpoint", REFERENCE, "--images", 4, "--rounds", 1)
    assert code == 0
    card = json.loads((tmp_path / "exported/model.json").read_text())
    assert card["saved_model"] == models.digest(REFERENCE)


def test_convert_writes_what_the_repository_holds(commit, saved, call, tmp_path):
    code, out, _ = call(convert, REFERENCE, "--to", "mine.safetensors")
    assert code == 0 and "mine.safetensors" in out
    assert (tmp_path / "mine.safetensors").read_bytes() == saved.read_bytes()


@pytest.mark.parametrize(
    ("flag", "value"),
    [("library", "timm"), ("timm-name", "mobilenetv2_100"), ("num-classes", "10"),
     ("scaling", "imagenet"), ("width", "0.5"), ("resolution", "224"),
     ("crop-share", "0.9"), ("interpolation", "bilinear")],
)  # fmt: skip
def test_convert_refuses_to_describe_what_the_repository_describes(flag, value, hub_server, call):
    answer = call(convert, "--weights", REFERENCE, f"--{flag}", value)
    assert_refused(answer, "convert", f"--{flag}: got", "the repository says it")
    assert not hub_server.requests


@pytest.mark.parametrize("path", ["hf://me", "hf://me/../x", "hf://me/net/pytorch_model.bin"])
def test_an_illegal_reference_is_refused_before_anything_else(path, hub_server, call):
    for command, words in {
        evaluate: ("--checkpoint", path, "--image", "none.png"),
        features: ("--checkpoint", path),
        export: ("--checkpoint", path),
        train: ("--pretrained", path),
        ablate: ("--pretrained", path, "--width", "0.5", "1"),
        convert: (path,),
    }.items():
        assert_refused(call(command, *words), command.COMMAND, repr(path), REFUSED)
    assert not hub_server.requests


def test_a_repository_that_is_not_there_is_refused_by_every_command(hub_server, call):
    for command, words in {
        evaluate: ("--checkpoint", "hf://me/none", "--dataset", "digits"),
        export: ("--checkpoint", "hf://me/none"),
        train: ("--pretrained", "hf://me/none"),
        convert: ("hf://me/none",),
    }.items():
        answer = call(command, *words)
        assert_refused(answer, command.COMMAND, "hf://me/none: no such repository")


def arm_from(*words, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train", *words])
    return planning.baseline(parse(planning.RunArguments, train.COMMAND))


def test_a_run_keeps_the_commit_and_the_digest(commit, saved, hub_server, monkeypatch):
    arm = arm_from("--pretrained", REFERENCE, "--dataset", "digits", monkeypatch=monkeypatch)
    pinned = f"{REFERENCE}@{commit}"
    assert arm.pretrained == Pretrained(path=pinned, sha256=models.digest(saved))
    assert arm.data.scaling == "imagenet"
    expected = arm_from("--pretrained", str(saved), "--dataset", "digits", monkeypatch=monkeypatch)
    assert (arm.spec, arm.data, arm.training) == (expected.spec, expected.data, expected.training)


def test_a_run_starts_from_its_commit_when_the_repository_has_changed_and_is_gone(
    commit, saved, hub_server, monkeypatch
):
    arm = arm_from("--pretrained", REFERENCE, "--dataset", "digits", monkeypatch=monkeypatch)
    other = models.load(saved)
    changed = saved.with_name("changed.safetensors")
    models.save(changed, other.model, random_like(other.variables, seed=9), view=other.view)
    hub_server.add("me/digits", {"model.safetensors": changed.read_bytes()})
    hub_server.close()
    config = arm.config(num_classes=10)
    planning.require_fit(config)
    random = initial_state(random_like(other.variables, seed=1), optax.sgd(0.1), jax.random.key(1))
    start = pretrained.initialize_from(config.pretrained, random, config.spec)
    chex.assert_trees_all_equal(start.params, other.variables["params"])


@pytest.mark.slow
def test_training_goes_on_offline_as_users_set_it(saved, tmp_path):
    """In processes of their own, where the library reads its environment variables."""
    with HubServer() as server:
        server.add("me/digits", {"model.safetensors": saved.read_bytes()})
        places = {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "hf")}

        def trained(epochs, **more):
            words = ["--pretrained", REFERENCE, "--dataset", "digits", "--epochs", epochs]
            command = [sys.executable, "-m", "experiments.train", *words, "--run", "runs/one"]
            done = subprocess.run(
                command, env=os.environ | places | more, cwd=tmp_path,
                capture_output=True, text=True, timeout=300,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            return (tmp_path / "runs/one/config.json").read_text()

        first = trained("1")
        assert len(downloads(server)) == 1
    server.close()
    assert trained("1", HF_HUB_OFFLINE="1") == first
