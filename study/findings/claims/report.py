"""The rulings of :mod:`claims.judge` as they are read: on the page, in a terminal, as JSON. No torch."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from study.evidence import comparisons
from study.evidence.comparisons import HEADINGS, STRONG
from study.evidence.estimates import SEEDS_FOR_SPREAD
from study.evidence.selection import Group
from study.findings.claims import judge
from study.findings.claims.judge import NOT_ASKED, NOT_RUN, TRIALS, VERDICTS, Claim, Comparison, Finding, Ruling
from study.plan import catalogue
from study.presentation.figures import style
from study.presentation.marks import SIDE_BY_SIDE, dot, rows_on_y
from study.presentation.markup import change, counts, links, points, row, table
from study.presentation.words import Words, source

SYMBOLS = {
    "reproduced": "✓",
    "smaller": "↓",
    "no room": "○",
    "undecided": "?",
    "not reproduced": "✗",
    "contradicted": "✗",
    NOT_RUN: "…",
    NOT_ASKED: "",
}


def summary(rulings: Sequence[Ruling]) -> str:
    """How the claims came out, trial by trial, in a sentence of Markdown each."""
    sentences = []
    for trial in TRIALS:
        verdicts = [ruling.verdict for ruling in rulings if ruling.trial == trial and ruling.verdict != NOT_ASKED]
        counted = [(verdicts.count(verdict), verdict) for verdict in (*VERDICTS, NOT_RUN)]
        found = ", ".join(f"{count} {verdict}" for count, verdict in counted if count)
        under = "Under a stronger attack" if trial == "stronger attack" else f"Under the `{trial}` protocol"
        sentences.append(f"{under}, of {len(verdicts)} claims: {found}.")
    return "\n".join(f"- {sentence}" for sentence in sentences)


def brief(rulings: Sequence[Ruling], *, target: str = "", words_only: bool = False) -> str:
    """One line a claim, as HTML: what the paper says, and each trial's verdict. Titles link to ``target``#claim-id.

    ``words_only`` leaves out the numbers behind the verdicts.
    """
    body = []
    for claim, judged in _by_claim(rulings):
        head = f'<a href="{target}#claim-{claim.id}">{escape(claim.title)}</a>'
        cells = [_range([100 * comparison.published for comparison in claim.comparisons])]
        body.append(row(head, cells + [badge(judged[trial], words_only) for trial in TRIALS]))
    return table(
        ["Claim", "The paper", *map(str.capitalize, TRIALS)],
        body,
        "What the paper claims, and what the runs say. The paper: its differences, in percentage points. A claim with "
        "several comparisons is as good as its worst. Published, corrected: that protocol's training and evaluation. "
        f"Stronger attack: corrected networks under {HEADINGS[STRONG]}, judged by the sign alone (no more: by the "
        f"margin). {_seeds(rulings)}",
    )


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
        raise ValueError("no claim can be judged yet: run the rows that one compares")
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
        looks = {
            label: handle for panel in panels for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
        }
        figure.legend(looks.values(), looks.keys(), loc="outside upper right", ncols=3)
    return figure


def forest_words(rulings: Sequence[Ruling], group: Group) -> Words:
    by_trial = [
        f"Under the {trial} protocol: "
        + "; ".join(f"{ruling.claim.title}: {ruling.verdict}" for ruling in rulings if ruling.trial == trial)
        for trial in catalogue.PROTOCOLS
    ]
    return {
        "caption": "Every comparison that a claim rests on: the difference in the paper, and the one measured here "
        "under either protocol. Intervals are as wide as the claim's number of comparisons asks; where several claims "
        "rest on a comparison, the widest. "
        f"{source(group, catalogue.rows(), *catalogue.PROTOCOLS, intervals='')}",
        "alt": f"Dots with intervals, a pair of rows a line, a column a panel. {'. '.join(by_trial)}.",
    }


def details(rulings: Sequence[Ruling], group: Group, *, page: str = "book", root: Path | None = None) -> str:
    """Every claim with its sentence, its place in the paper, and each comparison with estimate, verdict and runs."""
    return "".join(_section(claim, judged, group, page, root) for claim, judged in _by_claim(rulings))


def text(rulings: Sequence[Ruling]) -> str:
    """The claims for a terminal: each claim, then a line for each trial, with a line for each of its comparisons."""
    lines = []
    for claim, judged in _by_claim(rulings):
        lines.append(f"{claim.title}  [{claim.where}]")
        for trial in TRIALS:
            ruling = judged[trial]
            if ruling.verdict == NOT_ASKED:
                continue
            lines.append(f"  {trial:16s} {SYMBOLS[ruling.verdict]} {ruling.verdict}")
            lines += [f"      {_line(finding, trial)}" for finding in ruling.findings]
        lines.append("")
    return "\n".join(lines)


def as_json(rulings: Sequence[Ruling], group: Group) -> list[dict]:
    """The rulings as plain values: differences in percentage points, and the records that each comes from."""
    return [
        {
            "id": ruling.claim.id,
            "sentence": ruling.claim.sentence,
            "where": ruling.claim.where,
            "trial": ruling.trial,
            "verdict": ruling.verdict,
            "comparisons": [_plain(finding, ruling.trial, group) for finding in ruling.findings],
        }
        for ruling in rulings
    ]


def badge(ruling: Ruling, words_only: bool = False) -> str:
    """The verdict as a symbol and a word, with its estimate, or with how many of several comparisons came out how."""
    if ruling.verdict == NOT_ASKED:
        return ""
    text = f'<span class="verdict {ruling.verdict.replace(" ", "-")}">{SYMBOLS[ruling.verdict]} {ruling.verdict}</span>'
    if words_only:
        return text
    if len(ruling.findings) == 1:
        estimate = ruling.findings[0].estimate
        return text + (change(estimate) if estimate else "")
    return text + f'<span class="interval wrap">{_tally(ruling)}</span>'


def _section(claim: Claim, judged: dict[str, Ruling], group: Group, page: str, root: Path | None) -> str:
    body = []
    for trial in TRIALS:
        for finding in judged[trial].findings:
            cells = [trial, f"{100 * finding.comparison.published:+.2f}" if trial != "stronger attack" else ""]
            cells += [points(finding.estimate), f"{SYMBOLS[finding.verdict]} {finding.verdict}"]
            cells += ["" if finding.p is None else _p(finding.p), _runs(finding, group, page, root)]
            body.append(row(escape(_name(finding.comparison, trial)), cells))
    own = "" if judge.supported_by_the_paper(claim) else " Not all of the paper's own numbers have this sign."
    heads = ["Comparison", "Trial", "The paper", "Here", "Verdict", "p", "Runs"]
    caption = "Differences in percentage points; p adjusted for all comparisons of the trial (Holm)." + own
    said = f"<p>{escape(claim.sentence)}</p><footer>{escape(claim.where)}</footer>"
    return (
        f'<section class="claim" id="claim-{claim.id}"><h3>{escape(claim.title)}</h3>'
        f"{f'<blockquote>{said}</blockquote>' if claim.quoted else said}"
        f"{table(heads, body, caption)}</section>"
    )


def _by_claim(rulings: Sequence[Ruling]) -> list[tuple[Claim, dict[str, Ruling]]]:
    found: dict[str, tuple[Claim, dict[str, Ruling]]] = {}
    for ruling in rulings:
        found.setdefault(ruling.claim.id, (ruling.claim, {}))[1][ruling.trial] = ruling
    return list(found.values())


def _tally(ruling: Ruling) -> str:
    verdicts = [finding.verdict for finding in ruling.findings]
    counted = [(verdict, verdicts.count(verdict)) for verdict in (*VERDICTS, NOT_RUN)]
    return ", ".join(f"{count} {verdict}" for verdict, count in counted if count)


def _line(finding: Finding, trial: str) -> str:
    paper = "" if trial == "stronger attack" else f"paper {100 * finding.comparison.published:+6.2f}"
    words = f"{_name(finding.comparison, trial):58s} {paper:12s}"
    if finding.estimate is None:
        return f"{words}   not run"
    e = finding.estimate
    return (
        f"{words}   here {100 * e.value:+6.1f} [{100 * e.low:+.1f}, {100 * e.high:+.1f}]  p {_p(finding.p)}  "
        f"n {e.n:,} x {e.seeds}  {finding.verdict}"
    )


def _plain(finding: Finding, trial: str, group: Group) -> dict:
    comparison, e = finding.comparison, finding.estimate
    plain = {"row": comparison.row, "against": comparison.against, "verdict": finding.verdict}
    plain |= {"column": finding.a[2].partition(":")[2], "against_column": finding.b[2].partition(":")[2]}
    if trial != "stronger attack":
        plain["paper"] = round(100 * comparison.published, 2)
    if e is not None:
        plain |= {part: round(100 * getattr(e, part), 2) for part in ("value", "low", "high")}
        plain |= {"images": e.n, "seeds": e.seeds, "p_holm": finding.p}
        plain["records"] = sorted({r.where for runs in comparisons.shared(group, (finding.a, finding.b)) for r in runs})
    return plain


def _name(comparison: Comparison, trial: str = "published") -> str:
    """The comparison in words, such as "AdvProp − Traditional, FGSM 0.1"."""
    if comparison.row == comparison.against:
        return _pair(comparison)
    return f"{_pair(comparison)}, {HEADINGS[STRONG if trial == 'stronger attack' else comparison.column]}"


def _pair(comparison: Comparison) -> str:
    """The two rows in words, such as "AdvProp − Traditional"; or the two columns, if it is one row."""
    row, against = (catalogue.rows()[key].name for key in (comparison.row, comparison.against))
    if comparison.row == comparison.against:
        return f"{row}, {HEADINGS[comparison.column]} − {HEADINGS[comparison.against_column]}"
    return f"{row} − {against}"


def _runs(finding: Finding, group: Group, page: str, root: Path | None) -> str:
    """The links to the records that the estimate rests on: of a row, those of the seeds that both rows have."""
    rested_on = comparisons.shared(group, (finding.a, finding.b))
    by_row = {key: runs for (key, _, _), runs in zip((finding.a, finding.b), rested_on, strict=True) if runs}
    named = [f"{escape(catalogue.rows()[key].name)}: {links(runs, page, root)}" for key, runs in by_row.items()]
    return f'<span class="interval wrap">{"<br>".join(named)}</span>' if named else ""


def _seeds(rulings: Sequence[Ruling]) -> str:
    seeds = sorted({f.estimate.seeds for ruling in rulings for f in ruling.findings if f.estimate})
    if not seeds:
        return "No row that a claim compares has been run yet."
    spread = " With fewer than three, an interval does not include how much another training would differ."
    return f"Trainings a row: {counts(seeds)}." + (spread if seeds[0] < SEEDS_FOR_SPREAD else "")


def _range(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:+.2f}" if low == high else f"{low:+.2f} to {high:+.2f}"


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _compare(panel, position: int, by_trial: dict[str, Finding]) -> None:
    """One comparison: the paper's difference, and those that were measured."""
    (published, *_) = (finding.comparison.published for finding in by_trial.values())
    panel.plot(100 * published, position, "D", mfc="white", mec="black", ms=5, label="the paper")
    for trial, finding in by_trial.items():
        if finding.estimate:
            side, *looks = SIDE_BY_SIDE[trial]
            dot(panel, finding.estimate, position + 0.17 * side, *looks, trial)


def _width(finding: Finding) -> float:
    return finding.estimate.high - finding.estimate.low if finding.estimate else -1.0
