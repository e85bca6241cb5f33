"""The verdicts of :mod:`masking.judge` as they are read: on the page, in a terminal, as JSON. No torch."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from study.evidence import comparisons
from study.evidence.comparisons import HEADINGS, STRONG
from study.evidence.estimates import Estimate
from study.evidence.selection import Group, runs_of
from study.findings.masking.checks import CHECKS, FAILS, NOT_ASKED, NOT_MEASURED, NOTHING_LEFT, PASSES, Finding
from study.findings.masking.judge import CLEAR, COLLAPSED, MASKED, UNDECIDED, VERDICTS, Result, Verdict
from study.findings.masking.probes import FROM
from study.plan import catalogue
from study.presentation.figures import PALETTE, style
from study.presentation.marks import shades
from study.presentation.markup import NO_NUMBER, counts, element, interval, links, row, span, table, together
from study.presentation.words import Words, percent

SYMBOLS = {
    CLEAR: "✓",
    UNDECIDED: "?",
    MASKED: "✗",
    COLLAPSED: "✗",
    PASSES: "✓",
    FAILS: "✗",
    NOTHING_LEFT: "○",
    NOT_MEASURED: "…",
    NOT_ASKED: "–",
}
METHODS = {"fgsm": "FGSM", "pgd": "PGD", "pgd-10": "PGD-10", "pgd-20": "PGD-20", "noise": "noise", "square": "Square"}
SET_AGAINST = ("pgd-0.5", "fgsm-0.5", "pgd-0.1")  # of Table 2: the strongest attack, and two that cannot do more
ODD = {  # measurements whose names do not end in a size
    "clean": "no attack",
    "clamp-alone": "the clamp alone",
    "unbounded": "unbounded PGD",
    "smoothed-8/255": "PGD-20 8/255 on the smoothed loss",
    "zero_gradient": "gradient exactly 0",
    "vanishing_gradient": "gradient below the precision",
    "last-step": "rise of the loss in the last step",
}
MARKS = {
    "surrogate": "surrogate gradient",
    "aux": "auxiliary branch",
    "aux-to-main": "through the auxiliary branch",
    "main-to-aux": "on the auxiliary branch, through the main one",
}


def summary(verdicts: Sequence[Verdict]) -> str:
    """How many networks came out how, and how many were probed, in two sentences."""
    counted = [(sum(verdict.verdict == word for verdict in verdicts), word) for word in VERDICTS]
    found = ", ".join(f"{count} {word}" for count, word in counted if count)
    probed = sum(verdict.result("square").outcome != NOT_MEASURED for verdict in verdicts)
    weights = f"The checks that need the weights were made on {probed} of them."
    return f"Verdicts on {len(verdicts)} networks: {found}. {weights}"


def found(verdict: Verdict) -> Markup:
    """The verdict of a network as a cell of a table, as HTML: what fails below it, with a link to the numbers."""
    told = _to_tell(verdict)
    if not told:
        return badge(verdict.verdict)
    checks = ", ".join(result.check.title for result in told)
    return together([badge(verdict.verdict), element("a", checks, href=f"#{_anchor(verdict)}", class_="interval wrap")])


def rules() -> str:
    """The checks as a list of definitions, as HTML: the title, and the rule in a sentence."""
    items = [item for check in CHECKS for item in (element("dt", check.title), element("dd", check.rule))]
    return element("dl", *items, class_="rules")


def details(verdicts: Sequence[Verdict], group: Group) -> str:
    """What fails and what was not measured though it is asked for, network by network, as HTML; empty if nothing."""
    return together(_section(verdict, group) for verdict in verdicts if _to_tell(verdict))


def transfers(found: Mapping[tuple[str, str], Estimate]) -> Figure:
    """Images made on one row (a line) and shown to another (a column), what is right of them; framed: the white box.

    ``found``: as :func:`probes.transfers` has it.
    """
    keys = [key for key in catalogue.rows() if any(key in pair for pair in found)]
    names = [catalogue.unique_name(key) for key in keys]
    grid = np.array([[100 * found[a, b].value if (a, b) in found else np.nan for b in keys] for a in keys])
    with style():
        side = 2.4 + 0.42 * len(keys)
        figure, panel = plt.subplots(figsize=(side + 0.6, side))
        shades(panel, grid, names, names, vmin=0, vmax=100, square=True)
        for k in range(len(keys)):
            panel.add_patch(Rectangle((k, k), 1, 1, fill=False, edgecolor=PALETTE[3], linewidth=2))
        panel.set(xlabel="shown to", ylabel="made on")
        panel.tick_params(axis="x", rotation=90, labelsize=8)
        panel.tick_params(axis="y", rotation=0, labelsize=8)
    return figure


def transfers_words(found: Mapping[tuple[str, str], Estimate], group: Group) -> Words:
    """``found``: as :func:`probes.transfers` has it, of ``group``."""
    sentences = []
    for target in dict.fromkeys(target for _, target in found):
        others = {source: e for (source, shown), e in found.items() if shown == target != source}
        worst = min(others, key=lambda source: others[source].value)
        sentences.append(
            f"{catalogue.unique_name(target)}: {percent(found[target, target])} under its white box, "
            f"{percent(others[worst])} under images made on {catalogue.unique_name(worst)}."
        )
    images = counts(sorted({e.n for e in found.values()}))
    return {
        "caption": f"Images of PGD-20 8/255 made on one network and shown to another: of the first {images} "
        "test images, the percentage that is right without attack and under it. Framed: the white box. Budget "
        f"{group[0].budget} on {group[0].data['title']}.",
        "alt": f"Matrix of percentages. The white box and the worst of the other networks: {' '.join(sentences)}",
    }


def table_2(verdicts: Sequence[Verdict], group: Group) -> str:
    """The paper's rows that PGD 0.5 leaves more accurate than a weaker attack, and ours of them, as Markdown."""
    part = catalogue.part(2)
    odd = {key: paper for key, paper in part.items() if _odd(paper.published)}
    printed = "; ".join(f"{paper.label} {_three(paper.published)}" for paper in odd.values())
    sentences = [
        f"In the paper, {len(odd)} of {len(part)} methods of its Table 2 are more accurate under PGD 0.5 than under a "
        + f"weaker attack, FGSM 0.5 of one step or the smaller PGD 0.1: {printed}."
    ]
    by_network = {(verdict.key, verdict.protocol): verdict for verdict in verdicts}
    sentences += [_ours(by_network[key, protocol], group) for key in odd for protocol in _protocols(by_network, key)]
    return "\n".join(f"- {sentence}" for sentence in sentences)


