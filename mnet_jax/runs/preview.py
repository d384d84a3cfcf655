"""A preview of the first training batch of a run, as its network sees it."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from mnet_jax import data
from mnet_jax.config import RunConfig
from mnet_jax.runs.program import run_keys
from mnet_jax.training.hyperparameters import Hyperparameters
from mnet_jax.training.mixing import blend, draw_mixing


@dataclass(frozen=True, kw_only=True, eq=False)
class Preview:
    """A batch of training images and their targets.

    Attributes:
      images: uint8 [b, r, r, 3], augmented and mixed, as pixels; the whole batch, or the first
        images of it.
      labels: integers [b].
      partners: the labels of the images mixed in, integers [b]; None without mixing.
      share: weight of an image's own label in its target; 1 without mixing.
      class_names: indexed by label.
    """

    images: np.ndarray
    labels: np.ndarray
    partners: np.ndarray | None
    share: float
    class_names: tuple[str, ...]


def first_batch(config: RunConfig, dataset: data.Dataset, most: int | None = None) -> Preview:
    """Returns the images of a run's first step, after augmentation and mixing.

    The preview mixes the batch as a whole. Training mixes each micro-batch separately (with pmap,
    each device's part of it), and uses other random numbers.

    Args:
      config: the run's config.
      dataset: the run's data set.
      most: how many of the batch's first images to show; None for all. Only these images and their
        partners are read.

    Raises:
      DataError: an image cannot be decoded.
    """
    count = config.data.batch_size
    shown = np.arange(count if most is None else min(most, count))

    def read(positions: np.ndarray) -> data.Batch:
        return data.first_images(dataset.train, config.data, config.seed, positions)

    batch = read(shown)
    images, partners, share = batch["image"], None, 1.0
    if alphas := Hyperparameters.of(config.training).mixing:
        _, dropout_key = run_keys(jax.random.key(config.seed))
        step_key = jax.random.fold_in(dropout_key, 0)
        permutation, weight = draw_mixing(step_key, count, images.shape[1:3], alphas)
        others = read(np.asarray(permutation[: len(shown)]))
        mixed = blend(jnp.asarray(images), jnp.asarray(others["image"]), weight)
        images = np.asarray(mixed)
        partners, share = others["label"], float(weight.mean())
    return Preview(
        images=data.pixels_of(images, config.data.scaling),
        labels=batch["label"],
        partners=partners,
        share=share,
        class_names=dataset.class_names,
    )
