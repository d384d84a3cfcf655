"""Writes a network in a format."""

from mnet_jax.export import card
from mnet_jax.export.messages import kept_messages
from mnet_jax.export.network import Network
from mnet_jax.export.types import FORMATS, ExportError, Format, require_packages
from mnet_jax.validation import one_line, require


def to_file(name: Format, network: Network) -> bytes:
    """Returns the file of a network.

        saved = models.load("v2.safetensors")
        file = export.to_file("onnx", export.Network.of(saved))

    Args:
      name: the format.
      network: the network; in 8 bits for `litert-int8` and `onnx-int8`, in floating point for
        `litert` and `onnx`. `stablehlo` takes both, and computes a network in 8 bits in float32.

    Raises:
      ValueError: the network is in floating point for an int8 format, or in 8 bits for a format of
        floating point, or a package of the format is missing.
      ExportError: the format's converter refuses the network.
    """
    require_packages(name)
    notes = FORMATS[name]
    if notes.runtime == "JAX":
        from mnet_jax.export.stablehlo import to_stablehlo

        return to_stablehlo(network)
    legal = "a network in 8 bits" if notes.integers else "a network in floating point"
    given = "one in 8 bits" if network.integers else "one in floating point"
    require((network.integers is not None) == notes.integers, name, given, legal)
    metadata = card.metadata(network)
    if notes.runtime == "LiteRT":
        with kept_messages():
            from mnet_jax.export.litert import to_litert

        try:
            return to_litert(network, metadata)
        except (RuntimeError, ValueError) as error:  # both are raised by the converter
            raise ExportError(f"{name}: the converter refuses: {one_line(str(error))}") from error
    from mnet_jax.export.onnx import to_onnx

    return to_onnx(network, metadata)
