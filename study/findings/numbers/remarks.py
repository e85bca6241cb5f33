"""What a careful reader would remark on the tables, as generated sentences. No torch."""

import numpy as np

from study.evidence.estimates import rank_correlation
from study.evidence.selection import Group
from study.findings.masking import checks, judge
from study.findings.numbers.results import beside
from study.plan import catalogue


def red_flags(group: Group) -> str:
    """The rows that a larger attack of the paper leaves more accurate than a smaller one, as Markdown, or nothing.

    By the check "size" of :mod:`masking.judge`, for the columns that the tables show: each protocol's own rule.
    """
    flags = [
        f"{catalogue.rows()[verdict.key].name}, {verdict.protocol}: {100 * finding.accuracies[1]:.1f} % under "
        f"{_heading(finding.after)} and {100 * finding.accuracies[0]:.1f} % under {_heading(finding.before)}"
        for verdict in judge.judge(group)
        for finding in verdict.result("size").findings
        if finding.outcome == checks.FAILS and _in_the_tables(finding, catalogue.rule(verdict.protocol))
    ]
    if not flags:
        return ""
    return (
        "**A red flag.** Whatever a small attack finds, a larger one could find as well. Where accuracy is higher "
        f"under the larger one, the attack has failed, and the network need not be robust: {'; '.join(flags)}."
    )


def _in_the_tables(finding: checks.Finding, rule: str) -> bool:
    attacked = [f"{rule}:{column}" for column in catalogue.COLUMNS if column != "clean"]
    return finding.before in attacked and finding.after in attacked


def _heading(measurement: str) -> str:
    return catalogue.COLUMNS[measurement.split(":")[1]]


def agreement(group: Group, alike: float = 0.7) -> str:
    """What of the paper's Table 1 the published protocol brings back and what not, as Markdown; empty below 5 rows.

    Rows are called in the paper's order where their rank correlation with it is at least ``alike``.
    """
    orders, gaps = {}, {}
    for heading, (ours, theirs) in beside(group).items():
        gaps[heading] = float(np.mean(np.subtract(ours, theirs)))
        orders[heading] = rank_correlation(ours, theirs) if len(set(ours)) > 1 else 0.0
    if not orders:
        return ""
    agree = [f"{heading} ({rho:+.2f})" for heading, rho in orders.items() if rho >= alike]
    differ = [f"{heading} ({rho:+.2f})" for heading, rho in orders.items() if rho < alike]
    low, high = min(gaps.values()), max(gaps.values())
    place = f"{-high:.1f} to {-low:.1f} points below it" if high < 0 else f"{low:+.1f} to {high:+.1f} points from it"
    sentences = [f"The rows stand in the paper's order in {', '.join(agree)}." if agree else ""]
    sentences += [f"They do not in {', '.join(differ)}." if differ else ""]
    sentences += [f"The level is not the paper's: averaged over the rows, our columns lie {place}."]
    return " ".join(filter(None, sentences))
