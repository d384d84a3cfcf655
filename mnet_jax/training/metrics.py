"""The loss of each image, and sums that give exact means over masked batches."""

from typing import TypeAlias

import jax
import jax.numpy as jnp
import optax

Array: TypeAlias = jax.Array
Sums: TypeAlias = dict[str, Array]


def cross_entropy(
    logits: Array, labels: Array, label_smoothing: jax.typing.ArrayLike = 0.0
) -> Array:
    """Computes the cross-entropy of each image, in nats.

    Args:
      logits: [b, classes].
      labels: integers [b].
      label_smoothing: share of each label spread evenly over all classes (arXiv 1512.00567, section
        7).

    Returns:
      float32 [b].
    """
    targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]), label_smoothing)
    return optax.softmax_cross_entropy(logits.astype(jnp.float32), targets)


def label_ranks(logits: Array, labels: Array) -> Array:
    """Counts for each image the classes with a larger logit than its label.

    Among equal logits the class with the smaller number counts as larger, as for `argmax`: rank 0
    means that `argmax` gives the label. Logits that are not numbers count as larger than all
    others.

    Args:
      logits: [b, classes].
      labels: integers [b].

    Returns:
      int32 [b].
    """
    own = jnp.take_along_axis(logits, labels[:, None], axis=-1)
    before = jnp.arange(logits.shape[-1])[None] < labels[:, None]
    return jnp.sum(~(logits <= own) | ((logits == own) & before), axis=-1, dtype=jnp.int32)


def distillation(logits: Array, teacher_logits: Array, temperature: jax.typing.ArrayLike) -> Array:
    """Computes the loss of each image with respect to a teacher (arXiv 1503.02531, section 2).

    Args:
      logits: of the student, [b, classes].
      teacher_logits: [b, classes].
      temperature: number by which all logits are divided.

    Returns:
      The Kullback-Leibler divergence of the student's probabilities from the teacher's, in nats,
      times the square of the temperature; float32 [b].
    """
    log_p, log_q = (
        jax.nn.log_softmax(x.astype(jnp.float32) / temperature) for x in (teacher_logits, logits)
    )
    return jnp.square(temperature) * jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)


def masked_sums(logits: Array, labels: Array, mask: Array) -> Sums:
    """Computes `loss`, `correct` and `count`, summed over the real images of a padded batch.

    Divide once, after the last batch: a mean of batch means would overweight a short last batch.

    Args:
      logits: [b, classes].
      labels: integers [b].
      mask: [b], 1 for an image and 0 for padding.
    """
    correct = jnp.argmax(logits, axis=-1) == labels
    return {
        "loss": jnp.sum(cross_entropy(logits, labels) * mask),
        "correct": jnp.sum(correct * mask),
        "count": jnp.sum(mask),
    }
