"""The points as they are read: all of them, what each does to the numbers, two oddities of the paper's. No torch.

What a point does is a table: a line for each row of the paper, in each cell "before → after" and the difference with
its interval. What has not been run yet has no table, and :func:`dissection.report.missing` names it; what was run and
lacks a measurement raises.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from markupsafe import Markup

from study.evidence import comparisons, estimates, selection
from study.evidence.estimates import Spread
from study.evidence.selection import Group, runs_of
from study.findings.as_published.points import COMPARISONS, OF_A_SWITCH, POINTS, REPLICATE, Point
from study.findings.numbers.results import ALONE
from study.plan import catalogue
from study.presentation import markup
from study.presentation.markup import element
from study.records import Record


def overview() -> str:
    """All points as an HTML table: what the code does, what is intended, and what moves one to the other here."""
    lines = [
        markup.row(
            element("a", f"{point.number}. {point.name}", href=f"#{point.anchor}"),
            [point.published, point.corrected, _where(point)],
        )
        for point in POINTS
    ]
    caption = (
        "The points in which code, text and the techniques' own papers differ. Training: the switch, and the field of "
        "the config. Test: measured by the evaluation of every network."
    )
    return markup.table(["Point", "Released code", "Intended", "Here"], lines, caption, "words")


def effects(root: Path, number: int) -> str:
    """What a point does to the numbers, from the records in ``root``, as HTML: its comparisons, then its switch.

    Raises ValueError for a point with which nothing changes.
    """
    point = POINTS[number - 1]
    shown = [comparison(root, name) for name in point.comparisons]
    if point.switch:
        shown.append(switch_moved(root, point.switch))
    if not shown:
        raise ValueError(f"point {number} has nothing to measure: both protocols have {point.always}")
    return markup.together(shown)


def comparison(root: Path, name: str) -> str:
    """One of :data:`points.COMPARISONS` as HTML, by the largest size in ``root`` that has each technique alone.

    Empty if none of its rows was run.
    """
    compared = COMPARISONS[name]
    group = next(iter(selection.largest(root, ALONE)), [])
    lines = {
        _title(row): [_pair(runs, before, after) for _, before, after in compared.pairs]
        for key, row in catalogue.rows().items()
        if compared.applies(row) and (runs := runs_of(group, key, compared.protocol))
    }
    return _table([heading for heading, _, _ in compared.pairs], lines, compared.caption, group)


def switch_moved(root: Path, switch: str) -> str:
    """What moving one switch of the training away from the published protocol does, as HTML, for the rows run so.

    Empty if none was. Raises ValueError on a switch that is none of ``catalogue.SWITCHES``.
    """
    if switch not in catalogue.SWITCHES:
        raise ValueError(f"unknown switch {switch!r}: choose one of {', '.join(catalogue.SWITCHES)}")
    group, moved, lines = next(iter(selection.best(root)), []), f"published-{switch}", {}
    for key, row in catalogue.rows().items():
        pairs = [
            comparisons.paired(group, [(key, "published", name), (key, moved, name)]) for name in OF_A_SWITCH.values()
        ]
        if all(pairs):
            lines[_title(row)] = pairs
    field, published = catalogue.SWITCHES[switch]
    caption = f"Training published, then with {field} = {published} given up and nothing else changed"
    if switch == "precision":  # a device's best may be float32 as well
        precisions = {record.provenance["precision"] for record in group if record.protocol == moved}
        caption += f": trained in {', '.join(sorted(precisions))}"
    spreads = [comparisons.spread(group, name) for name in OF_A_SWITCH.values()]
    return _table(list(OF_A_SWITCH), lines, caption, group, spreads)


def weaker_and_stronger() -> str:
    """In how many published rows the attack of the shorter reach leaves less accuracy, as HTML."""
    rows = catalogue.rows()
    less = {key for key, row in rows.items() if row.published["pgd-0.1"] < row.published["fgsm-0.1"]}
    of_table_1 = len(less & set(catalogue.part(1)))
    others = ", ".join(row.name for key, row in rows.items() if key not in less)
    return markup.generated(
        'One thing the code does not explain. "PGD 0.1" moves a value by 4/255 at most, '
        f'"FGSM 0.1" by 0.1. Yet in {len(less)} of the {len(rows)} published methods ({of_table_1} of the '
        f"{len(catalogue.part(1))} of Table 1) PGD 0.1 leaves less accuracy. Only {others} are as one would "
        "expect."
    )


def replicate() -> str:
    """The two published rows that are one experiment, and the lead of ALS + SAT over SAT beside them, as HTML."""
    rows = catalogue.rows()
    one, other = (rows[key].published for key in REPLICATE)
    sat, both = rows["sat"].published, rows["als-sat"].published
    lines = [
        markup.row(rows[key].name, [f"{rows[key].published[column]:.2f}" for column in catalogue.COLUMNS])
        for key in REPLICATE
    ]
    for name, a, b in (("their difference", other, one), ("ALS + SAT minus SAT", sat, both)):
        lines.append(markup.row(name, [f"{b[column] - a[column]:+.2f}" for column in catalogue.COLUMNS]))
    caption = (
        "Published accuracies in percent: two trainings of one experiment, and below, for its size, a lead between two "
        "experiments."
    )
    return markup.table(["Method", *catalogue.COLUMNS.values()], lines, caption)


def _where(point: Point) -> str:
    parts = []
    if point.switch:
        field, _ = catalogue.SWITCHES[point.switch]
        parts.append(markup.together(["training: ", element("code", point.switch), " (", element("code", field), ")"]))
    if point.comparisons:
        parts.append("test")
    return markup.together(parts, "; ") or f"both protocols: {point.always}"


def _pair(runs: list[Record], before: str, after: str) -> list[np.ndarray]:
    return comparisons.same_images([(runs, name, comparisons.as_measured(runs, name)) for name in (before, after)])


def _cell(before: np.ndarray, after: np.ndarray, spread: Spread | None = None) -> Markup:
    change = markup.change(estimates.difference(after, before, spread=spread))
    return markup.together([f"{100 * before.mean():.1f} → {100 * after.mean():.1f}", change])


def _title(row: catalogue.Row) -> str:
    places = {2: markup.span("quiet", "Table 2"), None: markup.span("quiet", "results file")}
    return markup.together([row.label, places[row.paper_table]], " ") if row.paper_table != 1 else row.label


def _table(
    headings: Sequence[str],
    lines: dict[str, list[list[np.ndarray]]],
    caption: str,
    group: Group,
    spreads: Sequence[Spread | None] = (),
) -> str:
    """Lines: title of a row -> a pair of masks for each of the ``headings``; ``spreads``: of two trainings' masks.

    Empty if there is none.
    """
    if not lines:
        return ""
    spreads = spreads or [None] * len(headings)
    first = group[0]
    images = sorted({mask.shape[1] for pairs in lines.values() for pair in pairs for mask in pair})
    caption = (
        f"{caption}. Accuracy in percent, before → after; below, the difference with its 95 % interval, paired by "
        f"image, over the {markup.counts(images)} images compared. "
        f"Budget {first.budget} on {first.data['title']}."
    )
    body = [
        markup.row(title, [_cell(*pair, spread) for pair, spread in zip(pairs, spreads, strict=True)])
        for title, pairs in lines.items()
    ]
    return markup.table(["Method", *headings], body, caption)
