"""Records to the book's tables and to the sentences about them. No torch; nothing here is typed that a record knows.

A table shows what there is and says what is missing. What has to be there and is not raises, and so fails the book's
build.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np

from advlib import catalogue, records
from advlib.folders import results_folder
from advlib.records import Record
from advlib.statistics import rank_correlation, wilson

RESULT_BUDGETS = ("full", "lite")  # the highest first; smoke shows that the machinery works and is never a result
SMOKE_ROWS = ("traditional", "adversarial", "advprop", "als", "sat", "als-sat-advprop")  # what `make book` runs
STRONG, STRONG_HEADING = "pgd-20-8/255", "PGD-20 8/255"  # the strongest attack here; no AutoAttack
HEADINGS = catalogue.COLUMNS | {STRONG: STRONG_HEADING}
NOT_RUN = '<span title="no number">–</span>'
Group = list[Record]  # of one budget on one data set


@dataclass(frozen=True)
class Cell:
    """One accuracy in percent with its Wilson 95 % interval for ``n`` test images; the mean over ``seeds``."""

    accuracy: float
    low: float
    high: float
    n: int
    seeds: int

    @property
    def html(self) -> str:
        return f'{self.accuracy:.1f}<span class="interval">{self.low:.1f} to {self.high:.1f}</span>'


def groups(root: Path) -> list[Group]:
    """The records that count as results, by budget and data set: highest budget and most runs first, none stale."""
    by_place: dict[tuple, Group] = {}
    for record in records.collect(root):
        if record.budget in RESULT_BUDGETS and why_stale(record) is None:
            place = (RESULT_BUDGETS.index(record.budget), record.config["dataset"])
            by_place.setdefault(place, []).append(record)
    return [
        by_place[place] for place in sorted(by_place, key=lambda place: (place[0], -len(by_place[place]), place[1]))
    ]


def why_stale(record: Record) -> str | None:
    """Why a record is not what its place in ``results`` would hold if it were run today, or None."""
    today = catalogue.config(
        record.key, protocol=record.protocol, budget=record.budget, seed=record.seed, dataset=record.config["dataset"]
    )
    return record.stale_because(today)


def cell(group: Group, key: str, protocol: str, column: str, rule: str | None = None) -> Cell | None:
    """Row ``key`` trained under ``protocol`` and tested by ``rule`` (the same, if not said).

    An image attacked with the true and with the surrogate gradient counts as correct if it survives both. None if the
    row was not run under the protocol; KeyError if it was run and lacks the measurement.
    """
    runs = _runs(group, key, protocol)
    if not runs:
        return None
    masks = [_worst_mask(run, f"{rule or protocol}:{column}") for run in runs]
    sizes = {len(mask) for mask in masks}
    if len(sizes) > 1:
        raise ValueError(f"{key}, {protocol}, {column}: seeds were tested on {sorted(sizes)} images; run them alike")
    n = sizes.pop()
    accuracy = float(np.mean(masks))
    low, high = wilson(accuracy * n, n)
    return Cell(100 * accuracy, 100 * low, 100 * high, n, len(runs))


def _worst_mask(record: Record, name: str) -> np.ndarray:
    masks = [record.measurement(name).mask]
    masks += [m.mask for m in record.measurements if m.name == f"{name}:surrogate"]
    return np.logical_and.reduce(masks)


def describe(group: Group) -> str:
    """Budget, data, sizes and seeds of a group, as the sentence that stands beside its numbers."""
    first = group[0]
    places = [(record.key, record.protocol) for record in group]
    seeds = sorted({places.count(place) for place in places})
    columns = {f"{rule}:{column}" for rule in catalogue.PROTOCOLS for column in catalogue.COLUMNS}
    tested = sorted({m.n for record in group for m in record.measurements if m.name in columns})
    trained = sorted({record.data["train_images"] for record in group})
    return (
        f"Budget **{first.budget}** on **{first.data['title']}**: width {first.config['width']}, "
        f"{first.config['epochs']} epochs, {_sizes(trained)} training images, {_sizes(tested)} test images, "
        f"{_sizes(seeds)} {'seed' if seeds == [1] else 'seeds'} a row."
    )


def status(root: Path) -> str:
    """What the results folder holds, in one paragraph of Markdown, generated: also when it holds no result."""
    found = records.collect(root)
    stale = [record for record in found if record.budget in RESULT_BUDGETS and why_stale(record)]
    parts = [describe(group) for group in groups(root)]
    if not parts:
        smoke = sum(record.budget == "smoke" for record in found)
        runs_made = f"{smoke} smoke {'run' if smoke == 1 else 'runs'}"
        parts.append(
            f"**There is no result yet.** No run at budget lite or full has been recorded here; the {runs_made} that "
            "this book was built with show that the machinery works, and nothing else. A first result takes minutes: "
            "`python -m advlib run advprop --budget lite --seed 0`."
        )
    if stale:
        parts.append(
            "Left out because they no longer match the code that would make them: "
            + ", ".join(f"`{record.where}` ({why_stale(record)})" for record in stale)
            + "."
        )
    return " ".join(parts)


def missing(group: Group) -> str:
    """The rows of the paper that a group has not run, as a sentence of Markdown; empty if none is missing."""
    absent = [
        f"{row.label} ({protocol}, `{key}`)"
        for key, row in catalogue.rows().items()
        for protocol in catalogue.PROTOCOLS
        if row.paper_table and not _runs(group, key, protocol)
    ]
    return f"Not run yet: {', '.join(absent)}." if absent else ""


def headline(group: Group) -> str:
    """The cover's table as HTML: clean accuracy three times, and accuracy under the one strong attack, row by row."""
    body = []
    for key, row in catalogue.rows().items():
        measured = [cell(group, key, protocol, "clean") for protocol in catalogue.PROTOCOLS]
        measured += [cell(group, key, protocol, STRONG, rule="corrected") for protocol in catalogue.PROTOCOLS]
        if row.paper_table == 1 and any(measured):
            values = [f"{row.published['clean']:.1f}", *(value.html if value else NOT_RUN for value in measured)]
            body.append(
                f'<tr><th scope="row">{escape(row.label)}</th>'
                + "".join(f"<td>{value}</td>" for value in values)
                + "</tr>"
            )
    heads = ["Row", "Clean: paper", "published", "corrected", f"{STRONG_HEADING}: published", "corrected"]
    return _table(
        heads,
        body,
        "Accuracy in percent, with Wilson 95 % intervals. The attack of the last two columns is the same: "
        "pixels, restarts, true and surrogate gradients. The protocol is that of the training.",
    )


