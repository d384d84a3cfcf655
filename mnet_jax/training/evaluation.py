"""Evaluates the loss and the accuracy of weights on a split; every image counts once."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from mnet_jax.training.placement import Placement
from mnet_jax.training.step import Batch, EvalStep, Tree


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The mean cross-entropy in nats, the accuracy, and the number of images of a split."""

    loss: float
    accuracy: float
    count: int


def evaluate(
    eval_step: EvalStep,
    placement: Placement,
    variables: Tree,
    batches: Iterable[Batch],
    on_batch: Callable[[int], Any] = lambda done: None,
) -> Evaluation:
    """Evaluates variables on a split: sums over masked batches, and divides once at the end.

    Args:
      eval_step: (variables, batch) -> sums, compiled by the placement.
      placement: puts the batches on the devices.
      variables: the model's variables, on the devices.
      batches: the split, padded and masked.
      on_batch: called with the number of batches done.
    """
    totals = {"loss": 0.0, "correct": 0.0, "count": 0.0}
    for done, batch in enumerate(batches, start=1):
        sums = placement.get(eval_step(variables, placement.put_batch(batch)))
        for name in totals:
            totals[name] += float(sums[name])
        on_batch(done)
    return Evaluation(
        loss=totals["loss"] / totals["count"],
        accuracy=totals["correct"] / totals["count"],
        count=round(totals["count"]),
    )
