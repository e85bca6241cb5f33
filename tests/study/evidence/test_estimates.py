"""Intervals, tests and effects: against values worked out by hand, other libraries, and their defining properties."""

import math
from itertools import product

import numpy as np
import pytest
import scipy.stats
import statsmodels.api as sm

from study.evidence import estimates
from study.evidence.estimates import rank_correlation, wilson


def test_wilson_is_the_formula_of_1927():
    k, n, z = 37, 50, 1.959963984540054
    centre = (k / n + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(k / n * (1 - k / n) / n + z**2 / (4 * n**2))
    assert wilson(k, n) == pytest.approx((centre - half, centre + half), abs=1e-12)


def test_the_ends_of_a_wilson_interval_are_where_the_score_test_just_rejects():
    for end in wilson(30, 200):
        assert abs(30 / 200 - end) / math.sqrt(end * (1 - end) / 200) == pytest.approx(1.959963984540054)


def test_an_interval_has_width_even_when_all_or_none_are_correct():
    assert wilson(0, 100)[0] == 0 and wilson(0, 100)[1] > 0.03
    assert wilson(100, 100)[1] == 1 and wilson(100, 100)[0] < 0.97
    assert all(wilson(0, n)[0] == 0 and wilson(n, n)[1] == 1 for n in range(1, 200)), "exactly, whatever the rounding"


def test_more_images_and_less_confidence_narrow_the_interval():
    def width(*arguments, **keywords):
        low, high = wilson(*arguments, **keywords)
        return high - low

    assert width(500, 1000) < width(50, 100)
    assert width(50, 100, confidence=0.8) < width(50, 100)


@pytest.mark.parametrize("correct, n", [(-1, 10), (11, 10), (0, 0), (1, -5), (math.nan, 10), (math.inf, 10)])
def test_impossible_counts_are_refused(correct, n):
    with pytest.raises(ValueError, match="correct=|n="):
        wilson(correct, n)


def test_impossible_confidence_is_refused():
    with pytest.raises(ValueError, match="confidence=95"):
        wilson(5, 10, confidence=95)


def test_the_rank_correlation_is_the_correlation_of_ranks():
    ours, theirs = [3.0, 1.0, 2.0, 9.0], [30.0, 20.0, 10.0, 35.0]
    ranks = [np.argsort(np.argsort(column)) for column in (ours, theirs)]
    assert rank_correlation(ours, theirs) == pytest.approx(np.corrcoef(ranks)[0, 1])
    assert rank_correlation(ours, [10 * x**3 for x in ours]) == pytest.approx(1)
    assert rank_correlation(ours, [-x for x in ours]) == pytest.approx(-1)
    assert rank_correlation([1, 2, 3], [1, 3, 2]) == pytest.approx(0.5), "three rows have an order"


@pytest.mark.parametrize(("ours", "theirs"), [([1, 2], [1, 2]), ([1, 2, 3], [1, 2]), ([1, 1, 1], [1, 2, 3])])
def test_columns_without_a_common_order_are_refused(ours, theirs):
    with pytest.raises(ValueError, match="order"):
        rank_correlation(ours, theirs)


def masks(*accuracies, n=400, seeds=1, seed=0):
    """Independent random masks (seeds, n), one for each accuracy."""
    rng = np.random.default_rng(seed)
    return [rng.random((seeds, n)) < accuracy for accuracy in accuracies]


def test_the_interval_of_a_difference_is_students_over_the_images_and_one_made_up_image_either_way():
    a, b = masks(0.7, 0.6, n=1000)
    found = estimates.difference(a, b)
    values = [*(a[0].astype(float) - b[0]), 1.0, -1.0]
    theirs = scipy.stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high))
    assert found.value == pytest.approx(a.mean() - b.mean())


def test_a_difference_is_paired_so_networks_that_fail_on_the_same_images_are_told_apart():
    (a,) = masks(0.6, n=1000)
    b = a.copy()
    b[0, :30] = False
    paired = estimates.difference(a, b)
    shuffled = estimates.difference(a, b[:, np.random.default_rng(1).permutation(1000)])
    assert paired.low > 0 and paired.high - paired.low < (shuffled.high - shuffled.low) / 3


def test_a_difference_of_twins_is_zero_and_not_certain():
    """The rule of three: what was never seen in n images happens to at most 3 / n of them, at 95 %."""
    (a,) = masks(0.0, n=100)
    found = estimates.difference(a, a)
    assert found.value == 0 and found.high == -found.low == pytest.approx(3 / 100, abs=0.003)


def test_the_sign_of_a_difference_is_that_of_an_interval_without_zero():
    ends = [(0.1, 0.3), (-0.3, -0.1), (-0.1, 0.1), (0.0, 0.1)]
    assert [estimates.Estimate(0.0, *both, 100, 1).sign for both in ends] == [1, -1, 0, 0]


