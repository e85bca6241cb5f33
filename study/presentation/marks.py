"""What figures of several rooms mark alike: rows, protocols, estimates with their intervals. No torch.

A row has the same look in every figure: the colour says how it was trained, the marker which of ALS and SAT it has. The
lines of a legend and the panels' titles say it again in words, so nothing is told by colour alone.
"""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.figure import Figure

from study.evidence.comparisons import HEADINGS
from study.evidence.estimates import Estimate
from study.plan import catalogue
from study.presentation.figures import PALETTE

SIDE_BY_SIDE = {"published": (-1, PALETTE[1], "s"), "corrected": (1, PALETTE[0], "o")}  # place, colour, marker
_TECHNIQUES = {(False, False): "o", (True, False): "s", (False, True): "^", (True, True): "D"}  # (ALS, SAT) -> marker


def look(row: catalogue.Row) -> dict:
    """Colour and marker of a row: grey without adversarial training, blue with AdvProp, orange without it."""
    strength = (row.train_eps, row.train_step_size)
    usual = tuple(getattr(catalogue.rows()["adversarial"], name) for name in ("train_eps", "train_step_size"))
    if not row.adversarial:
        colour = (0.25, 0.25, 0.25)
    elif strength == usual:
        colour = PALETTE[0] if row.advprop else PALETTE[1]
    else:  # trained on larger steps, or larger eps
        colour = PALETTE[9] if row.advprop else PALETTE[3]
    return {"color": colour, "marker": _TECHNIQUES[row.als, row.sat]}


def accuracy_under(column: str) -> str:
    """The label of an axis."""
    return f"accuracy under {HEADINGS[column]} (%)"


def dot(panel, estimate: Estimate, position: float, colour, marker: str, label: str | None) -> None:
    """An estimate and its interval along x, in percent or points."""
    value, low, high = (100 * v for v in (estimate.value, estimate.low, estimate.high))
    panel.errorbar(
        value,
        position,
        xerr=[[value - low], [high - value]],
        fmt=marker,
        color=colour,
        ms=5,
        capsize=2,
        lw=1,
        label=label,
    )


def band(panel, x: Sequence[float], estimates: Sequence[Estimate], colour, **line) -> None:
    """Estimates as a line over x, in percent, and their intervals as a shade."""
    value, low, high = ([100 * getattr(e, part) for e in estimates] for part in ("value", "low", "high"))
    panel.plot(x, value, color=colour, ms=4, lw=1.5, **line)
    panel.fill_between(x, low, high, color=colour, alpha=0.15, lw=0)


def grid(number: int, across: int, width: float, height: float) -> tuple[Figure, list]:
    """A figure, and in it so many panels of that size on the same axes, ``across`` of them side by side."""
    down = -(-number // across)
    size = (width * across, height * down + 0.6)
    figure, panels = plt.subplots(down, across, figsize=size, sharex=True, sharey=True, squeeze=False)
    for panel in panels.flat[number:]:
        panel.remove()
    for panel in panels.flat[max(0, number - across) : number]:  # nothing stands below these
        panel.tick_params(labelbottom=True)
    return figure, list(panels.flat[:number])


def legend(figure: Figure, ncols: int, loc: str = "outside lower center", **looks) -> None:
    """One legend for all panels, in which what stands in several is said once."""
    marks = {
        label: mark for panel in figure.axes for mark, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    figure.legend(marks.values(), marks.keys(), loc=loc, ncols=ncols, **looks)


def rows_on_y(panel, names: Sequence[str]) -> None:
    """Names down the y axis, the first on top."""
    panel.set_yticks(range(len(names)), names)
    panel.set_ylim(len(names) - 0.5, -0.5)
    panel.grid(axis="y", visible=False)


def shades(panel, grid, columns: Sequence[str], rows: Sequence[str], size: int = 7, **looks) -> None:
    """A table of percentages as shades with the numbers in, of that size."""
    sns.heatmap(
        grid,
        ax=panel,
        cmap="cividis",
        annot=True,
        fmt=".0f",
        annot_kws={"size": size},
        cbar=False,
        xticklabels=columns,
        yticklabels=rows,
        **looks,
    )
