"""Models of the hub: ours as they were saved, timm's with its logits, all else in one line."""

import json
import warnings
from functools import partial

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


@pytest.fixture(scope="module")
def timms(tmp_path_factory):
    """A function that gives a model of timm and the files that timm writes of it for the hub."""
    timm = pytest.importorskip("timm", reason="it writes the files, and its logits are the oracle")
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)

    def make(name, num_classes=3, **config):
        torch.manual_seed(0)
        network = timm.create_model(name, num_classes=num_classes).eval()
        folder = tmp_path_factory.mktemp("timm")
        timm.models.save_for_hf(network, folder, model_config=config, safe_serialization=True)
        return network, {path.name: path.read_bytes() for path in folder.iterdir()}

    return make


def logits_of(network, images):
    torch = pytest.importorskip("torch")
    with torch.no_grad():
        return network(torch.from_numpy(images.transpose(0, 3, 1, 2))).numpy()


@pytest.mark.parametrize(
    ("name", "resolution", "scaling"),
    [
        ("mobilenetv2_100.ra_in1k", 224, "imagenet"),
        ("mobilenetv3_small_100.lamb_in1k", 224, "imagenet"),
        ("mobilenetv4_conv_small.e2400_r224_in1k", 224, "imagenet"),
    ],
)
def test_a_model_of_timm_gives_timms_logits(name, resolution, scaling, timms, hub_server):
    labels = ["tench", "goldfish", "shark"]
    network, files = timms(name, label_names=labels)
    commit = hub_server.add(f"timm/{name}", files)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model, variables, class_names, view = models.load(f"hf://timm/{name}")
    assert class_names == tuple(labels)
    assert (view.resolution, view.scaling, view.photographs) == (resolution, scaling, True)
    images = np.random.default_rng(0).normal(size=(2, SIDE, SIDE, 3)).astype(np.float32)
    logits = jax.jit(partial(model.apply, train=False))(variables, images)
    expected = logits_of(network, images)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    hub_server.close()
    reference = f"hf://timm/{name}@{commit}"
    assert models.read_spec(reference) == model.spec and models.read_view(reference) == view
    assert models.is_plain(reference)
    assert models.digest(reference) == etag_of(FILE, files[FILE])


@pytest.fixture(scope="module")
def half(timms):
    """The files of a network with three classes."""
    return timms("mobilenetv2_050")[1]


def lying(files, **changes):
    """The files with another config: with these values, or without those that are None."""
    config = json.loads(files["config.json"]) | changes
    text = json.dumps({name: value for name, value in config.items() if value is not None})
    return files | {"config.json": text.encode()}


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"architecture": "mobilenetv2_100"}, "state_dict"),
        ({"architecture": "mobilenetv3_small_100"}, "state_dict"),
        ({"architecture": "resnet50"}, "resnet50"),
        ({"architecture": None}, "architecture"),
        ({"architecture": ["a"]}, "architecture"),
        ({"num_classes": 5}, "num_classes"),
        ({"num_classes": 5, "model_args": None}, "classifier"),
        ({"num_classes": "3"}, "num_classes"),
        ({"label_names": ["one"]}, "label_names"),
        ({"pretrained_cfg": []}, "pretrained_cfg"),
        ({"pretrained_cfg": {"mean": [0.1, 0.2, 0.3]}}, "mean"),
    ],
)
def test_a_config_that_lies_is_refused(changes, word, half, hub_server):
    hub_server.add("timm/net", lying(half, **changes))
    message = refused("hf://timm/net", "hf://timm/net: ", word)
    assert "snapshots" not in message


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b"null", b"\xff", b"[" * 10**5, b"1" * 5000])
def test_a_config_that_is_not_an_object_is_refused(text, half, hub_server):
    hub_server.add("timm/net", half | {"config.json": text})
    refused("hf://timm/net", "hf://timm/net: ", "config")


def test_a_huge_config_is_not_downloaded(half, hub_server):
    hub_server.add("timm/net", half | {"config.json": b" " * 2**23})
    refused("hf://timm/net", "config.json", 2**23)
    asked = [method for method, path, _ in hub_server.requests if path.endswith("config.json")]
    assert set(asked) == {"HEAD"}


def test_timms_weights_without_a_config_are_refused(half, hub_server):
    hub_server.add("timm/net", {FILE: half[FILE]})
    refused("hf://timm/net", "holds no config.json", "models.save")


def test_the_config_beside_the_weights_is_read(half, hub_server):
    hub_server.add("me/nets", {f"half/{name}": content for name, content in half.items()})
    spec = models.load(f"hf://me/nets/half/{FILE}").model.spec
    assert (spec.name, spec.width, spec.head.num_classes) == ("mobilenet_v2", 0.5, 3)
