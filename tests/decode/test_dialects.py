"""How families write calls and reasoning: found out, and read however the text is cut."""

from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jeito.decode.call_parser import CallArguments, CallBegan, CallEnded, CallParser, Part, Said, Unreadable
from jeito.decode.dialects import DIALECTS, PLAIN, detect
from jeito.decode.text import TextStream
from jeito.errors import BehaviourError
from jeito.types import ToolCall
from tests.decode.calls import THINK, WRITERS, calls, cases, of, read, said, thinking


def whole(parts: Iterable[Part]) -> list[Part]:
    """Parts with neighbours of one kind joined: what does not depend on how the text was cut."""
    joined: list[Part] = []
    for part in parts:
        last = joined[-1] if joined else None
        if isinstance(part, Said) and isinstance(last, Said) and part.channel == last.channel:
            joined[-1] = Said(part.channel, last.text + part.text)
        elif isinstance(part, CallArguments) and isinstance(last, CallArguments) and part.index == last.index:
            joined[-1] = CallArguments(part.index, last.piece + part.piece)
        else:
            joined.append(part)
    return joined


@pytest.mark.parametrize("dialect", WRITERS)
def test_the_published_forms_are_read(dialect: str) -> None:
    for case in of(dialect):
        parts = read(thinking(dialect), [case.text], case.prompt)
        assert calls(parts) == case.calls, case
        assert (said(parts), said(parts, "reasoning")) == (case.answer, case.reasoning), case
        assert not any(isinstance(part, Unreadable) for part in parts)


def test_every_dialect_has_published_forms_to_be_read() -> None:
    assert WRITERS.keys() == DIALECTS.keys()
    assert sum(1 for _ in cases()) >= 300


@pytest.mark.parametrize("dialect", WRITERS)
def test_wherever_a_text_is_cut_the_parts_are_the_same(dialect: str) -> None:
    for case in of(dialect):
        one_by_one = whole(read(thinking(dialect), case.text, case.prompt))
        data = case.text.encode()
        for at in range(len(data) + 1):
            stream = TextStream()
            pieces = [stream.push(data[:at]), stream.push(data[at:]), stream.finish()]
            assert whole(read(thinking(dialect), pieces, case.prompt)) == one_by_one, (case, at)


@pytest.mark.parametrize("dialect", WRITERS)
def test_the_pieces_of_arguments_are_the_json_of_the_call(dialect: str) -> None:
    for case in of(dialect):
        parts = whole(read(thinking(dialect), case.text, case.prompt))
        for index, part in enumerate(part for part in parts if isinstance(part, CallEnded)):
            began, pieces, ended = (one for one in parts if getattr(one, "index", None) == index)
            assert isinstance(began, CallBegan)
            assert isinstance(pieces, CallArguments)
            assert ended == part
            assert began.name == part.call.name
            again = f'<tool_call>{{"name": "{began.name}", "arguments": {pieces.piece}}}</tool_call>'
            assert calls(read(PLAIN, [again])) == [(part.call.name, part.call.arguments)]


def test_arguments_come_as_they_are_written() -> None:
    parser = CallParser(PLAIN)
    assert parser.feed('Wait. <tool_call>{"name": "f", "arguments": ') == [Said("answer", "Wait.")]
    assert parser.feed('{"a": "x') == [CallBegan(0, "f"), CallArguments(0, '{"a": "x')]
    assert parser.feed('y"}') == [CallArguments(0, 'y"}')]
    assert parser.feed("}") == [CallEnded(0, ToolCall(id="call-0", name="f", arguments={"a": "xy"}))]


@pytest.mark.parametrize("dialect", WRITERS)
def test_a_text_that_breaks_off_says_so_and_loses_nothing_before(dialect: str) -> None:
    for case in of(dialect)[:4]:
        for at in range(len(case.text)):
            parts = read(thinking(dialect), [case.text[:at]], case.prompt)
            done = calls(parts)
            assert done == case.calls[: len(done)]
            broken = [part for part in parts if isinstance(part, Unreadable)]
            begun = sum(isinstance(part, CallBegan) for part in parts)
            assert len(broken) <= 1
            assert begun == len(done) + sum(part.index is not None for part in broken)


