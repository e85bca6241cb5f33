"""Networks under stronger attacks: against the attack's size and steps, by branch and by class. No torch."""

import re

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from study.evidence import comparisons
from study.evidence.comparisons import HEADINGS, STRONG
from study.evidence.estimates import Estimate
from study.evidence.selection import Group, rows_run, runs_of
from study.plan import catalogue
from study.presentation.figures import PALETTE, style
from study.presentation.marks import band, dot, grid, legend, look, rows_on_y, shades
from study.presentation.words import Words, percent, source

PROTOCOL = "corrected"  # of all networks here
READABLE = 20  # classes side by side in a figure; of more, the hardest and the easiest are shown
BRANCHES = (  # what is asked of either batch norm: heading, column of the main one, column of the auxiliary one
    ("clean", "clean", "clean:aux"),
    ("PGD-20, through itself", STRONG, f"{STRONG}:aux"),
    ("PGD-20, through the other", f"{STRONG}:aux-to-main", f"{STRONG}:main-to-aux"),
)


def against_eps(group: Group) -> Figure:
    """Accuracy against the size of the attack, a panel a row of Table 1: FGSM, PGD-10 and noise of the same size."""
    rows = rows_run(group, PROTOCOL)
    kinds = {
        "noise": (r"noise-(\d+)/255", ":", PALETTE[2], "v"),
        "FGSM": (r"fgsm-(\d+)/255", "--", PALETTE[1], "s"),
        "PGD-10": (r"pgd-10-(\d+)/255", "-", PALETTE[0], "o"),
    }
    with style():
        figure, panels = grid(len(rows), 3, 3.2, 2.2)
        for panel, (key, row) in zip(panels, rows.items(), strict=True):
            for name, (pattern, dashes, colour, marker) in kinds.items():
                points = _sweep(group, key, pattern, start="clean")
                band(panel, list(points), points.values(), colour, label=name, ls=dashes, marker=marker)
            panel.set(title=row.label, ylim=(0, 100))
        figure.supxlabel("eps (of 255)", fontsize=10)
        figure.supylabel("accuracy (%)", fontsize=10)
        legend(figure, 3, "outside upper right")
    return figure


def against_eps_words(group: Group) -> Words:
    values = _by_row(group, {"FGSM": "fgsm-8/255", "PGD-10": "pgd-10-8/255"})
    return {
        "caption": "Accuracy against the size of the attack. An honest curve falls towards 0 as eps grows, and PGD "
        "lies below FGSM. Uniform noise of the same size is the control. Networks of the corrected protocol. "
        f"{source(group, catalogue.part(1), PROTOCOL)}",
        "alt": f"A small panel for each method of Table 1, accuracy falling with eps. At eps 8/255: {values}.",
    }


def against_steps(group: Group) -> Figure:
    """Accuracy against the number of PGD steps at eps 8/255: a curve that still falls says the attack was too short."""
    with style():
        figure, panel = plt.subplots(figsize=(6.4, 4.4))
        steps: dict[int, Estimate] = {}
        for key, row in rows_run(group, PROTOCOL).items():
            steps = _sweep(group, key, r"steps-(\d+)")
            values = [100 * estimate.value for estimate in steps.values()]
            panel.plot(list(steps), values, ms=6, lw=1.4, label=row.label, **look(row))
        panel.set(xscale="log", xlabel="PGD steps of 2/255, eps 8/255", ylabel="accuracy (%)", ylim=(0, None))
        panel.set_xticks(list(steps), [str(k) for k in steps], minor=False)
        panel.minorticks_off()
        panel.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def against_steps_words(group: Group) -> Words:
    values = _by_row(group, {"after 2 steps": "steps-2", "after 50": "steps-50"})
    return {
        "caption": "Accuracy against the number of steps of PGD at eps 8/255. Where a curve is flat, more steps of "
        "this attack find nothing more. The paper's PGD takes two. Networks of the corrected protocol. "
        f"{source(group, catalogue.part(1), PROTOCOL, intervals='')}",
        "alt": f"A falling line for each method of Table 1. {values}.",
    }


def by_branch(group: Group) -> Figure:
    """AdvProp's two batch norms: accuracy of each, clean and attacked through itself and through the other one."""
    rows = {key: row for key, row in rows_run(group, PROTOCOL).items() if row.advprop}
    columns = [column for _, *both in BRANCHES for column in both]
    measured = {key: comparisons.by_corrected_rule(group, key, PROTOCOL, columns) for key in rows}
    with style():
        figure, panels = plt.subplots(1, len(BRANCHES), figsize=(9.6, 1.6 + 0.42 * len(rows)), sharey=True)
        for panel, (heading, main, auxiliary) in zip(panels, BRANCHES, strict=True):
            for position, key in enumerate(rows):
                for offset, column, name, colour, marker in [
                    (-0.13, main, "main", PALETTE[0], "o"),
                    (0.13, auxiliary, "auxiliary", PALETTE[1], "s"),
                ]:
                    estimate = measured[key][column]
                    dot(panel, estimate, position + offset, colour, marker, name)
            panel.set(title=heading, xlabel="accuracy (%)", xlim=(0, None))
        rows_on_y(panels[0], [row.label for row in rows.values()])
        legend(figure, 2)
    return figure


