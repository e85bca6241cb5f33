"""The full factorial of AdvProp, ALS and SAT as tables: what each adds, and what they add together. No torch."""

from advlib import catalogue, evidence
from advlib.evidence import HEADINGS, Group, runs_of
from advlib.markup import points, row, table


def protocols(group: Group) -> list[str]:
    """The protocols under which all eight rows of the design were run."""
    return [p for p in catalogue.PROTOCOLS if evidence.factorial(group, p, "clean") is not None]


def effects(group: Group, protocol: str) -> str:
    """Main effects and interactions on every column under one protocol, as HTML, in percentage points."""
    by_column = [evidence.factorial(group, protocol, column) for column in HEADINGS]
    body = [row(" × ".join(chosen), [points(effects[chosen]) for effects in by_column]) for chosen in by_column[0]]
    shown = by_column[0]["AdvProp",]
    noun = "training" if shown.seeds == 1 else "trainings"
    caption = (
        f"Effects on accuracy on top of adversarial training, {protocol} protocol, in percentage points, of "
        f"{shown.seeds} {noun} a row and {shown.n:,} images. Intervals are "
        "95 %, bold where they exclude 0; of so many, one in twenty does by chance alone."
    )
    return table(["Effect", *HEADINGS.values()], body, caption)


def missing(group: Group) -> str:
    """The rows of the design that were not run, as a sentence of Markdown; empty if none is missing."""
    absent = [
        f"{catalogue.rows()[key].label} ({protocol}, `{key}`)"
        for protocol in catalogue.PROTOCOLS
        for key in catalogue.factorial().values()
        if not runs_of(group, key, protocol)
    ]
    return f"Not run yet, and needed for the design: {', '.join(absent)}." if absent else ""
