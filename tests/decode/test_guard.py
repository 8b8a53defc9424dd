"""What keeps a reply on its course: contracts in the decoder, reasoning and its budget, loops, empty replies."""

import json
from collections.abc import Sequence as Tokens
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jeito.decode.guard import Loop
from jeito.decode.local import LocalModel
from jeito.engines.base import Logits
from jeito.engines.toy import END, VOCABULARY, ToyEngine, babble
from jeito.errors import InputError
from jeito.types import End, Event, Message, Output, Repetition, Request, Sampling, Thinking, Token

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "kind": {"enum": ["alpha", "beta"]},
        "ages": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 99}, "maxItems": 3},
    },
    "required": ["name", "kind", "ages"],
    "additionalProperties": False,
}
HELD = Output(json_schema=PERSON)  # type: ignore[arg-type]
WARM = Sampling(temperature=1.5, seed=3, max_new_tokens=200)
GREEDY = Sampling(temperature=0, seed=1, max_new_tokens=200)


def ask(text: str = "hi", **more: object) -> Request:
    values: dict[str, object] = {"messages": (Message(role="user", content=text),), "sampling": WARM}
    return Request(**values | more)  # type: ignore[arg-type]


def model_of(engine: ToyEngine) -> LocalModel:
    return LocalModel(engine, "toy")


def says(text: str, template: str | None = None, context: int = 400) -> LocalModel:
    """A model that wants to say this, whatever it has been made to say, then end."""

    def score(tokens: Tokens[int]) -> Logits:
        row = np.zeros(VOCABULARY, np.float32)
        said = bytes(token for token in tokens if token < 256).rpartition(b"<assistant>")[2]
        row[text.encode()[len(said)] if len(said) < len(text.encode()) else END] = 30
        return row

    engine = ToyEngine(score, context=context)
    if template:
        engine.card = replace(engine.card, template=template)
    return model_of(engine)


def tokens(events: Tokens[Event]) -> list[Token]:
    return [event for event in events if isinstance(event, Token)]


def answer(events: Tokens[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Token | End))


def reasoning(events: Tokens[Event]) -> str:
    return "".join(event.reasoning for event in events if isinstance(event, Token | End))


def end(events: Tokens[Event]) -> End:
    last = events[-1]
    assert isinstance(last, End)
    return last


# Contracts in the decoder.


@pytest.mark.parametrize("seed", range(20))
def test_a_reply_under_a_contract_meets_it_and_ends_where_nothing_can_follow(babbler: LocalModel, seed: int) -> None:
    events = list(babbler.stream(ask(output=HELD, sampling=WARM.model_copy(update={"seed": seed}))))
    found = json.loads(answer(events))
    assert list(found) == ["name", "kind", "ages"]
    assert found["kind"] in ("alpha", "beta")
    assert end(events).finish == "stop"
    usage = end(events).usage
    assert usage.forced == sum(token.forced for token in tokens(events)) > 0
    assert usage.generated == len(tokens(events))


def test_forced_tokens_are_computed_together_with_the_one_before_them() -> None:
    engine = ToyEngine(babble)
    events = list(model_of(engine).stream(ask(output=HELD)))
    usage = end(events).usage
    drawn = usage.generated - usage.forced
    rows = [row for call in engine.calls for row in call]
    assert len(rows) == drawn == sum(row.want for row in rows)
    assert sum(len(row.tokens) for row in rows) == usage.prompt + usage.generated - len(after_the_last_draw(events))
    # What begins every answer is computed with the prompt.
    assert bytes(rows[0].tokens).endswith(b'{"name": "')


def after_the_last_draw(events: Tokens[Event]) -> list[Token]:
    found = tokens(events)
    last = max(at for at, token in enumerate(found) if not token.forced)
    return found[last:]


def test_an_answer_that_can_be_no_other_asks_the_model_nothing() -> None:
    engine = ToyEngine(babble)
    events = list(model_of(engine).stream(ask(output=Output(choice=("only",)))))
    assert (answer(events), end(events).finish, engine.calls) == ("only", "stop", [])
    assert end(events).usage.forced == 4


def unforced(lark: str) -> str:
    return '%llguidance {"no_forcing": true}\n' + lark


LARK = 'start: "header: " ("left one" | "right one") " trailer, trailer" TAIL\nTAIL: /[a-c]{2,6}/'


