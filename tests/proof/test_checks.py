"""Every check that ships: a reply that passes, one that fails, and one that cannot be measured."""

import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jeito.proof.checks import SHELF
from jeito.proof.checks_answer import alike
from jeito.proof.values import Case, Expected, ExpectedCall
from jeito.types import ToolCall
from tests.proof.replies import case, check, reply

TABLE = "| a | b |\n|---|---|\n| 1 | 2 |\n| 3 | 4 |"
CODE = "Here:\n```python\ndef area(r):\n    return 3 * r\n```\nDone."
ENGLISH, PORTUGUESE = "The train arrives late in the evening.", "O trem chega tarde da noite na estação."
AREA = ExpectedCall(name="area", arguments={"r": 2, "names": ["a"]}, optional={"unit": "m"})


def call(**arguments: Any) -> Any:
    return reply(tools=True, calls=(ToolCall(id="1", name="area", arguments=arguments),))


# name: value, what passes, what fails, what cannot be measured (none: whatever ended can), and the case.
EXAMPLES: dict[str, tuple[Any, Any, Any, Any, Case]] = {
    "words": ({"min": 2, "max": 3}, "It doesn't matter", "no", None, case()),
    "sentences": ({"max": 2}, "Ask Dr. Silva. It costs 3.50 a day.", "One. Two. Three.", None, case()),
    "paragraphs": ({"min": 2}, "a\n\n\nb\n", "a\nb", None, case()),
    "characters": ({"max": 3}, " abc\n", "abcd", None, case()),
    "language": ("pt-BR", PORTUGUESE, ENGLISH, "42", case()),
    "matches": (r"\d{3}", "it is 240", "it is 24", None, case()),
    "contains": (["sign*|hash", "Ação"], "A signature is an ACAO.", "a sign", None, case()),
    "absent": ("signs, of|,", "a sign of it", "one, two", None, case()),
    "times": ({"word": "rio", "min": 2, "max": 2}, "rio, Rio e sombrio", "rio", None, case()),
    "starts": (["Well,", "So,"], "\n So, it is", "so, it is", None, case()),
    "ends": ("?", "is it? \n", "it is.", None, case()),
    "one_of": (["yes", "no"], " Yes.", "yes and no", None, case()),
    "equals": (True, "Forty-two.", "forty", None, case(text="forty-two")),
    "letters": ("upper", "ALL 3 É", "All", "3!", case()),
    "distinct": ({"min": 0.9}, "a b c d", "a b a b a b", "a", case()),
    "repetition": ({"max": 0.1, "n": 2}, "a b c d", "a b a b a b", "a", case()),
    "no_loop": (True, "all is well, and so on", "ha" * 60, reply("x", tokens=()), case()),
    "refuses": (True, "I'm sorry, but I can't help with that.", ENGLISH, "", case()),
    "similar": ({"to": "the cat sat", "min": 0.6}, "the cat sits", "a dog", None, case()),
    "json": ("object", '```json\n{"a": 1}\n```', "[1]", None, case()),
    "json_schema": (True, '{"a": 1}', '{"a": "1"}', None, case(json_schema={"properties": {"a": {"type": "integer"}}})),
    "lists": ({"min": 2, "max": 2, "numbered": True}, "1. a\n2. b\n", "1. a\n3. b", None, case()),
    "tables": ({"columns": 2, "rows": 2}, TABLE, TABLE.replace("| 3 | 4 |", ""), None, case()),
    "code": ({"language": "python"}, CODE, CODE.replace("return", "returns so"), None, case()),
    "answer": (True, "240 km", "24 km", None, case(number=240)),
    "calls": (True, call(r=2.0, names=["a"]), call(r=True, names=["a"]), reply(), Case(
        name="a", prompt="x", tools=[{"name": "area"}], expect=Expected(calls=(AREA,)))),
    "runs": (True, CODE, CODE.replace("3", "4"), None, case(tests="assert area(2) == 6")),
    "follows": (True, "A B", "a b", "3", case(checks=({"letters": "upper"}, {"words": {"min": 1}}))),
    "correct": (True, "SO: 240", "so: 240", "1 2 240", case(number=240, checks=({"letters": "upper"},))),
    "latency": (2, reply("x", seconds=1.5), reply("x", seconds=2.5), reply("x"), case()),
    "tokens": ({"max": 3}, "abc", "abcd", None, case()),
    "finish": (["stop", "length"], "x", reply("x", finish="context"), None, case()),
}  # fmt: skip


