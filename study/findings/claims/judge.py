"""What the paper claims, as data (``claims.toml``), and what the records say of it. No torch.

A claim is one or more comparisons, each a difference in accuracy. It is judged three times (:data:`TRIALS`): under
either protocol on the paper's own columns, and under the corrected protocol with the strongest attack in the place of
the paper's. Each time by the largest size at which all of its rows were run. ``book/claims.md`` has the rules in words.
"""

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from importlib.resources import files
from pathlib import Path

import numpy as np

from study.evidence import comparisons, estimates, selection
from study.evidence.comparisons import STRONG
from study.evidence.estimates import Estimate, Spread
from study.evidence.selection import Group, runs_of
from study.findings.masking import judge as masking
from study.findings.masking.probes import Probe, probes
from study.plan import catalogue
from study.plan.attacks import CLAMP_ALONE

TRIALS = ("published", "corrected", "stronger attack")
REPRODUCED, LARGER, SMALLER = "reproduced", "larger", "smaller"
CONTRADICTED, REFUTED = "contradicted", "not reproduced"
OPEN = "cannot be decided"  # at this size: the interval has room for the claim and for its opposite
NO_ROOM = "no room"  # neither network is for certain better than guessing by more than a point
SILENT = "no evidence"  # one of them is masked, or has collapsed
VERDICTS = (REPRODUCED, LARGER, SMALLER, NO_ROOM, SILENT, OPEN, REFUTED, CONTRADICTED)  # from best to worst
NOT_RUN, NOT_ASKED = "not run", "not asked"
MARGIN = 0.01  # of accuracy: two networks within a percentage point of each other do not differ for any purpose here
SIGN = {"more": 1, "less": -1}
DIRECTIONS = (*SIGN, "no more", "same")
PAPER_CLASSES = 10  # of CIFAR-10
GUESSING = "guessing"  # in the place of a row to compare with


@dataclass(frozen=True)
class Comparison:
    """Accuracy of ``row`` on ``column`` minus accuracy of ``against`` on ``against_column``."""

    row: str
    against: str  # or GUESSING
    column: str
    against_column: str

    @property
    def published(self) -> float | None:
        """The difference in the paper's tables, in [-1, 1]; None for an experiment that the paper does not have."""
        rows = catalogue.rows()
        if {self.row, self.against} - {GUESSING} - set(rows):
            return None
        against = 100 / PAPER_CLASSES if self.against == GUESSING else rows[self.against].published[self.against_column]
        return (rows[self.row].published[self.column] - against) / 100


@dataclass(frozen=True)
class Claim:
    """One sentence of the paper and the comparisons that it stands or falls with."""

    id: str
    title: str
    sentence: str
    where: str
    direction: str  # one of DIRECTIONS
    comparisons: tuple[Comparison, ...]
    stated: tuple[float, ...] = ()  # percentage points that the sentence prints
    weak: bool = False  # about weak attackers only
    quoted: bool = True  # or ours: a pattern of the paper's numbers, in our words
    margin: float = MARGIN  # within which "no more" and "same" hold

    @property
    def confidence(self) -> float:
        """Of each interval, so that all of a claim's hold together at 95 % (Dunn 1961)."""
        return 1 - 0.05 / len(self.comparisons)


@dataclass(frozen=True)
class Finding:
    """What the records say of one comparison; no estimate where a row was not run."""

    comparison: Comparison
    a: comparisons.Place
    b: comparisons.Place | None  # None for guessing
    verdict: str
    estimate: Estimate | None = None
    p: float | None = None  # at the border of the claim, adjusted for its comparisons; where zero or a margin is asked
    visible: float | None = None  # the smallest difference that these runs would have shown, see Estimate.visible

    @property
    def places(self) -> list[comparisons.Place]:
        return [self.a, self.b] if self.b else [self.a]


@dataclass(frozen=True)
class Ruling:
    """A claim, the trial it went through, what came out, and the runs that it came out of."""

    claim: Claim
    trial: str
    verdict: str
    findings: tuple[Finding, ...]
    group: Group = ()
    by_size: tuple[tuple[Group, tuple[Finding, ...]], ...] = ()  # the same at every size at which all rows were run


class Evidence:
    """The runs to judge by; the spread of their trainings; whose accuracies say nothing; and what follows.

    ``groups``: of the paper's data, the largest size first. ``probed``: the probes of their networks, by the record's
    place.
    """

    def __init__(self, groups: Sequence[Group], probed: Mapping[str, Probe] | None = None):
        self.groups = [group for group in groups if group]
        self._probed, self._silent, self._spread = probed or {}, {}, {}

    def spread(self, name: str) -> Spread | None:
        """How much trainings differ under a measurement: of the records of all sizes together."""
        column = name.split(":")[1]
        if column not in self._spread:
            self._spread[column] = comparisons.spread([record for group in self.groups for record in group], name)
        return self._spread[column]

    @cached_property
    def rulings(self) -> list["Ruling"]:
        """Every claim under every trial."""
        return [_rule(claim, trial, self) for trial in TRIALS for claim in claims()]

    def silent(self, group: Group, key: str, protocol: str) -> str | None:
        """Why a network, which was run, says nothing under attack, or None."""
        place = (group[0].where, key, protocol)
        if place not in self._silent:
            self._silent[place] = masking.silent(group, key, protocol, self._probed)
        return self._silent[place]


