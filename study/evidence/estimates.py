"""How sure a measured number is. SciPy and statsmodels do the mathematics. No torch.

Accuracies and differences are shares, in [0, 1] and [-1, 1]; tables turn them into percent.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np
from scipy.stats import sem, spearmanr
from scipy.stats import t as student
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

RESAMPLES = 9_999
SEEDS_FOR_SPREAD = 3  # trained networks from which the spread between trainings is estimated


@dataclass(frozen=True)
class Estimate:
    """A mean and its interval, over ``n`` test images and ``seeds`` trained networks."""

    value: float
    low: float
    high: float
    n: int
    seeds: int


def wilson(correct: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """The Wilson score interval (low, high), in [0, 1], of ``correct`` successes in ``n`` trials (Wilson 1927).

    It holds at 0 and at ``n`` successes too, where the interval from the normal approximation has no width. ``correct``
    need not be whole: the mean over several seeds is allowed. Raises ValueError on impossible counts.
    """
    if not n >= 1:
        raise ValueError(f"n={n} images: an interval needs at least one")
    if not (math.isfinite(correct) and 0 <= correct <= n):
        raise ValueError(f"correct={correct} of n={n}: need a count from 0 to n")
    _check_confidence(confidence)
    low, high = proportion_confint(correct, n, alpha=1 - confidence, method="wilson")
    return (float(low) if correct > 0 else 0.0), (float(high) if correct < n else 1.0)  # rounding, at the two ends


def accuracy(masks: np.ndarray, confidence: float = 0.95) -> Estimate:
    """Share of correct images in ``masks``, bool (S seeds, n images).

    The interval is Wilson's for the n images; from three seeds on, it knows the trainings' spread too.
    """
    masks = _by_seed(masks)
    seeds, n = masks.shape
    value = float(masks.mean())
    if seeds < SEEDS_FOR_SPREAD:
        return Estimate(value, *wilson(min(value * n, n), n, confidence), n, seeds)
    low, high = _both_sources(masks, (0.0, 1.0)).interval(confidence)
    return Estimate(value, max(low, 0.0), min(high, 1.0), n, seeds)


def difference(a: np.ndarray, b: np.ndarray, confidence: float = 0.95) -> Estimate:
    """Accuracy of ``a`` minus accuracy of ``b``, masks (S, n) over the same images and the same seeds: paired."""
    return contrast({1.0: [a], -1.0: [b]}, confidence)


def contrast(parts: Mapping[float, Sequence[np.ndarray]], confidence: float = 0.95) -> Estimate:
    """A weighted sum of accuracies: weight -> masks (S, n) of all networks with that weight. Paired by image and seed.

    The interval is the bootstrap's over images; from three seeds on, it is one that knows the trainings' spread too.
    Raises ValueError if the masks differ in shape: then they are not of the same images, or not of the same seeds.
    """
    shapes = {np.shape(mask) for masks in parts.values() for mask in masks}
    if len(shapes) != 1:
        raise ValueError(f"masks of shapes {sorted(shapes)}: compare the same images over the same number of seeds")
    total = _by_seed(sum(weight * np.asarray(mask, float) for weight, masks in parts.items() for mask in masks))
    reach = sum(abs(weight) * len(masks) for weight, masks in parts.items()) / 2
    seeds, n = total.shape
    if seeds < SEEDS_FOR_SPREAD:
        low, high = bootstrap_interval(total.mean(axis=0), confidence, reach=reach)
    else:
        low, high = _both_sources(total, (reach, -reach)).interval(confidence)
    return Estimate(float(total.mean()), low, high, n, seeds)


def bootstrap_interval(values: np.ndarray, confidence: float = 0.95, *, reach: float = 1.0) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of ``values`` (n,), one value an image (Efron 1979). Seeded.

    An image's value holds the outcomes of all networks compared, so drawing it draws them together. What is drawn from
    are the n images and two made-up ones, with the values ``reach`` and ``-reach``, the largest that an image can have
    (Bonett and Price 2012): five images in favour and none against are then no proof, as they are none to McNemar.
    """
    _check_confidence(confidence)
    values = np.round(np.append(values, [reach, -reach]), 12)  # equal sums of floats that were added in another order
    n = len(values)
    levels, counts = np.unique(values, return_counts=True)
    # images of one value are alike: a resample is how often each of the few values is drawn
    drawn = np.random.default_rng(0).multinomial(n, counts / n, size=RESAMPLES)
    low, high = np.quantile(drawn @ levels / n, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def p_value(a: np.ndarray, b: np.ndarray) -> float:
    """How surprising the difference of two rows' masks (S, n) would be if there were none, in [0, 1].

    One seed: McNemar's exact test on the images that only one of the two gets right (McNemar 1947). More: a t test over
    the images' mean differences; from three seeds on, the test whose interval :func:`contrast` gives.
    """
    total = _by_seed(np.asarray(a, float) - np.asarray(b, float))
    if len(total) == 1:
        only_a, only_b = int((total > 0).sum()), int((total < 0).sum())
        return float(mcnemar([[0, only_a], [only_b, 0]], exact=True).pvalue) if only_a + only_b else 1.0
    found = _both_sources(total, (1.0, -1.0)) if len(total) >= SEEDS_FOR_SPREAD else _over_images(total, (1.0, -1.0))
    return found.p_value()


def holm(p_values: Sequence[float]) -> list[float]:
    """p values adjusted for being many, so that one false alarm in the whole family stays improbable (Holm 1979)."""
    return [float(p) for p in multipletests(p_values, method="holm")[1]] if len(p_values) else []


def factorial_effects(
    masks: Mapping[tuple[bool, ...], np.ndarray], names: Sequence[str], confidence: float = 0.95
) -> dict[tuple[str, ...], Estimate]:
    """Main effects and interactions of the factors ``names`` in a full 2^k design: (names) -> effect on accuracy.

    ``masks``: which factors are on, in the order of ``names`` -> mask (S, n). A main effect is the mean over networks
    with the factor minus the mean over those without (Box, Hunter and Hunter 2005, chapter 5). An interaction of two is
    half of what one's effect gains when the other is on. Raises ValueError if a cell of the design is missing.
    """
    cells = list(product([False, True], repeat=len(names)))
    if absent := [cell for cell in cells if cell not in masks]:
        raise ValueError(f"a full factorial of {', '.join(names)} needs {len(cells)} rows; {len(absent)} are missing")
    effects = {}
    for size in range(1, len(names) + 1):
        for chosen in combinations(range(len(names)), size):
            sign = {cell: (-1) ** sum(not cell[k] for k in chosen) for cell in cells}
            weight = 2 / len(cells)
            parts = {s * weight: [masks[cell] for cell in cells if sign[cell] == s] for s in (1, -1)}
            effects[tuple(names[k] for k in chosen)] = contrast(parts, confidence)
    return effects


def rank_correlation(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Spearman's rank correlation, in [-1, 1]: do two columns put the rows in the same order? (Spearman 1904)

    Raises ValueError for fewer than three rows, or a column whose values are all alike: no order can be compared then.
    """
    if len(ours) != len(theirs) or len(ours) < 3:
        raise ValueError(f"{len(ours)} and {len(theirs)} rows: an order is compared over the same three rows or more")
    if len(set(ours)) == 1 or len(set(theirs)) == 1:
        raise ValueError("all values of a column are alike: they have no order")
    return float(spearmanr(ours, theirs).statistic)


def _by_seed(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values, float)
    if values.ndim != 2 or not values.size:
        raise ValueError(f"values of shape {values.shape}: need (seeds, images), at least one of each")
    return values


@dataclass(frozen=True)
class _Mean:
    """A mean with the variance of its error and how much that variance is worth, in degrees of freedom."""

    value: float
    variance: float
    freedom: float

    def interval(self, confidence: float) -> tuple[float, float]:
        _check_confidence(confidence)
        half = student.ppf((1 + confidence) / 2, self.freedom) * math.sqrt(self.variance)
        return float(self.value - half), float(self.value + half)

    def p_value(self) -> float:
        return float(2 * student.sf(abs(self.value) / math.sqrt(self.variance), self.freedom))


def _over_images(by_seed: np.ndarray, ends: tuple[float, float]) -> _Mean:
    """The mean over images, and two made-up ones with the values ``ends``, as in :func:`bootstrap_interval`."""
    sample = np.append(by_seed.mean(axis=0), ends)
    return _Mean(by_seed.mean(), sem(sample) ** 2, len(sample) - 1)


def _both_sources(by_seed: np.ndarray, ends: tuple[float, float]) -> _Mean:
    """The mean over images and trainings: two errors that know nothing of each other, so their variances add up.

    Degrees of freedom by Satterthwaite (Welch 1947). The little that a training's accuracy owes to the images is in
    both. With three trainings that differ much the interval is a little short (tests/study/evidence/test_estimates.py).
    """
    images = _over_images(by_seed, ends)
    trainings = sem(by_seed.mean(axis=1)) ** 2
    variance = images.variance + trainings
    freedom = variance**2 / (images.variance**2 / images.freedom + trainings**2 / (len(by_seed) - 1))
    return _Mean(images.value, variance, freedom)


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence} is not in (0, 1): 0.95 is customary")
