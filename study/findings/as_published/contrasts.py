"""One decision at a time: the same networks measured twice, with one thing changed. No torch.

A contrast names pairs of measurements of one record, or of two records whose training differs by one switch. It is
shown as a table: a line for each row of the paper, in each cell "before → after" and the difference with its interval.
What has not been run yet is said so; what was run and lacks a measurement raises.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np

from study.evidence import comparisons, estimates, selection
from study.evidence.selection import Group, runs_of
from study.plan import catalogue
from study.presentation import markup
from study.records import Record

Pair = tuple[str, str, str]  # heading of the column, measurement before, measurement after


@dataclass(frozen=True)
class Contrast:
    """Pairs of measurements of the networks trained under ``protocol``, and which of the networks have them."""

    caption: str
    pairs: tuple[Pair, ...]
    protocol: str = "published"
    applies: Callable[[catalogue.Row], bool] = lambda row: True


def _columns(before: str, after: str, columns: Sequence[str]) -> tuple[Pair, ...]:
    headings = catalogue.COLUMNS | {"clamp-alone": "clamp alone"}
    return tuple((headings[column], f"{before}:{column}", f"{after}:{column}") for column in columns)


PGD_20 = "corrected:pgd-20-8/255"
CONTRASTS = {
    "clamp": Contrast(
        "The clamp alone. Published rule: clean images, then the same through the published clamp, with eps = 0",
        (("no attack → clamp alone", "published:clean", "published:clamp-alone"),),
    ),
    "pixels": Contrast(
        "The space of the attack. Published rule: attacked in standardised units, then in pixels; all else unchanged",
        _columns("published", "published, pixels", ("fgsm-0.1", "pgd-0.1", "fgsm-0.5")),
    ),
    "statistics": Contrast(
        "The statistics of batch norm at test time. Published rule: those of the test batch, then the running ones",
        _columns("published", "published, running statistics", ("clean", "clamp-alone", "fgsm-0.1", "pgd-0.1")),
    ),
    "true-gradient": Contrast(
        "The gradient of the evaluation's attack. Published rule: the surrogate's, then the true one",
        _columns("published", "published, true gradient", ("fgsm-0.1", "pgd-0.1", "pgd-0.5")),
        applies=lambda row: row.sat,
    ),
    "step": Contrast(
        "The step of PGD 0.5. Published rule: 2/255, which the code evaluates, then 0.5, as the table's header says",
        (("PGD 0.5: step 2/255 → 0.5", "published:pgd-0.5-code", "published:pgd-0.5"),),
    ),
    "random-start": Contrast(
        "Random starts. PGD with 20 steps of 2/255 and eps 8/255: from the image, then twice from a random start",
        (("PGD-20: from the image → random", "corrected:steps-20", PGD_20),),
        protocol="corrected",
    ),
    "reach": Contrast(
        "Two attacks of eps 0.1, on pixels: FGSM, whose step is 0.1, then PGD with two steps of 2/255",
        (("FGSM 0.1 → PGD 0.1", "corrected:fgsm-0.1", "corrected:pgd-0.1"),),
        protocol="corrected",
    ),
    "branch": Contrast(
        "The branch that is asked, each attacked through itself under the true gradient: main, then auxiliary",
        (
            ("clean: main → aux", "corrected:clean", "corrected:clean:aux"),
            ("PGD-20 8/255: main → aux", PGD_20, f"{PGD_20}:aux"),
        ),
        protocol="corrected",
        applies=lambda row: row.advprop,
    ),
    "surrogate": Contrast(
        "The gradient that the attack follows, on pixels: the true one, then the surrogate's",
        (
            ("FGSM 0.1", "corrected:fgsm-0.1", "corrected:fgsm-0.1:surrogate"),
            ("PGD-20 8/255", PGD_20, f"{PGD_20}:surrogate"),
        ),
        protocol="corrected",
        applies=lambda row: row.sat,
    ),
}
OF_A_SWITCH = {  # what is compared where the training differs: the paper's measure, and a strong attack
    "clean, published rule": "published:clean",
    "FGSM 0.1, published rule": "published:fgsm-0.1",
    "PGD-20 8/255, pixels": PGD_20,
}
NO_RESULT = (
    '<p class="generated">There is no result yet, so there is nothing to compare. '
    "<code>python -m study run advprop --protocol published --budget lite</code> makes one.</p>"
)


def table(root: Path, name: str) -> str:
    """The contrast of that name, as HTML, over the best group of records in ``root``."""
    contrast = CONTRASTS[name]
    found = selection.best(root)
    if not found:
        return NO_RESULT
    rows = {key: row for key, row in catalogue.rows().items() if contrast.applies(row)}
    lines = {
        _title(row): [_pair(runs, before, after) for _, before, after in contrast.pairs]
        for key, row in rows.items()
        if (runs := runs_of(found[0], key, contrast.protocol))
    }
    if not lines:
        labels = ", ".join(row.label for row in rows.values() if row.paper_table == 1)
        return f'<p class="generated">Not run yet under the {contrast.protocol} protocol: {escape(labels)}.</p>'
    return _table([heading for heading, _, _ in contrast.pairs], lines, contrast.caption, found[0])


def switch_table(root: Path, switch: str) -> str:
    """What moving one switch of the training away from the published protocol does, as HTML, for the rows run so.

    Raises ValueError on a switch that is none of ``catalogue.SWITCHES``.
    """
    if switch not in catalogue.SWITCHES:
        raise ValueError(f"unknown switch {switch!r}: choose one of {', '.join(catalogue.SWITCHES)}")
    found = selection.best(root)
    if not found:
        return NO_RESULT
    group, moved = found[0], f"published-{switch}"
    concerned = [key for key, row in catalogue.rows().items() if switch in row.switches(group[0].budget)]
    if not concerned:
        return (
            f'<p class="generated">At the budget {group[0].budget} the published protocol does here what the corrected '
            "one does, so there is nothing to compare.</p>"
        )
    lines = {}
    for key, row in catalogue.rows().items():
        pairs = [
            comparisons.paired(group, [(key, "published", name), (key, moved, name)]) for name in OF_A_SWITCH.values()
        ]
        if all(pairs):
            lines[_title(row)] = pairs
    if not lines:
        return (
            '<p class="generated">Not run yet with this one point of the training changed. '
            f"<code>python -m study run {concerned[0]} --protocol {moved} --budget {group[0].budget} "
            f"--dataset {escape(group[0].config['dataset'])}</code> fills this table.</p>"
        )
    field, quirk = catalogue.SWITCHES[switch]
    caption = f"Training published, then with {field} = {quirk} given up and nothing else changed"
    if switch == "precision":  # a device's best may be float32 as well
        precisions = {record.provenance["precision"] for record in group if record.protocol == moved}
        caption += f": trained in {', '.join(sorted(precisions))}"
    return _table(list(OF_A_SWITCH), lines, caption, group)


def _pair(runs: list[Record], before: str, after: str) -> list[np.ndarray]:
    return comparisons.same_images([(runs, name, comparisons.as_measured(runs, name)) for name in (before, after)])


def _cell(before: np.ndarray, after: np.ndarray) -> str:
    change = markup.change(estimates.difference(after, before))
    return f"{100 * before.mean():.1f} → {100 * after.mean():.1f}{change}"


def _title(row: catalogue.Row) -> str:
    places = {1: "", 2: ' <span class="quiet">Table 2</span>', None: ' <span class="quiet">results file</span>'}
    return escape(row.label) + places[row.paper_table]


def _table(headings: Sequence[str], lines: dict[str, list[list[np.ndarray]]], caption: str, group: Group) -> str:
    """Lines: title of a row -> a pair of masks for each of the ``headings``."""
    first = group[0]
    images = sorted({mask.shape[1] for pairs in lines.values() for pair in pairs for mask in pair})
    caption = (
        f"{caption}. Accuracy in percent, before → after; below, the difference with its 95 % interval, paired by "
        f"image, over the {markup.counts(images)} images compared. "
        f"Budget {first.budget} on {first.data['title']}."
    )
    body = [markup.row(title, [_cell(*pair) for pair in pairs]) for title, pairs in lines.items()]
    return markup.table(["Row", *headings], body, caption)