def text(verdicts: Sequence[Verdict]) -> str:
    """For a terminal: a line a row and protocol, below it what fails or is missing, with its numbers."""
    lines = []
    for verdict in verdicts:
        lines.append(f"{verdict.title:38s} {SYMBOLS[verdict.verdict]} {verdict.verdict}")
        for result in _to_tell(verdict):
            lines.append(f"    {SYMBOLS[result.outcome]} {result.check.title}: {result.outcome}")
            lines += [f"        {_line(finding)}" for finding in result.findings if finding.outcome == FAILS]
    return "\n".join([*lines, summary(verdicts)]) + "\n"


def as_json(verdicts: Sequence[Verdict], group: Group) -> list[dict]:
    """The verdicts as plain values: accuracies in percent, differences in percentage points, and the records."""
    return [
        {
            "row": verdict.key,
            "protocol": verdict.protocol,
            "verdict": verdict.verdict,
            "fails": [result.check.id for result in verdict.failing],
            "checks": [
                {
                    "id": result.check.id,
                    "rule": result.check.rule,
                    "outcome": result.outcome,
                    "comparisons": [_plain(finding) for finding in result.findings],
                }
                for result in verdict.results
            ],
            "records": [record.where for record in runs_of(group, verdict.key, verdict.protocol)],
        }
        for verdict in verdicts
    ]


def badge(word: str) -> Markup:
    """A verdict or an outcome as a symbol and a word, never as a colour alone."""
    if word == NOT_ASKED:
        return NO_NUMBER
    return span(f"verdict {word.replace(' ', '-')}", f"{SYMBOLS[word]} {word}")


def name(measurement: str) -> str:
    """A measurement in words: "corrected:pgd-10-8/255" is "PGD-10 8/255"; the published rule is named."""
    if measurement.startswith(f"probe:{FROM}"):
        key = measurement.split("/")[-2]  # of a record's place: budget/dataset/protocol/key/seed
        return f"{HEADINGS[STRONG]} made on {catalogue.unique_name(key)}"
    rule, column, *marks = measurement.split(":")
    method, _, size = column.rpartition("-")
    if method == "steps":
        said = f"{size} steps"
    else:
        said = ODD.get(column) or HEADINGS.get(column) or f"{METHODS[method]} {size}"
    return ", ".join([said, *(MARKS[mark] for mark in marks), *(["published rule"] if rule == "published" else [])])


