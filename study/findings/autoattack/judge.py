"""What AutoAttack left of a network: a file beside its record; :mod:`autoattack.measure` writes it. No torch here.

AutoAttack is an ensemble of four attacks without a setting to tune (Croce and Hein 2020), run one after the other: each
is tried only on images that are still classified correctly after all before it. So a mask in this file is what is left
after an attack *and all before it*, and the last one is the worst case over the ensemble. ``autoattack.json`` is
written after each attack and holds as many as are finished; the next call of the command goes on from there.

The file is of one record and of one file of weights, and says by digests of which. It is refused for any other.

AdvProp trains two networks in one. The main branch is the one that is used; what AutoAttack leaves of the other lies in
a file of its own, ``autoattack-aux.json``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np

from study.evidence import comparisons, estimates
from study.evidence.comparisons import STRONG
from study.evidence.estimates import Estimate
from study.evidence.selection import Group
from study.findings.masking import probes as masking
from study.findings.masking.probes import Probe
from study.plan import catalogue
from study.presentation.words import network
from study.records import Measurement, Record
from study.records.beside import Beside

ATTACKS = ("apgd-ce", "apgd-t", "fab-t", "square")  # in the order of the standard version
# of the network itself, then what only an attack can raise
FLAGS = ("randomised", "probabilities", "optimises", "zero-gradient", "square")  # what AutoAttack warns of
RANDOMISED, PROBABILITIES, SQUARE = 1e-4, 1e-5, 0.002  # the authors' limits: beyond these they warn
SUFFIX = {"main": "", "aux": ":aux"}  # branch -> the end of the names of its measurements in a record
SIZE = "8/255"
EPS = 8 / 255
NAMES = {"apgd-ce": "APGD-CE", "apgd-t": "APGD-T", "fab-t": "FAB-T", "square": "Square"}


@dataclass(frozen=True, kw_only=True)
class AutoAttack(Beside):
    """One network under the attacks of the ensemble that are finished, in their order.

    Its measurements: "autoattack:clean", then "autoattack:apgd-ce", ...: what is left after it and all before it.
    """

    FILE = "autoattack.json"
    KIND = "autoattack"
    BRANCH: ClassVar[str] = "main"  # the one that was attacked, through itself

    seconds: Mapping[str, float]  # attack -> what it took
    flags: Mapping[str, str]  # flag -> the warning, or "" where there was no reason for one; absent: not checked yet

    @property
    def attacks(self) -> tuple[str, ...]:
        """The attacks that are finished."""
        return ATTACKS[: len(self.measurements) - 1]

    def after(self, attack: str) -> np.ndarray:
        """bool (n,): images still right after ``attack`` and all before it; "clean": without any.

        KeyError if that attack is not finished.
        """
        return self.mask(f"autoattack:{attack}")

    def attacked(self, attack: str) -> np.ndarray:
        """bool (n,): the images that ``attack`` was run on, those that were right before it."""
        return self.after(("clean", *ATTACKS)[ATTACKS.index(attack)])

    @property
    def left(self) -> np.ndarray:
        """bool (n,): images right after all attacks that are finished."""
        return self.after(("clean", *self.attacks)[-1])

    def witnesses(self) -> Mapping[str, str]:
        return {"autoattack:clean": f"corrected:clean{SUFFIX[self.BRANCH]}"}

    def check(self) -> None:
        super().check()
        names = [f"autoattack:{attack}" for attack in ("clean", *ATTACKS)]
        if [m.name for m in self.measurements] != names[: len(self.measurements)] or not self.measurements:
            raise ValueError(f"its attacks are not the first of {', '.join(names)}")
        if unknown := {*self.flags, *self.seconds} - {*FLAGS, *ATTACKS}:
            raise ValueError(f"unknown flags or attacks {sorted(unknown)}")
        for attack in self.attacks:
            if (self.after(attack) & ~self.attacked(attack)).any():
                raise ValueError(f"after {attack} images are right that were wrong before it")


class AutoAttackOnAux(AutoAttack):
    """The same of the auxiliary branch of a network with AdvProp."""

    FILE = "autoattack-aux.json"
    KIND = "autoattack-aux"
    BRANCH = "aux"


@dataclass(frozen=True)
class Case:
    """One network, on the images that AutoAttack saw."""

    record: Record
    found: AutoAttack
    masks: Mapping[str, np.ndarray]  # measurement -> bool (up to n,): every attack of the size but AutoAttack's

    @property
    def branch(self) -> str:
        return self.found.BRANCH

    @property
    def title(self) -> str:
        branch = ", auxiliary branch" if self.branch == "aux" else ""
        return network(self.record.key, self.record.protocol, self.record.seed) + branch

    @property
    def under_pgd(self) -> np.ndarray:
        """bool (N,): the record's images right under PGD-20; a network with surrogate gradients must survive both."""
        return comparisons.survivors(self.record, f"corrected:{STRONG}{SUFFIX[self.branch]}")

    @property
    def before(self) -> np.ndarray:
        """bool (n,): the same of the images that AutoAttack saw."""
        return self.under_pgd[: self.found.images]

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


def in_ball(measurement: Measurement, branch: str = "main") -> bool:
    """Whether it is an attack in the ball of 8/255, in pixels, on that branch of the network, in evaluation mode."""
    attack = {"norm": "linf", "space": "pixels", "statistics": "running", "branch": "main"} | measurement.attack
    usual = (attack["norm"], attack["space"], attack["statistics"], attack["branch"])
    return abs(attack["eps"] - EPS) < 1e-9 and usual == ("linf", "pixels", "running", branch)


def case(record: Record, found: AutoAttack, probe: Probe | None = None) -> Case:
    """The worst case of one network from its record, what AutoAttack left of it, and its probe, if there is one."""
    measured = [*record.measurements, *(probe.measurements if probe else ())]
    return Case(record, found, {m.name: m.mask[: found.images] for m in measured if in_ball(m, found.BRANCH)})


def cases(root: Path, group: Group) -> list[Case]:
    """Every network of ``group`` that AutoAttack was run on: the paper's rows in its order, then the other experiments.

    One network once, and each branch for itself. Raises ValueError, with the remedy, if a file beside one of them is
    damaged or stale.
    """
    probes = masking.probes(root, group)
    order = {key: place for place, key in enumerate({**catalogue.distinct(), **catalogue.extensions()})}
    of_branch = [kind.collect(root, group) for kind in (AutoAttack, AutoAttackOnAux)]
    attacked = [
        case(record, found[record.where], probes.get(record.where))
        for record in group
        if record.key in order
        for found in of_branch
        if record.where in found
    ]
    return sorted(attacked, key=lambda one: (order[one.record.key], one.record.protocol, one.record.seed))
