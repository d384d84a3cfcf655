"""The formats of exported files. Nothing here imports JAX or a format's packages."""

import importlib.util
from dataclasses import dataclass
from typing import Literal

from mnet_jax.validation import require

CARD_NAME = "model.json"  # the file that describes the others
Format = Literal["stablehlo", "litert", "litert-int8", "onnx", "onnx-int8"]


class ExportError(ValueError):
    """A network cannot be written in a format, or its file computes something else.

    The message is one line.
    """


@dataclass(frozen=True, kw_only=True)
class FormatNotes:
    """Properties of a format.

    Attributes:
      suffix: of the file's name.
      runtime: the program that runs the file.
      packages: the packages that write and run the file, beside this project's requirements.
      extra: the extra of this project that installs them; "" if there are none.
    """

    suffix: str
    runtime: str
    packages: tuple[str, ...] = ()
    extra: str = ""

    @property
    def integers(self) -> bool:
        """Whether the file computes in int8."""
        return self.suffix.startswith("_int8")


_LITERT, _ONNX = ("litert_converter", "ai_edge_litert"), ("onnx", "onnxruntime")
FORMATS: dict[Format, FormatNotes] = {
    "stablehlo": FormatNotes(suffix=".stablehlo", runtime="JAX"),
    "litert": FormatNotes(
        suffix=".tflite", runtime="LiteRT", packages=_LITERT, extra="litert"
    ),
    "litert-int8": FormatNotes(
        suffix="_int8.tflite", runtime="LiteRT", packages=_LITERT, extra="litert"
    ),
    "onnx": FormatNotes(
        suffix=".onnx", runtime="ONNX Runtime", packages=_ONNX, extra="onnx"
    ),
    "onnx-int8": FormatNotes(
        suffix="_int8.onnx", runtime="ONNX Runtime", packages=_ONNX, extra="onnx"
    ),
}  # fmt: skip


def require_packages(name: Format) -> None:
    """Checks that the packages of a format are installed.

    Raises:
      ValueError: a package is missing; the message names the extra that installs it.
    """
    notes = FORMATS[name]
    missing = [each for each in notes.packages if importlib.util.find_spec(each) is None]
    legal = f"formats whose packages are installed: pip install 'mnet_jax[{notes.extra}]'"
    require(not missing, "format", f"{name} without {' and '.join(missing)}", legal)
