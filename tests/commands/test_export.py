"""The command `export`: what it writes, prints and refuses, and the programs in model.json."""

import json
import subprocess
import sys

import numpy as np
import pytest
from messages import assert_refused, call_command
from small_networks import model_and_variables, shortened, small_v2

from mnet_jax import export as exporting
from mnet_jax import models, quantization
from mnet_jax.commands import export

pytestmark = pytest.mark.usefixtures("quickly_compiled")

SPEC = shortened(small_v2(num_classes=10), 2)
DIGITS = "--dataset digits --images 40 --calibration-images 20 --rounds 2"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A network in floating point, the same in 8 bits and in 4, and one without a view."""
    folder = tmp_path_factory.mktemp("models")
    view = models.View(resolution=32, photographs=False)
    model, variables = model_and_variables(SPEC)
    names = [f"digit {i}" for i in range(10)]
    models.save(folder / "float.safetensors", model, variables, view=view)
    models.save(folder / "named.safetensors", model, variables, view=view, class_names=names)
    models.save(folder / "viewless.safetensors", model, variables)
    bicubic = models.View(resolution=32, photographs=True, crop_share=0.95, interpolation="bicubic")
    models.save(folder / "bicubic.safetensors", model, variables, view=bicubic)
    images = np.random.default_rng(0).uniform(-1, 1, (4, 32, 32, 3)).astype(np.float32)
    seen = quantization.observe(model, variables, [images])
    for bits in (8, 4):
        setting = quantization.Quantization(weight_bits=bits, activation_bits=8)
        rounded = quantization.quantized(model, variables, setting, seen)
        models.save(folder / f"{bits}_bits.safetensors", *rounded, view=view)
    return folder


@pytest.fixture
def call(saved, data_folder, tmp_path, monkeypatch, capfd):
    """Runs the command in this process: its exit code, standard output and standard error."""

    def run(words):
        monkeypatch.chdir(tmp_path)
        return call_command(export, words.format(saved=saved).split(), monkeypatch, capfd)

    return run


def card_in(folder):
    return json.loads((folder / "model.json").read_text())


def require(*formats):
    for name in formats:
        for package in exporting.FORMATS[name].packages:
            pytest.importorskip(package, reason=f"{package} writes and runs the file")


def test_each_file_is_run_measured_and_described(call, tmp_path, saved):
    require("litert", "onnx")
    formats = " ".join(exporting.FORMATS)
    code, out, _ = call(
        f"--checkpoint {{saved}}/float.safetensors --format {formats} {DIGITS} --licence CC0-1.0"
    )
    assert code == 0
    files = {f"model{notes.suffix}" for notes in exporting.FORMATS.values()}
    assert {path.name for path in (tmp_path / "exported").iterdir()} == files | {"model.json"}
    card = card_in(tmp_path / "exported")
    assert {*card["files"]} == files and card["licence"] == "CC0-1.0"
    assert card["saved_model"] == models.digest(saved / "float.safetensors")
    for name, entry in card["files"].items():
        assert entry["bytes"] == (tmp_path / "exported" / name).stat().st_size
        assert entry["images"] == 40 and len(entry["ratios_to_jax"]) == 2
        assert entry["accuracy"]["low"] <= entry["accuracy"]["mean"] <= entry["accuracy"]["high"]
        assert f"written: exported/{name}" in out
        done = subprocess.run(
            [sys.executable, "-c", "\n".join(entry["run"])],
            cwd=tmp_path / "exported", capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert {*map(int, done.stdout.strip(" []\n").split())} < {*range(10)}


def test_without_a_data_set_random_images_are_compared(call, tmp_path):
    code, out, _ = call("--checkpoint {saved}/named.safetensors --output out --rounds 1")
    assert code == 0 and "random images" in out and "accuracy" not in out
    card = card_in(tmp_path / "out")
    assert card["class_names"][3] == "digit 3" and card["training"] is None
    assert card["files"]["model.stablehlo"]["accuracy"] is None
    code, _, _ = call("--checkpoint {saved}/named.safetensors --input scaled --rounds 1")
    assert code == 0 and "times [0.00784314" in card_in(tmp_path / "exported")["input"]


def test_the_card_says_how_an_image_is_cropped_and_resized(call, tmp_path):
    for name, share, interpolation in (("named", 1.0, "bilinear"), ("bicubic", 0.95, "bicubic")):
        line = f"--checkpoint {{saved}}/{name}.safetensors --output {name} --rounds 1"
        assert call(line)[0] == 0
        card = card_in(tmp_path / name)
        found = (card["resolution"], card["crop_share"], card["interpolation"])
        assert found == (32, share, interpolation)


def test_a_network_in_8_bits_is_written_as_it_is(call, tmp_path):
    require("onnx-int8")
    words = "--checkpoint {saved}/8_bits.safetensors --format onnx-int8 stablehlo --rounds 1"
    code, _, err = call(words)
    assert code == 0, err
    for entry in card_in(tmp_path / "exported")["files"].values():
        assert entry["agreement"] > 0.9 and entry["agreement_with_float"] is None


def test_a_wrong_file_is_removed(call, tmp_path, saved, monkeypatch):
    require("onnx")
    assert call("--checkpoint {saved}/float.safetensors --format onnx --rounds 1")[0] == 0
    model, variables, names, view = models.load(saved / "float.safetensors")
    params = dict(variables["params"]["block_0"])
    wrong = {**variables, "params": {**variables["params"], "block_0": _doubled(params)}}
    other = exporting.to_file(
        "onnx", exporting.Network.of(models.SavedModel(model, wrong, names, view))
    )
    monkeypatch.setattr(exporting, "to_file", lambda name, network: other)
    code, _, err = call("--checkpoint {saved}/float.safetensors --format onnx --rounds 1")
    assert code == 1 and err.count("\n") == 1
    assert "not written: onnx" in err and "first layer that differs is block_0/" in err
    assert [path.name for path in (tmp_path / "exported").iterdir()] == ["model.json"]
    assert card_in(tmp_path / "exported")["files"] == {}


def test_the_card_describes_the_files_of_one_network(call, tmp_path, saved):
    """A later export adds to it; another network is refused, and a changed file is left out."""
    require("onnx")
    words = "--checkpoint {{saved}}/{name}.safetensors --format {format} --rounds 1"
    assert call(words.format(name="float", format="onnx"))[0] == 0
    assert call(words.format(name="float", format="stablehlo"))[0] == 0
    folder = tmp_path / "exported"
    assert {*card_in(folder)["files"]} == {"model.onnx", "model.stablehlo"}
    before = (folder / "model.json").read_bytes()
    answer = call(words.format(name="8_bits", format="stablehlo"))
    assert_refused(answer, "export", "--output", "model.json of another", "another network")
    assert (folder / "model.json").read_bytes() == before
    (folder / "model.onnx").write_bytes(b"changed")
    assert call(words.format(name="float", format="stablehlo"))[0] == 0
    assert {*card_in(folder)["files"]} == {"model.stablehlo"}
    (folder / "model.stablehlo").unlink()
    (folder / "model.stablehlo").mkdir()
    answer = call(words.format(name="float", format="stablehlo"))
    assert_refused(answer, "export", "--output", "model.stablehlo", "not a folder")


def test_a_format_that_fails_leaves_the_others(call, tmp_path, monkeypatch):
    require("litert")
    from mnet_jax.export import litert

    for error in (RuntimeError, ValueError):

        def fail(*arguments, error=error, **options):
            raise error("passes failed\nin two lines")

        monkeypatch.setattr(litert, "convert", fail)
        words = "--checkpoint {saved}/float.safetensors --format litert stablehlo --rounds 1"
        code, out, err = call(words)
        assert code == 1 and err.count("\n") == 1
        assert "litert: the converter refuses: passes failed" in err
        assert "written: exported/model.stablehlo" in out
        assert {*card_in(tmp_path / "exported")["files"]} == {"model.stablehlo"}


def _doubled(tree):
    return {k: _doubled(v) if isinstance(v, dict) else 2 * v for k, v in tree.items()}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", ["--checkpoint", "None", "a saved model"]),
        ("--checkpoint missing", ["--checkpoint", "missing"]),
        ("--checkpoint {saved}/float.safetensors --format", ["--format"]),
        ("--checkpoint {saved}/float.safetensors --format onnx onnx", ["onnx onnx", "once"]),
        ("--checkpoint {saved}/float.safetensors --rounds 0", ["--rounds", "0", "1 or more"]),
        ("--checkpoint {saved}/float.safetensors --images 1", ["--images", "1", "2 or more"]),
        (
            "--checkpoint {saved}/float.safetensors --images 999999999",
            ["--images", "fit into memory"],
        ),
        ("--checkpoint {saved}/viewless.safetensors", ["--resolution", "None"]),
        ("--checkpoint {saved}/float.safetensors --output {saved}/float.safetensors", ["--output"]),
        (
            "--checkpoint {saved}/4_bits.safetensors",
            ["--checkpoint", "kernels in 4 bits", "8 bits"],
        ),
    ],
)
def test_what_cannot_be_exported_is_refused_in_one_line(call, words, expected):
    assert_refused(call(words), "export", *expected)


@pytest.mark.parametrize("name", ["litert-int8", "onnx-int8"])
def test_int8_needs_images_and_float_needs_a_network_in_float(call, name):
    require(name)
    answer = call(f"--checkpoint {{saved}}/float.safetensors --format {name}")
    assert_refused(answer, "export", "--dataset", "None", "ranges of int8")
    answer = call(
        f"--checkpoint {{saved}}/8_bits.safetensors --format {name.removesuffix('-int8')}"
    )
    assert_refused(answer, "export", "--format", "trained in 8 bits")


def test_a_format_without_its_packages_names_the_extra(call, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    answer = call("--checkpoint {saved}/float.safetensors --format onnx")
    assert_refused(answer, "export", "--format", "onnxruntime", "mnet_jax[onnx]")
