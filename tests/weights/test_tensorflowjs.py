"""The reader of TensorFlow.js' layers models, against files made here in their format."""

import json

import numpy as np
import pytest
from messages import one_line
from small_networks import images_of

from mnet_jax import weights

GENERATOR = np.random.default_rng(0)
KERNEL = GENERATOR.normal(size=(3, 3, 2, 4)).astype(np.float32)
BIAS = GENERATOR.normal(size=4).astype(np.float32)


def entry(name, array, quantization=None):
    shape = {"name": name, "shape": list(array.shape), "dtype": str(array.dtype)}
    return shape if quantization is None else {**shape, "quantization": quantization}


def write(directory, groups, **model):
    """Writes a model; a group is its shards' contents by name, and the entries of its weights."""
    manifest = []
    for shards, entries in groups:
        for name, content in shards.items():
            (directory / name).write_bytes(content)
        manifest.append({"paths": [*shards], "weights": entries})
    path = directory / "model.json"
    path.write_text(json.dumps({"modelTopology": {}, "weightsManifest": manifest, **model}))
    return path


def two_shards(content):
    """A group's bytes in two shards, cut within a number."""
    return {"group1-shard1of2.bin": content[:101], "group1-shard2of2.bin": content[101:]}


def test_weights_run_through_the_shards_of_a_group(tmp_path):
    first = two_shards(KERNEL.tobytes() + BIAS.tobytes())
    step = np.array(7, np.int32)
    groups = [
        (first, [entry("a/kernel", KERNEL), entry("a/bias", BIAS)]),
        ({"group2-shard1of1.bin": step.tobytes()}, [entry("step", step)]),
    ]
    found = weights.read(write(tmp_path, groups, format="layers-model"))
    np.testing.assert_array_equal(found["a/kernel"], KERNEL)
    np.testing.assert_array_equal(found["a/bias"], BIAS)
    assert found["step"] == 7 and len(found) == 3


@pytest.mark.parametrize("bits", [8, 16])
def test_quantized_weights_are_what_their_numbers_stand_for(tmp_path, bits):
    least, scale = float(KERNEL.min()), float(np.ptp(KERNEL)) / (2**bits - 1)
    numbers = np.rint((KERNEL - least) / scale).astype(f"<u{bits // 8}")
    quantization = {"min": least, "scale": scale, "dtype": f"uint{bits}"}
    entries = [entry("a/kernel", KERNEL, quantization)]
    found = weights.read(write(tmp_path, [({"shard": numbers.tobytes()}, entries)]))["a/kernel"]
    assert found.dtype == np.float32
    assert np.abs(found - KERNEL).max() <= 0.51 * scale


def test_halves_become_float32(tmp_path):
    halves = KERNEL.astype("<f2")
    entries = [entry("a/kernel", KERNEL, {"dtype": "float16"})]
    found = weights.read(write(tmp_path, [({"shard": halves.tobytes()}, entries)]))["a/kernel"]
    np.testing.assert_array_equal(found, halves.astype(np.float32))


def test_a_keras_application_gives_its_logits(tmp_path):
    """TensorFlow.js keeps Keras' names, and `depthwise_kernel` from Keras 2."""
    applications = pytest.importorskip("keras_applications")
    options = {"alpha": 0.35}
    application = applications.application_of("mobilenet_v2", options, (64, 64))
    applications.randomize(application, "mobilenet_v2", GENERATOR)
    content, entries = b"", []
    for layer in application.layers:
        for variable in layer.weights:
            name = variable.path.rpartition("/")[2]
            old = "depthwise_" if name == "kernel" and "depthwise" in layer.name else ""
            array = np.asarray(variable, np.float32)
            entries.append(entry(f"{layer.name}/{old}{name}", array))
            content += array.tobytes()
    model = applications.model_of("mobilenet_v2", options)
    state = weights.read(write(tmp_path, [(two_shards(content), entries)]), model)
    images = images_of(2, 64, 64, 3)
    logits = model.apply(weights.from_keras(state, model), images, train=False)
    wanted = applications.forward(application, images)
    np.testing.assert_allclose(logits, wanted, atol=1e-4 * np.abs(wanted).max())


def bias_in(tmp_path, content=None, entries=None, **model):
    content = {"shard": BIAS.tobytes()} if content is None else content
    return write(tmp_path, [(content, entries or [entry("a/bias", BIAS)])], **model)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"format": "graph-model"}, "legal: layers-model"),
        ({"weightsManifest": {}}, "weightsManifest"),
        ({"weightsManifest": [{"paths": ["shard"]}]}, "without lists paths and weights"),
        ({"content": {"shard": BIAS.tobytes()[:-1]}}, "have 15 bytes (shard), legal: 16"),
        ({"content": {"shard": BIAS.tobytes() + b"0"}}, "have 17 bytes (shard), legal: 16"),
        ({"entries": [entry("a", BIAS), entry("a", BIAS)]}, "holds a twice"),
        ({"entries": [{**entry("a", BIAS), "dtype": "string"}]}, "legal: float32, int32, bool"),
        ({"entries": [{**entry("a", BIAS), "shape": [-4]}]}, "legal: whole numbers"),
        ({"entries": [{**entry("a", BIAS), "shape": "4"}]}, "legal: whole numbers"),
        ({"entries": [{**entry("a", BIAS), "name": 3}]}, "legal: a text"),
        ({"entries": [entry("a", BIAS, {"dtype": "uint4"})]}, "uint8, uint16 for float32"),
        ({"entries": [entry("a", BIAS, {"dtype": "uint8"})]}, "no scale and min"),
        ({"entries": [{**entry("a", BIAS), "shape": [2**40]}]}, "or fewer"),
    ],
)
def test_a_file_that_lies_is_refused(tmp_path, changed, said):
    path = bias_in(tmp_path, **changed)
    one_line(weights.WeightsError, lambda: weights.read(path), str(path), said)


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "a/b", "https://a", "..", ""])
def test_only_files_beside_the_json_are_read(tmp_path, name):
    path = bias_in(tmp_path)
    model = json.loads(path.read_text())
    model["weightsManifest"][0]["paths"] = [name]
    path.write_text(json.dumps(model))
    one_line(weights.WeightsError, lambda: weights.read(path), "legal: names of files beside")


def test_a_missing_shard_is_named(tmp_path):
    path = bias_in(tmp_path)
    (tmp_path / "shard").unlink()
    one_line(weights.WeightsError, lambda: weights.read(path), "shard is missing")


@pytest.mark.parametrize("text", ["", "[]", "3", "{", '{"weightsManifest": 1}'])
def test_other_json_is_refused(tmp_path, text):
    path = tmp_path / "model.json"
    path.write_text(text)
    one_line(weights.WeightsError, lambda: weights.read(path), str(path))