def results(group: Group, *, page: str = "book", root: Path | None = None) -> str:
    """The results table as HTML: for each row of the catalogue that was run, the paper's numbers and ours.

    ``page`` is the folder of the page that shows it, for the links to the run pages. Raises FileNotFoundError where a
    record has lost its notebook, ValueError where the group has no row of the catalogue.
    """
    heads = ["Protocol", *catalogue.COLUMNS.values(), STRONG_HEADING]
    body = []
    for key, row in catalogue.rows().items():
        lines = []
        for protocol in catalogue.PROTOCOLS:
            if runs := _runs(group, key, protocol):
                links = " ".join(_link(record, page, root or results_folder()) for record in runs)
                cells = [cell(group, key, protocol, column) for column in catalogue.COLUMNS]
                cells.append(cell(group, key, protocol, STRONG, rule="corrected"))
                lines.append(
                    _line(protocol, f'{protocol}<span class="interval">{links}</span>', [c.html for c in cells])
                )
        if lines:
            paper = [*(f"{row.published[column]:.1f}" for column in catalogue.COLUMNS), NOT_RUN]
            head = f'<tr class="row-title"><th scope="rowgroup" colspan="{len(heads)}">{title(row)}</th></tr>'
            body.append(f"<tbody>{head}{_line('paper', 'paper', paper)}{''.join(lines)}</tbody>")
    if not body:
        raise ValueError("this group of records has no row of the catalogue: run one, or build without a results table")
    caption = (
        f"Accuracy in percent. Paper: as printed there. Published and corrected: measured here, at budget "
        f"{group[0].budget} on {group[0].data['title']}, with the Wilson 95 % interval of each number below it. "
        f"{STRONG_HEADING} is not in the paper, and is the same attack for both protocols."
    )
    return _table(heads, body, caption)


def runs(found: Iterable[Record], *, page: str = "book", root: Path | None = None) -> str:
    """Every record, a line each, with the link to its executed notebook and what made it, as HTML."""
    body = []
    for record in found:
        seconds = record.cost["training_seconds"] + record.cost["evaluation_seconds"]
        cells = [
            record.protocol,
            record.budget,
            record.data["title"],
            _link(record, page, root or results_folder()),
            record.provenance["device"],
            f"{seconds / 60:.1f}",
            (record.provenance["commit"] or "none")[:7],
        ]
        body.append(
            f'<tr><th scope="row">{record.key}</th>' + "".join(f"<td>{value}</td>" for value in cells) + "</tr>"
        )
    heads = ["Row", "Protocol", "Budget", "Data", "Seed", "Device", "Minutes", "Commit"]
    return _table(heads, body, "The committed runs. The link opens the notebook as it was executed.")


def title(row: catalogue.Row) -> str:
    """Label of a row, as HTML, with what tells it from the rows of the same label: table and training attack."""
    place = f"Table {row.paper_table}" if row.paper_table else "authors' results file"
    attack = f", trained on eps {row.train_eps:g}, step {_length(row.train_step_size)}" if row.adversarial else ""
    return f'{escape(row.label)} <span class="quiet">{place}{attack}</span>'


