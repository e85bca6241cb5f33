"""Statistics or affine parameters: which of AdvProp's two pairs makes its branches differ? No torch.

:mod:`branches.measure` makes four networks from one with a dual batch norm, a :data:`PAIRS` each: the statistics of
either branch with the affine parameters of either. They are a 2x2 factorial design. The two branches themselves are two
of its corners, so the difference between them is the main effect of the statistics plus that of the affine parameters,
to the last image:

    aux/aux - main/main = statistics + affine.

They are crossed in two :data:`WAYS`: with the statistics that training kept, and with statistics measured anew through
the affine parameters they go with, of clean images for main and of attacked ones for aux.

What carries a difference is decided by rules that were written before any of the four networks was measured (the second
way was added after a look at the first, on forty images, where crossed networks classified hardly anything). All
comparisons that are asked of one network share an error of 5 %, so each of its k has an interval of 1 - 0.05 / k:

- *Undecided*, if the interval of the difference between the branches holds 0: there is nothing to carry.
- *The affine parameters*, if their effect points the way of the difference for certain, and is for certain larger than
  that of the statistics. *The statistics*, the other way round.
- *Both*, if both effects point that way for certain, and it is not certain which is the larger.
- *Undecided* otherwise.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import product

import numpy as np

from study.evidence import estimates
from study.evidence.comparisons import FOUR_COLUMNS
from study.evidence.estimates import Estimate
from study.evidence.selection import Group, runs_of
from study.plan import catalogue
from study.presentation.words import network
from study.records.beside import Beside

BRANCHES = ("main", "aux")  # as in advlib.norm, which needs torch
PAIRS = tuple(product(BRANCHES, BRANCHES))  # (whose statistics, whose affine parameters)
MAIN, AUX = ("main", "main"), ("aux", "aux")  # the two that were trained
KEPT, ANEW = "kept", "anew"
WAYS = (KEPT, ANEW)  # where the statistics are from
COLUMNS = FOUR_COLUMNS
AFFINE, STATISTICS, BOTH, UNDECIDED = "affine parameters", "statistics", "both", "undecided"


Pair = tuple[str, str]


def measurement(way: str, pair: Pair, column: str) -> str:
    """Its name: "kept:main+aux:pgd-0.1" is PGD 0.1 on the statistics of main with the affine parameters of aux."""
    return f"{way}:{'+'.join(pair)}:{column}"


@dataclass(frozen=True, kw_only=True)
class Combinations(Beside):
    """What was measured on the four networks of one record. Its measurements are named by :func:`measurement`."""

    FILE = "combinations.json"
    KIND = "branches"

    training_images: int  # the first of the training set, for the statistics that were measured anew

    def right(self, way: str, pair: Pair, column: str) -> np.ndarray:
        """bool (n,): which images that network got right, under both gradients where there are two.

        KeyError if it was not measured.
        """
        by_name, true = {m.name: m for m in self.measurements}, measurement(way, pair, column)
        found = [by_name[true], *(by_name[other] for other in [f"{true}:surrogate"] if other in by_name)]
        return np.logical_and.reduce([one.mask for one in found])

    def witnesses(self) -> Mapping[str, str]:
        return {
            measurement(KEPT, MAIN, "clean"): "corrected:clean",
            measurement(KEPT, AUX, "clean"): "corrected:clean:aux",
        }

    def check(self) -> None:
        super().check()
        for place in product(WAYS, PAIRS, COLUMNS):
            self.right(*place)


@dataclass(frozen=True)
class Split:
    """The difference between the branches in one column, and its two parts. All are differences in accuracy."""

    way: str
    column: str
    branches: Estimate  # aux minus main: the sum of the next two
    statistics: Estimate  # main effect of taking them from aux
    affine: Estimate
    interaction: Estimate  # half of what the one's effect gains by the other
    lead: Estimate  # affine minus statistics: of the two crossed networks, main+aux minus aux+main
    carrier: str  # AFFINE, STATISTICS, BOTH or UNDECIDED


@dataclass(frozen=True)
class Crossing:
    """One row under one protocol: its four networks in every column, and what carries the difference there."""

    key: str
    protocol: str
    masks: Mapping[tuple[str, Pair, str], np.ndarray]  # (way, pair, column) -> (S seeds, n images)
    splits: tuple[Split, ...]
    training_images: int

    @property
    def title(self) -> str:
        return network(self.key, self.protocol)

    def accuracy(self, way: str, pair: Pair, column: str) -> Estimate:
        return estimates.accuracy(self.masks[way, pair, column])

    def split(self, way: str, column: str) -> Split:
        return next(split for split in self.splits if (split.way, split.column) == (way, column))

    def lost(self, way: str) -> Estimate:
        """What the better of the crossed networks gains on clean images over the worse of the two branches.

        Where it is below 0 for certain, the two pairs belong together, and their effects are of taking them apart.
        """
        by_pair = {pair: self.masks[way, pair, "clean"] for pair in PAIRS}
        worse = min((by_pair[pair] for pair in (MAIN, AUX)), key=np.mean)
        better = max((by_pair[pair] for pair in PAIRS if pair not in (MAIN, AUX)), key=np.mean)
        return estimates.difference(better, worse, CONFIDENCE)


# comparisons that share an error of 5 %: the parts of every split, and what is lost, each way
QUESTIONS = len(WAYS) * (len(COLUMNS) * sum(field.type is Estimate for field in fields(Split)) + 1)
CONFIDENCE = 1 - 0.05 / QUESTIONS


def crossings(group: Group, found: Mapping[str, Combinations]) -> list[Crossing]:
    """Every row and protocol of ``group`` of which something was measured. ``found``: by the record's place."""
    return [
        crossing(key, protocol, beside)
        for key in catalogue.distinct()
        for protocol in catalogue.PROTOCOLS
        if (beside := [found[run.where] for run in runs_of(group, key, protocol) if run.where in found])
    ]


