"""How sure a measured number is. SciPy and statsmodels do the mathematics. No torch.

Accuracies and differences are shares, in [0, 1] and [-1, 1]; tables turn them into percent.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np
import scipy  # its parts are loaded by their first use: what reads no number, such as `list`, starts at once

SEEDS_FOR_SPREAD = 3  # trained networks from which the spread between trainings is estimated
FEW = 4  # degrees of freedom of a spread: below it, Satterthwaite's are too many, and the spread's own are taken
POWER = 0.8  # with which an effect is found that is called visible


@dataclass(frozen=True)
class Estimate:
    """A mean and its interval, over ``n`` test images and ``seeds`` trained networks.

    ``error``, ``freedom``: the standard error of a :func:`contrast`, and its degrees of freedom; else nan.
    """

    value: float
    low: float
    high: float
    n: int
    seeds: int
    error: float = math.nan
    freedom: float = math.nan

    @property
    def sign(self) -> int:
        """Of a difference whose interval excludes 0: 1 or -1; else 0."""
        return int(self.low > 0) - int(self.high < 0)

    def p_value(self, null: float = 0.0) -> float:
        """How surprising the difference would be if it were ``null``, in [0, 1]: of two sides, as the interval is."""
        centre = (self.low + self.high) / 2
        return float(2 * scipy.stats.t.sf(abs(centre - null) / self.error, self.freedom))

    def visible(self, confidence: float = 0.95) -> float:
        """The smallest true difference that :data:`POWER` of such experiments would tell from zero (Cohen 1988)."""
        ends = scipy.stats.t.ppf([(1 + confidence) / 2, POWER], self.freedom)
        return float(ends.sum() * self.error)


@dataclass(frozen=True)
class Spread:
    """How much the accuracies of trainings differ that differ in their seed alone.

    The standard deviation of an accuracy p is ``factor`` times sqrt(p (1 - p)): as much as if each training had been
    tested on 1 / factor^2 images of its own. ``freedom``: degrees of freedom of ``factor``^2.
    """

    factor: float
    freedom: int


def wilson(correct: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """The Wilson score interval (low, high), in [0, 1], of ``correct`` successes in ``n`` trials (Wilson 1927).

    It holds at 0 and at ``n`` successes too, where the interval from the normal approximation has no width. ``correct``
    need not be whole: the mean over several seeds is allowed. Raises ValueError on impossible counts.
    """
    from statsmodels.stats.proportion import proportion_confint

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


def difference(a: np.ndarray, b: np.ndarray, confidence: float = 0.95, spread: Spread | None = None) -> Estimate:
    """Accuracy of ``a`` minus accuracy of ``b``, masks (S, n) over the same images and the same seeds: paired."""
    return contrast({1.0: [a], -1.0: [b]}, confidence, spread)


def contrast(
    parts: Mapping[float, Sequence[np.ndarray]], confidence: float = 0.95, spread: Spread | None = None
) -> Estimate:
    """A weighted sum of accuracies: weight -> masks (S, n) of all networks with that weight. Paired by image and seed.

    The interval is Student's over the images and two made-up ones, with the largest values of either sign that an image
    can have (Bonett and Price 2012): five images in favour and none against are then no proof, as they are none to
    McNemar. With ``spread``, each mask is of trainings of its own, and the interval knows how much these differ;
    without it, it learns that from the masks, if they are of three seeds or more.

    Raises ValueError if the masks differ in shape: then they are not of the same images, or not of the same seeds.
    """
    shapes = {np.shape(mask) for masks in parts.values() for mask in masks}
    if len(shapes) != 1:
        raise ValueError(f"masks of shapes {sorted(shapes)}: compare the same images over the same number of seeds")
    total = _by_seed(sum(weight * np.asarray(mask, float) for weight, masks in parts.items() for mask in masks))
    ends = [sum(w * len(masks) for w, masks in parts.items() if w * sign > 0) for sign in (1, -1)]
    seeds, n = total.shape
    if spread:
        shares = [(weight, np.mean(mask)) for weight, masks in parts.items() for mask in masks]
        trainings = spread.factor**2 * sum(weight**2 * p * (1 - p) for weight, p in shares) / seeds
        found = _both_sources(total, ends, float(trainings), spread.freedom)
    else:
        found = _both_sources(total, ends)
    interval = found.interval(confidence)
    return Estimate(float(total.mean()), *interval, n, seeds, math.sqrt(found.variance), found.freedom)


def pooled(trainings: Sequence[Sequence[np.ndarray]]) -> Spread | None:
    """The spread that experiments of several seeds show together; None if none has two.

    ``trainings``: of each experiment its masks (S, n), one a column. Its columns are one observation: they are of the
    same networks. A column that less than a hundredth of the images survive, or all but that, shows no spread.
    """
    squares, freedom = 0.0, 0
    for columns in trainings:
        by_seed = [_by_seed(mask).mean(axis=1) for mask in columns]
        ratios = [p.var(ddof=1) / (p.mean() * (1 - p.mean())) for p in by_seed if len(p) > 1 and 0.01 < p.mean() < 0.99]
        if ratios:
            squares += (len(by_seed[0]) - 1) * float(np.mean(ratios))
            freedom += len(by_seed[0]) - 1
    return Spread(math.sqrt(squares / freedom), freedom) if freedom else None


def factorial_effects(
    masks: Mapping[tuple[bool, ...], np.ndarray],
    names: Sequence[str],
    confidence: float = 0.95,
    spread: Spread | None = None,
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
            effects[tuple(names[k] for k in chosen)] = contrast(parts, confidence, spread)
    return effects


def rank_correlation(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Spearman's rank correlation, in [-1, 1]: do two columns put the rows in the same order? (Spearman 1904)

    Raises ValueError for fewer than three rows, or a column whose values are all alike: no order can be compared then.
    """
    if len(ours) != len(theirs) or len(ours) < 3:
        raise ValueError(f"{len(ours)} and {len(theirs)} rows: an order is compared over the same three rows or more")
    if len(set(ours)) == 1 or len(set(theirs)) == 1:
        raise ValueError("all values of a column are alike: they have no order")
    return float(scipy.stats.spearmanr(ours, theirs).statistic)


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
        half = scipy.stats.t.ppf((1 + confidence) / 2, self.freedom) * math.sqrt(self.variance)
        return float(self.value - half), float(self.value + half)