def _section(verdict: Verdict, group: Group) -> Markup:
    body = [
        row(_comparison(finding), [result.check.title, badge(finding.outcome), *_numbers(finding)])
        for result in _to_tell(verdict)
        for finding in result.findings
        if finding.outcome == result.outcome
    ]
    sizes = sorted({f.estimate.n for result in _to_tell(verdict) for f in result.findings if f.estimate}) or [0]
    caption = (
        "Images left right in percent, and the difference in percentage points, or the share, with an interval that "
        f"holds for all comparisons of this network together. Over {counts([sizes[0], sizes[-1]])} images."
    )
    runs = links(runs_of(group, verdict.key, verdict.protocol))
    strong = 100 * comparisons.accuracy(group, verdict.key, verdict.protocol, STRONG).value
    said = element(
        "p", badge(verdict.verdict), "; ", runs, f". For comparison, {HEADINGS[STRONG]} leaves {strong:.1f} %."
    )
    shown = table(["Comparison", "Check", "Outcome", "Before → after", "Difference or share"], body, caption)
    return element("section", element("h3", verdict.title), said, shown, class_="claim", id=_anchor(verdict))


def _to_tell(verdict: Verdict) -> list[Result]:
    """What a reader has to know of a network: checks that fail, and those of its record that are not measured."""
    return [
        result
        for result in verdict.results
        if result.outcome == FAILS or (result.outcome == NOT_MEASURED and not result.check.of_probe)
    ]


def _anchor(verdict: Verdict) -> str:
    return f"masking-{verdict.protocol}-{verdict.key.replace('.', '-')}"


def _line(finding: Finding) -> str:
    before_after, difference = (part.replace(NO_NUMBER, "") for part in _numbers(finding))
    return f"{_comparison(finding):60s} {before_after:14s} {difference}"


def _plain(finding: Finding) -> dict:
    plain = {"before": finding.before or None, "after": finding.after, "outcome": finding.outcome}
    if finding.accuracies:
        plain["accuracies"] = [round(100 * accuracy, 2) for accuracy in finding.accuracies]
    if e := finding.estimate:
        scale = 1 if finding.after == "probe:last-step" else 100
        plain |= {part: round(scale * getattr(e, part), 4) for part in ("value", "low", "high")}
        plain |= {"images": e.n, "seeds": e.seeds}
    return plain


def _comparison(finding: Finding) -> str:
    return f"{name(finding.before)} → {name(finding.after)}" if finding.before else name(finding.after)


def _numbers(finding: Finding) -> list[str]:
    if finding.estimate is None:
        return [NO_NUMBER, NO_NUMBER]
    if finding.accuracies is None:
        return [NO_NUMBER, _interval(finding)]
    return [" → ".join(f"{100 * accuracy:.1f}" for accuracy in finding.accuracies), _interval(finding)]


def _interval(finding: Finding) -> str:
    e, last_step = finding.estimate, finding.after == "probe:last-step"
    value, low, high = ((1 if last_step else 100) * share for share in (e.value, e.low, e.high))
    if last_step:
        return f"{value:+.4f} ({low:+.4f} to {high:+.4f})"
    if not finding.before:
        return f"{value:.1f} ({low:.1f} to {high:.1f})"
    return interval(e)


def _ours(verdict: Verdict, group: Group) -> str:
    measured = {
        column: comparisons.accuracy(group, verdict.key, verdict.protocol, column) for column in catalogue.COLUMNS
    }
    ours = {column: 100 * estimate.value for column, estimate in measured.items()}
    rule = catalogue.rule(verdict.protocol)
    places = [(verdict.key, verdict.protocol, f"{rule}:{column}") for column in ("pgd-0.5-code", "fgsm-0.5")]
    code, more = comparisons.accuracies(group, places)[0], comparisons.difference(group, *places)
    pattern = "The paper's pattern is there as well" if _odd(ours) else "The paper's pattern is not there"
    failing = ", ".join(result.check.title for result in verdict.failing)
    return (
        f"{verdict.title}: {_three(ours)}. {pattern}. Verdict: "
        f"**{verdict.verdict}**{f' ({failing})' if failing else ''}. With steps of 2/255, which the released code "
        f"takes and which cannot reach 0.5, PGD leaves {100 * code.value:.1f} %: {interval(more)} points "
        "against FGSM 0.5."
    )


def _protocols(by_network: dict, key: str) -> list[str]:
    return [protocol for protocol in catalogue.PROTOCOLS if (key, protocol) in by_network]


def _odd(accuracy: dict[str, float]) -> bool:
    return accuracy["pgd-0.5"] > min(accuracy["fgsm-0.5"], accuracy["pgd-0.1"])


def _three(accuracy: dict[str, float]) -> str:
    return ", ".join(f"{accuracy[column]:.1f} % under {HEADINGS[column]}" for column in SET_AGAINST)
