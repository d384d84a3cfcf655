"""Makes report.html: one file without network access, for phone and desktop, light and dark mode.

Vega, which is part of the file, draws the charts in the browser. If scripts are disabled, the page
shows static SVG instead. `Markup` is the type of HTML in Python; all other text is escaped when it
is inserted.
"""

import base64
import hashlib
import html
import json
import string
from collections.abc import Callable, Iterable, Sequence
from importlib import resources

from mnet_jax.ablation import figure, wording
from mnet_jax.ablation.arms import ArmResult, Report
from mnet_jax.ablation.charts import Chart, against_costs, hue_indices, over_seeds
from mnet_jax.ablation.themes import DARK, LIGHT, PAGE
from mnet_jax.changes import ABSENT, changes, outline
from mnet_jax.config import RunConfig
from mnet_jax.statistics import formatting
from mnet_jax.statistics.intervals import Interval


class Markup(str):
    """Text that is already HTML, and is inserted without escapes."""

    __slots__ = ()


def tag(name: str, *children: str, **attributes: str | None) -> Markup:
    """Returns an HTML element.

    Args:
      name: the element's name.
      *children: the element's content; text that is not `Markup` is escaped.
      **attributes: the element's attributes, such as `class_` for class and `data_v` for data-v;
        None omits the attribute.
    """
    listed = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{name}{listed}>{join(children)}</{name}>")


def join(parts: Iterable[str]) -> Markup:
    """Concatenates the parts; text that is not `Markup` is escaped."""
    return Markup("".join(p if isinstance(p, Markup) else html.escape(p) for p in parts))


# The CSS class of each verdict on a claim or an arm.
_CLASSES = {"supports": "good", "contradicts": "bad", "better": "good", "worse": "bad"}


def to_html(
    report: Report,
    command: str,
    command_of: Callable[[RunConfig], str | None] = lambda config: None,
) -> str:
    """Returns the HTML page of a report, including style sheet, script and charts.

    Args:
      report: the report to show.
      command: the command line of the sweep.
      command_of: maps the config of an arm to the command that trains it, or to None.
    """
    obstacle = figure.obstacle()
    drawn = [] if obstacle else [*over_seeds(report, PAGE), *against_costs(report, PAGE)]
    script = _file("script.js")
    if drawn:  # without charts, Vega (most of the file) is left out
        script = figure.script_with_vega(script)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return string.Template(_file("template.html")).substitute(
        title=join([wording.title(report)]),
        script_hash=digest,
        light=LIGHT.css(),
        dark=DARK.css(),
        style=_file("style.css"),
        script=script,
        body=join([
            _top(report),
            _section("Results", _table(report), _remarks(report)),
            _section("Charts", _charts(drawn, obstacle or "No trial has finished.")),
            _failures(report),
            _section("Arms", *(_arm(report, arm, command_of(arm.config)) for arm in report.arms)),
            _section("Run it again", tag("p", "The whole sweep; what is stored is not trained "
                     "again:"), _code(command)),
            _section("Method", _list(wording.methods(report))),
            _section("Environment", _list(wording.facts(report))),
        ]),
    )  # fmt: skip


def _file(name: str) -> str:
    return resources.files("mnet_jax.ablation").joinpath("assets", name).read_text(encoding="utf-8")


def _section(title: str, *content: str) -> Markup:
    return tag("section", tag("h2", title), *content)


def _list(lines: list[str]) -> Markup:
    return tag("ul", *(tag("li", line) for line in lines), class_="lines")


def _code(command: str) -> Markup:
    return tag("pre", tag("code", command))


def _top(report: Report) -> Markup:
    """Returns the header: title, the labels that all arms share, and the judged claims."""
    shared = [f"{axis} {label}" for axis, label in report.common.items() if label != ABSENT]
    parts: list[str] = [tag("h1", wording.title(report))]
    parts += [tag("p", line, class_="soft") for line in (", ".join(shared), report.recipe) if line]
    for judged in report.claims:
        kind = _CLASSES.get(judged.judgement, "")
        badge = tag("strong", judged.judgement, class_=f"badge {kind}")
        text = tag("q", judged.claim.text)
        source = tag("cite", judged.claim.source)
        parts.append(tag("p", badge, " ", text, " ", source, class_="claim"))
    return tag("header", *parts)


def _table(report: Report) -> Markup:
    """Returns the table of arms. A click on a column's header sorts by the cells' `data-v`."""
    heads: list[tuple[str, str | None]] = [(axis, None) for axis in report.columns]
    heads += [("accuracy %", "n"), ("difference points", "n"), ("p", "n"), ("verdict", None)]
    heads += [(name, "n") for name in ("params", "MAdds", "s per seed", "images/s", "seeds")]
    cells = [
        tag("th", tag("button", name, type="button"), scope="col", aria_sort="none", class_=kind)
        for name, kind in heads
    ]
    hues = hue_indices(report, len(PAGE.hues))
    rows = [_table_row(report, arm, hue) for arm, hue in zip(report.arms, hues, strict=True)]
    table = tag("table", tag("thead", tag("tr", *cells)), tag("tbody", *rows))
    return tag("div", table, class_="scroll", tabindex="0", role="region", aria_label="Results")