@settings(max_examples=80, deadline=None)
@given(
    st.integers(0, 1000), st.integers(1, 50), st.integers(0, 50), st.integers(60, 110),
    st.sampled_from([(), ("er: ",), ("one",), ("e t",), ("trailer, t", "zzz"), ("r, trailer",)]),
    st.sampled_from([1.0, 1.7]),
)  # fmt: skip
def test_a_forced_run_ends_where_the_same_tokens_one_by_one_would_end(
    seed: int, most: int, least: int, context: int, stop: tuple[str, ...], penalty: float
) -> None:
    sampling = Sampling(
        temperature=1.3, seed=seed, max_new_tokens=most, min_new_tokens=least, stop=stop,
        repetition_penalty=penalty, frequency_penalty=0.4,
    )  # fmt: skip
    found = []
    for lark in (LARK, unforced(LARK)):
        events = list(
            model_of(ToyEngine(babble, context=context)).stream(ask(output=Output(lark=lark), sampling=sampling))
        )
        ids = [token.id for token in tokens(events)]
        found.append((ids, answer(events), end(events).finish, end(events).why, end(events).usage.generated))
    assert found[0] == found[1]


def test_many_replies_with_different_contracts_are_each_what_they_are_alone() -> None:
    outputs = [HELD, None, Output(regex="[a-f]{5,20}"), Output(choice=("yes", "no")), Output(lark=LARK), HELD]
    requests = [
        ask(
            f"question {number}", output=output, sampling=WARM.model_copy(update={"seed": number, "max_new_tokens": 60})
        )
        for number, output in enumerate(outputs)
    ]
    alone = [list(model_of(ToyEngine(babble)).stream(request)) for request in requests]
    model = model_of(ToyEngine(babble, slots=4, cells=700))
    streams = [model.stream(request) for request in requests]
    together: list[list[Event]] = [[next(stream)] for stream in streams]
    live = set(range(len(streams)))
    while live:
        for index in sorted(live):
            event = next(streams[index], None)
            if event is None:
                live.remove(index)
            else:
                together[index].append(event)
    assert model.decoder.peak > 1
    assert [[token.id for token in tokens(one)] for one in together] == [
        [token.id for token in tokens(one)] for one in alone
    ]


def test_what_the_contract_allows_comes_at_any_temperature() -> None:
    for temperature in (0, 0.01, 50):
        sampling = Sampling(temperature=temperature, seed=2, max_new_tokens=99)
        events = list(model_of(ToyEngine(babble)).stream(ask(output=HELD, sampling=sampling)))
        assert json.loads(answer(events))["kind"] in ("alpha", "beta")


def test_a_contract_that_cannot_be_refuses_the_request_and_disturbs_nobody(babbler: LocalModel) -> None:
    other = babbler.stream(ask())
    next(other)
    with pytest.raises(InputError, match="unclosed"):
        next(babbler.stream(ask(output=Output(regex="("))))
    assert end(list(other)).finish in ("stop", "length")
    assert not babbler.decoder.active


def test_a_reply_that_may_neither_end_nor_go_on_ends_by_contract(babbler: LocalModel) -> None:
    sampling = WARM.model_copy(update={"min_new_tokens": 9})
    events = list(babbler.stream(ask(output=Output(lark='start: "x" <end>'), sampling=sampling)))
    assert (answer(events), end(events).finish) == ("x", "contract")
    assert end(events).why == "no token is allowed here"


def test_a_reply_that_is_cut_says_length_and_not_contract(babbler: LocalModel) -> None:
    events = list(babbler.stream(ask(output=HELD, sampling=WARM.model_copy(update={"max_new_tokens": 12}))))
    assert end(events).finish == "length"
    assert len(tokens(events)) == 12


def test_a_reply_ends_by_an_end_token_where_the_grammar_would_let_it_go_on() -> None:
    events = list(says("aaaa").stream(ask(output=Output(regex="a+"), sampling=GREEDY)))
    assert (answer(events), end(events).finish) == ("aaaa", "stop")
    assert tokens(events)[-1].id == END


def test_an_exact_reply_under_a_contract_is_the_same_alone_and_among_others(demo_model: LocalModel) -> None:
    sampling = Sampling(temperature=0.9, seed=5, max_new_tokens=80, exact=True)
    request = ask("Describe a person as JSON.", output=HELD, sampling=sampling)
    alone = list(demo_model.stream(request))
    json.loads(answer(alone))
    assert end(alone).usage.forced > 5
    demo_model.decoder.memory.forget()
    others = [
        demo_model.stream(ask(f"Number {number}?", output=HELD, sampling=sampling.model_copy(update={"seed": number})))
        for number in range(3)
    ]
    for stream in others:
        next(stream)
    again = list(demo_model.stream(request))
    assert [token.id for token in tokens(again)] == [token.id for token in tokens(alone)]
    for stream in others:
        json.loads(answer(list(stream)))


