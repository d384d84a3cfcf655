"""Weight files: every kind read, and every damaged or hostile one refused in one line."""

import io
import json
import os
import pickle
import re
import struct
import sys
import tracemalloc
import zipfile

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from tensorboardX.proto.graph_pb2 import GraphDef
from tensorflow_graphs import add_constant

from mnet_jax import models, weights
from mnet_jax.architectures import variable_shapes
from mnet_jax.weights import hdf5

h5py = pytest.importorskip("h5py", reason="h5py, of the extra [keras], writes Keras' files")

ARRAYS = {
    "conv/kernel": np.arange(12, dtype=np.float32).reshape(3, 4),
    "conv/bias": np.array([0.5, -2.0], np.float32),
}


def write_safetensors(path, arrays=ARRAYS):
    safetensors.numpy.save_file(arrays, path)


def write_npz(path, arrays=ARRAYS):
    with path.open("wb") as file:
        np.savez(file, **arrays)


def write_h5(path, arrays=ARRAYS):
    """As Keras 3 lays out a layer named `conv`, whose class alone names its group."""
    with h5py.File(path, "w") as file:
        group = file.create_group("layers/conv2d/vars")
        group.attrs["name"] = "conv"
        for i, array in enumerate(arrays.values()):
            group[str(i)] = array


def write_keras(path, arrays=ARRAYS):
    """Without the configuration, which a reader that runs nothing has no use for."""
    buffer = io.BytesIO()
    write_h5(buffer, arrays)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model.weights.h5", buffer.getvalue())


def write_torch(path, arrays=ARRAYS):
    torch = pytest.importorskip("torch", reason="PyTorch, the extra [torch], writes the files")
    torch.save({name: torch.from_numpy(array) for name, array in arrays.items()}, path)


def write_graph(path, arrays=ARRAYS):
    graph = GraphDef()
    for name, array in arrays.items():
        add_constant(graph, name, array)
    path.write_bytes(graph.SerializeToString())


WRITERS = {
    ".safetensors": write_safetensors,
    ".npz": write_npz,
    ".h5": write_h5,
    ".weights.h5": write_h5,
    ".keras": write_keras,
    ".pth": write_torch,
    ".pt": write_torch,
    ".pth.tar": write_torch,
    ".pb": write_graph,
}


def refusal(path):
    """The one line with which a file is refused, which begins with its path."""
    with pytest.raises(weights.WeightsError) as caught:
        weights.read(path)
    line = str(caught.value)
    assert line.isprintable() and line.startswith(str(path)) and len(line) < 600
    return line


def assert_equal_arrays(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize("suffix", WRITERS)
def test_every_kind_is_read(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    WRITERS[suffix](path)
    assert_equal_arrays(weights.read(path), ARRAYS)
    assert_equal_arrays(weights.read(str(path)), ARRAYS)


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".h5"])
def test_half_precision_is_widened(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    WRITERS[suffix](path, {name: array.astype(np.float16) for name, array in ARRAYS.items()})
    assert_equal_arrays(weights.read(path), ARRAYS)


def test_bfloat16_of_safetensors_is_widened(tmp_path):
    path = tmp_path / "a.safetensors"
    write_safetensors(path, {n: a.astype(ml_dtypes.bfloat16) for n, a in ARRAYS.items()})
    assert_equal_arrays(weights.read(path), ARRAYS)


def test_bfloat16_of_keras_is_widened(tmp_path):
    """HDF5 knows no such type: Keras stores opaque pairs of bytes and says so beside them."""
    path = tmp_path / "a.h5"
    write_h5(path, {n: a.astype(ml_dtypes.bfloat16).view("V2") for n, a in ARRAYS.items()})
    assert "got type |V2" in refusal(path)
    with h5py.File(path, "a") as file:
        for dataset in file["layers/conv2d/vars"].values():
            dataset.attrs["dtype"] = "bfloat16"
    assert_equal_arrays(weights.read(path), ARRAYS)


def test_torch_files_of_training_scripts(tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch, the extra [torch], writes the files")
    tensors = {name: torch.from_numpy(array).bfloat16() for name, array in ARRAYS.items()}
    path = tmp_path / "a.pth"
    torch.save({"epoch": 3, "optimizer": {"lr": 0.1}, "model": tensors}, path)
    assert_equal_arrays(weights.read(path), ARRAYS)
    torch.save({"state_dict": tensors}, path, _use_new_zipfile_serialization=False)
    assert_equal_arrays(weights.read(path), ARRAYS)


@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.9])
def test_a_truncated_file_is_refused(tmp_path, suffix, kept):
    path = tmp_path / f"a{suffix}"
    WRITERS[suffix](path)
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data))])
    assert "not a readable" in refusal(path)


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".keras"])
def test_a_damaged_file_is_refused_or_read(tmp_path, suffix):
    """Whatever byte is wrong, no other error comes out."""
    path = tmp_path / f"a{suffix}"
    WRITERS[suffix](path)
    data = np.frombuffer(path.read_bytes(), np.uint8)
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(100):
        damaged = data.copy()
        damaged[rng.integers(len(data), size=4)] = rng.integers(256, size=4)
        path.write_bytes(damaged.tobytes())
        try:
            weights.read(path)
        except weights.WeightsError:
            refused += 1
    assert refused > 10