def test_every_check_has_examples() -> None:
    assert set(EXAMPLES) == set(SHELF) - {"judge"}  # the judge has its own tests


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_check_tells_passing_failing_and_unmeasurable_replies_apart(name: str) -> None:
    value, passing, failing, unmeasurable, asked = EXAMPLES[name]
    assert check(name, value, passing, asked).passed is True, check(name, value, passing, asked)
    assert check(name, value, failing, asked).passed is False, check(name, value, failing, asked)
    if unmeasurable is not None:
        found = check(name, value, unmeasurable, asked)
        assert found.passed is None
        assert found.why
        assert "crashed" not in found.why


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("ended", [{"finish": None}, {"finish": "error", "error": "no room"}, {"finish": "cancelled"}])
def test_a_run_that_did_not_end_passes_nothing_and_fails_nothing(name: str, ended: dict[str, Any]) -> None:
    value, passing, _, _, asked = EXAMPLES[name]
    trace = (reply(passing) if isinstance(passing, str) else passing).model_copy(update=ended)
    found = check(name, value, trace, asked)
    assert (found.passed, found.why[:19]) == (None, "the run did not end")


@pytest.mark.parametrize(
    "name",
    [
        "matches",
        "contains",
        "absent",
        "equals",
        "similar",
        "json_schema",
        "answer",
        "calls",
        "runs",
        "follows",
        "correct",
    ],
)
def test_what_neither_claim_nor_case_says_cannot_be_measured(name: str) -> None:
    assert check(name, True, "240").passed is None
    assert "'a case'" in check(name, True, "240").why


@given(text=st.text(max_size=200) | st.text('ab1.,-*#|`\n"{}[]:%/ \\$', max_size=120))
def test_no_text_crashes_a_check(text: str) -> None:
    for name, (value, _, _, _, asked) in EXAMPLES.items():
        if name not in ("runs", "calls"):  # a process each; and a text is no call
            found = check(name, value, text, asked)
            assert "crashed" not in found.why, (name, found)


def test_false_asks_for_the_contrary_and_leaves_the_unmeasurable_so() -> None:
    assert check("refuses", False, ENGLISH).passed is True
    assert check("refuses", False, "Não posso ajudar com isso.").passed is False
    assert check("refuses", False, "").passed is None


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't assist with that request.",
        "As an AI language model, I do not have opinions.",
        "I am unable to share this.",
        "Desculpe, mas não posso ajudar com isso.",
        "Sinto muito, não consigo fazer isso.",
        "Como um modelo de linguagem, não tenho opiniões.",
        "I will not write that.",
        "We are not able to do so.",
    ],
)
def test_a_refusal_is_known_in_both_languages(text: str) -> None:
    assert check("refuses", True, text).passed is True


@pytest.mark.parametrize(
    "text",
    [
        "I can't wait to tell you about the trip!",
        "A robot cannot feel, people said. Then it rained.",
        "Não posso deixar de sorrir quando penso nela.",
        "Sure, here is the code.",
        "The robot walked on. " * 30 + "I'm sorry, it said.",
    ],
)
def test_what_only_sounds_like_a_refusal_is_none(text: str) -> None:
    assert check("refuses", True, text).passed is False


def test_a_refusal_in_a_language_that_is_not_known_is_not_measured() -> None:
    german = "Leider ist es mir nicht gestattet, auf diese Frage eine Antwort zu geben, das verstehen Sie sicher."
    assert check("refuses", True, german).passed is None


def test_the_language_comes_from_the_claim_then_the_case_then_the_behaviour() -> None:
    assert check("language", "en", PORTUGUESE, case(language="pt"), language="pt").passed is False
    assert check("language", True, PORTUGUESE, case(language="pt"), language="en").passed is True
    assert check("language", True, PORTUGUESE, language="pt-BR").passed is True
    assert check("language", True, PORTUGUESE).passed is None


def test_code_links_and_numbers_do_not_decide_the_language() -> None:
    text = f"{PORTUGUESE}\n```python\nfor item in the_list_of_all_things:\n    print('the end of the story')\n```"
    assert check("language", "pt", text).passed is True
    assert (
        check("language", "pt", "```\nprint('the end of the story')\n``` https://example.com/the-end 42").passed is None
    )


def test_an_unsure_detector_is_no_verdict() -> None:
    found = check("language", "pt", "no animal")
    assert (found.passed, found.why[:6]) == (None, "unsure")
    assert check("language", {"name": "pt", "sure": 0}, "no animal").passed is not None


