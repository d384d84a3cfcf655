"""The first training batch of a run as its network sees it."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from mnet_jax import data
from mnet_jax.config import RunConfig
from mnet_jax.program import run_keys
from mnet_jax.training.mixing import drawn, weighted
from mnet_jax.training.recipe import Hyperparameters


@dataclass(frozen=True, kw_only=True, eq=False)
class Preview:
    """A batch of training images with what the loss asks of each.

    Attributes:
      images: uint8 [b, r, r, 3], augmented and mixed, as pixels; all, or the first ones.
      labels: integers [b].
      partners: the labels of what is mixed in, integers [b]; None where nothing is.
      share: of the image's own label in its target; 1 where nothing is mixed in.
      class_names: by label.
    """

    images: np.ndarray
    labels: np.ndarray
    partners: np.ndarray | None
    share: float
    class_names: tuple[str, ...]


def first_batch(config: RunConfig, dataset: data.Dataset, most: int | None = None) -> Preview:
    """The images of a run's first step, after all augmentation.

    Mixing is that of a step that takes the batch as a whole: pmap's devices, and the parts of an
    accumulated batch, mix their own images, by other draws.

    Args:
      config: of the run.
      dataset: of the run.
      most: images of the batch to read, the first ones and what is mixed into them; None for all.

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
        permutation, weight = drawn(step_key, count, images.shape[1:3], alphas)
        others = read(np.asarray(permutation[: len(shown)]))
        mixed = weighted(jnp.asarray(images), jnp.asarray(others["image"]), weight)
        images = np.asarray(mixed)
        partners, share = others["label"], float(weight.mean())
    return Preview(
        images=data.pixels_of(images, config.data.scaling),
        labels=batch["label"],
        partners=partners,
        share=share,
        class_names=dataset.class_names,
    )