@pytest.mark.parametrize(
    ("real", "claimed"),
    [(one, other) for one in WRITERS for other in WRITERS if WRITERS[one] != WRITERS[other]],
)
def test_a_renamed_file_is_refused(tmp_path, real, claimed):
    if WRITERS[claimed] is write_torch:
        pytest.importorskip("torch", reason="PyTorch, the extra [torch], reads the files")
    path = tmp_path / f"a{claimed}"
    WRITERS[real](path)
    refusal(path)


def test_a_file_that_is_not_there_or_of_no_known_kind(tmp_path):
    assert refusal(tmp_path / "a.npz").endswith("no such file")
    assert refusal(tmp_path).endswith(
        "got suffix '', legal: .safetensors, .npz, .pth, .pt, .pth.tar, .keras, .h5, .pb, .json"
    )
    assert "got suffix '.pkl'" in refusal(tmp_path / "a.pkl")
    assert "got suffix '.tar'" in refusal(tmp_path / "a.tar")
    (tmp_path / "folder.h5").mkdir()
    assert refusal(tmp_path / "folder.h5").endswith("no such file")


class Hostile:
    """Makes a folder when it is unpickled."""

    def __init__(self, target):
        self.target = str(target)

    def __reduce__(self):
        return os.mkdir, (self.target,)


def test_a_pickle_is_never_run(tmp_path):
    target = tmp_path / "executed"
    for suffix in (".pth", ".pt", ".npz", ".safetensors", ".h5", ".keras", ".pb"):
        path = tmp_path / f"a{suffix}"
        path.write_bytes(pickle.dumps({"a": Hostile(target)}))
        refusal(path)
    with (tmp_path / "b.npz").open("wb") as file:
        np.savez(file, a=np.array([Hostile(target)], dtype=object))
    assert "Python objects" in refusal(tmp_path / "b.npz")
    if "torch" in sys.modules:
        sys.modules["torch"].save({"a": Hostile(target)}, tmp_path / "c.pth")
        refusal(tmp_path / "c.pth")
    assert not target.exists()


def test_a_torch_file_without_torch(tmp_path, monkeypatch):
    path = tmp_path / "a.pth"
    path.write_bytes(b"anything")
    monkeypatch.setitem(sys.modules, "torch", None)
    line = refusal(path)
    assert "pip install mnet_jax[torch]" in line and ".safetensors" in line


def test_a_keras_file_without_h5py(tmp_path, monkeypatch):
    path = tmp_path / "a.h5"
    write_h5(path)
    monkeypatch.setitem(sys.modules, "h5py", None)
    assert "pip install mnet_jax[keras]" in refusal(path)


def npy(header):
    text = repr(header).encode() + b"\n"
    return np.lib.format.magic(1, 0) + struct.pack("<H", len(text)) + text


@pytest.mark.parametrize(
    "header",
    [
        {"descr": "<f4", "fortran_order": False, "shape": (10**15,)},
        {"descr": "<f4", "fortran_order": False, "shape": (2**31, 2**31, 4)},
        {"descr": "<f4", "fortran_order": False, "shape": (-1,)},
        {"descr": "|O", "fortran_order": False, "shape": (1,)},
        {"descr": [("a", "<f4")], "fortran_order": False, "shape": (1,)},
    ],
    ids=["huge", "overflowing", "negative", "objects", "fields"],
)
def test_an_array_is_no_larger_than_its_file(tmp_path, header):
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", npy(header) + bytes(6))
    refusal(path)


SMALL = models.mobilenet_v1(width=0.25, num_classes=2)  # 0.22 million parameters


