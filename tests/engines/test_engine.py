"""What every engine must do. A new engine is one more line in ENGINES."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest

from jeito.engines.base import Engine, Row
from jeito.engines.llamacpp import LlamaEngine
from jeito.engines.toy import ToyEngine, babble
from jeito.errors import EngineError, MemoryFull
from jeito.run.open import demo_file

ENGINES: dict[str, Callable[[], Engine]] = {
    "toy": lambda: ToyEngine(babble, context=1024, slots=16),
    "llamacpp": lambda: LlamaEngine(demo_file(), context=2048, slots=16),
}
TEXT = "Once upon a time, São João drank ☕ and 漢字 — naïve 🙂 tokens."


@pytest.fixture(scope="module", params=ENGINES)
def one_engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    engine = ENGINES[request.param]()
    yield engine
    engine.close()


@pytest.fixture
def engine(one_engine: Engine, warm_home: object) -> Engine:
    for slot in range(one_engine.card.slots):
        one_engine.truncate(slot, 0)
    return one_engine


def prompt(engine: Engine, length: int) -> list[int]:
    ids = engine.tokens(TEXT, special=False)
    return (ids * (length // len(ids) + 1))[:length]


def last(engine: Engine, slot: int, tokens: list[int], *, exact: bool = False) -> np.ndarray:
    return engine.extend([Row(slot, tokens, 1)], exact=exact)[0][-1].copy()


def test_text_comes_back_from_its_tokens_one_by_one(engine: Engine) -> None:
    ids = engine.tokens(TEXT, special=False)
    assert engine.text(ids).decode() == TEXT
    assert b"".join(engine.text([token]) for token in ids).decode() == TEXT


def test_the_card_describes_the_model(engine: Engine) -> None:
    card = engine.card
    assert card.ends
    assert all(0 <= token < card.vocabulary for token in card.ends)
    assert engine.text(sorted(card.ends)) == b""
    assert card.context > 0
    assert card.slots > 1
    assert card.batch > 1


def test_rows_of_different_lengths_in_one_call_equal_each_alone(engine: Engine) -> None:
    rows = [Row(slot, prompt(engine, length), 1) for slot, length in enumerate((3, 11, 1, 6))]
    together = [logits[-1].copy() for logits in engine.extend(rows, exact=True)]
    for row, expected in zip(rows, together, strict=True):
        engine.truncate(row.slot, 0)
        assert np.array_equal(last(engine, row.slot, list(row.tokens), exact=True), expected)


def test_only_the_wanted_positions_have_logits(engine: Engine) -> None:
    tokens = prompt(engine, 6)
    none, three = engine.extend([Row(0, tokens, 0), Row(1, tokens, 3)])
    assert none.shape == (0, engine.card.vocabulary)
    assert three.shape == (3, engine.card.vocabulary)
    assert np.argmax(three[-1]) == np.argmax(last(engine, 2, tokens))


def test_a_fork_goes_on_as_if_it_had_computed_its_prefix(engine: Engine) -> None:
    tokens = prompt(engine, 24)
    last(engine, 0, tokens, exact=True)
    engine.fork(0, 1, 15)
    forked = last(engine, 1, tokens[15:20], exact=True)
    assert np.array_equal(forked, last(engine, 2, tokens[:20], exact=True))
    # The source goes on undisturbed.
    following = prompt(engine, 25)[24:]
    assert np.array_equal(last(engine, 0, following, exact=True), last(engine, 3, tokens + following, exact=True))


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


def test_a_row_without_tokens_is_refused(engine: Engine) -> None:
    with pytest.raises(EngineError):
        engine.extend([Row(0, [], 1)])


def fill(engine: Engine) -> None:
    """More than any memory holds, into every slot but the first."""
    for call in range(1000):
        engine.extend([Row(1 + call % (engine.card.slots - 1), prompt(engine, engine.card.batch), 0)])


def test_a_full_memory_is_said_and_leaves_everything_as_it_was(engine: Engine) -> None:
    tokens = prompt(engine, 12)
    last(engine, 0, tokens[:5], exact=True)
    with pytest.raises(MemoryFull):
        fill(engine)
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
    assert replace(shape, low=1).low == 1
