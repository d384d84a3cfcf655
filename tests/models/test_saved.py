"""Saved models: they come back as they were, or not at all, and nothing in a file is run."""

import dataclasses
import hashlib
import json
import pickle
import struct

import chex
import numpy as np
import pytest
from flax import traverse_util
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from small_networks import model_and_variables, small_hybrid
from tiny_network import make_tiny_spec

from mnet_jax import architectures, models, quantization
from mnet_jax.architectures import variable_shapes
from mnet_jax.models import View

NAMES = tuple(f"class {i}" for i in range(10))


def random_variables(spec, seed=0):
    rng = np.random.default_rng(seed)
    flat = {n: rng.normal(size=s).astype(np.float32) for n, s in variable_shapes(spec).items()}
    return traverse_util.unflatten_dict(flat, sep="/")


@pytest.fixture
def saved(tmp_path, tiny_spec):
    """A model, its variables and the file it is saved in."""
    model, variables = models.MobileNet(spec=tiny_spec), random_variables(tiny_spec)
    file = tmp_path / "run" / models.FILE_NAME
    view = View(resolution=24, photographs=True)
    models.save(file, model, variables, class_names=NAMES, view=view)
    return model, variables, file


def test_a_model_comes_back_as_it_was(saved):
    model, variables, file = saved
    for path in (file, str(file), file.parent):
        loaded = models.load(path)
        assert loaded.model == model
        chex.assert_trees_all_equal(loaded.variables, variables)
        assert loaded.class_names == NAMES
        assert loaded.view == View(resolution=24, photographs=True)
    assert models.read_spec(file) == model.spec
    assert [path.name for path in file.parent.iterdir()] == [models.FILE_NAME]


def test_crop_and_filter_come_back_and_the_usual_ones_are_not_written(saved, tmp_path):
    """So a file with the usual view has the bytes, and the digest, that it always had."""
    model, variables, file = saved
    with safe_open(file, framework="numpy") as opened:
        assert opened.metadata()["view"] == '{"photographs":true,"resolution":24}'
    view = View(resolution=24, photographs=True, crop_share=0.95, interpolation="bicubic")
    models.save(tmp_path / "m.safetensors", model, variables, view=view)
    assert models.load(tmp_path / "m.safetensors").view == view
    assert models.read_view(tmp_path / "m.safetensors") == view


@pytest.mark.parametrize("folded", [False, True])
def test_a_hybrid_comes_back_as_it_was(tmp_path, folded):
    model, variables = model_and_variables(small_hybrid())
    if folded:
        model = model.clone(folded=True)
        variables = {"params": quantization.fold(model.spec, variables)["params"]}
    models.save(tmp_path / models.FILE_NAME, model, variables)
    loaded = models.load(tmp_path)
    assert loaded.model == model
    chex.assert_trees_all_equal(loaded.variables, variables)


def test_a_loaded_model_computes(saved):
    model, variables, file = saved
    images = np.random.default_rng(1).uniform(-1, 1, (2, 16, 16, 3)).astype(np.float32)
    loaded = models.load(file)
    before = model.apply(variables, images, train=False)
    after = loaded.model.apply(loaded.variables, images, train=False)
    np.testing.assert_array_equal(before, after)


def test_names_and_view_may_be_left_out(tmp_path, tiny_spec):
    model = models.MobileNet(spec=tiny_spec)
    models.save(tmp_path / "m.safetensors", model, random_variables(tiny_spec))
    loaded = models.load(tmp_path / "m.safetensors")
    assert (loaded.class_names, loaded.view) == ((), None)


def test_the_digest_is_that_of_the_file(saved):
    """As stored trials and checkpoints name it, whatever version wrote the file."""
    _, variables, file = saved
    before = models.digest(file)
    assert before == hashlib.sha256(file.read_bytes()).hexdigest()
    assert models.digest(file.parent) == before
    variables["params"]["head"]["classifier"]["bias"] += 1
    models.save(file, models.MobileNet(spec=make_tiny_spec()), variables)
    assert models.digest(file) != before


def test_equal_models_give_equal_files(saved, tmp_path):
    model, variables, file = saved
    view = View(resolution=24, photographs=True)
    for i in range(15):
        models.save(tmp_path / str(i), model, variables, class_names=list(NAMES), view=view)
        assert (tmp_path / str(i)).read_bytes() == file.read_bytes()


@pytest.mark.parametrize("change", ["weight", "name", "view", "spec"])
def test_models_that_differ_in_anything_have_other_digests(saved, tmp_path, change):
    model, variables, file = saved
    names, view, before = list(NAMES), View(resolution=24, photographs=True), models.digest(file)
    if change == "weight":  # equal as a number, and another bit
        variables["params"]["stem"]["norm"]["scale"][3] = 0.0
        models.save(file, model, variables, class_names=names, view=view)
        before = models.digest(file)
        variables["params"]["stem"]["norm"]["scale"][3] = -0.0
    elif change == "name":
        names[3] = "another"
    elif change == "view":
        view = View(resolution=24, photographs=False)
    else:
        model = models.MobileNet(spec=make_tiny_spec(dropout=0.5))
    models.save(file, model, variables, class_names=names, view=view)
    assert models.digest(file) != before
    assert models.load(file).model == model


