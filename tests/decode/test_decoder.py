"""Many sequences, one engine: the same tokens whatever runs beside, and slots that come back."""

from collections.abc import Collection
from collections.abc import Sequence as Tokens

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jeito.decode.decoder import PREFILL_BESIDE, Decoder, Sequence
from jeito.engines.base import Logits, Row, Shape
from jeito.engines.toy import END, ToyEngine, babble
from jeito.errors import EngineError, InputError, MemoryFull
from jeito.types import End, Sampling, Token

WARM = Sampling(temperature=1.2, max_new_tokens=12, min_new_tokens=12, seed=5)


def drain(decoder: Decoder, *sequences: Sequence) -> None:
    for _ in range(10_000):
        if all(sequence.done for sequence in sequences):
            return
        decoder.step()
    raise AssertionError("a sequence never ended")


def ids(sequence: Sequence) -> list[int]:
    return [event.id for event in sequence.events if isinstance(event, Token)]


def end(sequence: Sequence) -> End:
    last = sequence.events[-1]
    assert isinstance(last, End)
    return last


def alone(prompt: Tokens[int], sampling: Sampling, **engine: int) -> list[int]:
    decoder = Decoder(ToyEngine(babble, **engine))
    sequence = decoder.submit(prompt, sampling, None, None)
    drain(decoder, sequence)
    return ids(sequence)


def test_many_replies_in_one_batch_are_each_what_they_are_alone() -> None:
    decoder = Decoder(ToyEngine(babble, slots=4))
    asked = [
        ([65 + i] * (3 * i + 1), WARM.model_copy(update={"seed": i, "repetition_penalty": 1 + i / 10}))
        for i in range(9)
    ]
    sequences = [decoder.submit(prompt, sampling, None, None) for prompt, sampling in asked]
    drain(decoder, *sequences)
    assert decoder.peak == 4
    assert [ids(sequence) for sequence in sequences] == [alone(prompt, sampling) for prompt, sampling in asked]


def test_a_shared_prefix_changes_no_token_and_is_computed_once() -> None:
    engine = ToyEngine(babble, slots=8)
    decoder = Decoder(engine)
    prompt = [65 + i % 20 for i in range(200)]
    seeds = [WARM.model_copy(update={"seed": seed}) for seed in range(8)]
    sequences = [decoder.submit(prompt, sampling, None, None) for sampling in seeds]
    drain(decoder, *sequences)
    prefilled = sum(len(row.tokens) for call in engine.calls for row in call) - 8 * (12 - 1)
    assert prefilled == len(prompt) + 7
    assert [ids(sequence) for sequence in sequences] == [alone(prompt, sampling) for sampling in seeds]
    assert [end(sequence).usage.cached for sequence in sequences] == [0] + [199] * 7


def test_a_long_prompt_does_not_stall_who_is_decoding() -> None:
    engine = ToyEngine(babble, batch=512)
    decoder = Decoder(engine)
    talking = decoder.submit([65], WARM.model_copy(update={"max_new_tokens": 40, "min_new_tokens": 40}), None, None)
    decoder.step()
    long = decoder.submit([66] * 1000, WARM, None, None)
    engine.calls.clear()
    while len(ids(long)) == 0:
        decoder.step()
    assert all(any(len(row.tokens) == 1 for row in call) for call in engine.calls)
    assert max(len(row.tokens) for call in engine.calls for row in call) == PREFILL_BESIDE
    assert len(ids(talking)) > 1


def test_several_long_prompts_together_do_not_stall_who_is_decoding_either() -> None:
    engine = ToyEngine(babble, batch=512)
    decoder = Decoder(engine)
    decoder.submit([65], WARM.model_copy(update={"max_new_tokens": 60, "min_new_tokens": 60}), None, None)
    decoder.step()
    long = [decoder.submit([66 + i] * 500, WARM, None, None) for i in range(4)]
    engine.calls.clear()
    while not any(ids(sequence) for sequence in long):
        decoder.step()
    prefilled = [sum(len(row.tokens) for row in call if len(row.tokens) > 1) for call in engine.calls]
    assert max(prefilled) <= PREFILL_BESIDE


