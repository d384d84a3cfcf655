"""The commands that look at networks, as they are typed: what they print, draw and refuse."""

import io
import re

import numpy as np
import pytest
from messages import assert_refused, call_command
from PIL import Image
from scipy import stats
from small_networks import model_and_variables, random_like, shortened, small_v1, small_v2
from tiny_network import make_tiny_spec

from mnet_jax import data, models
from mnet_jax.benchmark import machine
from mnet_jax.commands import activations, bottlenecks, cost, evaluate, features, manifold
from mnet_jax.commands.trained_models import WITHOUT_VIEW

COMMANDS = {
    "activations": activations,
    "bottlenecks": bottlenecks,
    "cost": cost,
    "evaluate": evaluate,
    "features": features,
    "manifold": manifold,
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with models of both bottlenecks, two of one, one without any, and a photograph."""
    folder = tmp_path_factory.mktemp("models")
    specs = {
        "linear": shortened(small_v2(num_classes=10), 3),
        "relu6": shortened(small_v2(num_classes=10, bottleneck="relu6"), 3),
        "thin": shortened(small_v2(num_classes=10, expansion=1), 3),
        "v1": shortened(small_v1(), 2),
    }
    for name, spec in specs.items():
        model, variables = model_and_variables(spec)
        view = models.View(resolution=32, photographs=False)
        models.save(folder / f"{name}.safetensors", model, variables, view=view)
        if name == "linear":
            again = random_like(variables, seed=1)
            models.save(folder / f"{name}-1.safetensors", model, again, view=view)
    blind, variables = model_and_variables(make_tiny_spec())
    models.save(folder / "blind.safetensors", blind, variables)
    pixels = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "photo.png")
    (folder / "text.png").write_text("no image")
    (folder / "words.csv").write_text("a,b\n")
    return folder


@pytest.fixture
def call(saved, data_folder, tmp_path, monkeypatch, capfd):
    """Runs a command in this process: its exit code, standard output and standard error."""

    def run(command, words):
        monkeypatch.chdir(tmp_path)
        typed = words.format(saved=saved).split()
        return call_command(COMMANDS[command], typed, monkeypatch, capfd)

    return run


BOTH = "--checkpoint {saved}/linear.safetensors {saved}/relu6.safetensors --dataset digits"


@pytest.mark.parametrize(
    ("command", "words", "message", "drawn"),
    [
        ("manifold", "--draws 5 --dimensions 2 3", ["75.00%", "50.00%"], ["manifold"]),
        (
            "manifold", "--draws 1 --dimensions 2 --activation hard_swish", ["hard_swish(T x)"],
            ["manifold"],
        ),
        (
            "activations", f"{BOTH} --images 40 --label one two",
            ["one", "two", "block_2/expand", "block_2/project", "bottlenecks"], ["activations"],
        ),
        ("bottlenecks", f"{BOTH} --images 40", ["relu6.safetensors", "96"], ["bottlenecks"]),
        (
            "bottlenecks", "--checkpoint {saved}/thin.safetensors --dataset digits --images 40",
            ["thin.safetensors"], ["bottlenecks"],  # nothing expands
        ),
        (
            "features", "--checkpoint {saved}/v1.safetensors --image {saved}/photo.png",
            ["kernels.png", "maps.png"], ["kernels", "maps"],
        ),
        (
            "activations",
            "--checkpoint {saved}/blind.safetensors --dataset digits --images 40 --resolution 16",
            ["block_0/expand"], ["activations"],
        ),
        ("cost", "--model mobilenet_v1 mobilenet_v2 --width 0.5 1.0",
         ["mobilenet_v1, width 0.5, 224", "mobilenet_v2, width 1, 224", "depthwise"], []),
    ],
)  # fmt: skip
def test_what_is_looked_at_is_told_and_drawn(call, tmp_path, command, words, message, drawn):
    code, out, err = call(command, words)
    assert (code, err) == (0, "")
    for text in message:
        assert text in out
    for name in drawn:
        png = (tmp_path / "results" / command / f"{name}.png").read_bytes()
        pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
        assert pixels.shape[1] == 1200 and pixels.std() > 10


def rows_of(table):
    """The numbers of each row of a table that is printed, by the name of its layer."""
    rows = (line.replace("%", " ").replace("±", " ").split() for line in table.splitlines())
    return {row[0]: [float(x) for x in row[1:]] for row in rows if row and "/project" in row[0]}


def test_models_of_one_name_are_told_by_their_means(call):
    names = "{saved}/linear.safetensors {saved}/linear-1.safetensors"
    line = f"--checkpoint {names} --dataset digits --images 40"
    code, out, _ = call("bottlenecks", f"{line} --label one other")
    assert code == 0
    single = [rows_of(table) for table in out.split("other")]
    code, out, _ = call("bottlenecks", f"{line} --label both both")
    assert code == 0 and "both, means over 2 models" in out
    for layer, message in rows_of(out).items():
        pair = np.array([table[layer] for table in single])
        counts = [0, 4][: pair.shape[1] - 3]  # channels, and those of the expansion if there is one
        seen = np.delete(pair, counts, axis=1)
        means, halves = np.delete(message, [0, 7][: len(counts)]).reshape(-1, 2).T
        np.testing.assert_allclose(means, seen.mean(axis=0), atol=0.11)
        wanted = stats.t.ppf(0.975, 1) * seen.std(axis=0, ddof=1) / np.sqrt(2)
        np.testing.assert_allclose(halves, wanted, atol=0.11 * stats.t.ppf(0.975, 1))


@pytest.mark.parametrize("command", ["activations", "bottlenecks"])
def test_no_batch_is_larger_than_the_images_that_are_looked_at(call, command, monkeypatch):
    """A batch is filled up to its size, so a large one of few images would fill the memory."""
    sizes, batches = [], data.eval_batches

    def watched(source, config):
        sizes.append(config.batch_size)
        return batches(source, config)

    monkeypatch.setattr(data, "eval_batches", watched)
    line = "--checkpoint {saved}/linear.safetensors --dataset digits --images 40"
    assert call(command, f"{line} --batch-size 1200000")[0] == 0
    assert sizes == [40]


def test_what_a_refusal_says_of_views_is_code_that_runs(saved, tmp_path):
    loaded = models.load(saved / "blind.safetensors")
    path = tmp_path / "seeing.safetensors"
    call = re.search(r"models\.save\(.*\)\)", WITHOUT_VIEW)[0]
    names = {"models": models, "path": path, "model": loaded[0], "variables": loaded[1]}
    eval(call.replace("...", "path, model, variables"), names)
    assert models.load(path).view.resolution == 224


@pytest.mark.slow
def test_cost_measures_every_convolution_and_draws_them(call, tmp_path, monkeypatch):
    measure, measured = machine.measure, []

    def measure_once(environment):  # in place of before and after the convolutions
        measured[:] = measured or [measure(environment)]
        return measured[0]

    monkeypatch.setattr(machine, "measure", measure_once)
    network = "--model mobilenet_v1 --repeats 1 --width 0.25"
    line = f"{network} --resolution 32 --measure --rounds 1"
    code, out, err = call("cost", line)
    assert (code, err) == (0, "")
    (line,) = [line for line in out.splitlines() if line.startswith("all ") and "100.0" in line]
    assert line.split()[1] == str(1 + 2 * 5)  # convolutions: a stem, two for each of five stages
    assert "GFLOP/s of a matrix product" in out
    assert (tmp_path / "results/cost/roofline.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("command", "words", "message"),
    [
        ("manifold", "--dimensions 1", "--dimensions: got 1, legal: 2 to 4096"),
        ("manifold", "--dimensions 3 3", "--dimensions: got '3 3', legal: each once"),
        ("manifold", "--draws 0", "--draws: got 0, legal: 1 to 100,000"),
        ("manifold", "--activation tanh", "--activation: got 'tanh', legal: linear, relu, relu6"),
        ("manifold", "--points no.csv", "--points: got 'no.csv', legal: a file that exists"),
        ("manifold", "--points {saved}/photo.png", "legal: a file of .csv or .npy"),
        ("manifold", "--points {saved}/words.csv", "words.csv cannot be read as rows of two"),
        ("activations", "", "--checkpoint: got '', legal: one run's directory or saved model"),
        ("activations", "--checkpoint no", "--checkpoint: got 'no', legal: a path that exists"),
        ("activations", "--checkpoint {saved}/photo.png", "photo.png: not a saved model"),
        (
            "activations", "--checkpoint {saved}/v1.safetensors",
            "--dataset: got None, legal: a data set: the model does not know its own",
        ),
        (
            "activations", "--checkpoint" + 7 * " {saved}/v1.safetensors",
            "--checkpoint: got '7 to tell apart', legal: 6",
        ),
        ("activations", f"{BOTH} --label one", "--label: got 'one', legal: 2, one a model"),
        ("activations", f"{BOTH} --label a a", "--label: got 'a for different networks', legal:"),
        ("activations", f"{BOTH} --threshold 1", "--threshold: got 1.0, legal: 0 or more"),
        ("activations", f"{BOTH} --images 1", "--images: got 1, legal: 2 or more"),
        (
            "bottlenecks", "--checkpoint {saved}/v1.safetensors --dataset digits",
            "got 'mobilenet_v1', legal: a network with bottlenecks",
        ),
        (
            "bottlenecks", "--checkpoint {saved}/blind.safetensors --dataset digits",
            "--resolution: got None, legal: pixels, 1 or more, such as --resolution 224",
        ),
        (
            "activations", "--checkpoint {saved}/blind.safetensors --dataset digits",
            "models.save(..., view=models.View(resolution=224, photographs=True)) keeps one",
        ),
        (
            "features", "--checkpoint {saved}/blind.safetensors --image {saved}/photo.png",
            "--resolution: got None, legal: pixels, 1 or more, such as --resolution 224",
        ),
        (
            "evaluate", "--checkpoint {saved}/blind.safetensors --image {saved}/photo.png",
            "--resolution: got None, legal: pixels, 1 or more, such as --resolution 224",
        ),
        ("activations", f"{BOTH} --resolution 0", "--resolution: got 0, legal: 1 pixel or more"),
        ("features", "", "--checkpoint: got None, legal: a run's directory, a saved model, or hf://"),
        (
            "features", "--checkpoint {saved}/v1.safetensors --image {saved}/text.png",
            "text.png",
        ),
        ("features", "--checkpoint {saved}/v1.safetensors --kernels 0", "--kernels: got 0, legal:"),
        (
            "activations", f"{BOTH} --images 40 --resolution 3000",
            "--batch-size: got 40, legal: 4 or fewer, which fit into memory at 3000 pixels",
        ),
        (
            "bottlenecks", f"{BOTH} --images 40 --resolution 12000",
            "--resolution: got 12000, legal: smaller images, as one takes",
        ),
        (
            "evaluate", "--checkpoint {saved}/linear.safetensors --dataset digits "
            "--batch-size 1048576 --resolution 3000",
            "--batch-size: got 500, legal: 4 or fewer, which fit into memory at 3000 pixels",
        ),
        (
            "evaluate", "--checkpoint {saved}/linear.safetensors --image {saved}/photo.png "
            "--resolution 12000", "--resolution: got 12000, legal: smaller images, as one takes",
        ),
        (
            "features", "--checkpoint {saved}/v1.safetensors --image {saved}/photo.png "
            "--resolution 12000", "--resolution: got 12000, legal: smaller images, as one takes",
        ),
        ("cost", "--repeats 10001", "--repeats: got 10001, legal: a whole number, 1 to 100"),
        ("cost", "--batch-size 0", "--batch-size: got 0, legal: 1 to"),
        ("cost", "--dtype bfloat16 --measure", "--dtype: got 'bfloat16', legal: float32 with"),
        ("cost", "--width 0.5 1.0 --measure", "--measure: got True, legal: one network at a time"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_one_line(
    call, tmp_path, command, words, message, monkeypatch
):
    # So much is left on every machine that the tests run on.
    monkeypatch.setattr("mnet_jax.host_memory.available_bytes", lambda: 3 * 2**30)
    assert_refused(call(command, words), command, message)
    assert not list(tmp_path.iterdir())
