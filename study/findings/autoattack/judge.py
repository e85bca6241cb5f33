"""What AutoAttack left of a network: a file beside its record; :mod:`autoattack.measure` writes it. No torch here.

AutoAttack is an ensemble of four attacks without a setting to tune (Croce and Hein 2020), run one after the other: each
is tried only on images that are still classified correctly after all before it. So a mask in this file is what is left
after an attack *and all before it*, and the last one is the worst case over the ensemble. ``autoattack.json`` is
written after each attack and holds as many as are finished; the next call of the command goes on from there.

The file is of one record and of one file of weights, and says by digests of which. It is refused for any other.
"""

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from study import records
from study.evidence import comparisons, estimates
from study.evidence.comparisons import STRONG
from study.evidence.estimates import Estimate
from study.evidence.selection import Group
from study.findings.masking import probes as masking
from study.findings.masking.probes import Probe
from study.plan import catalogue
from study.records import Measurement, Record
from study.records import beside as records_beside
from study.records.packing import unpack_mask

ATTACKS = ("apgd-ce", "apgd-t", "fab-t", "square")  # in the order of the standard version
# of the network itself, then what only an attack can raise
FLAGS = ("randomised", "probabilities", "optimises", "zero-gradient", "square")  # what AutoAttack warns of
RANDOMISED, PROBABILITIES, SQUARE = 1e-4, 1e-5, 0.002  # the authors' limits: beyond these they warn
SIZE = "8/255"
EPS = 8 / 255
NAME = "autoattack.json"  # beside record.json
SCHEMA = 1
SAME_CLEAN = 0.995  # of clean predictions: 16-bit weights and another device flip an image or two of 500, not more


@dataclass(frozen=True)
class AutoAttack:
    """One network under the attacks of the ensemble that are finished, in their order."""

    record: str  # the place of the record that it belongs to: budget/dataset/protocol/key/seed
    record_digest: str  # SHA-256 of that record's text
    weights: str  # SHA-256 of the file of weights
    images: int  # the first of the test set
    clean: str  # packed mask: classified correctly without an attack
    measurements: tuple[Measurement, ...]  # "autoattack:apgd-ce", ...: what is left after it and all before it
    seconds: Mapping[str, float]  # attack -> what it took
    flags: Mapping[str, str]  # flag -> the warning, or "" where there was no reason for one; absent: not checked yet
    provenance: dict  # commit, versions, device, start: of the first call
    schema: int = SCHEMA

    @property
    def attacks(self) -> tuple[str, ...]:
        """The attacks that are finished."""
        return ATTACKS[: len(self.measurements)]

    def after(self, attack: str) -> np.ndarray:
        """bool (n,): images still right after ``attack`` and all before it; "clean": without any.

        KeyError if that attack is not finished.
        """
        if attack == "clean":
            return unpack_mask(self.clean, self.images)
        return {measurement.name: measurement.mask for measurement in self.measurements}[f"autoattack:{attack}"]

    def attacked(self, attack: str) -> np.ndarray:
        """bool (n,): the images that ``attack`` was run on, those that were right before it."""
        return self.after(("clean", *ATTACKS)[ATTACKS.index(attack)])

    @property
    def left(self) -> np.ndarray:
        """bool (n,): images right after all attacks that are finished."""
        return self.after(("clean", *self.attacks)[-1])


def read(path: Path, record: Record, weights: str | None = None) -> AutoAttack:
    """The file at ``path``. ``weights``: the digest that it must be of, if that is known.

    Raises ValueError, with the remedy, if it is damaged, or if record or weights have changed since.
    """
    remedy = (
        f"delete it, and attack the network again: python -m study autoattack {record.key} "
        f"--protocol {record.protocol} --budget {record.budget} --seed {record.seed}"
    )
    try:
        raw = json.loads(Path(path).read_text())
        records_beside.refuse_other_fields(raw, AutoAttack)
        for measurement in raw["measurements"]:
            records_beside.refuse_other_fields(measurement, Measurement)
        measurements = tuple(Measurement(**measurement) for measurement in raw["measurements"])
        found = AutoAttack(**raw | {"measurements": measurements})
        _check_contents(found)
        stale = _stale(found, record, weights)
    except (TypeError, KeyError, ValueError, zlib.error) as error:
        raise ValueError(f"{path} is no AutoAttack of this study ({error}): {remedy}") from error
    if stale:
        raise ValueError(f"{path} is stale ({stale}): {remedy}")
    return found


def beside(root: Path, group: list[Record]) -> dict[str, AutoAttack]:
    """The files beside the records of ``group``, by the record's place; errors as for :func:`read`."""
    paths = {record.where: (Path(root) / record.where / NAME, record) for record in group}
    return {where: read(path, record) for where, (path, record) in paths.items() if path.is_file()}


