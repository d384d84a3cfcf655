"""The `config.json` that timm writes beside its weights, as a network, a view and class names.

timm's `save_for_hf` and `push_to_hf_hub` write this file (`timm/models/_hub.py`); all of timm's
repositories on the Hugging Face hub have one. A file may be anybody's, so every field that is used
is checked. Nothing here reads files or imports JAX.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np

from mnet_jax.architectures import NetworkSpec
from mnet_jax.data.scaling import black_and_white
from mnet_jax.data.types import Interpolation, Scaling, View
from mnet_jax.validation import is_number, is_whole, one_line
from mnet_jax.weights.timm_names import parse_timm_name, timm_spec

# timm's values for fields that a config lacks (`timm.data.config.resolve_data_config`).
DEFAULTS: dict[str, Any] = {
    "input_size": (3, 224, 224),
    "interpolation": "bicubic",
    "crop_pct": 0.875,
    "crop_mode": "center",
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
}
# Arguments of timm's factories with which a network still has the layers that its name says.
HARMLESS = ("drop_path_rate", "drop_rate", "in_chans", "num_classes", "global_pool")


@dataclass(frozen=True, kw_only=True)
class TimmConfig:
    """The contents of a `config.json` of timm.

    Attributes:
      name: the timm name, with the tag if there is one.
      num_classes: number of logits.
      view: preprocessing of images, at the resolution of the training.
      class_names: names in the order of the logits; empty if the file has none. timm's files for
        ImageNet have none.
    """

    name: str
    num_classes: int
    view: View
    class_names: tuple[str, ...]

    @property
    def spec(self) -> NetworkSpec:
        """The network."""
        return timm_spec(self.name, self.num_classes)


def read_timm_config(config: Mapping[str, Any]) -> TimmConfig:
    """Returns what the parsed `config.json` of a timm model says.

    Args:
      config: the parsed file. Fields that do not matter for inference are ignored. Fields that are
        missing have timm's default values.

    Raises:
      ValueError: the network is not one of `timm_spec`, or a field has an illegal value, or one
        that a `NetworkSpec` or a `View` cannot express; the message is one line.
    """
    _require(isinstance(config, Mapping), "", config, "an object")
    inner = config.get("pretrained_cfg", config)  # files of early versions have no inner object
    _require(isinstance(inner, Mapping), "pretrained_cfg", inner, "an object")
    name = _name(config, inner)
    num_classes = config.get("num_classes", inner.get("num_classes", 1000))
    legal = is_whole(num_classes) and num_classes >= 1
    _require(legal, "num_classes", num_classes, "a whole number, 1 or more")
    _require_plain(config, inner, num_classes)
    return TimmConfig(
        name=name,
        num_classes=num_classes,
        view=_view(inner),
        class_names=_class_names(config, inner, num_classes),
    )


def _require(holds: bool, field: str, value: object, legal: str) -> None:
    if not holds:
        path = f"config.{field}" if field else "config"
        raise ValueError(f"{path}: got {one_line(repr(value))}, legal: {legal}")


def _name(config: Mapping[str, Any], inner: Mapping[str, Any]) -> str:
    """Returns the name of the network with the tag; raises ValueError if it is refused."""
    network, tag = config.get("architecture"), inner.get("tag") or ""
    text = isinstance(network, str) and "." not in network
    _require(text, "architecture", network, "a name of timm's, without a tag")
    _require(isinstance(tag, str), "pretrained_cfg.tag", tag, "a text")
    name = f"{network}.{tag}" if tag else str(network)
    parse_timm_name(name)
    return name


def _require_plain(config: Mapping[str, Any], inner: Mapping[str, Any], num_classes: int) -> None:
    """Raises ValueError if the network or its weights are not those that the name says."""
    arguments = config.get("model_args") or {}
    _require(isinstance(arguments, Mapping), "model_args", arguments, "an object")
    for name, value in arguments.items():
        _require(name in HARMLESS, f"model_args.{one_line(name)}", value, "none")
    expected = {"in_chans": 3, "num_classes": num_classes, "global_pool": "avg"}
    for name, value in expected.items():
        given = arguments.get(name, value)
        _require(given == value, f"model_args.{name}", given, str(value))
    pool = config.get("global_pool", "avg")
    _require(pool == "avg", "global_pool", pool, "avg")
    for name in ("custom_load", "label_offset"):
        value = inner.get(name)
        _require(not value, f"pretrained_cfg.{name}", value, "none")


def _view(inner: Mapping[str, Any]) -> View:
    """Returns the preprocessing for evaluation, as timm resolves it from the same fields."""
    given = {name: _value(inner, name) for name in DEFAULTS}
    size, share = given["input_size"], given["crop_pct"]
    square = _is_list(size) and len(size) == 3 and all(map(is_whole, size))
    square = square and size[0] == 3 and size[1] == size[2] >= 1
    _require(square, "pretrained_cfg.input_size", size, "3, then a side in pixels twice")
    legal = is_number(share) and 0 < share <= 1
    _require(legal, "pretrained_cfg.crop_pct", share, "above 0 and up to 1")
    mode = given["crop_mode"]
    _require(mode == "center", "pretrained_cfg.crop_mode", mode, "center")
    interpolation, filters = given["interpolation"], get_args(Interpolation)
    known = isinstance(interpolation, str) and interpolation in filters
    _require(known, "pretrained_cfg.interpolation", interpolation, " or ".join(filters))
    return View(
        resolution=size[1],
        photographs=True,
        scaling=_scaling(given["mean"], given["std"]),
        crop_share=share,
        interpolation=interpolation,
    )


def _value(inner: Mapping[str, Any], name: str) -> Any:
    """Returns the value of a field, or timm's default if the field is missing or null."""
    value = inner.get(name)
    return DEFAULTS[name] if value is None else value


def _scaling(mean: Any, deviation: Any) -> Scaling:
    """Returns the scaling of pixels with this mean and standard deviation, where white is 1."""
    for name, value in (("mean", mean), ("std", deviation)):
        triple = _is_list(value) and len(value) == 3
        triple = triple and all(is_number(each) and 0 <= each <= 1 for each in value)
        _require(triple, f"pretrained_cfg.{name}", value, "three numbers from 0 to 1")
    legal = []
    for scaling in get_args(Scaling):
        black, white = black_and_white(scaling)
        own = np.stack([-black, np.ones(3)]) / (white - black)
        if np.allclose(own, np.array([mean, deviation], float), rtol=0, atol=1e-6):
            found: Scaling = scaling
            return found
        legal.append(" and ".join(str(row.round(3).tolist()) for row in own.astype(float)))
    both = f"{mean} and {deviation}"
    raise ValueError(f"config.pretrained_cfg.mean and std: got {both}, legal: {' or '.join(legal)}")


def _class_names(
    config: Mapping[str, Any], inner: Mapping[str, Any], num_classes: int
) -> tuple[str, ...]:
    """Returns the names of the classes, a list or an object by label; empty if there are none."""
    names = config.get("label_names") or inner.get("label_names") or inner.get("labels")
    if not names:
        return ()
    if isinstance(names, Mapping):
        by_label = {str(label): name for label, name in names.items()}
        labels = [str(label) for label in range(len(by_label))]
        gapless = all(label in by_label for label in labels)
        _require(gapless, "label_names", [*by_label], f"labels from 0 to {num_classes - 1}")
        names = [by_label[label] for label in labels]
    texts = _is_list(names) and all(isinstance(name, str) for name in names)
    _require(texts, "label_names", names, "a list of texts")
    count = len(names)
    _require(count == num_classes, "label_names", count, f"{num_classes} names or none")
    return tuple(names)


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)
