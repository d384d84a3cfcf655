"""The commands as a person types them: what they refuse, in one line, and what they print."""

import math
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from flax import traverse_util
from messages import assert_refused, call_command
from PIL import Image
from tiny_network import make_tiny_spec

import mnet_jax.runs.run
from mnet_jax import architectures, models
from mnet_jax.commands import ablate, cost, evaluate, manifold, train
from mnet_jax.commands.arguments import LocalPath, parse
from mnet_jax.data.builders import digits_arrays
from mnet_jax.training.checkpoints.checkpoint import CheckpointError, SavingError
from mnet_jax.training.results import Progress

ROOT = Path(__file__).parents[2]
COMMANDS = {"ablate": ablate, "cost": cost, "train": train}
TRAINERS = ("ablate", "train")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty folder to work in, with an empty data folder."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(command, words, monkeypatch, capfd):
    """The exit code, standard output and standard error of a command in this process."""
    known = {**COMMANDS, "evaluate": evaluate, "manifold": manifold}
    return call_command(known[command], words, monkeypatch, capfd)


BAD = [
    # One of a closed choice, in three disguises.
    ("--bottleneck lin", "--bottleneck: got 'lin', legal: linear, relu6"),
    ("--bottleneck=lin", "--bottleneck: got 'lin', legal: linear, relu6"),
    ("--bottleneck linear Relu6", "--bottleneck: got 'Relu6', legal: linear, relu6"),
    ("--model mobilenet_v9", "--model: got 'mobilenet_v9', legal: mobilenet_v1, mobilenet_v2"),
    ("--dialect pytorch", "--dialect: got 'pytorch', legal: paper, slim, keras, torchvision, timm"),
    ("--parallel threads", "--parallel: got 'threads', legal: jit, pmap"),
    ("--precision float16", "--precision: got 'float16', legal: float32, bfloat16"),
    ("--decay-depthwise maybe", "--decay-depthwise: got 'maybe', legal: True, False"),
    # Flags that are not there, not whole, or there twice.
    ("--bottelneck linear", "--bottelneck: no such flag, the nearest: --bottleneck"),
    ("--bottle linear", "--bottle: no such flag, the nearest: --bottleneck"),
    ("--zzz", "--zzz: no such flag, the nearest: --accumulate, --activation,"),
    ("linear", "got 'linear', legal: flags"),
    ("-w 1", "got '-w', legal: flags"),
    ("--dataset -x", "got '-x', legal: flags"),
    ("--bottleneck", "--bottleneck: got '', legal: one value or more of linear, relu6"),
    ("--width --epochs 2", "--width: got '', legal: one value or more of numbers"),
    ("--epochs", "--epochs: got '', legal: one value or more of whole numbers"),
    ("--batch-size", "--batch-size: got '', legal: one value or more of whole numbers"),
    ("--dataset a b", "--dataset: got 'a b', legal: one value"),
    ("--width 1 --width 2", "--width: got '--width', legal: each flag once"),
    ("--batch-size 1 --batch_size=2", "--batch-size: got '--batch_size=2', legal: each flag once"),
    # Numbers.
    ("--expansion q", "--expansion: got 'q', legal: whole numbers"),
    ("--expansion 1.5", "--expansion: got '1.5', legal: whole numbers"),
    ("--expansion 0", "--expansion: got 0, legal: "),
    ("--expansion -1", "--expansion: got -1, legal: "),
    ("--expansion 100000000", "expansion 100000000", "legal: 2,147,483,648 parameters or fewer"),
    ("--width x", "--width: got 'x', legal: numbers"),
    ("--width 0", "--width: got 0.0, legal: "),
    ("--width -1", "--width: got -1.0, legal: "),
    ("--width nan", "--width: got nan, legal: finite numbers"),
    ("--width inf", "--width: got inf, legal: finite numbers"),
    ("--width 0.001", "--width: got 0.001, legal: 0.0"),
    ("--width 1e9", "--width: got 1e+09", "legal: 2,147,483,648 parameters or fewer"),
    ("--width 1e300", "--width: got 1e+300", "legal: "),
    ("--width 1e308", "--width: got 1e+308", "legal: "),
    ("--resolution 0", "--resolution: got 0, legal: 1 pixel or more"),
    ("--resolution -8", "--resolution: got -8, legal: 1 pixel or more"),
    ("--resolution 1000000", "--resolution: got 1000000, legal: feature maps of 64 GiB"),
    ("--learning-rate 0", "--learning-rate: got 0.0, legal: above 0"),
    ("--learning-rate nan", "--learning-rate: got nan, legal: finite numbers"),
    ("--learning-rate inf", "--learning-rate: got inf, legal: finite numbers"),
    ("--label-smoothing 1", "--label-smoothing: got 1.0, legal: 0 to below 1"),
    ("--ema-decay 1", "--ema-decay: got 1.0, legal: 0 to below 1"),
    ("--weight-decay -1", "--weight-decay: got -1.0, legal: 0 or more"),
    ("--epochs 0", "--epochs: got 0, legal: 1 or more"),
    ("--optimizer lion", "--optimizer: got 'lion', legal: sgd, rmsprop, adamw, lamb, muon"),
    ("--recipe v9", "--recipe: got 'v9', legal: v2-digits", "v4-conv-small-imagenet"),
    ("--momentum 1", "--momentum: got 1.0, legal: 0 to below 1"),
    ("--optimizer adamw --momentum 0.9", "--momentum: the optimizer adamw has none, legal: sgd"),
    ("--factor 0.9", "--factor: the schedule cosine has none, legal: exponential"),
    ("--dropout 1", "--dropout: got 1.0, legal: 0 to below 1"),
    ("--stem-kernel 2", "--stem-kernel: got 2, legal: odd sizes"),
    ("--augmentation mixup", "--augmentation: got 'mixup', legal: none, shift, shift_flip, res"),
    ("--policy trivial", "--policy: got 'trivial', legal: none, randaugment, autoaugment"),
    ("--randaugment-layers 0", "--randaugment-layers: got 0, legal: 1 to 10"),
    ("--randaugment-magnitude -1", "--randaugment-magnitude: got -1.0, legal: 0 to 30"),
    ("--colour-jitter 2", "--colour-jitter: got 2.0, legal: 0 to 1"),
    ("--erasing -0.5", "--erasing: got -0.5, legal: 0 to 1"),
    ("--mixup -1", "--mixup: got -1.0, legal: 0 to 1000"),
    ("--cutmix 1e6", "--cutmix: got 1000000.0, legal: 0 to 1000"),
    ("--epochs 100000000000000000000000", "--epochs: got 1000", "legal: 1,000,000 or fewer"),
    ("--batch-size 100000000", "--batch-size: got 100000000, legal: 1,048,576 or fewer"),
    ("--start-resolution 16", "--start-resolution: no such flag, the nearest: "),
    ("--epochs x", "--epochs: got 'x', legal: whole numbers"),
    ("--epochs None", "--epochs: got 'None', legal: whole numbers"),
    ("--batch-size 0", "--batch-size: got 0, legal: 1 image or more"),
    # What does not go together.
    ("--last-stage original", "--last-stage: mobilenet_v2 has no such option, legal: mobilenet_v3"),
    ("--squeeze-excite published", "--squeeze-excite: mobilenet_v2 is published without, legal: n"),
    ("--model mobilenet_v4_conv_small --repeats 2", "--repeats: ", "legal: V1, V2, V3"),
    ("--model mobilenet_v1 --bottleneck linear", "--bottleneck: ", "legal: V2, V3, V4"),
    ("--convolution full", "--convolution: ", "legal: mobilenet_v1"),
    ("--model mobilenet_v1 --dialect torchvision", "--dialect", "'torchvision', legal: paper"),
    # Fine-tuning.
    ("--pretrained nowhere", "--pretrained: nowhere: no such file"),
    ("--frozen -1", "--frozen: got -1, legal: 0 parts or more"),
    ("--frozen 19", "--frozen: got 19, legal: 0 to 18"),
    ("--depth-decay 0", "--depth-decay: got 0.0, legal: above 0 and up to 1"),
]
BAD_OF_ONE = [
    ("ablate", "--seeds 0", "--seeds: got 0, legal: 1 to 1000"),
    ("ablate", "--seeds -1", "--seeds: got -1, legal: 1 to 1000"),
    ("ablate", "--seeds 1000000000000", "--seeds: got 1000000000000, legal: 1 to 1000"),
    ("ablate", f"--seeds {10**20}", f"--seeds: got {10**20}, legal: 1 to 1000"),
    ("ablate", "--seeds 1.5", "--seeds: got '1.5', legal: whole numbers"),
    ("ablate", "--model mobilenet_v2 mobilenet_v1 --expansion 3", "--expansion: ", "legal: "),
    ("ablate", "--preset v2", "--preset: got 'v2', legal: v1-depthwise, v1-thin-or-shallow, "),
    ("ablate", "--preset v1-width --scale big", "--scale: got 'big', legal: smoke, desk, full"),
    ("ablate", "--scale desk", "--scale: got 'desk', legal: none without --preset"),
    ("ablate", "--preset v1-width --seeds 0", "--seeds: got 0, legal: 1 to 1000"),
    ("ablate", "--preset v1-width --expansion 3", "--expansion: ", "legal: V2, V3, V4"),
    ("ablate", "--preset v1-width --scale full", "--dataset: imagenet2012 is not prepared in"),
    ("ablate", "--preset v1-width --dataset nope", "--dataset: got 'nope'"),
    ("train", "--preset v1-width", "--preset: no such flag, the nearest: "),
    ("train", "--batch-size 1 2", "--batch-size: got '1 2', legal: one value"),
    ("ablate", "--expansion 6 0", "--expansion: got 0, legal: "),
    ("train", "--seed -1", "--seed: got -1, legal: from 0 to 4294967295"),
    ("train", "--seed 4294967296", "--seed: got 4294967296, legal: from 0 to 4294967295"),
    ("train", "--bottleneck linear relu6", "--bottleneck: got 'linear relu6', legal: one value"),
    ("cost", "--num-classes=-1", "--num-classes: got -1, legal: "),
    ("cost", "--epochs 3", "--epochs: no such flag, the nearest: "),
    ("cost", "--resolution 0", "--resolution: got 0, legal: 1 pixel or more"),
    ("cost", "--width 1e308", "--width: got 1e+308"),
    ("cost", "--preset v3", "--preset: got 'v3', legal: v3-cityscapes"),
    ("cost", "--preset v3-cityscapes --resolution 512", "--resolution: got 512, legal: no other"),
    ("cost", "--preset v3-cityscapes --width 0.5", "--width: got (0.5,), legal: no other flag"),
    ("train", "--show-batch x.jpg", "--show-batch: got 'x.jpg', legal: a file whose name ends in"),
    ("train", "--show-batch", "--show-batch: got '', legal: one value"),
]
BAD_EVALUATION = [
    ("", "--checkpoint: got None, legal: a run's directory, a saved model, or hf://"),
    ("--checkpoint nowhere --image x.png", "--checkpoint: got 'nowhere', legal: a path that exi"),
    ("--checkpoint model", "--image: got '', legal: one image file or more, or --dataset"),
    ("--checkpoint model --image x.png", "--image: got 'x.png', legal: a file that exists"),
    ("--checkpoint model --image noise", "--image: noise: cannot be decoded"),
    ("--checkpoint noise --image noise", "--checkpoint: noise: not a saved model, "),
    ("--checkpoint empty --image noise", "--checkpoint: empty: holds no model.safetensors"),
    ("--checkpoint model --image noise --top 0", "--top: got 0, legal: 1 or more"),
    (
        "--checkpoint model --image noise --resolution 9999999",
        "--resolution: got 9999999, ",
    ),
    ("--checkpoint model --image noise --results x", "--results: got 'x', legal: only with --dat"),
    ("--checkpoint model --image noise --resolution 0", "--resolution: got 0, legal: 1 pixel"),
    ("--checkpoint model --dataset nope", "--dataset: got 'nope', prepared in "),
    ("--checkpoint model --dataset digits", "--dataset: digits has 10 classes, the model 3"),
    ("--checkpoint model --dataset folder --data-dir x", "--data-dir: got 'x', legal: a folder"),
    (
        "--checkpoint model --dataset digits --batch-size 0",
        "--batch-size: got 0, legal: 1 to 1,048,576",
    ),
    (
        "--checkpoint model --dataset digits --batchsize 2",
        "--batchsize: no such flag, ",
    ),
]
ABSENT_DATA = [
    ("--dataset nope", "--dataset: got 'nope'", "digits, fashion_mnist, folder"),
    ("--dataset folder", "--data-dir: got None", "a folder with train/<class>/ of images"),
    ("--dataset folder --data-dir nowhere", "--data-dir: got 'nowhere'", "a folder that exists"),
    (
        "--dataset fashion_mnist --data-dir nowhere",
        "--data-dir: got 'nowhere'",
        "a folder that exists",
    ),
    ("--dataset cifar10", "--dataset: cifar10 is not prepared in"),
]


