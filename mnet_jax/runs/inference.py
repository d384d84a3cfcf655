"""Inference with a trained model: classifies an image, and evaluates on a data set."""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mnet_jax import data, host_memory
from mnet_jax.analysis import cost
from mnet_jax.architectures import NetworkSpec
from mnet_jax.config import MAX_IMAGE_PIXELS, DataConfig
from mnet_jax.models import SavedModel, View
from mnet_jax.statistics.classification import Predictions
from mnet_jax.training import memory, metrics
from mnet_jax.training.memory import explain_exhaustion
from mnet_jax.training.placement import placement
from mnet_jax.training.step import Batch, Tree
from mnet_jax.validation import require


@dataclass(frozen=True, kw_only=True)
class Guess:
    """A class and its probability according to the model, 0 to 1."""

    class_name: str
    probability: float


def classify(
    saved: SavedModel,
    image: Path,
    *,
    view: View,
    top: int = 5,
    max_pixels: int = MAX_IMAGE_PIXELS,
) -> list[Guess]:
    """Returns the most probable classes of an image file, the best first.

    Args:
      saved: the model; if it has no class names, the names are the class numbers.
      image: an image file.
      view: how the image is resized and scaled: `saved.view`, or another view.
      top: the maximum number of classes.
      max_pixels: limit on the pixels of the image.

    Raises:
      DataError: the file cannot be decoded, or has too many pixels.
      ValueError: the resolution is too small for the model, or the model has no classes.
    """
    require_classifier(saved.model.spec)
    pixels = data.read_eval_image(image, view, max_pixels)
    logits = jax.jit(partial(saved.model.apply, train=False))(saved.variables, pixels[None])
    probabilities = np.asarray(jax.nn.softmax(logits[0]))
    names = saved.class_names or tuple(map(str, range(len(probabilities))))
    best = np.argsort(-probabilities, kind="stable")[:top]
    return [Guess(class_name=names[i], probability=float(probabilities[i])) for i in best]


@explain_exhaustion("the evaluation")
def predict_test(saved: SavedModel, config: DataConfig) -> Predictions:
    """Classifies every image of a data set's test split.

    Args:
      saved: the model.
      config: the data set, the resolution and the batch size.

    Raises:
      DataError: the data set is missing or damaged.
      ValueError: the data set's classes are not the model's, or a batch cannot fit into memory.
      OutOfMemoryError: memory ran out, although the estimate was that a batch fits.
    """
    require_classifier(saved.model.spec)
    dataset = data.load(config)
    require_same_classes(saved, dataset.class_names, config.name)
    devices = jax.device_count()
    whole = devices * math.ceil(len(dataset.test) / devices)  # a larger batch only adds padding
    config = dataclasses.replace(config, batch_size=min(config.batch_size, whole))
    require_memory(saved.model.spec, config.resolution, config.batch_size)
    place = placement("jit", config.batch_size)
    predict = place.compile_eval(partial(_predict, saved.model.apply))
    variables, parts = jax.device_put(saved.variables), []
    for batch in data.eval_batches(dataset.test, config):
        found = place.get(predict(variables, place.put_batch(batch)))
        real = batch["mask"] > 0
        parts.append({name: np.asarray(x)[real] for name, x in found.items()})
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return Predictions(**columns, num_classes=saved.model.spec.head.num_classes)


def _predict(apply: Callable[..., Any], variables: Tree, batch: Batch) -> dict[str, jax.Array]:
    """Returns the columns of `Predictions` for a batch [b]."""
    logits, labels = apply(variables, batch["image"], train=False), batch["label"]
    return {
        "labels": labels,
        "predicted": jnp.argmax(logits, axis=-1),
        "ranks": metrics.label_ranks(logits, labels),
        "losses": metrics.cross_entropy(logits, labels),
    }


def require_memory(spec: NetworkSpec, resolution: int, batch_size: int) -> None:
    """Raises ValueError if memory cannot hold a batch of this size.

    The estimate is a lower bound: the bytes of the images and of the largest layer's input and
    output.

    Args:
      spec: the network.
      resolution: side of the images in pixels.
      batch_size: images at a time.
    """
    image = 4 * spec.stem.inputs * resolution**2
    maps = max(row.activation_bytes for row in cost.count(spec, resolution).rows)
    most, free = host_memory.available_bytes() // image, memory.free_bytes()
    if free is not None:
        most = min(most, jax.device_count() * free // (image + maps))
    one = f"smaller images, as one takes {(image + maps) / 2**30:.3g} GiB and less is free"
    require(most >= 1, "resolution", resolution, one)
    fits = f"{most:,} or fewer, which fit into memory at {resolution} pixels"
    require(batch_size <= most, "batch_size", batch_size, fits)


def require_classifier(spec: NetworkSpec) -> None:
    """Raises ValueError for a network that returns features in place of logits."""
    legal = "a network with classes, for one of num_classes=0 returns features"
    require(spec.head.num_classes > 0, "checkpoint", spec.name, legal)


def require_same_classes(saved: SavedModel, class_names: tuple[str, ...], dataset: str) -> None:
    """Raises ValueError unless the model has the data set's classes, in the same order."""
    known, count = saved.class_names, saved.model.spec.head.num_classes
    if count != len(class_names):
        raise ValueError(f"dataset: {dataset} has {len(class_names)} classes, the model {count}")
    if known and known != class_names:
        i = next(
            i for i, pair in enumerate(zip(known, class_names, strict=True)) if len({*pair}) > 1
        )
        raise ValueError(
            f"dataset: class {i} of {dataset} is {class_names[i]}, of the model {known[i]}"
        )
