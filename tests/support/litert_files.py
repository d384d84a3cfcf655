"""LiteRT files of fake-quantized JAX functions, and LiteRT's interpreter as an oracle.

`convert` turns each `fake_quantized` array into an int8 tensor with the given step and zero, so
that a file has exactly the tensors that a test has chosen.
"""

from typing import NamedTuple

import jax
import numpy as np
import pytest


def _imported(module):
    package = module.partition(".")[0]
    reason = f"{package}, of the extra [litert], is the oracle"
    return pytest.importorskip(module, reason=reason)


schema = _imported("ai_edge_litert.schema_py_generated")
interpreters = _imported("ai_edge_litert.interpreter")
_imported("litert_converter.mlir.ir")
litert = _imported("mnet_jax.export.litert")

REFERENCE = interpreters.OpResolverType.BUILTIN_REF
OPTIMIZED = interpreters.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
DELEGATED = interpreters.OpResolverType.BUILTIN  # XNNPACK


def fake_quantized(x, step, zero=0, axis=None, narrow=False):
    """Marks an array as int8; a step for each index of `axis`, or one for all."""
    attributes = {
        "scale": np.atleast_1d(np.asarray(step, np.float32)),
        "zero_point": np.broadcast_to(np.int64(zero), np.atleast_1d(step).shape).copy(),
        "dtype": "i8",
        "narrow_range": narrow,
    }
    if axis is not None:
        attributes["quantization_dimension"] = np.int32(axis)
    mark = jax.lax.composite(lambda x, **_: x, "quant.fake_quant")
    return mark(x, **attributes)


def convert(function, *shapes):
    """The LiteRT file of a function of float arrays with fake-quantized arrays inside."""
    arguments = [jax.ShapeDtypeStruct(shape, np.float32) for shape in shapes]
    artifact = jax.export.export(jax.jit(function))(*arguments).mlir_module_serialized
    names = [f"input_{i}" for i in range(len(shapes))]
    return litert.convert(artifact, names, "output", integers=True)


class Tensor(NamedTuple):
    """A tensor of a file: its value after the run, and its steps and zeros."""

    value: np.ndarray
    steps: np.ndarray
    zeros: np.ndarray

    @property
    def affine(self):
        return self.steps[0], self.zeros[0]


class Operation(NamedTuple):
    """An operation of a file as it was run."""

    kind: str
    inputs: list
    output: Tensor
    options: object  # of the schema, such as `Conv2DOptionsT`


def _invoked(model, inputs, resolver, keep):
    interpreter = interpreters.Interpreter(
        model_content=model,
        experimental_op_resolver_type=resolver,
        experimental_preserve_all_tensors=keep,
        num_threads=1,
    )
    interpreter.allocate_tensors()
    for detail, value in zip(interpreter.get_input_details(), inputs, strict=True):
        interpreter.set_tensor(detail["index"], value)
    interpreter.invoke()
    return interpreter


def logits(model, *inputs, resolver):
    """The output of a file."""
    interpreter = _invoked(model, inputs, resolver, keep=False)
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


def run(model, *inputs, resolver=REFERENCE):
    """The operations of a file, in order, with the values that the interpreter computed.

    A delegate computes the tensors within it elsewhere, so that only its output is known.
    """
    interpreter = _invoked(model, inputs, resolver, keep=True)
    tensors = {}
    for detail in interpreter.get_tensor_details():
        parameters = detail["quantization_parameters"]
        tensors[detail["index"]] = Tensor(
            interpreter.get_tensor(detail["index"]),
            parameters["scales"],
            parameters["zero_points"],
        )
    operations = schema.ModelT.InitFromObj(schema.Model.GetRootAs(model)).subgraphs[0].operators
    details = interpreter._get_ops_details()
    return [
        Operation(
            detail["op_name"],
            [tensors[i] for i in operation.inputs if i >= 0],
            tensors[operation.outputs[0]],
            operation.builtinOptions,
        )
        for detail, operation in zip(details, operations, strict=True)
    ]