def evidence(root: Path) -> Evidence:
    """All that is below ``root`` to judge the paper by, with the probes that lie beside it."""
    groups = selection.by_size(root)
    return Evidence(groups, {place: probe for group in groups for place, probe in probes(root, group).items()})


@cache
def claims() -> tuple[Claim, ...]:
    """Every claim of ``claims.toml``. Raises ValueError on an unknown row, column or direction, or a repeated id."""
    entries = tomllib.loads((files("study.findings.claims") / "claims.toml").read_text())["claim"]
    found = tuple(claim(**entry) for entry in entries)
    ids = [one.id for one in found]
    if repeated := {id for id in ids if ids.count(id) > 1}:
        raise ValueError(f"claims.toml has two claims named {', '.join(sorted(repeated))}: give each its own id")
    return found


def claim(*, id, title, sentence, where, direction, comparisons, stated=(), **others) -> Claim:
    """A claim from its entry in the file. Raises ValueError on what does not exist."""
    if direction not in DIRECTIONS:
        raise ValueError(f"claim {id}: unknown direction {direction!r}: choose one of {', '.join(DIRECTIONS)}")
    expanded = []
    for entry in comparisons:
        row, against = entry["row"], entry.get("against", entry["row"])
        for column in entry["columns"]:
            comparison = Comparison(row, against, column, entry.get("against_column", column))
            _check(id, comparison)
            expanded.append(comparison)
    return Claim(id, title, sentence, where, direction, tuple(expanded), tuple(stated), **others)


def verdict(estimate: Estimate, published: float, direction: str, margin: float = MARGIN) -> str:
    """The verdict on one comparison, by the rules of ``book/claims.md``. ``published``: the paper's difference."""
    if direction in SIGN:
        sign = SIGN[direction]
        value, (low, high) = sign * estimate.value, sorted((sign * estimate.low, sign * estimate.high))
        half = max(sign * published, 0.0) / 2
        if low > 0:
            return SMALLER if value < half else LARGER if 0 < 4 * half < value else REPRODUCED
        if high < 0:
            return CONTRADICTED
        return REFUTED if high < half else OPEN
    lowest = -margin if direction == "same" else -math.inf
    if estimate.high < margin and estimate.low > lowest:
        return REPRODUCED
    return CONTRADICTED if estimate.low > margin or estimate.high < lowest else OPEN


def p_value(estimate: Estimate, direction: str, margin: float = MARGIN) -> float:
    """How surprising the estimate would be at the border of the claim: 0, or for "no more" and "same" the margin.

    Of "same" at the nearer of the two borders. Below 0.05 exactly where a 95 % interval excludes the border.
    """
    if direction in SIGN:
        return estimate.p_value()
    return estimate.p_value(-margin if direction == "same" and estimate.value < 0 else margin)


def overall(verdicts: Sequence[str]) -> str:
    """The verdict on a claim from those on its comparisons: the worst of those that say something."""
    if NOT_RUN in verdicts:
        return NOT_RUN
    said = [one for one in verdicts if one not in (NO_ROOM, SILENT)]
    return max(said or verdicts, key=VERDICTS.index)


def supported_by_the_paper(claim: Claim) -> bool:
    """Whether the paper's own numbers have the sign that the sentence claims, in every comparison."""
    found = [comparison.published for comparison in claim.comparisons if comparison.published is not None]
    if claim.direction in SIGN:
        return all(SIGN[claim.direction] * difference > 0 for difference in found)
    return all(
        difference < claim.margin and (claim.direction == "no more" or difference > -claim.margin)
        for difference in found
    )


def _check(id: str, comparison: Comparison) -> None:
    for key in {comparison.row, comparison.against} - {GUESSING}:
        if key not in catalogue.experiments():
            raise ValueError(f"claim {id} compares an unknown row {key!r}: `python -m study list` prints the rows")
    for column in (comparison.column, comparison.against_column):
        if column not in catalogue.COLUMNS:
            known = ", ".join(catalogue.COLUMNS)
            raise ValueError(f"claim {id} names an unknown column {column!r}: choose one of {known}")
    if (comparison.row, comparison.column) == (comparison.against, comparison.against_column):
        raise ValueError(f"claim {id} compares {comparison.row} with itself")


