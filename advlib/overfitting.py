"""Catastrophic overfitting, watched for while a network trains: FGSM against PGD-10 after every epoch. No torch.

A network that learns from large steps can learn to make them fail and stay open to small ones (Wong et al. 2020): its
accuracy under the attack of its training rises while that under PGD falls to nothing, within an epoch or two.
:mod:`advlib.watch` measures it; it is judged here by a rule that was written before any network was watched, though
after the records had shown what the networks of Table 2 end as:

- an epoch is *overfitted* if accuracy under PGD-10 at 8/255, on test images through the branch that learns from
  attacked ones, is for certain below a quarter of the accuracy under the attack of the training in that epoch.
  For certain means by intervals that hold for all epochs of the network together;
- a network *overfits* if its last epoch is overfitted, *recovers* if only earlier ones are, and is *spared* otherwise.

A quarter, and not nothing, because 8/255 is not the size of every training attack; and the quarter of what the network
shows in training, and not of FGSM's accuracy, because FGSM can fail with PGD.
"""

import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from advlib import catalogue, figures, markup, records, statistics
from advlib.evidence import Group
from advlib.markup import row, table
from advlib.records import Measurement, Record
from advlib.statistics import Estimate

NAME = "watched.json"  # beside record.json
SCHEMA = 1
COLUMNS = ("clean", "fgsm-8/255", "pgd-10-8/255")
ONE, MANY = COLUMNS[1:]
HEADINGS = {ONE: "FGSM 8/255", MANY: "PGD-10 8/255"}
SHARE = 1 / 4  # of the accuracy in training: below it an epoch is overfitted
SAME_NETWORK = 0.98  # of clean predictions: rounding in other batches may flip one
OVERFITS, RECOVERS, SPARED = "overfits", "recovers", "spared"


@dataclass(frozen=True)
class Watched:
    """What one network did after every epoch of its training, when that was repeated to the digit."""

    record: str  # the place of the record: budget/dataset/protocol/key/seed
    record_digest: str  # SHA-256 of what that record says
    provenance: dict  # as a record has it
    images: int  # the first of the test set
    epochs: tuple[tuple[Measurement, ...], ...]  # COLUMNS through the branch that learns from attacked images
    schema: int = SCHEMA

    def accuracy(self, column: str, epoch: int, confidence: float = 0.95) -> Estimate:
        """Of the images, after ``epoch``, counted from 1. KeyError if the column was not watched."""
        by_column = {measurement.column: measurement for measurement in self.epochs[epoch - 1]}
        return statistics.accuracy([by_column[column].mask], confidence)


def overfitted(watched: Watched, record: Record) -> list[int]:
    """The epochs, from 1, that are overfitted by this module's rule."""
    confidence = 1 - 0.05 / len(watched.epochs)
    return [
        line["epoch"]
        for line in record.curve
        if watched.accuracy(MANY, line["epoch"], confidence).high < SHARE * line["adversarial_accuracy"]
    ]


def verdict(watched: Watched, record: Record) -> str:
    """OVERFITS, RECOVERS or SPARED."""
    found = overfitted(watched, record)
    return SPARED if not found else OVERFITS if found[-1] == len(watched.epochs) else RECOVERS


def collect(root: Path, group: Group) -> dict[str, tuple[Record, Watched]]:
    """Label -> what lies beside a record of ``group``, in the catalogue's order; errors as for :func:`read`."""
    rows, found = catalogue.experiments(), {}
    order = {key: k for k, key in enumerate(rows)}
    for record in sorted(group, key=lambda record: (order[record.key], record.protocol, record.seed)):
        path = Path(root) / record.where / NAME
        if path.is_file():
            table2 = getattr(rows[record.key], "paper_table", None) == 2
            label = rows[record.key].label + (" (Table 2)" if table2 else "")
            label += f", {record.protocol}" if record.protocol != "corrected" else ""
            label += f", seed {record.seed}" if record.seed else ""
            found[label] = record, read(path, record)
    return found


