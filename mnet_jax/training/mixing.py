"""Mixup and CutMix: pairs of images of a batch become one, and so do their labels.

Both give every pixel of an image a weight, which its partner's pixel has the rest of; the mean
weight is the share of its own label in the target.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from mnet_jax.training import metrics
from mnet_jax.training.recipe import Scalar

Array: TypeAlias = jax.Array

_FOLD = 0x3146B  # of the step's key, whose own stream is dropout's


class Mixed(NamedTuple):
    """A batch, mixed or as it was.

    Attributes:
      images: float32 [b, h, w, c].
      labels: the images' own, integers [b].
      partners: the labels of what was mixed in, integers [b]; None in a batch as it was.
      share: how much of the target is the own label, a scalar in [0, 1]; None likewise.
    """

    images: Array
    labels: Array
    partners: Array | None = None
    share: Array | None = None

    def losses(self, logits: Array, label_smoothing: Scalar) -> Array:
        """The cross-entropy with each image's soft target, float32 [b].

        The cross-entropy is linear in the target, so this is the same mixture of two of them.
        """
        own = metrics.cross_entropy(logits, self.labels, label_smoothing)
        if self.partners is None or self.share is None:
            return own
        other = metrics.cross_entropy(logits, self.partners, label_smoothing)
        return self.share * own + (1 - self.share) * other


def mix(batch: Mapping[str, Any], step_key: Array, alphas: Mapping[str, Scalar]) -> Mixed:
    """The batch with each image mixed with that of a random permutation, all in one proportion.

    Args:
      batch: `image` [b, h, w, c] and `label` [b]; of one device under pmap, which then mixes its
        own images in a proportion of its own.
      step_key: the step's, of which this takes a stream of its own.
      alphas: of the Beta distributions, by `mixup` and `cutmix`. With both, each is used for half
        of the batches, as in timm; with none, the batch stays as it is.
    """
    images, labels = batch["image"], batch["label"]
    if not alphas:
        return Mixed(images, labels)
    permutation, weight = drawn(step_key, images.shape[0], images.shape[1:3], alphas)
    mixed = weighted(images, images[permutation], weight)
    return Mixed(mixed, labels, labels[permutation], jnp.mean(weight))


def drawn(
    step_key: Array, count: int, sides: tuple[int, int], alphas: Mapping[str, Scalar]
) -> tuple[Array, Array]:
    """What a step draws to mix its images: who is mixed in, and how much of an image stays.

    Args:
      step_key: as `mix`.
      count: images of the batch.
      sides: of an image, (h, w).
      alphas: as `mix`, one or both.

    Returns:
      The partner of each image, int [count], and the weight of an image itself, float32 [h, w].
    """
    keys = jax.random.split(jax.random.fold_in(step_key, _FOLD), 5)
    permutation = jax.random.permutation(keys[0], count)
    weights = [
        _mixup_weights(keys[1], sides, alphas["mixup"]) if "mixup" in alphas else None,
        _cutmix_weights(keys[2], keys[3], sides, alphas["cutmix"]) if "cutmix" in alphas else None,
    ]
    first, *others = [found for found in weights if found is not None]
    weight = jnp.where(jax.random.bernoulli(keys[4]), first, others[0]) if others else first
    return permutation, weight


def weighted(images: Array, partners: Array, weight: Array) -> Array:
    """Images [b, h, w, c] with a weight [h, w] each, in their partners, which have the rest."""
    share = weight[None, :, :, None].astype(images.dtype)
    return share * images + (1 - share) * partners


def _mixup_weights(key: Array, sides: tuple[int, int], alpha: Scalar) -> Array:
    """The same everywhere, Beta(alpha, alpha) (arXiv:1710.09412, section 2): float32 [h, w]."""
    return jnp.full(sides, jax.random.beta(key, alpha, alpha, dtype=jnp.float32))


def _cutmix_weights(
    share_key: Array, centre_key: Array, sides: tuple[int, int], alpha: Scalar
) -> Array:
    """Ones with a box of zeros, whose size is Beta's (arXiv:1905.04899): float32 [h, w]."""
    share = jax.random.beta(share_key, alpha, alpha, dtype=jnp.float32)
    centre = jax.random.randint(centre_key, (2,), 0, jnp.array(sides))
    return outside_box(sides, share, centre)


def outside_box(sides: tuple[int, int], share: Scalar, centre: Array) -> Array:
    """0 within a box, 1 outside of it: float32 [h, w].

    Args:
      sides: (h, w) of the image.
      share: of the image outside of the box, if all of the box lies within the image.
      centre: of the box, (y, x) in whole pixels (arXiv:1905.04899, section 3.1, and the authors'
        code for the rounding). What lies beyond the image is cut off.
    """

    def inside(side: int, middle: Array) -> Array:
        half = jnp.floor(side * jnp.sqrt(1 - share)).astype(jnp.int32) // 2
        at = jnp.arange(side)
        return (at >= middle - half) & (at < middle + half)

    box = inside(sides[0], centre[0])[:, None] & inside(sides[1], centre[1])[None, :]
    return 1 - box.astype(jnp.float32)
