"""Intervals that may be looked at early: the money reckoned by hand, false alarms under peeking."""

import math

import numpy as np
import pytest

from jeito.proof.intervals import binomial
from jeito.proof.sequential import STEPS, always, even_always, even_growth, growth, growth_of_counts


def test_the_money_is_what_the_hand_reckons() -> None:
    # The bets are 1/2 in the mean, their squares 3/8. Against 1/2, a pass wins the bet and a failure loses it.
    assert growth([1.0, 0.0], 0.5) == pytest.approx([math.log(1.5), math.log(1 - 3 / 8)])
    # Against 3/4 a pass wins a third of the bet.
    assert growth([1.0], 0.75) == pytest.approx([math.log(1 + 0.5 / 3)])


def test_the_money_knows_what_is_left_of_a_plan() -> None:
    # Two of four should pass: after one, one of three is left, and a second pass wins twice the bet.
    assert growth([1.0, 1.0], 0.5, planned=4)[1] == pytest.approx(math.log(1 + 3 * 0.5 + 2 * 3 / 8))


def test_the_order_of_passes_does_not_matter_to_the_money() -> None:
    values = (np.random.default_rng(0).random(50) < 0.7).astype(float)
    assert growth(values, 0.6)[-1] == pytest.approx(float(growth_of_counts(values.sum(), 50, 0.6)))


def test_money_falls_as_the_mean_grows_and_grows_with_each_value() -> None:
    values = np.random.default_rng(1).random(30)
    grown = [growth(values, mean)[-1] for mean in (0.2, 0.4, 0.6, 0.8)]
    assert grown == sorted(grown, reverse=True)
    for index in range(30):
        better = values.copy()
        better[index] = 1
        assert (growth(better, 0.5, planned=40) >= growth(values, 0.5, planned=40) - 1e-12).all()


@pytest.mark.parametrize("rate", [0.5, 0.9])
def test_a_true_rate_is_rarely_refused_however_often_one_looks(rate: float) -> None:
    values = (np.random.default_rng(4).random((1000, 200)) < rate).astype(float)
    limit = math.log(2 / 0.05)
    refused = (growth(values, rate).max(1) >= limit) | (growth(1 - values, 1 - rate).max(1) >= limit)
    assert refused.mean() <= 0.05
    ends = {n: np.array([binomial(passed, n) for passed in range(n + 1)]) for n in range(10, 201, 10)}
    sums = values.cumsum(1).astype(int)
    looked = [(ends[n][sums[:, n - 1], 0] > rate) | (rate > ends[n][sums[:, n - 1], 1]) for n in ends]
    assert np.any(looked, axis=0).mean() > 0.1


def test_the_shuffled_runs_of_unequal_cases_are_not_refused_more_often() -> None:
    random = np.random.default_rng(5)
    own = random.permuted(np.tile(np.repeat([1.0, 0.6], 80), (1000, 1)), axis=1)
    values = (random.random(own.shape) < own).astype(float)
    limit = math.log(2 / 0.05)
    assert ((growth(values, 0.8).max(1) >= limit) | (growth(1 - values, 0.2).max(1) >= limit)).mean() <= 0.05


def test_a_whole_plan_of_certain_replies_is_known_for_certain() -> None:
    values = np.array([1.0, 0, 1, 1, 0, 1, 1, 1])
    assert always(values, values, planned=8) == (0.75, 0.75)
    part = always(values[:6], values[:6], planned=8)
    assert 4 / 8 <= part.low < part.high <= 6 / 8


def test_what_was_not_measured_widens_the_interval_on_both_sides() -> None:
    values = np.tile([1.0, 1, 0], 20)
    least, most = values.copy(), values.copy()
    least[10], most[11] = 0, 1
    narrow, wide = always(values, values), always(least, most)
    assert wide.low < narrow.low < 2 / 3 < narrow.high < wide.high


def test_an_interval_only_ever_narrows_and_outlives_values_in_no_random_order() -> None:
    values = np.concatenate([np.ones(60), np.zeros(60)])
    first = always(values[:60], values[:60])
    last = always(values, values)
    assert first.low <= last.low <= last.high <= first.high
    # A source that changes early in a long plan.
    changed = np.concatenate([np.ones(60), np.zeros(1500)])
    assert always(changed, changed) == pytest.approx(last, abs=0.01)


def test_a_coin_of_numbers_is_bet_on_from_the_third() -> None:
    # The first two deviate by √2; the third lies two such from 0.
    third = np.mean([1 + 0.99 * math.tanh(step * 2) for step in STEPS])
    assert even_growth([1.0, -1.0, 2 * 2**0.5], 0.0) == pytest.approx([0, 0, math.log(third)])


def test_an_interval_of_numbers_looked_at_early_covers() -> None:
    random = np.random.default_rng(6)
    values = random.laplace(0, 1, (1000, 60))
    limit = math.log(2 / 0.05)
    assert ((even_growth(values, 0).max(1) >= limit) | (even_growth(-values, 0).max(1) >= limit)).mean() <= 0.05
    interval = even_always(values[0] + 5)
    assert interval is not None
    assert 4 < interval.low < 5 < interval.high < 6


def test_seven_numbers_are_too_few_to_look_at_early() -> None:
    assert even_always(np.arange(7.0)) is None
    assert even_always(np.arange(8.0)) is not None
