"""Exported files in their own runtimes.

A runtime is made from a file's bytes. `run` returns the logits of images. The other methods return
tensors within the network, by which `checks` finds the layer or operation that differs.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from mnet_jax.export.messages import kept_messages
from mnet_jax.export.network import IMAGE, Affine, integers_of
from mnet_jax.export.types import FORMATS, Format

Array = np.ndarray


class Rounded(NamedTuple):
    """An int8 tensor of a network.

    Attributes:
      shape: [1, h, w, c] or [1, c].
      affine: its step and zero.
    """

    shape: tuple[int, ...]
    affine: Affine


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

    def integers(self, image: Array, wanted: Mapping[str, Rounded]) -> dict[str, Array]:
        """Returns the int8 tensors of a file in 8 bits, for an image [1, h, w, 3].

        Args:
          image: as the file takes it.
          wanted: what is known of each tensor, by its path, in the order of computation.

        Returns:
          Tensors of the wanted shapes, by path. One that the file does not have is missing.
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

    def integers(self, image: Array, wanted: Mapping[str, Rounded]) -> dict[str, Array]:
        return {}


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
        return (y for name, y, _ in self._outputs(image) if name in self._LAYERS)

    def integers(self, image: Array, wanted: Mapping[str, Rounded]) -> dict[str, Array]:
        found = {}
        outputs = iter([each for each in self._outputs(image) if each[1].dtype == np.int8])
        for path, tensor in wanted.items():
            same = (y for _, y, affine in outputs if (y.shape, affine) == tensor)
            y = next(same, None)
            if y is None:
                break
            found[path] = y
        return found

    def _outputs(self, image: Array) -> Iterator[tuple[str, Array, Affine]]:
        """Yields the name of each operation, its output, and the output's affine."""
        interpreter = self._loaded(keep=True)
        self._one(interpreter, image)
        details = {detail["index"]: detail for detail in interpreter.get_tensor_details()}
        for operation in interpreter._get_ops_details():
            index = operation["outputs"][0]
            step, zero = details[index]["quantization"]
            yield operation["op_name"], interpreter.get_tensor(index), (np.float32(step), int(zero))


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
        return np.asarray(self._session.run(None, {IMAGE: images})[0])

    def outputs_of_layers(self, image: Array) -> Iterator[Array]:
        model = self._model()
        names = [node.output[0] for node in model.graph.node if node.op_type in ("Conv", "Gemm")]
        return iter(self._tensors(model, names, image))

    def integers(self, image: Array, wanted: Mapping[str, Rounded]) -> dict[str, Array]:
        model = self._model()
        rounded = {node.output[0] for node in model.graph.node if node.op_type == "QuantizeLinear"}
        paths = [path for path in wanted if integers_of(path) in rounded]
        found = self._tensors(model, [integers_of(path) for path in paths], image)
        tensors = dict(zip(paths, found, strict=True))
        return {path: y for path, y in tensors.items() if y.shape == wanted[path].shape}

    def _model(self) -> Any:
        import onnx

        return onnx.load_from_string(self._file)

    def _tensors(self, model: Any, names: Sequence[str], image: Array) -> list[Array]:
        """Returns tensors within a network by their names, with channels last."""
        import onnx

        known = {output.name for output in model.graph.output}
        added = [onnx.ValueInfoProto(name=name) for name in names if name not in known]
        model.graph.output.extend(added)
        found = self._loaded(model.SerializeToString()).run(names, {IMAGE: image})
        return [y.transpose(0, 2, 3, 1) if y.ndim == 4 else y for y in found]