def _rule(claim: Claim, trial: str, evidence: Evidence) -> Ruling:
    """By the largest size at which all rows were run; where there is none, by the one at which most were."""
    asked = replace(claim, comparisons=tuple(_asked(claim, trial)))
    if not asked.comparisons:
        return Ruling(claim, trial, NOT_ASKED, ())
    found = [
        (group, tuple(_find(one, trial, asked, group, evidence) for one in asked.comparisons))
        for group in evidence.groups
    ]
    whole = [(group, findings) for group, findings in found if all(finding.estimate for finding in findings)]
    if not found:
        nothing = [Finding(one, *_places(one, trial), NOT_RUN) for one in asked.comparisons]
        return Ruling(claim, trial, NOT_RUN, tuple(nothing))
    group, findings = whole[0] if whole else max(found, key=lambda one: sum(f.estimate is not None for f in one[1]))
    return Ruling(claim, trial, overall([f.verdict for f in findings]), findings, group, tuple(whole))


def _asked(claim: Claim, trial: str) -> list[Comparison]:
    """A stronger attack has nothing to say of clean images, of guessing, nor of two attacks compared on one row.

    What is not of the paper's rows has no published protocol.
    """
    if trial != "stronger attack":
        of_the_paper = all(comparison.published is not None for comparison in claim.comparisons)
        return list(claim.comparisons) if trial == "corrected" or of_the_paper else []
    if claim.weak:
        return []
    attacked = [c for c in claim.comparisons if c.column != "clean" and c.against not in (c.row, GUESSING)]
    return list({(c.row, c.against): c for c in reversed(attacked)}.values())[::-1]  # one per pair, whatever the column


def _places(comparison: Comparison, trial: str) -> tuple[comparisons.Place, comparisons.Place | None]:
    protocol = "published" if trial == "published" else "corrected"
    stronger = trial == "stronger attack"
    columns = (STRONG, STRONG) if stronger else (comparison.column, comparison.against_column)
    a = (comparison.row, protocol, f"{protocol}:{columns[0]}")
    guessing = comparison.against == GUESSING
    return a, None if guessing else (comparison.against, protocol, f"{protocol}:{columns[1]}")


def _find(comparison: Comparison, trial: str, claim: Claim, group: Group, evidence: Evidence) -> Finding:
    places = _places(comparison, trial)
    there = [place for place in places if place]
    masks = surviving(group, there)
    if masks is None:
        return Finding(comparison, *places, NOT_RUN)
    attacked_alone = comparisons.paired(
        group, there
    )  # a guess, too, would be right about images that were wrong before
    guess = 1 / len(runs_of(group, *places[0][:2])[0].data["classes"])
    spread = evidence.spread(places[0][2])
    estimate = difference(masks if places[1] else attacked_alone, places, guess, claim.confidence, spread)
    found = {
        "estimate": estimate,
        "p": min(1.0, len(claim.comparisons) * p_value(estimate, claim.direction, claim.margin)),
    }
    found["visible"] = estimate.visible(claim.confidence)
    attacked = any(not place[2].endswith(":clean") for place in there)
    silent = [why for place in there if (why := evidence.silent(group, *place[:2]))]
    if masking.COLLAPSED in silent or (attacked and silent):
        return Finding(comparison, *places, SILENT, **found | {"p": None})
    if places[1] and not comparisons.better_than_guessing(group, attacked_alone, claim.confidence, MARGIN):
        return Finding(comparison, *places, NO_ROOM, **found | {"p": None})
    # against a stronger attack the size of the published difference says nothing: its sign is what is judged
    published = 0.0 if trial == "stronger attack" else comparison.published or 0.0
    return Finding(comparison, *places, verdict(estimate, published, claim.direction, claim.margin), **found)


def surviving(group: Group, places: Sequence[comparisons.Place]) -> list[np.ndarray] | None:
    """bool (S, n) for each place: right under the attack, and right without it, by the same rule and branch.

    An image that is wrong without an attack does not survive one. None if the places share no seed.
    """
    without = [(key, protocol, _clean(name)) for key, protocol, name in places]
    masks = comparisons.paired(group, [*places, *without])
    return masks and [
        attacked & clean for attacked, clean in zip(masks[: len(places)], masks[len(places) :], strict=True)
    ]


def _clean(name: str) -> str:
    """The measurement without an attack that belongs to one under an attack; the clamp alone is no attack."""
    rule, column, *marks = name.split(":")
    if column == CLAMP_ALONE.name:
        return name
    return ":".join([rule, "clean", *(mark for mark in marks if mark == "aux")])


def difference(
    masks: Sequence[np.ndarray],
    places: Sequence[comparisons.Place | None],
    guess: float,
    confidence: float,
    spread: Spread | None,
) -> Estimate:
    """Of two networks, of one under two attacks (whose training is no luck then), or of one and guessing."""
    if places[1]:
        return estimates.difference(*masks, confidence, spread if places[0][:2] != places[1][:2] else None)
    over = estimates.contrast({1.0: masks}, confidence, spread)
    return replace(over, value=over.value - guess, low=over.low - guess, high=over.high - guess)
