"""The reader of frozen TensorFlow graphs, against messages that protobuf's own library writes."""

import ml_dtypes
import numpy as np
import pytest
from tensorboardX.proto.graph_pb2 import GraphDef
from tensorboardX.proto.types_pb2 import DataType
from tensorflow_graphs import add_constant

from mnet_jax import weights

VALUES = np.array([[1.5, -2.0, 0.25], [0.0, 96.0, -0.125]], np.float32)  # exact in every type
FLOATS = {  # by type: its form in NumPy, and the field of typed values
    "DT_FLOAT": (np.float32, "float_val"),
    "DT_DOUBLE": (np.float64, "double_val"),
    "DT_HALF": (np.float16, "half_val"),
    "DT_BFLOAT16": (ml_dtypes.bfloat16, "half_val"),
}


def tensor_of(graph, name="a", shape=(2, 3), dtype="DT_FLOAT"):
    """The tensor of a new constant, still without values."""
    tensor = graph.node.add(name=name, op="Const").attr["value"].tensor
    tensor.dtype = DataType.Value(dtype)
    for side in shape:
        tensor.tensor_shape.dim.add(size=side)
    return tensor


def typed(array, field):
    """The values of an array as a message's typed field has them: halves as their bits."""
    return (array.view(np.uint16) if field == "half_val" else array).ravel().tolist()


def read(path, graph):
    path.write_bytes(graph if isinstance(graph, bytes) else graph.SerializeToString())
    return weights.read(path)


def refusal(path, graph):
    with pytest.raises(weights.WeightsError) as caught:
        read(path, graph)
    line = str(caught.value)
    assert line.isprintable() and line.startswith(str(path)) and len(line) < 600
    return line


@pytest.fixture
def path(tmp_path):
    return tmp_path / "frozen.pb"


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("form", ["content", "typed"])
def test_every_floating_type_is_read_as_float32(path, dtype, form):
    graph = GraphDef()
    tensor = tensor_of(graph, dtype=dtype)
    numpy_type, field = FLOATS[dtype]
    if form == "content":
        tensor.tensor_content = VALUES.astype(numpy_type).tobytes()
    else:
        getattr(tensor, field).extend(typed(VALUES.astype(numpy_type), field))
    (found,) = read(path, graph).values()
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, VALUES)


@pytest.mark.parametrize("dtype", FLOATS)
def test_the_last_typed_value_stands_for_the_rest(path, dtype):
    """As TensorFlow compresses constants: nothing is left of a tensor of zeros."""
    numpy_type, field = FLOATS[dtype]
    graph = GraphDef()
    tensor_of(graph, "zeros", dtype=dtype)
    repeated = np.array([2, 0.5], numpy_type)
    getattr(tensor_of(graph, "rest", dtype=dtype), field).extend(typed(repeated, field))
    found = read(path, graph)
    np.testing.assert_array_equal(found["zeros"], np.zeros((2, 3)))
    np.testing.assert_array_equal(found["rest"], [[2, 0.5, 0.5], [0.5, 0.5, 0.5]])


def test_only_floating_constants_are_read(path):
    graph = GraphDef()
    add_constant(graph, "kernel", VALUES)
    add_constant(graph, "axes", np.array([1, 2], np.int32))
    add_constant(graph, "epsilon", np.float32(0.5)[()])
    tensor_of(graph, "text", (), "DT_STRING").string_val.append(b"words")
    graph.node.add(name="image", op="Placeholder").attr["dtype"].type = 1
    graph.node.add(name="read", op="Identity", input=["kernel"], device="/cpu:0")
    graph.versions.producer = 27
    found = read(path, graph)
    assert found.keys() == {"kernel", "epsilon"} and found["epsilon"].shape == ()


def test_damage_is_refused_or_read(path):
    """Whatever bytes are wrong, no other error comes out."""
    graph = GraphDef()
    add_constant(graph, "kernel", VALUES)
    tensor_of(graph, "halves", dtype="DT_HALF").half_val.extend([15360] * 6)
    data = np.frombuffer(graph.SerializeToString(), np.uint8)
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        damaged = data.copy()
        damaged[rng.integers(len(data), size=3)] = rng.integers(256, size=3)
        try:
            read(path, damaged.tobytes())
        except weights.WeightsError:
            refused += 1
    assert refused > 100


def test_every_truncation_is_refused_or_loses_a_node(path):
    graph = GraphDef()
    for name in "ab":
        add_constant(graph, name, VALUES)
    data = graph.SerializeToString()
    whole = {len(data) // 2: {"a"}, len(data): {"a", "b"}}
    for end in range(len(data) + 1):
        if end in whole:
            assert read(path, data[:end]).keys() == whole[end]
        else:
            assert "not a readable .pb file" in refusal(path, data[:end])


def test_a_tensor_has_as_many_values_as_its_shape(path):
    graph = GraphDef()
    tensor_of(graph).tensor_content = bytes(20)
    assert "a: got 5 values, legal: 6" in refusal(path, graph)
    graph = GraphDef()
    tensor_of(graph).float_val.extend([0.0] * 7)
    assert "a: got 7 values, legal: 6 or fewer" in refusal(path, graph)


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        ((2**40, 2**20), "bytes, legal: 536870912 or fewer"),
        ((-1, 3), "bytes, legal: 536870912 or fewer"),
        ((2**62,) * 400, "got 400 axes, legal: up to 8"),
        ((0, -1), "a: got 1 values, legal: 0 or fewer"),
    ],
)
def test_a_shape_promises_nothing(path, shape, reason):
    graph = GraphDef()
    tensor_of(graph, shape=shape).float_val.append(0.0)
    assert reason in refusal(path, graph)


def test_graphs_without_weights_say_so(path):
    graph = GraphDef()
    add_constant(graph, "axes", np.array([1, 2], np.int32))
    assert "holds no floating-point constants, legal: a frozen graph" in refusal(path, graph)
    saved_model = b"\x08\x01\x12\x00"  # saved_model.pb: version 1, an empty meta graph
    assert "not a readable .pb file, holds no nodes" in refusal(path, saved_model)
    graph.node.add(name="a\nb", op="Const")
    assert "a b: is a constant without a value" in refusal(path, graph)
    graph = GraphDef()
    for _ in range(2):
        add_constant(graph, "a\nb", VALUES)
    assert "holds a b twice" in refusal(path, graph)


@pytest.mark.parametrize(
    "data",
    [
        b"\x0a\x00" * 600_000,  # empty nodes
        b"\x0a\x80\x89\x7a" + b"\x1a\x00" * 1_000_000,  # a node with as many inputs
        b"\x10\x00" * 600_000,  # numbers
    ],
    ids=["nodes", "inputs", "numbers"],
)
def test_many_small_fields_are_refused(path, data):
    assert "holds more fields than the legal 500000" in refusal(path, data)