def _table_row(report: Report, arm: ArmResult, hue: int) -> Markup:
    names = [tag("td", arm.labels[axis], data_v=arm.labels[axis]) for axis in report.columns]
    if names:
        swatch = tag("span", class_=f"swatch s{hue}")
        star = "" if arm.requested else "*"
        first = next(iter(report.columns))
        names[0] = tag("td", swatch, arm.labels[first] + star, data_v=arm.labels[first])
    speed, seconds = arm.images_per_second, arm.seconds_per_seed
    p_value = arm.comparison.p_value if arm.comparison else None
    verdict = wording.verdict(report, arm)
    accuracy = formatting.percent(arm.accuracy, report.method) if arm.accuracy else ABSENT
    difference = "baseline" if arm.baseline else ABSENT
    if arm.difference:
        difference = formatting.percent(arm.difference, report.method, "+")
    return tag(
        "tr",
        *names,
        _number(accuracy, _mean(arm.accuracy)),
        _number(difference, 0.0 if arm.baseline else _mean(arm.difference)),
        _number(formatting.p_value(p_value), p_value),
        tag("td", tag("span", verdict, class_=f"verdict {_CLASSES.get(arm.verdict or '', '')}"),
            data_v=verdict),
        _number(formatting.count(arm.params), arm.params),
        _number(formatting.count(arm.madds), arm.madds),
        _number(ABSENT if seconds is None else f"{seconds:.1f}", seconds),
        _number(ABSENT if speed is None else f"{speed:,.0f}", speed),
        _number(wording.seeds(arm), len(arm.outcomes)),
        class_="baseline" if arm.baseline else None,
    )  # fmt: skip


def _mean(interval: Interval | None) -> float | None:
    return interval.mean if interval else None


def _number(text: str, value: float | None) -> Markup:
    """Returns a table cell for a number, with the sort key `data-v`; an empty key sorts last."""
    return tag("td", text, class_="n", data_v="" if value is None else repr(value))


def _remarks(report: Report) -> Markup:
    """Returns the notes below the table: statistical power, and remarks about the rows."""
    lines = wording.powers(report)
    lines += [report.note] if report.note else []
    if not all(arm.requested for arm in report.arms):
        lines.append("*: not part of this call, found in the store with the same data and training")
    if any(len(values) > 1 for values in report.environment.values()):
        lines.append("the trials' environments differ, see below")
    return _list(lines) if lines else Markup()


def _charts(drawn: Sequence[Chart], otherwise: str) -> Markup:
    if not drawn:
        return tag("p", otherwise)
    return tag("div", *map(_chart, drawn), class_="charts")


def _chart(chart: Chart) -> Markup:
    """Returns a figure: caption, chart specification, and SVG for browsers without scripts."""
    caption = tag("figcaption", tag("h3", chart.title), tag("p", chart.legend))
    # "<" is escaped, so that no name can close the script element.
    source = json.dumps(figure.to_vega_lite(chart, PAGE), separators=(",", ":")).replace(
        "<", "\\u003c"
    )
    specification = tag("script", Markup(source), type="application/json")
    drawing = tag("div", class_="drawing", role="group", aria_label=chart.title)
    still = tag("noscript", Markup(figure.to_svg(chart, PAGE)))
    return tag("figure", caption, specification, drawing, still)


def _failures(report: Report) -> Markup:
    """Returns the section that lists failed and missing trials, with the causes."""
    missing = wording.missing_results(report)
    if not missing:
        return Markup()
    lines = [f"{report.name_of(arm)}: {cause}" for arm, cause in missing]
    return _section("Failed or not run", _list(lines))


def _arm(report: Report, arm: ArmResult, command: str | None) -> Markup:
    """Returns an arm's section: changes from the baseline's config, command, and whole config."""
    anchor = report.anchor
    if arm.baseline:
        difference: Markup = tag("p", "The baseline.")
    elif anchor is None:
        difference = tag("p", "There is no baseline to compare its config with.")
    else:
        difference = _changes(anchor.config, arm.config)
    lines = [(path, value) for path, value in outline(arm.config) if path != "seed"]
    spec = "\n".join(f"{path}: {value}" for path, value in lines)
    again = [tag("p", "This arm alone:"), _code(command)] if command else []
    whole = tag("details", tag("summary", "Its whole config"), tag("pre", spec))
    return tag("article", tag("h3", report.name_of(arm)), difference, *again, whole)


_MOST_OPEN = 8  # longer lists of changes are collapsed: the width changes every block


def _changes(before: RunConfig, after: RunConfig) -> Markup:
    """Returns a table of the fields that differ; a long table is collapsed."""
    found = changes(before, after)
    heads = tag("tr", *(tag("th", h, scope="col") for h in ("field", "baseline", "this arm")))
    rows = [
        tag("tr", tag("td", tag("code", c.path)), tag("td", c.before), tag("td", c.after))
        for c in found
    ]
    table = tag("table", tag("thead", heads), tag("tbody", *rows), class_="changes")
    box = tag("div", table, class_="scroll", tabindex="0", role="region", aria_label="Changes")
    several = "field differs" if len(found) == 1 else "fields differ"
    return tag("details", tag("summary", f"{len(found)} {several} from the baseline's"), box,
               open="" if len(found) <= _MOST_OPEN else None)  # fmt: skip
