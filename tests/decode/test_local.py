"""A model in this process: prompts that fit, threads that share, replies that are exact."""

import threading
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest

from jeito.decode.local import LocalModel
from jeito.engines.base import Logits, Row
from jeito.engines.toy import BOS, ToyEngine, babble, echo
from jeito.errors import ContextError, EngineError, InputError
from jeito.types import End, Event, Message, Request, Sampling, Start, Token

EXACT = Sampling(temperature=0.9, top_p=0.95, max_new_tokens=10, min_new_tokens=10, seed=11, exact=True)


def ask(text: str, **more: object) -> Request:
    values: dict[str, object] = {"messages": (Message(role="user", content=text),), "sampling": EXACT}
    return Request(**values | more)  # type: ignore[arg-type]


def ids(events: list[Event]) -> list[int]:
    return [event.id for event in events if isinstance(event, Token)]


def test_a_reply_is_a_start_then_tokens_then_an_end(babbler: LocalModel) -> None:
    start, *tokens, end = babbler.stream(ask("hi"))
    assert isinstance(start, Start)
    assert isinstance(end, End)
    assert len(tokens) == 10
    assert all(isinstance(token, Token) for token in tokens)
    assert start.tokens == end.usage.prompt


def test_a_prompt_that_does_not_fit_is_refused_with_both_counts() -> None:
    model = LocalModel(ToyEngine(context=50), "toy")
    with pytest.raises(ContextError, match=r"78 tokens.* 50"):
        next(model.stream(ask("x" * 60)))


def test_dropping_takes_the_oldest_whole_turns_and_never_the_instruction() -> None:
    model = LocalModel(ToyEngine(context=120), "toy")
    turns = []
    for number in range(6):
        turns += [
            Message(role="user", content=f"question {number}"),
            Message(role="assistant", content=f"answer {number}"),
        ]
    request = ask("", messages=(*turns, Message(role="user", content="last")), system="obey", drop_oldest=True)
    with closing(model.stream(request)) as stream:
        start = next(stream)
    assert isinstance(start, Start)
    assert "obey" in start.prompt
    assert "last" in start.prompt
    assert start.dropped[:2] == ("user: question 0", "assistant: answer 0")
    assert len(start.dropped) % 2 == 0
    assert "question 0" not in start.prompt
    assert start.tokens <= 120 - 10


def test_dropping_never_takes_a_system_message_that_stands_among_the_turns() -> None:
    model = LocalModel(ToyEngine(context=120), "toy")
    turns = [Message(role="system", content="obey")]
    for number in range(6):
        turns += [Message(role="user", content=f"q {number}"), Message(role="assistant", content=f"answer {number}")]
    request = ask("", messages=(*turns, Message(role="user", content="last")), drop_oldest=True)
    with closing(model.stream(request)) as stream:
        start = next(stream)
    assert isinstance(start, Start)
    assert start.prompt.startswith("<system>obey\n<user>")
    assert start.dropped[:2] == ("user: q 0", "assistant: answer 0")
    assert not any("obey" in line for line in start.dropped)


def test_a_single_question_that_is_too_long_is_not_dropped() -> None:
    model = LocalModel(ToyEngine(context=50), "toy")
    with pytest.raises(ContextError):
        next(model.stream(ask("x" * 60, drop_oldest=True)))


def test_after_dropping_all_that_can_be_dropped_a_question_that_fits_is_answered() -> None:
    model = LocalModel(ToyEngine(context=100), "toy")
    turns = (Message(role="user", content="old" * 20), Message(role="assistant", content="yes"))
    request = ask("", messages=(*turns, Message(role="user", content="x" * 60)), drop_oldest=True)
    assert len(ids(list(model.stream(request)))) > 0


def test_the_garbage_collector_may_close_a_reply_inside_a_step() -> None:
    class Collecting(ToyEngine):
        victim: object = None

        def extend(self, rows: Sequence[Row], exact: bool = False) -> list[Logits]:
            if self.victim is not None:
                self.victim = None  # the last reference: the generator's `finally` runs here, under the lock
            return super().extend(rows, exact)

    engine = Collecting(babble, slots=2)
    model = LocalModel(engine, "toy")
    abandoned = model.stream(ask("one"))
    next(abandoned)
    engine.victim = abandoned
    del abandoned
    assert len(ids(list(model.stream(ask("two"))))) == 10
    assert not any(slot.busy for slot in model.decoder.memory.slots)


def test_an_abandoned_reply_frees_its_slot() -> None:
    model = LocalModel(ToyEngine(babble, slots=1), "toy")
    for _ in range(3):
        with closing(model.stream(ask("hi"))) as stream:
            next(stream)
            next(stream)
    assert not any(slot.busy for slot in model.decoder.memory.slots)
    assert ids(list(model.stream(ask("hi"))))


def test_of_waiting_replies_an_abandoned_one_is_never_computed() -> None:
    engine = ToyEngine(echo, slots=1)
    model = LocalModel(engine, "toy")
    streams = [model.stream(ask(word)) for word in ("first", "second", "third")]
    for stream in streams:
        next(stream)
    streams[1].close()
    for stream in (streams[0], streams[2]):
        list(stream)
    said = bytes(token for call in engine.calls for row in call for token in row.tokens if token < 256)
    assert b"third" in said
    assert b"second" not in said


@pytest.mark.parametrize("add_bos", [True, False])
def test_the_first_token_is_never_written_twice(add_bos: bool) -> None:
    class Beginning(ToyEngine):
        def tokens(self, text: str, special: bool) -> list[int]:
            ids = super().tokens(text.removeprefix("<s>"), special)
            return [BOS, *ids] if text.startswith("<s>") else ids

    for source in ("{{ bos_token }}{{ messages[0].content }}", "{{ messages[0].content }}"):
        engine = Beginning(babble)
        engine.card = replace(engine.card, add_bos=add_bos, template=source, special={"bos_token": "<s>"})
        list(LocalModel(engine, "toy").stream(ask("hi")))
        first = engine.calls[0][0].tokens
        assert list(first).count(BOS) == int(add_bos or "bos" in source)
        assert list(first)[-2:] == [*b"hi"]


def test_a_prompt_of_no_tokens_is_refused_and_disturbs_nobody() -> None:
    engine = ToyEngine(babble)
    engine.card = replace(engine.card, template="{{ messages[0].content }}", bos=None)
    model = LocalModel(engine, "toy")
    with closing(model.stream(ask("hi"))) as stream:
        next(stream)
        with pytest.raises(InputError, match="no tokens"):
            next(model.stream(ask("")))
        assert len(list(stream)) == 11


def test_logits_that_are_no_numbers_end_that_reply_with_an_error_and_no_other() -> None:
    def poisoned(tokens: Sequence[int]) -> Logits:
        row = babble(tokens)
        return np.full_like(row, np.nan) if 35 in tokens else row

    model = LocalModel(ToyEngine(poisoned), "toy")
    bad, good = model.stream(ask("#")), model.stream(ask("fine"))
    next(bad)
    next(good)
    with pytest.raises(EngineError, match="nan"):
        list(bad)
    assert isinstance(list(good)[-1], End)
    assert not model.decoder.active


