"""Claims of the papers, and whether the measured differences support them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from mnet_jax.statistics.comparison import Comparison
from mnet_jax.validation import require, require_choice

ClaimVerdict = Literal["supports", "contradicts", "cannot tell"]
Expectation = Literal["better", "worse", "equal"]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A paper's claim about some arms in comparison with the baseline.

    Attributes:
      direction: whether the claimed accuracy is better or worse than the baseline's, or equal.
      text: the claim in a sentence.
      source: the paper, and the figure or table.
      arms: the labels of the arms that the claim is about, such as `{"shortcut": "none"}`; an empty
        dict stands for all arms.
      margin: the largest difference in accuracy (0 to 1) that still counts as equal. Only for the
        direction `equal`, else 0.
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
        """Returns whether the claim is about an arm with these labels."""
        return self.arms.items() <= labels.items()


def judge(claim: Claim, comparison: Comparison) -> ClaimVerdict:
    """Returns whether the comparison of an arm with the baseline supports a claim.

    For a claim of `better` or `worse`, the comparison's verdict decides. A claim of `equal` is
    supported if the whole interval of the difference lies within the margin, and contradicted if no
    part of the interval does. If there is no interval, or an interval of zero width, the result is
    `cannot tell`.
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


def judge_all(verdicts: Sequence[ClaimVerdict]) -> ClaimVerdict:
    """Combines the verdicts of several arms on one claim.

    The claim is contradicted if any arm contradicts it, and supported if all arms support it.
    Otherwise, and if there are no arms, the result is `cannot tell`.
    """
    if "contradicts" in verdicts:
        return "contradicts"
    return "supports" if verdicts and set(verdicts) == {"supports"} else "cannot tell"
