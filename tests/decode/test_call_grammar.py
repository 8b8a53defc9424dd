"""What a model may write where tools are declared: grammars for llguidance, and texts that they let through."""

import random
from typing import Any

import pytest
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

from jeito.decode.call_grammar import grammar
from jeito.decode.call_parser import CallParser
from jeito.decode.dialects import DIALECTS, PLAIN, Dialect
from jeito.errors import InputError
from jeito.types import ToolCall
from tests.decode.calls import BARE, TOOLS, calls, of, read, said, thinking

CALL = ToolCall(id="", name="weather", arguments={"place": 'a "b" <x>', "days": 3, "exact": True})
NOW = ToolCall(id="", name="now", arguments={})

SPECIAL = (
    "<|tool_call|>", "<|/tool_call|>", "<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "<think>", "</think>",
    "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>",
    "<｜tool▁sep｜>", "<start_function_call>", "<end_function_call>", "<escape>", "<|tool_call_start|>",
    "<|tool_call_end|>",
)  # fmt: skip
IDS = {name: 257 + at for at, name in enumerate(SPECIAL)}


class Letters:
    """A tokenizer whose tokens are the bytes and the special ones."""

    eos_token_id, bos_token_id = 0, None
    tokens = (b"</s>", *(bytes([byte]) for byte in range(256)), *(name.encode() for name in SPECIAL))
    special_token_ids = (0, *IDS.values())

    def __call__(self, text: bytes) -> list[int]:
        return [byte + 1 for byte in text]


TOKENIZER = LLTokenizer(TokenizerWrapper(Letters()))


def tokens(text: str, special: bool) -> list[int]:
    if special:
        for name, token in IDS.items():
            if name in text:
                before, _, after = text.partition(name)
                return [*tokens(before, True), token, *tokens(after, True)]
    return [byte + 1 for byte in text.encode()]


def matcher(lark: str | None) -> LLMatcher:
    assert lark is not None
    source = LLMatcher.grammar_from_lark(lark)
    assert LLMatcher.validate_grammar(source, TOKENIZER) == ""
    return LLMatcher(TOKENIZER, source, log_level=0)


def allows(lark: str | None, text: str, special: bool) -> bool:
    found = matcher(lark)
    ids = tokens(text, special)
    return found.try_consume_tokens(ids) == len(ids) and found.is_accepting()


EVERY = pytest.mark.parametrize(
    ("dialect", "special"), [(name, special) for name in DIALECTS for special in (False, True)]
)


def lark(dialect: Dialect, special: bool, **how: Any) -> str | None:
    return grammar(dialect, TOOLS, special=IDS if special else {}, **how)


@EVERY
def test_calls_of_tools_that_there_are_may_be_written(dialect: str, special: bool) -> None:
    # What a special token is called cannot stand in text.
    names = () if not special else SPECIAL
    for case in of(dialect)[:12]:
        given = [ToolCall(id="", name=name, arguments=arguments) for name, arguments in case.calls]
        if any(name in repr(case.calls) for name in names) or any("<escape>" in repr(call) for call in given):
            continue
        text = DIALECTS[dialect].write(given)
        alone = len(given) == 1 or DIALECTS[dialect].is_parallel
        assert allows(lark(DIALECTS[dialect], special), text, special) is alone, text
        assert allows(lark(DIALECTS[dialect], special, choice="required"), text, special) is alone, text
        one_only = lark(DIALECTS[dialect], special, parallel=False)
        assert allows(one_only, text, special) is (len(given) == 1), text


@EVERY
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("wether", {"place": "x"}),
        ("weather", {"days": 3}),
        ("weather", {"place": "x", "days": "3 or 4"}),
        ("weather", {"place": "x", "exact": "yes"}),
        ("weather", {"place": "x", "unit": "k"}),
        ("weather", {"place": "x", "near": {"note": "y"}}),
        ("weather", {"place": "x", "colour": "red"}),
        ("now", {"place": "x"}),
    ],
)
def test_unknown_tools_and_wrong_arguments_may_not(
    dialect: str, special: bool, name: str, arguments: dict[str, Any]
) -> None:
    text = DIALECTS[dialect].write([ToolCall(id="", name=name, arguments=arguments)])
    for choice in ("auto", "required"):
        assert not allows(lark(DIALECTS[dialect], special, choice=choice), text, special), text


@EVERY
def test_outside_of_calls_text_is_free_unless_a_call_is_required(dialect: str, special: bool) -> None:
    call = DIALECTS[dialect].write([CALL])
    free, must = lark(DIALECTS[dialect], special), lark(DIALECTS[dialect], special, choice="required")
    named = lark(DIALECTS[dialect], special, choice="now")
    for text in ("", "It is warm.\n", "a < b {c} [d] <e> é 🌧"):
        assert allows(free, text, special)
        assert not allows(must, text, special)
    if dialect not in BARE:
        assert allows(free, f"Let me see.\n{call}", special)
    assert not allows(named, call, special)
    assert allows(named, DIALECTS[dialect].write([NOW]), special)
    assert lark(DIALECTS[dialect], special, choice="none") is None
    assert grammar(DIALECTS[dialect], []) is None


