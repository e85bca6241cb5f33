"""The full factorial of AdvProp, ALS and SAT: what each adds, and what they add together. No torch."""

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from study.evidence import comparisons
from study.evidence.comparisons import FOUR_COLUMNS, HEADINGS, STRONG
from study.evidence.selection import Group
from study.plan import catalogue
from study.presentation.figures import style
from study.presentation.marks import SIDE_BY_SIDE, dot, legend, rows_on_y
from study.presentation.markup import counts, interval, points, row, table
from study.presentation.words import Words, not_run, plural, where

ASKED = ("clean", STRONG)  # what the sentences are about


def protocols(group: Group) -> list[str]:
    """The protocols under which all eight rows of the design were run."""
    return [p for p in catalogue.PROTOCOLS if comparisons.factorial(group, p, "clean") is not None]


def answer(group: Group) -> str:
    """Which effects are told from none, on clean images and under PGD-20, a sentence a protocol, as Markdown.

    By intervals that hold for all effects of a protocol together (Bonferroni).
    """
    sentences = []
    for protocol in protocols(group):
        number = len(ASKED) * (len(catalogue.factorial()) - 1)
        effects = f"of {number} effects {' and '.join(map(where, ASKED))}"
        found = {
            (chosen, column): effect
            for column in ASKED
            for chosen, effect in comparisons.factorial(group, protocol, column, 1 - 0.05 / number).items()
        }
        certain = [
            f"{' × '.join(chosen)} {interval(effect)} points {where(column)}"
            for (chosen, column), effect in found.items()
            if effect.sign
        ]
        together = any(len(chosen) > 1 for (chosen, _), effect in found.items() if effect.sign)
        sentences.append(
            f"Under the `{protocol}` protocol {len(certain)} {effects} differ from zero: {'; '.join(certain)}."
            if certain
            else f"Under the `{protocol}` protocol none {effects} differs from zero for certain."
        )
        if not together:
            sentences.append("No interaction does: by these runs the techniques may simply add up.")
    return " ".join(sentences)


def factorial(group: Group) -> Figure:
    """Effects of AdvProp, ALS and SAT on top of adversarial training, and their interactions, in percentage points.

    Raises ValueError while a row of the 2x2x2 is missing under both protocols.
    """
    with style():
        figure, panels = plt.subplots(1, len(FOUR_COLUMNS), figsize=(9.8, 4.0), sharey=True)
        names: list[str] = []
        for panel, column in zip(panels, FOUR_COLUMNS, strict=True):
            panel.axvline(0, color="black", lw=1)
            for protocol, (side, *looks) in SIDE_BY_SIDE.items():
                found = comparisons.factorial(group, protocol, column) or {}
                for position, estimate in enumerate(found.values()):
                    dot(panel, estimate, position + 0.15 * side, *looks, protocol)
                names = names or [" x ".join(chosen) for chosen in found]
            panel.set(title=HEADINGS[column], xlabel="effect (points)")
        if not names:
            raise ValueError(
                f"the factorial needs the methods {', '.join(catalogue.factorial().values())}: run them first"
            )
        rows_on_y(panels[0], names)
        legend(figure, 2)
    return figure


def factorial_words(group: Group) -> Words:
    found, said, first = [], [], group[0]
    for protocol in catalogue.PROTOCOLS:
        for column in ("clean", STRONG):
            effects = comparisons.factorial(group, protocol, column) or {}
            said += effects.values()
            found += [
                f"{' x '.join(names)} on {HEADINGS[column]}, {protocol}: {100 * effect.value:+.1f}"
                for names, effect in effects.items()
                if effect.sign
            ]
    seeds, images = (sorted({getattr(effect, of) for effect in said}) for of in ("seeds", "n"))
    return {
        "caption": "What AdvProp, ALS and SAT each change on top of adversarial training, on average over the presence "
        "of the others, and what they change together. An interval that crosses the line is compatible with no "
        f"effect. Budget {first.budget} on {first.data['title']}, {plural(seeds, 'training')} of each and "
        f"{counts(images)} images; 95 % intervals.",
        "alt": "Dots with intervals, an effect a line, a column a panel. Effects in points whose intervals exclude "
        f"zero: {'; '.join(found) or 'none'}.",
    }


def effects(group: Group, protocol: str) -> str:
    """Main effects and interactions on every column under one protocol, as HTML, in percentage points."""
    by_column = [comparisons.factorial(group, protocol, column) for column in HEADINGS]
    body = [row(" × ".join(chosen), [points(of_column[chosen]) for of_column in by_column]) for chosen in by_column[0]]
    shown = by_column[0]["AdvProp",]
    caption = (
        f"Effects on accuracy on top of adversarial training, {protocol} protocol, in percentage points, of "
        f"{plural(shown.seeds, 'training')} of each method and {shown.n:,} images. Intervals are "
        "95 %, bold where they exclude 0; of so many, one in twenty does by chance alone."
    )
    return table(["Effect", *HEADINGS.values()], body, caption)


def missing(group: Group) -> str:
    """The rows of the design that were not run, as a sentence of Markdown; empty if none is missing."""
    absent = not_run(group, catalogue.factorial().values())
    return f"Not run yet, and needed for the design: {absent}." if absent else ""
