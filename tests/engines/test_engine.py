"""What every engine must do. A new engine is one more line in ENGINES."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from jeito.engines import transformers
from jeito.engines.base import Engine, Loading, Row
from jeito.engines.demo import demo_file
from jeito.engines.llamacpp import LlamaEngine
from jeito.engines.toy import ToyEngine, babble
from jeito.errors import EngineError, MemoryFull

ENGINES: dict[str, Callable[[], Engine]] = {
    "toy": lambda: ToyEngine(babble, context=1024, slots=16),
    "llamacpp": lambda: LlamaEngine(demo_file(), context=768, slots=16),
    "transformers fp32": lambda: transformers.load("demo", Loading(precision="fp32", context=768, slots=16)),
    "transformers nf4": lambda: transformers.load("demo", Loading(precision="nf4", context=768, slots=16)),
}
# How far logits of about 20 may be from those of the same row alone, in calls that are not exact: half precision in the
# cache of llama.cpp; bfloat16, with 8 bits, in every layer of NF4.
NEAR = {"transformers nf4": 1.0}
TEXT = "Once upon a time, São João drank ☕ and 漢字 — naïve 🙂 tokens."


@pytest.fixture(scope="module", params=ENGINES)
def one_engine(request: pytest.FixtureRequest, kept_facts: Path, unpacked_demo: Path) -> Iterator[Engine]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JEITO_HOME", str(kept_facts.parent))
        engine = ENGINES[request.param]()
        assert engine.exact()[0] is not None
    yield engine
    engine.close()


@pytest.fixture
def engine(one_engine: Engine, warm_home: object) -> Engine:
    for slot in range(one_engine.card.slots):
        one_engine.truncate(slot, 0)
    return one_engine


def near(engine: Engine) -> float:
    return NEAR.get(f"{engine.card.engine} {engine.card.precision}", 0.1)


def prompt(engine: Engine, length: int) -> list[int]:
    ids = engine.tokens(TEXT, special=False)
    return (ids * (length // len(ids) + 1))[:length]


def last(engine: Engine, slot: int, tokens: list[int], *, exact: bool = False) -> np.ndarray:
    return engine.extend([Row(slot, tokens, 1)], exact=exact)[0][-1].copy()


TEXTS = {
    "sentence": TEXT,
    "nothing": "",
    "blanks": " \n\n\t x ",
    "long": "x" * 300,
    "family": "👩‍👩‍👧‍👦",
    "accent of its own": "e\u0301",
    "name of a special token": "<|im_start|>",
    "zero": "a\u0000b",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
def test_text_comes_back_from_its_tokens_one_by_one(engine: Engine, text: str) -> None:
    ids = engine.tokens(text, special=False)
    assert all(0 <= token < engine.card.vocabulary for token in ids)
    assert engine.text(ids).decode() == text
    assert b"".join(engine.text([token]) for token in ids).decode() == text


def test_a_special_tokens_name_is_that_token_only_where_it_is_asked_for(engine: Engine) -> None:
    for name in filter(None, engine.card.special.values()):
        (token,) = engine.tokens(name, special=True)
        assert engine.text([token]) == b""
        assert len(engine.tokens(name, special=False)) > 1


def test_marks_are_the_tokens_that_are_no_text(engine: Engine) -> None:
    marks = engine.marks()
    assert engine.card.ends <= marks.keys()
    for token, name in marks.items():
        assert 0 <= token < engine.card.vocabulary
        assert engine.text([token]) in (b"", name.encode())
        if engine.card.engine != "toy":
            assert engine.tokens(name, special=True) == [token]
    if engine.card.name != "toy":
        assert {"<|im_start|>", "<|im_end|>"} <= set(marks.values())


def test_the_card_describes_the_model(engine: Engine) -> None:
    card = engine.card
    assert card.ends
    assert all(0 <= token < card.vocabulary for token in card.ends)
    assert engine.text(sorted(card.ends)) == b""
    assert card.context > 0
    assert card.slots > 1
    assert card.batch > 1
    assert card.bos is None or 0 <= card.bos < card.vocabulary
    assert card.template is None or "messages" in card.template
    assert all(sourced.source == "model" for sourced in card.defaults.values())


def test_rows_of_different_lengths_in_one_call_equal_each_alone(engine: Engine) -> None:
    rows = [Row(slot, prompt(engine, length), 1) for slot, length in enumerate((3, 11, 1, 6))]
    together = [logits[-1].copy() for logits in engine.extend(rows, exact=True)]
    for row, expected in zip(rows, together, strict=True):
        engine.truncate(row.slot, 0)
        assert np.array_equal(last(engine, row.slot, list(row.tokens), exact=True), expected)


def test_without_exactness_rows_of_one_call_are_still_nearly_what_each_is_alone(engine: Engine) -> None:
    rows = [Row(slot, prompt(engine, length), 1) for slot, length in enumerate((3, 11, 1, 6))]
    together = [logits[-1].copy() for logits in engine.extend(rows)]
    for row, expected in zip(rows, together, strict=True):
        engine.truncate(row.slot, 0)
        assert np.allclose(last(engine, row.slot, list(row.tokens)), expected, atol=near(engine))


def test_steps_of_one_token_each_go_to_their_own_slots(engine: Engine) -> None:
    tokens = prompt(engine, 30)
    engine.extend([Row(slot, tokens[: 2 + slot], 0) for slot in range(3)], exact=True)
    steps = engine.extend([Row(slot, [tokens[2 + slot]], 1) for slot in (2, 0, 1)], exact=True)
    together = [logits[-1].copy() for logits in steps]
    for slot, found in zip((2, 0, 1), together, strict=True):
        assert np.array_equal(last(engine, 5 + slot, tokens[: 3 + slot], exact=True), found)


@pytest.mark.parametrize("exact", [False, True])
def test_only_the_wanted_positions_have_logits(engine: Engine, exact: bool) -> None:
    tokens = prompt(engine, 6)
    wanted = (0, 3, 1, 6)
    found = [
        logits.copy()
        for logits in engine.extend([Row(slot, tokens, want) for slot, want in enumerate(wanted)], exact=exact)
    ]
    assert [logits.shape for logits in found] == [(want, engine.card.vocabulary) for want in wanted]
    for slot in range(len(wanted)):
        engine.truncate(slot, 0)
    each = [last(engine, 0, [token], exact=exact) for token in tokens]
    for want, logits in zip(wanted, found, strict=True):
        for expected, row in zip(each[len(tokens) - want :], logits, strict=True):
            assert np.array_equal(expected, row) if exact else np.allclose(expected, row, atol=near(engine))


def test_a_fork_goes_on_as_if_it_had_computed_its_prefix(engine: Engine) -> None:
    tokens = prompt(engine, 24)
    last(engine, 0, tokens, exact=True)
    engine.fork(0, 1, 15)
    forked = last(engine, 1, tokens[15:20], exact=True)
    assert np.array_equal(forked, last(engine, 2, tokens[:20], exact=True))
    # The source goes on undisturbed.
    following = prompt(engine, 25)[24:]
    assert np.array_equal(last(engine, 0, following, exact=True), last(engine, 3, tokens + following, exact=True))


def test_a_fork_outlives_its_source_and_replaces_what_its_slot_held(engine: Engine) -> None:
    tokens = prompt(engine, 24)
    last(engine, 0, tokens[:20], exact=True)
    last(engine, 1, tokens[::-1], exact=True)
    engine.fork(0, 1, 16)
    engine.truncate(0, 0)
    last(engine, 0, tokens[::-1], exact=True)
    assert np.array_equal(last(engine, 1, tokens[16:], exact=True), last(engine, 2, tokens, exact=True))


def test_a_slot_cut_back_and_extended_again_equals_a_new_one(engine: Engine) -> None:
    tokens = prompt(engine, 20)
    last(engine, 0, tokens[::-1], exact=True)
    engine.truncate(0, 0)
    last(engine, 0, [*tokens[:12], *tokens[:5]], exact=True)
    engine.truncate(0, 12)
    assert np.array_equal(last(engine, 0, tokens[12:], exact=True), last(engine, 1, tokens, exact=True))


def test_a_call_that_is_too_long_is_refused_and_changes_nothing(engine: Engine) -> None:
    tokens = prompt(engine, 9)
    with pytest.raises(EngineError, match=str(engine.card.batch + 1)):
        engine.extend([Row(0, prompt(engine, engine.card.batch + 1), 1)])
    assert np.array_equal(last(engine, 0, tokens, exact=True), last(engine, 1, tokens, exact=True))


def test_an_exact_call_longer_than_its_shape_is_refused_and_changes_nothing(engine: Engine) -> None:
    shape, _ = engine.exact()
    assert shape is not None
    tokens = prompt(engine, shape.high + 1)
    with pytest.raises(EngineError, match=str(shape.high + 1)):
        engine.extend([Row(0, tokens[:1], 1), Row(1, tokens[1:], 1)], exact=True)
    assert np.array_equal(last(engine, 0, tokens[:9], exact=True), last(engine, 1, tokens[:9], exact=True))


def test_a_row_without_tokens_is_refused_with_all_that_is_beside_it(engine: Engine) -> None:
    tokens = prompt(engine, 9)
    for rows in ([Row(0, [], 1)], [Row(0, tokens, 1), Row(1, [], 0)]):
        with pytest.raises(EngineError):
            engine.extend(rows)
    assert np.array_equal(last(engine, 0, tokens, exact=True), last(engine, 2, tokens, exact=True))


def fill(engine: Engine) -> None:
    """More than any memory holds, into two slots, not the first."""
    for call in range(1000):
        engine.extend([Row(1 + call % 2, prompt(engine, engine.card.batch), 0)])


def test_a_full_memory_is_said_and_leaves_everything_as_it_was(engine: Engine) -> None:
    tokens = prompt(engine, 12)
    last(engine, 0, tokens[:5], exact=True)
    with pytest.raises(MemoryFull):
        fill(engine)
    # The first row alone would have found room: it is not taken either.
    with pytest.raises(MemoryFull):
        engine.extend([Row(0, tokens[5:6], 1), Row(1, prompt(engine, engine.card.batch - 1), 1)])
    for slot in range(1, engine.card.slots):
        engine.truncate(slot, 0)
    assert np.array_equal(last(engine, 0, tokens[5:], exact=True), last(engine, 1, tokens, exact=True))


def test_the_fingerprint_is_of_the_model_and_not_of_the_moment(engine: Engine) -> None:
    before = engine.fingerprint()
    last(engine, 0, prompt(engine, 4))
    assert engine.fingerprint() == before
    assert len(before) == 64


def test_it_promises_exactness_for_some_shape(engine: Engine) -> None:
    shape, why = engine.exact()
    assert shape is not None
    assert why
    assert 1 <= shape.low <= shape.high <= engine.card.batch
