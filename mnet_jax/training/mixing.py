"""Mixup and CutMix: each image of a batch is mixed with another one, and so are the labels.

Both methods give each pixel of an image a weight w, and the partner's pixel 1 - w. The weight of
the image's own label in the target is the mean of w.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from mnet_jax.training import metrics
from mnet_jax.training.hyperparameters import Scalar

Array: TypeAlias = jax.Array

_FOLD = 0x3146B  # folded into the step's key; dropout uses the key itself


class Mixed(NamedTuple):
    """A batch after mixing, or an unmixed one.

    Attributes:
      images: float32 [b, h, w, c].
      labels: the images' own labels, integers [b].
      partners: the labels of the images mixed in, integers [b]; None in an unmixed batch.
      share: weight of the own label in the target, a scalar in [0, 1]; None in an unmixed batch.
    """

    images: Array
    labels: Array
    partners: Array | None = None
    share: Array | None = None

    def losses(self, logits: Array, label_smoothing: Scalar) -> Array:
        """Computes the cross-entropy with each image's soft target, float32 [b].

        Cross-entropy is linear in the target, so the result is the weighted sum of the
        cross-entropies with the two labels.
        """
        own = metrics.cross_entropy(logits, self.labels, label_smoothing)
        if self.partners is None or self.share is None:
            return own
        other = metrics.cross_entropy(logits, self.partners, label_smoothing)
        return self.share * own + (1 - self.share) * other


def mix(batch: Mapping[str, Any], step_key: Array, alphas: Mapping[str, Scalar]) -> Mixed:
    """Mixes each image with a partner from a random permutation; all images get the same weights.

    Args:
      batch: `image` [b, h, w, c] and `label` [b]. With pmap, `batch` is one device's part; each
        part is mixed separately, with its own weights.
      step_key: the step's random key, from which mixing derives its own.
      alphas: parameters of the Beta distributions, keyed by `mixup` and `cutmix`. With both, each
        step uses one or the other with equal probability, as in timm; with none, the batch is not
        mixed.
    """
    images, labels = batch["image"], batch["label"]
    if not alphas:
        return Mixed(images, labels)
    permutation, weight = draw_mixing(step_key, images.shape[0], images.shape[1:3], alphas)
    mixed = blend(images, images[permutation], weight)
    return Mixed(mixed, labels, labels[permutation], jnp.mean(weight))


def draw_mixing(
    step_key: Array, count: int, sides: tuple[int, int], alphas: Mapping[str, Scalar]
) -> tuple[Array, Array]:
    """Draws a step's mixing: the partner of each image, and the weight of each pixel.

    Args:
      step_key: as in `mix`.
      count: images in the batch.
      sides: (h, w) of an image.
      alphas: as in `mix`, one or both.

    Returns:
      The index of each image's partner, int [count], and the weights of an image's own pixels,
      float32 [h, w], the same for all images. The partner's pixels get the rest.
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


def blend(images: Array, partners: Array, weight: Array) -> Array:
    """Returns weight * images + (1 - weight) * partners, [b, h, w, c], for a weight [h, w]."""
    share = weight[None, :, :, None].astype(images.dtype)
    return share * images + (1 - share) * partners


def _mixup_weights(key: Array, sides: tuple[int, int], alpha: Scalar) -> Array:
    """Returns the weights of mixup, float32 [h, w].

    One number from Beta(alpha, alpha) is the weight of all pixels (arXiv:1710.09412, section 2).
    """
    return jnp.full(sides, jax.random.beta(key, alpha, alpha, dtype=jnp.float32))


def _cutmix_weights(
    share_key: Array, centre_key: Array, sides: tuple[int, int], alpha: Scalar
) -> Array:
    """Returns the weights of CutMix, float32 [h, w] (arXiv:1905.04899).

    The weights are ones with a box of zeros. The share of ones is drawn from Beta(alpha, alpha).
    """
    share = jax.random.beta(share_key, alpha, alpha, dtype=jnp.float32)
    centre = jax.random.randint(centre_key, (2,), 0, jnp.array(sides))
    return outside_box(sides, share, centre)


def outside_box(sides: tuple[int, int], share: Scalar, centre: Array) -> Array:
    """Returns 0 inside a box and 1 outside it: float32 [h, w].

    Args:
      sides: (h, w) of the image.
      share: the share of the image outside the box, if the box lies within the image.
      centre: (y, x) of the box's centre in whole pixels (arXiv:1905.04899, section 3.1; rounded as
        in the authors' code). Parts of the box beyond the image are cut off.
    """

    def inside(side: int, middle: Array) -> Array:
        half = jnp.floor(side * jnp.sqrt(1 - share)).astype(jnp.int32) // 2
        at = jnp.arange(side)
        return (at >= middle - half) & (at < middle + half)

    box = inside(sides[0], centre[0])[:, None] & inside(sides[1], centre[1])[None, :]
    return 1 - box.astype(jnp.float32)
