"""The paper's tables, measured: as tables, as a plane of accuracy and robustness, and what is missing. No torch."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from study.evidence import comparisons
from study.evidence.comparisons import HEADINGS, STRONG
from study.evidence.estimates import Estimate
from study.evidence.selection import Group, rows_run, runs_of
from study.findings.masking import checks, judge, probes
from study.findings.numbers.training import trained_in
from study.machine.folders import results_folder
from study.plan import catalogue
from study.plan.attacks import Attack
from study.presentation import sentences
from study.presentation.figures import style
from study.presentation.marks import accuracy_under, look
from study.presentation.markup import (
    NO_NUMBER,
    accuracy,
    element,
    group_title,
    length,
    links,
    row,
    span,
    table,
    together,
)
from study.presentation.words import Words, not_run, percent, source

ALONE = ("traditional", "adversarial", "advprop", "als", "sat")  # the baselines, and each technique by itself


def headline(group: Group) -> str:
    """The cover's table as HTML: what the paper says of each technique alone, and what the corrected protocol gives."""
    body = []
    for key in ALONE:
        paper = catalogue.rows()[key]
        measured = [comparisons.accuracy(group, key, "corrected", column) for column in ("clean", STRONG)]
        if any(measured):
            body.append(row(paper.label, [f"{paper.published['clean']:.1f}", *map(accuracy, measured)]))
    return table(
        ["Method", "Clean: paper", "here", "PGD-20: here"],
        body,
        "Accuracy in percent, corrected protocol, with 95 % intervals. The attack is stronger than the paper's.",
    )


def also_here(groups: Sequence[Group], said: Sequence[Group]) -> str:
    """The groups of records beside those that were spoken of, in Markdown; empty if there are none."""
    others = [group for group in groups if group not in said]
    return f"Also run: {sentences.named(others)}." if others else ""


def paper_table(group: Group, part: int | None = 1) -> str:
    """One of the paper's tables as HTML: for each of its rows that was run, the paper's numbers and ours.

    ``part`` is 1, 2, or None for the rows of neither table. Raises FileNotFoundError where a record has lost its
    notebook, ValueError where the group has no row of that part.
    """
    heads = ["Protocol", *HEADINGS.values()]
    body, probed = [], probes.probes(results_folder(), group)
    for key, paper in catalogue.part(part).items():
        lines = []
        for protocol in catalogue.PROTOCOLS:
            if runs := runs_of(group, key, protocol):
                cells = [comparisons.accuracy(group, key, protocol, column) for column in HEADINGS]
                planned = _planned(runs) if part == 1 else ""
                silent = judge.silent(group, key, protocol, probed)
                notes = (f"{silent}: no evidence of robustness; " if silent else "") + planned + trained_in(runs)
                head = together([protocol, span("interval", notes, links(runs))])
                lines.append(row(head, [accuracy(cell) for cell in cells], protocol))
        if lines:
            printed = [*(f"{paper.published[column]:.1f}" for column in catalogue.COLUMNS), NO_NUMBER]
            twin = catalogue.twin(key)
            same = f"; the same network as {catalogue.rows()[twin].name}, trained once more" if twin else ""
            head = group_title(sentences.title(paper) + same, len(heads))
            body.append(element("tbody", head, row("paper", printed, "paper"), *lines))
    if not body:
        raise ValueError(f"this group of records has no row of {catalogue.PARTS[part]}: run one first")
    caption = (
        f"Accuracy in percent. Paper: as printed there. Published and corrected: measured here, at budget "
        f"{group[0].budget} on {group[0].data['title']}, with the 95 % interval of each number below it. "
        f"{HEADINGS[STRONG]} is not in the paper, and is the same attack for both protocols."
    )
    return table(heads, body, caption)


def missing(group: Group, part: int | None) -> str:
    """The rows of a part of the paper that a group has not run, as a sentence of Markdown; empty if none is missing."""
    absent = not_run(group, catalogue.part(part))
    return f"Not run yet: {absent}." if absent else ""


