"""The model card: a JSON file that says what exported files are and how to run them."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from mnet_jax.analysis import cost
from mnet_jax.export.network import IMAGE, Network
from mnet_jax.export.types import FORMATS, Format

_JAX = """\
import jax
import numpy as np

with open("{file}", "rb") as opened:
    program = jax.export.deserialize(bytearray(opened.read()))
images = np.zeros((1, {side}, {side}, 3), np.{dtype})  # {values}
{output} = np.asarray(program.call(images))
print({result})
"""
_LITERT = """\
import numpy as np
from ai_edge_litert.interpreter import Interpreter

interpreter = Interpreter("{file}")
interpreter.allocate_tensors()
image = np.zeros((1, {side}, {side}, 3), np.{dtype})  # {values}
interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image)
interpreter.invoke()
{output} = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
print({result})
"""
_ONNX = """\
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("{file}")
images = np.zeros((1, {side}, {side}, 3), np.{dtype})  # {values}
({output},) = session.run(["{output}"], {{"{input}": images}})
print({result})
"""
_BEST, _SHAPE = "np.argsort(-logits[0])[:5]", "features.shape"  # the result that a program prints
_PROGRAMS = {"JAX": _JAX, "LiteRT": _LITERT, "ONNX Runtime": _ONNX}


def program(name: Format, file: str, network: Network) -> str:
    """Returns a Python program that runs a file, for its reader to copy."""
    return _PROGRAMS[FORMATS[name].runtime].format(
        file=file,
        side=network.resolution,
        dtype="uint8" if network.takes_pixels else "float32",
        values=input_of(network),
        input=IMAGE,
        output=network.output,
        result=_BEST if network.spec.head.num_classes else _SHAPE,
    )


def input_of(network: Network) -> str:
    """Says what numbers a file takes."""
    if network.takes_pixels:
        return "RGB, 0 to 255"
    factor, offset = (", ".join(f"{each:.6g}" for each in values) for values in network.scaling)
    return f"RGB, 0 to 255, times [{factor}], plus [{offset}]"


def metadata(network: Network) -> dict[str, str]:
    """Returns the metadata of a file, texts by name; StableHLO stores none.

    `crop_share` is the side of the central square that is cut out of an image, divided by the
    image's shorter side. `resolution` is the side to which the square is resized, with the filter
    `interpolation`.
    """
    view = network.view
    return {
        "architecture": network.spec.name,
        "class_names": json.dumps(network.class_names),
        "input": input_of(network),
        "resolution": f"{view.resolution}",
        "crop_share": f"{view.central_share:g}",
        "interpolation": view.interpolation,
    }


def describe_file(content: bytes, run: str, measured: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the entry of a file in the card.

    Args:
      content: the file.
      run: source of the program that runs it (`program`).
      measured: numbers that were measured of it.
    """
    digest = hashlib.sha256(content).hexdigest()
    return {"bytes": len(content), "sha256": digest, **measured, "run": run.splitlines()}


def model_card(
    network: Network,
    *,
    files: Mapping[str, Any],
    training: Any | None,
    digest: str,
    licence: str | None,
) -> dict[str, Any]:
    """Returns the card: what was exported, its source and the measurements, as JSON's types.

    Args:
      network: the network in floating point, or the quantized one if it was trained so.
      files: entry of each file (`describe_file`), by its name.
      training: config of the run that trained the network; None if unknown.
      digest: SHA-256 of the saved model.
      licence: licence of the weights; None if not given.
    """
    expense = cost.count(network.spec, network.resolution)
    return {
        **metadata(network),
        "class_names": list(network.class_names),
        "resolution": network.resolution,
        "crop_share": network.view.central_share,
        "parameters": expense.params,
        "multiply_adds": expense.madds,
        "licence": licence,
        "saved_model": digest,
        "training": training,
        "files": dict(files),
    }
