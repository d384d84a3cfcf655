"""The first training batch of a run as its network sees it."""

from dataclasses import dataclass

import jax
import numpy as np

from mnet_jax import data
from mnet_jax.config import RunConfig
from mnet_jax.program import run_keys
from mnet_jax.training.mixing import mix
from mnet_jax.training.recipe import Numbers


@dataclass(frozen=True, kw_only=True, eq=False)
class Preview:
    """A batch of training images with what the loss asks of each.

    Attributes:
      images: uint8 [b, r, r, 3], augmented and mixed, as pixels.
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


def first_batch(config: RunConfig) -> Preview:
    """The images of a run's first step, after all augmentation.

    Mixing is that of a step that takes the batch as a whole: pmap's devices, and the parts of an
    accumulated batch, mix their own images, by other draws.

    Raises:
      DataError: the data set cannot be had, or an image cannot be decoded.
    """
    dataset = data.load(config.data)
    epochs = config.training.epochs
    batch = next(data.train_batches(dataset.train, config.data, config.seed, epochs=epochs))
    _, dropout_key = run_keys(jax.random.key(config.seed))
    mixed = mix(batch, jax.random.fold_in(dropout_key, 0), Numbers.of(config.training).mixing)
    return Preview(
        images=data.pixels_of(np.asarray(mixed.images), config.data.scaling),
        labels=np.asarray(mixed.labels),
        partners=None if mixed.partners is None else np.asarray(mixed.partners),
        share=1.0 if mixed.share is None else float(mixed.share),
        class_names=dataset.class_names,
    )
