"""The sampler against the slow reference, over every knob; and what a caller relies on beyond one draw."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from jeito.decode import cuts
from jeito.decode.noise import derive, noise
from jeito.decode.penalties import Suffixes, Tally
from jeito.decode.sampler import Draw, Sampler
from jeito.errors import EngineError, InputError
from jeito.types import Dry, Sampling, Xtc
from tests.decode import reference

NEAR = 2e-6
"""Decisions nearer than this to their threshold are skipped: float32 masses may round to the other side."""


def text(id: int) -> bytes:
    return b"say:" if id % 7 == 3 else b"w%d" % id


def make(sampling: Sampling, seed: int = 0, prompt: list[int] | None = None, **more: Any) -> Sampler:
    return Sampler(sampling, seed, prompt or [], **{"ends": frozenset({0}), "text": text, **more})


def drawn(sampler: Sampler, row: Any, allowed: Any = None) -> Draw:
    draw = sampler.draw(np.asarray(row, dtype=np.float32), allowed)
    assert draw
    return draw


def made_row(vocabulary: int, kind: str, holes: float, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    row = random.standard_normal(vocabulary)
    if kind == "ties":
        row = np.round(row * 2) / 2
    elif kind == "peaked":
        row[random.integers(0, vocabulary, max(1, vocabulary // 50))] += 12
    elif kind == "wide":
        row *= 4
    elif kind == "flat":
        row *= 1e-3
    row[random.random(vocabulary) < holes] = -np.inf
    return row.astype(np.float32)


def sometimes(values: st.SearchStrategy[Any], otherwise: Any) -> st.SearchStrategy[Any]:
    return st.one_of(st.just(otherwise), values)


shares = st.floats(0.01, 0.999)
samplings = st.builds(
    Sampling,
    temperature=sometimes(st.sampled_from([0.0, 0.1, 0.7, 1.3, 5.0]), 1.0),
    top_k=sometimes(st.integers(1, 60), 0),
    top_p=sometimes(shares, 1.0),
    min_p=sometimes(st.floats(1e-4, 1), 0.0),
    top_n_sigma=sometimes(st.floats(0.1, 4), 0.0),
    typical_p=sometimes(shares, 1.0),
    xtc=sometimes(st.builds(Xtc, threshold=st.floats(0, 0.6), probability=st.sampled_from([0.0, 0.5, 1.0])), None),
    repetition_penalty=sometimes(st.floats(0.5, 3), 1.0),
    repetition_window=sometimes(st.integers(0, 12), None),
    presence_penalty=sometimes(st.floats(-2, 2), 0.0),
    frequency_penalty=sometimes(st.floats(-2, 2), 0.0),
    dry=sometimes(
        st.builds(
            Dry, multiplier=st.floats(0, 2), allowed_length=st.integers(1, 3), window=sometimes(st.integers(0, 15), -1)
        ),
        None,
    ),
    logit_bias=st.dictionaries(st.integers(0, 2), st.floats(-5, 5), max_size=2),
    min_new_tokens=sometimes(st.integers(0, 10), 0),
)
vocabularies = st.one_of(st.integers(3, 12), st.integers(13, 150))
kinds = st.sampled_from(["normal", "ties", "peaked", "wide", "flat"])
words = st.integers(0, 2**64 - 1)
histories = st.lists(st.integers(0, 5), max_size=20)


def agrees(
    sampling: Sampling, row: np.ndarray, seed: int, prompt: list[int], said: list[int], allowed: np.ndarray | None
) -> None:
    """The sampler draws what the reference draws, with the same probability."""
    size = row.size
    prompt, said = [i % size for i in prompt], [i % size for i in said]
    ends = frozenset({1, 2})
    state = reference.Reply(sampling, seed, prompt, said, ends, text)
    expected, logs, margin = reference.draw(state, row.tolist(), None if allowed is None else allowed.tolist())
    assume(margin > NEAR)
    sampler = make(sampling, seed, prompt, ends=ends, logprobs=3)
    for token in said:
        sampler.accept(token)
    before = row.copy()
    draw = sampler.draw(row, allowed)
    np.testing.assert_array_equal(row, before)
    if expected is None:
        assert draw is None
        return
    assert draw
    assert draw.id == expected
    assert draw.drawn == pytest.approx(logs[expected], abs=1e-5)
    own = reference.normalised({i: x for i, x in enumerate(row.tolist()) if x > -math.inf})
    assert draw.logprob == pytest.approx(own[expected], abs=1e-5)
    assert [i for i, _ in draw.top] == sorted(own, key=lambda i: (-own[i], i))[:3]


@settings(max_examples=1500, deadline=None)
@given(samplings, vocabularies, kinds, sometimes(st.floats(0, 1), 0.0), words, histories, histories, st.data())
def test_every_draw_is_the_reference_s(
    sampling: Sampling,
    vocabulary: int,
    kind: str,
    holes: float,
    seed: int,
    prompt: list[int],
    said: list[int],
    data: st.DataObject,
) -> None:
    row = made_row(vocabulary, kind, holes, seed)
    density = data.draw(sometimes(st.sampled_from([0.0, 0.05, 0.5, 0.95]), None), label="allowed")
    allowed = None if density is None else np.random.default_rng(seed + 1).random(vocabulary) < density
    agrees(sampling, row, seed, prompt, said, allowed)


@settings(max_examples=120, deadline=None)
@given(samplings, st.sampled_from([1000, 4095, 4097, 5000]), kinds, sometimes(st.just(0.3), 0.0), words, histories)
@example(Sampling(top_p=0.9), 5000, "flat", 0.0, 1, [])
@example(Sampling(top_p=0.9), 5000, "wide", 0.0, 1, [])
@example(Sampling(typical_p=0.9), 5000, "normal", 0.3, 1, [])
def test_every_draw_from_many_tokens_is_the_reference_s(
    sampling: Sampling, vocabulary: int, kind: str, holes: float, seed: int, said: list[int]
) -> None:
    agrees(sampling, made_row(vocabulary, kind, holes, seed), seed, [], said, None)


def sorted_prefix(keys: np.ndarray, weights: np.ndarray, share: float) -> set[int]:
    order = np.argsort(-keys, kind="stable")
    running = np.cumsum(weights[order].astype(np.float64))
    return set(order[: int(np.searchsorted(running, share * running[-1])) + 1].tolist())


@pytest.mark.parametrize("kind", ["normal", "ties", "peaked", "wide", "flat"])
@pytest.mark.parametrize("share", [0.3, 0.9, 0.95, 0.999])
@pytest.mark.parametrize("size", [4096, 4097, 40_000, 151_936])
def test_a_nucleus_found_without_sorting_is_the_sorted_one(kind: str, share: float, size: int) -> None:
    for seed in range(3):
        row = made_row(size, kind, 0.1, seed)
        top = float(row.max())
        weights = np.exp(row.astype(np.float64) - top)
        expected = sorted_prefix(row, weights, share)
        kept = set(cuts.top_p(row, top, share, np.empty_like(row)).tolist())
        assert len(kept ^ expected) <= 1  # the last one: float32 masses may round to the other side of the share


def test_a_nucleus_is_right_when_the_sample_sees_only_the_wrong_tokens() -> None:
    row = np.full(100_000, -2.0, dtype=np.float32)
    row[:: 100_000 // cuts.SAMPLE] = 6.0
    row[5:30_000:3] = 3.0
    for share in (0.5, 0.9, 0.99):
        weights = np.exp(row.astype(np.float64) - 6)
        kept = set(cuts.top_p(row, 6.0, share, np.empty_like(row)).tolist())
        assert kept == sorted_prefix(row, weights, share)


@pytest.mark.parametrize("size", [3, 500, 20_000])
@pytest.mark.parametrize("k", [1, 2, 40, 150, 499])
def test_top_k_found_by_blocks_keeps_the_k_and_their_ties(size: int, k: int) -> None:
    for kind in ("normal", "ties"):
        row = made_row(size, kind, 0.0, k)
        last = np.sort(row)[max(size - k, 0)]
        assert cuts.top_k(row, k).tolist() == np.flatnonzero(row >= last).tolist()


CHI_SQUARE = {4: 23.51, 7: 29.88}
"""Exceeded by 1 in 10,000, by degrees of freedom."""


@pytest.mark.parametrize(
    ("sampling", "kept"),
    [
        (Sampling(), 8),
        (Sampling(temperature=0.6), 8),
        (Sampling(temperature=1.4, top_k=6, top_p=0.85), 5),
    ],
)
def test_10_000_seeds_give_the_exact_distribution(sampling: Sampling, kept: int) -> None:
    row = np.array([0.3, 2.0, -1.0, 1.1, 0.9, 1.6, -0.2, 0.0], dtype=np.float32)
    counts = np.zeros(8)
    for seed in range(10_000):
        counts[drawn(make(sampling, seed), row).id] += 1
    shares = np.exp(row.astype(float) / sampling.temperature)
    if kept < 8:
        shares[np.argsort(row)[:-kept]] = 0
    expected = 10_000 * shares / shares.sum()
    alive = expected > 0
    assert alive.sum() == kept
    assert counts[~alive].sum() == 0
    assert (((counts - expected)[alive]) ** 2 / expected[alive]).sum() < CHI_SQUARE[kept - 1]


def test_neutral_draws_are_the_argmax_of_log_p_plus_noise_at_each_position() -> None:
    row = made_row(2000, "normal", 0.0, 1)
    sampler = make(Sampling(), 9)
    for position in range(20):
        token = drawn(sampler, row).id
        assert token == int((row.astype(np.float64) + noise(9, position, np.arange(2000))).argmax())
        sampler.accept(token)


def test_a_draw_does_not_depend_on_the_draws_before_it_but_on_what_was_accepted() -> None:
    sampling = Sampling(temperature=0.9, top_p=0.9, repetition_penalty=1.3, dry=Dry(multiplier=0.5))
    row = made_row(5000, "normal", 0.0, 3)
    busy, idle = make(sampling, 7, [1, 2, 3]), make(sampling, 7, [1, 2, 3])
    for i in range(5):
        for other in range(4):
            busy.draw(made_row(5000, "wide", 0.5, other))
        assert busy.draw(row) == idle.draw(row)
        busy.accept(i)
        idle.accept(i)


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(top_k=20), Sampling(top_p=0.8), Sampling(temperature=0)])
def test_asking_for_logprobs_changes_no_token(sampling: Sampling) -> None:
    row = made_row(30_000, "wide", 0.0, 5)
    for seed in range(20):
        plain, asked = drawn(make(sampling, seed), row), drawn(make(sampling, seed, logprobs=5), row)
        assert plain == (asked.id, None, None, [])
        assert len(asked.top) == 5


def test_logprobs_are_the_log_softmax_of_the_untouched_row() -> None:
    row = made_row(30_000, "wide", 0.2, 5)
    own = row.astype(np.float64) - np.log(np.exp(row.astype(np.float64)).sum())
    sampling = Sampling(temperature=0.5, top_p=0.9, logit_bias={4: 3.0})
    draw = drawn(make(sampling, 3, logprobs=10), row)
    assert draw.logprob == pytest.approx(own[draw.id], abs=1e-5)
    assert [i for i, _ in draw.top] == np.argsort(-own, kind="stable")[:10].tolist()
    assert [x for _, x in draw.top] == pytest.approx(np.sort(own)[::-1][:10].tolist(), abs=1e-5)


def test_a_row_may_be_read_only_unaligned_and_strided() -> None:
    row = made_row(5000, "normal", 0.0, 2)
    unaligned = np.frombuffer(b"x" + row.tobytes(), dtype=np.uint8)[1:].view(np.float32)
    strided = np.repeat(row, 2)[::2]
    row.flags.writeable = False
    for sampling in (Sampling(), Sampling(top_p=0.9, temperature=0.7), Sampling(repetition_penalty=1.2)):
        draws = {drawn(make(sampling, 4, [1]), given).id for given in (row, unaligned, strided)}
        assert len(draws) == 1


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=0), Sampling(top_k=3, repetition_penalty=1.2)])
def test_where_nothing_is_allowed_nothing_is_drawn(sampling: Sampling) -> None:
    row = np.zeros(100, dtype=np.float32)
    assert make(sampling).draw(np.full(100, -np.inf, dtype=np.float32)) is None
    assert make(sampling).draw(row, np.zeros(100, dtype=bool)) is None
    row[:50] = -np.inf
    assert make(sampling).draw(row, np.arange(100) < 50) is None
    assert make(sampling.model_copy(update={"min_new_tokens": 1})).draw(row, np.arange(100) < 1) is None


@pytest.mark.parametrize("count", [1, 5, 60, 99])
def test_only_what_is_allowed_is_drawn(count: int) -> None:
    row = made_row(100, "normal", 0.0, 1)
    allowed = np.zeros(100, dtype=bool)
    allowed[np.argsort(row)[:count]] = True
    for seed in range(30):
        assert allowed[drawn(make(Sampling(temperature=2.0, top_p=0.9), seed), row, allowed).id]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_broken_row_is_an_error_even_where_it_is_masked(bad: float) -> None:
    row = np.zeros(50, dtype=np.float32)
    row[7] = bad
    for sampling in (Sampling(), Sampling(temperature=0)):
        with pytest.raises(EngineError, match="the model gave"):
            make(sampling).draw(row, np.arange(50) < 5)


@pytest.mark.parametrize("id", [-1, 50])
def test_a_bias_on_a_token_that_there_is_not_is_refused_with_its_id(id: int) -> None:
    with pytest.raises(InputError, match=f"token {id}, but the model has tokens 0 to 49"):
        make(Sampling(logit_bias={id: 1.0})).draw(np.zeros(50, dtype=np.float32))


def test_no_end_token_is_drawn_before_the_least_length_forced_tokens_counted() -> None:
    row = np.array([9.0, 0.0, 0.0], dtype=np.float32)
    sampler = make(Sampling(temperature=0, min_new_tokens=2), ends=frozenset({0, 77}))
    ids = []
    for _ in range(3):
        ids.append(drawn(sampler, row).id)
        sampler.accept(ids[-1])
    assert ids == [1, 1, 0]


def test_extreme_values_forbid_nothing_and_break_nothing() -> None:
    row = np.array([3.0, -2.0, 1e30, 0.0], dtype=np.float32)
    one = np.array([True, False, False, False])
    extremes = [
        Sampling(repetition_penalty=1e300, presence_penalty=1e300, frequency_penalty=1e300),
        Sampling(repetition_penalty=1e-300),
        Sampling(temperature=1e-300),
        Sampling(temperature=1e300),
        Sampling(logit_bias={0: -1e300}),
        Sampling(dry=Dry(multiplier=1e300, base=1e300, allowed_length=1)),
    ]
    for sampling in extremes:
        sampler = make(sampling, 1, [0, 1, 2, 0, 1, 2] * 50)
        for token in (0, 1, 2):
            sampler.accept(token)
        assert drawn(sampler, row, one).id == 0
        assert sampler.draw(row)
    assert drawn(make(Sampling(temperature=1e-300), 1), [1.0, 1.5, 1.25]).id == 1
    assert len({drawn(make(Sampling(temperature=1e300), seed), [50.0, 0.0]).id for seed in range(20)}) == 2


def test_two_biased_beyond_float32_s_precision_still_share_the_draws() -> None:
    sampling = Sampling(logit_bias={1: 1e30, 2: 1e30})
    assert {drawn(make(sampling, seed), [0.0, 0.0, 0.0]).id for seed in range(30)} == {1, 2}


@given(st.lists(st.integers(0, 6), max_size=60), st.integers(0, 60))
def test_dry_learns_the_same_from_a_prompt_as_from_token_after_token(tokens: list[int], known: int) -> None:
    dry = Dry(multiplier=1.0, allowed_length=1)
    whole, grown = Suffixes(dry, tokens, text), Suffixes(dry, tokens[:known], text)
    for token in tokens[known:]:
        grown.add(token)
    for one, other in zip(whole.penalties(), grown.penalties(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_dry_penalises_what_prolongs_a_repeat_by_its_length() -> None:
    # "1 2 4 5" came before; now "1 2 4" is there again, and 5 would prolong it.
    ids, lost = Suffixes(Dry(multiplier=0.5), [1, 2, 4, 5, 9, 1, 2, 4], text).penalties()
    assert dict(zip(ids.tolist(), lost.tolist(), strict=True)) == {5: pytest.approx(0.5 * 1.75)}


def test_dry_stops_at_breakers_and_never_penalises_them() -> None:
    colon = 3
    assert b":" in text(colon)
    assert not Suffixes(Dry(multiplier=1.0), [1, 2, colon, 5, 9, 1, 2, colon], text).penalties()[0].size
    assert not Suffixes(Dry(multiplier=1.0), [1, 2, colon, 9, 1, 2], text).penalties()[0].size


@given(st.lists(st.integers(0, 300), max_size=200), st.one_of(st.none(), st.integers(0, 50)))
def test_a_tally_counts_its_window(tokens: list[int], window: int | None) -> None:
    half = len(tokens) // 2
    tally = Tally(tokens[:half], window)
    for token in tokens[half:]:
        tally.add(token)
    last = tokens if window is None else tokens[max(0, len(tokens) - window) :]
    ids, counts = tally.counted()
    assert dict(zip(ids.tolist(), counts.tolist(), strict=True)) == {i: last.count(i) for i in set(last)}


def test_two_behaviours_under_one_seed_share_their_noise() -> None:
    # Coupled: with nearly equal rows most draws agree, where independent seeds seldom would.
    row = made_row(1000, "normal", 0.0, 1)
    near = row + made_row(1000, "flat", 0.0, 2)
    same = sum(drawn(make(Sampling(), s), row).id == drawn(make(Sampling(), s), near).id for s in range(200))
    other = sum(
        drawn(make(Sampling(), s), row).id == drawn(make(Sampling(), derive(s, 1)), near).id for s in range(200)
    )
    assert same > 195
    assert other < 20