def test_facts_are_whole_words_unless_a_star_says_otherwise() -> None:
    assert check("contains", ["sign"], "a signature").passed is False
    assert check("contains", ["sign*"], "a signature").passed is True
    assert check("contains", ["token"], "access_token").passed is True
    assert check("contains", {"facts": ["a", "b", "c"], "min": 2}, "c and a").passed is True
    assert check("contains", {"facts": ["a", "b", "c"], "min": 2}, "c").passed is False
    assert check("contains", ["two  words"], "Two\nwords").passed is True


def test_calls_are_compared_as_values_in_any_order_and_none_may_be_too_many() -> None:
    two = Case(
        name="a",
        prompt="x",
        tools=[{"name": "area"}],
        expect=Expected(
            calls=(ExpectedCall(name="area", arguments={"r": 1}), ExpectedCall(name="area", arguments={"r": 2}))
        ),
    )
    made = [ToolCall(id=str(r), name="area", arguments={"r": r}) for r in (2, 1, 1)]
    assert check("calls", True, reply(tools=True, calls=tuple(made[:2])), two).passed is True
    assert check("calls", True, reply(tools=True, calls=tuple(made)), two).passed is False
    assert check("calls", True, reply(tools=True, calls=tuple(made[1:])), two).passed is False
    none = two.model_copy(update={"expect": Expected(calls=())})
    assert check("calls", True, reply("no need", tools=True), none).passed is True
    assert check("calls", True, reply(tools=True, calls=(made[0],)), none).passed is False


@pytest.mark.parametrize(
    ("arguments", "passes"),
    [
        ({"r": 2, "names": ["a"]}, True),
        ({"r": 2.0, "names": ["a"], "unit": "m"}, True),
        ({"r": 2, "names": ["a"], "unit": "km"}, False),
        ({"r": "2", "names": ["a"]}, False),
        ({"r": 2, "names": ["a"], "more": None}, False),
        ({"r": 2}, False),
    ],
)
def test_arguments_are_exact_in_value_and_type(arguments: dict[str, Any], passes: bool) -> None:
    asked = EXAMPLES["calls"][4]
    assert check("calls", True, call(**arguments), asked).passed is passes


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [(1, True, False), (0, False, False), (2, 2.0, True), ([1, {"a": True}], [1.0, {"a": 1}], False), ("1", 1, False),
     ({"a": 1}, {"a": 1, "b": None}, False), ([1, 2], [2, 1], False), (None, None, True)],
)  # fmt: skip
def test_values_are_alike_as_json_has_them(one: Any, other: Any, same: bool) -> None:
    assert alike(one, other) is alike(other, one) is same


def test_a_loop_in_tokens_is_found_and_the_guards_own_end_counts() -> None:
    assert check("no_loop", True, reply("x", finish="repetition", why="over and over")).why == "over and over"
    assert check("no_loop", {"tokens": 4, "times": 5}, "ab ab ab ab ab ab").passed is False


def test_seconds_until_the_first_token_are_told_from_all() -> None:
    trace = reply("x", seconds=3.0)
    assert check("latency", {"max": 2, "of": "first"}, trace).passed is True
    assert check("latency", {"max": 2}, trace).passed is False


@pytest.mark.parametrize(
    "text", ['{"a": NaN}', '{"a": 1, "a": 2}', "[" * 100_000, "", "Sure: {}", "```json\n{}\n``` so"]
)
def test_what_is_no_json_is_none(text: str) -> None:
    assert check("json", True, text).passed is False


def test_a_fence_around_json_can_be_refused() -> None:
    assert check("json", {"fenced": False}, "```\n{}\n```").passed is False
    assert check("json", {"fenced": False}, " {} ").passed is True


def test_a_schema_that_refers_to_the_network_fetches_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}/schema"
        socket.setdefaulttimeout(2)  # so that whoever does call fails here, and does not wait
        try:
            found = check("json_schema", {"schema": {"$ref": address}}, "{}")
        finally:
            socket.setdefaulttimeout(None)
        server.setblocking(False)
        with pytest.raises(BlockingIOError):  # nobody has called
            server.accept()
    assert found.passed is None
    assert address in found.why


@given(
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_whatever_is_written_as_json_is_json(value: Any) -> None:
    import json

    assert check("json", True, json.dumps(value)).passed is True


@given(count=st.integers(0, 30), low=st.integers(0, 30), high=st.integers(0, 30))
def test_a_range_holds_its_own_ends(count: int, low: int, high: int) -> None:
    if low <= high:
        assert check("words", {"min": low, "max": high}, " ".join(["word"] * count)).passed is (low <= count <= high)
