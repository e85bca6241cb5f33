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

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from hashlib import sha256
from itertools import product
from pathlib import Path

import numpy as np

from study import records
from study.evidence import estimates, selection
from study.evidence.comparisons import STRONG
from study.evidence.estimates import Estimate
from study.evidence.selection import Group, runs_of
from study.plan import catalogue
from study.records import Measurement, Record
from study.records import beside as records_beside

NAME = "combinations.json"  # beside record.json
SCHEMA = 1
BRANCHES = ("main", "aux")  # as in advlib.norm, which needs torch
PAIRS = tuple(product(BRANCHES, BRANCHES))  # (whose statistics, whose affine parameters)
MAIN, AUX = ("main", "main"), ("aux", "aux")  # the two that were trained
KEPT, ANEW = "kept", "anew"
WAYS = (KEPT, ANEW)  # where the statistics are from
COLUMNS = ("clean", "fgsm-0.1", "pgd-0.1", STRONG)
SAME_NETWORK = 0.95  # of clean predictions: 16-bit weights flip one here and there, another training many
AFFINE, STATISTICS, BOTH, UNDECIDED = "affine parameters", "statistics", "both", "undecided"


Pair = tuple[str, str]


def measurement(way: str, pair: Pair, column: str) -> str:
    """Its name: "kept:main+aux:pgd-0.1" is PGD 0.1 on the statistics of main with the affine parameters of aux."""
    return f"{way}:{'+'.join(pair)}:{column}"


@dataclass(frozen=True)
class Combinations:
    """What was measured on the four networks of one record."""

    record: str  # the place of the record: budget/dataset/protocol/key/seed
    record_digest: str  # SHA-256 of what that record says
    weights: str  # SHA-256 of the file of weights
    provenance: dict  # as a record has it
    images: int  # the first of the test set
    training_images: int  # the first of the training set, for the statistics that were measured anew
    measurements: tuple[Measurement, ...]  # named by :func:`measurement`; for SAT with ":surrogate" as well
    schema: int = SCHEMA

    def mask(self, way: str, pair: Pair, column: str) -> np.ndarray:
        """bool (n,): which images that network got right, under both gradients where there are two.

        KeyError if it was not measured.
        """
        by_name, true = {m.name: m for m in self.measurements}, measurement(way, pair, column)
        found = [by_name[true], *(by_name[other] for other in [f"{true}:surrogate"] if other in by_name)]
        return np.logical_and.reduce([one.mask for one in found])


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
        for key in catalogue.rows()
        for protocol in catalogue.PROTOCOLS
        if (beside := [found[run.where] for run in runs_of(group, key, protocol) if run.where in found])
    ]


def crossing(key: str, protocol: str, seeds: Sequence[Combinations]) -> Crossing:
    """One row under one protocol, from what was measured on each of its trainings, over the images that all share."""
    n = min(one.images for one in seeds)
    masks = {
        (way, pair, column): np.array([one.mask(way, pair, column)[:n] for one in seeds])
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


def certain(estimate: Estimate) -> int:
    """The sign of a difference whose interval excludes 0, else 0."""
    return int(estimate.low > 0) - int(estimate.high < 0)


def _carrier(branches: Estimate, statistics: Estimate, affine: Estimate, lead: Estimate, **_) -> str:
    way = certain(branches)
    if not way:
        return UNDECIDED
    by_statistics, by_affine = certain(statistics) == way, certain(affine) == way
    if by_affine and certain(lead) == way:
        return AFFINE
    if by_statistics and certain(lead) == -way:
        return STATISTICS
    return BOTH if by_statistics and by_affine and not certain(lead) else UNDECIDED


def collect(root: Path, group: Group, models: Path | None = None) -> dict[str, Combinations]:
    """What lies beside the records of ``group``, by the record's place; errors as for :func:`read`."""
    beside = [(record, Path(root) / record.where / NAME) for record in group]
    return {record.where: read(path, record, models) for record, path in beside if path.is_file()}


def read(path: Path, record: Record, models: Path | None = None) -> Combinations:
    """The file at ``path``. Raises ValueError, with the remedy, if it is damaged, stale, or not of ``record``.

    It is stale if the record says something else by now, or the record's network in the folder ``models``, where there
    is one, has other weights.
    """
    flags = f"--protocol {record.protocol} {selection.flags([record])}"
    remedy = f"measure again: python -m study combine {record.key} {flags} --seed {record.seed}"
    try:
        raw = json.loads(Path(path).read_text())
        records_beside.refuse_other_fields(raw, Combinations)
        for one in raw["measurements"]:
            records_beside.refuse_other_fields(one, Measurement)
        raw["measurements"] = tuple(Measurement(**one) for one in raw["measurements"])
        found = Combinations(**raw)
        for place in product(WAYS, PAIRS, COLUMNS):
            if len(found.mask(*place)) != found.images:
                raise ValueError(f"{measurement(*place)} is not of {found.images} images")
        stale = _stale_because(found, record, models)
    except (TypeError, KeyError, ValueError, zlib.error) as error:
        raise ValueError(f"{path} is no file of combinations of this study ({error}): {remedy}") from error
    if stale:
        raise ValueError(f"{path} does not belong to {record.where} ({stale}): {remedy}")
    return found


def _stale_because(found: Combinations, record: Record, models: Path | None) -> str | None:
    if found.schema != SCHEMA:
        return f"schema {found.schema}, this study reads {SCHEMA}"
    if found.record != record.where:
        return f"it is of {found.record}"
    if found.record_digest != records.digest(record):
        return "the record has changed since"
    weights = Path(models) / f"{record.key}.safetensors" if models else None
    theirs = weights and weights.is_file() and _record_of(weights) == record.where
    if theirs and sha256(weights.read_bytes()).hexdigest() != found.weights:
        return f"the weights in {weights.name} have changed since"
    for pair, name in ((MAIN, "corrected:clean"), (AUX, "corrected:clean:aux")):
        ours, theirs = found.mask(KEPT, pair, "clean"), record.measurement(name).mask
        n = min(len(ours), len(theirs))
        if (agreement := (ours[:n] == theirs[:n]).mean()) < SAME_NETWORK:
            return f"they agree on {agreement:.0%} of clean images only, {pair[0]} branch"
    return None


def _record_of(weights: Path) -> str | None:
    """Whose weights a file of safetensors says it has: its first eight bytes are the length of a header in JSON."""
    with open(weights, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return header.get("__metadata__", {}).get("record")
