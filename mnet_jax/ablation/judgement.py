"""Claims of the papers, and what the differences say of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from mnet_jax.ablation.comparison import Comparison
from mnet_jax.validation import require, require_choice

Judgement = Literal["supports", "contradicts", "cannot tell"]
Expectation = Literal["better", "worse", "equal"]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What a paper says of some arms against the baseline.

    Attributes:
      direction: how the arms are said to do: better or worse than the baseline, or equally well.
      text: the claim in a sentence.
      source: the paper, and the figure or table.
      arms: labels of the arms that it is about, such as `{"shortcut": "none"}`; all, if there are
        none.
      margin: of `equal` alone: the largest difference that still counts as equal, a share.
    """

    direction: Expectation
    text: str
    source: str
    arms: dict[str, str] = field(default_factory=dict)
    margin: float = 0.0

    def __post_init__(self) -> None:
        require_choice("direction", self.direction, Expectation)
        within = 0 < self.margin < 1 if self.direction == "equal" else self.margin == 0
        require(within, "margin", self.margin, "above 0 and below 1 for equal, else 0")

    def is_about(self, labels: Mapping[str, str]) -> bool:
        """Whether an arm with these labels is among its arms."""
        return self.arms.items() <= labels.items()


def judge(claim: Claim, comparison: Comparison) -> Judgement:
    """What a comparison says of a claim.

    An arm said to be equal supports that where its whole interval lies within the margin, and
    contradicts it where none of it does. Without an interval of some width it cannot be told.
    """
    verdict, interval = comparison.verdict, comparison.difference
    if claim.direction != "equal":
        if verdict not in ("better", "worse"):
            return "cannot tell"
        return "supports" if verdict == claim.direction else "contradicts"
    if comparison.p_value is None or interval.low is None or interval.high is None:
        return "cannot tell"
    if -claim.margin <= interval.low and interval.high <= claim.margin:
        return "supports"
    outside = interval.low > claim.margin or interval.high < -claim.margin
    return "contradicts" if outside else "cannot tell"


def judge_all(judgements: Sequence[Judgement]) -> Judgement:
    """The judgement on a claim about several arms: all must support it, one can contradict it."""
    if "contradicts" in judgements:
        return "contradicts"
    return "supports" if judgements and set(judgements) == {"supports"} else "cannot tell"
