"""Two models under one behaviour and its seeds: what is equal, where replies part, and how close the call was."""

import hashlib
import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from jeito.decode.local import LocalModel
from jeito.decode.noise import derive, noise
from jeito.engines.base import Logits
from jeito.engines.toy import VOCABULARY, ToyEngine
from jeito.errors import MemoryFull
from jeito.proof.parity import Parity, Side, parity, read_text
from jeito.run.run import run, together

Score = Callable[[Sequence[int]], Logits]
N = 4


def hashed(tokens: Sequence[int]) -> Logits:
    digest = hashlib.blake2b(np.asarray(tokens, np.uint32).tobytes(), digest_size=8).digest()
    row = np.random.default_rng(int.from_bytes(digest, "little")).normal(0, 2, VOCABULARY).astype(np.float32)
    row[256:] = -4
    return row


def nudged(tokens: Sequence[int]) -> Logits:
    """The same, but for more of the letter e."""
    row = hashed(tokens)
    row[ord("e")] += 4
    return row


def mute(tokens: Sequence[int]) -> Logits:
    """Never says an e."""
    row = hashed(tokens)
    row[ord("e")] = -np.inf
    return row


def model(score: Score, name: str = "toy") -> LocalModel:
    return LocalModel(ToyEngine(score), name)


def compared(a: LocalModel, b: LocalModel, behaviour: str = "plain+exact=true+max_new_tokens=30") -> Parity:
    sides = []
    for side in (a, b):
        runs = [run(behaviour, side, "hello", seed=derive(7, i)) for i in range(N)]
        for _ in together(runs):
            pass
        sides.append(Side(side, [one.trace for one in runs]))
    return parity(*sides)


def test_a_model_is_in_all_things_like_itself() -> None:
    found = compared(model(hashed), model(hashed, "again"))
    assert found.same_prompt
    assert found.same_ends
    assert found.first is not None
    assert (found.first.kl, found.first.same_top) == (0, True)
    assert found.walk is not None
    assert (found.walk.flips, found.walk.kl, found.walk.same_top) == (0, 0, 1)
    assert all(reply.agree == reply.tokens_a == reply.tokens_b and reply.token_a is None for reply in found.replies)


def test_where_replies_part_each_side_preferred_its_own_token() -> None:
    found = compared(model(hashed), model(nudged))
    assert found.walk is not None
    assert found.walk.tokens == sum(reply.tokens_a for reply in found.replies)
    assert 0 < found.walk.flips < found.walk.tokens
    assert found.walk.flips_per_1000 == 1000 * found.walk.flips / found.walk.tokens
    parted = [reply for reply in found.replies if reply.token_a != reply.token_b]
    assert parted
    for reply in parted:
        assert reply.token_b == "e"
        assert reply.margin_a is not None
        assert reply.margin_b is not None
        assert min(reply.margin_a, reply.margin_b) > 0
        # One token's logit is all that differs, so the two margins add up to it.
        assert reply.margin_a + reply.margin_b == pytest.approx(4, abs=1e-4)


def test_the_margin_is_of_the_scores_that_the_draw_compares() -> None:
    a, b = model(hashed), model(nudged)
    found = compared(a, b)
    reply = next(reply for reply in found.replies if reply.token_a != reply.token_b)
    assert reply.token_a is not None
    trace = run("plain+exact=true+max_new_tokens=30", a, "hello", seed=reply.seed)
    trace.text()
    said = [token.id for token in trace.trace.tokens[: reply.agree]]
    row = hashed([*a.prompt(trace.trace.request), *said]).astype(np.float64)
    own, its = trace.trace.tokens[reply.agree].id, ord("e")
    scores = row[[own, its]] + noise(reply.seed, reply.agree, np.array([own, its]))
    assert reply.margin_a == pytest.approx(scores[0] - scores[1], abs=1e-6)


def test_the_first_distributions_divergence_is_kullback_and_leiblers() -> None:
    a, b = model(hashed), model(nudged)
    found = compared(a, b)
    assert found.first is not None
    prompt = a.prompt(run("plain", a, "hello").trace.request)
    p, q = (np.exp(score(prompt).astype(np.float64)) for score in (hashed, nudged))
    p, q = p / p.sum(), q / q.sum()
    assert found.first.kl == pytest.approx(float(np.sum(p * np.log(p / q))), rel=1e-9)


def test_what_the_other_never_says_is_infinitely_far_and_said_as_absent() -> None:
    found = compared(model(hashed), model(mute))
    assert found.first is not None
    assert found.first.kl is None
    assert found.walk is not None
    assert found.walk.kl is None
    assert math.isfinite(found.walk.flips_per_1000)


def test_a_cut_that_the_others_token_falls_to_leaves_no_margin() -> None:
    found = compared(model(hashed), model(nudged), "plain+exact=true+max_new_tokens=60+top_k=2")
    assert any(reply.margin_a is None and reply.token_a is not None for reply in found.replies)


def test_other_prompts_are_not_compared_token_by_token() -> None:
    bare = LocalModel(ToyEngine(hashed).without_template(), "bare")
    found = compared(model(hashed), bare)
    assert not found.same_prompt
    assert found.first is None
    assert found.walk is None
    assert "cannot be compared" in (found.why or "")


def test_perplexity_of_a_text_is_by_its_own_definition() -> None:
    a, b = model(hashed), model(nudged)
    text = "the sea is deep"
    found = read_text(a, b, text)
    tokens = list(text.encode())
    for score, perplexity in ((hashed, found.perplexity_a), (nudged, found.perplexity_b)):
        losses = []
        for at in range(1, len(tokens)):
            row = score(tokens[:at]).astype(np.float64)
            losses.append(math.log(np.exp(row).sum()) - row[tokens[at]])
        assert perplexity == pytest.approx(math.exp(float(np.mean(losses))), rel=1e-6)
    assert found.tokens_a == len(tokens) - 1
    assert found.bits_per_byte_a == pytest.approx(math.log2(found.perplexity_a or 0))


def test_a_text_with_a_token_of_no_chance_has_no_perplexity() -> None:
    found = read_text(model(hashed), model(mute), "eel")
    assert found.perplexity_a is not None
    assert read_text(model(mute), model(hashed), "seen").perplexity_a is None
    assert found.perplexity_b is None


def test_reading_leaves_no_slot_busy_and_nothing_in_it() -> None:
    a = model(hashed)
    rows = list(a.read(a.tokens("abc"), 2))
    assert len(rows) == 2
    np.testing.assert_array_equal(rows[0], hashed(list(b"ab")))
    np.testing.assert_array_equal(rows[1], hashed(list(b"abc")))
    reading = a.read(a.tokens("abcdef" * 30), 1)
    next(reading)
    reading.close()
    assert all(not slot.busy and not slot.tokens for slot in a.decoder.memory.slots)


def test_reading_a_long_text_takes_the_room_that_idle_slots_hold() -> None:
    a = LocalModel(ToyEngine(hashed, cells=120), "toy")
    run("plain+max_new_tokens=8", a, "x" * 60, seed=1).text()
    assert sum(len(slot.tokens) for slot in a.decoder.memory.slots) > 40
    assert len(list(a.read(a.tokens("y" * 100), 1))) == 100
    assert not any(slot.tokens for slot in a.decoder.memory.slots)
    with pytest.raises(MemoryFull):
        list(a.read(a.tokens("y" * 130), 1))
    assert not any(slot.busy for slot in a.decoder.memory.slots)
