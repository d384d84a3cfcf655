"""The constants of a frozen TensorFlow graph, read without TensorFlow and without running it.

A frozen graph is a `GraphDef` message in the wire format of protocol buffers. Freezing turns each
variable into a node of operation `Const` with the variable's name. The field numbers below are
those of TensorFlow's `graph.proto`, `node_def.proto`, `attr_value.proto`, `tensor.proto`,
`tensor_shape.proto` and `types.proto`.
"""

import math
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from mnet_jax.validation import one_line
from mnet_jax.weights.arrays import LazyArray, WeightsError

MOST_FIELDS = 500_000  # V1's graph has 12,000; a field of two bytes takes a hundred in memory
MOST_AXES = 8  # TensorFlow's own limit is 254
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types
WIDTHS = {FIXED64: 8, FIXED32: 4}
GRAPH_NODE = 1
NODE_NAME, NODE_OPERATION, NODE_ATTRIBUTE = 1, 2, 5
KEY, VALUE = 1, 2  # of an entry of a map
ATTRIBUTE_TENSOR = 8
TENSOR_TYPE, TENSOR_SHAPE, TENSOR_CONTENT, TENSOR_HALVES = 1, 2, 4, 13
SHAPE_DIMENSION, DIMENSION_SIZE = 2, 1
# By number of a floating-point type: its name in NumPy, and the field of a tensor's typed values.
FLOATS = {1: ("<f4", 5), 2: ("<f8", 6), 14: ("bfloat16", TENSOR_HALVES), 19: ("<f2", TENSOR_HALVES)}


class Fields(NamedTuple):
    """The fields of a message by number, in the order of the message; a number may be repeated.

    Attributes:
      parts: fields that are bytes: text, nested messages, packed numbers, and single numbers of
        fixed width.
      numbers: fields that are whole numbers of variable width.
    """

    parts: dict[int, list[memoryview]]
    numbers: dict[int, list[int]]

    def part(self, number: int) -> memoryview:
        """Returns the bytes of the last field with a field number; empty if there is none.

        A later field overrides earlier fields of the same number.
        """
        return self.parts.get(number, [memoryview(b"")])[-1]

    def number(self, number: int) -> int:
        """Returns the last whole number stored under a field number; 0 if there is none."""
        return self.numbers.get(number, [0])[-1]


class Parser:
    """Splits messages into fields, and limits the number of fields of all messages together."""

    def __init__(self) -> None:
        self._fields_left = MOST_FIELDS

    def fields(self, message: memoryview) -> Fields:
        """Returns the fields of a message.

        Raises:
          ValueError: the message ends within a field, or a wire type is unknown.
          WeightsError: there are too many fields.
        """
        found, position = Fields({}, {}), 0
        while position < len(message):
            key, position = self._number(message, position)
            number, wire_type = key >> 3, key & 7
            if wire_type == VARINT:
                value, position = self._number(message, position)
                found.numbers.setdefault(number, []).append(value)
                continue
            if wire_type == BYTES:
                length, position = self._number(message, position)
            elif wire_type in WIDTHS:
                length = WIDTHS[wire_type]
            else:
                raise ValueError(f"got wire type {wire_type}, legal: 0, 1, 2, 5")
            if length > len(message) - position:
                raise ValueError("ends within a field")
            found.parts.setdefault(number, []).append(message[position : position + length])
            position += length
        return found

    def numbers(self, packed: memoryview) -> list[int]:
        """Returns packed whole numbers of variable width."""
        found, position = [], 0
        while position < len(packed):
            value, position = self._number(packed, position)
            found.append(value)
        return found

    def _number(self, message: memoryview, position: int) -> tuple[int, int]:
        """Returns the whole number at a position, 7 bits a byte, and the position after it."""
        self._fields_left -= 1
        if self._fields_left < 0:
            raise WeightsError(f"holds more fields than the legal {MOST_FIELDS}")
        value = 0
        for i, byte in enumerate(message[position : position + 10]):  # 64 bits take 10 bytes
            value |= (byte & 127) << (7 * i)
            if byte < 128:
                return value, position + i + 1
        raise ValueError("ends within a number")


def floating_constants(graph: bytes) -> dict[str, LazyArray]:
    """Returns the floating-point constants of a graph by the names of their nodes.

    Raises:
      ValueError: the message is damaged, or is no graph.
      WeightsError: the graph has too many fields, no such constants, or two of the same name.
    """
    parser, found = Parser(), {}
    nodes = parser.fields(memoryview(graph)).parts.get(GRAPH_NODE, [])
    if not nodes:
        raise ValueError("holds no nodes")
    for message in nodes:
        node = parser.fields(message)
        if node.part(NODE_OPERATION) != b"Const":
            continue
        entries = [parser.fields(entry) for entry in node.parts.get(NODE_ATTRIBUTE, [])]
        values = [entry.part(VALUE) for entry in entries if entry.part(KEY) == b"value"]
        name = str(node.part(NODE_NAME), "utf-8")
        if not values:
            raise ValueError(f"{name}: is a constant without a value")
        tensor = parser.fields(parser.fields(values[-1]).part(ATTRIBUTE_TENSOR))
        if tensor.number(TENSOR_TYPE) not in FLOATS:
            continue
        if name in found:
            raise WeightsError(f"holds {one_line(name)} twice")
        sizes = parser.fields(tensor.part(TENSOR_SHAPE)).parts.get(SHAPE_DIMENSION, [])
        if len(sizes) > MOST_AXES:
            raise WeightsError(f"{one_line(name)}: got {len(sizes)} axes, legal: up to {MOST_AXES}")
        shape = tuple(parser.fields(size).number(DIMENSION_SIZE) for size in sizes)
        found[name] = LazyArray(math.prod(shape), partial(_array, parser, name, tensor, shape))
    if not found:
        raise WeightsError("holds no floating-point constants, legal: a frozen graph")
    return found


def _array(parser: Parser, name: str, tensor: Fields, shape: tuple[int, ...]) -> np.ndarray:
    """Returns a tensor's values, in new memory.

    A tensor is stored either as the bytes of all its elements (`tensor_content`) or in a field for
    its type. This field may have fewer values than the tensor has elements; the last value then
    stands for all further elements. TensorFlow stores no values for a tensor of zeros.
    """
    dtype, field = FLOATS[tensor.number(TENSOR_TYPE)]
    size = math.prod(shape)
    if content := tensor.part(TENSOR_CONTENT):
        values = np.frombuffer(content, _dtype(dtype))
        if len(values) != size:
            raise WeightsError(f"{one_line(name)}: got {len(values)} values, legal: {size}")
        return values.reshape(shape).copy()
    if field == TENSOR_HALVES:  # the bits of a half are a whole number
        halves = [*map(parser.numbers, tensor.parts.get(field, [])), tensor.numbers.get(field, [])]
        values = np.array([n for part in halves for n in part], np.uint16).view(_dtype(dtype))
    else:
        values = np.frombuffer(b"".join(tensor.parts.get(field, [])), _dtype(dtype))
    if len(values) > size:
        raise WeightsError(f"{one_line(name)}: got {len(values)} values, legal: {size} or fewer")
    array = np.zeros(size, values.dtype)
    array[: len(values)] = values
    array[len(values) :] = values[-1] if len(values) else 0
    return array.reshape(shape)


def _dtype(name: str) -> Any:
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)
