"""LiteRT files: each layer is one DEPTHWISE_CONV_2D, CONV_2D or FULLY_CONNECTED.

LiteRT's converter reads a JAX program that was exported to StableHLO; TensorFlow is not needed. In
integers, each tensor is marked by the composite operation `quant.fake_quant`, which the converter
turns into the tensor's step and zero.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from litert_converter.mlir import ir, passmanager
from litert_converter.mlir._mlir_libs import converter_api_ext
from litert_converter.mlir.dialects import stablehlo

from mnet_jax.architectures import Layer
from mnet_jax.export.forward import Marks, forward
from mnet_jax.export.messages import kept_messages
from mnet_jax.export.network import IMAGE, Integers, Network
from mnet_jax.quantization.integer_arithmetic import LARGEST_WEIGHT

Array = jax.Array
SIGNATURE = "serving_default"
METADATA = "mnet_jax"  # name of the entry in the file's metadata


def to_litert(network: Network, metadata: Mapping[str, str]) -> bytes:
    """Returns a LiteRT file, which takes one image.

    Args:
      network: what to write.
      metadata: texts for the file's metadata, by name; kept as JSON.
    """
    integers = network.integers
    marks = _Marks(integers) if integers else None

    def program(image: Array) -> Array:
        return forward(network.spec, network.params, network.scaled(image), marks)

    shape = (1, network.resolution, network.resolution, 3)
    kind = jnp.uint8 if network.takes_pixels else jnp.float32
    exported = jax.export.export(jax.jit(program))(jax.ShapeDtypeStruct(shape, kind))
    file = convert(
        exported.mlir_module_serialized, [IMAGE], network.output, integers=bool(integers)
    )
    return _with_metadata(file, metadata)


def convert(artifact: bytes, inputs: Sequence[str], output: str, *, integers: bool) -> bytes:
    """Converts a program to a LiteRT file.

    Args:
      artifact: the program, as `jax.export` serializes it (`mlir_module_serialized`).
      inputs: names of its inputs.
      output: name of its output.
      integers: whether its tensors are marked with `quant.fake_quant`.
    """
    with kept_messages(), ir.Context() as context, ir.Location.unknown():
        converter_api_ext.prepare_mlir_context(context)
        module = stablehlo.deserialize_portable_artifact(context, artifact)
        names = [*inputs], [output]
        converter_api_ext.set_signature(module.operation, SIGNATURE, *names)
        config = converter_api_ext.ConvertToTFLConfig()
        if integers:
            config.model_origin_framework = (
                "PYTORCH"  # for others the marks are not turned into steps
            )
            config.strict_qdq_mode = True
        else:
            config.model_origin_framework = "JAX"
            config.qdq_conversion_mode = "NONE"
        passes = passmanager.PassManager()
        converter_api_ext.run_convert_to_tfl_passes(module, passes, config)
        return converter_api_ext.export_flatbuffer_to_bytes(module.operation)


class _Marks(Marks):
    """Marks each tensor with its step and zero."""

    def __init__(self, integers: Integers) -> None:
        self._integers = integers

    def activation(self, path: str, x: Array) -> Array:
        return _marked(x, *self._integers.affines[path])

    def kernel(self, layer: Layer, kernel: Array) -> Array:
        step = self._integers.kernel_steps[layer.name]
        return _marked(kernel, step, 0, axis=kernel.ndim - 1 if step.ndim else None, narrow=True)

    def sixth(self, path: str, x: Array) -> Array:
        step, zero = self._integers.affines[path]
        sixth = np.float32(1 / 6)
        return _marked(
            _marked(x, 6 * step, zero) * _marked(sixth, sixth / LARGEST_WEIGHT, 0), step, zero
        )


def _marked(x: Any, step: Any, zero: int, *, axis: int | None = None, narrow: bool = False) -> Any:
    """Marks an array as int8; with a step for each index of `axis`, or one for all."""
    steps = np.atleast_1d(np.asarray(step, np.float32))
    attributes: dict[str, Any] = {
        "scale": steps,
        "zero_point": np.full(steps.shape, zero, np.int64),
        "dtype": "i8",
        "narrow_range": narrow,
    }
    if axis is not None:
        attributes["quantization_dimension"] = np.int32(axis)
    return jax.lax.composite(lambda x, **_: x, "quant.fake_quant")(x, **attributes)


def _with_metadata(file: bytes, metadata: Mapping[str, str]) -> bytes:
    """Returns the file with an entry in its metadata."""
    import flatbuffers

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(file))
    buffer, entry = schema.BufferT(), schema.MetadataT()
    buffer.data = np.frombuffer(json.dumps(dict(metadata)).encode(), np.uint8)
    entry.name, entry.buffer = METADATA, len(model.buffers)
    model.buffers.append(buffer)
    model.metadata = [*(model.metadata or []), entry]
    builder = flatbuffers.Builder(len(file) + len(buffer.data))
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())
