"""How sure a measured number is. No torch."""

import math
from collections.abc import Sequence

from scipy.stats import spearmanr
from statsmodels.stats.proportion import proportion_confint


def wilson(correct: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """The Wilson score interval (low, high), in [0, 1], of ``correct`` successes in ``n`` trials (Wilson 1927).

    It holds at 0 and at ``n`` successes too, where the interval from the normal approximation has no width. ``correct``
    need not be whole: the mean over several seeds is allowed. Raises ValueError on impossible counts.
    """
    if not n >= 1:
        raise ValueError(f"n={n} images: an interval needs at least one")
    if not (math.isfinite(correct) and 0 <= correct <= n):
        raise ValueError(f"correct={correct} of n={n}: need a count from 0 to n")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence} is not in (0, 1): 0.95 is customary")
    low, high = proportion_confint(correct, n, alpha=1 - confidence, method="wilson")
    return (float(low) if correct > 0 else 0.0), (float(high) if correct < n else 1.0)  # rounding, at the two ends


def rank_correlation(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Spearman's rank correlation, in [-1, 1]: do two columns put the rows in the same order? (Spearman 1904)

    Raises ValueError for fewer than three rows, or a column whose values are all alike: no order can be compared then.
    """
    if len(ours) != len(theirs) or len(ours) < 3:
        raise ValueError(f"{len(ours)} and {len(theirs)} rows: an order is compared over the same three rows or more")
    if len(set(ours)) == 1 or len(set(theirs)) == 1:
        raise ValueError("all values of a column are alike: they have no order")
    return float(spearmanr(ours, theirs).statistic)