# Reasoning.

OPENED = (
    "{% for message in messages %}<{{ message.role }}>{{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% if think %}</think>{% endif %}<think>{% endif %}"
)
MARKED = "{# <think> </think> #}" + (
    "{% for message in messages %}<{{ message.role }}>{{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def test_reasoning_is_kept_apart_from_the_answer() -> None:
    events = list(says("<think>two and two</think>\n\nFour.", MARKED).stream(ask(sampling=GREEDY)))
    assert (reasoning(events), answer(events)) == ("two and two", "Four.")


def test_reasoning_that_the_prompt_has_opened_is_reasoning() -> None:
    def score(tokens: Tokens[int]) -> Logits:
        said = bytes(token for token in tokens if token < 256).rpartition(b"<assistant><think>")[2]
        text = b"well</think>Yes."
        row = np.zeros(VOCABULARY, np.float32)
        row[text[len(said)] if len(said) < len(text) else END] = 30
        return row

    engine = ToyEngine(score)
    engine.card = replace(engine.card, template=OPENED)
    events = list(model_of(engine).stream(ask(sampling=GREEDY)))
    assert (reasoning(events), answer(events)) == ("well", "Yes.")


def test_without_marks_in_its_template_a_models_brackets_are_its_answer() -> None:
    events = list(says("<think>x</think>y").stream(ask(sampling=GREEDY)))
    assert (reasoning(events), answer(events)) == ("", "<think>x</think>y")


def test_marks_that_the_request_names_count() -> None:
    request = ask(sampling=GREEDY, reasoning=Thinking(open="[THINK]", close="[/THINK]"))
    events = list(says("[THINK]x[/THINK]y").stream(request))
    assert (reasoning(events), answer(events)) == ("x", "y")


def test_a_stop_string_ends_an_answer_and_no_reasoning() -> None:
    sampling = GREEDY.model_copy(update={"stop": ("\n",)})
    events = list(says("<think>a\nb\n</think>c\nd", MARKED).stream(ask(sampling=sampling)))
    assert (reasoning(events), answer(events), end(events).finish) == ("a\nb\n", "c", "stop")


@pytest.mark.parametrize("budget", [0, 1, 7, 8])
def test_a_spent_budget_closes_the_reasoning_and_the_answer_goes_on(budget: int) -> None:
    model = says("<think>0123456789012345678901234567890123456789 and so on", MARKED)
    request = ask(sampling=GREEDY, reasoning=Thinking(budget=budget))
    events = list(model.stream(request))
    assert reasoning(events) == "0123456789"[:budget]
    assert len(answer(events)) > 10
    assert end(events).notes == (f"the reasoning was closed after {budget} tokens, its budget",)
    forced = [token.id for token in tokens(events) if token.forced]
    assert bytes(forced) == b"</think>"


def test_reasoning_within_its_budget_is_left_alone() -> None:
    events = list(says("<think>ab</think>c", MARKED).stream(ask(sampling=GREEDY, reasoning=Thinking(budget=50))))
    assert (reasoning(events), answer(events), end(events).notes) == ("ab", "c", ())
    assert end(events).usage.forced == 0


def test_a_contract_begins_after_the_reasoning_which_is_free() -> None:
    model = says("<think>let me see: {}</think>and then whatever", MARKED)
    events = list(model.stream(ask(output=HELD, sampling=GREEDY)))
    assert reasoning(events) == "let me see: {}"
    assert json.loads(answer(events))["kind"] in ("alpha", "beta")
    assert end(events).finish == "stop"


def test_a_model_that_can_think_need_not_under_a_contract() -> None:
    model = says("yes", MARKED)
    events = list(model.stream(ask(output=Output(choice=("yes", "no")), sampling=GREEDY)))
    assert (reasoning(events), answer(events)) == ("", "yes")


def test_under_a_contract_reasoning_cannot_end_the_reply() -> None:
    model = says("<think>hm", MARKED)
    request = ask(output=Output(choice=("yes", "no")), sampling=GREEDY, reasoning=Thinking(budget=30))
    events = list(model.stream(request))
    assert answer(events) in ("yes", "no")
    assert all(token.id != END for token in tokens(events))


def test_a_mark_that_is_a_token_without_text_is_seen() -> None:
    class Marked(ToyEngine):
        """Its closing mark is a control token: 1."""

        def tokens(self, text: str, special: bool) -> list[int]:
            return [1] if special and text == "</think>" else super().tokens(text, special)

        def text(self, ids: Tokens[int]) -> bytes:
            return super().text([token for token in ids if token != 1])

    def score(tokens: Tokens[int]) -> Logits:
        row = np.zeros(VOCABULARY, np.float32)
        row[1 if 1 not in tokens and tokens[-1] == ord("x") else ord("x") if 1 not in tokens else END] = 30
        return row

    engine = Marked(score)
    engine.card = replace(engine.card, template=OPENED)
    events = list(model_of(engine).stream(ask(sampling=GREEDY, refuse_empty=False)))
    assert (reasoning(events), answer(events)) == ("x", "")


# Loops.


def loop_at(ids: Tokens[int], rule: Repetition) -> int | None:
    loop = Loop(rule)
    for at, token in enumerate(ids):
        loop.add(token)
        if loop.why:
            return at + 1
    return None


def slow_loop_at(ids: Tokens[int], rule: Repetition) -> int | None:
    """The rule, as it is written."""
    for size in range(1, len(ids) + 1):
        for period in range(1, rule.tokens + 1):
            span = max(period * rule.times, rule.tokens)
            tail = ids[size - span : size] if size >= span else []
            if tail and all(tail[at] == tail[at - period] for at in range(period, span)):
                return size
    return None


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(0, 2), max_size=60), st.integers(1, 8), st.integers(2, 4))
def test_a_loop_is_found_at_the_very_token_that_the_rule_says(ids: list[int], tokens: int, times: int) -> None:
    rule = Repetition(tokens=tokens, times=times)
    assert loop_at(ids, rule) == slow_loop_at(ids, rule)


