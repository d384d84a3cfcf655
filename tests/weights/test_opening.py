"""Models of the hub: as they were saved, or refused in one line."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hub_server import downloads, etag_of
from messages import one_line
from small_networks import random_variables
from tiny_network import make_tiny_spec

from mnet_jax import models
from mnet_jax.models import SavedModelError, View

FILE = models.FILE_NAME
VIEW = View(resolution=16, photographs=True, scaling="imagenet")
NAMES = tuple("abcdefghij")
SIDE = 64


def saved_bytes(folder, seed=0):
    """A saved model of the tiny network: its content and its variables."""
    model = models.MobileNet(spec=make_tiny_spec())
    variables = random_variables(model, jnp.zeros((1, 16, 16, 3)), train=False)
    variables = jax.tree.map(lambda leaf: leaf + seed, variables)
    models.save(folder / "saved.safetensors", model, variables, class_names=NAMES, view=VIEW)
    return (folder / "saved.safetensors").read_bytes(), variables


def assert_same(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def refused(reference, *words):
    return one_line(SavedModelError, lambda: models.load(reference), *words)


def test_a_saved_model_comes_back_as_it_was_saved(hub_server, tmp_path):
    content, variables = saved_bytes(tmp_path)
    hub_server.add("me/tiny", {FILE: content, "README.md": b"mine", "config.json": b"{}"})
    found = models.load("hf://me/tiny")
    assert found.model == models.MobileNet(spec=make_tiny_spec())
    assert (found.class_names, found.view) == (NAMES, VIEW)
    assert_same(found.variables, variables)
    assert models.read_spec("hf://me/tiny") == make_tiny_spec()
    assert models.read_view("hf://me/tiny") == VIEW
    assert models.is_plain("hf://me/tiny")
    assert models.digest("hf://me/tiny") == etag_of(FILE, content)
    assert len(downloads(hub_server)) == 1


def test_revisions_and_files_are_told_apart(hub_server, tmp_path):
    contents = [saved_bytes(tmp_path, seed) for seed in range(3)]
    old = hub_server.add("me/tiny", {FILE: contents[0][0]}, revision="v1")
    hub_server.add("me/tiny", {FILE: contents[1][0], "other/b.safetensors": contents[2][0]})
    for reference, (_, variables) in {
        "hf://me/tiny@v1": contents[0],
        f"hf://me/tiny@{old}": contents[0],
        "hf://me/tiny": contents[1],
        "hf://me/tiny@main/other/b.safetensors": contents[2],
    }.items():
        assert_same(models.load(reference).variables, variables)


def test_a_pinned_reference_stays_what_it_was(hub_server, tmp_path):
    (first, variables), (second, _) = saved_bytes(tmp_path), saved_bytes(tmp_path, seed=1)
    commit = hub_server.add("me/tiny", {FILE: first})
    pinned = models.pinned("hf://me/tiny")
    assert pinned == f"hf://me/tiny@{commit}"
    hub_server.add("me/tiny", {FILE: second})
    assert models.pinned("hf://me/tiny") != pinned
    hub_server.close()
    assert models.pinned(pinned) == pinned
    assert_same(models.load(pinned).variables, variables)
    assert models.pinned(tmp_path / FILE) == str(tmp_path / FILE)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"pytorch_model.bin": b"x"}, ("pytorch_model.bin", "run code", "safetensors")),
        ({"a.safetensors": b"x", f"{FILE}.index.json": b"{}"}, ("several files", "index.json")),
        ({"README.md": b"x"}, (FILE,)),
    ],
)  # fmt: skip
def test_weights_in_another_form_are_refused_by_name(files, words, hub_server):
    hub_server.add("me/net", files)
    refused("hf://me/net", "hf://me/net: holds no", *words)
    assert not downloads(hub_server)


def test_what_the_reference_cannot_mean_is_refused(hub_server):
    for reference in ("hf://me", "hf://me/net/pytorch_model.bin", "hf://me/../etc/x.safetensors"):
        refused(reference, repr(reference), "hf://owner/name[@revision][/file.safetensors]")
    refused("hf://me/none", "hf://me/none: no such repository")
    assert all("me/none" in path for _, path, _ in hub_server.requests if path.count("me/"))


@pytest.mark.parametrize("content", [b"", b"no safetensors", b"\xff" * 100])
def test_a_file_that_is_no_safetensors_file_is_refused(content, hub_server):
    hub_server.add("me/net", {FILE: content})
    message = refused("hf://me/net", "hf://me/net: ")
    assert "snapshots" not in message


def test_a_saved_model_that_is_damaged_is_refused(hub_server, tmp_path):
    content, _ = saved_bytes(tmp_path)
    hub_server.add("me/tiny", {FILE: content[:-1] + bytes([content[-1] ^ 1])})
    message = refused("hf://me/tiny", "hf://me/tiny: not a saved model", "damaged")
    assert "snapshots" not in message
