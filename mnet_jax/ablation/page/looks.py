"""How an arm looks in every chart, and how its numbers read there."""

from mnet_jax.ablation import wording
from mnet_jax.ablation.arms import ArmResult, Report
from mnet_jax.ablation.page.markup import Markup, tag
from mnet_jax.ablation.statistics import Interval

HUES, DASHES = 6, 3  # classes of the style sheet: s0 is the baseline, s1 to s6, each dashed d0..d2
LONGEST_NAME = 40  # letters

Styles = dict[int, str]  # from an arm's place in the report to its classes


def styles(report: Report) -> Styles:
    """A hue and a dash for each arm; the baseline has its own."""
    found, others = {}, 0
    for index, arm in enumerate(report.arms):
        if arm.baseline:
            found[index] = "s0 d0"
            continue
        cycle, hue = divmod(others, HUES)
        found[index] = f"s{hue + 1} d{cycle % DASHES}"
        others += 1
    return found


def short_name(report: Report, arm: ArmResult) -> str:
    """The arm's name, cut where it is long."""
    name = report.name_of(arm)
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"


def legend(report: Report) -> Markup:
    """Line and name of every arm."""
    looks = styles(report)
    items = []
    for index, arm in enumerate(report.arms):
        line = tag("line", class_=f"curve {looks[index]}", x1=1, x2=27, y1=6, y2=6)
        key = tag("svg", line, viewBox="0 0 28 12", class_="key", aria_hidden="true")
        baseline = " (baseline)" if arm.baseline else ""
        items.append(tag("li", key, report.name_of(arm) + baseline))
    return tag("ul", *items, class_="legend")


def reads(interval: Interval, report: Report, sign: str = "") -> str:
    """An interval in percent or points."""
    return wording.percent(interval, report.method, sign)