def columns(group: Group) -> str:
    """What each column's attack is under each protocol, from the specifications in the records, as HTML."""
    body = []
    names = [(rule, column) for column in catalogue.COLUMNS if column != "clean" for rule in catalogue.PROTOCOLS]
    for rule, column in [*names, ("corrected", STRONG)]:
        spec = group[0].measurement(f"{rule}:{column}").attack
        steps = 1 if spec["method"] == "fgsm" else spec["steps"]
        step_size = spec["eps"] if spec["method"] == "fgsm" else spec["step_size"]
        reach = spec["eps"] if spec["random_start"] else min(spec["eps"], steps * step_size)
        heading = HEADINGS[column]
        cells = [
            _length(spec["eps"]),
            f"{steps} x {_length(step_size)}",
            _length(reach),
            spec["restarts"],
            {"pixels": "pixels", "standardised": "standard deviations"}[spec["space"]],
            spec["statistics"],
        ]
        body.append(
            f'<tr><th scope="row">{escape(heading)}</th><td class="protocol">{rule}</td>'
            + "".join(f"<td>{value}</td>" for value in cells)
            + "</tr>"
        )
    heads = ["Column", "Protocol", "eps", "steps", "reach", "restarts", "unit", "batch norm's statistics"]
    return _table(heads, body, "The attack behind each column. Reach: how far it can move a pixel or entry at most.")


def order(group: Group) -> str:
    """Does our published protocol put the rows of Table 1 in the paper's order? As HTML; empty below 5 rows."""
    found = [row for key, row in catalogue.rows().items() if row.paper_table == 1 and _runs(group, key, "published")]
    if len(found) < 5:
        return ""  # of three rows, chance puts one in six in the same order
    body = []
    for column, heading in catalogue.COLUMNS.items():
        ours = [cell(group, row.key, "published", column).accuracy for row in found]
        theirs = [row.published[column] for row in found]
        agreement = f"{rank_correlation(ours, theirs):+.2f}" if len(set(ours)) > 1 else NOT_RUN
        values = f"<td>{agreement}</td><td>{np.mean(np.subtract(ours, theirs)):+.1f}</td>"
        body.append(f'<tr><th scope="row">{escape(heading)}</th>{values}</tr>')
    caption = (
        f"The paper's numbers and the published protocol here, over {len(found)} rows of Table 1. Order: Spearman's "
        "rank correlation of the rows. Gap: ours minus the paper's, on average, in percentage points."
    )
    return _table(["Column", "Order", "Gap"], body, caption)


def smoke(root: Path, keys: Iterable[str] = SMOKE_ROWS) -> str:
    """The table of the machinery check, as HTML. Raises FileNotFoundError for a row without a smoke record."""
    found = {record.key: record for record in records.collect(root, budget="smoke") if record.protocol == "corrected"}
    body = []
    for key in keys:
        if key not in found:
            raise FileNotFoundError(f"no smoke record of row {key!r}: `make smoke` writes it (in seconds)")
        record = found[key]
        cells = [f"{100 * record.measurement(f'corrected:{column}').accuracy:.1f}" for column in catalogue.COLUMNS]
        cells.append(f"{record.cost['training_seconds'] + record.cost['evaluation_seconds']:.1f}")
        body.append(
            f'<tr><th scope="row">{escape(catalogue.rows()[key].label)}</th>'
            + "".join(f"<td>{value}</td>" for value in cells)
            + "</tr>"
        )
    record = found[next(iter(keys))]
    caption = (
        f"Machinery check, not a result: accuracy in percent on {record.measurements[0].n} images of "
        f"{record.data['title']}, a network of width {record.config['width']} after {record.config['epochs']} epochs."
    )
    return _table(["Row", *catalogue.COLUMNS.values(), "Seconds"], body, caption)


def _runs(group: Group, key: str, protocol: str) -> Group:
    return [record for record in group if (record.key, record.protocol) == (key, protocol)]


def _link(record: Record, page: str, root: Path) -> str:
    if not (root / record.where / "run.ipynb").is_file():
        raise FileNotFoundError(f"{record.where} has a record and no run.ipynb: restore it with git, or run again")
    up = "../" * len(Path(page).parts)
    return f'<a href="{up}results/{record.where}/run.html">run {record.seed}</a>'


def _line(kind: str, name: str, values: Sequence[str]) -> str:
    return (
        f'<tr class="{kind}"><td class="protocol">{name}</td>'
        + "".join(f"<td>{value}</td>" for value in values)
        + "</tr>"
    )


def _table(heads: Sequence[str], body: Sequence[str], caption: str) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in heads)
    rows = "".join(body) if body[0].startswith("<tbody>") else f"<tbody>{''.join(body)}</tbody>"
    return (
        f'<figure class="results"><figcaption>{escape(caption)}</figcaption>'
        f'<div class="table-scroll" tabindex="0" role="region" aria-label="{escape(caption.split(".")[0])}">'
        f'<table class="results"><thead><tr>{head}</tr></thead>{rows}</table></div></figure>'
    )


def _length(value: float) -> str:
    """0.1, or 2/255 where that is what was meant."""
    return f"{value:g}" if len(f"{value:g}") <= 4 else f"{value * 255:g}/255"


def _sizes(values: Sequence[int]) -> str:
    return f"{values[0]:,}" if len(values) == 1 else f"{values[0]:,} to {values[-1]:,}"
