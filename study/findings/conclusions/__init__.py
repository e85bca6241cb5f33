"""What the runs say, in words: sentences of ``conclusions.toml``, each beside conditions on the records. No torch.

A condition is a difference that must be above zero for certain, or a verdict of the ledger of claims. Each interval is
one of 95 %: a sentence that needs all of its conditions is wrong no more often than one of them (Berger 1982). It is
judged by the largest size at which its rows were run. A sentence that does not hold there stops the build of the book:
it has to be written anew.
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
class Difference:
    """Accuracy at ``more`` minus accuracy at ``than``."""

    name: str  # of the number in the sentence
    more: Place
    than: Place


@dataclass(frozen=True)
class Conclusion:
    """A sentence with its numbers in braces, and what it stands or falls with."""

    id: str
    sentence: str
    page: str  # of the book, where the numbers behind it are
    figure: str = ""  # or section, its id on that page: the cover has the sentences that have one
    conditions: tuple[Difference, ...] = ()  # above zero
    numbers: tuple[Difference, ...] = ()  # of any sign, for the reader
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
    said = {part: tuple(_difference(**one) for one in entry.pop(part, [])) for part in ("conditions", "numbers")}
    one = Conclusion(**entry, **said)
    named = {name for _, name, *_ in Formatter().parse(one.sentence) if name is not None}
    known = {f"{claim.id}/{trial}" for claim in judge.claims() for trial in judge.TRIALS}
    if unknown := sorted(named - {d.name for part in said.values() for d in part}) + sorted(set(one.verdicts) - known):
        raise ValueError(f"conclusions.toml: {one.id!r} names what does not exist: {', '.join(unknown)}")
    return one


def _difference(name: str, more: str, than: str) -> Difference:
    """Raises ValueError on a place whose experiment, protocol or rule does not exist."""
    places = [tuple(place.split(maxsplit=2)) for place in (more, than)]
    for place in places:
        if len(place) != 3 or place[0] not in catalogue.experiments() or ":" not in place[2]:
            raise ValueError(f"conclusions.toml: {' '.join(place)!r} is no place: write row, protocol, rule:column")
        catalogue.experiments()[place[0]].changes(place[1])
    return Difference(name, *places)


def _said(one: Conclusion, evidence: Evidence) -> str:
    rulings = {f"{r.claim.id}/{r.trial}": r for r in evidence.rulings} if one.verdicts else {}
    asked = {place: rulings[place] for place in one.verdicts}
    if judge.NOT_RUN in [ruling.verdict for ruling in asked.values()]:
        return ""
    failed = [f"{place} is {r.verdict}" for place, r in asked.items() if not _unanimous(r, one.verdicts[place])]
    differences = [*one.conditions, *one.numbers]
    group = next((group for group in evidence.groups if _run(differences, group)), None)
    if group is None:
        return ""
    found = {d.name: _estimate(d, group, evidence) for d in differences}
    failed += [f"{c.name} at budget {group[0].budget}" for c in one.conditions if found[c.name].low <= 0]
    if failed:
        raise Withdrawn(
            f"the conclusion {one.id!r} does not hold by the records: {', '.join(failed)}. "
            "Write its sentence anew in study/findings/conclusions/conclusions.toml, or drop it"
        )
    numbers = {
        name: f"{100 * e.value:.1f} points ({100 * e.low:+.1f} to {100 * e.high:+.1f})" for name, e in found.items()
    }
    said = [f.estimate for ruling in asked.values() for f in ruling.findings]
    budgets = [*([group[0].budget] if differences else []), *(ruling.group[0].budget for ruling in asked.values())]
    return one.sentence.format(**numbers) + _rests_on(budgets, [*found.values(), *said])


def _unanimous(ruling: judge.Ruling, verdict: str) -> bool:
    return {ruling.verdict, *(finding.verdict for finding in ruling.findings)} == {verdict}


def _run(differences: Sequence[Difference], group: Group) -> bool:
    return all(comparisons.shared(group, [d.more, d.than])[0] for d in differences)


def _estimate(one: Difference, group: Group, evidence: Evidence) -> Estimate:
    places = [one.more, one.than]
    return judge.difference(judge.surviving(group, places), places, 0.0, 0.95, evidence.spread(one.more[2]))


def _rests_on(budgets: Sequence[str], found: Sequence[Estimate]) -> str:
    images, seeds = sorted({e.n for e in found}), sorted({e.seeds for e in found})
    noun = "training" if seeds == [1] else "trainings"
    named = ", ".join(dict.fromkeys(SETTINGS[budget] for budget in budgets))
    return f" ({named[0].upper()}{named[1:]}, {counts(images)} test images, {counts(seeds)} {noun} of each.)"
