"""Accuracy and confusion of predictions, against scikit-learn's."""

import csv
import io

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, log_loss, top_k_accuracy_score

from mnet_jax.statistics.classification import Predictions, most_confused, to_csv
from mnet_jax.training import metrics

CLASSES = 7
RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(200, CLASSES)).astype(np.float32)
LABELS = RNG.integers(0, CLASSES - 1, 200).astype(np.int32)  # the last class has no images


@pytest.fixture
def predictions():
    logits, labels = jnp.asarray(LOGITS), jnp.asarray(LABELS)
    return Predictions(
        labels=LABELS,
        predicted=LOGITS.argmax(-1),
        ranks=np.asarray(metrics.label_ranks(logits, labels)),
        losses=np.asarray(metrics.cross_entropy(logits, labels)),
        num_classes=CLASSES,
    )


@pytest.mark.parametrize("top", [1, 3, 5])
def test_top_k_accuracy(predictions, top):
    wanted = top_k_accuracy_score(LABELS, LOGITS, k=top, labels=range(CLASSES), normalize=False)
    assert predictions.hits(top) == wanted


def test_confusion_matrix_and_loss(predictions):
    matrix = predictions.confusion_matrix()
    wanted = confusion_matrix(LABELS, LOGITS.argmax(-1), labels=range(CLASSES))
    np.testing.assert_array_equal(matrix, wanted)
    shares = np.exp(LOGITS) / np.exp(LOGITS).sum(-1, keepdims=True)
    assert predictions.loss == pytest.approx(log_loss(LABELS, shares, labels=range(CLASSES)))


def test_the_most_confused_pairs_come_first_and_right_answers_never():
    matrix = np.array([[90, 2, 0], [5, 3, 2], [0, 0, 0]])
    found = [(e.label, e.predicted, e.count, e.share) for e in most_confused(matrix, 9)]
    assert found == [(1, 0, 5, 0.5), (0, 1, 2, 2 / 92), (1, 2, 2, 0.2)]
    assert [(e.label, e.predicted) for e in most_confused(matrix, 1)] == [(1, 0)]
    assert most_confused(np.eye(3, dtype=int), 9) == []


def test_among_equal_logits_the_first_class_wins_and_nan_wins_over_all():
    logits = jnp.array([[1, 1, 1.0], [1, 1, 1], [0, jnp.nan, 2], [jnp.nan, 1, 2]])
    ranks = metrics.label_ranks(logits, jnp.array([0, 2, 2, 0]))
    assert ranks.tolist()[:3] == [0, 2, 1]
    assert ranks[3] > 0  # the label's own logit is not a number


def test_csv_can_be_read_back():
    matrix, names = np.array([[3, 1], [0, 2]]), ('a "cat", black', "dog")
    rows = list(csv.reader(io.StringIO(to_csv(matrix, names))))
    assert rows == [["true class", *names], [names[0], "3", "1"], [names[1], "0", "2"]]