def read(path: Path, record: Record) -> Watched:
    """The file at ``path``. Raises ValueError, with the remedy, if it is damaged, stale, or not of ``record``."""
    flags = f"--protocol {record.protocol} --budget {record.budget} --dataset {record.config['dataset']}"
    remedy = f"watch again: python -m advlib watch {record.key} {flags} --seed {record.seed}"
    try:
        raw = json.loads(Path(path).read_text())
        records.refuse_other_fields(raw, Watched)
        for one in (one for epoch in raw["epochs"] for one in epoch):
            records.refuse_other_fields(one, Measurement)
        raw["epochs"] = tuple(tuple(Measurement(**one) for one in epoch) for epoch in raw["epochs"])
        found = Watched(**raw)
        for epoch in found.epochs:
            if [(one.column, len(one.mask)) for one in epoch] != [(column, found.images) for column in COLUMNS]:
                raise ValueError(f"an epoch is not of {found.images} images under {', '.join(COLUMNS)}")
        stale = _stale_because(found, record)
    except (TypeError, KeyError, ValueError, zlib.error) as error:
        raise ValueError(f"{path} is no file of a watched training of this advlib ({error}): {remedy}") from error
    if stale:
        raise ValueError(f"{path} does not belong to {record.where} ({stale}): {remedy}")
    return found


def _stale_because(found: Watched, record: Record) -> str | None:
    if found.schema != SCHEMA:
        return f"schema {found.schema}, this advlib reads {SCHEMA}"
    if found.record != record.where:
        return f"it is of {found.record}"
    if found.record_digest != records.digest(record):
        return "the record has changed since"
    if len(found.epochs) != len(record.curve):
        return f"it has {len(found.epochs)} epochs, the record {len(record.curve)}"
    clean = found.epochs[-1][0]
    agreement = (clean.mask == record.measurement(clean.name).mask[: found.images]).mean()
    return f"they agree on {agreement:.0%} of clean images only" if agreement < SAME_NETWORK else None


SAYS = {
    OVERFITS: "overfits: epochs {epochs}",
    RECOVERS: "recovers: overfitted in epochs {epochs}",
    SPARED: "spared",
}


def summary(found: Mapping[str, tuple[Record, Watched]]) -> str:
    """A line a network, HTML: after its best epoch and its last, and the verdict; empty if none was watched."""
    body = []
    for label, (record, watched) in found.items():
        last = len(watched.epochs)
        best = max(range(1, last + 1), key=lambda epoch: watched.accuracy(MANY, epoch).value)
        cells = [
            f"{100 * record.curve[-1]['adversarial_accuracy']:.1f}",
            *(markup.accuracy(watched.accuracy(column, last)) for column in (ONE, MANY)),
            f"{markup.accuracy(watched.accuracy(MANY, best))} <small>epoch {best}</small>",
            SAYS[verdict(watched, record)].format(epochs=", ".join(map(str, overfitted(watched, record)))),
        ]
        body.append(row(escape(label), [*cells, markup.links([record])]))
    if not body:
        return ""
    return table(
        ["Row", "Attack of the training", HEADINGS[ONE], HEADINGS[MANY], f"{HEADINGS[MANY]} at its best", "", "Run"],
        body,
        "After the last epoch, and under PGD-10 after the best one: accuracies in percent, with 95 % intervals for the "
        "test images; the attack of the training on training images. AdvProp through its auxiliary branch.",
    )


def draw(found: Mapping[str, tuple[Record, Watched]]) -> Figure:
    """A panel a network: accuracy in percent after every epoch under the training's attack, one step and ten."""
    columns = min(4, len(found))
    rows = math.ceil(len(found) / columns)
    with figures.style():
        figure, panels = plt.subplots(
            rows, columns, figsize=(2.45 * columns, 2.1 * rows + 0.4), sharex=True, sharey=True, squeeze=False
        )
        for panel, (label, (record, watched)) in zip(panels.flat, found.items(), strict=False):
            epochs = range(1, len(watched.epochs) + 1)
            training = [100 * line["adversarial_accuracy"] for line in record.curve]
            panel.plot(epochs, training, color="black", ls="--", lw=1.5, label="attack of the training")
            for column, colour, marker in ((ONE, figures.PALETTE[1], "s"), (MANY, figures.PALETTE[0], "o")):
                seen = [watched.accuracy(column, epoch) for epoch in epochs]
                panel.plot(epochs, [100 * e.value for e in seen], color=colour, marker=marker, label=HEADINGS[column])
                low, high = ([100 * getattr(e, end) for e in seen] for end in ("low", "high"))
                panel.fill_between(epochs, low, high, color=colour, alpha=0.15, lw=0)
            panel.set_title(label, fontsize=9)
            panel.set(ylim=(0, 100))
            panel.xaxis.get_major_locator().set_params(integer=True)
        for panel in panels.flat[len(found) :]:
            panel.set_visible(False)
        figure.supxlabel("epoch", fontsize=10)
        figure.supylabel("accuracy, %", fontsize=10)
        figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure
