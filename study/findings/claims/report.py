"""The rulings of :mod:`claims.judge` as they are read: on the page, in a terminal, as JSON. No torch."""

import operator
from collections.abc import Iterable, Sequence

import matplotlib.pyplot as plt
from markupsafe import Markup
from matplotlib.figure import Figure

from study.evidence import comparisons
from study.evidence.comparisons import FOUR_COLUMNS, HEADINGS, STRONG
from study.evidence.estimates import Estimate
from study.evidence.selection import Group
from study.findings.claims import judge
from study.findings.claims.judge import (
    CONTRADICTED,
    GUESSING,
    LARGER,
    NO_ROOM,
    NOT_ASKED,
    NOT_RUN,
    OPEN,
    REFUTED,
    REPRODUCED,
    SILENT,
    SMALLER,
    TRIALS,
    VERDICTS,
    Claim,
    Comparison,
    Evidence,
    Finding,
    Ruling,
)
from study.plan import arithmetic, catalogue
from study.presentation.figures import style
from study.presentation.marks import SIDE_BY_SIDE, dot, legend, rows_on_y
from study.presentation.markup import NO_NUMBER, change, counts, element, links, points, row, span, table, together
from study.presentation.words import Words

SYMBOLS = {
    REPRODUCED: "✓",
    LARGER: "↑",
    SMALLER: "↓",
    NO_ROOM: "○",
    SILENT: "○",
    OPEN: "?",
    REFUTED: "≠",
    CONTRADICTED: "✗",
    NOT_RUN: "…",
    NOT_ASKED: "",
}
QUIET = (NO_ROOM, SILENT, NOT_RUN)  # they say nothing of a comparison
Size = tuple[str, str]  # budget, data


def summary(rulings: Sequence[Ruling]) -> str:
    """How the paper's own sentences came out, trial by trial, in a sentence of Markdown each."""
    sentences = []
    for trial in TRIALS:
        asked = [ruling for ruling in rulings if ruling.trial == trial and ruling.claim.quoted]
        verdicts = [ruling.verdict for ruling in asked if ruling.verdict != NOT_ASKED]
        counted = [(verdicts.count(verdict), verdict) for verdict in (*VERDICTS, NOT_RUN)]
        found = ", ".join(f"{count} {verdict}" for count, verdict in counted if count)
        under = "Under a stronger attack" if trial == "stronger attack" else f"Under the `{trial}` protocol"
        sentences.append(f"{under}, of {len(verdicts)} claims: {found}.")
    return "\n".join(f"- {sentence}" for sentence in sentences)


def brief(rulings: Sequence[Ruling]) -> Markup:
    """One line a claim, as HTML: what the paper says, and each trial's verdict. Titles link to #claim-id."""
    body = []
    for claim, judged in _by_claim(rulings):
        head = element("a", claim.title, href=f"#claim-{claim.id}")
        published = [100 * c.published for c in claim.comparisons if c.published is not None]
        cells = [_range(published) if published else NO_NUMBER]
        body.append(row(head, cells + [badge(judged[trial]) for trial in TRIALS]))
    return table(
        ["Claim", "The paper", *map(str.capitalize, TRIALS)],
        body,
        "What the paper claims, and what the runs say. The paper: its differences, in percentage points. A claim is "
        "as good as the worst of its comparisons that say something. Published, corrected: training and evaluation of "
        "that protocol. "
        f"Stronger attack: corrected networks under {HEADINGS[STRONG]}, judged by the sign alone, or by the margin. "
        "Smallest visible: the difference that eight of ten such experiments would have found, the largest of the "
        f"claim's comparisons. {_evidence(rulings)}",
    )


def judged_by(evidence: judge.Evidence) -> list[Group]:
    """The groups of records that claims are judged by, the largest first."""
    return [group for group in evidence.groups if any(r.group is group for r in evidence.rulings if r.by_size)]


