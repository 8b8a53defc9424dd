"""Intervals of a fixed number: known values, values reckoned by hand, and coverage."""

import numpy as np
import pytest

from jeito.proof.intervals import binomial, bounded, chance_below, subset_means, symmetric


def test_the_exact_interval_of_a_rate_is_clopper_and_pearsons() -> None:
    assert binomial(0, 10) == pytest.approx((0, 0.30850), abs=1e-5)
    assert binomial(5, 10) == pytest.approx((0.18709, 0.81291), abs=1e-5)
    assert binomial(9, 10) == pytest.approx((0.55498, 0.99747), abs=1e-5)
    assert binomial(24, 24) == pytest.approx((0.025 ** (1 / 24), 1))
    assert binomial(36, 36, 0.01) == pytest.approx((0.005 ** (1 / 36), 1))


def test_the_integral_behind_the_interval_of_means_gives_clopper_and_pearsons_where_values_are_0_and_1() -> None:
    for passed, trials in ((1, 3), (4, 5), (20, 24), (190, 200)):
        low, high = binomial(passed, trials)
        counts = np.array([trials - passed, passed])
        assert float(chance_below(np.array([0.0, 1.0]), counts, low)) == pytest.approx(0.025, abs=1e-5)
        assert float(chance_below(np.array([1.0, 0.0]), counts, 1 - high)) == pytest.approx(0.025, abs=1e-5)


def test_the_interval_of_one_or_two_means_is_what_the_hand_reckons() -> None:
    # One share of two is uniform: a twentieth and a half of it lies below 0.025, and the value is a half.
    assert bounded([0.5]) == pytest.approx((0.0125, 0.9875), abs=1e-6)
    # Two shares of three: their sum is below x with chance x².
    assert bounded([0.5, 0.5]) == pytest.approx((0.5 * 0.025**0.5, 1 - 0.5 * 0.025**0.5), abs=1e-6)


def test_the_interval_of_means_agrees_with_drawn_shares() -> None:
    random = np.random.default_rng(3)
    values = random.beta(6, 2, 12)
    shares = random.dirichlet(np.ones(13), 400_000)
    low, high = bounded(values)
    assert low == pytest.approx(np.quantile(shares @ np.append(values, 0), 0.025), abs=2e-3)
    assert high == pytest.approx(np.quantile(shares @ np.append(values, 1), 0.975), abs=2e-3)


@pytest.mark.parametrize("cases", [5, 20, 200])
@pytest.mark.parametrize("rate", [0.5, 0.9, 0.99])
def test_means_of_clustered_cases_are_covered_where_a_naive_interval_fails(cases: int, rate: float) -> None:
    random = np.random.default_rng(1)
    runs = random.binomial(8, random.beta(rate, 1 - rate, (500, cases)))
    levels, counts = np.arange(9) / 8, (runs[..., None] == np.arange(9)).sum(1)
    covered = (chance_below(levels, counts, rate) >= 0.025) & (chance_below(1 - levels, counts, 1 - rate) >= 0.025)
    assert covered.mean() >= 0.94 - 2 * np.sqrt(0.05 * 0.95 / 500)
    mean = runs.mean(1) / 8
    wald = np.abs(mean - rate) <= 1.96 * np.sqrt(mean * (1 - mean) / (8 * cases))
    assert wald.mean() < 0.85


def test_what_covers_is_what_lies_in_the_interval() -> None:
    random = np.random.default_rng(5)
    for _ in range(5):
        values = random.binomial(4, random.beta(4, 2, 9)) / 4
        low, high = bounded(values)
        levels, counts = np.unique(values, return_counts=True)
        assert float(chance_below(levels, counts, low)) == pytest.approx(0.025, abs=1e-6)
        assert float(chance_below(1 - levels, counts, 1 - high)) == pytest.approx(0.025, abs=1e-6)


def test_an_interval_of_numbers_ends_at_means_of_subsets() -> None:
    # Of 128 subsets 2.5 % are 3.2: the empty one and two more are beyond each end. Means: 1, 1.5, 2, 2, ...
    assert symmetric([1, 2, 3, 4, 5, 6, 7]) == (2, 6)
    assert symmetric([1, 2, 3, 4, 5, 60]) == (1, 60)


def test_five_numbers_are_too_few_for_an_interval() -> None:
    assert symmetric([1, 2, 3, 4, 5]) is None
    assert symmetric([1, 2, 3, 4, 5], 0.1) is not None


def test_drawn_subsets_are_the_same_each_time_and_near_what_all_would_say() -> None:
    values = np.arange(16.0)
    assert (subset_means(values) == subset_means(values)).all()
    every = np.sort([np.mean(values[[bool(i >> j & 1) for j in range(16)]]) for i in range(1, 2**16)])
    interval = symmetric(values)
    assert interval is not None
    assert interval.low == pytest.approx(every[int(0.025 * 2**16) - 1], abs=0.25)


def test_an_interval_of_numbers_covers_their_centre() -> None:
    random = np.random.default_rng(2)
    met = [interval.low <= 3 <= interval.high for _ in range(400) if (interval := symmetric(random.laplace(3, 2, 10)))]
    assert len(met) == 400
    assert 0.92 <= np.mean(met) <= 0.98