def test_an_exact_call_keeps_to_its_shape_and_serves_all_in_turn() -> None:
    engine = ToyEngine(babble, slots=8)
    decoder = Decoder(engine)
    sequences = [decoder.submit([65 + i] * 9, WARM, Shape(1, 3), None) for i in range(8)]
    drain(decoder, *sequences)
    assert max(sum(len(row.tokens) for row in call) for call in engine.calls) == 3
    assert [ids(sequence) for sequence in sequences] == [alone([65 + i] * 9, WARM) for i in range(8)]


@pytest.mark.parametrize("steps", [0, 1, 5])
def test_a_cancelled_reply_frees_its_slot_at_once(steps: int) -> None:
    decoder = Decoder(ToyEngine(babble, slots=1))
    first, second = (decoder.submit([65, 66], WARM, None, None) for _ in range(2))
    for _ in range(steps):
        decoder.step()
    decoder.cancel(first)
    assert end(first).finish == "cancelled"
    assert not any(slot.busy for slot in decoder.memory.slots)
    drain(decoder, second)
    assert ids(second) == alone([65, 66], WARM)


def test_a_waiting_reply_can_be_cancelled() -> None:
    decoder = Decoder(ToyEngine(babble, slots=1))
    first, second = (decoder.submit([65, 66], WARM, None, None) for _ in range(2))
    decoder.step()
    decoder.cancel(second)
    drain(decoder, first)
    assert ids(second) == []
    assert not decoder.waiting


def test_when_memory_is_full_idle_slots_go_first_then_the_youngest_waits_and_goes_on() -> None:
    engine = ToyEngine(babble, slots=4, cells=60)
    decoder = Decoder(engine)
    kept = decoder.submit([65] * 20, WARM, None, None)
    drain(decoder, kept)
    prompts = [[70 + i] * 15 for i in range(3)]
    sequences = [decoder.submit(prompt, WARM, None, None) for prompt in prompts]
    drain(decoder, *sequences)
    assert decoder.peak == 3
    assert [end(sequence).finish for sequence in sequences] == ["length"] * 3
    assert [ids(sequence) for sequence in sequences] == [alone(prompt, WARM) for prompt in prompts]


def test_when_memory_is_full_the_oldest_reply_is_never_held_up() -> None:
    decoder = Decoder(ToyEngine(babble, slots=4, cells=60))
    sequences = [decoder.submit([70 + i] * 15, WARM, None, None) for i in range(4)]
    steps = 0
    while not sequences[0].done:
        decoder.step()
        steps += 1
        assert sequences[0].slot is not None
    drain(decoder, *sequences)
    # The prompts, the tokens of the reply, and for each neighbour one step that had no room.
    assert steps <= 1 + WARM.max_new_tokens + 2 * len(sequences)


def test_a_full_memory_loses_nobody_in_a_long_queue() -> None:
    decoder = Decoder(ToyEngine(babble, slots=8, cells=100))
    prompts = [[65 + i] * 10 for i in range(20)]
    sequences = [decoder.submit(prompt, WARM, Shape(1, 64), None) for prompt in prompts]
    drain(decoder, *sequences)
    assert [ids(sequence) for sequence in sequences] == [alone(prompt, WARM) for prompt in prompts]


def test_a_reply_that_alone_is_too_much_for_the_memory_ends_too() -> None:
    decoder = Decoder(ToyEngine(babble, slots=2, cells=10))
    sequence = decoder.submit([65] * 30, WARM, None, None)
    drain(decoder, sequence)
    assert end(sequence).finish == "memory"


def test_a_failing_pass_fails_who_was_in_it_and_nobody_else() -> None:
    class Failing(ToyEngine):
        def extend(self, rows: Tokens[Row], exact: bool = False) -> list[Logits]:
            if any(90 in row.tokens for row in rows):
                raise EngineError("the pass failed")
            return super().extend(rows, exact)

    decoder = Decoder(Failing(babble, slots=1))
    bad, good = decoder.submit([90], WARM, None, None), decoder.submit([65], WARM, None, None)
    drain(decoder, bad, good)
    assert end(bad).finish == "error"
    assert isinstance(bad.error, EngineError)
    assert ids(good) == alone([65], WARM)


def test_after_a_failed_pass_its_slots_serve_the_next_replies_rightly() -> None:
    class Failing(ToyEngine):
        def extend(self, rows: Tokens[Row], exact: bool = False) -> list[Logits]:
            if any(90 in row.tokens for row in rows):
                raise EngineError("the pass failed")
            return super().extend(rows, exact)

    decoder = Decoder(Failing(babble, slots=2))
    prompts = [[65, 66, 67], [65, 66, 90], [65, 66, 67, 68], [65, 66, 69]]
    first, bad, *later = [decoder.submit(prompt, WARM, None, None) for prompt in prompts]
    drain(decoder, first, bad, *later)
    assert [end(sequence).finish for sequence in (first, bad)] == ["error", "error"]
    assert [ids(sequence) for sequence in later] == [alone(prompt, WARM) for prompt in prompts[2:]]