def test_threads_share_one_batch_and_each_gets_its_own_reply() -> None:
    model = LocalModel(ToyEngine(babble, slots=8), "toy")
    expected = [ids(list(LocalModel(ToyEngine(babble), "toy").stream(ask(f"question {i}")))) for i in range(8)]
    found: dict[int, list[int]] = {}
    ready = threading.Barrier(8)

    def talk(number: int) -> None:
        stream = model.stream(ask(f"question {number}"))
        next(stream)
        # All are queued before the first step, so that all must stand in one call.
        ready.wait()
        found[number] = ids(list(stream))

    threads = [threading.Thread(target=talk, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[i] for i in range(8)] == expected
    assert model.decoder.peak == 8


@pytest.mark.parametrize("words", [20, 520], ids=["below 512 tokens", "above 512 tokens"])
def test_one_seed_is_one_reply_alone_among_others_and_after_a_fork(demo_model: LocalModel, words: int) -> None:
    request = ask("Tell me of " + "the sea " * (words // 2))
    alone = ids(list(demo_model.stream(request)))
    again = list(demo_model.stream(request))  # from the cached prefix
    assert ids(again) == alone
    assert isinstance(again[-1], End)
    assert again[-1].usage.cached > words // 2
    demo_model.decoder.memory.forget()
    others = [
        ask(f"Question {i}: what is {i} and {i}?", sampling=EXACT.model_copy(update={"seed": i})) for i in range(3)
    ]
    same = [request.model_copy(update={"sampling": EXACT.model_copy(update={"seed": 50 + i})}) for i in range(4)]
    streams = [demo_model.stream(one) for one in [*others, *same, request]]
    collected: list[list[Event]] = [[] for _ in streams]
    live = set(range(len(streams)))
    while live:
        for index in list(live):
            event = next(streams[index], None)
            if event is None:
                live.remove(index)
            else:
                collected[index].append(event)
    assert ids(collected[-1]) == alone
    start = collected[-1][0]
    assert isinstance(start, Start)
    assert start.exact.held
    assert start.exact.shape


def test_what_is_not_asked_to_be_exact_says_so(babbler: LocalModel) -> None:
    with closing(babbler.stream(ask("hi", sampling=Sampling(seed=1)))) as stream:
        start = next(stream)
    assert isinstance(start, Start)
    assert (start.exact.asked, start.exact.held, start.exact.why) == (False, False, "not asked for")


def test_replies_to_one_prompt_tokenize_it_once() -> None:
    class Counting(ToyEngine):
        tokenized = 0

        def tokens(self, text: str, special: bool) -> list[int]:
            self.tokenized += 1
            return super().tokens(text, special)

    engine = Counting(babble)
    model = LocalModel(engine, "toy")
    first, again, other = (ids(list(model.stream(ask(text)))) for text in ("one", "one", "two"))
    assert engine.tokenized == 2
    assert first == again != other


class Slow(ToyEngine):
    """Waits inside every call until it is let go on."""

    def __init__(self, **more: int) -> None:
        super().__init__(babble, **more)
        self.inside, self.going = threading.Event(), threading.Event()

    def extend(self, rows: Sequence[Row], exact: bool = False) -> list[Logits]:
        self.inside.set()
        assert self.going.wait(60)
        return super().extend(rows, exact)


def test_a_newcomer_is_queued_while_another_thread_is_inside_a_call() -> None:
    engine = Slow()
    model = LocalModel(engine, "toy")
    first = threading.Thread(target=lambda: list(model.stream(ask("first"))))
    first.start()
    assert engine.inside.wait(60)
    with closing(model.stream(ask("second"))) as stream:
        assert isinstance(next(stream), Start)  # without waiting for the call
        assert len(model.decoder.waiting) == 1
        engine.going.set()
        assert len(ids(list(stream))) == 10
    first.join()


def test_a_reply_abandoned_while_another_threads_last_step_runs_frees_its_slot() -> None:
    engine = Slow()
    engine.going.set()
    model = LocalModel(engine, "toy")
    once = EXACT.model_copy(update={"max_new_tokens": 1, "min_new_tokens": 1})
    abandoned = model.stream(ask("one"))
    next(abandoned)
    next(abandoned)
    engine.going.clear()
    engine.inside.clear()
    last = threading.Thread(target=lambda: list(model.stream(ask("two", sampling=once))))
    last.start()
    assert engine.inside.wait(60)
    abandoned.close()
    assert model.decoder.active
    engine.going.set()
    last.join()
    assert not any(slot.busy for slot in model.decoder.memory.slots)


def test_replies_that_nobody_waits_for_end_at_the_next_step_whoever_takes_it() -> None:
    model = LocalModel(ToyEngine(babble), "toy")
    left = [False]
    gone, here = model.stream(ask("gone"), lambda: left[0]), model.stream(ask("here"))
    next(gone)
    next(here)
    next(here)
    left[0] = True
    assert len(ids(list(here))) == 9
    assert not model.decoder.active
    *_, end = gone
    assert isinstance(end, End)
    assert end.finish == "cancelled"
    assert end.usage.generated <= 2
