"""Exported files in their own runtimes.

A runtime is made from a file's bytes. `run` returns the logits of images, and `outputs_of_layers`
the output of each layer, from which `checks` finds the first layer that differs.
"""

import os
from collections.abc import Iterator
from typing import Any, Protocol

import jax
import numpy as np

from mnet_jax.export.messages import kept_messages
from mnet_jax.export.network import IMAGE, LOGITS
from mnet_jax.export.types import FORMATS, Format

Array = np.ndarray


class Runtime(Protocol):
    """A loaded file, ready to run."""

    def run(self, images: Array) -> Array:
        """Returns the logits [b, classes] of images [b, h, w, 3] as the file takes them."""
        ...

    def outputs_of_layers(self, image: Array) -> Iterator[Array]:
        """Yields the outputs of the layers for an image [1, h, w, 3], in network order.

        An output is that of the operation that computes the layer, with what the runtime has fused
        into it. Yields nothing if the file does not say which operations are layers.
        """
        ...


def load(name: Format, file: bytes) -> Runtime:
    """Loads a file into the runtime of its format."""
    kinds: dict[str, type] = {"JAX": _Jax, "LiteRT": _LiteRT, "ONNX Runtime": _OnnxRuntime}
    return kinds[FORMATS[name].runtime](file)


class _Jax:
    def __init__(self, file: bytes) -> None:
        self._call = jax.jit(jax.export.deserialize(bytearray(file)).call)

    def run(self, images: Array) -> Array:
        return np.asarray(self._call(images))

    def outputs_of_layers(self, image: Array) -> Iterator[Array]:
        return iter(())


class _LiteRT:
    _LAYERS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")

    def __init__(self, file: bytes) -> None:
        self._file = file
        self._interpreter = self._loaded(keep=False)

    def _loaded(self, *, keep: bool) -> Any:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        resolver = OpResolverType.AUTO
        if keep:  # delegates compute tensors elsewhere
            resolver = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        with kept_messages():
            interpreter = Interpreter(
                model_content=self._file,
                experimental_op_resolver_type=resolver,
                experimental_preserve_all_tensors=keep,
                num_threads=os.cpu_count(),
            )
            interpreter.allocate_tensors()
        return interpreter

    def run(self, images: Array) -> Array:
        return np.concatenate([self._one(self._interpreter, image[None]) for image in images])

    @staticmethod
    def _one(interpreter: Any, image: Array) -> Array:
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image)
        interpreter.invoke()
        return np.array(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]))

    def outputs_of_layers(self, image: Array) -> Iterator[Array]:
        interpreter = self._loaded(keep=True)
        self._one(interpreter, image)
        details = {detail["index"]: detail for detail in interpreter.get_tensor_details()}
        for operation in interpreter._get_ops_details():
            if operation["op_name"] in self._LAYERS:
                index = operation["outputs"][0]
                yield _real(interpreter.get_tensor(index), details[index]["quantization"])


def _real(values: Array, affine: tuple[float, int]) -> Array:
    """Returns the numbers for which the values of a tensor stand."""
    step, zero = affine
    return (values.astype(np.float32) - zero) * np.float32(step) if step else values


class _OnnxRuntime:
    def __init__(self, file: bytes) -> None:
        self._file = file
        self._session = self._loaded(file)

    @staticmethod
    def _loaded(file: bytes) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        return onnxruntime.InferenceSession(file, options, ["CPUExecutionProvider"])

    def run(self, images: Array) -> Array:
        return np.asarray(self._session.run([LOGITS], {IMAGE: images})[0])

    def outputs_of_layers(self, image: Array) -> Iterator[Array]:
        import onnx

        model = onnx.load_from_string(self._file)
        names = [node.output[0] for node in model.graph.node if node.op_type in ("Conv", "Gemm")]
        known = {output.name for output in model.graph.output}
        added = [onnx.ValueInfoProto(name=name) for name in names if name not in known]
        model.graph.output.extend(added)
        for y in self._loaded(model.SerializeToString()).run(names, {IMAGE: image}):
            yield y.transpose(0, 2, 3, 1) if y.ndim == 4 else y