def forest(rulings: Sequence[Ruling]) -> Figure:
    """Every comparison of the claims, a line a pair of rows, a panel a column: the paper's difference, and ours.

    In percentage points. Where several claims rest on one comparison, the widest of its intervals is drawn.
    """
    found: dict[tuple[str, str], dict[str, Finding]] = {}  # (pair, column) -> trial -> finding
    for ruling in rulings:
        if ruling.trial in SIDE_BY_SIDE:
            for finding in ruling.findings:
                by_trial = found.setdefault((_pair(finding.comparison), finding.comparison.column), {})
                by_trial[ruling.trial] = max(by_trial.get(ruling.trial, finding), finding, key=_width)
    if not any(finding.estimate for by_trial in found.values() for finding in by_trial.values()):
        raise ValueError("no claim can be judged yet: run the methods that one compares")
    names = list(dict.fromkeys(name for name, _ in found))
    with style():
        size = (10.4, 1.5 + 0.27 * len(names))
        figure, panels = plt.subplots(1, len(catalogue.COLUMNS), figsize=size, sharey=True)
        for panel, (column, heading) in zip(panels, catalogue.COLUMNS.items(), strict=True):
            panel.axvline(0, color="black", lw=1)
            panel.set_title(heading)
            for (name, of_column), by_trial in found.items():
                if of_column == column:
                    _compare(panel, names.index(name), by_trial)
        rows_on_y(panels[0], names)
        panels[0].tick_params(axis="y", labelsize=8)
        panels[0].grid(axis="y", visible=True)  # the eye needs a line from a name to the last panel
        figure.supxlabel("difference in accuracy (points)", fontsize=10)
        legend(figure, 3, loc="outside upper right")
    return figure


def forest_words(rulings: Sequence[Ruling]) -> Words:
    by_trial = [
        f"Under the {trial} protocol: "
        + "; ".join(f"{ruling.claim.title}: {ruling.verdict}" for ruling in rulings if ruling.trial == trial)
        for trial in catalogue.PROTOCOLS
    ]
    return {
        "caption": "Every comparison that a claim rests on: the difference in the paper, and the one measured here "
        "under either protocol. Intervals are as wide as the claim's number of comparisons asks; where several claims "
        "rest on a comparison, the widest. "
        f"{_evidence(rulings)}",
        "alt": f"Dots with intervals, a pair of methods a line, a column a panel. {'. '.join(by_trial)}.",
    }


