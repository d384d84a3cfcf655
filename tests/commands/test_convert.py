"""Another library's weights become a model that sees pixels as that library does."""

import dataclasses
import sys
from functools import partial

import jax
import numpy as np
import pytest
from messages import assert_refused, call_command
from PIL import Image
from safetensors.numpy import save_file
from small_networks import random_variables
from tensorflow_graphs import compute, slim_v1

from mnet_jax import data, models, weights
from mnet_jax.commands import convert, planning
from mnet_jax.commands.arguments import parse
from mnet_jax.data.scaling import pixels_of, scaled
from mnet_jax.models import View
from mnet_jax.runs import inference

NARROW = ["--width", "0.25", "--num-classes", "3"]
IMAGES = np.random.default_rng(0).integers(0, 256, (2, 5, 4, 3), dtype=np.uint8)


def test_symmetric_scaling_takes_black_to_minus_one_and_white_to_one():
    grey = np.array([0, 51, 255], np.uint8).reshape(1, 1, 3, 1)
    expected = np.repeat([[-1.0], [-0.6], [1.0]], 3, axis=1).reshape(1, 1, 3, 3)
    np.testing.assert_allclose(scaled(grey, "symmetric"), expected, atol=1e-6)


def test_unit_scaling_takes_black_to_zero_and_white_to_one():
    grey = np.array([0, 51, 255], np.uint8).reshape(1, 1, 3, 1)
    expected = np.repeat([[0.0], [0.2], [1.0]], 3, axis=1).reshape(1, 1, 3, 3)
    np.testing.assert_allclose(scaled(grey, "unit"), expected, atol=1e-6)


@pytest.mark.parametrize("scaling", ["symmetric", "imagenet", "unit"])
def test_pixels_come_back(scaling):
    np.testing.assert_array_equal(pixels_of(scaled(IMAGES, scaling), scaling), IMAGES)


def test_imagenets_scaling_is_torchvisions():
    torch = pytest.importorskip("torch")
    transforms = pytest.importorskip("torchvision.transforms.v2")
    normalize = transforms.Compose([
        transforms.ToDtype(torch.float32, scale=True),
        transforms.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]),
    ])  # fmt: skip
    expected = normalize(torch.from_numpy(IMAGES.transpose(0, 3, 1, 2)))
    found = scaled(IMAGES, "imagenet").transpose(0, 3, 1, 2)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-5, atol=1e-6)


def test_imagenets_scaling_gives_each_channel_its_own_mean_and_deviation():
    means = np.array([0.485, 0.456, 0.406])
    pixels = np.rint(255 * (means + np.array([0.229, 0.224, 0.225]))).astype(np.uint8)
    found = scaled(pixels.reshape(1, 1, 3), "imagenet")
    np.testing.assert_allclose(found, np.ones((1, 1, 3)), atol=0.5 / 255 / 0.224)
    grey = np.full((1, 1, 1), 128, np.uint8)
    np.testing.assert_array_equal(
        scaled(grey, "imagenet"), scaled(np.full((1, 1, 3), 128, np.uint8), "imagenet")
    )


def variables_of_images(model):
    """Random parameters, with the statistics of random images, so that logits tell images apart."""
    images = np.random.default_rng(2).normal(size=(16, 32, 32, 3)).astype(np.float32)
    dialect = dataclasses.replace(model.spec.dialect, norm_momentum=0.0)
    forgetful = models.MobileNet(spec=dataclasses.replace(model.spec, dialect=dialect))
    start = random_variables(forgetful, images, train=False)

    @jax.jit
    def statistics(variables):
        dropout = {"dropout": jax.random.key(0)}
        return forgetful.apply(
            variables, images, train=True, mutable=["batch_stats"], rngs=dropout
        )[1]

    return {**start, **statistics(start)}


@pytest.fixture(scope="module")
def theirs():
    """A model of torchvision's dialect and its variables."""
    model = models.mobilenet_v2(width=0.25, num_classes=3, dialect="torchvision")
    return model, variables_of_images(model)