def _both_sources(
    by_seed: np.ndarray, ends: Sequence[float], trainings: float | None = None, freedom: float = math.nan
) -> _Mean:
    """The mean over images and trainings: two errors that know nothing of each other, so their variances add up.

    Images: the n there are and two made-up ones with the values ``ends``. ``trainings``: the variance that they bring,
    worth ``freedom`` degrees of freedom; None to take it from three seeds or more, and to leave it out below. The
    degrees of freedom of both by Satterthwaite (Welch 1947). The little that a training's accuracy owes to the images
    is in both. With few degrees of freedom the interval is a little short (tests/study/evidence/test_estimates.py,
    tests/study/findings/test_rules.py).
    """
    sample = np.append(by_seed.mean(axis=0), ends)
    images = scipy.stats.sem(sample) ** 2
    of_others = trainings is not None
    if not of_others:
        known = len(by_seed) >= SEEDS_FOR_SPREAD
        trainings, freedom = (scipy.stats.sem(by_seed.mean(axis=1)) ** 2, len(by_seed) - 1) if known else (0.0, 1)
    variance = images + trainings
    worth = variance**2 / (images**2 / (len(sample) - 1) + trainings**2 / freedom)
    if trainings and of_others and freedom < FEW:
        worth = min(worth, freedom)
    return _Mean(float(sample.mean()), float(variance), float(worth))


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence} is not in (0, 1): 0.95 is customary")
