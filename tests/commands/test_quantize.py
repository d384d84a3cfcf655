"""The command `quantize`: what it prints, draws, keeps as JSON and refuses."""

import json
import re

import numpy as np
import pytest
from messages import assert_refused, call_command
from PIL import Image
from scipy import stats
from small_networks import model_and_variables, random_like, shortened, small_v2

from mnet_jax import models, quantization
from mnet_jax.architectures import walk
from mnet_jax.commands import quantize

pytestmark = pytest.mark.usefixtures("quickly_compiled")

SPEC = shortened(small_v2(num_classes=10), 2)
DIGITS = "--dataset digits --images 40 --calibration-images 20 --sensitivity-images 20"
ONE = f"--checkpoint {{saved}}/a.safetensors {DIGITS} --bits 8"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Three networks of one architecture, one with other classes, one quantized."""
    folder = tmp_path_factory.mktemp("models")
    view = models.View(resolution=32, photographs=False)
    model, variables = model_and_variables(SPEC)
    for seed, name in enumerate("abc"):
        values = random_like(variables, seed=seed)
        models.save(folder / f"{name}.safetensors", model, values, view=view)
    others = model_and_variables(shortened(small_v2(num_classes=7), 2))
    models.save(folder / "seven.safetensors", *others, view=view)
    setting = quantization.Quantization(activation_bits=0)
    rounded = quantization.quantized(model, variables, setting)
    models.save(folder / "rounded.safetensors", *rounded, view=view)
    return folder


@pytest.fixture
def call(saved, data_folder, tmp_path, monkeypatch, capfd):
    """Runs the command in this process: its exit code, standard output and standard error."""

    def run(words):
        monkeypatch.chdir(tmp_path)
        return call_command(quantize, words.format(saved=saved).split(), monkeypatch, capfd)

    return run


def kept(tmp_path):
    return json.loads((tmp_path / "results/quantize/quantize.json").read_text())


def test_the_ladder_and_the_layers_of_a_network_are_told_drawn_and_kept(call, tmp_path):
    code, out, err = call(f"{ONE} --layers")
    assert (code, err) == (0, "")
    ((ladder,),) = kept(tmp_path).values()
    assert ladder["images"] == 40
    for rung in ladder["rungs"]:
        told = f"{rung['bits']} +{re.escape(rung['name'])} +{100 * rung['agreement']:.2f} "
        assert re.search(f"^ *{told}", out, re.MULTILINE)
        assert 0 <= rung["accuracy"] <= 1
    for layer in walk(SPEC, 32):
        assert re.search(rf"^{layer.name} +{layer.kind} ", out, re.MULTILINE)
    kinds = {one["kind"] for one in ladder["sensitivity"]}
    assert kinds == {"conv", "depthwise", "pointwise", "dense"}
    assert re.search(r"Of the noise of kernels that are rounded alone, \d+% is that of the \d", out)
    pixels = np.asarray(Image.open(tmp_path / "results/quantize/quantize.png").convert("RGB"))
    assert pixels.shape[1] == 1200 and pixels.std() > 10


def test_models_of_one_label_are_told_by_their_means(call, tmp_path):
    names = " ".join(f"{{saved}}/{name}.safetensors" for name in "abc")
    code, out, _ = call(f"--checkpoint {names} --label x x x {DIGITS} --bits 8")
    assert code == 0 and "x, means over 3 models" in out
    (found,) = kept(tmp_path).values()
    rungs = [one["rungs"][-1] for one in found]
    rows = re.findall(r"^ *8 +\+ bias correction +(.*)$", out, re.MULTILINE)
    numbers = [float(x) for x in re.findall(r"[-+]?[\d.]+", rows[-1])]
    exact = [one["rungs"][0]["accuracy"] for one in found]
    accuracies = [100 * one["accuracy"] for one in rungs]
    lost = [a - 100 * b for a, b in zip(accuracies, exact, strict=True)]
    *_, size = numbers
    assert size == pytest.approx(rungs[0]["size"] / 1000, abs=0.051)
    agreements = [100 * one["agreement"] for one in rungs]
    wanted_means = agreements, [one["sqnr"] for one in rungs], accuracies, lost
    found_means = zip(numbers[0:-1:2], numbers[1:-1:2], strict=True)
    for values, (mean, half) in zip(wanted_means, found_means, strict=True):
        np.testing.assert_allclose(mean, np.mean(values), atol=0.06)
        wanted = stats.t.ppf(0.975, 2) * np.std(values, ddof=1) / np.sqrt(3)
        np.testing.assert_allclose(half, wanted, atol=0.06)


def test_a_data_set_of_other_classes_gives_no_accuracy(call, tmp_path):
    line = ONE.replace("a.safetensors", "seven.safetensors")
    code, out, err = call(f"{line} --granularity channel")
    assert (code, err) == (0, "")
    assert "class as in float" in out and "accuracy" not in out
    ((ladder,),) = kept(tmp_path).values()
    assert [one["name"] for one in ladder["rungs"]] == ["float", "per channel", "+ bias correction"]
    assert all(one["accuracy"] is None for one in ladder["rungs"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "--checkpoint: got '', legal: one run's directory or saved model"),
        (ONE.replace("a.safe", "none.safe"), "legal: a path that exists"),
        (ONE.replace("a.safe", "rounded.safe"), "--checkpoint: got 'a quantized network', legal:"),
        (f"{ONE} 9", "--bits: got 9, legal: 2 to 8"),
        (f"{ONE} 8", "--bits: got '8 8', legal: one value or more, each once"),
        (f"{ONE} --granularity layer", "--granularity: got 'layer', legal: tensor, channel"),
        (f"{ONE} --edge-bits 1", "--edge-bits: got 1, legal: 2 to 8"),
        (f"{ONE} --adaround -1", "--adaround: got -1, legal: 0 or more"),
        (ONE.replace("calibration-images 20", "calibration-images 1"), "got 1, legal: 2 or more"),
        (ONE.replace("--images 40", "--images 99999999"), "--images: got 99999999, legal:"),
        (f"--checkpoint {{saved}}/a.safetensors {{saved}}/seven.safetensors --label a a {DIGITS}",
         "--label: got 'a for different networks'"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_one_line(call, tmp_path, words, message):
    if "different networks" in message:
        words = f"{words} --bits 8 --granularity channel"
    assert_refused(call(words), "quantize", message)
    assert not list(tmp_path.iterdir())
