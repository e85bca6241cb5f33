"""The way from the published protocol to the corrected one, as it is read: a table and a figure a row. No torch."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
from markupsafe import Markup
from matplotlib.figure import Figure

from study.evidence import comparisons, selection
from study.evidence.comparisons import HEADINGS, STRONG
from study.evidence.estimates import Estimate
from study.evidence.selection import Group
from study.findings.dissection import judge
from study.plan import catalogue
from study.presentation.figures import PALETTE, style
from study.presentation.marks import accuracy_under, rows_on_y
from study.presentation.markup import accuracy, counts, group_title, points, row, span, table, together
from study.presentation.words import Words, percent, plural
from study.records.literal import code


def effects(group: Group, key: str) -> str:
    """The dissection of one row as HTML: evaluation, then training by either rule; effects in percentage points."""
    heads = ["Switch", *HEADINGS.values()]
    body = [
        group_title("The published protocol as it is: accuracy in percent", len(heads)),
        row("published", [accuracy(comparisons.accuracy(group, key, "published", column)) for column in HEADINGS]),
        group_title("Evaluate the same network otherwise: change in points", len(heads)),
    ]
    by_column = [_effects(group, judge.of_evaluation(key, column)) for column in catalogue.COLUMNS]
    for (rule, what), *found in zip(judge.RULES.items(), *by_column, strict=True):
        body.append(row(_named(rule.removeprefix("published, "), what, found), [*map(points, found), ""]))
    for rule in catalogue.PROTOCOLS:
        text = f"Train another network, and evaluate both by the {rule} rule: change in points"
        body.append(group_title(text, len(heads)))
        budget = group[0].budget
        steps = judge.of_training(key, "clean", rule, budget)
        by_column = [_effects(group, judge.of_training(key, column, rule, budget)) for column in catalogue.COLUMNS]
        by_column.append(_effects(group, judge.of_training(key, STRONG, "corrected", budget)))
        for step, *found in zip(steps, *by_column, strict=True):
            if not any(found):
                continue
            what = step.what + judge.trained_in(group, step)
            body.append(row(_named(step.name, what, found), [points(effect) for effect in found]))
    known = comparisons.spread(group, f"corrected:{STRONG}")
    differ = "Between two trainings they include" if known else "With one training of each they do not include"
    caption = (
        f"{catalogue.rows()[key].label}: what each switch between the protocols does alone. Intervals are 95 %, paired "
        "by image; bold where they exclude 0; n: the images compared (whole batches, where their statistics "
        f"count). {differ} how much trainings differ. {HEADINGS[STRONG]} is the same attack everywhere."
    )
    return table(heads, body, caption)


def missing(group: Group, key: str) -> str:
    """Which networks of a row's dissection were not trained, and what trains one, as Markdown; empty if none."""
    paper, budget = catalogue.rows()[key], group[0].budget
    absent = [protocol for protocol in paper.dissection(budget) if not selection.runs_of(group, key, protocol)]
    if not absent:
        return ""
    alone = [switch for switch in paper.switches(budget) if f"published-{switch}" in absent]
    moved = f", among them those with one switch moved alone: {', '.join(alone)}" if alone else ""
    command = code(f"python -m study run {key} --protocol {absent[0]} {selection.flags(group)}")
    return (
        f"Not run yet of {paper.label}: {plural(len(absent), 'training')} on the way between the two protocols{moved}. "
        f"{command} makes the first."
    )


def waterfall(group: Group, key: str, column: str) -> Figure:
    """Accuracy of one row from the published to the corrected protocol, a switch at a time.

    Raises ValueError while a run on the way is missing.
    """
    walk = judge.walk(group, key, column)
    if walk is None:
        raise ValueError(f"the way from published to corrected has a gap for {key}: run its dissection first")
    names = ["published", *walk.names, "corrected"]
    with style():
        figure, panel = plt.subplots(figsize=(6.8, 0.9 + 0.38 * len(names)))
        end = _ends(panel, 0, walk.start)
        for position, effect in enumerate(walk.changes, start=1):
            change = 100 * effect.value
            colour, sign = (PALETTE[0], "+") if change >= 0 else (PALETTE[1], "")
            panel.barh(
                position, change, left=end, height=0.6, color=colour, hatch=None if change >= 0 else "///", ec="w"
            )
            interval = [[change - 100 * effect.low], [100 * effect.high - change]]
            panel.errorbar(end + change, position, xerr=interval, fmt="none", color="black", capsize=2, lw=1)
            panel.annotate(f"{sign}{change:.1f}", (1.01, position), xycoords=("axes fraction", "data"), va="center")
            panel.plot([end, end], [position - 1, position], color="0.6", lw=0.8, zorder=0)
            end += change
        _ends(panel, len(names) - 1, walk.end)
        rows_on_y(panel, names)
        panel.set(xlabel="clean accuracy (%)" if column == "clean" else accuracy_under(column), xlim=(0, None))
        panel.set_title(catalogue.rows()[key].label)
    return figure


def waterfall_words(group: Group, key: str, column: str) -> Words:
    walk = judge.walk(group, key, column)
    effects = [f"{name} {100 * change.value:+.1f}" for name, change in zip(walk.names, walk.changes, strict=True)]
    first, last = percent(walk.start), percent(walk.end)
    over = f"{walk.end.n:,} images and {plural(walk.end.seeds, 'training')}"
    return {
        "caption": f"{catalogue.rows()[key].label}, {HEADINGS[column]}: from the published to the corrected protocol, "
        f"a switch at a time; each bar starts where the last one ended. All are over the same {over} a protocol. "
        f"Budget {group[0].budget}, {group[0].data['title']}, 95 % intervals.",
        "alt": f"Waterfall from {first} to {last}; changes in points: {', '.join(effects)}.",
    }


def _effects(group: Group, steps: Sequence[judge.Step]) -> list[Estimate | None]:
    return [step.effect(group) for step in steps]


def _named(name: str, what: str, effects: Sequence[Estimate | None]) -> Markup:
    """The heading of a line: the switch, what it does, and on how many images its effects were measured."""
    images = sorted({effect.n for effect in effects if effect})
    on = f"; n = {counts(images)}" if images else ""
    return together([name, span("interval wrap", f"{what}{on}")])


def _ends(panel, position: int, estimate: Estimate) -> float:
    """The bar at either end of a waterfall; returns where it ends, in percent."""
    panel.barh(position, 100 * estimate.value, height=0.6, color="0.55")
    panel.annotate(f"{100 * estimate.value:.1f}", (1.01, position), xycoords=("axes fraction", "data"), va="center")
    return 100 * estimate.value
