"""What the words of figures share: each has a caption, and a description for those who cannot see it. No torch."""

from collections.abc import Iterable, Sequence

from study.evidence.comparisons import HEADINGS
from study.evidence.estimates import Estimate
from study.evidence.selection import Group, runs_of
from study.plan import catalogue
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
    of_each = f"{plural(seeds, 'training')} of each"
    words = [SETTINGS[group[0].budget], group[0].data["title"], of_each, intervals]
    said = ", ".join(filter(None, words))
    return f"{said[0].upper()}{said[1:]}."


def network(key: str, protocol: str, seed: int = 0) -> str:
    """One trained network, in words that no other has."""
    return f"{catalogue.unique_name(key)}, {protocol}{f', seed {seed}' if seed else ''}"


def not_run(group: Group, keys: Iterable[str]) -> str:
    """Which of the rows were not run under which protocol, as Markdown; empty if none is missing."""
    return ", ".join(
        f"{catalogue.rows()[key].label} ({protocol}, `{key}`)"
        for key in keys
        for protocol in catalogue.PROTOCOLS
        if not runs_of(group, key, protocol)
    )


def plural(count: int | Sequence[int], noun: str) -> str:
    """ "1 training", "3 trainings", or "1 to 3 trainings" for sorted values that differ."""
    values = [count] if isinstance(count, int) else count
    return f"{counts(values)} {noun if values[0] == values[-1] == 1 else f'{noun}s'}"


def where(column: str) -> str:
    """ "on clean images", or under which attack."""
    return "on clean images" if column == "clean" else f"under {HEADINGS[column]}"


def percent(estimate: Estimate) -> str:
    return f"{100 * estimate.value:.1f} %"