@pytest.fixture
def place(theirs, tmp_path, monkeypatch):
    """An empty working directory with weights as torchvision names them."""
    monkeypatch.chdir(tmp_path)
    model, variables = theirs
    state = weights.to_torchvision(variables, model)
    save_file({n: np.ascontiguousarray(a) for n, a in state.items()}, "theirs.safetensors")
    (tmp_path / "names.txt").write_text("ant\nbee\ncat\n")
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (48, 64, 3), np.uint8)).save("x.png")
    return model, variables


def converted(monkeypatch, *words):
    given = ["--library", "torchvision", "--weights", "theirs.safetensors", *NARROW, *words]
    monkeypatch.setattr(sys, "argv", ["convert", *given])
    convert.main()


def test_the_file_has_the_librarys_network_and_sees_as_it_does(place, monkeypatch, capsys):
    model, variables = place
    converted(monkeypatch, "--to", "ours.safetensors", "--class-names", "names.txt",
              "--resolution", "32")  # fmt: skip
    assert "mobilenet_v2 of width 0.25, as torchvision has it" in capsys.readouterr().out
    saved = models.load("ours.safetensors")
    assert saved.model.spec == model.spec and saved.class_names == ("ant", "bee", "cat")
    assert saved.view == View(resolution=32, photographs=True, scaling="imagenet")
    pixels = data.read_eval_image("x.png", View(resolution=32, photographs=True))
    means, deviations = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    theirs = (((pixels + 1) / 2 - means) / deviations).astype(np.float32)
    both = jax.jit(partial(model.apply, train=False))(variables, np.stack([theirs, pixels]))
    expected, otherwise = np.asarray(jax.nn.softmax(both))
    guesses = inference.classify(saved, "x.png", view=saved.view)
    found = {guess.class_name: guess.probability for guess in guesses}
    assert found == pytest.approx(
        dict(zip(("ant", "bee", "cat"), expected, strict=True)), rel=1e-3, abs=1e-6
    )
    assert np.abs(otherwise - expected).max() > 0.01