@pytest.mark.parametrize(
    ("dialect", "text", "why"),
    [
        ("hermes", '<tool_call>{"name": "f", "arguments": {"a": }}</tool_call>', "no JSON"),
        ("hermes", '<tool_call>{"name": "f", "arguments": {"a": 1}</tool_call>', "'<' stands where"),
        ("hermes", '<tool_call>{"name": "f", "arguments": {"a": 1</tool_call>', "a mark"),
        ("hermes", '<tool_call>{"name": "f", "arguments": [1]}</tool_call>', "no object"),
        ("hermes", '<tool_call>{"name": "f", "arguments": {"a": NaN}}</tool_call>', "no JSON"),
        ("hermes", '<tool_call>{"name": "f", "arguments": {"a": 1e999}}</tool_call>', "cannot be used"),
        ("hermes", '<tool_call>{"name": "f", "arguments": {"a": "\\ud800"}}</tool_call>', "half a character"),
        ("hermes", '<tool_call>{"name": "f", "arguments": {}, "arguments": {}}</tool_call>', "twice"),
        ("hermes", '<tool_call>{"name": "f", "arguments": ' + "[" * 99 + "</tool_call>", "nested"),
        ("hermes", '<tool_call>{"arguments": {}}</tool_call>', "no tool"),
        ("hermes", "<tool_call>f(a=1)</tool_call>", "'f' stands where '{' should"),
        ("mistral-args", "[TOOL_CALLS]no name[ARGS]{}", "no name"),
        ("mistral-args", "[TOOL_CALLS]" + "n" * 300, "no arguments"),
        ("qwen3-coder", "<tool_call><parameter=a>1</parameter></function></tool_call>", "<function="),
        ("functiongemma", "<start_function_call>weather{}<end_function_call>", "call:NAME"),
        ("llama", '<|python_tag|>brave_search.call(query="x")', "stands where"),
    ],
)
def test_a_call_that_cannot_be_read_is_told_with_its_reason(dialect: str, text: str, why: str) -> None:
    parts = read(DIALECTS[dialect], [text])
    assert not calls(parts)
    (broken,) = (part for part in parts if isinstance(part, Unreadable))
    assert broken.text == text
    assert why in broken.why
    assert not said(parts)


def test_after_a_broken_call_the_next_one_is_read() -> None:
    good = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'
    for bad in ('<tool_call>{"name" "f"}</tool_call>', '<tool_call>{"name": "f", "arguments": {"a": ', "<tool_call>"):
        parts = read(PLAIN, [f"a {bad}{good} b"])
        assert calls(parts) == [("f", {})], bad
        assert said(parts) == "ab"
        assert [part.text for part in parts if isinstance(part, Unreadable)] == [bad]


def test_marks_inside_of_strings_are_letters() -> None:
    inside = "</tool_call><tool_call>[TOOL_CALLS]<think>"
    for dialect in DIALECTS.values():
        call = ToolCall(id="", name="weather", arguments={"place": inside})
        assert calls(read(dialect, [dialect.write([call, call])])) == [("weather", {"place": inside})] * 2, dialect.name


@pytest.mark.parametrize(
    ("dialect", "text"),
    [
        ("llama", '{"name": "Ada", "age": 36}'),
        ("llama", '{"name": "no_such_tool", "parameters": {}}'),
        ("llama", "{x} is a set; {"),
        ("llama", 'Here: {"name": "now", "parameters": {}}'),
        ("pythonic", "[1, 2, 3]"),
        ("pythonic", "[link](https://example.org) and [now"),
        ("pythonic", "[no_such_tool(a=1)]"),
        ("pythonic", "I would call [now()]"),
        ("functionary", ">>> print({1: 2})\n{"),
        ("functionary", ">>>> now"),
        ("hermes", "a < b, <tool, </tool_call>, <b>bold</b> <tool_calls"),
        ("hermes", "Use <think> tags, said he. </think>"),
        ("deepseek-v3", "```json\n{}\n```"),
    ],
)
def test_text_that_looks_like_a_call_and_is_none_is_text(dialect: str, text: str) -> None:
    for start in ("", " \n"):
        parts = read(thinking(dialect), start + text)
        assert said(parts) == start + text
        assert not calls(parts)


def test_a_python_call_may_write_its_values_either_way() -> None:
    text = """[weather(place='it\\'s "x" \\u00e9', tags=["a", 'b=c'], exact=True,), now()]"""
    expected = [("weather", {"place": 'it\'s "x" é', "tags": ["a", "b=c"], "exact": True}), ("now", {})]
    assert calls(read(DIALECTS["pythonic"], [text])) == expected


