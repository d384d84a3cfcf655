"""The policy that decides which checkpoints of a run are kept."""

from collections.abc import Iterable, Sequence
from typing import Any

LATEST = 2  # not one, as the last may turn out to be damaged


class Preservation:
    """An Orbax preservation policy for the checkpoints of a run.

    It keeps the latest two checkpoints and, of those at the end of an epoch, the last and the best.
    A checkpoint within an epoch has no validation accuracy, and is never the best.

    Attributes:
      accuracies: validation accuracy by step, for the finished epochs.
    """

    def __init__(self) -> None:
        self.accuracies: dict[int, float] = {}

    def should_preserve(self, checkpoints: Sequence[Any], *, context: object) -> list[bool]:
        """Returns whether to keep each checkpoint; Orbax calls this."""
        del context
        steps = sorted(info.step for info in checkpoints)
        whole = [step for step in steps if step in self.accuracies]
        kept = {*steps[-LATEST:], *whole[-1:], self.best(steps)}
        return [info.step in kept for info in checkpoints]

    def best(self, steps: Iterable[int]) -> int | None:
        """Returns the last step of the best epoch; None if there is none.

        Of equally good epochs the earliest is best.
        """
        whole = [step for step in sorted(steps) if step in self.accuracies]
        return max(whole, key=lambda step: self.accuracies[step], default=None)