def test_a_frozen_graph_of_slim_becomes_a_model(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    graph = slim_v1(np.random.default_rng(0), 0.25, 3)
    (tmp_path / "frozen.pb").write_bytes(graph.SerializeToString())
    given = ["--library", "slim", "--weights", "frozen.pb", "--model", "mobilenet_v1", *NARROW]
    monkeypatch.setattr(sys, "argv", ["convert", *given, "--to", "ours.safetensors"])
    convert.main()
    assert "mobilenet_v1 of width 0.25, as slim has it" in capsys.readouterr().out
    saved = models.load("ours.safetensors")
    assert saved.view == View(resolution=224, photographs=True, scaling="symmetric")
    images = np.random.default_rng(1).uniform(-1, 1, (2, 64, 64, 3)).astype(np.float32)
    logits = jax.jit(partial(saved.model.apply, train=False))(saved.variables, images)
    expected = compute(graph, "logits", images)
    np.testing.assert_allclose(logits, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("name", "flags", "classes", "side"),
    [
        ("mobilenetv1_025h.e1_r256_in1k", [], 1000, 256),
        ("mobilenetv1_025h.e1_r256_in1k", ["--resolution", "64", "--num-classes", "3"], 3, 64),
        ("mobilenetv4_conv_small_035.mine", ["--num-classes", "3"], 3, 224),
        ("mobilenetv4_conv_small_035", [], 1000, 224),
    ],
)
def test_a_name_of_timms_says_the_network(name, flags, classes, side, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = models.MobileNet(spec=weights.timm_spec(name, classes))
    variables = random_variables(model, np.zeros((1, 32, 32, 3), np.float32), train=False)
    state = weights.to_timm(variables, model)
    save_file({n: np.ascontiguousarray(a) for n, a in state.items()}, "theirs.safetensors")
    words = ["--timm-name", name, "--weights", "theirs.safetensors", "--scaling", "imagenet"]
    monkeypatch.setattr(sys, "argv", ["convert", *words, *flags, "--to", "ours.safetensors"])
    convert.main()
    saved = models.load("ours.safetensors")
    assert saved.model == model and saved.view.resolution == side
    jax.tree.map(np.testing.assert_array_equal, saved.variables, variables)


def test_fine_tuning_takes_the_pixels_over(place, monkeypatch):
    converted(monkeypatch, "--to", "ours.safetensors")
    monkeypatch.setattr(sys, "argv", ["train", "--pretrained", "ours.safetensors"])
    arm = planning.baseline(parse(planning.RunArguments, "train"), 100)
    assert arm.data.scaling == "imagenet" and arm.config(10).spec.head.num_classes == 10
    assert arm.spec.dialect.name == "torchvision"


def test_fine_tuning_takes_crop_and_filter_over(place, monkeypatch):
    flags = ["--crop-share", "0.95", "--interpolation", "bicubic"]
    converted(monkeypatch, "--to", "ours.safetensors", *flags)
    view = models.load("ours.safetensors").view
    assert (view.crop_share, view.interpolation) == (0.95, "bicubic")
    monkeypatch.setattr(sys, "argv", ["train", "--pretrained", "ours.safetensors"])
    arm = planning.baseline(parse(planning.RunArguments, "train"), 100)
    assert arm.data.view(photographs=True) == view


def test_an_illegal_crop_is_refused(place, monkeypatch, capfd):
    words = ["--library", "torchvision", "--weights", "theirs.safetensors", "--crop-share", "1.5"]
    assert_refused(
        call_command(convert, words, monkeypatch, capfd), "convert", "--crop-share", "1.5"
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "--library: got None, legal: torchvision, timm, keras or slim"),
        ("--library timm", "--weights: got None, legal: a file that exists"),
        ("--library timm --weights no.npz", "--weights: got 'no.npz', legal: a file that exists"),
        ("--library timm --weights theirs.safetensors", "--scaling: got None, legal: symmetric, i"),
        (
            "--library torchvision --weights theirs.safetensors",
            "--weights: state_dict: does not fit mobilenet_v2",
        ),
        ("--library keras --weights theirs.safetensors --to x.npz", "--to: got 'x.npz', legal: a"),
        (
            "--library torchvision --weights theirs.safetensors --to no/x.safetensors",
            "--to: got 'no/x.safetensors', legal: a file in a folder that exists",
        ),
        (
            "--library torchvision --weights theirs.safetensors --width 0.25 --num-classes 3 "
            "--class-names x.png",
            "--class-names: got 'x.png', legal: a file of text",
        ),
        (
            "--library torchvision --weights theirs.safetensors --model mobilenet_v4_conv_small",
            "--dialect of mobilenet_v4: got 'torchvision', legal: paper, timm",
        ),
        (
            "--timm-name mobilenetv4_conv_blur_medium.e500_r224_in1k --weights theirs.safetensors",
            "--timm-name: got 'mobilenetv4_conv_blur_medium.e500_r224_in1k', legal: a network",
        ),
        ("--timm-name resnet50 --weights theirs.safetensors", "--timm-name: got 'resnet50', legal"),
        (
            "--timm-name mobilenetv2_050 --library keras --weights theirs.safetensors",
            "--library: got 'keras', legal: timm",
        ),
        (
            "--timm-name mobilenetv2_050 --width 0.5 --weights theirs.safetensors",
            "--width: got 0.5, legal: none with --timm-name",
        ),
        (
            "--timm-name mobilenetv3_large_100.miil_in21k --weights theirs.safetensors",
            "--num-classes: got None, legal: a number, which mobilenetv3_large_100.miil_in21k",
        ),
        (
            "--timm-name mobilenetv2_050 --weights theirs.safetensors",
            "--scaling: got None, legal: symmetric, imagenet or unit",
        ),
        (
            "--timm-name mobilenetv2_050 --weights theirs.safetensors --scaling imagenet",
            "--weights: state_dict: does not fit mobilenet_v2 as timm names it",
        ),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    line, message, place, tmp_path, monkeypatch, capsys
):
    before = {*tmp_path.iterdir()}
    monkeypatch.setattr(sys, "argv", ["convert", *line.split()])
    with pytest.raises(SystemExit) as leaving:
        convert.main()
    output = capsys.readouterr()
    assert leaving.value.code == 2 and output.out == ""
    assert output.err.startswith(f"experiments.convert: {message}") and output.err.count("\n") == 1
    assert {*tmp_path.iterdir()} == before