@pytest.mark.parametrize("command", TRAINERS)
@pytest.mark.parametrize(("line", "message"), [(bad[0], bad[1:]) for bad in BAD])
def test_bad_input_is_one_line_and_writes_nothing(
    command, line, message, place, monkeypatch, capfd
):
    assert_refused(call(command, line.split(), monkeypatch, capfd), command, *message)
    assert not [*place.iterdir()]


@pytest.mark.parametrize(
    ("command", "line", "message"), [(bad[0], bad[1], bad[2:]) for bad in BAD_OF_ONE]
)
def test_bad_input_of_one_command(command, line, message, place, monkeypatch, capfd):
    assert_refused(call(command, line.split(), monkeypatch, capfd), command, *message)
    assert not [*place.iterdir()]


@pytest.mark.parametrize("command", TRAINERS)
@pytest.mark.parametrize(("line", "message"), [(bad[0], bad[1:]) for bad in ABSENT_DATA])
def test_data_that_is_not_there(command, line, message, place, monkeypatch, capfd):
    assert_refused(call(command, line.split(), monkeypatch, capfd), command, *message)
    assert not [*place.iterdir()]


@pytest.mark.parametrize("command", [*TRAINERS, "evaluate"])
def test_a_place_that_cannot_be_looked_at(command, place, monkeypatch, capfd):
    words = ["--dataset", "folder", "--data-dir", "x" * 300]
    if command == "evaluate":
        words = ["--checkpoint", "x" * 300]
    assert_refused(call(command, words, monkeypatch, capfd), command, "x" * 300, "too long")