def by_size(rulings: Sequence[Ruling]) -> Figure | None:
    """How the difference of each claim moves with the size of the runs; None while no claim has two sizes.

    A panel a claim, of the first comparison that says something under as many protocols as can be.
    """
    shown = _at_several_sizes(rulings)
    if not shown:
        return None
    columns = min(3, len(shown))
    lines = -(-len(shown) // columns)
    with style():
        figure, panels = plt.subplots(lines, columns, figsize=(3.4 * columns, 2.6 * lines), squeeze=False)
        for panel in panels.flat[len(shown) :]:
            panel.remove()
        for panel, (comparison, by_trial) in zip(panels.flat, shown, strict=False):
            panel.axhline(0, color="black", lw=1)
            if comparison.published is not None:
                panel.axhline(100 * comparison.published, color="black", ls="--", lw=1)
            sizes = sorted({size for moving in by_trial.values() for size in moving}, key=_from_the_smallest)
            for trial, moving in by_trial.items():
                aside, color, marker = SIDE_BY_SIDE[trial]
                for size, e in moving.items():
                    reach = [[100 * (e.value - e.low)], [100 * (e.high - e.value)]]
                    at = sizes.index(size) + 0.08 * aside
                    panel.errorbar(at, 100 * e.value, yerr=reach, fmt=marker, color=color, capsize=3, label=trial)
            panel.set_xticks(range(len(sizes)), [_size_called(size, sizes, "\n") for size in sizes])
            panel.margins(x=0.3)
            panel.set_title(_name(comparison), fontsize=9)
        figure.supylabel("difference in accuracy (points)", fontsize=10)
        legend(figure, 2)
    return figure


def by_size_words(rulings: Sequence[Ruling]) -> Words:
    said = [
        f"{_name(comparison)}, {trial}: "
        + ", ".join(
            f"{_size_called(size, moving, ' on ')} {_signed(estimate.value)}" for size, estimate in moving.items()
        )
        for comparison, by_trial in _at_several_sizes(rulings)
        for trial, moving in by_trial.items()
    ]
    return {
        "caption": "The difference against the size of the runs, from the smallest to the largest, for each claim that "
        "was run at more than one: the first of its comparisons that say something under as many protocols as can be. "
        "An interval is as wide as the claim's number of comparisons asks for; dashed is the paper's difference.",
        "alt": f"Dots with intervals. {'; '.join(said)}.",
    }


def _at_several_sizes(rulings: Sequence[Ruling]) -> list[tuple[judge.Comparison, dict[str, dict[Size, Estimate]]]]:
    """Claims that were run at two sizes and say something: comparison, then trial, then size, the smallest first."""
    found = []
    for _, judged in _by_claim(rulings):
        moving = {trial: r for trial, r in judged.items() if trial in SIDE_BY_SIDE and len(r.by_size) > 1}
        said = [k for r in moving.values() for k, f in enumerate(r.findings) if f.verdict not in (NO_ROOM, SILENT)]
        if said:
            k = max(said, key=lambda k: (said.count(k), -k))
            by_trial = {
                trial: {_size(group): findings[k].estimate for group, findings in r.by_size[::-1]}
                for trial, r in moving.items()
            }
            found.append((next(iter(moving.values())).findings[k].comparison, by_trial))
    return found


def _size(group: Group) -> Size:
    return group[0].budget, group[0].config["dataset"]


def _from_the_smallest(size: Size) -> tuple[int, str]:
    budget, dataset = size
    return list(catalogue.BUDGETS).index(budget), dataset


def _size_called(size: Size, among: Iterable[Size], joint: str) -> str:
    """The budget, and the data where another of these sizes has the same budget on other data."""
    budget, dataset = size
    return budget if [other for other, _ in among].count(budget) == 1 else f"{budget}{joint}{dataset}"


def details(rulings: Sequence[Ruling]) -> str:
    """Every claim with its sentence, its place in the paper, and each comparison with estimate, verdict and runs."""
    return together(_section(claim, judged) for claim, judged in _by_claim(rulings))


def counted() -> str:
    """The claims about cost, as HTML, judged by the passes through the network that an update takes."""
    said = (
        ("ALS adds next to nothing", "the added computational cost is minuscule", "als", operator.eq),
        ("AdvProp costs extra time", "at the cost of extra computational time", "advprop", operator.gt),
    )
    plain, body = _passes("traditional"), []
    for title, sentence, key, claimed in said:
        found = _passes(key)
        verdict = REPRODUCED if claimed(found, plain) else CONTRADICTED
        cells = [f"\u201c{sentence}\u201d", str(found), str(plain), f"{SYMBOLS[verdict]} {verdict}"]
        body.append(row(title, cells))
    return table(
        ["Claim", "The paper", "Its network", "Traditional", "Verdict"],
        body,
        "Claims about cost: forward and backward passes of a batch that an update takes.",
        "words",
    )


def _passes(key: str) -> int:
    return sum(arithmetic.passes(catalogue.config(key)).values())


def text(rulings: Sequence[Ruling]) -> str:
    """The claims for a terminal: each claim, then a line for each trial, with a line for each of its comparisons."""
    lines = []
    for claim, judged in _by_claim(rulings):
        lines.append(f"{claim.title}  [{claim.where}]")
        for trial in TRIALS:
            ruling = judged[trial]
            if ruling.verdict == NOT_ASKED:
                continue
            share = f" ({found})" if (found := _share(ruling)) else ""
            lines.append(f"  {trial:16s} {SYMBOLS[ruling.verdict]} {ruling.verdict}{share}")
            lines += [f"      {_line(finding, trial)}" for finding in ruling.findings]
        lines.append("")
    return "\n".join(lines)


def as_json(rulings: Sequence[Ruling]) -> list[dict]:
    """The rulings as plain values: differences in percentage points, and the records that each comes from."""
    return [
        {
            "id": ruling.claim.id,
            "sentence": ruling.claim.sentence,
            "where": ruling.claim.where,
            "trial": ruling.trial,
            "verdict": ruling.verdict,
            "comparisons": [_plain(finding, ruling.trial, ruling.group) for finding in ruling.findings],
        }
        for ruling in rulings
    ]


def badge(ruling: Ruling) -> Markup:
    """The verdict as a symbol and a word, with its estimate, or with how many of several comparisons came out how."""
    if ruling.verdict == NOT_ASKED:
        return Markup()
    text = span(f"verdict {ruling.verdict.replace(' ', '-')}", f"{SYMBOLS[ruling.verdict]} {ruling.verdict}")
    if len(ruling.findings) == 1:
        estimate = ruling.findings[0].estimate
        return text + (change(estimate) if estimate else "") + _visible(ruling)
    return text + span("interval wrap", _tally(ruling)) + _visible(ruling)


def _section(claim: Claim, judged: dict[str, Ruling]) -> Markup:
    body = []
    for trial in TRIALS:
        ruling = judged[trial]
        told, folded = _foldable(ruling.findings)
        for finding in told:
            published = finding.comparison.published
            cells = [_trial(ruling, finding.verdict)]
            cells += ["" if published is None or trial == "stronger attack" else f"{100 * published:+.2f}"]
            cells += [points(finding.estimate)]
            cells += ["" if finding.visible is None else f"{100 * finding.visible:.1f}"]
            cells += [f"{SYMBOLS[finding.verdict]} {finding.verdict}", _p(finding.p)]
            cells += [_runs(finding, ruling.group)]
            body.append(row(_name(finding.comparison, trial), cells))
        for verdict, count in folded.items():
            cells = [_trial(ruling, verdict), "", "", "", f"{SYMBOLS[verdict]} {verdict}", "", ""]
            body.append(row(f"{count} more comparisons", cells))
    own = "" if judge.supported_by_the_paper(claim) else " Not all of the paper's own numbers say so."
    told = ["The paper", "Here", "Smallest visible", "Verdict", "p", "Runs"]
    caption = f"Differences in percentage points; p adjusted for the comparisons of the claim.{own}"
    said = element("p", claim.sentence) + element("footer", claim.where)
    said = element("blockquote", said) if claim.quoted else said
    title = element("h3", claim.title)
    return element(
        "section",
        title,
        said,
        table(["Comparison", "Protocol or attack, size", *told], body, caption),
        class_="claim",
        id=f"claim-{claim.id}",
    )


def _trial(ruling: Ruling, verdict: str) -> Markup:
    """The trial, and below it the size of the runs that it is judged by."""
    return ruling.trial + (span("interval", ruling.group[0].budget) if verdict != NOT_RUN else Markup())


def _foldable(findings: Sequence[Finding]) -> tuple[list[Finding], dict[str, int]]:
    """The findings that have a line each; and of those that say nothing, where they are many, how many of a kind."""
    many = {one: count for one in QUIET if (count := [f.verdict for f in findings].count(one)) > 1}
    return [finding for finding in findings if finding.verdict not in many], many


def _visible(ruling: Ruling) -> Markup:
    """The smallest visible difference of the comparison of a claim that has the largest."""
    found = [finding.visible for finding in ruling.findings if finding.visible is not None]
    return span("interval", f"smallest visible {100 * max(found):.1f}") if found else Markup()


def _by_claim(rulings: Sequence[Ruling]) -> list[tuple[Claim, dict[str, Ruling]]]:
    found: dict[str, tuple[Claim, dict[str, Ruling]]] = {}
    for ruling in rulings:
        found.setdefault(ruling.claim.id, (ruling.claim, {}))[1][ruling.trial] = ruling
    return list(found.values())


def _share(ruling: Ruling) -> str:
    """On how many of a claim's comparisons a verdict rests, where not all of them say something."""
    silent = sum(finding.verdict in (NO_ROOM, SILENT) for finding in ruling.findings)
    asked = len(ruling.findings)
    return f"{asked - silent} of {asked} compared" if 0 < silent < asked else ""


def _tally(ruling: Ruling) -> str:
    verdicts = [finding.verdict for finding in ruling.findings]
    counted = [(verdict, verdicts.count(verdict)) for verdict in (*VERDICTS, NOT_RUN)]
    return ", ".join(f"{count} {verdict}" for verdict, count in counted if count)


def _line(finding: Finding, trial: str) -> str:
    published = finding.comparison.published
    paper = "" if published is None or trial == "stronger attack" else f"paper {100 * published:+6.2f}"
    words = f"{_name(finding.comparison, trial):58s} {paper:12s}"
    if finding.estimate is None:
        return f"{words}   not run"
    e = finding.estimate
    return (
        f"{words}   here {100 * e.value:+6.1f} [{100 * e.low:+.1f}, {100 * e.high:+.1f}]  p {_p(finding.p):7s}  "
        f"visible {100 * finding.visible:.1f}  n {e.n:,} x {e.seeds}  {finding.verdict}"
    )


def _plain(finding: Finding, trial: str, group: Group) -> dict:
    comparison, e = finding.comparison, finding.estimate
    plain = {"row": comparison.row, "against": comparison.against, "verdict": finding.verdict}
    plain |= {"column": finding.a[2].partition(":")[2]}
    if finding.b:
        plain["against_column"] = finding.b[2].partition(":")[2]
    if trial != "stronger attack" and comparison.published is not None:
        plain["paper"] = round(100 * comparison.published, 2)
    if e is not None:
        plain |= {part: round(100 * getattr(e, part), 2) for part in ("value", "low", "high")}
        plain |= {"images": e.n, "seeds": e.seeds, "p": finding.p, "visible": round(100 * finding.visible, 2)}
        plain["budget"] = group[0].budget
        plain["records"] = sorted({r.where for runs in comparisons.shared(group, finding.places) for r in runs})
    return plain


def _name(comparison: Comparison, trial: str = "published") -> str:
    """The comparison in words, such as "AdvProp − Traditional, FGSM 0.1"."""
    if comparison.row == comparison.against:
        return _pair(comparison)
    return f"{_pair(comparison)}, {HEADINGS[STRONG if trial == 'stronger attack' else comparison.column]}"


def _pair(comparison: Comparison) -> str:
    """The two rows in words, such as "AdvProp − Traditional"; or the two columns, if it is one row."""
    row, against = (key if key == GUESSING else _called(key) for key in (comparison.row, comparison.against))
    if comparison.row == comparison.against:
        return f"{row}, {HEADINGS[comparison.column]} − {HEADINGS[comparison.against_column]}"
    return f"{row} − {against}"


def _called(key: str) -> str:
    found = catalogue.experiments()[key]
    return getattr(found, "name", found.label)


def _runs(finding: Finding, group: Group) -> str:
    """The links to the records that the estimate rests on: of a row, those of the seeds that both rows have."""
    rested_on = comparisons.shared(group, finding.places)
    by_row = {key: runs for (key, _, _), runs in zip(finding.places, rested_on, strict=True) if runs}
    named = [together([_called(key), links(runs)], ": ") for key, runs in by_row.items()]
    return span("interval wrap", together(named, Markup("<br>"))) if named else ""


def _evidence(rulings: Sequence[Ruling]) -> str:
    """At which sizes the claims were judged, and on how many trainings a row."""
    seeds = sorted({f.estimate.seeds for ruling in rulings for f in ruling.findings if f.estimate})
    if not seeds:
        return "No method that a claim compares has been run yet."
    sizes = dict.fromkeys(ruling.group[0].budget for ruling in rulings if ruling.by_size)
    return (
        f"Each claim by the largest size at which both networks were trained: {', '.join(sizes)}. "
        f"Trainings of each method: {counts(seeds)}."
    )


def luck(evidence: Evidence) -> str:
    """What the intervals know of how trainings differ, as a sentence of Markdown."""
    found = {column: spread for column in FOUR_COLUMNS if (spread := evidence.spread(f"corrected:{column}"))}
    if not found:
        return "No method was trained from several seeds, so the intervals do not cover how much trainings differ."
    said = "; ".join(
        f"{HEADINGS[column]} {100 * spread.factor * (0.6 * 0.4) ** 0.5:.1f} ({spread.freedom} degrees of freedom)"
        for column, spread in found.items()
    )
    return (
        "Two trainings of one method differ in their seed alone, and still in their accuracy. At an accuracy "
        f"of 60 %, the standard deviation of one training's accuracy is, in points: {said}. It is measured on the "
        f"paper's methods that have several seeds ({_several(evidence)}), and every interval of two networks here "
        "includes it. That other networks and the other protocol vary as much is an assumption."
    )


def _several(evidence: Evidence) -> str:
    """At which budgets and under which protocols a method of the paper has several seeds."""
    placed = {}
    for record in (record for group in evidence.groups for record in group if record.key in catalogue.rows()):
        placed.setdefault((record.budget, record.protocol, record.key), set()).add(record.seed)
    return ", ".join(dict.fromkeys(f"{b}, {p} protocol" for (b, p, _), seeds in placed.items() if len(seeds) > 1))


def _range(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:+.2f}" if low == high else f"{low:+.2f} to {high:+.2f}"


def _signed(value: float) -> str:
    return f"{100 * value:+.1f}"


def _p(p: float | None) -> str:
    if p is None:
        return ""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _compare(panel, position: int, by_trial: dict[str, Finding]) -> None:
    """One comparison: the paper's difference, and those that were measured."""
    (published, *_) = (finding.comparison.published for finding in by_trial.values())
    if published is not None:
        panel.plot(100 * published, position, "D", mfc="white", mec="black", ms=5, label="the paper")
    for trial, finding in by_trial.items():
        if finding.estimate:
            side, *looks = SIDE_BY_SIDE[trial]
            dot(panel, finding.estimate, position + 0.17 * side, *looks, trial)


def _width(finding: Finding) -> float:
    return finding.estimate.high - finding.estimate.low if finding.estimate else -1.0
