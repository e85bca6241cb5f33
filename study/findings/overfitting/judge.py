"""Catastrophic overfitting, watched for while a network trains: FGSM against PGD-10 after every epoch. No torch.

A network that learns from one or two large steps can learn to make them fail and stay open to more and smaller ones
(Wong et al. 2020): its accuracy under the attack of its training rises while that under PGD falls to nothing, within an
epoch or two. :mod:`overfitting.measure` measures it, with attacks no larger than that of the training (:func:`size`).
It is judged here by a rule that was written when the records were known, which say how networks end, and before any
network was watched by it:

- an epoch is *overfitted* if accuracy under PGD-10 on test images is for certain below a quarter of the accuracy under
  the attack of the training in that epoch, through the branch that learns from attacked images. For certain means by
  intervals that hold for all epochs of the network together;
- a network *overfits* if its last epoch is overfitted, *recovers* if only earlier ones are, and is *spared* otherwise.

The accuracy in training is over training images, so where a network learns those by heart (Rice et al. 2020) the two
differ as well, but not to a quarter. FGSM is shown beside and does not enter the rule: its accuracy can stay with that
of the training, or fall together with PGD's.
"""

import json
import zlib
from dataclasses import dataclass
from pathlib import Path

from study import records
from study.evidence import estimates, selection
from study.evidence.estimates import Estimate
from study.evidence.selection import Group
from study.plan import catalogue
from study.plan.config import Config
from study.records import Measurement, Record
from study.records import beside as records_beside

NAME = "watched.json"  # beside record.json
SCHEMA = 1
CLEAN, ONE, MANY = "clean", "fgsm", "pgd-10"
HEADINGS = {ONE: "FGSM", MANY: "PGD-10"}
SIZES = (1, 2, 4, 8, 16)  # of 255: the attacks that every record has
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
    epochs: tuple[tuple[Measurement, ...], ...]  # :func:`columns` through the branch that learns from attacked images
    schema: int = SCHEMA

    def accuracy(self, method: str, epoch: int, confidence: float = 0.95) -> Estimate:
        """Of the images, after ``epoch``, counted from 1, under CLEAN, ONE or MANY."""
        found = self.epochs[epoch - 1][(CLEAN, ONE, MANY).index(method)]
        return estimates.accuracy([found.mask], confidence)


def size(config: Config) -> int:
    """The largest of SIZES that is no larger than what the training attack can reach, from the image or the ball.

    Raises ValueError for a training without one, or with one that the watched attacks cannot be set against: on
    standardised images, or through another branch than the one that learns from its images.
    """
    if not config.adversarial:
        raise ValueError("it trains on clean images only: there is no attack to overfit to")
    if config.attack_space != "pixels" or (config.norm != "shared" and config.attack_branch != "aux"):
        raise ValueError(
            f"its training attacks {config.attack_space} through the {config.attack_branch} branch: only attacks on "
            "pixels, through the branch that learns from their images, can be set against those that are watched"
        )
    return max(one for one in SIZES if one <= 255 * config.reach + 1e-6)


def columns(config: Config) -> tuple[str, str, str]:
    """What is watched, as a record's columns: no attack, FGSM and PGD-10 of :func:`size`."""
    return CLEAN, *(f"{method}-{size(config)}/255" for method in (ONE, MANY))


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


def collect(root: Path, group: Group) -> list[tuple[Record, Watched]]:
    """What lies beside the records of ``group``, in the catalogue's order; errors as for :func:`read`."""
    order = {key: k for k, key in enumerate(catalogue.experiments())}
    in_order = sorted(group, key=lambda record: (order[record.key], record.protocol, record.seed))
    beside = [(record, Path(root) / record.where / NAME) for record in in_order]
    return [(record, read(path, record)) for record, path in beside if path.is_file()]


def label(record: Record) -> str:
    """The network in words, another for each record of a group."""
    protocol = f", {record.protocol}" if record.protocol != "corrected" else ""
    seed = f", seed {record.seed}" if record.seed else ""
    return f"{catalogue.unique_name(record.key)}{protocol}{seed}"


def read(path: Path, record: Record) -> Watched:
    """The file at ``path``. Raises ValueError, with the remedy, if it is damaged, stale, or not of ``record``."""
    flags = f"--protocol {record.protocol} {selection.flags([record])}"
    remedy = f"watch again: python -m study watch {record.key} {flags} --seed {record.seed}"
    try:
        raw = json.loads(Path(path).read_text())
        records_beside.refuse_other_fields(raw, Watched)
        for one in (one for epoch in raw["epochs"] for one in epoch):
            records_beside.refuse_other_fields(one, Measurement)
        raw["epochs"] = tuple(tuple(Measurement(**one) for one in epoch) for epoch in raw["epochs"])
        found = Watched(**raw)
        stale = foreign(found, record)
    except (TypeError, KeyError, ValueError, zlib.error) as error:
        raise ValueError(f"{path} is no file of a watched training of this study ({error}): {remedy}") from error
    if stale:
        raise ValueError(f"{path} does not belong to {record.where} ({stale}): {remedy}")
    return found


def foreign(found: Watched, record: Record) -> str | None:
    """Why what was watched does not belong to the record, or None if it does."""
    wanted = [(column, found.images) for column in columns(record.as_config())]
    if found.schema != SCHEMA:
        return f"schema {found.schema}, this study reads {SCHEMA}"
    if found.record != record.where:
        return f"it is of {found.record}"
    if found.record_digest != records.digest(record):
        return "the record has changed since"
    if len(found.epochs) != len(record.curve):
        return f"it has {len(found.epochs)} epochs, the record {len(record.curve)}"
    if any([(one.column, len(one.mask)) for one in epoch] != wanted for epoch in found.epochs):
        return f"an epoch is not of {found.images} images under {', '.join(column for column, _ in wanted)}"
    clean = found.epochs[-1][0]
    agreement = (clean.mask == record.measurement(clean.name).mask[: found.images]).mean()
    return f"they agree on {agreement:.0%} of clean images only" if agreement < SAME_NETWORK else None
