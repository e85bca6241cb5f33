"""Experiments beyond the paper, each against the method that it changes: a figure and a table. No torch."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
from markupsafe import Markup
from matplotlib.figure import Figure

from study.evidence import comparisons
from study.evidence.comparisons import FOUR_COLUMNS, HEADINGS, STRONG
from study.evidence.estimates import Estimate
from study.evidence.selection import Group, runs_of
from study.findings.performance import rounding
from study.plan import catalogue
from study.plan.catalogue import Extension
from study.presentation import markup
from study.presentation.figures import PALETTE, style
from study.presentation.marks import dot, rows_on_y
from study.presentation.sentences import title
from study.presentation.words import Words, where

ANSWERED = ("clean", STRONG)  # what a sentence is about


def lines(group: Group) -> list[tuple[Extension, dict[str, Estimate]]]:
    """Every experiment that was run beside its row, question by question, with its :func:`differences`."""
    found = [(extension, differences(group, extension)) for asked in questions().values() for extension in asked]
    return [(extension, gains) for extension, gains in found if gains]


def settings(group: Group) -> Figure:
    """Every experiment beyond the paper against its row: what it adds on clean images and under PGD-20, a line each."""
    measured = lines(group)
    names = [f"{extension.label}\n− {catalogue.rows()[extension.base].label}" for extension, _ in measured]
    with style():
        figure, panels = plt.subplots(1, 2, figsize=(8.4, 1.0 + 0.48 * len(measured)), sharey=True)
        for panel, column, colour in zip(panels, ANSWERED, PALETTE, strict=False):
            for position, (_, found) in enumerate(measured):
                dot(panel, found[column], position, colour, "o", None)
            panel.axvline(0, color="black", lw=1)
            panel.set(title=HEADINGS[column], xlabel="difference (points)")
        rows_on_y(panels[0], names)
    return figure


def settings_words(group: Group) -> Words:
    said = [
        f"{extension.label} against {catalogue.rows()[extension.base].label}: "
        + ", ".join(f"{100 * found[column].value:+.1f} {where(column)}" for column in ANSWERED)
        for extension, found in lines(group)
    ]
    return {
        "caption": "What each setting adds to the method that it changes, in percentage points, paired by seed and "
        "image: on clean images and under PGD-20 8/255. Corrected protocol; 95 % intervals, each by itself.",
        "alt": f"Two panels of differences with intervals, a line an experiment. {'; '.join(said)}.",
    }


def questions() -> dict[str, list[Extension]]:
    """Question -> the experiments that answer it, in the catalogue's order; rounding has a page of its own."""
    found: dict[str, list[Extension]] = {}
    for extension in catalogue.extensions().values():
        if extension.key not in rounding.MODES:
            found.setdefault(extension.question, []).append(extension)
    return found


def answers(group: Group) -> Markup:
    """Every experiment that was run beside its row, question by question, as HTML: what it changes, and if for certain.

    The intervals of a question's comparisons hold together (Bonferroni). Empty if none was run.
    """
    body = []
    for question, asked in questions().items():
        ready = [extension for extension in asked if differences(group, extension)]
        if ready:
            confidence = 1 - 0.05 / (len(ready) * len(ANSWERED))
            body.append(markup.group_title(question, len(ANSWERED) + 2))
            body += [_line(group, extension, confidence) for extension in ready]
    if not body:
        return Markup()
    return markup.table(
        ["Setting", *(HEADINGS[column] for column in ANSWERED), "Runs"],
        body,
        "Accuracies in percent, corrected protocol. Below each, the difference to the method that is changed, in "
        "points, paired by seed and image, and what follows from its interval.",
    )


def missing(group: Group) -> str:
    """The experiments that were not run, as a sentence of Markdown; empty if none is missing."""
    asked = [extension for asked in questions().values() for extension in asked]
    absent = [extension.label for extension in asked if not differences(group, extension)]
    return f"Not run yet: {', '.join(absent)}." if absent else ""


def gap(group: Group, keys: Sequence[str]) -> str:
    """FGSM against PGD-10 at the same eps, and the training curve's adversarial accuracy, as HTML: is it overfitting?

    Catastrophic overfitting (Wong et al. 2020) leaves a network right under the attack that it was trained with and
    helpless under more steps.
    """
    body = []
    for key in keys:
        runs = runs_of(group, key, "corrected")
        if not runs:
            continue
        names = ("fgsm-8/255", "pgd-10-8/255")
        found = comparisons.by_corrected_rule(group, key, "corrected", names)
        one, many = ((key, "corrected", f"corrected:{name}") for name in names)
        falls = comparisons.difference(group, one, many)
        trained = 100 * sum(run.curve[-1]["adversarial_accuracy"] for run in runs) / len(runs)
        rows = catalogue.rows()
        label = title(rows[key]) if key in rows else catalogue.extensions()[key].label
        cells = [f"{trained:.1f}", *(markup.accuracy(found[name]) for name in names), markup.points(falls)]
        body.append(markup.row(label, [*cells, markup.links(runs)]))
    if not body:
        return ""
    return markup.table(
        ["Method", "Training attack, last epoch", "FGSM 8/255", "PGD-10 8/255", "FGSM minus PGD-10", "Runs"],
        body,
        "Right under the attack of the training, on training images; and on test images under one step and under ten. "
        "Accuracies in percent, the difference in points, with 95 % intervals.",
    )


def differences(group: Group, extension: Extension, confidence: float = 0.95) -> dict[str, Estimate] | None:
    """Column -> accuracy of the experiment minus that of its row; None while they share no seed."""
    found = {
        column: comparisons.difference(
            group,
            (extension.key, "corrected", f"corrected:{column}"),
            (extension.base, "corrected", f"corrected:{column}"),
            confidence,
        )
        for column in FOUR_COLUMNS
    }
    return None if None in found.values() else found


def _line(group: Group, extension: Extension, confidence: float) -> Markup:
    found = comparisons.by_corrected_rule(group, extension.key, "corrected", ANSWERED)
    gains = differences(group, extension, confidence)
    cells = [
        markup.together(
            [
                markup.accuracy(found[column]),
                markup.change(gains[column]),
                markup.span("interval", _said(gains[column], confidence)),
            ]
        )
        for column in ANSWERED
    ]
    base = markup.span("interval", f"against {catalogue.rows()[extension.base].label}")
    head = markup.together([extension.label, base])
    return markup.row(head, [*cells, markup.links(runs_of(group, extension.key, "corrected"))])


def _said(gain: Estimate, confidence: float) -> str:
    unknown = f"cannot be decided; smallest visible {100 * gain.visible(confidence):.1f}"
    return {1: "more", -1: "less", 0: unknown}[gain.sign]
