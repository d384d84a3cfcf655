"""What a classifier gets right on a split, and which classes it confuses."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """How often a classifier takes one class for another.

    Attributes:
      label: number of the true class.
      predicted: number of the predicted class.
      count: images of the true class that got this prediction.
      share: `count` over all images of the true class, 0 to 1.
    """

    label: int
    predicted: int
    count: int
    share: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Predictions:
    """A classifier's answers on a split, image by image.

    Attributes:
      labels: true classes, integers [n].
      predicted: most probable classes, integers [n].
      ranks: number of classes that are more probable than the true one, integers [n].
      losses: cross-entropies in nats [n].
      num_classes: number of classes.
    """

    labels: np.ndarray
    predicted: np.ndarray
    ranks: np.ndarray
    losses: np.ndarray
    num_classes: int

    @property
    def count(self) -> int:
        """Number of images."""
        return len(self.labels)

    @property
    def loss(self) -> float:
        """Mean cross-entropy in nats."""
        return float(np.mean(self.losses, dtype=np.float64))

    def hits(self, top: int = 1) -> int:
        """Returns for how many images the true class is among the `top` most probable."""
        return int(np.sum(self.ranks < top))

    def confusion_matrix(self) -> np.ndarray:
        """Returns the number of images by true class (rows) and predicted class (columns)."""
        cells = self.labels.astype(np.int64) * self.num_classes + self.predicted
        flat = np.bincount(cells, minlength=self.num_classes**2)
        return flat.reshape(self.num_classes, self.num_classes)


def most_confused(matrix: np.ndarray, most: int) -> list[Confusion]:
    """Returns the most frequent errors, the most frequent first; ties in order of the classes.

    Args:
      matrix: a confusion matrix [classes, classes]; rows are true classes.
      most: the maximum number of errors.
    """
    wrong = matrix * ~np.eye(len(matrix), dtype=bool)
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    found = []
    for cell in order[wrong.flat[order] > 0]:
        label, predicted = divmod(int(cell), len(matrix))
        count = int(wrong[label, predicted])
        share = count / int(matrix[label].sum())
        found.append(Confusion(label=label, predicted=predicted, count=count, share=share))
    return found


def to_csv(matrix: np.ndarray, class_names: Sequence[str]) -> str:
    """Formats a confusion matrix as CSV: a row for each true class, a column for each prediction.

    Args:
      matrix: integers [classes, classes].
      class_names: one name for each class, in order.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["true class", *class_names])
    for name, row in zip(class_names, matrix.tolist(), strict=True):
        writer.writerow([name, *row])
    return text.getvalue()
