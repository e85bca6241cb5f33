"""What the paper claims, as data (``claims.toml``), and what the records say of it. No torch.

A claim is one or more comparisons, each a difference in accuracy. It is judged three times (:data:`TRIALS`): under
either protocol on the paper's own columns, and under the corrected protocol with the strongest attack in the place of
the paper's. ``book/claims.md`` has the rules in words, and says which of them came after the first verdicts.
"""

import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files

from study.evidence import comparisons, estimates
from study.evidence.comparisons import STRONG
from study.evidence.estimates import Estimate
from study.evidence.selection import Group
from study.plan import catalogue

TRIALS = ("published", "corrected", "stronger attack")
NO_ROOM = "no room"
VERDICTS = ("reproduced", "smaller", NO_ROOM, "undecided", "not reproduced", "contradicted")  # from best to worst
NOT_RUN, NOT_ASKED = "not run", "not asked"
MARGIN = 0.01  # of accuracy: a gain below a percentage point adds nothing, and an accuracy below it is none
SIGN = {"more": 1, "less": -1, "no more": 1}


@dataclass(frozen=True)
class Comparison:
    """Accuracy of ``row`` on ``column`` minus accuracy of ``against`` on ``against_column``."""

    row: str
    against: str
    column: str
    against_column: str

    @property
    def published(self) -> float:
        """The difference in the paper's tables, in [-1, 1]."""
        rows = catalogue.rows()
        return (rows[self.row].published[self.column] - rows[self.against].published[self.against_column]) / 100


@dataclass(frozen=True)
class Claim:
    """One sentence of the paper and the comparisons that it stands or falls with."""

    id: str
    title: str
    sentence: str
    where: str
    direction: str  # "more", "less", "no more"
    comparisons: tuple[Comparison, ...]
    stated: tuple[float, ...] = ()  # percentage points that the sentence prints
    weak: bool = False  # about weak attackers only
    quoted: bool = True  # or ours: a pattern of the paper's numbers, in our words


@dataclass(frozen=True)
class Finding:
    """What the records say of one comparison; no estimate where a row was not run."""

    comparison: Comparison
    a: comparisons.Place
    b: comparisons.Place
    verdict: str
    estimate: Estimate | None = None
    p: float | None = None  # for a difference of 0, adjusted for all comparisons of the trial (Holm)


@dataclass(frozen=True)
class Ruling:
    """A claim, the trial it went through, and what came out."""

    claim: Claim
    trial: str
    verdict: str
    findings: tuple[Finding, ...]


def rulings(group: Group) -> list[Ruling]:
    """Every claim under every trial, judged from one group of records."""
    found = []
    for trial in TRIALS:
        found += _adjusted([_rule(claim, trial, group) for claim in claims()])
    return found


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
    if direction not in SIGN:
        raise ValueError(f"claim {id}: unknown direction {direction!r}: choose one of {', '.join(SIGN)}")
    expanded = []
    for entry in comparisons:
        row, against = entry["row"], entry.get("against", entry["row"])
        for column in entry["columns"]:
            comparison = Comparison(row, against, column, entry.get("against_column", column))
            _check(id, comparison)
            expanded.append(comparison)
    return Claim(id, title, sentence, where, direction, tuple(expanded), tuple(stated), **others)


def verdict(estimate: Estimate, published: float, direction: str, *, higher: float = 1.0) -> str:
    """The verdict on one comparison, by the rules of ``book/claims.md``.

    ``published``: the paper's difference, in [-1, 1]. ``higher``: the higher accuracy of the two networks, in [0, 1].
    """
    if higher < MARGIN:
        return NO_ROOM
    if direction == "no more":
        if estimate.high < MARGIN:
            return "reproduced"
        return "contradicted" if estimate.low > 0 else "undecided"
    sign = SIGN[direction]
    value, (low, high) = sign * estimate.value, sorted((sign * estimate.low, sign * estimate.high))
    half = max(sign * published, 0.0) / 2
    if low > 0:
        return "reproduced" if value >= half else "smaller"
    if high < 0:
        return "contradicted"
    return "not reproduced" if high < half else "undecided"


