"""Converts another library's weights to a saved model, which can be evaluated or fine-tuned.

python -m experiments.convert --library torchvision --weights mobilenet_v2.pth --to mine.safetensors
python -m experiments.convert --timm-name mobilenetv2_110d.ra_in1k --weights v2.pth --scaling \
    imagenet
python -m experiments.convert hf://timm/mobilenetv2_100.ra_in1k --to mine.safetensors
python -m experiments.train --pretrained mine.safetensors --dataset folder --data-dir photos
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mnet_jax import architectures
from mnet_jax.architectures import NetworkSpec
from mnet_jax.commands import terminal
from mnet_jax.commands.arguments import ModelPath, parse, refusals, single_values, with_axes
from mnet_jax.commands.planning import takes_files
from mnet_jax.config import RunConfig
from mnet_jax.data.types import CROP_SHARE, Interpolation, Scaling, View
from mnet_jax.options.axes import ARCHITECTURE_AXES, with_values
from mnet_jax.validation import require
from mnet_jax.weights import hub
from mnet_jax.weights.timm_names import parse_timm_name, timm_spec

if TYPE_CHECKING:  # it imports JAX, and arguments are checked without it
    from mnet_jax.models import SavedModel

COMMAND = "convert"
NUM_CLASSES, RESOLUTION = 1000, 224  # of ImageNet's classes, and of most of its networks
# The pixel scaling with which each library's weights were trained. timm has both scalings: that of
# a model is symmetric if the mean in its `default_cfg` is 0.5.
SCALINGS: dict[str, Scaling] = {
    "torchvision": "imagenet",
    "keras": "symmetric",
    "slim": "symmetric",
}
# The arguments that describe the weights in a file. A repository of the hub describes its own.
OF_FILES = (
    "library", "timm_name", "num_classes", "resolution", "scaling", "crop_share", "interpolation",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Converts another library's weights to a saved model, which also stores the network's spec.

    Needs --weights, which may come first without its flag. They are a file, with --library or
    --timm-name, or a repository of the Hugging Face hub, hf://owner/name, which says of what
    network its weights are. The flags from --model on describe the network of a file, and take one
    value each. If none is given, the network is the library's variant of mobilenet_v2. With
    --timm-name, the network is the one that timm has under this name.
    """

    library: Literal["torchvision", "timm", "keras", "slim"] | None = None
    """the library that the weights are from"""
    timm_name: str | None = None
    """a name of timm's, such as mobilenetv2_110d.ra_in1k, which says the network and its classes"""
    weights: ModelPath | None = None
    """the weights: a .pth, .pt, .pth.tar, .safetensors, .npz, .keras, .h5, .pb or .json file, or
    hf://owner/name"""
    to: Path = Path("model.safetensors")
    """the file to write"""
    num_classes: int | None = None
    """number of classes: by default the timm name's, or 1000; slim's for ImageNet are 1001"""
    class_names: Path | None = None
    """a text file with one class name per line, in the order of the logits"""
    resolution: int | None = None
    """side of the training images in pixels: by default the timm name's, or 224"""
    scaling: Scaling | None = None
    """pixel scaling, for timm required: by `default_cfg`'s mean, symmetric for 0.5, unit for 0"""
    crop_share: float | None = None
    """share of an image's shorter side that evaluation sees, 0.875 if not given; timm's
    `crop_pct`"""
    interpolation: Interpolation | None = None
    """filter with which images are resized, bilinear if not given"""


def main() -> None:
    """Reads the command line, converts and writes."""
    arguments = parse(with_axes(Arguments, ARCHITECTURE_AXES), COMMAND, leading="weights")
    with refusals(COMMAND, arguments):
        arguments = _resolved(arguments)
        _require_legal(arguments)
        names = _class_names(arguments.class_names) if arguments.class_names else ()
        if hub.is_reference(arguments.weights):
            saved = _opened(arguments)
        else:
            saved = _converted(arguments, _spec(arguments), _view(arguments))
        _write(saved._replace(class_names=names or saved.class_names), arguments.to)
    spec = saved.model.spec
    terminal.console(110).print(
        f"{spec.name} of width {spec.width:g}, as {spec.dialect.name} has it, in {arguments.to}",
        soft_wrap=True,
    )  # fmt: skip


def _resolved(arguments: Arguments) -> Arguments:
    """Returns the arguments with the library, the classes and the resolution filled in.

    Raises:
      ValueError: the timm name is refused, does not say the number of classes, or is given with
        another library or with flags that describe the network; or these are given with a
        reference to the hub.
    """
    if hub.is_reference(arguments.weights):
        described = single_values(arguments, ARCHITECTURE_AXES)
        described |= {name: getattr(arguments, name) for name in OF_FILES}
        for flag, given in described.items():
            require(given is None, flag, given, "none with hf://: the repository says it")
        return arguments
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
    if not hub.is_reference(arguments.weights):
        library, weights = arguments.library, arguments.weights
        require(library is not None, "library", None, "torchvision, timm, keras or slim")
        there = weights is not None and Path(weights).is_file()
        require(there, "weights", weights, "a file that exists")
    names, to = arguments.class_names, arguments.to
    there = names is None or names.is_file()
    require(there, "class_names", str(names), "a file that exists")
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
            "scaling: got None, legal: symmetric, imagenet or unit, by the default_cfg's mean"
        )
    assert arguments.resolution is not None
    return View(
        resolution=arguments.resolution,
        photographs=True,
        scaling=scaling,
        crop_share=CROP_SHARE if arguments.crop_share is None else arguments.crop_share,
        interpolation=arguments.interpolation or "bilinear",
    )


def _opened(arguments: Arguments) -> "SavedModel":
    """Opens the model of a repository; raises ValueError if that is not possible."""
    from mnet_jax import models  # here: arguments are checked without JAX

    assert arguments.weights is not None
    try:
        return models.load(arguments.weights)
    except models.SavedModelError as error:
        raise ValueError(f"weights: {error}") from error


def _converted(arguments: Arguments, spec: NetworkSpec, view: View) -> "SavedModel":
    """Converts the weights of a file; raises ValueError if they do not fit the network."""
    from mnet_jax import models, weights

    converters = {
        "torchvision": weights.from_torchvision,
        "timm": weights.from_timm,
        "keras": weights.from_keras,
        "slim": weights.from_slim,
    }
    assert arguments.weights is not None and arguments.library is not None
    model, side = models.MobileNet(spec=spec), view.resolution
    try:
        state = weights.read(arguments.weights, model)
        variables = converters[arguments.library](state, model, image_size=(side, side))
    except weights.WeightsError as error:
        raise ValueError(f"weights: {error}") from error
    return models.SavedModel(model, variables, (), view)


def _write(saved: "SavedModel", to: Path) -> None:
    """Writes the model; raises ValueError if the file cannot be written."""
    from mnet_jax import models

    try:
        models.save(
            to, saved.model, saved.variables, class_names=saved.class_names, view=saved.view
        )
    except OSError as error:
        raise ValueError(f"to: {to} cannot be written, {error.strerror}") from error


def _class_names(path: Path) -> tuple[str, ...]:
    try:
        return tuple(path.read_text(encoding="utf-8").splitlines())
    except UnicodeDecodeError as error:
        raise ValueError(f"class_names: got {str(path)!r}, legal: a file of text") from error