@pytest.mark.parametrize(("command", "flag"), [("ablate", "--results"), ("train", "--run")])
@pytest.mark.parametrize("name", ["file", "file/below", "x" * 300])
def test_a_place_that_is_no_directory(command, flag, name, place, monkeypatch, capfd):
    (place / "file").write_text("in the way")
    answer = call(command, [flag, name], monkeypatch, capfd)
    assert_refused(answer, command, f"{flag}: got '{name}', legal: a directory")
    assert [*place.iterdir()] == [place / "file"]


def run(command, *words, cwd):
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.run(
        [sys.executable, "-m", f"experiments.{command}", *words],
        cwd=cwd, env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("command", "words", "message"),
    [
        ("ablate", ["--bottleneck", "lin"], "--bottleneck: got 'lin', legal: linear, relu6"),
        ("train", ["--width", "nan"], "--width: got nan, legal: finite numbers"),
        ("cost", ["--expansion", "q"], "--expansion: got 'q', legal: whole numbers"),
        ("evaluate", ["--top", "q"], "--top: got 'q', legal: whole numbers"),
    ],
)
def test_bad_input_in_a_process_of_its_own(command, words, message, place):
    done = run(command, *words, cwd=place)
    assert_refused((done.returncode, done.stdout, done.stderr), command, message)
    assert not [*place.iterdir()]


