"""Intervals: against values worked out by hand, and the properties that define them."""

import math

import numpy as np
import pytest

from advlib.statistics import rank_correlation, wilson


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


@pytest.mark.parametrize(("ours", "theirs"), [([1, 2], [1, 2]), ([1, 2, 3], [1, 2]), ([1, 1, 1], [1, 2, 3])])
def test_columns_without_a_common_order_are_refused(ours, theirs):
    with pytest.raises(ValueError, match="order"):
        rank_correlation(ours, theirs)