def test_arguments_written_as_json_in_a_string_are_read() -> None:
    text = '<tool_call>{"name": "f", "arguments": "{\\"a\\": 1}"}</tool_call>'
    assert calls(read(PLAIN, [text])) == [("f", {"a": 1})]


def test_a_value_in_a_tag_has_the_type_that_the_tool_declares() -> None:
    def form(value: str) -> str:
        return (
            f"<tool_call>\n<function=weather>\n<parameter=place>\n{value}\n</parameter>\n<parameter=days>\n5\n"
            f"</parameter>\n<parameter=exact>\nTrue\n</parameter>\n</function>\n</tool_call>"
        )

    for value in ("5", "true", "null", "[1]", " x\n\ny "):
        assert calls(read(DIALECTS["qwen3-coder"], [form(value)])) == [
            ("weather", {"place": value, "days": 5, "exact": True})
        ]


def test_ids_are_the_models_own_else_ours_and_number_on_through_the_conversation() -> None:
    def ids(name: str, text: str, first: int) -> list[str]:
        parser = CallParser(DIALECTS[name], first=first)
        return [part.call.id for part in parser.feed(text) + parser.finish() if isinstance(part, CallEnded)]

    two = '{"name": "f", "arguments": {}}, {"name": "f", "arguments": {}, "id": "AbCdEf123"}]'
    assert ids("mistral", "[TOOL_CALLS][" + two, 3) == ["call00003", "AbCdEf123"]
    assert ids("mistral-args", "[TOOL_CALLS]f[CALL_ID]abcdefghi[ARGS]{}[TOOL_CALLS]f{}", 0) == [
        "abcdefghi", "call00001",
    ]  # fmt: skip
    assert ids("granite", "<|tool_call|>[" + two, 1) == ["call-1", "AbCdEf123"]
    assert DIALECTS["mistral"].fitting("call-12") == "000call12"
    assert DIALECTS["hermes"].fitting("call-12") == "call-12"


def test_reasoning_that_the_prompt_opened_ends_with_its_mark() -> None:
    text = "I think <tool_call>\n</think>\n\nIt is warm."
    for prompt in ("…<think>\n", "…<think>"):
        parts = read(thinking("hermes"), [text], prompt)
        assert (said(parts, "reasoning"), said(parts)) == ("I think <tool_call>", "It is warm.")
    closed = read(thinking("hermes"), ["It is warm."], "…<think>\n\n</think>\n\n")
    assert (said(closed, "reasoning"), said(closed)) == ("", "It is warm.")


def test_reasoning_without_an_end_is_all_reasoning() -> None:
    parts = read(detect("[/THINK]", name="mistral"), ["[THINK]on and on \n"])
    assert whole(parts) == [Said("reasoning", "on and on \n")]


MARKS = sorted({mark for dialect in DIALECTS.values() for mark in dialect.marks} | set(THINK))
SCRAPS = [
    *MARKS, '{"name": "now", "arguments": {', '{"name": "now", "parameters": {}}', "[now(", "now", "}", "]", ")",
    '"', "'", "\\", "{", "[", "(", ",", ";", "a=", ":", "\n", " ", "é", "🌧", "call:now{", "<escape>", "[ARGS]",
    "[CALL_ID]", "```json", "<｜tool▁sep｜>", "<function=now>", "<parameter=a>", "</parameter>", ">>>", "1e999",
    "\\ud800", "\x00", "٣",
]  # fmt: skip
ANYTHING = st.lists(st.sampled_from(SCRAPS) | st.text(max_size=4), max_size=25).map("".join)


@settings(max_examples=600, deadline=None)
@given(st.sampled_from(sorted(DIALECTS)), ANYTHING, st.data())
def test_no_text_is_too_much_and_no_cut_matters(name: str, text: str, data: st.DataObject) -> None:
    dialect = thinking(name)
    prompt = data.draw(st.sampled_from(["", "<think>\n", dialect.opens[0]]))
    at = data.draw(st.integers(0, len(text)))
    parts = whole(read(dialect, [text[:at], text[at:]], prompt))
    assert parts == whole(read(dialect, text, prompt))
    heard = said(parts) + said(parts, "reasoning")
    assert not any(part.text == "" for part in parts if isinstance(part, Said | Unreadable))
    if not prompt and not any(mark in text for mark in (*dialect.marks, dialect.bare or "<think>")):
        assert heard == text
    if not calls(parts):
        # Nothing is lost but marks and white space next to them.
        left = text if prompt != dialect.opens[0] else prompt + text
        kept = "".join(part.text for part in parts if isinstance(part, Said | Unreadable))
        assert subsequence("".join(kept.split()), left)
        for mark in sorted(dialect.marks, key=len, reverse=True):
            left, kept = left.replace(mark, ""), kept.replace(mark, "")
        if not any(mark in left for mark in dialect.marks):
            assert "".join(kept.split()) == "".join(left.split())


