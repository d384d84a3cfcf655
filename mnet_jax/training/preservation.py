"""Which checkpoints of a run are kept."""

from collections.abc import Iterable, Sequence
from typing import Any

LATEST = 2  # the last may turn out to be damaged


class Preservation:
    """An Orbax preservation policy: the latest, and behind whole epochs the last and the best.

    A checkpoint within an epoch has no validation accuracy, and is never the best.

    Attributes:
      accuracies: validation accuracies by step, of the whole epochs so far.
    """

    def __init__(self) -> None:
        self.accuracies: dict[int, float] = {}

    def should_preserve(self, checkpoints: Sequence[Any], *, context: object) -> list[bool]:
        """Whether each checkpoint is kept, as Orbax asks."""
        del context
        steps = sorted(info.step for info in checkpoints)
        whole = [step for step in steps if step in self.accuracies]
        kept = {*steps[-LATEST:], *whole[-1:], self.best(steps)}
        return [info.step in kept for info in checkpoints]

    def best(self, steps: Iterable[int]) -> int | None:
        """The step behind the best epoch, the earliest of equals; None if there is no epoch."""
        whole = [step for step in sorted(steps) if step in self.accuracies]
        return max(whole, key=lambda step: self.accuracies[step], default=None)
