"""Converts another library's weights to a saved model, which can be evaluated or fine-tuned.

python -m experiments.convert --library torchvision --weights mobilenet_v2.pth --to mine.safetensors
python -m experiments.convert --timm-name mobilenetv2_110d.ra_in1k --weights v2.pth --scaling \
    imagenet
python -m experiments.train --pretrained mine.safetensors --dataset folder --data-dir photos
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from mnet_jax import architectures
from mnet_jax.architectures import NetworkSpec
from mnet_jax.commands import terminal
from mnet_jax.commands.arguments import parse, refusals, single_values, with_axes
from mnet_jax.commands.planning import takes_files
from mnet_jax.config import RunConfig
from mnet_jax.data.types import CROP_SHARE, Interpolation, Scaling, View
from mnet_jax.options.axes import ARCHITECTURE_AXES, with_values
from mnet_jax.validation import require
from mnet_jax.weights.timm_names import parse_timm_name, timm_spec

COMMAND = "convert"
NUM_CLASSES, RESOLUTION = 1000, 224  # of ImageNet's classes, and of most of its networks
# The pixel scaling with which each library's weights were trained. timm has both scalings: that of
# a model is symmetric if the mean in its `default_cfg` is 0.5.
SCALINGS: dict[str, Scaling] = {
    "torchvision": "imagenet",
    "keras": "symmetric",
    "slim": "symmetric",
}


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Converts another library's weights to a saved model, which also stores the network's spec.

    Needs --weights, and --library or --timm-name. The flags from --model on describe the network,
    and take one value each. If none is given, the network is the library's variant of mobilenet_v2.
    With --timm-name, the network is the one that timm has under this name.
    """

    library: Literal["torchvision", "timm", "keras", "slim"] | None = None
    """the library that the weights are from"""
    timm_name: str | None = None
    """a name of timm's, such as mobilenetv2_110d.ra_in1k, which says the network and its classes"""
    weights: Path | None = None
    """the file of the weights: .pth, .pt, .pth.tar, .safetensors, .npz, .keras, .h5 or .pb"""
    to: Path = Path("model.safetensors")
    """the file to write"""
    num_classes: int | None = None
    """number of classes, if not 1000 or what the timm name says; slim's networks for ImageNet have
    1001, with the background"""
    class_names: Path | None = None
    """a text file with one class name per line, in the order of the logits"""
    resolution: int | None = None
    """side in pixels of the images that the weights were trained on, if not 224 or what the timm
    name says"""
    scaling: Scaling | None = None
    """pixel scaling, for timm required: symmetric if `default_cfg` has mean 0.5, else imagenet"""
    crop_share: float = CROP_SHARE
    """share of an image's shorter side that evaluation sees; timm's `crop_pct`"""
    interpolation: Interpolation = "bilinear"
    """filter with which images are resized"""


def main() -> None:
    """Reads the command line, converts and writes."""
    arguments = parse(with_axes(Arguments, ARCHITECTURE_AXES), COMMAND)
    with refusals(COMMAND, arguments):
        arguments = _resolved(arguments)
        _require_legal(arguments)
        spec, view = _spec(arguments), _view(arguments)
        _convert(arguments, spec, view)
    terminal.console(110).print(
        f"{spec.name} of width {spec.width:g}, as {spec.dialect.name} has it, in {arguments.to}",
        soft_wrap=True,
    )  # fmt: skip


def _resolved(arguments: Arguments) -> Arguments:
    """Returns the arguments with the library, the classes and the resolution filled in.

    Raises:
      ValueError: the timm name is refused, does not say the number of classes, or is given with
        another library or with flags that describe the network.
    """
    name, classes, side = arguments.timm_name, NUM_CLASSES, RESOLUTION
    if name is not None:
        parts = parse_timm_name(name)
        own = arguments.library in (None, "timm")
        require(own, "library", arguments.library, "timm, with --timm-name")
        for axis, value in single_values(arguments, ARCHITECTURE_AXES).items():
            require(False, axis, value, "none with --timm-name, which says the network")
        known = parts.num_classes or arguments.num_classes
        require(known is not None, "num_classes", None, f"a number, which {name} does not say")
        arguments = replace(arguments, library="timm")
        classes, side = parts.num_classes or classes, parts.resolution or side
    return replace(
        arguments,
        num_classes=classes if arguments.num_classes is None else arguments.num_classes,
        resolution=side if arguments.resolution is None else arguments.resolution,
    )


def _require_legal(arguments: Arguments) -> None:
    """Raises ValueError for illegal arguments; does only the checks that do not need JAX."""
    require(arguments.library is not None, "library", None, "torchvision, timm, keras or slim")
    for name in ("weights", "class_names"):
        path = getattr(arguments, name)
        given = path is not None or name == "class_names"
        require(given and (path is None or path.is_file()), name, path and str(path),
                "a file that exists")  # fmt: skip
    to = arguments.to
    require(to.suffix == ".safetensors", "to", str(to), "a name that ends in .safetensors")
    folder = to.absolute().parent
    usable = folder.is_dir() and takes_files(folder)
    require(usable, "to", str(to), "a file in a folder that exists and can be written")


def _spec(arguments: Arguments) -> NetworkSpec:
    assert arguments.num_classes is not None
    if arguments.timm_name is not None:
        return timm_spec(arguments.timm_name, arguments.num_classes)
    values = single_values(arguments, ARCHITECTURE_AXES)
    start = architectures.mobilenet_v2(num_classes=arguments.num_classes)
    return with_values(RunConfig(spec=start), {"dialect": arguments.library, **values}).spec


def _view(arguments: Arguments) -> View:
    scaling = arguments.scaling or SCALINGS.get(arguments.library or "")
    if scaling is None:
        raise ValueError(
            "scaling: got None, legal: symmetric or imagenet, by the default_cfg's mean"
        )
    assert arguments.resolution is not None
    return View(
        resolution=arguments.resolution,
        photographs=True,
        scaling=scaling,
        crop_share=arguments.crop_share,
        interpolation=arguments.interpolation,
    )


def _convert(arguments: Arguments, spec: NetworkSpec, view: View) -> None:
    """Converts the weights and writes the model.

    Raises:
      ValueError: the weights do not fit the network, or a file cannot be written.
    """
    from mnet_jax import models, weights  # here: arguments are checked without JAX

    converters = {
        "torchvision": weights.from_torchvision,
        "timm": weights.from_timm,
        "keras": weights.from_keras,
        "slim": weights.from_slim,
    }
    names = _class_names(arguments.class_names) if arguments.class_names else []
    assert arguments.weights is not None and arguments.library is not None
    model = models.MobileNet(spec=spec)
    try:
        state = weights.read(arguments.weights, model)
        size = (view.resolution, view.resolution)
        variables = converters[arguments.library](state, model, image_size=size)
        models.save(arguments.to, model, variables, class_names=names, view=view)
    except weights.WeightsError as error:
        raise ValueError(f"weights: {error}") from error
    except OSError as error:
        raise ValueError(f"to: {arguments.to} cannot be written, {error.strerror}") from error


def _class_names(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"class_names: got {str(path)!r}, legal: a file of text") from error
