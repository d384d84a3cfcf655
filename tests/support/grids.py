"""Grids of parameters of which a few rows are tested by default."""

import itertools

import pytest

PARAM = type(pytest.param())
EXHAUSTIVE = (pytest.mark.exhaustive,)


def pairwise(*axes):
    """Rows in which every pair of values of two axes occurs; all others are marked `exhaustive`.

    Most faults need one value, or two together; few need three.

    Args:
      axes: the values of each parameter, as for `pytest.mark.parametrize`.
    """
    rows = list(itertools.product(*map(_params, axes)))
    missing, chosen = {pair for row in rows for pair in _pairs(row)}, set()
    while missing:
        best = max(range(len(rows)), key=lambda i: len(missing.intersection(_pairs(rows[i]))))
        chosen.add(best)
        missing.difference_update(_pairs(rows[best]))
    return [_joined(row, () if i in chosen else EXHAUSTIVE) for i, row in enumerate(rows)]


def product(*axes, exhaustive=()):
    """All rows, of which those in `exhaustive` have that mark."""
    rows = itertools.product(*map(_params, axes))
    return [_joined(row, EXHAUSTIVE if _values(row) in exhaustive else ()) for row in rows]


def _params(axis):
    return [value if isinstance(value, PARAM) else pytest.param(value) for value in axis]


def _values(row):
    return tuple(value.values[0] for value in row)


def _joined(row, marks):
    """One parameter set of several, with the marks of all."""
    of_values = [mark for value in row for mark in value.marks]
    return pytest.param(*_values(row), marks=[*of_values, *marks])


def _pairs(row):
    """The pairs of values in a row, each as (axis, id of its value) twice."""
    return set(itertools.combinations([(axis, id(value)) for axis, value in enumerate(row)], 2))
