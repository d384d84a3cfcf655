"""Grids of parameters of which a few rows are tested by default."""

import itertools

import pytest

EXHAUSTIVE = (pytest.mark.exhaustive,)


def pairwise(*axes):
    """Rows in which every pair of values of two axes occurs; all others are marked `exhaustive`.

    Most faults need one value, or two together; few need three.

    Args:
      axes: the values of each parameter, as for `pytest.mark.parametrize`.
    """
    every = [[value if _is_param(value) else pytest.param(value) for value in a] for a in axes]
    rows = list(itertools.product(*every))
    missing, chosen = {pair for row in rows for pair in _pairs(row)}, set()
    while missing:
        best = max(range(len(rows)), key=lambda i: len(missing.intersection(_pairs(rows[i]))))
        chosen.add(best)
        missing.difference_update(_pairs(rows[best]))
    return [_joined(row, () if i in chosen else EXHAUSTIVE) for i, row in enumerate(rows)]


def _joined(row, marks):
    """One parameter set of several, with the marks of all."""
    of_values = [mark for value in row for mark in value.marks]
    return pytest.param(*(value.values[0] for value in row), marks=[*of_values, *marks])


def _is_param(value):
    return isinstance(value, type(pytest.param()))


def _pairs(row):
    """The pairs of values in a row, each as (axis, id of its value) twice."""
    return set(itertools.combinations([(axis, id(value)) for axis, value in enumerate(row)], 2))