def red_flags(group: Group) -> str:
    """The rows that a larger attack of the paper leaves more accurate than a smaller one, as Markdown, or nothing.

    By the check "size" of :mod:`masking.checks`, for the columns that the tables show: each protocol's own rule.
    """
    found = [
        f"{catalogue.rows()[verdict.key].name}, {verdict.protocol}: {100 * finding.accuracies[1]:.1f} % under "
        f"{_heading(finding.after)} and {100 * finding.accuracies[0]:.1f} % under {_heading(finding.before)}"
        for verdict in judge.verdicts(group)
        for finding in verdict.result("size").findings
        if finding.outcome == checks.FAILS and _in_the_tables(finding, catalogue.rule(verdict.protocol))
    ]
    if not found:
        return ""
    return (
        "**A red flag.** Whatever a small attack finds, a larger one could find as well. Where accuracy is higher "
        f"under the larger one, the attack has failed, and the network need not be robust: {'; '.join(found)}."
    )


def tradeoff(group: Group, column: str = STRONG, *, tall: bool = False) -> Figure:
    """Clean accuracy against accuracy under one attack, with 95 % intervals: the paper's Figure 4, a panel a protocol.

    All panels have the same axes; a column of the paper has a panel for the paper's numbers, on axes of its own. Rows
    of Table 1. The panels stand side by side, or, ``tall``, below each other. Raises ValueError if none was run.
    """
    rows = catalogue.part(1)
    protocols = [p for p in catalogue.PROTOCOLS if rows_run(group, p)]
    if not protocols:
        raise ValueError("no record to draw: run a row first, such as `python -m study run advprop --budget lite`")
    printed = column in catalogue.COLUMNS
    number = printed + len(protocols)
    with style():
        size = (4.0, 1.4 + 3.0 * number) if tall else (1.4 + 2.9 * number, 4.2)
        figure, grid = plt.subplots(*((number, 1) if tall else (1, number)), figsize=size, squeeze=False)
        panels = grid.ravel()
        paper, ours = panels[:printed], panels[printed:]
        for panel in paper:
            for row in rows.values():
                panel.plot(row.published[column], row.published["clean"], ls="", ms=8, **look(row))
            panel.set(title="the paper", xlabel=accuracy_under(column))
        for panel, protocol in zip(ours, protocols, strict=True):
            if panel is not ours[0]:
                panel.sharex(ours[0])
                panel.sharey(ours[0])
            for key, row in rows_run(group, protocol).items():
                robust, clean = (comparisons.accuracy(group, key, protocol, name) for name in (column, "clean"))
                _cross(panel, robust, clean, look(row))
            panel.set(title=f"{protocol} protocol", xlabel=accuracy_under(column))
        for panel in panels if tall else panels[:1]:
            panel.set_ylabel("clean accuracy (%)")
        shown = rows if printed else rows_run(group)
        keys = [Line2D([], [], ls="", ms=8, label=row.label, **look(row)) for row in shown.values()]
        figure.legend(
            handles=keys,
            loc="outside lower center",
            ncols=min(2 if tall else 5, len(keys)),
            columnspacing=1.2,
            handletextpad=0.2,
        )
    return figure


def tradeoff_words(group: Group, column: str = STRONG) -> Words:
    sentences = []
    for protocol in catalogue.PROTOCOLS:
        values = [
            f"{row.label} {percent(comparisons.accuracy(group, key, protocol, 'clean'))} clean and "
            f"{percent(comparisons.accuracy(group, key, protocol, column))} attacked"
            for key, row in rows_run(group, protocol).items()
        ]
        if values:
            sentences.append(f"{protocol.capitalize()} protocol under {HEADINGS[column]}: {', '.join(values)}.")
    attack = (
        f"{HEADINGS[column]}. The paper's panel has its own axes, and its attack is that of the published protocol: "
        "the size is in standard deviations there, in pixels under the corrected one"
        if column in catalogue.COLUMNS
        else f"{HEADINGS[column]}, the same attack in both panels"
    )
    return {
        "caption": f"Clean accuracy against accuracy under {attack}. "
        f"{source(group, catalogue.part(1), *catalogue.PROTOCOLS)}",
        "alt": f"Scatter plot in panels, a point for each method of the paper's Table 1. {' '.join(sentences)}",
    }


