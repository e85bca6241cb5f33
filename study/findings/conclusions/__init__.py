"""What the runs say, in words: sentences of ``conclusions.toml``, each beside conditions on the records. No torch.

A condition is a difference that must be certain, or a verdict of the ledger of claims. A sentence whose rows were all
run and that holds at no size stops the build of the book: it has to be written anew.
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from string import Formatter

from markupsafe import Markup

from study.evidence import comparisons
from study.evidence.comparisons import Place
from study.evidence.estimates import Estimate
from study.evidence.selection import Group
from study.findings.claims import judge
from study.findings.claims.judge import Evidence
from study.plan import catalogue
from study.presentation.markup import counts, element
from study.presentation.words import SETTINGS

FILE = files("study.findings.conclusions") / "conclusions.toml"


class Withdrawn(ValueError):
    """A sentence that the records do not bear out, or not any more."""


@dataclass(frozen=True)
class Condition:
    """Accuracy at ``more`` minus accuracy at ``than`` is above zero, or within ``within`` of it, for certain."""

    name: str  # of the number in the sentence
    more: Place
    than: Place
    within: float | None = None

    def holds(self, found: Estimate) -> bool:
        return found.low > 0 if self.within is None else -self.within < found.low and found.high < self.within

    def fails(self, found: Estimate) -> bool:
        """Whether the opposite is certain."""
        return found.high < 0 if self.within is None else found.low > self.within or found.high < -self.within


@dataclass(frozen=True)
class Conclusion:
    """A sentence with its numbers in braces, and what it stands or falls with."""

    id: str
    sentence: str
    page: str  # of the book, where the numbers behind it are
    figure: str = ""  # or section, its id on that page: the cover has the sentences that have one
    conditions: tuple[Condition, ...] = ()
    verdicts: Mapping[str, str] = field(default_factory=dict)  # "claim/trial" -> verdict, on each of its comparisons


def say(id: str, evidence: Evidence) -> str:
    """The sentence, as Markdown, with its numbers and what they rest on; empty while one of its rows was not run.

    Raises Withdrawn, with the remedy, where a condition does not hold; KeyError on an id that is not in the file, or a
    measurement that a record lacks.
    """
    return _said(conclusions()[id], evidence)


def for_the_cover(evidence: Evidence) -> Markup:
    """The sentences of the cover that can be said, as a numbered list in HTML, each with a link to its numbers.

    Errors as for `say`.
    """
    items = []
    for one in conclusions().values():
        if one.figure and (said := _said(one, evidence)):
            parts = [element("strong", part) if k % 2 else part for k, part in enumerate(said.split("**"))]
            items.append(
                element("li", *parts, " ", element("a", "See the numbers.", href=f"{one.page}.html#{one.figure}"))
            )
    return element("ol", *items) if items else Markup()


@cache
def conclusions() -> dict[str, Conclusion]:
    """The sentences of the file by their ids.

    Raises ValueError on one without a condition, an id that is taken, or a name of what does not exist.
    """
    found: dict[str, Conclusion] = {}
    for entry in tomllib.loads(FILE.read_text()).get("conclusion", []):
        one = _conclusion(entry)
        if one.id in found or not (one.conditions or one.verdicts):
            raise ValueError(f"conclusions.toml: {one.id!r} is there twice, or has no condition: a sentence needs one")
        found[one.id] = one
    return found


def _conclusion(entry: dict) -> Conclusion:
    conditions = tuple(_condition(**condition) for condition in entry.pop("conditions", []))
    one = Conclusion(**entry, conditions=conditions)
    named = {name for _, name, *_ in Formatter().parse(one.sentence) if name is not None}
    known = {f"{claim.id}/{trial}" for claim in judge.claims() for trial in judge.TRIALS}
    if unknown := sorted(named - {c.name for c in conditions}) + sorted(set(one.verdicts) - known):
        raise ValueError(f"conclusions.toml: {one.id!r} names what does not exist: {', '.join(unknown)}")
    return one


def _condition(name: str, more: str, than: str, within: float | None = None) -> Condition:
    """Raises ValueError on a place whose experiment, protocol or rule does not exist."""
    places = [tuple(place.split(maxsplit=2)) for place in (more, than)]
    for place in places:
        if len(place) != 3 or place[0] not in catalogue.experiments() or ":" not in place[2]:
            raise ValueError(f"conclusions.toml: {' '.join(place)!r} is no place: write row, protocol, rule:column")
        catalogue.experiments()[place[0]].changes(place[1])
    return Condition(name, *places, within)


def _said(one: Conclusion, evidence: Evidence) -> str:
    rulings = {f"{r.claim.id}/{r.trial}": r for r in evidence.rulings} if one.verdicts else {}
    asked = {place: rulings[place] for place in one.verdicts}
    if judge.NOT_RUN in [ruling.verdict for ruling in asked.values()]:
        return ""
    failed = [f"{place} is {r.verdict}" for place, r in asked.items() if not _unanimous(r, one.verdicts[place])]
    found, group, undecided = _numbers(one, evidence)
    if found is None:
        return ""
    if failed or undecided:
        raise Withdrawn(
            f"the conclusion {one.id!r} does not hold by the records: {', '.join([*failed, *undecided])}. "
            "Write its sentence anew in study/findings/conclusions/conclusions.toml, or drop it"
        )
    numbers = {
        name: f"{100 * e.value:.1f} points ({100 * e.low:+.1f} to {100 * e.high:+.1f})" for name, e in found.items()
    }
    said = [f.estimate for ruling in asked.values() for f in ruling.findings]
    budgets = [*([group[0].budget] if group else []), *(ruling.group[0].budget for ruling in asked.values())]
    return one.sentence.format(**numbers) + _rests_on(budgets, [*found.values(), *said])


def _numbers(one: Conclusion, evidence: Evidence) -> tuple[dict[str, Estimate] | None, Group, list[str]]:
    """The differences of the largest size by which all conditions hold, its records, and what fails.

    A larger size by which one is not certain hides no smaller one by which all are; one that is the other way round
    does. None while no size has all rows.
    """
    if not one.conditions:
        return {}, [], []
    confidence, undecided = 1 - 0.05 / len(one.conditions), []
    for group in (group for group in evidence.groups if _run(one, group)):
        found = {c.name: _difference(c, group, evidence, confidence) for c in one.conditions}
        failed = [f"{c.name} at budget {group[0].budget}" for c in one.conditions if not c.holds(found[c.name])]
        if not failed:
            return found, group, []
        undecided += failed
        if any(c.fails(found[c.name]) for c in one.conditions):
            break
    return {} if undecided else None, [], undecided


def _unanimous(ruling: judge.Ruling, verdict: str) -> bool:
    return {ruling.verdict, *(finding.verdict for finding in ruling.findings)} == {verdict}


def _run(one: Conclusion, group: Group) -> bool:
    return all(comparisons.shared(group, [c.more, c.than])[0] for c in one.conditions)


def _difference(condition: Condition, group: Group, evidence: Evidence, confidence: float) -> Estimate:
    places = [condition.more, condition.than]
    masks = judge.surviving(group, places)
    return judge.difference(masks, places, 0.0, confidence, evidence.spread(condition.more[2]))


def _rests_on(budgets: Sequence[str], found: Sequence[Estimate]) -> str:
    images, seeds = sorted({e.n for e in found}), sorted({e.seeds for e in found})
    noun = "training" if seeds == [1] else "trainings"
    named = ", ".join(dict.fromkeys(SETTINGS[budget] for budget in budgets))
    return f" ({named[0].upper()}{named[1:]}, {counts(images)} test images, {counts(seeds)} {noun} of each.)"
