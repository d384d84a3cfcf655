"""Converts weights of torchvision's networks for segmentation with a V3 backbone."""

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import traverse_util

from mnet_jax.architectures import FACTORIES, segmentation
from mnet_jax.architectures.segmentation import LRASPP, SegmentationHead, SegmentationSpec
from mnet_jax.architectures.shapes import REFERENCE_RESOLUTION
from mnet_jax.models import Segmenter
from mnet_jax.weights.arrays import Limit, WeightsError, as_arrays
from mnet_jax.weights.conversion import flat_variables, state_of, without_counters
from mnet_jax.weights.layouts import TORCH, ArrayEntry, Names, entries_of
from mnet_jax.weights.torchvision import names_of

BACKBONES = ("mobilenet_v3_large", "mobilenet_v3_small")
AUXILIARY = "aux_classifier."  # a head that only training uses


def from_torchvision_segmentation(
    state_dict: Mapping[str, Any], model: Segmenter
) -> dict[str, Any]:
    """Converts the state dict of a torchvision network for segmentation to our variables.

        network = architectures.mobilenet_v3("large", dialect="torchvision")
        model = models.Segmenter(spec=architectures.lraspp(network))
        state = weights.read("lraspp_mobilenet_v3_large.pth")
        variables = weights.from_torchvision_segmentation(state, model)

    With `architectures.deeplabv3` it converts `deeplabv3_mobilenet_v3_large`. The auxiliary head is
    left out, and may be absent.

    Args:
      state_dict: mapping of torchvision's names to NumPy, JAX or PyTorch arrays.
      model: the network to convert for; there is a warning if it computes something different from
        torchvision's.

    Returns:
      {"params": ..., "batch_stats": ...} of float32, shaped as `model.init` shapes them.

    Raises:
      WeightsError: the state dict does not fit the model. The message is one line with the first
        names and shapes of each kind; the attribute `problems` has all of them.
    """
    spec = _spec_of(model)
    wanted = _entries(spec)
    arrays = without_counters(as_arrays(state_dict, Limit.of(entry.shape for entry in wanted)))
    arrays = {name: array for name, array in arrays.items() if not name.startswith(AUXILIARY)}
    title = f"state_dict: does not fit {_title(spec)} as torchvision names it"
    flat = flat_variables(arrays, wanted, title)
    _warn_of_arithmetic(spec)
    return traverse_util.unflatten_dict(flat, sep="/")


def to_torchvision_segmentation(
    variables: Mapping[str, Any], model: Segmenter
) -> dict[str, np.ndarray]:
    """Converts our variables to the state dict of a torchvision network for segmentation.

    It has no auxiliary head, so load it into a network that was made with `weights_backbone=None`
    and without `aux_loss`. For the rest see `to_torchvision`.

    Args:
      variables: the model's `params` and `batch_stats`.
      model: the network; there is a warning if it computes something different from torchvision's.

    Raises:
      WeightsError: torchvision has no such network, or the variables are not the model's.
    """
    spec = _spec_of(model)
    title = f"variables: do not fit {_title(spec)}"
    state = state_of(variables, _entries(spec), title, TORCH)
    _warn_of_arithmetic(spec)
    return state


def _spec_of(model: Segmenter) -> SegmentationSpec:
    if not isinstance(model, Segmenter):
        kind = type(model).__name__
        raise WeightsError(f"model: got {kind}, legal: a Segmenter of mnet_jax.models")
    return model.spec


def _title(spec: SegmentationSpec) -> str:
    return f"{spec.backbone.name} with {type(spec.head).__name__}"


def _warn_of_arithmetic(spec: SegmentationSpec) -> None:
    """Warns if torchvision's network does not compute the same as `spec`."""
    if spec != _torchvisions(spec):
        warnings.warn(
            f"model: the weights fit, but its {_title(spec)} does not compute what torchvision's "
            "does; legal: a backbone of dialect torchvision at output stride 16, and the defaults "
            "of the head",
            stacklevel=3,
        )


def _torchvisions(spec: SegmentationSpec) -> SegmentationSpec:
    """Returns torchvision's network with the backbone, the head's channels and the classes."""
    network = FACTORIES[spec.backbone.name](dialect="torchvision", width=spec.backbone.width)
    build = segmentation.lraspp if isinstance(spec.head, LRASPP) else segmentation.deeplabv3
    return build(network, num_classes=spec.num_classes, channels=spec.head.channels)


def _entries(spec: SegmentationSpec) -> list[ArrayEntry]:
    """Returns the entries of all arrays; raises WeightsError if torchvision has no such network."""
    if spec.backbone.name not in BACKBONES:
        legal = ", ".join(BACKBONES)
        raise WeightsError(f"model: torchvision has no {spec.backbone.name} here, legal: {legal}")
    names = {
        f"backbone/{layer}": _in_backbone(own) for layer, own in names_of(spec.backbone).items()
    }
    names |= _head_names(spec.head)
    layers = segmentation.walk(spec, REFERENCE_RESOLUTION)
    return [entry for layer in layers for entry in entries_of(layer, names[layer.name], TORCH)]


def _in_backbone(names: Names) -> Names:
    """Returns the names in a network for segmentation: `backbone` in place of `features`."""
    kernel, norm = (
        name and name.replace("features.", "backbone.", 1) for name in (names.kernel, names.norm)
    )
    return names._replace(kernel=kernel, norm=norm)


def _head_names(head: SegmentationHead) -> dict[str, Names]:
    if isinstance(head, LRASPP):
        names = {
            "project": Names("cbr.0", "cbr.1"),
            "gate": Names("scale.1"),
            "low_classifier": Names("low_classifier"),
            "classifier": Names("high_classifier"),
        }
    else:
        last = 1 + len(head.rates)
        names = {
            "pointwise": Names("0.convs.0.0", "0.convs.0.1"),
            **{
                f"atrous_{i}": Names(f"0.convs.{i + 1}.0", f"0.convs.{i + 1}.1")
                for i in range(len(head.rates))
            },
            "pooled": Names(f"0.convs.{last}.1", f"0.convs.{last}.2"),
            "project": Names("0.project.0", "0.project.1"),
            "refine": Names("1", "2"),
            "classifier": Names("4"),
        }
    return {
        f"head/{layer}": Names(f"classifier.{own.kernel}", own.norm and f"classifier.{own.norm}")
        for layer, own in names.items()
    }