@dataclass(frozen=True)
class Switches:
    """Three of them, one of which takes several values."""

    on: bool = True
    very_off: bool = False
    varied: tuple[bool, ...] = ()


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("", (True, False, ())),
        ("--on False", (False, False, ())),
        ("--on=False --very-off=True", (False, True, ())),
        ("--very-off --on False", (False, True, ())),
        ("--on False --very_off", (False, True, ())),
        ("--varied --on False", (False, False, (True,))),
        ("--varied=False True --very-off", (True, True, (False, True))),
    ],
)
def test_a_switch_takes_true_or_false_and_alone_it_is_true(line, found, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["command", *line.split()])
    switches = parse(Switches, "command")
    assert (switches.on, switches.very_off, switches.varied) == found


@pytest.mark.parametrize("command", [*COMMANDS, "evaluate"])
def test_help(command, place, monkeypatch, capfd):
    code, out, err = call(command, ["--help"], monkeypatch, capfd)
    assert (code, err) == (0, "")
    assert f"python -m experiments.{command}" in out
    if command == "evaluate":
        assert "--checkpoint" in out and "--dataset" in out
    else:
        assert "--bottleneck" in out and "V2, Fig. 6a" in out
    assert not [*place.iterdir()]


def save_constant(directory, class_names, favourite):
    """A saved model that finds `favourite` the most probable class of anything."""
    spec = make_tiny_spec(num_classes=len(class_names))
    shapes = architectures.variable_shapes(spec)
    zeros = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    variables = traverse_util.unflatten_dict(zeros, sep="/")
    variables["params"]["head"]["classifier"]["bias"][favourite] = 2.0
    view = models.View(resolution=16, photographs=False)
    path = directory / models.FILE_NAME
    model = models.MobileNet(spec=spec)
    models.save(path, model, variables, class_names=class_names, view=view)


