"""Numbers to HTML: the cell with its interval, the link to a run, the table that scrolls inside itself. No torch.

All HTML of the book's pages is made by :func:`element`, in which whatever is no ``Markup`` is text: a record's strings
may be anybody's.
"""

import math
from collections.abc import Iterable, Sequence

from markupsafe import Markup

from study.evidence.estimates import Estimate
from study.machine.folders import results_folder
from study.records import Record

VOID = ("img", "source")  # elements of HTML without content


def element(tag: str, *content: object, **attributes: object) -> Markup:
    """An element of HTML. Of attributes, ``class_`` is "class" and ``aria_label`` "aria-label"; "" is left out."""
    said = [
        Markup(' {}="{}"').format(name.rstrip("_").replace("_", "-"), value)
        for name, value in attributes.items()
        if value != ""
    ]
    whole = Markup("<{0}{1}/>") if tag in VOID else Markup("<{0}{1}>{2}</{0}>")
    return whole.format(tag, together(said), together(content))


def together(parts: Iterable[object], between: str = "") -> Markup:
    """One after another."""
    return Markup(between).join(parts)


def span(kind: str, *content: object) -> Markup:
    """Text with a look of the style sheet's: "interval" is small, "quiet" grey."""
    return element("span", *content, class_=kind)


def generated(*content: object) -> Markup:
    """A paragraph that stands in the place of a table."""
    return element("p", *content, class_="generated")


NO_NUMBER = element("span", "–", title="no number")
NOT_RUN = span("quiet", "not run")


def accuracy(estimate: Estimate | None) -> Markup:
    """An accuracy in percent, its interval below it."""
    if estimate is None:
        return NOT_RUN
    below = f"{100 * estimate.low:.1f} to {100 * estimate.high:.1f}"
    return together([f"{100 * estimate.value:.1f}", span("interval", below)])


def points(estimate: Estimate | None) -> Markup:
    """A difference in percentage points with its sign, its interval below it; bold where that excludes 0."""
    if estimate is None:
        return NOT_RUN
    value = f"{100 * estimate.value:+.1f}"
    if estimate.sign:
        value = element("strong", value)
    return together([value, span("interval", f"{100 * estimate.low:+.1f} to {100 * estimate.high:+.1f}")])


def change(estimate: Estimate) -> Markup:
    """A difference in percentage points with its interval behind it, small: what stands below something else."""
    return span("interval", interval(estimate))


def link(record: Record) -> Markup:
    """The link to a run's page from a page of the book. Raises FileNotFoundError if its notebook is gone."""
    if not (results_folder() / record.where / "run.ipynb").is_file():
        raise FileNotFoundError(f"{record.where} has a record and no run.ipynb: restore it with git, or run again")
    return element("a", f"run {record.seed}", href=f"../results/{record.where}/run.html")


def links(runs: Iterable[Record]) -> Markup:
    return together((link(record) for record in runs), " ")


def row(head: str, cells: Sequence[str], kind: str = "") -> Markup:
    """A line of a table: its heading, then its cells."""
    return element("tr", element("th", head, scope="row"), *(element("td", cell) for cell in cells), class_=kind)


def group_title(text: str, columns: int) -> Markup:
    """The line above a group of lines, over all columns."""
    return element("tr", element("th", text, scope="rowgroup", colspan=columns), class_="row-title")


def table(heads: Sequence[str], body: Sequence[Markup], caption: str, kind: str = "") -> Markup:
    """A table of lines, or of row groups (``<tbody>``), as a figure whose caption stands above it. kind: "words"."""
    head = element("thead", element("tr", *(element("th", name, scope="col") for name in heads)))
    rows = body if body[0].startswith("<tbody>") else [element("tbody", *body)]
    shown = element("table", head, *rows, class_=f"results {kind}".strip())
    region = {"tabindex": 0, "role": "region", "aria_label": caption.split(".")[0]}
    scrolls = element("div", shown, class_="table-scroll", **region)
    return element("figure", element("figcaption", caption), scrolls, class_="results")


def interval(estimate: Estimate) -> str:
    """ "+1.2 (-0.3 to +2.7)": a difference in percentage points and its interval."""
    value, low, high = (100 * share for share in (estimate.value, estimate.low, estimate.high))
    return f"{value:+.1f} ({low:+.1f} to {high:+.1f})"


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
