"""Numbers to HTML: the cell with its interval, the link to a run, the table that scrolls inside itself. No torch."""

import math
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from study.evidence.estimates import Estimate
from study.machine.folders import results_folder
from study.records import Record

NO_NUMBER = '<span title="no number">–</span>'
NO_SEED = '<span class="quiet">no seed in common</span>'
NOT_RUN = '<span class="quiet">not run</span>'


def accuracy(estimate: Estimate | None) -> str:
    """An accuracy in percent, its interval below it."""
    if estimate is None:
        return NOT_RUN
    return f"{100 * estimate.value:.1f}{_below(f'{100 * estimate.low:.1f} to {100 * estimate.high:.1f}')}"


def points(estimate: Estimate | None) -> str:
    """A difference in percentage points with its sign, its interval below it; bold where that excludes 0."""
    if estimate is None:
        return NOT_RUN
    value = f"{100 * estimate.value:+.1f}"
    if estimate.low > 0 or estimate.high < 0:
        value = f"<strong>{value}</strong>"
    return f"{value}{_below(f'{100 * estimate.low:+.1f} to {100 * estimate.high:+.1f}')}"


def change(estimate: Estimate) -> str:
    """A difference in percentage points with its interval behind it, small: what stands below something else."""
    value, low, high = (100 * share for share in (estimate.value, estimate.low, estimate.high))
    return _below(f"{value:+.1f} ({low:+.1f} to {high:+.1f})")


def link(record: Record, page: str = "book", root: Path | None = None) -> str:
    """The link to a run's page from a page in the folder ``page``. Raises FileNotFoundError if its notebook is gone."""
    if not ((root or results_folder()) / record.where / "run.ipynb").is_file():
        raise FileNotFoundError(f"{record.where} has a record and no run.ipynb: restore it with git, or run again")
    up = "../" * len(Path(page).parts)
    return f'<a href="{up}results/{record.where}/run.html">run {record.seed}</a>'


def links(runs: Iterable[Record], page: str = "book", root: Path | None = None) -> str:
    return " ".join(link(record, page, root) for record in runs)


def row(head: str, cells: Sequence[str], kind: str = "") -> str:
    """A line of a table: its heading, then its cells."""
    opening = f'<tr class="{kind}">' if kind else "<tr>"
    return f'{opening}<th scope="row">{head}</th>' + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def group_title(text: str, columns: int) -> str:
    """The line above a group of lines, over all columns."""
    return f'<tr class="row-title"><th scope="rowgroup" colspan="{columns}">{text}</th></tr>'


def table(heads: Sequence[str], body: Sequence[str], caption: str, kind: str = "") -> str:
    """A table of lines, or of row groups (``<tbody>``), as a figure whose caption stands above it. kind: "words"."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in heads)
    classes, region = f"results {kind}".strip(), escape(caption.split(".")[0])
    rows = "".join(body) if body[0].startswith("<tbody>") else f"<tbody>{''.join(body)}</tbody>"
    return (
        f'<figure class="results"><figcaption>{escape(caption)}</figcaption>'
        f'<div class="table-scroll" tabindex="0" role="region" aria-label="{region}">'
        f'<table class="{classes}"><thead><tr>{head}</tr></thead>{rows}</table></div></figure>'
    )


def length(value: float) -> str:
    """0.1, or 2/255 where that is what was meant."""
    return f"{value:g}" if len(f"{value:g}") <= 4 else f"{value * 255:g}/255"


def duration(seconds: float) -> str:
    """ "50 s", "14 min", "1.9 h", "3.1 days": two digits of what is read best."""
    for limit, unit, name in [(120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h"), (math.inf, 86_400, "days")]:
        if seconds < limit:
            value = seconds / unit
            return f"{value:.1f} {name}" if value < 10 else f"{value:.0f} {name}"
    raise ValueError(f"{seconds} seconds is no duration")


def counts(values: Sequence[int]) -> str:
    """ "1,000", or "1 to 3" for sorted values that differ."""
    return f"{values[0]:,}" if values[0] == values[-1] else f"{values[0]:,} to {values[-1]:,}"


def _below(text: str) -> str:
    return f'<span class="interval">{text}</span>'