@pytest.mark.parametrize(("line", "message"), BAD_EVALUATION)
def test_bad_input_of_evaluate(line, message, place, monkeypatch, capfd):
    save_constant(place / "model", ("ant", "bee", "cat"), favourite=1)
    (place / "noise").write_bytes(b"noise")
    (place / "empty").mkdir()
    before = {*place.iterdir()}
    answer = call("evaluate", line.split(), monkeypatch, capfd)
    assert_refused(answer, "evaluate", message)
    assert {*place.iterdir()} - {place / "data"} == before


def test_evaluate_prints_the_most_probable_classes(place, monkeypatch, capfd):
    save_constant(place / "model", ("ant", "bee", "cat"), favourite=1)
    Image.new("RGB", (30, 20), "red").save(place / "red.png")
    line = "--checkpoint model --image red.png --top 2"
    code, out, err = call("evaluate", line.split(), monkeypatch, capfd)
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == "red.png"
    rows = [row.split() for row in out.splitlines() if "%" in row]
    # softmax of (2, 0, 0), by hand
    shares = math.exp(2) / (math.exp(2) + 2), 1 / (math.exp(2) + 2)
    assert rows == [[f"{shares[0]:.2%}", "bee"], [f"{shares[1]:.2%}", "ant"]]


def test_evaluate_prints_names_as_they_are(place, monkeypatch, capfd):
    names = ("[bold]b[/red]", "tab\tand\nline", "\x1b[31mred")
    save_constant(place / "model", names, favourite=0)
    name = "[red]" + 12 * "long" + ".png"
    Image.new("RGB", (30, 20), "red").save(place / name)
    line = f"--checkpoint model --image {place / name}"
    code, out, err = call("evaluate", line.split(), monkeypatch, capfd)
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == str(place / name)  # on one line, however long
    assert [row.split(None, 1)[1].strip() for row in out.splitlines() if "%" in row] == [
        "[bold]b[/red]", "tab and line", "\\x1b[31mred",
    ]  # fmt: skip


@pytest.mark.slow
def test_evaluate_prints_the_accuracy_with_its_interval(place, monkeypatch, capfd):
    save_constant(place / "model", tuple("0123456789"), favourite=3)
    line = "--checkpoint model --dataset digits --results found"
    code, out, err = call("evaluate", line.split(), monkeypatch, capfd)
    assert (code, err) == (0, "")
    labels = digits_arrays()["test"][1]
    hits = int((labels == 3).sum())
    low, high = scipy.stats.binomtest(hits, 500).proportion_ci(method="wilson")
    assert f"{hits / 500:.2%} of 500 images right" in out
    assert f"95% interval {low:.2%} to {high:.2%}" in out
    others = int((labels < 3).sum() + (labels == 4).sum())  # equal logits: the first classes win
    assert f"top-5 {(hits + others) / 500:.2%}" in out
    counts = np.bincount(labels, minlength=10)
    worst = max((counts[i], -i) for i in range(10) if i != 3)
    first = out.split("of the class")[1].split()[:4]
    assert first == [str(-worst[1]), "3", str(worst[0]), "100.0%"]
    written = np.loadtxt("found/confusion.csv", int, delimiter=",", skiprows=1)
    np.testing.assert_array_equal(written[:, 1:], np.eye(10, dtype=int)[3] * counts[:, None])
    assert max(map(len, out.splitlines()[1:])) <= 80


