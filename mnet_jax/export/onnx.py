"""ONNX files: one Conv for each convolution, with groups for a depthwise one.

The file is written from the spec with ONNX's own helpers, not traced from JAX: jax2onnx (0.17.1)
turns 1x1 convolutions into matrix products with reshapes and transposes, and has no form for the
rounding of `quantization`.

In integers, each kernel is an int8 constant that a DequantizeLinear converts. Each bias is an int32
constant that is converted in the same way. Each activation passes through a QuantizeLinear and a
DequantizeLinear (QDQ). A runtime computes such a part in integers.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from mnet_jax.architectures import Layer
from mnet_jax.architectures.flow import compute
from mnet_jax.export.network import IMAGE, Network, integers_of
from mnet_jax.quantization.integer_arithmetic import quantize_bias, quantize_weights

OPSET = 17  # HardSwish needs 14; runtimes read 17 since 2022
IR_VERSION = 8  # ONNX 1.12, which brought opset 17
BATCH = "batch"  # name of the symbolic size


def to_onnx(network: Network, metadata: Mapping[str, str]) -> bytes:
    """Returns an ONNX file; the batch size is left open.

    Args:
      network: what to write.
      metadata: texts for the file's metadata, by name.
    """
    writer = _Writer(network)
    x = writer.scaled(IMAGE)
    compute(network.spec, network.resolution, x, writer)
    side, outputs = network.resolution, network.spec.outputs
    kind = TensorProto.UINT8 if network.takes_pixels else TensorProto.FLOAT
    graph = helper.make_graph(
        writer.nodes(network.output),
        network.spec.name,
        [helper.make_tensor_value_info(IMAGE, kind, [BATCH, side, side, 3])],
        [helper.make_tensor_value_info(network.output, TensorProto.FLOAT, [BATCH, outputs])],
        writer.constants,
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="mnet_jax",
    )
    helper.set_model_props(model, dict(metadata))
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


class _Writer:
    """Operations that write the nodes of a graph; a tensor is its name.

    Attributes:
      constants: the constants of the nodes.
    """

    def __init__(self, network: Network) -> None:
        self.constants: list[TensorProto] = []
        self._network = network
        self._nodes: list[Any] = []

    def nodes(self, output: str) -> list[Any]:
        """Renames the output of the last node, and returns all nodes."""
        self._nodes[-1].output[0] = output
        return self._nodes

    def scaled(self, image: str) -> str:
        """Scales pixels, if the file takes pixels, and puts channels before rows and columns."""
        network, x = self._network, image
        if network.takes_pixels:
            factor, offset = (
                self._constant(f"pixel_{name}", value)
                for name, value in zip(("factor", "offset"), network.scaling, strict=True)
            )
            x = self._node("Cast", [x], "float_image", to=TensorProto.FLOAT)
            x = self._node("Mul", [x, factor], "factored_image")
            x = self._node("Add", [x, offset], "scaled_image")
        x = self._node("Transpose", [x], "channels_first_image", perm=[0, 3, 1, 2])
        return self._rounded("input_quantizer", x)

    def layer(self, layer: Layer, x: str) -> str:
        output = f"{layer.name}/output"
        if not layer.has_kernel:
            return self._normalized(layer, x, output)
        weights = self._weights(layer, x)
        if layer.kind == "dense":
            y = self._node("Gemm", [x, *weights], f"{layer.name}/linear", transB=1)
        else:
            (top, bottom), (left, right) = layer.pads
            y = self._node(
                "Conv", [x, *weights], f"{layer.name}/linear",
                kernel_shape=[layer.kernel] * 2, strides=[layer.stride] * 2,
                pads=[top, left, bottom, right], dilations=[layer.dilation] * 2,
                group=layer.inputs if layer.kind == "depthwise" else 1,
            )  # fmt: skip
        if layer.activation == "hard_swish":
            y = self._rounded(f"{layer.name}/preactivation_quantizer", y)
        y = self._activated(layer.activation, y, output)
        return self._rounded(f"{layer.name}/output_quantizer", y)

    def _normalized(self, layer: Layer, x: str, output: str) -> str:
        """Multiplies channels by a scale, and adds a bias."""
        network = self._network
        scale, bias = network.scale(layer), network.bias(layer)
        assert bias is not None
        factor = self._constant(f"{layer.name}/scale", scale[:, None, None])
        offset = self._constant(f"{layer.name}/bias", bias[:, None, None])
        scaled = self._node("Mul", [x, factor], f"{layer.name}/scaled")
        return self._node("Add", [scaled, offset], output)

    def attend(self, layer: Layer, query: str, key: str, value: str) -> str:
        name, heads = layer.name, layer.heads
        assert heads
        size = layer.inputs // heads.queries
        factor = self._constant(f"{name}/factor", np.float32(size**-0.5))
        query = self._node("Mul", [query, factor], f"{name}/scaled_queries")
        query = self._split(f"{name}/queries", query, heads.queries, size)  # [b, heads, d, n]
        key, value = (
            self._split(f"{name}/{of}", x, heads.keys, size)
            for of, x in (("keys", key), ("values", value))
        )
        query, value = (
            self._node("Transpose", [x], f"{x}/transposed", perm=[0, 1, 3, 2])
            for x in (query, value)
        )
        scores = self._node("MatMul", [query, key], f"{name}/scores")
        weights = self._node("Softmax", [scores], f"{name}/weights", axis=-1)
        y = self._node("MatMul", [weights, value], f"{name}/products")
        y = self._node("Transpose", [y], f"{name}/products/transposed", perm=[0, 1, 3, 2])
        shape = np.array([0, layer.outputs, *layer.output_size], np.int64)  # 0: as it was
        return self._node("Reshape", [y, self._constant(f"{name}/shape", shape)], f"{name}/output")

    def _split(self, name: str, x: str, heads: int, size: int) -> str:
        """Reshapes [b, heads * d, h, w] to [b, heads, d, h * w]."""
        shape = self._constant(f"{name}/shape", np.array([0, heads, size, -1], np.int64))
        return self._node("Reshape", [x, shape], name)

    def mean(self, path: str, x: str) -> str:
        name = path.removesuffix("_quantizer")
        pooled = self._node("GlobalAveragePool", [x], f"{name}/map")
        return self._rounded(path, self._node("Flatten", [pooled], name))

    def add(self, path: str, left: str, right: str) -> str:
        name = path.removesuffix("_quantizer")
        return self._rounded(path, self._node("Add", [left, right], name))

    def scale(self, path: str, x: str, gate: str) -> str:
        name = path.removesuffix("_quantizer")
        axes = self._constant("spatial_axes", np.array([2, 3], np.int64))
        gate = self._node("Unsqueeze", [gate, axes], f"{name}/gate")
        return self._rounded(path, self._node("Mul", [x, gate], name))

    def _activated(self, activation: str, x: str, name: str) -> str:
        if activation == "linear":
            return x
        if activation == "relu6":
            bounds = [self._constant(f"relu6_{n}", np.float32(n)) for n in (0, 6)]
            return self._node("Clip", [x, *bounds], name)
        if activation == "hard_sigmoid":
            return self._node("HardSigmoid", [x], name, alpha=1 / 6, beta=0.5)
        if activation == "gelu":
            return self._gelu(x, name)
        operators = {"relu": "Relu", "hard_swish": "HardSwish"}
        return self._node(operators[activation], [x], name)

    def _gelu(self, x: str, name: str) -> str:
        """Computes x (1 + erf(x / sqrt(2))) / 2; the operator Gelu is of opset 20."""
        root, one, half = (
            self._constant(f"gelu_{n:g}", np.float32(n)) for n in (0.5**0.5, 1.0, 0.5)
        )
        y = self._node("Erf", [self._node("Mul", [x, root], f"{name}/argument")], f"{name}/erf")
        y = self._node("Add", [y, one], f"{name}/shifted")
        half_x = self._node("Mul", [x, half], f"{name}/half")
        return self._node("Mul", [half_x, y], name)

    def _weights(self, layer: Layer, x: str) -> tuple[str, ...]:
        """Returns the names of a layer's kernel and, if it has one, bias."""
        network, name = self._network, layer.name
        bias = network.bias(layer)
        if bias is None:
            return (self._constant(f"{name}/kernel", _outputs_first(layer, network.kernel(layer))),)
        if network.integers is None:
            kernel = _outputs_first(layer, network.kernel(layer))
            return self._constant(f"{name}/kernel", kernel), self._constant(f"{name}/bias", bias)
        step = network.integers.kernel_steps[name]
        whole = _outputs_first(layer, quantize_weights(network.kernel(layer), step))
        x_step, _ = network.integers.affines[x.removesuffix("/rounded")]
        bias_step = (x_step * step).astype(np.float32)
        whole_bias = quantize_bias(bias, step, x_step)
        return (
            self._dequantized(f"{name}/kernel", whole, step),
            self._dequantized(f"{name}/bias", whole_bias, bias_step),
        )

    def _dequantized(self, name: str, whole: np.ndarray, step: np.ndarray) -> str:
        inputs = [
            self._constant(f"{name}/integers", whole),
            self._constant(f"{name}/step", step),
            self._constant(f"{name}/zero", np.zeros(step.shape, whole.dtype)),
        ]
        axis = {"axis": 0} if step.ndim else {}
        return self._node("DequantizeLinear", inputs, name, **axis)

    def _rounded(self, path: str, x: str) -> str:
        integers = self._network.integers
        if integers is None:
            return x
        step, zero = integers.affines[path]
        parameters = [
            self._constant(f"{path}/step", np.float32(step)),
            self._constant(f"{path}/zero", np.int8(zero)),
        ]
        whole = self._node("QuantizeLinear", [x, *parameters], integers_of(path))
        return self._node("DequantizeLinear", [whole, *parameters], f"{path}/rounded")

    def _constant(self, name: str, value: np.ndarray | np.generic) -> str:
        if name not in {constant.name for constant in self.constants}:
            self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def _node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        node = helper.make_node(kind, inputs, [output], name=output, **attributes)
        self._nodes.append(node)
        return output


def _outputs_first(layer: Layer, kernel: np.ndarray) -> np.ndarray:
    """Returns a kernel in ONNX's layout: outputs, inputs of a group, rows, columns."""
    if layer.kind == "dense":
        return np.ascontiguousarray(kernel.T)
    if layer.kind == "pointwise":
        kernel = kernel[None, None]
    if layer.kind == "depthwise":
        kernel = kernel[:, :, None]
    return np.ascontiguousarray(kernel.transpose(3, 2, 0, 1))
