"""What a trained model says: of one image, and of a data set."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import numpy as np

from mnet_jax import data
from mnet_jax.config import MAX_IMAGE_PIXELS, DataConfig
from mnet_jax.models import SavedModel, View
from mnet_jax.training.evaluation import Evaluation, evaluate
from mnet_jax.training.placement import placement
from mnet_jax.training.step import make_eval_step


@dataclass(frozen=True, kw_only=True)
class Guess:
    """A class and how probable the model finds it, 0 to 1."""

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
    """The most probable classes of an image file, the best first.

    Args:
      saved: the model; without class names, classes go by their numbers.
      image: an image file.
      view: how the model sees it; `saved.view`, or another one.
      top: how many classes at most.
      max_pixels: that the image may have.

    Raises:
      DataError: the file cannot be decoded, or has too many pixels.
      ValueError: the resolution is too small for the model.
    """
    pixels = data.viewed(
        image,
        view.resolution,
        photograph=view.photographs,
        scaling=view.scaling,
        max_pixels=max_pixels,
    )
    logits = jax.jit(partial(saved.model.apply, train=False))(saved.variables, pixels[None])
    probabilities = np.asarray(jax.nn.softmax(logits[0]))
    names = saved.class_names or tuple(map(str, range(len(probabilities))))
    best = np.argsort(-probabilities, kind="stable")[:top]
    return [Guess(class_name=names[i], probability=float(probabilities[i])) for i in best]


def test_accuracy(saved: SavedModel, config: DataConfig) -> Evaluation:
    """Loss and accuracy on a data set's test split.

    Args:
      saved: the model.
      config: the data set, the resolution and the batch size.

    Raises:
      DataError: the data set cannot be had.
      ValueError: its classes are not the model's.
    """
    dataset = data.load(config)
    require_same_classes(saved, dataset.class_names, config.name)
    place = placement("jit", config.batch_size)
    return evaluate(
        place.compile_eval(make_eval_step(saved.model.apply)),
        place,
        jax.device_put(saved.variables),
        data.eval_batches(dataset.test, config),
    )


def require_same_classes(saved: SavedModel, class_names: tuple[str, ...], dataset: str) -> None:
    """ValueError unless the model tells the data set's classes apart, in their order."""
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
