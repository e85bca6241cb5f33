"""The 19 points in which the paper's released code, its text and the techniques' own papers differ, as data. No torch.

Facts read from the authors' public repository (francoisdavid/AdvProp_ALS_SAT, commit 3e490f7), in our words; none of
its code, which carries no licence. Each point names the switch of the catalogue that moves it in training, and the
contrasts that measure it in evaluation.
"""

from dataclasses import dataclass
from html import escape

from study.findings.as_published import contrasts
from study.plan import catalogue
from study.presentation.markup import row, table


@dataclass(frozen=True)
class Point:
    """One point: what the released code does, what is intended, and where this project can change one for the other."""

    number: int
    name: str
    published: str
    corrected: str
    switch: str | None = None  # of catalogue.SWITCHES: it changes the training
    contrasts: tuple[str, ...] = ()  # of contrasts.CONTRASTS: it changes the evaluation
    always: str = ""  # where there is no choice: what both protocols do

    @property
    def anchor(self) -> str:
        return f"point-{self.number}"


POINTS = (
    Point(
        1,
        "space of the attack",
        "eps, step and clamp in standardised units",
        "in pixels",
        switch="space",
        contrasts=("clamp", "pixels"),
    ),
    Point(
        2,
        "batch norm at test time",
        "statistics of each test batch",
        "running statistics",
        contrasts=("statistics",),
    ),
    Point(
        3,
        "batch norm while crafting",
        "training mode: attack passes move the running statistics",
        "evaluation mode",
        switch="mode",
    ),
    Point(4, "branch that AdvProp attacks through", "main", "auxiliary", switch="branch"),
    Point(5, "batch norms with a twin", "17 of 20: none on a shortcut", "all 20", switch="layers"),
    Point(6, "update", "two optimiser steps a mini-batch", "one step on the mean of both halves", switch="update"),
    Point(7, "ALS", "log(softmax + 1e-8)", "log-softmax", switch="loss"),
    Point(
        8,
        "SAT",
        "surrogate slope everywhere, also in the evaluation's attack",
        "surrogate in training; evaluated with both slopes, the worse counts",
        contrasts=("true-gradient", "surrogate"),
    ),
    Point(9, "step of PGD 0.5", "2/255", "0.5, as the table's header says", contrasts=("step", "reach")),
    Point(
        10,
        "random start, restarts",
        "none",
        "none for the paper's columns, both for the stronger attack",
        contrasts=("random-start",),
    ),
    Point(11, "optimiser", "SGD with momentum and weight decay", "the same", always="the same SGD"),
    Point(
        12,
        "schedule",
        "cosine over 80 of 100 epochs, an epoch late, then constant",
        "over all epochs",
        switch="schedule",
    ),
    Point(13, "augmentation", "two paddings, crop, flip, rotation", "padding, crop, flip", switch="augmentation"),
    Point(14, "initial weights", "Kaiming normal, last bias as torch draws it", "the same, last bias 0", switch="bias"),
    Point(15, "seeds", "none fixed, one run a row", "fixed, several, with intervals", always="one fixed seed a run"),
    Point(16, "network that is reported", "the last; the best is only printed", "the last", always="the last network"),
    Point(17, "options", "any text given to a yes/no option means yes", "validated", always="a validated config"),
    Point(18, "last batch of an epoch", "kept: 196 updates", "left out where incomplete", switch="remainder"),
    Point(19, "precision", "float32", "what the device does best, stated", switch="precision"),
)
# Two published rows that are one experiment: neither radius is within reach of the training attack
REPLICATE = ("sat-advprop", "sat-advprop-eps-0.5")


def overview() -> str:
    """All points as an HTML table: what the code does, what is intended, and what moves one to the other here."""
    lines = [
        row(
            f'<a href="#{point.anchor}">{point.number}. {escape(point.name)}</a>',
            [escape(point.published), escape(point.corrected), _where(point)],
        )
        for point in POINTS
    ]
    caption = (
        "The points in which code, text and the techniques' own papers differ. Training: the switch, and the field of "
        "the config. Test: measured by the evaluation of every network."
    )
    return table(["Point", "Released code", "Intended", "Here"], lines, caption, "words")


def effects(root, number: int) -> str:
    """What a point does to the numbers, from the records in ``root``, as HTML: its contrasts, then its switch."""
    point = POINTS[number - 1]
    shown = [contrasts.table(root, name) for name in point.contrasts]
    if point.switch:
        shown.append(contrasts.switch_table(root, point.switch))
    if not shown:
        raise ValueError(f"point {number} has nothing to measure: both protocols have {point.always}")
    return "".join(shown)


def weaker_and_stronger() -> str:
    """In how many published rows the attack of the shorter reach leaves less accuracy, as HTML."""
    rows = catalogue.rows()
    less = {key for key, row in rows.items() if row.published["pgd-0.1"] < row.published["fgsm-0.1"]}
    of_table_1 = len(less & set(catalogue.part(1)))
    others = ", ".join(row.name for key, row in rows.items() if key not in less)
    return (
        f'<p class="generated">One thing the code does not explain. "PGD 0.1" moves a value by 4/255 at most, '
        f'"FGSM 0.1" by 0.1. Yet in {len(less)} of the {len(rows)} published rows ({of_table_1} of the '
        f"{len(catalogue.part(1))} of Table 1) PGD 0.1 leaves less accuracy. Only {escape(others)} are as one would "
        "expect.</p>"
    )


def replicate() -> str:
    """The two published rows that are one experiment, and the lead of ALS + SAT over SAT beside them, as HTML."""
    rows = catalogue.rows()
    one, other = (rows[key].published for key in REPLICATE)
    sat, both = rows["sat"].published, rows["als-sat"].published
    lines = [
        row(escape(rows[key].name), [f"{rows[key].published[column]:.2f}" for column in catalogue.COLUMNS])
        for key in REPLICATE
    ]
    for name, a, b in (("their difference", other, one), ("ALS + SAT minus SAT", sat, both)):
        lines.append(row(name, [f"{b[column] - a[column]:+.2f}" for column in catalogue.COLUMNS]))
    caption = (
        "Published accuracies in percent: two trainings of one experiment, and below, for its size, a lead between two "
        "experiments."
    )
    return table(["Row", *catalogue.COLUMNS.values()], lines, caption)


def _where(point: Point) -> str:
    parts = []
    if point.switch:
        field, _ = catalogue.SWITCHES[point.switch]
        parts.append(f"training: <code>{point.switch}</code> (<code>{field}</code>)")
    if point.contrasts:
        parts.append("test")
    return "; ".join(parts) or f"both protocols: {escape(point.always)}"