def overall(verdicts: Sequence[str]) -> str:
    """The verdict on a claim from those on its comparisons, by the same rules."""
    if NOT_RUN in verdicts:
        return NOT_RUN
    if set(verdicts) == {NO_ROOM}:
        return NO_ROOM
    return max(("undecided" if one == NO_ROOM else one for one in verdicts), key=VERDICTS.index)


def supported_by_the_paper(claim: Claim) -> bool:
    """Whether the paper's own numbers have the sign that the sentence claims, in every comparison."""
    if claim.direction == "no more":
        return all(comparison.published < MARGIN for comparison in claim.comparisons)
    return all(SIGN[claim.direction] * comparison.published > 0 for comparison in claim.comparisons)


def _check(id: str, comparison: Comparison) -> None:
    for key in (comparison.row, comparison.against):
        if key not in catalogue.rows():
            raise ValueError(f"claim {id} compares an unknown row {key!r}: `python -m study list` prints the rows")
    for column in (comparison.column, comparison.against_column):
        if column not in catalogue.COLUMNS:
            known = ", ".join(catalogue.COLUMNS)
            raise ValueError(f"claim {id} names an unknown column {column!r}: choose one of {known}")
    if (comparison.row, comparison.column) == (comparison.against, comparison.against_column):
        raise ValueError(f"claim {id} compares {comparison.row} with itself")


def _rule(claim: Claim, trial: str, group: Group) -> Ruling:
    asked = _asked(claim, trial)
    if not asked:
        return Ruling(claim, trial, NOT_ASKED, ())
    findings = tuple(_find(comparison, trial, claim.direction, 0.05 / len(asked), group) for comparison in asked)
    return Ruling(claim, trial, overall([finding.verdict for finding in findings]), findings)


def _asked(claim: Claim, trial: str) -> list[Comparison]:
    """A stronger attack has nothing to say of clean images, nor of two attacks compared on one row."""
    if trial != "stronger attack":
        return list(claim.comparisons)
    if claim.weak:
        return []
    attacked = [c for c in claim.comparisons if c.column != "clean" and c.row != c.against]
    return list({(c.row, c.against): c for c in reversed(attacked)}.values())[::-1]  # one per pair, whatever the column


def _find(comparison: Comparison, trial: str, direction: str, alpha: float, group: Group) -> Finding:
    protocol = "published" if trial == "published" else "corrected"
    stronger = trial == "stronger attack"
    columns = (STRONG, STRONG) if stronger else (comparison.column, comparison.against_column)
    a = (comparison.row, protocol, f"{protocol}:{columns[0]}")
    b = (comparison.against, protocol, f"{protocol}:{columns[1]}")
    masks = comparisons.paired(group, [a, b])
    if masks is None:
        return Finding(comparison, a, b, NOT_RUN)
    estimate = estimates.difference(*masks, confidence=1 - alpha)
    # against a stronger attack the size of the published difference says nothing: its sign is what is judged
    published = 0.0 if stronger else comparison.published
    found = verdict(estimate, published, direction, higher=max(mask.mean() for mask in masks))
    return Finding(comparison, a, b, found, estimate, estimates.p_value(*masks))


def _adjusted(rulings: list[Ruling]) -> list[Ruling]:
    """With p values that hold for all comparisons of the trial."""
    raw = [finding.p for ruling in rulings for finding in ruling.findings if finding.p is not None]
    adjusted = iter(estimates.holm(raw))
    return [
        replace(ruling, findings=tuple(_with_p(finding, adjusted) for finding in ruling.findings)) for ruling in rulings
    ]


def _with_p(finding: Finding, adjusted: Iterator[float]) -> Finding:
    return finding if finding.p is None else replace(finding, p=next(adjusted))
