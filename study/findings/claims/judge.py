"""The ledger: what the paper claims, as data (``claims.toml``), and what the records say of it. No torch.

A claim is one or more comparisons, each a difference in accuracy. It is judged three times (:data:`TRIALS`): under
either protocol on the paper's own columns, and under the corrected protocol with the strongest attack in the place of
the paper's. The rules are these (``book/claims.md`` says what came after the first verdicts). Let d be the paper's
difference, or 0 if its sign is not the claimed one, and the interval ours: 95 % for the whole claim, so each of its k
comparisons has 1 - 0.05 / k (Bonferroni).

- *no room*: both accuracies are below :data:`MARGIN`. The attack leaves neither network anything to lose, so the
  comparison says nothing, and none of the rules below is asked.
- *reproduced*: the interval lies on the claimed side of 0, and the estimate is at least d / 2.
- *smaller*: the interval lies on the claimed side of 0, and the estimate is below d / 2.
- *contradicted*: the interval lies on the other side of 0.
- *not reproduced*: the interval has 0 in it, and an effect of d / 2 is outside.
- *undecided*: the interval has room for both 0 and d / 2.

A claim of "no more" is *reproduced* if the interval excludes a gain of :data:`MARGIN`, else *contradicted* if it lies
above 0, else *undecided*. A claim is as good as the worst of its comparisons, in the order of :data:`VERDICTS`, and not
run while one of them is not. A comparison without room counts as undecided, unless all of them have none.
"""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from study.evidence import comparisons as evidence
from study.evidence import estimates
from study.evidence.comparisons import STRONG
from study.evidence.estimates import Estimate
from study.evidence.selection import Group
from study.plan import catalogue
from study.plan.catalogue import COLUMNS

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
    a: evidence.Place
    b: evidence.Place
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


@cache
def claims() -> tuple[Claim, ...]:
    """Every claim of the ledger. Raises ValueError on an unknown row, column or direction, or a repeated id."""
    found = tuple(
        _claim(**entry)
        for entry in tomllib.loads((files("study.findings.claims") / "claims.toml").read_text())["claim"]
    )
    ids = [claim.id for claim in found]
    if repeated := {id for id in ids if ids.count(id) > 1}:
        raise ValueError(f"claims.toml has two claims named {', '.join(sorted(repeated))}: give each its own id")
    return found


def ledger(group: Group) -> list[Ruling]:
    """Every claim under every trial, judged from one group of records."""
    rulings = []
    for trial in TRIALS:
        of_trial = [_rule(claim, trial, group) for claim in claims()]
        rulings += _adjusted(of_trial)
    return rulings


def judge(estimate: Estimate, published: float, direction: str, *, higher: float = 1.0) -> str:
    """The verdict on one comparison, by the rules above; ``published`` is the paper's difference, in [-1, 1].

    ``higher``: the higher accuracy of the two networks, in [0, 1].
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


def supported_by_the_paper(claim: Claim) -> bool:
    """Whether the paper's own numbers have the sign that the sentence claims, in every comparison."""
    if claim.direction == "no more":
        return all(comparison.published < MARGIN for comparison in claim.comparisons)
    return all(SIGN[claim.direction] * comparison.published > 0 for comparison in claim.comparisons)


def _claim(*, id, title, sentence, where, direction, comparisons, stated=(), **flags) -> Claim:
    if direction not in SIGN:
        raise ValueError(f"claim {id}: unknown direction {direction!r}: choose one of {', '.join(SIGN)}")
    expanded = []
    for entry in comparisons:
        row, against = entry["row"], entry.get("against", entry["row"])
        for column in entry["columns"]:
            comparison = Comparison(row, against, column, entry.get("against_column", column))
            _check(id, comparison)
            expanded.append(comparison)
    return Claim(id, title, sentence, where, direction, tuple(expanded), tuple(stated), **flags)


def _check(id: str, comparison: Comparison) -> None:
    for key in (comparison.row, comparison.against):
        if key not in catalogue.rows():
            raise ValueError(f"claim {id} compares an unknown row {key!r}: `python -m study list` prints the rows")
    for column in (comparison.column, comparison.against_column):
        if column not in COLUMNS:
            raise ValueError(f"claim {id} names an unknown column {column!r}: choose one of {', '.join(COLUMNS)}")
    if (comparison.row, comparison.column) == (comparison.against, comparison.against_column):
        raise ValueError(f"claim {id} compares {comparison.row} with itself")


def _rule(claim: Claim, trial: str, group: Group) -> Ruling:
    asked = _asked(claim, trial)
    if not asked:
        return Ruling(claim, trial, NOT_ASKED, ())
    findings = tuple(_find(comparison, trial, claim.direction, 0.05 / len(asked), group) for comparison in asked)
    return Ruling(claim, trial, overall([finding.verdict for finding in findings]), findings)


def overall(verdicts: Sequence[str]) -> str:
    """The verdict on a claim from those on its comparisons, by the rules above."""
    if NOT_RUN in verdicts:
        return NOT_RUN
    if set(verdicts) == {NO_ROOM}:
        return NO_ROOM
    return max(("undecided" if verdict == NO_ROOM else verdict for verdict in verdicts), key=VERDICTS.index)


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
    masks = evidence.paired(group, [a, b])
    if masks is None:
        return Finding(comparison, a, b, NOT_RUN)
    estimate = estimates.difference(*masks, confidence=1 - alpha)
    # against a stronger attack the size of the published difference says nothing: its sign is what is judged
    published = 0.0 if stronger else comparison.published
    verdict = judge(estimate, published, direction, higher=max(mask.mean() for mask in masks))
    return Finding(comparison, a, b, verdict, estimate, estimates.p_value(*masks))


def _adjusted(rulings: list[Ruling]) -> list[Ruling]:
    raw = [finding.p for ruling in rulings for finding in ruling.findings if finding.p is not None]
    adjusted = iter(estimates.holm(raw))
    return [
        Ruling(
            ruling.claim,
            ruling.trial,
            ruling.verdict,
            tuple(
                Finding(**{**vars(finding), "p": next(adjusted)}) if finding.p is not None else finding
                for finding in ruling.findings
            ),
        )
        for ruling in rulings
    ]