def test_a_reply_that_cannot_be_sampled_ends_alone() -> None:
    decoder = Decoder(ToyEngine(babble))
    bad = decoder.submit([65], WARM.model_copy(update={"logit_bias": {999: 1.0}}), None, None)
    good = decoder.submit([65, 66], WARM, None, None)
    drain(decoder, bad, good)
    assert isinstance(bad.error, InputError)
    assert end(bad).finish == "error"
    assert ids(good) == alone([65, 66], WARM)


MOVES = st.one_of(
    st.tuples(st.just("submit"), st.integers(0, 4), st.integers(1, 25)),
    st.tuples(st.just("cancel"), st.integers(0, 9), st.just(0)),
    st.tuples(st.just("step"), st.integers(1, 6), st.just(0)),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(MOVES, max_size=30), st.integers(1, 4), st.integers(40, 200))
def test_whatever_comes_and_goes_each_reply_is_what_it_is_alone(
    moves: list[tuple[str, int, int]], slots: int, cells: int
) -> None:
    engine = ToyEngine(babble, slots=slots, batch=16, cells=cells)
    decoder = Decoder(engine)
    sequences: list[Sequence] = []
    for move, number, length in moves:
        if move == "submit":
            # Prompts that share their beginnings, exact ones and others.
            shape = Shape(1, 4) if number % 2 else None
            sequences.append(decoder.submit([65, 66, 67, 68, 70 + number] * 5 + [75] * length, WARM, shape, None))
        elif move == "cancel" and number < len(sequences):
            decoder.cancel(sequences[number])
        else:
            for _ in range(number):
                decoder.step()
        assert [slot.tokens for slot in decoder.memory.slots] == engine._slots
    drain(decoder, *sequences)
    assert not any(slot.busy for slot in decoder.memory.slots)
    for sequence in sequences:
        expected, found = alone(sequence.prompt, WARM), ids(sequence)
        assert found == expected[: len(found)]
        assert len(found) == len(expected) or end(sequence).finish in ("cancelled", "memory")
        assert end(sequence).finish != "memory" or len(sequence.tokens) >= cells


def test_logits_that_are_no_numbers_are_an_error_and_no_endless_loop() -> None:
    decoder = Decoder(ToyEngine(lambda tokens: np.full(258, np.nan, np.float32)))
    sequence = decoder.submit([65], WARM, None, None)
    drain(decoder, sequence)
    assert sequence.error is not None
    assert end(sequence).finish == "error"


def says(text: str) -> ToyEngine:
    """A model that says this, then ends."""

    def score(tokens: Tokens[int]) -> Logits:
        row = np.zeros(258, np.float32)
        said = len(tokens) - 1
        row[text.encode()[said] if said < len(text.encode()) else END] = 30
        return row

    return ToyEngine(score, context=64)


def reply(engine: ToyEngine, sampling: Sampling, logprobs: int | None = None) -> tuple[str, End, list[Token]]:
    decoder = Decoder(engine)
    sequence = decoder.submit([65], sampling, None, logprobs)
    drain(decoder, sequence)
    tokens = [event for event in sequence.events if isinstance(event, Token)]
    return "".join(token.text for token in tokens) + end(sequence).text, end(sequence), tokens


def greedy(**more: object) -> Sampling:
    return Sampling(temperature=0, seed=1, **more)  # type: ignore[arg-type]


def test_a_reply_ends_by_its_end_token_and_shows_nothing_of_it() -> None:
    text, ended, tokens = reply(says("olá!"), greedy())
    assert (text, ended.finish) == ("olá!", "stop")
    assert tokens[-1].id == END
    assert ended.usage.generated == len("olá!".encode()) + 1


def test_a_stop_string_is_cut_off_and_named() -> None:
    text, ended, _ = reply(says("one, two, three"), greedy(stop=("two",)))
    assert (text, ended.finish, ended.why) == ("one, ", "stop", "stop string 'two'")