TABLE = "| name | size |\n|---|---|---|---|\n| a | 1 |\n| b | 1 |\n| c | 1 |\n" * 3
CODE = "".join(f"    if x == {number}:\n        return {number}\n" for number in range(30))
LIST = "".join(f"{number}. item number {number}\n" for number in range(40))


@pytest.mark.parametrize("text", [TABLE, CODE, LIST, "ha ha ha ha ha!", "-" * 20, "\n\n\n\n    x", "0, 0, 0, 0, 0"])
def test_lists_tables_and_code_are_no_loops(text: str) -> None:
    assert loop_at(text.encode(), Repetition()) is None


def test_a_loop_ends_the_reply_and_says_what_came_again() -> None:
    events = list(says("and " * 90).stream(ask(sampling=GREEDY, repetition=Repetition())))
    assert end(events).finish == "repetition"
    assert end(events).why == "the same 4 tokens came 6 times in a row"
    assert len(tokens(events)) == 24


def test_a_loop_of_one_sentence_is_found_after_it_came_so_often() -> None:
    words = "I am not sure. "
    events = list(says(words * 9).stream(ask(sampling=GREEDY, repetition=Repetition(tokens=20, times=3))))
    assert answer(events) == words * 3


def test_without_the_guard_a_loop_goes_on() -> None:
    assert end(list(says("and " * 90).stream(ask(sampling=GREEDY)))).finish == "length"


# Empty replies.


@pytest.mark.parametrize("said", ["", " ", "\n\n"])
def test_a_reply_does_not_end_before_it_says_something_where_that_is_asked(said: str) -> None:
    events = list(says(said).stream(ask(sampling=WARM, refuse_empty=True)))
    assert answer(events).strip()
    assert not answer(list(says(said).stream(ask(sampling=GREEDY)))).strip()


def test_a_reply_does_not_end_in_its_reasoning_where_it_has_to_say_something() -> None:
    request = ask(sampling=WARM, refuse_empty=True, reasoning=Thinking(budget=20))
    events = list(says("<think>", MARKED).stream(request))
    assert answer(events).strip()


def test_a_contract_that_allows_nothing_but_silence_cannot_be_met_where_silence_is_refused() -> None:
    events = list(says("").stream(ask(output=Output(choice=("",)), sampling=GREEDY, refuse_empty=True)))
    assert end(events).finish == "contract"
    events = list(says("").stream(ask(output=Output(choice=("", "a")), sampling=GREEDY, refuse_empty=True)))
    assert (answer(events), end(events).finish) == ("a", "stop")
