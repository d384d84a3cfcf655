"""Frozen TensorFlow graphs: written as TF-slim writes them, and computed in NumPy.

The messages are those that tensorboardX generates from TensorFlow's own definitions.
"""

import math

import numpy as np
from tensorboardX.proto.attr_value_pb2 import AttrValue
from tensorboardX.proto.graph_pb2 import GraphDef
from tensorboardX.proto.types_pb2 import DataType
from weights_parity import random_kernel, random_vector

V1 = [(1, 64), (2, 128), (1, 128), (2, 256), (1, 256), (2, 512), *[(1, 512)] * 5, (2, 1024)]
V1 += [(1, 1024)]  # stride, channels: Table 1 of arXiv 1704.04861
V2 = [  # expansion ratio, channels, repetitions, stride: Table 2 of arXiv 1801.04381
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
    (6, 320, 1, 1),
]  # fmt: skip
V3_SMALL = [  # kernel, expanded, channels, squeeze, h-swish, stride: Table 2 of arXiv 1905.02244
    (3, 16, 16, True, False, 2), (3, 72, 24, False, False, 2), (3, 88, 24, False, False, 1),
    (5, 96, 40, True, True, 2), (5, 240, 40, True, True, 1), (5, 240, 40, True, True, 1),
    (5, 120, 48, True, True, 1), (5, 144, 48, True, True, 1), (5, 288, 96, True, True, 2),
    (5, 576, 96, True, True, 1), (5, 576, 96, True, True, 1),
]  # fmt: skip


def add_constant(graph, name, array):
    """A node of operation `Const`: arrays as their bytes, single numbers as typed values."""
    node = graph.node.add(name=name, op="Const")
    dtype = {"f": DataType.Value("DT_FLOAT"), "i": DataType.Value("DT_INT32")}[array.dtype.kind]
    node.attr["dtype"].type = dtype
    tensor = node.attr["value"].tensor
    tensor.dtype = dtype
    for side in array.shape:
        tensor.tensor_shape.dim.add(size=side)
    if array.ndim:
        tensor.tensor_content = array.tobytes()
    else:
        (tensor.float_val if array.dtype.kind == "f" else tensor.int_val).append(array.item())
    return name


