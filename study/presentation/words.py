"""What the words of figures share: each has a caption, and a description for those who cannot see it. No torch."""

from collections.abc import Iterable

from study.evidence.estimates import Estimate
from study.evidence.selection import Group, runs_of
from study.presentation.markup import counts

Words = dict[str, str]  # "caption" and "alt", for study.presentation.page.show


def source(group: Group, rows: Iterable[str], *protocols: str, intervals: str = "95 % intervals") -> str:
    """Budget, data and seeds of what is drawn, in one sentence without markup. ``intervals``: "" where none are."""
    found = (runs_of(group, key, protocol) for key in rows for protocol in protocols)
    seeds = sorted({len(runs) for runs in found if runs})
    noun = "training" if seeds == [1] else "trainings"
    words = [f"Budget {group[0].budget}", group[0].data["title"], f"{counts(seeds)} {noun} a row", intervals]
    return f"{', '.join(filter(None, words))}."


def percent(estimate: Estimate) -> str:
    return f"{100 * estimate.value:.1f} %"
