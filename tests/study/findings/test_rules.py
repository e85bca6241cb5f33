"""How often the rules of the claims err: made-up trainings with effects that are known.

``PYTHONPATH=tests python tests/study/findings/test_rules.py`` prints the rate of every verdict (minutes).
"""

import math
from collections import Counter
from itertools import product

import numpy as np
import pytest
from scipy.stats import norm

from study.evidence.estimates import Spread, difference, pooled
from study.findings.claims import judge

LEVEL = 0.6  # accuracy of the network that is compared with
FACTOR = 0.025  # of the spread between trainings: 1.2 points at that level
SEEDS_OF_OTHERS = (3, 5, 3)  # trainings of the rows that the spread is learned from


def trainings(level: float, seeds: int, n: int, factor: float, difficulty: np.ndarray, rng) -> np.ndarray:
    """Masks (seeds, n) of trainings of one row: easy and hard images are the same for all, each has luck of its own."""
    luck = factor * math.sqrt(level * (1 - level)) * rng.normal(size=(seeds, 1))
    own = rng.normal(size=(seeds, n))
    return math.sqrt(0.7) * difficulty + math.sqrt(0.3) * own < norm.ppf(level + luck)


def verdicts(
    effect, published, direction, *, factor, n, seeds, knows_spread=True, repeats=400, others=SEEDS_OF_OTHERS, asked=1
) -> Counter:
    """How often each verdict is reached on a true ``effect``, of a claim whose difference was ``published``.

    ``others``: seeds of the rows that the spread is learned from. ``asked``: comparisons of the claim.
    """
    found = Counter()
    for repeat in range(repeats):
        rng = np.random.default_rng([repeat, round(1e4 * effect) + 10_000, n, seeds, round(1e4 * factor)])
        difficulty = rng.normal(size=n)
        rows = [[trainings(LEVEL, count, n, factor, difficulty, rng)] for count in others]
        a, b = (trainings(level, seeds, n, factor, difficulty, rng) for level in (LEVEL + effect, LEVEL))
        spread: Spread | None = pooled(rows) if knows_spread else None
        estimate = difference(a, b, 1 - 0.05 / asked, spread)
        found[judge.verdict(estimate, published, direction)] += 1
    return found


@pytest.mark.parametrize("factor", [0.0, FACTOR])
@pytest.mark.parametrize(("n", "seeds"), [(1000, 1), (2000, 3)])
def test_of_an_effect_that_is_not_there_one_verdict_in_twenty_is_certain(n, seeds, factor):
    found = verdicts(0.0, 0.03, "more", factor=factor, n=n, seeds=seeds)
    certain = found["reproduced"] + found["larger"] + found["smaller"] + found["contradicted"]
    assert certain / found.total() < 0.05 + 2.5 * math.sqrt(0.05 * 0.95 / found.total())


@pytest.mark.parametrize(("others", "most"), [((3, 5, 3), 0.12), ((3, 3), 0.14), ((3,), 0.12)])
def test_of_a_claim_of_fifteen_comparisons_not_many_more_than_one_in_twenty_has_a_false_one(others, most):
    """Few degrees of freedom make the tails of an interval a little short: measured, and no worse than this."""
    found = verdicts(0.0, 0.03, "more", factor=FACTOR, n=10_000, seeds=1, repeats=1000, others=others, asked=15)
    certain = found["reproduced"] + found["larger"] + found["smaller"] + found["contradicted"]
    assert 15 * certain / found.total() < most


def test_rules_that_know_the_images_alone_err_more_often_because_trainings_differ():
    """Why the spread is in every interval: without it the same verdicts are wrong several times as often."""
    found = verdicts(0.0, 0.03, "more", factor=FACTOR, n=5000, seeds=1, knows_spread=False)
    assert (found["reproduced"] + found["larger"] + found["smaller"] + found["contradicted"]) / found.total() > 0.25


@pytest.mark.parametrize("direction", ["no more", "same"])
def test_no_difference_is_not_reproduced_by_too_few_images_and_is_by_many(direction):
    few = verdicts(0.0, 0.0, direction, factor=FACTOR, n=1000, seeds=1)
    many = verdicts(0.0, 0.0, direction, factor=0.0, n=50_000, seeds=1, repeats=100)
    assert few["reproduced"] / few.total() < 0.05
    assert many["reproduced"] / many.total() > 0.8


@pytest.mark.parametrize("direction", ["no more", "same"])
def test_a_difference_at_the_margin_passes_for_none_once_in_twenty(direction):
    found = verdicts(judge.MARGIN, 0.0, direction, factor=FACTOR, n=2000, seeds=3)
    assert found["reproduced"] / found.total() < 0.05 + 2.5 * math.sqrt(0.05 * 0.95 / found.total())


def test_an_effect_beyond_what_is_visible_is_found_and_never_contradicted():
    found = verdicts(0.07, 0.07, "more", factor=FACTOR, n=5000, seeds=1, repeats=200)
    assert (found["reproduced"] + found["larger"] + found["smaller"]) / found.total() > 0.8
    assert found["contradicted"] == 0


def table() -> str:
    """Rates in percent, a line a case."""
    names = ("reproduced", "larger", "smaller", "cannot be decided", "not reproduced", "contradicted")
    lines = [f"{'images':>7} {'seeds':>5} {'spread':>7} {'claim':>9} {'true':>5}  " + "  ".join(names)]
    for (n, seeds), factor in product([(1000, 1), (10_000, 1), (10_000, 3)], [0.0, FACTOR]):
        for direction, effect in product(["more", "same"], [0.0, 0.005, 0.01, 0.03]):
            published = 0.03 if direction == "more" else 0.0
            found = verdicts(effect, published, direction, factor=factor, n=n, seeds=seeds)
            rates = "  ".join(f"{100 * found[name] / found.total():{len(name)}.1f}" for name in names)
            lines.append(f"{n:7,} {seeds:5} {factor:7.3f} {direction:>9} {100 * effect:5.1f}  {rates}")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
