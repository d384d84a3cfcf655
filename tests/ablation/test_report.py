"""What trials are summarized to: rows, differences to the baseline, and what failed."""

import json
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
from summaries import (
    CAUSE,
    CPU,
    LINEAR,
    RELU6,
    labels_of,
    make_arm,
    make_config,
    make_trial,
    pair,
    shown,
    summary_of,
    troubled,
    words,
)

from mnet_jax.ablation import rendering
from mnet_jax.ablation.report import summarize
from mnet_jax.ablation.store import failure
from mnet_jax.architectures import mobilenet_v1
from mnet_jax.config import Arm, Pretrained, RunConfig, TrainingConfig


def test_rows_against_scipy():
    linear, relu6 = pair().arms
    difference = np.subtract(RELU6, LINEAR)
    oracle = scipy.stats.ttest_1samp(difference, 0).confidence_interval(0.95)
    assert relu6.difference.mean == pytest.approx(np.mean(difference))
    assert (relu6.difference.low, relu6.difference.high) == pytest.approx((oracle.low, oracle.high))
    assert [outcome.difference for outcome in relu6.outcomes] == pytest.approx(list(difference))
    assert linear.accuracy.mean == pytest.approx(np.mean(LINEAR))
    assert linear.baseline and linear.difference is None and not relu6.baseline
    assert linear.seeds == (0, 1, 2, 3, 4)
    assert linear.seconds == pytest.approx(5 * 30.5)


def test_speed_is_the_median_over_seeds():
    trials = [
        make_trial(make_config(seed=seed), 0.9, speed=speed)
        for seed, speed in enumerate([100.0, 900.0, 5000.0])
    ]
    assert summary_of(trials).arms[0].images_per_second == 900.0


def test_the_order_of_the_trials_changes_nothing():
    trials = make_arm(LINEAR) + make_arm(RELU6, "relu6")
    requested = [trial.config for trial in trials]
    assert summary_of(trials[::-1], requested) == pair()
    assert summary_of(trials + trials, requested) == pair()


def test_arms_of_the_call_come_first():
    rows = [(arm.labels["bottleneck"], arm.labels["width"]) for arm in troubled().arms]
    assert rows == [("linear", "1"), ("relu6", "1"), ("relu6", "0.5"), ("linear", "0.75")]
    assert [arm.requested for arm in troubled().arms] == [True, True, True, False]


def test_seeds_that_finished_failed_and_never_ran():
    _, relu6, lost, stored = troubled().arms
    assert relu6.seeds == (0, 1, 2)
    assert [(f.seed, f.cause) for f in relu6.failures] == [(3, CAUSE)]
    assert relu6.not_run == (4,)
    assert relu6.difference.count == 3
    assert lost.accuracy is None and lost.params is None and len(lost.failures) == 2
    assert stored.difference.count == 2 and stored.not_run == ()


def test_columns_are_what_varies_and_what_was_named():
    assert pair().columns == ("bottleneck",)
    assert pair().common == {"model": "mobilenet_v2", "width": "1"}
    assert troubled().columns == ("bottleneck", "width")
    assert troubled().common == {"model": "mobilenet_v2"}
    alone = summary_of(make_arm(LINEAR), named_axes=("width", "bottleneck"))
    assert alone.columns == ("width", "bottleneck")


def test_an_axis_that_no_label_has():
    with pytest.raises(ValueError, match=r"^axis: got 'colour', legal: model, bottleneck, width$"):
        summary_of(make_arm(LINEAR), named_axes=("colour",))


def test_the_recipe_says_where_every_arm_starts():
    tuned = replace(make_config(), pretrained=Pretrained(path="runs/mine", sha256="0" * 64))
    alone, both = [make_trial(tuned, 0.9)], [make_trial(tuned, 0.9), *make_arm((0.8, 0.7))]
    assert summary_of(alone).recipe == "digits, from runs/mine"
    assert summary_of(both).recipe == "digits, from runs/mine or random weights"


def test_axes_that_some_networks_lack():
    v1 = RunConfig(spec=mobilenet_v1(num_classes=10))
    summary = summarize(
        [*make_arm((0.9,)), make_trial(v1, 0.8)],
        [make_config(), v1],
        lambda config: {k: v for k, v in labels_of(config).items() if v != "-"},
        baseline=Arm.of(v1),
    )
    assert summary.columns == ("model", "bottleneck")
    assert summary.arms[1].labels["bottleneck"] == "-"


def test_arms_that_no_axis_tells_apart_are_told_apart():
    """What differs has no label; two rows of one name would be taken for one arm."""
    other = replace(make_config(), training=TrainingConfig(epochs=21))
    summary = summary_of([*make_arm((0.9,)), make_trial(other, 0.8)])
    assert summary.columns == ("bottleneck", "config")
    assert len({arm.labels["config"] for arm in summary.arms}) == 2


def test_the_baseline_is_named_whatever_its_seed():
    trials = make_arm(LINEAR) + make_arm(RELU6, "relu6")
    assert summary_of(trials, baseline=make_config(seed=17)) == pair()


@pytest.mark.parametrize("start", [None, failure(make_config(), "killed", CPU)])
def test_without_a_finished_baseline_there_is_no_difference(start):
    trials = [*([start] if start else []), *make_arm(RELU6, "relu6")]
    summary = summary_of(trials)
    assert all(arm.difference is None for arm in summary.arms)
    line = "no differences: the baseline (bottleneck linear) has no finished trial"
    assert summary.note == line
    assert line in words(shown(summary))
    assert line in rendering.to_markdown(summary)
    assert json.loads(rendering.to_json(summary))["note"] == line


def test_without_a_baseline():
    summary = summary_of(make_arm(LINEAR), baseline=None)
    assert summary.note == "no differences: no baseline was given"
    assert not any(arm.baseline for arm in summary.arms)


def test_no_common_seed():
    relu6 = [make_trial(make_config("relu6", seed=9), 0.9)]
    summary = summary_of(make_arm(LINEAR) + relu6)
    assert summary.arms[1].difference is None and summary.note is None
    assert "unpaired" in words(shown(summary))
