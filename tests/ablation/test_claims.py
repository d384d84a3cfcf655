"""A claim is supported, contradicted, or cannot be told; never more than the interval shows."""

import pytest
from summaries import LINEAR, RELU6, make_arm, make_config, shown, summary_of, words

from mnet_jax.ablation.claims import Claim, judge, judge_all
from mnet_jax.ablation.report import summarize
from mnet_jax.config import Arm
from mnet_jax.statistics.comparison import Comparison
from mnet_jax.statistics.intervals import Interval


def claim(direction="worse", margin=0.0, **options):
    return Claim(direction=direction, text="it is so", source="here", margin=margin, **options)


def comparison(verdict, low=None, high=None):
    mean = 0.0 if low is None else (low + high) / 2
    p_value = None if low is None or low == high else 0.5
    difference = Interval(mean=mean, low=low, high=high, count=5)
    return Comparison(difference=difference, p_value=p_value, verdict=verdict, power=None)


@pytest.mark.parametrize(
    ("direction", "verdict", "expected"),
    [
        ("better", "better", "supports"), ("better", "worse", "contradicts"),
        ("worse", "worse", "supports"), ("worse", "better", "contradicts"),
        *((d, v, "cannot tell") for d in ("better", "worse")
          for v in ("not separated", "one seed", "few seeds", "no spread")),
    ],
)  # fmt: skip
def test_a_direction(direction, verdict, expected):
    assert judge(claim(direction), comparison(verdict, -0.1, 0.1)) == expected


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (-0.009, 0.009, "supports"), (0.001, 0.009, "supports"), (0.011, 0.02, "contradicts"),
        (-0.03, -0.02, "contradicts"), (-0.02, 0.005, "cannot tell"), (0.009, 0.02, "cannot tell"),
        (0.0, 0.0, "cannot tell"), (None, None, "cannot tell"),
    ],
)  # fmt: skip
def test_equal_within_a_margin(low, high, expected):
    assert judge(claim("equal", margin=0.01), comparison("not separated", low, high)) == expected


@pytest.mark.parametrize(
    ("each", "together"),
    [
        (["supports", "supports"], "supports"), (["supports", "cannot tell"], "cannot tell"),
        (["supports", "contradicts"], "contradicts"), ([], "cannot tell"),
    ],
)  # fmt: skip
def test_several_arms(each, together):
    assert judge_all(each) == together


@pytest.mark.parametrize(("direction", "margin"), [("equal", 0.0), ("better", 0.01), ("equal", 5)])
def test_a_margin_belongs_to_equality(direction, margin):
    with pytest.raises(ValueError, match=r"^margin: got .*legal: above 0 and below 1 for equal"):
        claim(direction, margin)


def test_a_direction_that_is_none():
    with pytest.raises(ValueError, match=r"^direction: got 'up', legal: better, worse, equal$"):
        claim("up")


def report_on(claims, relu6=RELU6, **options):
    trials = make_arm(LINEAR) + make_arm(relu6, "relu6") + make_arm(LINEAR, width=0.5)
    requested = [trial.config for trial in trials[:10]]
    return summary_of(trials, requested, claims=claims, **options)


def test_a_report_judges_the_arms_that_were_asked_for():
    worse = claim(arms={"bottleneck": "relu6"})
    better = claim("better", arms={"bottleneck": "relu6", "width": "1"})
    report = report_on([worse, better])
    assert [arm.judgement for arm in report.arms] == [None, "supports", None]
    assert [judged.judgement for judged in report.claims] == ["supports", "cannot tell"]
    assert report_on([better]).claims[0].judgement == "contradicts"
    assert report_on([claim()]).arms[2].judgement is None, "found in the store"


def test_the_table_says_it():
    text = words(shown(report_on([claim(arms={"bottleneck": "relu6"})]), 120))
    assert "claim: it is so (here): supports" in text
    assert "worse, supports" in text


def test_a_claim_that_is_not_about_an_arm_says_nothing_of_it():
    trials = make_arm(LINEAR) + make_arm(RELU6, "relu6")
    report = summarize(
        trials, [trial.config for trial in trials],
        lambda config: {"a": config.spec.blocks[0].bottleneck}, baseline=Arm.of(make_config()),
        claims=[claim()], is_judged=lambda config: config.spec.blocks[0].bottleneck == "linear",
    )  # fmt: skip
    assert [arm.judgement for arm in report.arms] == [None, None]
    assert report.arms[1].verdict == "worse" and report.claims[0].judgement == "cannot tell"


def test_without_a_claim_nothing_is_judged():
    report = report_on([])
    assert report.claims == () and not any(arm.judgement for arm in report.arms)
    assert "supports" not in words(shown(report))


def test_one_seed_cannot_tell():
    trials = make_arm(LINEAR[:1]) + make_arm(RELU6[:1], "relu6")
    configs = [trial.config for trial in trials]
    report = summarize(trials, configs, lambda config: {"a": config.spec.blocks[0].bottleneck},
                       baseline=Arm.of(make_config()), claims=[claim()])  # fmt: skip
    assert report.claims[0].judgement == "cannot tell"