def by_branch_words(group: Group) -> Words:
    values = []
    found = {key: row for key, row in rows_run(group, PROTOCOL).items() if row.advprop}
    columns = [column for _, *both in BRANCHES for column in both]
    for key, paper in found.items():
        measured = comparisons.by_corrected_rule(group, key, PROTOCOL, columns)
        main, auxiliary = (percent(measured[column]) for column in (STRONG, f"{STRONG}:aux"))
        values.append(f"{paper.label} main {main}, auxiliary {auxiliary}")
    return {
        "caption": "The two batch norms of AdvProp's networks, each classifying clean images, images attacked through "
        "itself, and images attacked through the other one. Through itself, an image is lost at the first error of two "
        "starts, under the surrogate gradient too where there is one; through the other, what counts is the last step "
        "of one start, under the true gradient. A network's dots are over the same images. "
        f"Corrected protocol. {source(group, found, PROTOCOL)}",
        "alt": f"Three panels with two dots a network. Under PGD-20 through itself: {'; '.join(values)}.",
    }


def per_class(group: Group, labels: np.ndarray) -> Figure:
    """Accuracy of each class, a panel a column, a line a row of Table 1. ``labels``: int (n,), of the test images.

    Of more classes than can be read, the hardest and the easiest, by the mean of the first column's rows.
    """
    rows = rows_run(group, PROTOCOL)
    classes = np.array(group[0].data["classes"])
    columns = ("clean", STRONG)
    grids = [np.array([_by_class(group, key, column, labels, len(classes)) for key in rows]) for column in columns]
    shown = _readable(grids[0])
    with style():
        size = (9.8, 1.6 + 0.36 * len(rows)) if len(shown) <= 10 else (16, 2.4 + 0.36 * len(rows))
        figure, panels = plt.subplots(1, len(columns), figsize=size, sharey=True)
        for panel, column, grid in zip(panels, columns, grids, strict=True):
            shades(panel, grid[:, shown], classes[shown], [row.label for row in rows.values()], vmin=0, vmax=100)
            panel.set_title(f"{HEADINGS[column]} (%)")
            panel.tick_params(axis="x", rotation=60)
            panel.tick_params(axis="y", rotation=0)
    return figure


def per_class_words(group: Group) -> Words:
    names = group[0].data["classes"]
    few = len(names) <= READABLE
    classes = ", ".join(names) if few else f"the {READABLE // 2} hardest and the {READABLE // 2} easiest"
    chosen = "" if few else f" Of {len(names)} classes {classes}, by the mean over the left panel's methods."
    return {
        "caption": f"Accuracy of each class in percent, corrected protocol, clean and under {HEADINGS[STRONG]}."
        f"{chosen} {source(group, catalogue.part(1), PROTOCOL, intervals='')}",
        "alt": f"Two tables as shades and numbers: a line a method of Table 1, a column a class: {classes}.",
    }


def _sweep(group: Group, key: str, pattern: str, start: str | None = None) -> dict[int, Estimate]:
    """What was measured of a sweep: the whole number in the column's name -> accuracy, in order, on the same images.

    ``start``: the column of no attack, which stands at 0.
    """
    found = {0: start} if start else {}
    for measurement in runs_of(group, key, PROTOCOL)[0].measurements:
        if match := re.fullmatch(f"corrected:({pattern})", measurement.name):
            found[int(match[2])] = match[1]
    found = dict(sorted(found.items()))
    measured = comparisons.by_corrected_rule(group, key, PROTOCOL, found.values())
    return {k: measured[column] for k, column in found.items()}


def _by_row(group: Group, columns: dict[str, str]) -> str:
    values = []
    for key, row in rows_run(group, PROTOCOL).items():
        measured = [
            f"{name} {percent(comparisons.accuracy(group, key, PROTOCOL, column))}" for name, column in columns.items()
        ]
        values.append(f"{row.label} {' and '.join(measured)}")
    return ", ".join(values)


def _by_class(group: Group, key: str, column: str, labels: np.ndarray, classes: int) -> list[float]:
    """Accuracy of a row on each class, in percent; nan for a class without an image."""
    masks = [comparisons.survivors(run, f"corrected:{column}") for run in runs_of(group, key, PROTOCOL)]
    of = labels[: min(map(len, masks))]
    return [
        100 * np.mean([mask[: len(of)][of == k] for mask in masks]) if (of == k).any() else np.nan
        for k in range(classes)
    ]


def _readable(grid: np.ndarray) -> np.ndarray:
    """Which of the classes, the columns of ``grid``, are shown: all, or the hardest and the easiest."""
    if grid.shape[1] <= READABLE:
        return np.arange(grid.shape[1])
    order = np.argsort(np.nan_to_num(grid, nan=50.0).mean(axis=0), kind="stable")
    return np.concatenate([order[: READABLE // 2], order[-READABLE // 2 :]])