def columns(group: Group) -> str:
    """What each column's attack is under each protocol, from the specifications in the records, as HTML."""
    body = []
    names = [(rule, column) for column in catalogue.COLUMNS if column != "clean" for rule in catalogue.PROTOCOLS]
    for rule, column in [*names, ("corrected", STRONG)]:
        spec = group[0].measurement(f"{rule}:{column}").attack
        steps = 1 if spec["method"] == "fgsm" else spec["steps"]
        step_size = spec["eps"] if spec["method"] == "fgsm" else spec["step_size"]
        cells = [
            rule,
            length(spec["eps"]),
            f"{steps} x {length(step_size)}",
            length(Attack(**spec).reach),
            str(spec["restarts"]),
            {"pixels": "pixels", "standardised": "standard deviations"}[spec["space"]],
            spec["statistics"],
        ]
        body.append(row(HEADINGS[column], cells))
    heads = ["Column", "Protocol", "eps", "steps", "reach", "restarts", "unit", "batch norm's statistics"]
    return table(heads, body, "The attack behind each column. Reach: how far it can move a pixel or entry at most.")


def frame(group: Group, part: int | None, protocol: str) -> pd.DataFrame:
    """One of the paper's tables under one protocol, in percent: row -> column, with low and high of each interval.

    Columns are pairs (column, "value" | "low" | "high" | "paper"); rows that were not run hold the paper's number
    alone, and rows that no switch of the protocol changes are left out. Raises ValueError on an unknown table or
    protocol.
    """
    lines = {}
    for key, paper in _under(part, protocol).items():
        cells = {}
        for column, heading in HEADINGS.items():
            measured = comparisons.accuracy(group, key, protocol, column)
            if column in paper.published:
                cells[heading, "paper"] = paper.published[column]
            for name in ("value", "low", "high"):
                cells[heading, name] = round(100 * getattr(measured, name), 2) if measured else np.nan
        lines[key] = cells
    return pd.DataFrame.from_dict(lines, orient="index")


def plain(group: Group, part: int | None, protocol: str) -> str:
    """The same table as text for a terminal: measured accuracy with its interval, and the paper's number below it."""
    lines = []
    for key, paper in _under(part, protocol).items():
        runs = runs_of(group, key, protocol)
        measured = {"row": paper.label, "by": f"here, {len(runs)} seed(s)" if runs else "here: not run"}
        printed = {"row": "", "by": "the paper"}
        for column, heading in HEADINGS.items():
            cell = comparisons.accuracy(group, key, protocol, column)
            measured[heading] = f"{100 * cell.value:.1f} [{100 * cell.low:.1f}, {100 * cell.high:.1f}]" if cell else ""
            printed[heading] = f"{paper.published[column]:.2f}" if column in paper.published else ""
        lines += [measured, printed]
    return pd.DataFrame(lines).to_string(index=False)


def _under(part: int | None, protocol: str) -> dict[str, catalogue.Row]:
    """The rows of a part that a protocol is for. Raises ValueError if there is none, or no such protocol."""
    rows = catalogue.part(part)
    found = {key: row for key, row in rows.items() if row.has(protocol)}
    for paper in (found or rows).values():
        paper.changes(protocol)
    return found


def _planned(runs: Group) -> str:
    """ "1 of 3 seeds: " while a row of Table 1 has fewer runs than it is meant to have."""
    planned = catalogue.SEEDS[runs[0].budget]
    return f"{len(runs)} of {planned} seeds: " if len(runs) < planned else ""


def _in_the_tables(finding: checks.Finding, rule: str) -> bool:
    attacked = [f"{rule}:{column}" for column in catalogue.COLUMNS if column != "clean"]
    return finding.before in attacked and finding.after in attacked


def _heading(measurement: str) -> str:
    return catalogue.COLUMNS[measurement.split(":")[1]]


def _cross(panel, x: Estimate, y: Estimate, look: dict) -> None:
    """A point with both of its intervals, in percent."""
    panel.errorbar(
        100 * x.value,
        100 * y.value,
        xerr=[[100 * (x.value - x.low)], [100 * (x.high - x.value)]],
        yerr=[[100 * (y.value - y.low)], [100 * (y.high - y.value)]],
        fmt=look["marker"],
        color=look["color"],
        ms=8,
        capsize=2,
        lw=0.9,
    )