@pytest.mark.parametrize("suffix", [".npz", ".keras", ".pth"])
def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path, suffix):
    if suffix == ".pth":
        pytest.importorskip("torch", reason="PyTorch, the extra [torch], reads the files")
    path = tmp_path / f"a{suffix}"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.weights.h5", bytes(1000))
    declared = path.read_bytes().replace(struct.pack("<I", 1000), struct.pack("<I", 600_000_000))
    path.write_bytes(declared)
    assert "declares 600000000 bytes, legal: 536870912 or fewer" in refusal(path)


def test_a_large_file_is_refused_unread(tmp_path):
    """Sparse: it takes no place on the disk."""
    for suffix in WRITERS:
        path = tmp_path / f"a{suffix}"
        with path.open("wb") as file:
            file.truncate(2**31 + 1)
        assert "got 2147483649 bytes, legal: 2147483648 or fewer" in refusal(path)


def write_hollow(path, shape):
    """Zeros that take little in their file, in every kind that allows it."""
    if path.suffix == ".h5":
        with h5py.File(path, "w") as file:
            group = file.create_group("layers/conv2d/vars")
            group.attrs["name"] = "conv"
            group.create_dataset("0", shape, "f4", chunks=(64, 64), compression="gzip")
    elif path.suffix == ".npz":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            header = npy({"descr": "<f4", "fortran_order": False, "shape": shape})
            archive.writestr("a.npy", header + bytes(4 * shape[0] * shape[1]))
    elif path.suffix == ".safetensors":
        size = 4 * shape[0] * shape[1]
        header = {"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, size]}}
        text = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text)
        os.truncate(path, 8 + len(text) + size)
    elif path.suffix == ".pb":
        graph = GraphDef()
        add_constant(graph, "a", np.zeros((1, 1), np.float32))
        tensor = graph.node[0].attr["value"].tensor
        tensor.ClearField("tensor_content")
        for dim, side in zip(tensor.tensor_shape.dim, shape, strict=True):
            dim.size = side
        path.write_bytes(graph.SerializeToString())
    else:
        torch = pytest.importorskip("torch", reason="PyTorch, the extra [torch], writes the files")
        torch.save({"a": torch.zeros(1).expand(shape)}, path)


