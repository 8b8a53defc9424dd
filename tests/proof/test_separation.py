"""Are behaviours different? Distances and corrections reckoned by hand, false alarms, a judge of unseen cases."""

import numpy as np
import pytest

from jeito.errors import InputError
from jeito.proof.separation import classify, distinct, diversity, energy, holm, separate, standardised


def test_energy_and_its_chance_are_what_the_hand_counts() -> None:
    points, is_b = np.array([[0.0], [0.0], [1.0], [1.0]]), np.array([False, False, True, True])
    # Twice 1 between, 0 within. Of 6 ways to choose two, 2 are so far apart; where only pairs may swap, 2 of 4.
    distance, freely = energy(points, is_b, [[0, 1, 2, 3]])
    assert distance == pytest.approx(2)
    assert freely == pytest.approx(1 / 3, abs=0.02)
    assert energy(points, is_b, [[0, 2], [1, 3]])[1] == pytest.approx(1 / 2, abs=0.02)
    # 5, 5 and 4 between, and 4 of 9 within a are 1 apart.
    alone = energy(np.array([[0.0], [0], [1], [5]]), np.array([False, False, False, True]), [[0, 1, 2, 3]])
    assert alone == (pytest.approx(2 * 14 / 3 - 4 / 9), pytest.approx(1 / 4, abs=0.02))
    assert energy(np.array([[0.0], [1.0], [0.0], [1.0]]), is_b, [[0, 1, 2, 3]])[0] == pytest.approx(0)


def test_holm_multiplies_by_what_is_left() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1, 1]
    assert holm([]) == []


def test_features_are_centred_in_their_case_and_constant_ones_left_out() -> None:
    scaled = standardised(np.array([[1.0, 7, 0], [3, 7, 0], [10, 7, 5], [12, 7, 5]]), [[0, 1], [2, 3]])
    assert scaled.tolist() == [[-1], [1], [-1], [1]]


def test_behaviours_that_differ_are_told_apart_and_others_are_not() -> None:
    random = np.random.default_rng(0)
    names = [name for _ in range(16) for name in "abc" for _ in range(2)]
    cases = [case for case in range(16) for _ in range(6)]
    features = random.normal(0, 1, (96, 4)) + random.normal(0, 9, (16, 4))[cases]
    features[[name == "c" for name in names], 0] += 1.5
    found = {(pair.a, pair.b): pair for pair in separate(features, names, cases, draws=999)}
    assert found["a", "c"].adjusted <= 0.05
    assert found["b", "c"].adjusted <= 0.05
    assert found["a", "b"].adjusted > 0.05
    assert (found["a", "b"].replies, found["a", "b"].clusters) == (64, 16)


def test_coupled_replies_are_swapped_within_their_seed() -> None:
    # Each pair differs by a little that the noise of seeds drowns.
    random = np.random.default_rng(1)
    noise = random.normal(0, 5, (40, 1))
    features = np.concatenate([noise, noise + 1])
    names, cases, seeds = ["a"] * 40 + ["b"] * 40, [0] * 80, [*range(40), *range(40)]
    assert separate(features, names, cases, draws=999)[0].p > 0.05
    assert separate(features, names, cases, seeds, draws=999)[0].p <= 0.05


def test_alike_behaviours_are_rarely_found_different_under_clustered_repeats() -> None:
    random = np.random.default_rng(2)
    cases = np.repeat(np.arange(8), 4)
    blocks = [list(range(4 * case, 4 * case + 4)) for case in range(8)]
    is_b = np.tile([False, True], 16)
    alarms = []
    for _ in range(300):
        points = random.normal(0, 1, (32, 3)) + random.normal(0, 3, (8, 3))[cases]
        alarms.append(energy(standardised(points, blocks), is_b, blocks, 199)[1] <= 0.05)
    assert np.mean(alarms) <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 300)


def test_a_judge_learns_from_other_cases_alone() -> None:
    random = np.random.default_rng(3)
    names, cases = ["a", "b"] * 60, [index // 6 for index in range(120)]
    # Each case has a feature of its own that tells a from b: to be learnt by heart, and no use elsewhere.
    sides = np.array([1 if name == "a" else -1 for name in names])
    own = np.eye(20)[cases] * sides[:, None]
    assert classify(own, names, cases).interval.low < 0.5
    noise = random.normal(0, 1, (120, 60))
    assert classify(noise, names, cases).accuracy < 0.7
    told = classify(sides[:, None] + random.normal(0, 0.1, (120, 1)), names, cases)
    assert told.counts == ((60, 0), (0, 60))
    assert told.accuracy == 1
    assert told.rates[0][0].low == pytest.approx(0.025 ** (1 / 20))
    assert told.rates[0][1] == pytest.approx((0, 1 - 0.025 ** (1 / 20)))


def test_a_judge_weighs_features_that_vary_together() -> None:
    random = np.random.default_rng(4)
    shared = random.normal(0, 10, 160)
    side = np.tile([0.0, 1.0], 80)
    features = np.stack([shared + random.normal(0, 0.1, 160), shared + 2 * side], axis=1)
    judged = classify(features, ["ab"[int(i)] for i in side], [index // 8 for index in range(160)])
    assert judged.accuracy > 0.7


def test_one_behaviour_or_one_case_cannot_be_classified() -> None:
    with pytest.raises(InputError, match=r"1 behaviour\(s\) on 2 case"):
        classify([[1.0], [2.0]], ["a", "a"], [0, 1])
    with pytest.raises(InputError, match=r"on 1 case"):
        classify([[1.0], [2.0]], ["a", "b"], [0, 0])


def test_a_feature_that_is_no_number_is_named() -> None:
    with pytest.raises(InputError, match="feature 1 of reply 0 is"):
        separate([[1.0, float("nan")], [1.0, 2.0]], ["a", "b"], [0, 0])


def test_variety_within_a_reply_is_not_variety_between_replies() -> None:
    assert distinct([1, 2, 1, 2, 1]) == 2 / 4
    assert distinct([1]) is None
    parrots = diversity([[1, 2, 3, 4], [1, 2, 3, 4]] * 3, "aabbcc")
    assert (parrots.within, parrots.between) == (1, 0)
    # Each says one thing again and again, and no two the same: 1 of 3 pairs is distinct.
    stuck = diversity([[1, 1, 1, 1], [2, 2, 2, 2]] * 3, "aabbcc")
    assert stuck.within == pytest.approx(1 / 3)
    assert stuck.between == 1
    alone = diversity([[1, 2, 3]], "a")
    assert (alone.between, alone.between_interval) == (None, None)
