"""The 19 points in which the paper's released code, its text and the techniques' own papers differ, as data. No torch.

Facts read from the authors' public repository (francoisdavid/AdvProp_ALS_SAT, commit 3e490f7), in our words; none of
its code, which carries no licence. Each point names the switch of the catalogue that moves it in training, and the
comparisons that measure it in evaluation.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from study.plan import catalogue

PGD_20 = "corrected:pgd-20-8/255"
OF_A_SWITCH = {  # what is compared where the training differs: the paper's measure, and a strong attack
    "clean, published rule": "published:clean",
    "FGSM 0.1, published rule": "published:fgsm-0.1",
    "PGD-20 8/255, pixels": PGD_20,
}
# Two published rows that are one experiment: neither radius is within reach of the training attack
REPLICATE = ("sat-advprop", "sat-advprop-eps-0.5")
Pair = tuple[str, str, str]  # heading of the column, measurement before, measurement after


@dataclass(frozen=True)
class Point:
    """One point: what the released code does, what is intended, and where this project can change one for the other."""

    number: int
    name: str
    published: str
    corrected: str
    switch: str | None = None  # of catalogue.SWITCHES: it changes the training
    comparisons: tuple[str, ...] = ()  # of COMPARISONS: it changes the evaluation
    always: str = ""  # where there is no choice: what both protocols do

    @property
    def anchor(self) -> str:
        return f"point-{self.number}"


@dataclass(frozen=True)
class Comparison:
    """Pairs of measurements of the networks trained under ``protocol``, and which of the networks have them."""

    caption: str
    pairs: tuple[Pair, ...]
    protocol: str = "published"
    applies: Callable[[catalogue.Row], bool] = lambda row: True


POINTS = (
    Point(
        1,
        "space of the attack",
        "eps, step and clamp in standardised units",
        "in pixels",
        switch="space",
        comparisons=("clamp", "pixels"),
    ),
    Point(
        2,
        "batch norm at test time",
        "statistics of each test batch",
        "running statistics",
        comparisons=("statistics",),
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
        comparisons=("true-gradient", "surrogate"),
    ),
    Point(9, "step of PGD 0.5", "2/255", "0.5, as the table's header says", comparisons=("step", "reach")),
    Point(
        10,
        "random start, restarts",
        "none",
        "none for the paper's columns, both for the stronger attack",
        comparisons=("random-start",),
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
    Point(
        15,
        "seeds",
        "none fixed, one run of each method",
        "fixed, several, with intervals",
        always="one fixed seed a run",
    ),
    Point(16, "network that is reported", "the last; the best is only printed", "the last", always="the last network"),
    Point(17, "options", "any text given to a yes/no option means yes", "validated", always="a validated config"),
    Point(18, "last batch of an epoch", "kept: 196 updates", "left out where incomplete", switch="remainder"),
    Point(19, "precision", "float32", "what the device does best, stated", switch="precision"),
)


def _columns(before: str, after: str, columns: Sequence[str]) -> tuple[Pair, ...]:
    headings = catalogue.COLUMNS | {"clamp-alone": "clamp alone"}
    return tuple((headings[column], f"{before}:{column}", f"{after}:{column}") for column in columns)


COMPARISONS = {
    "clamp": Comparison(
        "The clamp alone. Published rule: clean images, then the same through the published clamp, with eps = 0",
        (("no attack → clamp alone", "published:clean", "published:clamp-alone"),),
    ),
    "pixels": Comparison(
        "The space of the attack. Published rule: attacked in standardised units, then in pixels; all else unchanged",
        _columns("published", "published, pixels", ("fgsm-0.1", "pgd-0.1", "fgsm-0.5")),
    ),
    "statistics": Comparison(
        "The statistics of batch norm at test time. Published rule: those of the test batch, then the running ones",
        _columns("published", "published, running statistics", ("clean", "clamp-alone", "fgsm-0.1", "pgd-0.1")),
    ),
    "true-gradient": Comparison(
        "The gradient of the evaluation's attack. Published rule: the surrogate's, then the true one",
        _columns("published", "published, true gradient", ("fgsm-0.1", "pgd-0.1", "pgd-0.5")),
        applies=lambda row: row.sat,
    ),
    "step": Comparison(
        "The step of PGD 0.5. Published rule: 2/255, which the code evaluates, then 0.5, as the table's header says",
        (("PGD 0.5: step 2/255 → 0.5", "published:pgd-0.5-code", "published:pgd-0.5"),),
    ),
    "random-start": Comparison(
        "Random starts. PGD with 20 steps of 2/255 and eps 8/255: from the image, then twice from a random start",
        (("PGD-20: from the image → random", "corrected:steps-20", PGD_20),),
        protocol="corrected",
    ),
    "reach": Comparison(
        "Two attacks of eps 0.1, on pixels: FGSM, whose step is 0.1, then PGD with two steps of 2/255",
        (("FGSM 0.1 → PGD 0.1", "corrected:fgsm-0.1", "corrected:pgd-0.1"),),
        protocol="corrected",
    ),
    "branch": Comparison(
        "The branch that is asked, each attacked through itself under the true gradient: main, then auxiliary",
        (
            ("clean: main → aux", "corrected:clean", "corrected:clean:aux"),
            ("PGD-20 8/255: main → aux", PGD_20, f"{PGD_20}:aux"),
        ),
        protocol="corrected",
        applies=lambda row: row.advprop,
    ),
    "surrogate": Comparison(
        "The gradient that the attack follows, on pixels: the true one, then the surrogate's",
        (
            ("FGSM 0.1", "corrected:fgsm-0.1", "corrected:fgsm-0.1:surrogate"),
            ("PGD-20 8/255", PGD_20, f"{PGD_20}:surrogate"),
        ),
        protocol="corrected",
        applies=lambda row: row.sat,
    ),
}
