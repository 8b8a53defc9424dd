import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jeito.decode import noise

WORD = 2**64
words = st.integers(0, WORD - 1)


def slow_mix(x: int) -> int:
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % WORD
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % WORD
    return x ^ (x >> 31)


def slow_uniform(seed: int, position: int, token: int) -> float:
    key = slow_mix((seed + slow_mix(position + 1) * 0x9E3779B97F4A7C15) % WORD)
    return ((slow_mix((key + token * 0xD1B54A32D192ED03) % WORD) >> 12) + 0.5) / 2**52


def ids(*tokens: int) -> noise.Ids:
    return np.array(tokens, dtype=np.intp)


def test_mix_is_the_finaliser_of_splitmix64() -> None:
    # The published first outputs of SplitMix64 from state 1234567: mix(state + n · golden).
    outputs = [noise.mix(1234567 + n * noise.GOLDEN) for n in range(1, 4)]
    assert outputs == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@pytest.mark.parametrize(
    ("seed", "position", "token", "u"),
    [
        (0, 0, 0, 0.4524700386146888),
        (1, 0, 0, 0.1347851193845736),
        (1, 1, 0, 0.18146276726585675),
        (1, 0, 1, 0.6096888994667692),
        (WORD - 1, 511, 151935, 0.7465698708417977),
        (42, 7, 2**32 - 1, 0.4068351215465501),
    ],
)
def test_the_noise_of_some_tokens_is_known(seed: int, position: int, token: int, u: float) -> None:
    assert noise.uniform(seed, position, ids(token))[0] == u
    assert noise.noise(seed, position, ids(token))[0] == pytest.approx(-math.log(-math.log(u)), rel=1e-15)


@given(words, st.integers(0, 2**40), st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=20))
def test_the_noise_is_that_of_exact_integers(seed: int, position: int, tokens: list[int]) -> None:
    expected = [slow_uniform(seed, position, token) for token in tokens]
    assert noise.uniform(seed, position, ids(*tokens)).tolist() == expected


@given(words, st.integers(0, 2**300))
def test_a_derived_seed_is_that_of_exact_integers(seed: int, i: int) -> None:
    assert noise.derive(seed, 0) == seed
    assert noise.derive(seed, i + 1) == slow_mix((seed + (i + 1) * 0x9E3779B97F4A7C15) % WORD)


def test_the_coin_is_the_u_of_the_token_beyond_all_vocabularies() -> None:
    assert noise.coin(5, 7) == slow_uniform(5, 7, 2**32 - 1)


def test_u_is_never_0_or_1() -> None:
    for hashes in (0, WORD - 1):
        u = noise._uniform(np.array([hashes], dtype=np.uint64))[0]
        assert 0 < u < 1
        assert -math.log(-math.log(u)) < noise.HIGHEST


@pytest.mark.parametrize("vary", ["token", "position", "seed"])
def test_u_is_uniform_in_every_direction(vary: str) -> None:
    n, bins = 20_000, 100
    if vary == "token":
        u = noise.uniform(3, 0, np.arange(n))
    elif vary == "position":
        u = np.array([noise.uniform(3, i, ids(11))[0] for i in range(n)])
    else:
        u = np.array([noise.uniform(i, 0, ids(11))[0] for i in range(n)])
    counts = np.bincount((u * bins).astype(int), minlength=bins)
    assert ((counts - n / bins) ** 2 / (n / bins)).sum() < 161.3  # chi-square, 99 degrees, 1 in 10,000
    distance = np.abs(np.sort(u) - (np.arange(n) + 0.5) / n).max()
    assert distance * math.sqrt(n) < 2.23  # Kolmogorov, 1 in 10,000


@pytest.mark.parametrize("size", [1, 1024, 1025, 5_000, 40_000])
@pytest.mark.parametrize("spread", [0.0, 0.01, 3.0, 12.0])
def test_the_long_race_has_the_winner_of_all_scores(size: int, spread: float) -> None:
    random = np.random.default_rng(size)
    for seed in range(8):
        values = (random.standard_normal(size) * spread).astype(np.float32)
        values[random.random(size) < 0.2] = -np.inf
        values[0] = 0
        tokens = np.sort(random.choice(200_000, size, replace=False))
        for chosen in (None, tokens):
            scores = values.astype(np.float64) + noise.noise(seed, 4, np.arange(size) if chosen is None else chosen)
            assert noise.winner(seed, 4, values, chosen) == int(scores.argmax())


def test_the_race_is_won_in_proportion_to_probability_though_most_never_run() -> None:
    # One token of half the mass before 20,000 of the other half.
    values = np.zeros(20_001, dtype=np.float32)
    values[777] = math.log(20_000)
    wins = sum(noise.winner(seed, 0, values) == 777 for seed in range(1000))
    assert abs(wins - 500) < 4 * math.sqrt(250)