def test_the_library_reads_our_files_and_its_own_writer_made_those_of_earlier_versions(saved):
    model, variables, file = saved
    chex.assert_trees_all_equal(load_file(file), traverse_util.flatten_dict(variables, sep="/"))
    rewritten(file)
    assert "sha256" not in metadata_of(file)
    loaded = models.load(file)
    assert (loaded.model, loaded.class_names) == (model, NAMES)
    chex.assert_trees_all_equal(loaded.variables, variables)


def test_a_file_of_an_earlier_version_keeps_its_digest_when_its_model_is_saved_again(saved):
    """So that what was trained from it is found again after its run is called once more."""
    model, variables, file = saved
    rewritten(file)
    before = file.read_bytes()
    view = View(resolution=24, photographs=True)
    models.save(file, model, variables, class_names=NAMES, view=view)
    assert file.read_bytes() == before
    models.save(file, model, variables, class_names=NAMES[::-1], view=view)
    assert models.load(file).class_names == NAMES[::-1]


def test_a_flipped_bit_anywhere_is_noticed(saved, exhaustive):
    file = saved[2]
    whole = file.read_bytes()
    rng = np.random.default_rng(0)
    for place in range(len(whole)) if exhaustive else rng.integers(0, len(whole), 200):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << rng.integers(8)
        file.write_bytes(damaged)
        with pytest.raises(models.SavedModelError):
            models.load(file)


def test_a_damaged_file_is_written_anew(saved):
    model, variables, file = saved
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    view = View(resolution=24, photographs=True)
    models.save(file, model, variables, class_names=NAMES, view=view)
    assert file.read_bytes() == whole


def test_what_is_no_models_variables_is_not_saved(tmp_path, tiny_spec):
    model, variables = models.MobileNet(spec=tiny_spec), random_variables(tiny_spec)
    del variables["params"]["stem"]["conv"]
    with pytest.raises(ValueError, match=r"params/stem/conv/kernel \(3, 3, 3, 8\) is missing"):
        models.save(tmp_path / "m.safetensors", model, variables)
    with pytest.raises(ValueError, match="class_names: got 2, legal: 10 or none"):
        models.save(tmp_path / "m", model, random_variables(tiny_spec), class_names=("a", "b"))
    assert not list(tmp_path.iterdir())


def header_of(content):
    (size,) = struct.unpack("<Q", content[:8])
    return content[8 : 8 + size]


def metadata_of(file):
    return json.loads(header_of(file.read_bytes()))["__metadata__"]


def rewritten(file, change=lambda tensors, metadata: None):
    """The file anew in an earlier version's form, after a change of its tensors and metadata."""
    tensors, metadata = load_file(file), metadata_of(file)
    del metadata["sha256"]
    change(tensors, metadata)
    save_file(tensors, file, metadata)


def rename(tensors, metadata):
    tensors["params/stem/conv/weight"] = tensors.pop("params/stem/conv/kernel")


def reshape(tensors, metadata):
    tensors["params/stem/norm/scale"] = np.zeros(9, np.float32)


def narrow(tensors, metadata):
    tensors["params/stem/norm/scale"] = tensors["params/stem/norm/scale"].astype(np.float16)


def other_spec(tensors, metadata):
    metadata["spec"] = architectures.mobilenet_v1(num_classes=10).to_json()


def drop_spec(tensors, metadata):
    del metadata["spec"]


def break_spec(tensors, metadata):
    metadata["spec"] = metadata["spec"].replace('"stride":1', '"stride":"1"')


def few_names(tensors, metadata):
    metadata["class_names"] = '["cat"]'


def wrong_names(tensors, metadata):
    metadata["class_names"] = "[1, 2]"


def deep_names(tensors, metadata):
    metadata["class_names"] = "[" * 100_000


def long_names(tensors, metadata):
    metadata["class_names"] = "[" + "9" * 5000 + "]"


def unknown_fields(tensors, metadata):
    more = ",".join(f'"field {i}":1' for i in range(5_000))
    metadata["spec"] = f"{metadata['spec'][:-1]},{more}" + "}"


def forged_name(tensors, metadata):
    tensors["a\nall is well\x1b[2J"] = np.zeros(3, np.float32)


def forged_value(tensors, metadata):
    metadata["view"] = '{"resolution": 3, "photographs": true, "a\\nall is well": 1}'


