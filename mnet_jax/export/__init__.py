"""Trained networks as files for other programs: StableHLO, LiteRT and ONNX.

    network = export.Network.of(models.load("v2.safetensors"))
    file = export.to_file("onnx", network)
    checked = export.check("onnx", file, network, [pixels])

`check` runs the file in its own runtime, and raises `ExportError` if it computes something else. A
file holds the folded network, its weights and the scaling of its images: it takes pixels, uint8
[b, h, w, 3], and gives logits. For int8, the network is quantized first (`quantization`):

    file = export.to_file("litert-int8", export.in_eight_bits(network, [training_pixels]))

- `types`: the formats, and the packages that they need;
- `network`: what is written: a folded network with its preprocessing, in floating point or 8 bits;
- `writing`: writes a network in a format;
- `stablehlo`: writes StableHLO;
- `litert`: writes LiteRT, by LiteRT's converter;
- `forward`: the network as a JAX program for that converter;
- `onnx`: writes ONNX, from the network's spec;
- `runtimes`: the programs that run the files;
- `messages`: what native libraries print, kept unless something fails;
- `checks`: the logits of a file beside the network's, and the first layer that differs;
- `timing`: the time of a file beside that of the network in JAX;
- `card`: a JSON file that says what the files are, and how to run them.

Each name is imported when it is first used, so the command line can import `export.types` without
JAX.
"""

from etils import epy

from mnet_jax.export.types import FORMATS, ExportError, Format, require_packages

with epy.lazy_api_imports(globals()):
    from mnet_jax.export.card import describe_file, model_card, program
    from mnet_jax.export.checks import (
        Checked,
        Comparison,
        check,
        compare,
        first_wrong_layer,
    )
    from mnet_jax.export.network import Network, in_eight_bits
    from mnet_jax.export.runtimes import Runtime, load
    from mnet_jax.export.writing import to_file

__all__ = [
    "FORMATS",
    "Checked",
    "Comparison",
    "ExportError",
    "Format",
    "Network",
    "Runtime",
    "check",
    "compare",
    "describe_file",
    "first_wrong_layer",
    "in_eight_bits",
    "load",
    "model_card",
    "program",
    "require_packages",
    "to_file",
]