def test_nine_in_ten_intervals_of_ninety_percent_hold_the_truth():
    """Coverage over 300 made-up test sets: the definition of a confidence interval."""
    held = 0
    for seed in range(300):
        a, b = masks(0.65, 0.60, n=500, seed=seed)
        found = estimates.difference(a, b, confidence=0.9)
        held += found.low <= 0.05 <= found.high
    assert 0.85 < held / 300 < 0.95


def mcnemar(only_a, only_b):
    """The exact test of McNemar (1947): were the images that one of two networks gets right shared out by a coin?"""
    return scipy.stats.binomtest(only_a, only_a + only_b).pvalue


@pytest.mark.parametrize("confidence", [0.95, 1 - 0.05 / 4])
@pytest.mark.parametrize("n", [200, 1000])
def test_few_images_are_a_proof_to_the_interval_if_and_only_if_they_are_one_to_mcnemar(n, confidence):
    """All tables of up to 20 images that tell two networks apart, but for those whose p is at the border."""
    for in_favour, against in product(range(21), repeat=2):
        if 0 < in_favour + against <= 20:
            a, b = np.zeros((2, 1, n), bool)
            a[0, :in_favour], b[0, in_favour : in_favour + against] = True, True
            found, p = estimates.difference(a, b, confidence), mcnemar(in_favour, against)
            if not 0.9 < p / (1 - confidence) < 1.35:
                assert (found.low > 0 or found.high < 0) == (p < 1 - confidence), (in_favour, against, p)


def test_the_interval_of_a_difference_is_that_of_bonett_and_price():
    """Their formula, worked out by R's statpsych: ci.prop.ps(.05, 12, 4, 26, 6) gives 0.2548 to 0.6252."""
    a, b = np.zeros((2, 1, 48), bool)
    a[0, :26], b[0, 26:30] = True, True
    found = estimates.difference(a, b)
    assert (found.low, found.high) == pytest.approx((0.2548, 0.6252), abs=0.01)


def test_from_three_seeds_on_the_variances_of_images_and_trainings_add_up():
    accuracies = [0.5, 0.6, 0.7]
    spread = np.array([np.random.default_rng(k).permutation(1000) < 1000 * p for k, p in enumerate(accuracies)])
    found = estimates.accuracy(spread)
    of_images = np.var([*spread.mean(axis=0), 0, 1], ddof=1) / 1002
    of_trainings = np.var(accuracies, ddof=1) / 3
    freedom = (of_images + of_trainings) ** 2 / (of_images**2 / 1001 + of_trainings**2 / 2)
    half = scipy.stats.t.ppf(0.975, freedom) * math.sqrt(of_images + of_trainings)
    assert (found.low, found.high) == pytest.approx((601 / 1002 - half, 601 / 1002 + half))
    assert estimates.accuracy(spread[:2]).high == pytest.approx(wilson(1000 * 0.55, 1000)[1])


def test_with_very_many_images_the_interval_over_trainings_is_students():
    """Student's interval of 0.5, 0.6, 0.7, from a table: 0.6 plus or minus 4.3027 x 0.1 / sqrt(3)."""
    found = estimates.accuracy(np.array([np.arange(400_000) < 400_000 * p for p in (0.5, 0.6, 0.7)]))
    assert (found.low, found.high) == pytest.approx((0.6 - 0.2484, 0.6 + 0.2484), abs=0.001)


@pytest.mark.parametrize("seeds", [3, 5])
def test_over_several_trainings_interval_and_p_value_agree(seeds):
    for gain in np.linspace(-0.06, 0.06, 25):
        a, b = masks(0.6 + gain, 0.6, n=500, seeds=seeds, seed=round(1000 * gain) + 100)
        found = estimates.difference(a, b)
        for null in (0.0, 0.03, -0.03):
            assert (found.low > null or found.high < null) == (found.p_value(null) < 0.05)


@pytest.mark.parametrize("spread", [0.0, 0.02, 0.05])
@pytest.mark.parametrize("seeds", [3, 5])
def test_intervals_over_several_trainings_hold_the_truth_as_often_as_they_say(seeds, spread):
    """Made-up trainings, each better or worse by its own luck, tested on one made-up set of easy and hard images.

    The definition of a confidence interval. What the images owe to luck is counted twice, so it may hold the truth more
    often; with three trainings that differ much it may hold it a little less often.
    """
    held = 0
    for seed in range(200):
        rng = np.random.default_rng([seed, seeds, round(1000 * spread)])
        difficulty = rng.normal(0, 1, size=500)

        def tested(level, rng=rng, difficulty=difficulty):
            luck = rng.normal(0, spread, size=(seeds, 1))
            noise = rng.normal(0, 1, size=(seeds, 500))
            return (difficulty + noise) / math.sqrt(2) < scipy.stats.norm.ppf(level + luck)

        found = estimates.difference(tested(0.65), tested(0.60), confidence=0.9)
        held += found.low <= 0.05 <= found.high
    assert held / 200 > 0.85