def test_a_length_limit_gives_out_what_was_held_back() -> None:
    text, ended, _ = reply(says("one, tw"), greedy(stop=("two",), max_new_tokens=7))
    assert (text, ended.finish) == ("one, tw", "length")


def test_a_reply_ends_where_the_context_does() -> None:
    text, ended, _ = reply(says("x" * 200), greedy())
    assert ended.finish == "context"
    assert len(text) == 63


def test_no_end_token_comes_before_the_least_number_of_tokens() -> None:
    _, ended, tokens = reply(says("hi"), greedy(min_new_tokens=9, max_new_tokens=20))
    assert ended.usage.generated >= 9
    assert all(token.id != END for token in tokens[:9])


def test_log_probabilities_are_the_models_own_and_name_alternatives() -> None:
    _, _, tokens = reply(says("hi"), greedy(max_new_tokens=1), logprobs=2)
    (token,) = tokens
    assert token.logprob == pytest.approx(-float(np.log1p(257 * np.exp(-30))), abs=1e-9)
    assert token.top[0].text == "h"
    assert len(token.top) == 2
    assert token.drawn == 0


def test_without_being_asked_no_log_probability_is_computed() -> None:
    _, _, tokens = reply(says("hi"), greedy(max_new_tokens=1))
    assert tokens[0].logprob is None


def text_of(start: int, length: int) -> list[int]:
    return [65 + (start + i * i) % 50 for i in range(length)]


def test_what_rests_between_replies_changes_no_token() -> None:
    engine = ToyEngine(babble, slots=2, spare=4, batch=512, outside=4096)
    decoder = Decoder(engine)
    long = WARM.model_copy(update={"max_new_tokens": 60, "min_new_tokens": 60})
    rested = 0
    for number in range(6):
        prompt = [*text_of(number % 2, 300), number]
        sequence = decoder.submit(prompt, long, None, None)
        drain(decoder, sequence)
        rested += len(engine.resting)
        assert ids(sequence) == alone(prompt, long, batch=512)
        assert end(sequence).usage.cached == (300 if number > 1 else 0)
    assert rested > 0


@pytest.mark.parametrize("fails", ["rest", "fork"])
def test_a_memory_that_fails_between_two_steps_ends_replies_with_its_error(fails: str) -> None:
    class Failing(ToyEngine):
        def rest(self, slots: Collection[int]) -> int:
            if slots and fails == "rest":
                raise EngineError("cells could not be copied")
            return super().rest(slots)

        def fork(self, source: int, target: int, length: int) -> None:
            if fails == "fork":
                raise EngineError("cells could not be copied")
            super().fork(source, target, length)

    decoder = Decoder(Failing(babble, slots=2, spare=4, batch=512, outside=4096))
    drain(decoder, decoder.submit(text_of(0, 300), WARM, None, None))
    long = WARM.model_copy(update={"max_new_tokens": 60, "min_new_tokens": 60})
    sequence = decoder.submit([*text_of(0, 200), 66, 67], long, None, None)
    drain(decoder, sequence)
    assert end(sequence).finish == "error"
    assert "could not be copied" in str(sequence.error)
    other = decoder.submit([70, 71], WARM, None, None)
    drain(decoder, other)
    assert end(other).finish == "length"


def test_who_shares_with_what_rests_waits_for_nobody_while_something_idle_is_in_the_way() -> None:
    class Waking(ToyEngine):
        """A fork of what rests needs room."""

        def fork(self, source: int, target: int, length: int) -> None:
            if source in self.resting and self._held() + length > 700:
                raise MemoryFull("no room for it again")
            super().fork(source, target, length)

        def _held(self) -> int:
            return sum(len(held) for slot, held in enumerate(self._slots) if slot not in self.resting)

    engine = Waking(babble, slots=3, spare=5, batch=1024, cells=800, outside=4096)
    decoder = Decoder(engine)
    first = text_of(0, 300)
    drain(decoder, decoder.submit(first, WARM, None, None))
    decoder.memory.evict()
    drain(decoder, decoder.submit(text_of(7, 400), WARM, None, None))  # idle, and inside
    long = decoder.submit(
        text_of(13, 100), WARM.model_copy(update={"max_new_tokens": 90, "min_new_tokens": 90}), None, None
    )
    decoder.step()
    sharing = decoder.submit([*first[:250], 70], WARM, None, None)
    drain(decoder, sharing)
    assert not long.done
    assert end(sharing).usage.cached == 250
