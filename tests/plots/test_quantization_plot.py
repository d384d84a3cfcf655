"""The picture of ladders and sensitivities: its numbers are those that are given."""

import numpy as np
import pytest
from scipy import stats

from mnet_jax.plots import quantization, style
from mnet_jax.quantization import Ladder, Rung, Sensitivity

KINDS = ("conv", "depthwise", "pointwise", "dense")


def ladder(shift=0.0, *, labelled=False):
    def rung(name, granularity, bits, agreement):
        return Rung(
            name=name, granularity=granularity, bits=bits, agreement=agreement, sqnr=10.0,
            accuracy=agreement / 2 if labelled else None, size=1,
        )  # fmt: skip

    rungs = [rung("float", None, 32, 1.0)]
    for bits in (8, 4):
        rungs += [rung("per tensor", "tensor", bits, bits / 10 - shift)]
        rungs += [rung("+ equalization", "tensor", bits, bits / 10 + 0.1 - shift)]
        rungs += [rung("per channel", "channel", bits, bits / 10 + 0.15 - shift)]
    return Ladder(images=1000, rungs=tuple(rungs), left_out={})


def layers(shift=0.0):
    return tuple(
        Sensitivity(
            layer=f"layer_{i}", kind=kind, weights=1, spread=2.0, spread_over_median=1.0,
            sqnr=10.0 * i + shift,
        )
        for i, kind in enumerate(KINDS)
    )  # fmt: skip


def lines_of(axes):
    return [bars.lines[0].get_xydata() for bars in axes.containers]


@pytest.mark.parametrize("labelled", [False, True])
def test_one_line_for_each_number_of_bits_and_granularity(labelled):
    figure = quantization.draw(
        {"a_$": [ladder(labelled=labelled)]}, {"a_$": [layers()]}, "8 bits per tensor"
    )
    left, right = figure.axes
    assert left.get_title(loc="left") == style.label("a_$")
    share = 50 if labelled else 100
    values = [list(line[:, 1]) for line in lines_of(left)]
    wanted = [[0.8, 0.9], [0.95], [0.4, 0.5], [0.55]]
    assert values == [pytest.approx([share * x for x in line]) for line in wanted]
    texts = [text.get_text() for text in left.get_legend().get_texts()]
    assert texts == ["8 bits", "4 bits", *["float"] * labelled]
    assert [label.get_text() for label in left.get_xticklabels()] == [
        "per tensor", "+ equalization", "per channel",
    ]  # fmt: skip
    for i, line in enumerate(lines_of(right)):
        np.testing.assert_allclose(line, [[i, 10 * i]])
    style.to_png(figure)


def test_bars_over_models_are_students_intervals():
    models = [ladder(shift) for shift in (0.0, 0.05, 0.3)]
    figure = quantization.draw(
        {"a": models}, {"a": [layers(x) for x in (0, 1, 5)]}, "8 bits per tensor"
    )
    (bars, *_), (below, *_) = (axes.containers for axes in figure.axes)
    for container, values in ((bars, [80, 75, 50]), (below, [0, 1, 5])):
        (low, high) = container.lines[2][0].get_segments()[0][:, 1]
        half = stats.t.ppf(0.975, 2) * np.std(values, ddof=1) / np.sqrt(3)
        np.testing.assert_allclose([low, high], np.mean(values) + np.array([-half, half]))
