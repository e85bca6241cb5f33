"""What the words of figures share: each has a caption, and a description for those who cannot see it. No torch."""

from collections.abc import Iterable

from study.evidence.estimates import Estimate
from study.evidence.selection import Group, runs_of
from study.presentation.markup import counts

SETTINGS = {  # budget -> what a reader calls it
    "smoke": "machinery check",
    "lite": "small setting",
    "ladder-10": "small network, 10 epochs",
    "ladder-20": "small network, 20 epochs",
    "ladder-40": "small network, 40 epochs",
    "brief": "the paper's network, 8 epochs",
    "full": "the paper's size",
}

Words = dict[str, str]  # "caption" and "alt", for study.presentation.page.show


def source(group: Group, rows: Iterable[str], *protocols: str, intervals: str = "95 % intervals") -> str:
    """Size, data and seeds of what is drawn, in one sentence without markup. ``intervals``: "" where none are."""
    found = (runs_of(group, key, protocol) for key in rows for protocol in protocols)
    seeds = sorted({len(runs) for runs in found if runs})
    noun = "training" if seeds == [1] else "trainings"
    words = [SETTINGS[group[0].budget], group[0].data["title"], f"{counts(seeds)} {noun} of each", intervals]
    said = ", ".join(filter(None, words))
    return f"{said[0].upper()}{said[1:]}."


def percent(estimate: Estimate) -> str:
    return f"{100 * estimate.value:.1f} %"
