from collections.abc import Callable, Sequence
from itertools import islice

import numpy as np
import pytest

from jeito.decode.local import LocalModel
from jeito.decode.noise import derive
from jeito.engines.base import Logits
from jeito.engines.toy import ToyEngine, babble, echo
from jeito.run.run import run, together
from jeito.trace.log import Log

Make = Callable[..., LocalModel]


def unless_poisoned(tokens: Sequence[int]) -> Logits:
    """Says the question again, but for one with a `#` it gives no numbers from the third letter on."""
    row = echo(tokens)
    if b"#" in bytes(tokens) and bytes(tokens).endswith(b"<assistant>#x"):
        row[:] = np.nan
    return row


def widest(model: LocalModel) -> int:
    engine = model.decoder.engine
    assert isinstance(engine, ToyEngine)
    return max(len(rows) for rows in engine.calls)


def test_several_runs_share_calls_of_the_model(made_of: Make) -> None:
    model = made_of(echo)
    runs = [run("plain", model, word) for word in ("first", "other", "third")]
    order = [index for index, _ in together(runs)]
    assert [one.trace.answer for one in runs] == ["first", "other", "third"]
    assert widest(model) == 3
    # Their tokens come by turns, not one reply after the other.
    assert len(set(order[:3])) == 3
    assert order != sorted(order)


def test_each_token_is_named_by_its_run(made_of: Make) -> None:
    runs = [run("plain", made_of(echo), word) for word in ("abc", "xyz")]
    texts = ["", ""]
    for index, token in together(runs):
        texts[index] += token.text
    assert texts == ["abc", "xyz"]


def test_more_runs_than_slots_wait_for_one(made_of: Make) -> None:
    model = made_of(echo, slots=2)
    runs = [run("plain", model, f"number {index}") for index in range(7)]
    for _ in together(runs):
        pass
    assert [one.trace.answer for one in runs] == [f"number {index}" for index in range(7)]
    assert widest(model) == 2


def test_runs_of_different_models_go_together(made_of: Make) -> None:
    runs = [run("plain", made_of(echo), "hi"), run("plain+max_new_tokens=4", made_of(babble), "hi", seed=1)]
    for _ in together(runs):
        pass
    assert runs[0].trace.answer == "hi"
    assert runs[1].trace.finish in ("stop", "length")


def test_a_run_says_the_same_alone_and_among_others(made_of: Make) -> None:
    crowd = [run("plain+max_new_tokens=40", made_of(babble), "hi", seed=derive(7, index)) for index in range(5)]
    for _ in together(crowd):
        pass
    for one in crowd:
        alone = run("plain+max_new_tokens=40", made_of(babble), "hi", seed=one.trace.seed)
        alone.text()
        assert alone.trace.tokens == one.trace.tokens
    assert len({one.trace.answer for one in crowd}) == 5


def test_a_run_that_cannot_begin_does_not_stop_the_others(made_of: Make, log: Log) -> None:
    model = made_of(echo, context=40)
    runs = [run("plain", model, word, log=log) for word in ("one", "far too long " * 9, "two")]
    for _ in together(runs):
        pass
    assert [one.trace.finish for one in runs] == ["stop", "error", "stop"]
    assert "the context 40" in (runs[1].trace.error or "")
    assert [one.trace.answer for one in runs] == ["one", "", "two"]
    assert [log.get(one.trace.id).finish for one in runs] == ["stop", "error", "stop"]


def test_a_run_that_fails_in_mid_reply_does_not_stop_the_others(made_of: Make, log: Log) -> None:
    model = made_of(unless_poisoned)
    runs = [run("plain", model, word, log=log) for word in ("hello", "#xyz", "world")]
    for _ in together(runs):
        pass
    assert [one.trace.finish for one in runs] == ["stop", "error", "stop"]
    assert [one.trace.answer for one in runs] == ["hello", "#x", "world"]
    assert "nan" in (log.get(runs[1].trace.id).error or "")


@pytest.mark.parametrize("read", [1, 6])
def test_closing_ends_all_runs_and_frees_their_slots(made_of: Make, log: Log, read: int) -> None:
    model = made_of(echo, slots=3)
    runs = [run("plain", model, "a long question", log=log) for _ in range(5)]
    tokens = together(runs)
    for _ in islice(tokens, read):
        pass
    tokens.close()  # type: ignore[attr-defined]
    assert [one.trace.finish for one in runs] == ["cancelled"] * 5
    assert sorted(one.finish or "" for one in log.recent()) == ["cancelled"] * 5
    assert (model.decoder.active, list(model.decoder.waiting)) == ([], [])
    assert run("plain", model, "next").text() == "next"


def test_what_had_come_before_closing_is_kept(made_of: Make) -> None:
    runs = [run("plain", made_of(echo), word) for word in ("first", "other")]
    tokens = together(runs)
    got = list(islice(tokens, 4))
    tokens.close()  # type: ignore[attr-defined]
    for index, one in enumerate(runs):
        assert one.trace.tokens == tuple(token for at, token in got if at == index)