@EVERY
def test_reasoning_comes_before_a_call_and_is_no_call(dialect: str, special: bool) -> None:
    call = DIALECTS[dialect].write([CALL])
    thought = "well, {x} [now" if special else f"well, {thinking(dialect).opens[0]} {{x}}"
    for choice in ("auto", "required"):
        may = lark(thinking(dialect), special, choice=choice)
        assert allows(may, f"<think>\n{thought}\n</think>\n\n{call}", special)
        assert allows(may, call, special)
        assert not allows(may, f"<think>\n{thought}{call}", special)
        opened = lark(thinking(dialect), special, choice=choice, prompt="…<think>\n")
        assert allows(opened, f"{thought}\n</think>\n\n{call}", special)
        assert not allows(opened, call, special)


def test_a_reply_goes_on_after_the_mark_that_its_prompt_ends_with() -> None:
    dialect = DIALECTS["functionary"]
    free = grammar(dialect, TOOLS, prompt="…>>>")
    for text in ("all\nIt is warm.", "now\n{}", 'now\n{}>>>weather\n{"place": "x"}', "all\nWait.>>>now\n{}"):
        assert allows(free, text, False), text
    assert not allows(free, "It is warm.", False)
    must = grammar(dialect, TOOLS, prompt="…>>>", choice="required")
    assert allows(must, "now\n{}", False)
    assert not allows(must, "all\nIt is warm.", False)


def test_a_choice_that_is_no_tool_names_the_nearest() -> None:
    with pytest.raises(InputError, match="'wether'") as raised:
        grammar(PLAIN, TOOLS, choice="wether")
    assert "weather" in raised.value.hint


def test_references_in_a_tools_schema_hold_inside_of_the_grammar() -> None:
    point = {
        "type": "object",
        "properties": {"x": {"type": "integer"}},
        "required": ["x"],
        "additionalProperties": False,
    }
    schema = {"type": "object", "$defs": {"P": point}, "properties": {"p": {"$ref": "#/$defs/P"}}, "required": ["p"]}
    tools = [{"type": "function", "function": {"name": "f", "parameters": schema}}]
    for dialect in DIALECTS.values():
        if dialect.form != "escaped":  # bare words cannot be had from a JSON schema alone
            for value, may in (({"x": 1}, True), ({"x": "a"}, False)):
                text = dialect.write([ToolCall(id="", name="f", arguments={"p": value})])
                assert allows(grammar(dialect, tools), text, False) is may, text


@pytest.mark.parametrize("several", [{"type": ["string", "null"]}, {"anyOf": [{"type": "string"}, {"type": "null"}]}])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_value_may_be_of_several_types(dialect: str, several: dict[str, Any]) -> None:
    schema = {"type": "object", "properties": {"a": several}, "required": ["a"], "additionalProperties": False}
    tools = [{"type": "function", "function": {"name": "f", "parameters": schema}}]
    for value in ("x", None):
        text = DIALECTS[dialect].write([ToolCall(id="", name="f", arguments={"a": value})])
        assert allows(grammar(DIALECTS[dialect], tools), text, False), text
        parser = CallParser(DIALECTS[dialect], tools)
        assert calls(parser.feed(text) + parser.finish()) == [("f", {"a": value})]


CLOSING = ("\n</parameter>\n", "<escape>", '"', "}", "]")


@pytest.mark.parametrize("dialect", DIALECTS)
def test_whatever_the_grammar_lets_through_is_read_as_calls(dialect: str) -> None:
    source = grammar(DIALECTS[dialect], TOOLS, choice="required")
    for seed in range(3):
        chance, found, written = random.Random(seed), matcher(source), bytearray()
        while not found.is_stopped() and not (found.is_accepting() and chance.random() < 0.5) and len(written) < 3000:
            bias = found.compute_logit_bias()
            few = [tokens(end, False) for end in CLOSING]
            ends = [end for end in few if found.validate_tokens(end) == len(end) and chance.random() < 0.1]
            some = ends[0] if ends else [chance.choice([token for token in range(1, 257) if bias[token]])]
            assert found.consume_tokens(some)
            written += bytes(token - 1 for token in some)
        assert found.is_accepting(), written
        parts = read(DIALECTS[dialect], [written.decode()])
        assert calls(parts), written
        assert {name for name, _ in calls(parts)} <= {"weather", "weather_now", "now"}
        assert not said(parts), written
        for _, arguments in calls(parts):
            assert isinstance(arguments.get("place", ""), str)
            assert isinstance(arguments.get("days", 0), int | float)
            assert isinstance(arguments.get("exact", True), bool)
