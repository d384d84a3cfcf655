"""Draws the depthwise kernels of a trained network, and the feature maps of an image in it.

python -m experiments.features --checkpoint runs/latest
python -m experiments.features --checkpoint runs/latest --image photo.jpg
"""

from dataclasses import dataclass
from pathlib import Path

from mnet_jax.architectures import Layer, walk
from mnet_jax.commands import terminal, trained_models
from mnet_jax.commands.arguments import ModelPath, parse, refusals
from mnet_jax.commands.planning import require_directory
from mnet_jax.config import MAX_IMAGE_PIXELS, DataConfig
from mnet_jax.files import replace_file
from mnet_jax.validation import require

COMMAND = "features"
KERNELS, MAPS = "kernels.png", "maps.png"
MOST_TILES = 64


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Draws the depthwise kernels of a trained network, and the feature maps of an image in it.

    Needs --checkpoint. Without --image, only the kernels are drawn.
    """

    checkpoint: ModelPath | None = None
    """a run's directory, a saved model, or hf://owner/name on the Hugging Face hub"""
    image: Path | None = None
    """an image file, whose feature maps are drawn"""
    resolution: int | None = None
    """side of the image in pixels; if not given, that of the model's training"""
    max_image_pixels: int = MAX_IMAGE_PIXELS
    """largest number of pixels of the image file"""
    kernels: int = 24
    """largest number of kernels to draw per layer; those with the largest norms are chosen"""
    channels: int = 16
    """largest number of maps to draw per layer; those with the largest variance are chosen"""
    every_layer: bool = False
    """also draw the maps of pointwise layers, not only those of stem, depthwise and head layers"""
    results: Path = Path("results/features")
    """directory for the pictures"""


def main() -> None:
    """Reads the command line, draws the pictures and prints their paths."""
    arguments = parse(Arguments, COMMAND)
    console = terminal.console(110)
    with refusals(COMMAND, arguments):
        path = trained_models.require_checkpoint(arguments.checkpoint)
        _require_legal(arguments)
        pictures = _pictures(path, arguments)
    for name, png in pictures.items():
        replace_file(arguments.results / name, png)
        console.print(f"drawn in {arguments.results / name}")


def _require_legal(arguments: Arguments) -> None:
    image = arguments.image
    require(image is None or image.is_file(), "image", str(image), "a file that exists")
    trained_models.require_resolution(arguments.resolution)
    DataConfig(max_image_pixels=arguments.max_image_pixels)  # checks the value
    for name in ("kernels", "channels"):
        count = getattr(arguments, name)
        require(1 <= count <= MOST_TILES, name, count, f"1 to {MOST_TILES}")
    require_directory("results", arguments.results)


def _pictures(path: ModelPath, arguments: Arguments) -> dict[str, bytes]:
    """Returns the content of each PNG file, keyed by the file's name.

    Raises:
      ValueError: the model or the image cannot be loaded, or there is nothing to draw.
    """
    from mnet_jax import data
    from mnet_jax.analysis.features import depthwise_kernels, feature_maps
    from mnet_jax.plots import style
    from mnet_jax.plots.features import draw_kernels, draw_maps
    from mnet_jax.runs import inference  # here: arguments are checked without JAX

    saved, found = trained_models.load(path), {}
    kernels = depthwise_kernels(saved.model, saved.variables)
    if kernels:
        found[KERNELS] = style.to_png(draw_kernels(kernels, arguments.kernels))
    require(
        bool(kernels) or arguments.image is not None, "image", None, "one: no layer is depthwise"
    )
    if arguments.image:
        view = trained_models.view_of(saved, arguments.resolution)
        inference.require_memory(saved.model.spec, view.resolution, 1)
        try:
            seen = data.read_eval_image(arguments.image, view, arguments.max_image_pixels)
        except data.DataError as error:
            raise ValueError(f"image: {error}") from error
        with trained_models.refuse_exhaustion("resolution"):
            maps = feature_maps(saved.model, saved.variables, seen)
        if not arguments.every_layer:
            layers = walk(saved.model.spec, view.resolution)
            drawn = {layer.name for layer in layers if _is_drawn(layer)}
            maps = {name: values for name, values in maps.items() if name in drawn}
        pixels = data.pixels_of(seen, view.scaling)
        found[MAPS] = style.to_png(draw_maps(pixels, maps, arguments.channels))
    return found


def _is_drawn(layer: Layer) -> bool:
    return layer.kind == "depthwise" or layer.part in ("stem", "head")