@pytest.mark.parametrize("suffix", [".h5", ".npz", ".safetensors", ".pth", ".pb"])
def test_more_than_a_network_can_use_is_refused_unread(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    write_hollow(path, (6000, 6000))
    tracemalloc.start()
    try:
        with pytest.raises(
            weights.WeightsError, match=r"(got|declares) 1440\d{5} bytes, legal: 13"
        ):
            weights.read(path, SMALL)
        assert tracemalloc.get_traced_memory()[1] < 50_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("suffix", [".h5", ".npz", ".safetensors", ".pth", ".pb"])
def test_a_file_of_many_arrays_names_a_few_and_the_count(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    arrays = {f"layer\n{i}": np.zeros(1, np.float32) for i in range(1000)}
    if suffix == ".h5":
        with h5py.File(path, "w") as file:
            file.attrs["layer_names"] = []
            for i, array in enumerate(arrays.values()):
                group = file.create_group(f"layer\n{i}")
                group.attrs["weight_names"] = ["a"]
                group["a"] = array
    else:
        WRITERS[suffix](path, arrays)
    with pytest.raises(weights.WeightsError) as caught:
        weights.read(path, SMALL)
    line = str(caught.value)
    assert line.isprintable() and len(line) < 600
    found = re.search(r"(\d+) arrays \(layer \d+.* and (\d+) more\), legal: (\d+) or fewer", line)
    count, more, legal = map(int, found.groups())
    assert legal < count == more + 8 <= 1000


@pytest.mark.parametrize("suffix", [".npz", ".keras", ".pth"])
def test_a_long_directory_of_an_archive_is_refused_unread(tmp_path, suffix):
    if suffix == ".pth":
        pytest.importorskip("torch", reason="PyTorch, the extra [torch], reads the files")
    path = tmp_path / f"a{suffix}"
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(6000):
            archive.writestr(f"a/{i}", b"")
    with pytest.raises(weights.WeightsError, match=r"holds 6000 members, legal: \d+ or fewer"):
        weights.read(path, SMALL)


@pytest.mark.parametrize("is_archive", [True, False])
def test_a_pickle_of_many_objects_is_refused_unread(tmp_path, is_archive):
    """A byte each in the file, a hundred in memory."""
    pytest.importorskip("torch", reason="PyTorch, the extra [torch], reads the files")
    path = tmp_path / "a.pth"
    bomb = b"\x80\x02](" + b"}" * 600_000 + b"e."
    if is_archive:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a/data.pkl", bomb)
            archive.writestr("a/version", b"3\n")
    else:
        path.write_bytes(bomb)
    assert "holds more objects than the legal 500000" in refusal(path)


def test_what_a_network_can_use_is_read_with_all_that_training_stores(tmp_path):
    """The state of an optimizer beside it, and a head of 20,000 classes."""
    torch = pytest.importorskip("torch", reason="PyTorch, the extra [torch], writes the files")
    entries = {f"{i}": torch.zeros(s) for i, s in enumerate(variable_shapes(SMALL.spec).values())}
    state = entries | {"head": torch.zeros(20_000, 256)}
    optimizer = [{name: tensor for name in "abc"} for tensor in state.values()]
    torch.save({"state_dict": state, "optimizer": optimizer}, tmp_path / "a.pth")
    assert weights.read(tmp_path / "a.pth", SMALL).keys() == state.keys()


def test_nothing_is_extracted(tmp_path):
    path = tmp_path / "inner" / "a.npz"
    path.parent.mkdir()
    buffer = io.BytesIO()
    np.save(buffer, ARRAYS["conv/bias"])
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../outside.npy", buffer.getvalue())
    assert list(weights.read(path)) == ["../outside"]
    assert [p.name for p in tmp_path.rglob("*")] == ["inner", "a.npz"]


def hostile_h5(path, change):
    write_h5(path)
    with h5py.File(path, "a") as file:
        change(file, file["layers/conv2d/vars"])


def link_outside(file, group):
    del group["0"]
    group["0"] = h5py.ExternalLink("secret.h5", "/layers/conv2d/vars/0")


def link_inside(file, group):
    del group["0"]
    group["0"] = h5py.SoftLink("/layers/conv2d/vars/1")


def link_of_a_group(file, group):
    del file["layers"]
    file["layers"] = h5py.ExternalLink("secret.h5", "/layers")


def raw_bytes_outside(file, group):
    del group["0"]
    group.create_dataset("0", (4,), "f4", external=[("secret.bin", 0, 16)])


def data_of_another_file(file, group):
    del group["0"]
    layout = h5py.VirtualLayout((3, 4), "f4")
    layout[:] = h5py.VirtualSource("secret.h5", "/layers/conv2d/vars/0", (3, 4))
    group.create_virtual_dataset("0", layout)


def cycle(file, group):
    file["layers/conv2d/again"] = file["layers"]


def text(file, group):
    del group["0"]
    group["0"] = "text"


def hollow(file, group):
    """A terabyte in a chunked dataset of which nothing is stored."""
    del group["0"]
    group.create_dataset("0", (2**20, 2**18), "f4", chunks=(2**10, 2**10), compression="gzip")


def same_name(file, group):
    other = file.create_group("layers/conv2d_1/vars")
    other.attrs["name"] = "conv"
    other["0"] = np.zeros(3, "f4")


def nameless(file, group):
    del group.attrs["name"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (link_outside, "0: got a ExternalLink, legal: data"),
        (link_inside, "0: got a SoftLink, legal: data"),
        (link_of_a_group, "layers: got a ExternalLink, legal: data"),
        (raw_bytes_outside, "its data are in another file"),
        (data_of_another_file, "its data are in another file"),
        (cycle, "no tree of groups"),
        (text, "got type object, legal: numbers"),
        (hollow, "got 1099511627784 bytes, legal: 536870912 or fewer"),
        (same_name, "two layers are called conv"),
        (nameless, "holds no layers as Keras 3.10 or later names them"),
    ],
)
def test_hostile_hdf5(tmp_path, monkeypatch, change, reason):
    monkeypatch.chdir(tmp_path)
    write_h5(tmp_path / "secret.h5")
    (tmp_path / "secret.bin").write_bytes(bytes(16))
    path = tmp_path / "a.h5"
    hostile_h5(path, change)
    assert reason in refusal(path)


@pytest.mark.parametrize("name", ["/secret", "../x", "conv/../conv/a", "absent", ""])
def test_names_that_an_older_file_lists_stay_inside_their_layer(tmp_path, name):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = ["conv"]
        file["secret"] = np.zeros(3, "f4")
        group = file.create_group("conv")
        group["a"] = np.zeros(3, "f4")
        group.attrs["weight_names"] = [name]
    assert "named in the file, but not there" in refusal(path)


def test_arrays_of_a_layer_that_no_network_has_are_numbered():
    """So that they are listed as extra."""
    three = [np.zeros(1)] * 3
    assert [*hdf5.named_arrays("lstm", three)] == ["lstm/0", "lstm/1", "lstm/2"]
    assert hdf5.named_arrays("pool", []) == {}