def crossing(key: str, protocol: str, seeds: Sequence[Combinations]) -> Crossing:
    """One row under one protocol, from what was measured on each of its trainings, over the images that all share."""
    n = min(one.images for one in seeds)
    masks = {
        (way, pair, column): np.array([one.right(way, pair, column)[:n] for one in seeds])
        for way, pair, column in product(WAYS, PAIRS, COLUMNS)
    }
    splits = tuple(
        split(way, column, {pair: masks[way, pair, column] for pair in PAIRS}) for way, column in product(WAYS, COLUMNS)
    )
    return Crossing(key, protocol, masks, splits, seeds[0].training_images)


def split(way: str, column: str, masks: Mapping[Pair, np.ndarray]) -> Split:
    """``masks``: pair -> (S, n) of one way and column."""
    design = {(pair[0] == "aux", pair[1] == "aux"): mask for pair, mask in masks.items()}
    effects = estimates.factorial_effects(design, (STATISTICS, AFFINE), CONFIDENCE)
    parts = {
        "branches": estimates.difference(masks[AUX], masks[MAIN], CONFIDENCE),
        "statistics": effects[STATISTICS,],
        "affine": effects[AFFINE,],
        "interaction": effects[STATISTICS, AFFINE],
        "lead": estimates.difference(masks["main", "aux"], masks["aux", "main"], CONFIDENCE),
    }
    return Split(way, column, **parts, carrier=_carrier(**parts))


def _carrier(branches: Estimate, statistics: Estimate, affine: Estimate, lead: Estimate, **_) -> str:
    way = branches.sign
    if not way:
        return UNDECIDED
    by_statistics, by_affine = statistics.sign == way, affine.sign == way
    if by_affine and lead.sign == way:
        return AFFINE
    if by_statistics and lead.sign == -way:
        return STATISTICS
    return BOTH if by_statistics and by_affine and not lead.sign else UNDECIDED