class SlimGraph:
    """A network as TF-slim builds it, with random weights; each method returns its node's name."""

    def __init__(self, network, scope, rng, gate_slope=1 / 6):
        self.gate_slope = gate_slope
        self.graph, self.network, self.scope, self.rng = GraphDef(), network, scope, rng
        self.channels = {self.node("input", "Placeholder"): 3}

    def node(self, name, operation, *inputs, **attributes):
        node = self.graph.node.add(name=name, op=operation, input=inputs)
        for key, value in attributes.items():
            if isinstance(value, list):
                node.attr[key].CopyFrom(AttrValue(list=AttrValue.ListValue(i=value)))
            elif isinstance(value, bool):
                node.attr[key].b = value
            else:
                node.attr[key].s = value.encode()
        return name

    def number(self, name, value):
        return add_constant(self.graph, name, np.float32(value)[()])

    def variable(self, name, array):
        add_constant(self.graph, name, array)
        return self.node(f"{name}/read", "Identity", name)

    def convolution(self, x, layer, outputs, kernel=1, stride=1, activation=None, biased=False):
        """Also depthwise, if `outputs` is None; followed by bias or normalization."""
        inputs, scope, at = self.channels[x], f"{self.scope}/{layer}", f"{self.scope}/ops/{layer}"
        depthwise = outputs is None
        outputs = inputs if depthwise else outputs
        shape = (kernel, kernel, inputs, 1 if depthwise else outputs)
        fan_in = kernel * kernel * (1 if depthwise else inputs)
        weights = random_kernel(self.rng, self.network, shape, fan_in)
        name = "depthwise_weights" if depthwise else "weights"
        x = self.node(
            f"{at}/convolution", "DepthwiseConv2dNative" if depthwise else "Conv2D",
            x, self.variable(f"{scope}/{name}", weights),
            strides=[1, stride, stride, 1], padding="SAME",
        )  # fmt: skip
        if biased:
            bias = self.variable(f"{scope}/biases", random_vector(self.rng, "bias", outputs))
            x = self.node(f"{at}/BiasAdd", "BiasAdd", x, bias)
        else:
            x = self.normalization(x, scope, at, outputs)
        if activation == "HardSwish":
            x = self.node(f"{at}/hard_swish", "Mul", x, self.hard_sigmoid(x, at, 1 / 6))
        elif activation == "HardSigmoid":
            x = self.hard_sigmoid(x, at, self.gate_slope)
        elif activation:
            x = self.node(f"{at}/{activation}", activation, x)
        self.channels[x] = outputs
        return x

    def normalization(self, x, scope, at, channels):
        kinds = {"gamma": "scale", "beta": "bias", "moving_mean": "mean", "moving_variance": "var"}
        gamma, beta, mean, variance = (
            self.variable(f"{scope}/BatchNorm/{name}", random_vector(self.rng, kind, channels))
            for name, kind in kinds.items()
        )
        at = f"{at}/BatchNorm/batchnorm"
        epsilon = self.number(f"{at}/add/y", 0.001)
        inverse = self.node(
            f"{at}/Rsqrt", "Rsqrt", self.node(f"{at}/add", "Add", variance, epsilon)
        )
        factor = self.node(f"{at}/mul", "Mul", inverse, gamma)
        scaled = self.node(f"{at}/mul_1", "Mul", x, factor)
        moved = self.node(f"{at}/mul_2", "Mul", mean, factor)
        return self.node(f"{at}/add_1", "Add", scaled, self.node(f"{at}/sub", "Sub", beta, moved))

    def hard_sigmoid(self, x, at, slope):
        moved = self.node(f"{at}/add", "AddV2", x, self.number(f"{at}/add/y", 3))
        clipped = self.node(f"{at}/Relu6", "Relu6", moved)
        return self.node(f"{at}/mul", "Mul", clipped, self.number(f"{at}/mul/y", slope))

    def mean(self, x, at):
        axes = add_constant(self.graph, f"{at}/axes", np.array([1, 2], np.int32))
        mean = self.node(f"{at}/Mean", "Mean", x, axes, keep_dims=True)
        self.channels[mean] = self.channels[x]
        return mean

    def logits(self, x, classes):
        x = self.convolution(x, "Logits/Conv2d_1c_1x1", classes, biased=True)
        self.node("logits", "Squeeze", x, squeeze_dims=[1, 2])
        return self.graph


def slim_v1(rng, width, classes):
    net = SlimGraph("mobilenet_v1", "MobilenetV1", rng)
    x = net.convolution("input", "Conv2d_0", int(32 * width), 3, 2, "Relu6")
    for i, (stride, channels) in enumerate(V1, 1):
        x = net.convolution(x, f"Conv2d_{i}_depthwise", None, 3, stride, "Relu6")
        x = net.convolution(x, f"Conv2d_{i}_pointwise", int(channels * width), activation="Relu6")
    return net.logits(net.mean(x, "MobilenetV1/Logits/pool"), classes)


def slim_v2(rng, classes):
    net = SlimGraph("mobilenet_v2", "MobilenetV2", rng)
    x, i = net.convolution("input", "Conv", 32, 3, 2, "Relu6"), 0
    for ratio, channels, repetitions, first in V2:
        for stride in [first] + [1] * (repetitions - 1):
            start, block = x, f"expanded_conv_{i}" if i else "expanded_conv"
            if ratio > 1:
                expanded = net.channels[x] * ratio
                x = net.convolution(x, f"{block}/expand", expanded, activation="Relu6")
            x = net.convolution(x, f"{block}/depthwise", None, 3, stride, "Relu6")
            x = net.convolution(x, f"{block}/project", channels)
            if stride == 1 and net.channels[start] == channels:
                x = net.node(f"MobilenetV2/{block}/add", "AddV2", x, start)
                net.channels[x] = channels
            i += 1
    x = net.convolution(x, "Conv_1", 1280, activation="Relu6")
    return net.logits(net.mean(x, "MobilenetV2/Logits/pool"), classes)


