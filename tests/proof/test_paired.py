"""Coupled pairs: worked permutation tests, what coupling is worth, false alarms."""

import math

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from jeito.proof.paired import difference, sign_flip, variance_ratio
from jeito.proof.sequential import STEPS

# Darwin's maize, crossed less self-fertilised, in eighths of an inch: Fisher (1935) counts 863 of 32,768 ways.
MAIZE = [49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]


def test_fisher_counts_the_same_ways_to_sign_darwins_maize() -> None:
    assert sign_flip(MAIZE) == 863 / 32768
    found = difference([0.0] * 15, MAIZE, range(15), kind="number")
    assert found.p == 2 * 863 / 32768
    assert found.mean == pytest.approx(314 / 15)
    # It is refused at 5 % by no more than a hair, so the interval holds 0 by no more than that.
    assert found.low is not None
    assert -2 < found.low <= 0


def test_the_ways_to_sign_three_values() -> None:
    assert sign_flip([1, 2, 3]) == 1 / 8
    assert sign_flip([3, -1, 2]) == 2 / 8  # 6 and 4
    assert sign_flip([0, 0, 0]) == 1


def test_drawn_signs_count_the_signs_that_there_are() -> None:
    assert sign_flip(np.ones(40)) == 1 / 10_000


def test_four_cases_are_too_few_to_find_anything() -> None:
    found = difference([0.0] * 32, [1.0] * 32, [index // 8 for index in range(32)], kind="number")
    assert (found.low, found.high, found.clusters, found.p) == (None, None, 4, 2 / 16)
    assert found.why == "4 clusters are too few for an interval of a number"
    spoken_of = difference(
        [0.0] * 32, [1.0] * 32, [index // 8 for index in range(32)], kind="number", meaning="these cases"
    )
    assert (spoken_of.clusters, spoken_of.low, spoken_of.high) == (32, 1, 1)


def test_coupling_is_worth_what_the_hand_reckons() -> None:
    assert variance_ratio([0, 1, 0, 1], [0, 1, 0, 1], "cccc") == 0
    assert variance_ratio([0, 1, 0, 1], [1, 0, 1, 0], "cccc") == pytest.approx(2)
    # Differences 0, 0, 1, -1 vary by 2/3, each side by 1/3.
    assert variance_ratio([0, 1, 0, 1], [0, 1, 1, 0], "cccc") == pytest.approx(1)
    # What differs between cases counts for nothing.
    assert variance_ratio([0, 1, 100, 101], [5, 6, 7, 8], "ccdd") == 0
    assert variance_ratio([0, 1], [1, 0], "cd") is None
    assert variance_ratio([1, 1], [0, 0], "cc") is None


def test_the_variance_ratio_is_the_mean_over_all_ways_to_pair_seeds_anew() -> None:
    random = np.random.default_rng(0)
    a, b = random.normal(0, 1, (2, 6))
    apart = np.mean([np.var(np.roll(b, shift) - a, ddof=1) for shift in range(6)])
    ratio = variance_ratio(list(a), list(b), "cccccc")
    assert ratio is not None
    assert ratio * (np.var(a, ddof=1) + np.var(b, ddof=1)) == pytest.approx(np.var(b - a, ddof=1))
    assert apart == pytest.approx(np.var(a, ddof=1) + np.var(b, ddof=1), rel=0.01)


def test_the_arithmetic_of_pairs_that_are_won_and_lost() -> None:
    a = [True] * 16 + [False] * 16
    b = [True] * 26 + [False] * 6
    found = difference(a, b, range(32), kind="rate")
    assert (found.mean, found.pairs, found.clusters) == (10 / 32, 32, 32)
    assert found.p == pytest.approx(2 / 2**10, abs=2e-3)
    assert found.low is not None
    assert found.high is not None
    assert 0 < found.low < 10 / 32 < found.high


def test_a_missing_outcome_counts_as_the_worst_for_each_end() -> None:
    a, b = [False] * 20, [True] * 20
    whole = difference(a, b, range(20), kind="rate")
    torn = difference([None, *a[1:]], [*b[:-1], None], range(20), kind="rate")
    assert torn.unmeasured == 2
    assert torn.mean == 1
    assert torn.low is not None
    assert whole.low is not None
    assert torn.low < whole.low
    assert torn.high == whole.high == 1
    missing = difference([None] * 20, b, range(20), kind="rate")
    assert (missing.mean, missing.p) == (None, 1)


def test_a_missing_number_leaves_its_pair_out_and_says_so() -> None:
    found = difference([1.0, None, *range(8)], [2.0, 5.0, *range(1, 9)], range(10), kind="number")
    assert (found.pairs, found.unmeasured, found.clusters, found.mean) == (10, 1, 9, 1)


def test_nothing_to_compare_is_no_difference() -> None:
    found = difference([], [], [], kind="rate")
    assert (found.mean, found.low, found.p, found.pairs) == (None, None, 1, 0)


def test_a_behaviour_beside_itself_is_rarely_found_different_where_students_test_is_fooled() -> None:
    random = np.random.default_rng(8)
    whole = random.normal(0, 1, (400, 12, 1)) + random.normal(0, 1, (400, 12, 4))
    ours = [2 * min(sign_flip(row), sign_flip(-row)) <= 0.05 for row in whole.mean(2)]
    assert np.mean(ours) <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 400)
    assert (ttest_1samp(whole.reshape(400, -1), 0, axis=1).pvalue <= 0.05).mean() > 0.15


def test_the_chance_of_pairs_looked_at_early_is_what_the_money_says() -> None:
    # Each pair won against a half wins the bet, which is 1/2 in the mean, its square 3/8, its cube 5/16.
    grown = 1 + 3 * 1 / 2 + 3 * 3 / 8 + 5 / 16
    found = difference([False] * 3, [True] * 3, range(3), kind="rate", sequential=True)
    assert found.p == pytest.approx(2 / grown)
    grown = np.mean([1 + 0.99 * math.tanh(step * 2) for step in STEPS])
    found = difference([0.0] * 3, [1.0, -1.0, 2 * 2**0.5], range(3), kind="number", sequential=True)
    assert found.p == pytest.approx(min(1, 2 / grown))


def test_looking_after_each_case_finds_a_difference_and_none_where_there_is_none() -> None:
    random = np.random.default_rng(9)
    for kind, draw in (
        ("rate", lambda shift: (random.random(40) < 0.3 + shift).tolist()),
        ("number", lambda shift: (random.normal(0, 0.5, 40) + 2 * shift).tolist()),
    ):
        alarms = [difference(draw(0), draw(0), range(40), kind=kind, sequential=True).p <= 0.05 for _ in range(60)]  # type: ignore[arg-type]
        assert np.mean(alarms) <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 60)
        found = difference(draw(0), draw(0.6), range(40), kind=kind, sequential=True)  # type: ignore[arg-type]
        assert found.p < 0.01
        assert found.low is not None
        assert found.low > 0