def wrong_view(tensors, metadata):
    metadata["view"] = '{"resolution": 0, "photographs": true}'


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (rename, "params/stem/conv/kernel (3, 3, 3, 8) is missing"),
        (rename, "params/stem/conv/weight has (3, 3, 3, 8), legal: no such name"),
        (reshape, "params/stem/norm/scale has (9,), legal: (8,)"),
        (narrow, "F16, legal: F32"),
        (other_spec, "more"),
        (drop_spec, "its metadata are not those of a saved model"),
        (break_spec, "not a NetworkSpec"),
        (few_names, "it names 1 of 10 classes"),
        (wrong_names, "its class names are not a list of texts"),
        (deep_names, "its class names are not JSON"),
        (long_names, "its class names are not JSON"),
        (unknown_fields, "field 0"),
        (forged_name, r"a all is well\x1b[2J has (3,), legal: no such name"),
        (forged_value, "not a View"),
        (wrong_view, "resolution: got 0"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_file_that_does_not_fit_is_refused_in_one_line(saved, change, message):
    file = saved[2]
    rewritten(file, change)
    with pytest.raises(models.SavedModelError) as caught:
        models.load(file)
    line = str(caught.value)
    assert line.startswith(f"{file}: not a saved model, ") and message in line
    assert line.isprintable() and len(line) < len(str(file)) + 600


@pytest.mark.parametrize("read", [models.load, models.read_spec])
def test_a_spec_of_many_thousand_blocks_is_refused_unread(saved, read):
    """Reading ten million characters takes 20 seconds, and building the network hours."""
    file = saved[2]

    def lengthen(tensors, metadata):
        block = '{"inputs":8,"outputs":8,"kernel":3,"type":"ConvNorm"}'
        more = f"{block}," * 200_000
        metadata["spec"] = metadata["spec"].replace('"blocks":[', f'"blocks":[{more}')

    rewritten(file, lengthen)
    with pytest.raises(models.SavedModelError, match=r"spec: got 1\d{7} characters, legal: up to"):
        read(file)


def test_a_spec_that_could_not_be_read_is_not_saved(tmp_path, tiny_spec):
    blocks = tiny_spec.blocks[:1] * 1000 + tiny_spec.blocks[1:]
    many = dataclasses.replace(tiny_spec, blocks=blocks)
    model = models.MobileNet(spec=many)
    with pytest.raises(ValueError, match=r"spec: got \d+ characters, legal"):
        models.save(tmp_path / "m.safetensors", model, random_variables(many))
    assert not list(tmp_path.iterdir())


def test_a_file_of_30_000_arrays_names_a_few_and_the_count(saved):
    file = saved[2]
    n, metadata = 30_000, metadata_of(file)
    header = {
        f"a{i}": {"dtype": "F32", "shape": [1], "data_offsets": [4 * i, 4 * i + 4]}
        for i in range(n)
    }
    text = json.dumps(header | {"__metadata__": metadata}).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + bytes(4 * n))
    with pytest.raises(models.SavedModelError) as caught:
        models.load(file)
    more = len(variable_shapes(make_tiny_spec())) + n - 4
    assert str(caught.value).endswith(f"; and {more} more") and len(str(caught.value)) < 600


class Bomb:
    """Leaves a file where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def huge_header(file):
    file.write_bytes(struct.pack("<Q", 2**62) + file.read_bytes()[8:])


def overlapping(file):
    header = {"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text)


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(file.read_bytes()[:5]),
        lambda file: file.write_bytes(file.read_bytes()[:-7]),
        lambda file: file.write_bytes(pickle.dumps(Bomb(file.with_name("bomb")))),
        huge_header,
        overlapping,
    ],
    ids=["empty", "no header", "truncated", "pickle", "huge header", "forged offsets"],
)
def test_a_damaged_or_hostile_file_is_refused_in_one_line(saved, damage):
    file = saved[2]
    damage(file)
    for read in (models.load, models.read_spec):
        with pytest.raises(models.SavedModelError) as caught:
            read(file)
        assert str(caught.value).splitlines() == [str(caught.value)]
        assert str(file) in str(caught.value)
    assert not file.with_name("bomb").exists()


def test_a_place_without_a_model_says_what_was_looked_for(tmp_path):
    with pytest.raises(models.SavedModelError, match=r"holds no model\.safetensors"):
        models.load(tmp_path)
    with pytest.raises(models.SavedModelError, match="none: no such file"):
        models.load(tmp_path / "none")


@pytest.mark.parametrize("names", ["0123456789", range(10), [b"a"] * 10], ids=str)
def test_names_that_are_no_texts_are_not_saved(tmp_path, tiny_spec, names):
    model = models.MobileNet(spec=tiny_spec)
    with pytest.raises(ValueError, match=r"class_names: got .*, legal: a sequence of texts"):
        models.save(tmp_path / "m.safetensors", model, {}, class_names=names)
