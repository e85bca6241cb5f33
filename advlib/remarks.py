"""What a careful reader would remark on the tables, as generated sentences. No torch."""

from itertools import product

import numpy as np

from advlib import catalogue, evidence
from advlib.evidence import HEADINGS, Group
from advlib.statistics import rank_correlation
from advlib.tables import beside

LARGER = {"fgsm-0.1": "fgsm-0.5", "pgd-0.1": "pgd-0.5"}  # column -> the same attack with a larger eps


def red_flags(group: Group) -> str:
    """The rows that a larger attack leaves more accurate than a smaller one, as Markdown; empty if there is none.

    Whatever the smaller attack finds is open to the larger one as well, so this says that the attack failed and not
    that the network is robust (Athalye et al. 2018). Counted where the difference excludes 0 and the accuracy is better
    than guessing: an attack that overshoots often ends near chance.
    """
    flags = []
    for key, paper in catalogue.rows().items():
        for protocol, (small, large) in product(catalogue.PROTOCOLS, LARGER.items()):
            places = [(key, protocol, f"{protocol}:{column}") for column in (large, small)]
            if (gain := evidence.difference(group, *places)) and gain.low > 0:
                after = evidence.accuracy(group, key, protocol, large)
                if after.low > 1 / len(group[0].data["classes"]):
                    before = evidence.accuracy(group, key, protocol, small)
                    flags.append(
                        f"{paper.name}, {protocol}: {100 * after.value:.1f} % under {HEADINGS[large]} and "
                        f"{100 * before.value:.1f} % under {HEADINGS[small]}"
                    )
    if not flags:
        return ""
    return (
        "**A red flag.** Whatever a small attack finds, a larger one could find as well. Where accuracy is higher "
        f"under the larger one, the attack has failed, and the network need not be robust: {'; '.join(flags)}."
    )


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
