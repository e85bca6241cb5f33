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

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from study.evidence import estimates
from study.evidence.estimates import Estimate
from study.evidence.selection import Group
from study.plan import catalogue
from study.plan.attacks import SWEEP_EPS
from study.plan.config import Config
from study.records import Measurement, Record
from study.records.beside import Beside

CLEAN, ONE, MANY = "clean", "fgsm", "pgd-10"
HEADINGS = {ONE: "FGSM", MANY: "PGD-10"}
SHARE = 1 / 4  # of the accuracy in training: below it an epoch is overfitted
OVERFITS, RECOVERS, SPARED = "overfits", "recovers", "spared"


@dataclass(frozen=True, kw_only=True)
class Watched(Beside):
    """What one network did after every epoch of its training, when that was repeated to the digit.

    Its measurements: "epoch-1:corrected:clean", ..., :func:`columns` of every epoch, through the branch that learns
    from attacked images.
    """

    FILE = "watched.json"
    KIND = "overfitting"

    @property
    def epochs(self) -> list[tuple[Measurement, ...]]:
        """The measurements of each epoch."""
        return [self.measurements[k : k + 3] for k in range(0, len(self.measurements), 3)]

    def accuracy(self, method: str, epoch: int, confidence: float = 0.95) -> Estimate:
        """Of the images, after ``epoch``, counted from 1, under CLEAN, ONE or MANY."""
        found = self.epochs[epoch - 1][(CLEAN, ONE, MANY).index(method)]
        return estimates.accuracy([found.mask], confidence)

    def witnesses(self) -> Mapping[str, str]:
        name = self.epochs[-1][0].name
        return {name: name.partition(":")[2]}

    def foreign(self, record: Record, weights: str | None = None) -> str | None:
        seen = [(f"epoch-{k + 1}", column) for k in range(len(record.curve)) for column in columns(record.as_config())]
        if [(m.name.partition(":")[0], m.column) for m in self.measurements] != seen:
            return "it is of other epochs or other attacks"
        return super().foreign(record, weights)


def size(config: Config) -> int:
    """The largest of SWEEP_EPS that is no larger than what the training attack can reach, from the image or the ball.

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
    return max(one for one in SWEEP_EPS if one <= 255 * config.reach + 1e-6)


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
    """What lies beside the records of ``group``, in the catalogue's order; errors as for :meth:`Beside.read`."""
    order = {key: k for k, key in enumerate(catalogue.experiments())}
    in_order = sorted(group, key=lambda record: (order[record.key], record.protocol, record.seed))
    found = Watched.collect(root, in_order)
    return [(record, found[record.where]) for record in in_order if record.where in found]
