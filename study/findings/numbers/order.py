"""Does the published protocol put the rows of Table 1 in the paper's order? In sentences and as a table. No torch."""

from functools import cache
from itertools import permutations

import numpy as np

from study.evidence import comparisons
from study.evidence.estimates import rank_correlation
from study.evidence.selection import Group, rows_run
from study.plan import catalogue
from study.presentation.markup import NO_NUMBER, row, table
from study.presentation.words import SETTINGS


def agreement(group: Group, alike: float = 0.7) -> str:
    """What of the paper's Table 1 the published protocol brings back and what not, as Markdown; empty below 5 rows.

    An order resembles the paper's where its rank correlation with it is at least ``alike``.
    """
    orders, gaps = {}, {}
    for heading, (ours, theirs) in side_by_side(group).items():
        gaps[heading] = float(np.mean(np.subtract(ours, theirs)))
        orders[heading] = rank_correlation(ours, theirs) if len(set(ours)) > 1 else 0.0
    if not orders:
        return ""
    agree = [f"{heading} ({rho:+.2f})" for heading, rho in orders.items() if rho >= alike]
    differ = [f"{heading} ({rho:+.2f})" for heading, rho in orders.items() if rho < alike]
    low, high = min(gaps.values()), max(gaps.values())
    place = f"{-high:.1f} to {-low:.1f} points below it" if high < 0 else f"{low:+.1f} to {high:+.1f} points from it"
    setting = SETTINGS[group[0].budget]
    sentences = [
        f"Under the `published` protocol ({setting}), {len(rows_run(group, 'published'))} methods are compared."
    ]
    sentences += [f"Their order resembles the paper's in {', '.join(agree)}." if agree else ""]
    sentences += [f"It resembles the paper's less in {', '.join(differ)}." if differ else ""]
    reached = f"one in {1 / chance(len(ours), alike):.0f} reaches {alike} in a column"
    sentences += [f"In brackets is the rank correlation. Of {len(ours)} methods in random order, {reached}."]
    sentences += [_of_two_columns(group)]
    sentences += [f"The level is not the paper's: averaged over the methods, our columns lie {place}."]
    return " ".join(filter(None, sentences))


def _of_two_columns(group: Group) -> str:
    """In how many methods FGSM 0.1 and PGD 0.1 stand in the paper's order: an order of methods does not tell."""
    found = side_by_side(group)
    fgsm, pgd = (found[catalogue.COLUMNS[column]] for column in ("fgsm-0.1", "pgd-0.1"))
    ours, theirs = (np.sign(np.subtract(*of)) for of in zip(pgd, fgsm, strict=True))
    return (
        f"Within a method, PGD 0.1 leaves more than FGSM 0.1 in {(ours > 0).sum()} of {len(ours)} here and in "
        f"{(theirs > 0).sum()} in the paper: the order of the two is the paper's in {(ours == theirs).sum()}."
    )


@cache
def chance(methods: int, alike: float) -> float:
    """The share of all orders of so many methods, ten at most, that have a rank correlation of ``alike`` with one."""
    orders = np.array(list(permutations(range(methods))))
    squares = ((orders - np.arange(methods)) ** 2).sum(axis=1)
    return float((1 - 6 * squares / (methods * (methods**2 - 1)) >= alike - 1e-12).mean())


def comparison(group: Group) -> str:
    """Does our published protocol put the rows of Table 1 in the paper's order? As HTML; empty below 5 rows."""
    body = []
    for heading, (ours, theirs) in side_by_side(group).items():
        same_order = f"{rank_correlation(ours, theirs):+.2f}" if len(set(ours)) > 1 else NO_NUMBER
        spread = [f"{max(values) - min(values):.1f}" for values in (theirs, ours)]
        body.append(row(heading, [same_order, f"{np.mean(np.subtract(ours, theirs)):+.1f}", *spread]))
    if not body:
        return ""
    caption = (
        f"The paper's numbers and the published protocol here ({SETTINGS[group[0].budget]}, {group[0].data['title']}), "
        f"over {len(ours)} methods of Table 1. Order: Spearman's rank correlation of the methods. Gap: ours minus the "
        "paper's, on average, in percentage points. Spread: best minus worst method."
    )
    return table(["Column", "Order", "Gap", "Spread: paper", "here"], body, caption)


def side_by_side(group: Group) -> dict[str, tuple[list[float], list[float]]]:
    """Heading of a column -> accuracies in percent of the rows of Table 1: ours, published protocol, and the paper's.

    Empty below five rows: of three, chance puts one in six in the same order.
    """
    found = rows_run(group, "published")
    if len(found) < 5:
        return {}
    return {
        heading: (
            [100 * comparisons.accuracy(group, key, "published", column).value for key in found],
            [paper.published[column] for paper in found.values()],
        )
        for column, heading in catalogue.COLUMNS.items()
    }