@pytest.mark.parametrize(
    ("line", "params", "madds"),
    [
        ("", "3,504,872", "300,774,272"),  # V2 paper, Table 4: 3.4M and 300M
        ("--model mobilenet_v1", "4,231,976", "568,740,352"),  # V1 paper, Table 8: 4.2M, 569M
    ],
)
def test_cost_prints_the_papers_numbers(line, params, madds, place, monkeypatch, capfd):
    code, out, err = call("cost", line.split(), monkeypatch, capfd)
    assert (code, err) == (0, "")
    totals = {words[0]: words[1] for words in map(str.split, out.splitlines()) if len(words) > 1}
    assert totals["parameters"].startswith(params) and totals["MAdds"].startswith(madds)


def test_cost_prints_the_v3_papers_networks_for_cityscapes(place, monkeypatch, capfd):
    code, out, err = call("cost", ["--preset", "v3-cityscapes"], monkeypatch, capfd)
    assert (code, err) == (0, "")
    rows = {words[0]: words[1:] for words in map(str.split, out.splitlines()) if words}
    assert [row for row in rows if row[0] in "78"] == [
        *(f"7.{i + 1}" for i in range(11)),
        *(f"8.{i + 1}" for i in range(4)),
    ]
    # V3 paper, Table 7, row 8: 1.51M parameters and 9.74B multiply-adds
    backbone, reduced, head, channels, stride, params, _, madds, published, _ = rows["7.8"]
    assert (backbone, reduced, head) == ("mobilenet_v3_large", "yes", "LR-ASPP")
    assert (channels, stride, params, published) == ("128", "16", "1,505,550", "9.74")
    assert float(madds) == pytest.approx(9.74, rel=0.05)


def test_train_shows_a_batch_and_trains_nothing(place, monkeypatch, capfd):
    words = [
        "--resolution",
        "8",
        "--batch-size",
        "9",
        "--mixup",
        "0.2",
        "--show-batch",
        "pictures/batch.png",
    ]
    code, out, err = call("train", words, monkeypatch, capfd)
    assert (code, err) == (0, "") and "9 images of 8 x 8 pixels" in out
    with Image.open(place / "pictures/batch.png") as picture:
        assert picture.size == (3 * (112 + 6) + 6, 3 * (112 + 6 + 32) + 6)
    assert not (place / "runs").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="a directory that takes no files is Linux's")
def test_a_picture_that_cannot_be_written_is_one_line(place, monkeypatch, capfd):
    words = ["--resolution", "8", "--batch-size", "9", "--show-batch", "/proc/batch.png"]
    answer = call("train", words, monkeypatch, capfd)
    assert_refused(answer, "train", "--show-batch: got '/proc/batch.png', legal: a file in a dir")


@pytest.mark.skipif(sys.platform != "linux", reason="a directory that takes no files is Linux's")
@pytest.mark.parametrize(
    ("command", "flag"), [("ablate", "--results"), ("cost", "--results"), ("train", "--run")]
)
def test_a_directory_that_takes_no_files_is_refused(command, flag, place, monkeypatch, capfd):
    answer = call(command, [flag, "/proc/x"], monkeypatch, capfd)
    assert_refused(answer, command, f"{flag}: got '/proc/x', legal: a directory that can be writ")


@dataclass(frozen=True)
class Places:
    """Paths in all the ways that commands take them."""

    plain: Path = Path("runs")
    none: Path | None = None
    several: tuple[Path, ...] = ()
    kept: LocalPath | None = None
    text: str = ""


def test_a_path_begins_at_home_where_it_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    line = "--plain=~/a --none ~ --several ~/b c~ ./~ --kept=~/d --text ~/e"
    monkeypatch.setattr(sys, "argv", ["command", *line.split()])
    found = parse(Places, "command")
    assert found == Places(
        plain=tmp_path / "a",
        none=tmp_path,
        several=(tmp_path / "b", Path("c~"), Path("~")),
        kept=LocalPath(f"{tmp_path}/d"),
        text="~/e",
    )


