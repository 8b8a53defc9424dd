"""What a plan is likely to show, before it is run."""

import math

import numpy as np
import pytest
from scipy.stats import binom

from jeito.proof.power import chance_to_hold, course, pairs_for_difference, runs_for_rate
from jeito.proof.sequential import growth


def test_a_course_is_what_simulation_finds() -> None:
    made = course(120, 0.9, 0.75)
    values = (np.random.default_rng(0).random((4000, 120)) < 0.9).astype(float)
    limit = math.log(2 / 0.05)
    holds, fails = growth(values, 0.75) >= limit, growth(1 - values, 0.25) >= limit
    ended = np.where((holds | fails).any(1), (holds | fails).argmax(1) + 1, 120)
    right = np.array([holds[i, end - 1] for i, end in enumerate(ended)])
    assert made.holds[-1] == pytest.approx(right.mean(), abs=0.02)
    assert made.runs[-1] == pytest.approx(ended.mean(), rel=0.02)


def test_at_the_limit_of_a_claim_false_alarms_are_rare() -> None:
    assert course(300, 0.9, 0.9).fails[-1] <= 0.025
    assert course(300, 0.9, 0.9, claims=5).fails[-1] <= 0.005


@pytest.mark.parametrize(("rate", "at_least"), [(0.98, 0.9), (0.7, 0.9), (0.5, 0.8)])
def test_stopping_early_saves_two_fifths_of_the_runs_far_from_the_limit(rate: float, at_least: float) -> None:
    made = course(200, rate, at_least)
    assert made.runs[-1] <= 0.6 * 200
    assert max(made.holds[-1], made.fails[-1]) > 0.95


def test_the_chance_to_hold_is_a_tail_of_the_binomial() -> None:
    # 57 of 58 show 0.9, 56 do not: 0.9064 and 0.8809 are the lower ends.
    assert chance_to_hold(58, 0.97, 0.9) == pytest.approx(binom.sf(56, 58, 0.97))
    assert chance_to_hold(35, 1.0, 0.9) == 0
    assert chance_to_hold(36, 1.0, 0.9) == 1


def test_the_runs_for_a_rate_are_the_first_plan_that_is_likely_enough() -> None:
    assert runs_for_rate(1.0, 0.9) == 48
    needed = runs_for_rate(0.97, 0.9, power=0.8)
    assert needed is not None
    assert course(needed, 0.97, 0.9).holds[-1] >= 0.8 > course(needed, 0.97, 0.9).holds[-2]
    assert runs_for_rate(0.9, 0.9, most=128) is None


def test_the_pairs_for_a_difference_are_guenthers() -> None:
    # (1.960 + 0.842)² / 0.5² + 1.96² / 2 = 33.3; Student's exact answer is 34.
    assert pairs_for_difference(0.5, 1.0) == 34
    assert pairs_for_difference(1.0, 1.0) == 10
    assert pairs_for_difference(0.5, 1.0, tests=3) > 34