def subsequence(short: str, long: str) -> bool:
    rest = iter(long)
    return all(character in rest for character in short)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(DIALECTS)), st.text(st.characters(codec="utf-8", exclude_characters="<[{>H")))
def test_plain_text_comes_through_whole(name: str, text: str) -> None:
    assert said(read(thinking(name), [text])) == text
    assert said(read(thinking(name), text)) == text


TEMPLATES = {
    "functiongemma": "{{ tools }}<start_function_call>call:",
    "deepseek-v3": "{% if tools %}'<｜tool▁call▁begin｜>' + type + '<｜tool▁sep｜>' + name + '\\n```json\\n'",
    "deepseek-v3.1": "{% if tools %}'<｜tool▁call▁begin｜>'+ name + '<｜tool▁sep｜>'",
    "mistral-args": "{% if tools %}[TOOL_CALLS]' + name + '[ARGS]",
    "mistral": "{% if tools %}[AVAILABLE_TOOLS]…[TOOL_CALLS][",
    "phi4": "{% if tools %}<|tool|>…<|tool_call|>{}<|/tool_call|>",
    "granite": "{% if tools %}respond only with <|tool_call|> followed by a JSON list of tools used",
    "functionary": "{% if tools %}'>>>all\\n' + message.content",
    "qwen3-coder": "{% if tools %}<tool_call>\n<function=example>\n<parameter=a>",
    "function-tag": "{% if tools %}<{start_tag}={function_name}> start_tag => `<function`, <function=example>",
    "hermes": '{% if tools %}<tool_call>\n{"name": <function-name>}\n</tool_call> \'"parameters": \' tool_calls',
    "lfm2": "{% if tools %}<|tool_list_start|>[",
    "pythonic": "{% if tools %}[func_name1(params_name1=params_value1, …), func_name2(params)] tool_calls",
    "llama": "{% if tools %}Environment: ipython {% if 'tool_calls' in message %}'\"parameters\": '",
    "plain": "{% if tools %}<tool_call>{name}\n<arg_key>",
}


@pytest.mark.parametrize("name", DIALECTS)
def test_a_dialect_is_known_by_its_template(name: str) -> None:
    assert detect(TEMPLATES[name]).name == name


def test_templates_of_families_that_are_not_known_are_no_other_familys() -> None:
    for template in (
        '{{ tools }} \'<|START_ACTION|>[{"tool_name": "\' + name + \'", "parameters": \' tool_calls',
        "{{ tools }} <seed:tool_call><function=name><parameter=a>",
        "{{ tools }} <|tool_calls_section_begin|> tool_calls",
        "{{ tools }} <|channel|>commentary json<|message|>",
    ):
        assert detect(template).name == "plain"


def test_a_template_that_never_speaks_of_tools_has_the_plain_dialect() -> None:
    assert detect("{{ messages }}", ["<tool_call>", "</tool_call>"]).name == "plain"
    assert detect(None).name == "plain"
    assert detect("{{ tools }}", ["<tool_call>", "</tool_call>"]).name == "hermes"


def test_marks_of_reasoning_are_found_in_the_template_or_among_the_tokens() -> None:
    assert detect("{{ '</think>' }}").reasoning == ("<think>", "</think>")
    assert detect("", ["[THINK]", "[/THINK]"]).reasoning == ("[THINK]", "[/THINK]")
    assert detect("{{ tools }}").reasoning is None
    assert detect("</think>", name="mistral").reasoning == ("<think>", "</think>")


def test_an_unknown_dialect_names_the_nearest() -> None:
    assert detect("", name="llama").name == "llama"
    with pytest.raises(BehaviourError, match="'mistrall'") as raised:
        detect("", name="mistrall")
    assert "mistral" in raised.value.hint