def test_a_p_value_over_seeds_respects_the_spread_between_them():
    """Three trainings that disagree about the sign prove nothing, however many images there are."""
    a = np.array([np.arange(10_000) < 10_000 * p for p in (0.8, 0.5, 0.65)])
    b = np.array([np.arange(10_000) < 10_000 * 0.6] * 3)
    assert estimates.difference(a, b).p_value() > 0.3
    assert estimates.difference(a[:1], b[:1]).p_value() < 1e-6


SPREAD = estimates.Spread(0.025, 8)  # as the trainings of the paper's rows have it, about


@pytest.mark.parametrize("seeds", [1, 2, 3])
def test_a_known_spread_adds_the_variance_of_each_network_that_is_compared(seeds):
    a, b = masks(0.7, 0.6, n=1000, seeds=seeds)
    alone = np.var([*(a.mean(axis=0) - b.mean(axis=0)), 1, -1], ddof=1) / 1002
    p, q = a.mean(), b.mean()
    of_trainings = 0.025**2 * (p * (1 - p) + q * (1 - q)) / seeds
    found = estimates.difference(a, b, spread=SPREAD)
    assert found.error == pytest.approx(math.sqrt(alone + of_trainings))
    freedom = (alone + of_trainings) ** 2 / (alone**2 / 1001 + of_trainings**2 / 8)
    assert found.freedom == pytest.approx(freedom)


def test_the_spread_is_pooled_over_experiments_by_their_degrees_of_freedom():
    """Two experiments of two and three seeds, one column each, by the textbook's pooled variance."""
    two = np.array([np.arange(1000) < 1000 * p for p in (0.48, 0.52)])
    three = np.array([np.arange(1000) < 1000 * p for p in (0.7, 0.8, 0.9)])
    found = estimates.pooled([[two], [three], [two[:1]]])
    by_hand = (1 * np.var([0.48, 0.52], ddof=1) / 0.25 + 2 * np.var([0.7, 0.8, 0.9], ddof=1) / 0.16) / 3
    assert found.freedom == 3 and found.factor**2 == pytest.approx(by_hand)
    assert estimates.pooled([[two[:1]]]) is None


def test_columns_of_one_experiment_are_one_observation_and_a_column_that_nothing_survives_is_none():
    two = np.array([np.arange(1000) < 1000 * p for p in (0.48, 0.52)])
    assert estimates.pooled([[two, two, np.zeros((2, 1000), bool)]]) == estimates.pooled([[two]])


def test_eight_of_ten_experiments_find_an_effect_that_is_called_visible():
    """Made-up pairs of trainings whose true difference is the smallest visible one: the definition of power."""
    spread = estimates.Spread(0.025, 50)

    def experiment(effect, seed):
        rng = np.random.default_rng(seed)
        levels = 0.5 + np.array([effect, 0.0]) + 0.025 * 0.5 * rng.normal(size=2)
        return estimates.difference(*(rng.random((1, 500)) < level for level in levels), spread=spread)

    visible = np.mean([experiment(0.0, seed).visible() for seed in range(20)])
    found = [experiment(visible, seed).p_value() < 0.05 for seed in range(500)]
    assert 0.75 < np.mean(found) < 0.85


def test_factorial_effects_are_the_coefficients_of_a_regression_on_signs():
    names = ("AdvProp", "ALS", "SAT")
    cells = list(product([False, True], repeat=3))
    found = dict(zip(cells, masks(*np.linspace(0.3, 0.8, 8), n=300, seeds=2), strict=True))
    effects = estimates.factorial_effects(found, names)
    signs = np.array([[1 if on else -1 for on in cell] for cell in cells], float)
    columns = {(name,): signs[:, k] for k, name in enumerate(names)}
    columns |= {(a, b): columns[a,] * columns[b,] for a, b in [names[:2], names[::2], names[1:]]}
    columns[names] = signs.prod(axis=1)
    response = [found[cell].mean() for cell in cells]
    fit = sm.OLS(response, sm.add_constant(np.column_stack(list(columns.values())))).fit()
    for chosen, coefficient in zip(columns, fit.params[1:], strict=True):
        assert effects[chosen].value == pytest.approx(2 * coefficient), chosen
        assert effects[chosen].low <= effects[chosen].value <= effects[chosen].high


def test_a_design_with_a_hole_is_refused():
    with pytest.raises(ValueError, match="needs 4 rows; 1 are missing"):
        estimates.factorial_effects({(False, False): 1, (True, False): 1, (False, True): 1}, ("A", "B"))


def test_masks_of_other_images_or_another_number_of_seeds_are_not_compared():
    (a,), (b,) = masks(0.5, n=100), masks(0.5, n=90)
    with pytest.raises(ValueError, match="same images"):
        estimates.difference(a, b)
    with pytest.raises(ValueError, match="seeds, images"):
        estimates.accuracy(a[0])