@pytest.mark.parametrize("flag", ["--plain", "--none", "--several", "--kept"])
@pytest.mark.parametrize("value", ["gs://b/x", "s3://b", "file:///tmp/x", "~no such user/x"])
def test_a_path_that_is_not_local_is_refused(flag, value, place, monkeypatch, capfd):
    monkeypatch.setattr(sys, "argv", ["command", flag, value])
    with pytest.raises(SystemExit) as leaving:
        parse(Places, "train")
    answer = (leaving.value.code, *capfd.readouterr())
    assert_refused(answer, "train", f"{flag}: got '{value}', legal: ", "a local path")


@pytest.mark.parametrize(
    ("command", "flag"),
    [
        ("ablate", "--results"),
        ("ablate", "--pretrained"),
        ("evaluate", "--checkpoint"),
        ("evaluate", "--image"),
        ("evaluate", "--data-dir"),
        ("train", "--run"),
        ("train", "--data-dir"),
        ("train", "--show-batch"),
    ],
)
def test_every_path_of_a_command_is_local(command, flag, place, monkeypatch, capfd):
    answer = call(command, [flag, "gs://b/x"], monkeypatch, capfd)
    assert_refused(answer, command, f"{flag}: got 'gs://b/x', legal: ", "a local path")
    assert not [*place.iterdir()]


@pytest.mark.skipif(os.name != "posix", reason="file names are bytes on POSIX alone")
def test_names_of_files_are_shown_and_not_obeyed(place, monkeypatch, capfd):
    save_constant(place / "model", ("ant", "bee", "cat"), favourite=1)
    hostile = place / os.fsdecode(b"\xff\x1b[31m\nexperiments.train: forged\xe2\x80\xae.png")
    Image.new("RGB", (30, 20), "red").save(hostile, "png")
    words = ["--checkpoint", "model", "--image", str(hostile)]
    code, out, err = call("evaluate", words, monkeypatch, capfd)
    assert (code, err) == (0, "")
    assert out.splitlines()[0].endswith("forged\\u202e.png") and "\x1b" not in out
    hostile.write_bytes(b"noise")
    assert_refused(call("evaluate", words, monkeypatch, capfd), "evaluate", "cannot be decoded")


def test_a_path_in_brackets_is_a_path(place, monkeypatch, capfd):
    words = ["--dimensions", "2", "--draws", "1", "--results", "r [/red] [bold]x"]
    code, out, err = call("manifold", words, monkeypatch, capfd)
    assert (code, err) == (0, "")
    assert "drawn in r [/red] [bold]x/manifold.png" in out
    assert (place / "r [/red] [bold]x" / "manifold.png").is_file()


def raising(error, *, after_steps):
    """In the place of `run`."""

    def run(config, directory, *, report, **options):
        for step in range(after_steps):
            report(Progress(phase="train", epoch=1, epochs=1, step=step + 1, steps=5))
        raise error

    return run


def test_a_run_that_fails_does_not_leave_anothers_result(place, monkeypatch, capfd):
    monkeypatch.setattr(
        mnet_jax.runs.run, "run", raising(SavingError("the disk is full"), after_steps=2)
    )
    result = place / "runs/latest/result.json"
    result.parent.mkdir(parents=True)
    result.write_text("another run's")
    code, out, err = call("train", [], monkeypatch, capfd)
    assert (code, err) == (1, "experiments.train: the disk is full\n")
    assert "parameters" not in out.splitlines()[-1], "no result"
    assert not result.exists()


def test_a_run_that_is_refused_leaves_anothers_result(place, monkeypatch, capfd):
    refusal = CheckpointError("runs/latest holds another run")
    monkeypatch.setattr(mnet_jax.runs.run, "run", raising(refusal, after_steps=0))
    result = place / "runs/latest/result.json"
    result.parent.mkdir(parents=True)
    result.write_text("another run's")
    code, _, err = call("train", [], monkeypatch, capfd)
    assert (code, err) == (2, "experiments.train: --run: runs/latest holds another run\n")
    assert result.read_text() == "another run's"
