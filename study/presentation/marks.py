"""What figures of several rooms mark alike: rows, protocols, estimates with their intervals. No torch.

A row has the same look in every figure: the colour says how it was trained, the marker which of ALS and SAT it has. The
lines of a legend and the panels' titles say it again in words, so nothing is told by colour alone.
"""

from collections.abc import Sequence

import seaborn as sns

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