def _check_contents(found: AutoAttack) -> None:
    if found.schema != SCHEMA:
        raise ValueError(f"schema {found.schema}, this study reads {SCHEMA}")
    names = [f"autoattack:{attack}" for attack in ATTACKS]
    if [m.name for m in found.measurements] != names[: len(found.measurements)]:
        raise ValueError(f"its attacks are not the first of {', '.join(names)}")
    if unknown := {*found.flags, *found.seconds} - {*FLAGS, *ATTACKS}:
        raise ValueError(f"unknown flags or attacks {sorted(unknown)}")
    for attack in found.attacks:
        if len(found.after(attack)) != found.images or (found.after(attack) & ~found.attacked(attack)).any():
            raise ValueError(f"after {attack} images are right that were wrong before it")


def _stale(found: AutoAttack, record: Record, weights: str | None) -> str | None:
    if found.record != record.where:
        return f"it is of {found.record}"
    if found.record_digest != records.digest(record):
        return "the record has changed since"
    if weights is not None and found.weights != weights:
        return "the weights have changed since"
    return unlike(found.after("clean"), record)


def unlike(clean: np.ndarray, record: Record) -> str | None:
    """Why a network that is right about ``clean`` (n,) of the first test images is not the record's; None if it is."""
    theirs = record.measurement("corrected:clean").mask[: len(clean)]
    if len(theirs) < len(clean):
        return f"{len(clean)} images, and the record has {len(theirs)}"
    agreement = (clean == theirs).mean()
    return f"it agrees with the record on {agreement:.1%} of clean images only" if agreement < SAME_CLEAN else None


NAMES = {"apgd-ce": "APGD-CE", "apgd-t": "APGD-T", "fab-t": "FAB-T", "square": "Square"}


@dataclass(frozen=True)
class Case:
    """One network, on the images that AutoAttack saw."""

    record: Record
    found: AutoAttack
    masks: Mapping[str, np.ndarray]  # measurement -> bool (up to n,): every attack of the size but AutoAttack's

    @property
    def title(self) -> str:
        seed = f", seed {self.record.seed}" if self.record.seed else ""
        return f"{catalogue.rows()[self.record.key].name}, {self.record.protocol}{seed}"

    @property
    def before(self) -> np.ndarray:
        """bool (n,): right under PGD-20, as the book has it: a network with surrogate gradients must survive both."""
        return comparisons.worst_mask(self.record, f"corrected:{STRONG}")[: self.found.images]

    @cached_property
    def worst(self) -> np.ndarray:
        """bool (n,): right under every attack that was run on the image."""
        return worst_case([self.found.left, *self.masks.values()])

    @property
    def strong(self) -> Estimate:
        """Accuracy under PGD-20."""
        return estimates.accuracy(self.before[None])

    @property
    def after_all(self) -> Estimate:
        """Accuracy after all attacks of AutoAttack that are finished."""
        return estimates.accuracy(self.found.left[None])

    @property
    def accuracy(self) -> Estimate:
        """Of the worst case, with Wilson's interval."""
        return estimates.accuracy(self.worst[None])

    @property
    def below(self) -> Estimate:
        """Share of the images that PGD-20 leaves right and another attack does not: PGD-20 minus the worst case."""
        return estimates.accuracy((self.before & ~self.worst)[None])

    def left(self, attack: str) -> Estimate | None:
        """After ``attack`` of AutoAttack and all before it; None if it is not finished."""
        done = attack in ("clean", *self.found.attacks)
        return estimates.accuracy(self.found.after(attack)[None]) if done else None


def worst_case(masks: Sequence[np.ndarray]) -> np.ndarray:
    """bool (n,): right in every mask that reaches the image. The first of them has length n, others may be shorter.

    Raises ValueError if another is longer: then n is not the number of images that count.
    """
    left = np.array(masks[0], bool)
    for mask in masks[1:]:
        if len(mask) > len(left):
            raise ValueError(f"a mask of {len(mask)} images, and the worst case is over {len(left)}: cut it first")
        left[: len(mask)] &= mask
    return left


def in_ball(measurement: Measurement) -> bool:
    """Whether it is an attack in the ball of 8/255, in pixels, on the network as it is used: main branch, eval mode."""
    attack = {"norm": "linf", "space": "pixels", "statistics": "running", "branch": "main"} | measurement.attack
    usual = (attack["norm"], attack["space"], attack["statistics"], attack["branch"])
    return abs(attack["eps"] - EPS) < 1e-9 and usual == ("linf", "pixels", "running", "main")


def case(record: Record, found: AutoAttack, probe: Probe | None = None) -> Case:
    """The worst case of one network from its record, what AutoAttack left of it, and its probe, if there is one."""
    measured = [*record.measurements, *(probe.measurements if probe else ())]
    return Case(record, found, {m.name: m.mask[: found.images] for m in measured if in_ball(m)})


def cases(root: Path, group: Group) -> list[Case]:
    """Every record of ``group`` that AutoAttack was run on, in the paper's order.

    Raises ValueError, with the remedy, if a file beside one of them is damaged or stale.
    """
    found, probes = beside(root, group), masking.probes(root, group)
    order = {key: place for place, key in enumerate(catalogue.rows())}
    attacked = [
        case(record, found[record.where], probes.get(record.where)) for record in group if record.where in found
    ]
    return sorted(attacked, key=lambda one: (order[one.record.key], one.record.protocol, one.record.seed))