def slim_v3_small(rng, classes, gate_slope=1 / 6):
    """TF-slim's own slope of the gates is 0.16667, that of h-swish 1/6."""
    net = SlimGraph("mobilenet_v3", "MobilenetV3", rng, gate_slope)
    x = net.convolution("input", "Conv", 16, 3, 2, "HardSwish")
    for i, (kernel, expanded, channels, squeeze, swish, stride) in enumerate(V3_SMALL):
        start, block = x, f"expanded_conv_{i}" if i else "expanded_conv"
        activation = "HardSwish" if swish else "Relu"
        if expanded > net.channels[x]:
            x = net.convolution(x, f"{block}/expand", expanded, activation=activation)
        x = net.convolution(x, f"{block}/depthwise", None, kernel, stride, activation)
        if squeeze:
            reduced = max(8, int(expanded / 4 + 4) // 8 * 8)
            at, gated = f"{block}/squeeze_excite", net.mean(x, f"MobilenetV3/{block}/pool")
            gated = net.convolution(gated, f"{at}/Conv", reduced, activation="Relu", biased=True)
            gated = net.convolution(
                gated, f"{at}/Conv_1", expanded, activation="HardSigmoid", biased=True
            )
            x = net.node(f"MobilenetV3/{at}/mul", "Mul", x, gated)
            net.channels[x] = expanded
        x = net.convolution(x, f"{block}/project", channels)
        if stride == 1 and net.channels[start] == channels:
            x = net.node(f"MobilenetV3/{block}/add", "AddV2", x, start)
            net.channels[x] = channels
    x = net.convolution(x, "Conv_1", 576, activation="HardSwish")
    x = net.mean(x, "MobilenetV3/pool")
    x = net.convolution(x, "Conv_2", 1024, activation="HardSwish", biased=True)
    return net.logits(x, classes)


def value_of(tensor):
    """The array of a constant."""
    shape = tuple(dim.size for dim in tensor.tensor_shape.dim)
    floating = tensor.dtype == DataType.Value("DT_FLOAT")
    if tensor.tensor_content:
        return np.frombuffer(tensor.tensor_content, "<f4" if floating else "<i4").reshape(shape)
    return np.array(list(tensor.float_val if floating else tensor.int_val)).reshape(shape)


def windows(x, kernel, strides, padding):
    """For each element of a window: its place in the window, and what it sees at every output."""
    sides, places = [], []
    pads = [(0, 0)]
    for side, size, stride in zip(x.shape[1:3], kernel, strides, strict=True):
        out = math.ceil(side / stride if padding == b"SAME" else (side - size + 1) / stride)
        missing = max((out - 1) * stride + size - side, 0) if padding == b"SAME" else 0
        pads.append((missing // 2, missing - missing // 2))
        sides.append((out - 1) * stride + 1)
        places.append(range(size))
    x = np.pad(x, [*pads, (0, 0)])
    for i in places[0]:
        for j in places[1]:
            yield (i, j), x[:, i : i + sides[0] : strides[0], j : j + sides[1] : strides[1]]


def compute(graph, output, images):
    """The value of a node in float64, by the operations, constants and attributes of the graph."""
    nodes, values = {node.name: node for node in graph.node}, {}

    def value(name):
        if name not in values:
            values[name] = operation(nodes[name])
        return values[name]

    def operation(node):
        attr = node.attr
        if node.op == "Const":
            array = value_of(attr["value"].tensor)
            return array.astype(np.float64) if array.dtype.kind == "f" else array
        if node.op == "Placeholder":
            return np.asarray(images, np.float64)
        inputs = [value(name) for name in node.input]
        strides, padding = attr["strides"].list.i[1:3], attr["padding"].s
        match node.op, *inputs:
            case "Identity", x:
                return x
            case "Conv2D", x, w:
                taps = windows(x, w.shape[:2], strides, padding)
                return sum(seen @ w[place] for place, seen in taps)
            case "DepthwiseConv2dNative", x, w:
                taps = windows(x, w.shape[:2], strides, padding)
                return sum(seen * w[place][:, 0] for place, seen in taps)
            case "AvgPool", x:
                seen = [seen for _, seen in windows(x, attr["ksize"].list.i[1:3], strides, padding)]
                return np.mean(seen, axis=0)
            case "Mean", x, axes:
                return x.mean(tuple(axes), keepdims=attr["keep_dims"].b)
            case (("Add" | "AddV2" | "BiasAdd"), x, y):
                return x + y
            case "Sub", x, y:
                return x - y
            case "Mul", x, y:
                return x * y
            case "Rsqrt", x:
                return 1 / np.sqrt(x)
            case "Relu", x:
                return np.maximum(x, 0)
            case "Relu6", x:
                return np.clip(x, 0, 6)
            case "Squeeze", x:
                return x.squeeze(tuple(attr["squeeze_dims"].list.i))
        raise NotImplementedError(node.op)

    return value(output)
