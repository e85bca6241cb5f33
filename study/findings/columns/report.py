"""What AdvProp separates, read from four networks, and what running averages of both kinds of images do. No torch."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from study.evidence import comparisons, estimates, selection
from study.evidence.comparisons import HEADINGS, STRONG
from study.evidence.estimates import Estimate
from study.evidence.selection import Group, runs_of
from study.plan import catalogue
from study.presentation import markup
from study.records.columns import OWN, RECALIBRATED, Columns
from study.records.literal import code

# network -> its batch statistics, running averages and affine parameters: of clean and attacked images together, or not
SEPARATION = {
    "adversarial-one-forward": ("joint", "shared", "shared"),
    "advprop-one-forward": ("joint", "shared", "separate"),
    "adversarial": ("separate", "shared", "shared"),
    "advprop": ("separate", "separate", "separate"),
}
STEPS = {  # what one network has apart that the other has not -> the two
    "batch statistics": ("adversarial", "adversarial-one-forward"),
    "affine parameters, with joint statistics": ("advprop-one-forward", "adversarial-one-forward"),
    "running averages and affine parameters": ("advprop", "adversarial"),
}
SHOWN = ("clean", "pgd-0.1", STRONG)
NOT_MEASURED = markup.span("quiet", "not measured")
LARGE_EPS = ("adversarial-large-eps", "sat-large-eps")  # of Table 2, with one batch norm for both kinds of images
Averages = tuple[Estimate, Estimate, Estimate]  # clean accuracy with those of training, with clean ones, the difference
PROTOCOL = "corrected"


def separation(root: Path) -> str:
    """The four networks and the steps between them as HTML; what was not run yet is said so."""
    found = selection.best(root)
    group = found[0] if found else []
    networks = [_network(root, group, key, *kinds) for key, kinds in SEPARATION.items()]
    heads = ["Network", "Batch statistics", "Running averages", "Affine", "Clean", "Clean, recalibrated"]
    steps = [_step(root, group, name, *pair) for name, pair in STEPS.items()]
    title = markup.group_title("What is gained, in percentage points, by separating", len(heads) + 2)
    where = f" Budget {group[0].budget} on {group[0].data['title']}." if group else ""
    caption = (
        "Joint or shared: of clean and attacked images together; separate: of each by themselves. Accuracy in percent, "
        "through the main branch, with 95 % intervals. Recalibrated: the running averages are measured again on clean "
        "training images alone, below it the change on the same test images. These are of other images and trainings "
        f"than the column Clean, so the two columns do not subtract.{where}"
    )
    body = [markup.element("tbody", *networks), markup.element("tbody", title, *steps)]
    return markup.table([*heads, *(HEADINGS[column] for column in SHOWN[1:])], body, caption)


def recalibrated(root: Path, group: Group, key: str) -> Averages | None:
    """What clean running averages change on clean test images, paired by image and seed; None if not measured."""
    measured = _measured(root, group, key)
    if not measured:
        return None
    before, after = (_masks(measured.values(), f"{rule}clean") for rule in (OWN, RECALIBRATED))
    return estimates.accuracy(before), estimates.accuracy(after), estimates.difference(after, before)


def collapse(root: Path) -> str:
    """What clean averages change for Table 2's networks with one batch norm, and what follows, as Markdown."""
    found = selection.best(root)
    measured = {key: recalibrated(root, found[0], key) for key in LARGE_EPS} if found else {}
    measured = {key: one for key, one in measured.items() if one}
    if not measured:
        flags = selection.flags(found[0]) if found else "--budget lite --dataset cifar10-jpeg"
        command = f"python -m study measure columns {' '.join(LARGE_EPS)} {flags}"
        return f"What clean averages change was not measured yet: {code(command)}."
    said = ", ".join(
        f"from {100 * before.value:.1f} to {100 * after.value:.1f} % (*{catalogue.rows()[key].label}*)"
        for key, (before, after, _) in measured.items()
    )
    guess = 1 / len(found[0][0].data["classes"])
    return (
        "Table 2 has networks that are trained on large attacks with one batch norm. With running averages of clean "
        f"images alone, clean accuracy goes {said}. {_why(list(measured.values()), guess)}"
    )


def _why(measured: list[Averages], guess: float) -> str:
    """What follows for the running averages: only what every one of the networks shows for certain."""
    gained = [change.low > 0 for _, _, change in measured]
    if not any(gained):
        return "Whether running averages of both kinds of images explain it cannot be decided at this size."
    if not all(gained):
        return "Running averages of both kinds of images explain it in some; of the others it cannot be decided."
    halved = all(change.low > (after.value - guess) / 2 for _, after, change in measured)
    most = " With them, each of these networks kept less than half of its lead over a guess." if halved else ""
    return f"Averages of both kinds of images did not fit the clean ones.{most}"


def _network(root: Path, group: Group, key: str, *kinds: str) -> str:
    measured = [markup.accuracy(comparisons.accuracy(group, key, PROTOCOL, column)) for column in SHOWN]
    averages = recalibrated(root, group, key)
    if averages:
        again = markup.accuracy(averages[1]) + markup.change(averages[2])
    else:
        again = NOT_MEASURED if runs_of(group, key, PROTOCOL) else markup.NOT_RUN
    return markup.row(catalogue.experiments()[key].label, [*kinds, measured[0], again, *measured[1:]])


def _step(root: Path, group: Group, name: str, after: str, before: str) -> str:
    gains = [
        comparisons.difference(group, *((key, PROTOCOL, f"{OWN}{column}") for key in (after, before)))
        for column in SHOWN
    ]
    cells = [markup.points(gain) for gain in gains]
    both = [_measured(root, group, key) for key in (after, before)]
    seeds = sorted(both[0].keys() & both[1].keys())
    if seeds:
        masks = _masks([of[seed] for of in both for seed in seeds], f"{RECALIBRATED}clean")
        again = markup.points(
            estimates.difference(*np.split(masks, 2), spread=comparisons.spread(group, f"{OWN}clean"))
        )
    else:
        again = NOT_MEASURED if gains[0] else markup.NOT_RUN
    return markup.row(name, ["", "", "", cells[0], again, *cells[1:]])


def _measured(root: Path, group: Group, key: str) -> dict[int, Columns]:
    """Seed -> what lies beside the record of that seed, if clean images were measured with clean averages too."""
    runs = runs_of(group, key, PROTOCOL)
    found = Columns.collect(root, runs)
    of = {record.seed: found[record.where] for record in runs if record.where in found}
    return {seed: one for seed, one in of.items() if any(m.name == f"{RECALIBRATED}clean" for m in one.measurements)}


def _masks(measured: Iterable[Columns], name: str) -> np.ndarray:
    """bool (S, n): which images were right in that measurement, of those that all have."""
    masks = [one.mask(name) for one in measured]
    return np.array([mask[: min(map(len, masks))] for mask in masks])
