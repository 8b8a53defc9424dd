"""Cases from files, and the errors that name where they are wrong."""

from pathlib import Path

import pytest

from jeito.errors import InputError
from jeito.proof.cases import load_cases
from jeito.proof.values import Case, Expected, ExpectedCall
from jeito.types import Message

GOOD = """\
# Two of them.
- name: trains
  prompt: How far?
  expect: {number: 240, unit: km, tolerance: 0.5}
  tags: [en]
- messages:
    - {role: user, content: Olá}
    - {role: assistant, content: Oi}
    - {role: user, content: Liga para a Ana}
  tools: [{type: function, function: {name: call, parameters: {type: object}}}]
  expect:
    calls: [{name: call, arguments: {who: Ana}}]
  labels: [{reply: Feito., passes: true}]
"""


def test_cases_are_read_from_yaml(tmp_path: Path) -> None:
    path = tmp_path / "cases.yaml"
    path.write_text(GOOD)
    one, other = load_cases(str(path))
    assert one == Case(
        name="trains", prompt="How far?", tags=("en",), expect=Expected(number=240, unit="km", tolerance=0.5)
    )
    assert (other.name, other.ask[1]) == ("2", Message(role="assistant", content="Oi"))
    assert other.expect.calls == (ExpectedCall(name="call", arguments={"who": "Ana"}),)
    assert other.labels[0].passes
    path.write_text("cases:\n" + GOOD.replace("\n", "\n  "))
    assert load_cases(str(path)) == (one, other)


def test_cases_are_read_from_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "cases.jsonl"
    path.write_text('{"prompt": "a"}\n\n{"name": "b", "prompt": "b", "expect": {"contains": ["x|y"]}}\n')
    assert [(case.name, case.expect.contains) for case in load_cases(str(path))] == [("1", ()), ("b", ("x|y",))]


def test_a_digest_is_of_all_that_a_case_holds() -> None:
    one = Case(name="a", prompt="x")
    assert one.digest == Case(name="a", prompt="x").digest
    assert len({one.digest, *(each.digest for each in (
        Case(name="b", prompt="x"), Case(name="a", prompt="y"), Case(name="a", prompt="x", expect=Expected(number=0)),
        Case(name="a", prompt="x", expect=Expected(calls=())), Case(name="a", prompt="x", tools=({"name": "t"},)),
    ))}) == 6  # fmt: skip


def test_what_is_expected_is_told_by_name() -> None:
    assert Expected().kinds == []
    assert Expected(number=0, unit="km", tolerance=1.0).kinds == ["number"]
    assert Expected(calls=(), contains=("a",)).kinds == ["contains", "calls"]


# name: file, its text, where, the sentence, the hint.
BAD = {
    "no file": (None, "", "", "there is no file", "a family: train"),
    "no cases": ("a.yaml", "[]\n", "1:1", "there are no cases", "- {name: one"),
    "nothing at all": ("a.jsonl", "\n", "1:1", "there are no cases", "- {name: one"),
    "a map": ("a.yaml", "prompt: x\n", "1:1", "cases are a list", "- prompt"),
    "a text": ("a.yaml", "- hello\n", "1:3", "a case is a map, not 'hello'", "{prompt: …}"),
    "not YAML": ("a.yaml", "- {prompt: x\n", "2:1", "this is not YAML", "quotes"),
    "not JSON": ("a.jsonl", '{"prompt": "a"}\n{"prompt": \n', "2:12", "this is not JSON", "one object a line"),
    "an unknown field": ("a.yaml", "- prompt: x\n  promt: y\n", "2:3", "a case has no 'promt'", "did you mean prompt"),
    "an unknown expectation": (
        "a.yaml",
        "- prompt: x\n  expect:\n    numbr: 3\n",
        "3:5",
        "no 'expect.numbr'",
        "did you mean number",
    ),
    "an unknown argument of a call": (
        "a.yaml",
        "- prompt: x\n  expect: {calls: [{name: a, args: {}}]}\n",
        "2:30",
        "no 'expect.calls.0.args'",
        "arguments",
    ),
    "text for a number": (
        "a.yaml",
        "- prompt: x\n  expect: {number: '3'}\n",
        "2:12",
        "expect.number: Input",
        "docs/checks.md",
    ),
    "nothing asked": ("a.yaml", "- name: x\n", "1:3", "either a prompt or messages", "docs/checks.md"),
    "asked twice": (
        "a.jsonl",
        '{"prompt": "x", "messages": [{"role": "user", "content": "y"}]}',
        "1:1",
        "either a prompt",
        "docs",
    ),
    "two of one name": (
        "a.yaml",
        "- {name: a, prompt: x}\n- prompt: y\n  name: a\n",
        "3:3",
        "a second case is called 'a'",
        "a.yaml:1:3",
    ),
    "a number for a name": (
        "a.yaml",
        "- {prompt: x}\n- {name: '1', prompt: y}\n",
        "2:4",
        "a second case is called '1'",
        "1:3",
    ),
    "in and out": (
        "a.yaml",
        "- prompt: x\n  expect: {contains: [Água], absent: [agua]}\n",
        "2:3",
        "'agua' is expected and must be absent",
        "remove it",
    ),
    "a text without its fact": (
        "a.yaml",
        "- prompt: x\n  expect: {text: yes, contains: [no]}\n",
        "2:3",
        "the text 'yes' does not name 'no'",
        "leave one",
    ),
    "a text with another number": (
        "a.yaml",
        "- prompt: x\n  expect: {text: It is 4., number: 3}\n",
        "2:3",
        "does not name '3'",
        "leave one",
    ),
    "checks that no reply meets": (
        "a.yaml",
        "- prompt: x\n  expect: {checks: [{words: {max: 3}}, {words: {min: 9}}]}\n",
        "2:3",
        "no reply meets both words and words: at least 9 and at most 3",
        "remove one",
    ),
    "a text with what is banned": (
        "a.yaml",
        "- prompt: x\n  expect: {text: 'yes!', absent: ['!']}\n",
        "2:3",
        "the text 'yes!' names '!'",
        "leave one",
    ),
    "a call of nothing": (
        "a.yaml",
        "- prompt: x\n  expect: {calls: [{name: a}]}\n",
        "2:3",
        "'a' is of no tool that is offered",
        "tools:",
    ),
    "a call of another tool": (
        "a.yaml",
        "- prompt: x\n  tools: [{name: area}]\n  expect: {calls: [{name: aera}]}\n",
        "3:3",
        "'aera' is of no tool",
        "did you mean area",
    ),
    "a call and a number": (
        "a.yaml",
        "- prompt: x\n  tools: [{name: a}]\n  expect: {number: 3, calls: [{name: a}]}\n",
        "3:3",
        "a call is expected, and beside it number",
        "a call or an answer",
    ),
    "an argument twice": (
        "a.yaml",
        "- prompt: x\n  tools: [{name: a}]\n  expect: {calls: [{name: a, arguments: {b: 1}, optional: {b: 2}}]}\n",
        "3:3",
        "'b' is both an argument and optional",
        "keep one",
    ),
    "an unknown check": (
        "a.yaml",
        "- prompt: x\n  expect: {checks: [{wrods: {max: 3}}]}\n",
        "2:3",
        "no check is called 'wrods'",
        "words",
    ),
    "a broken regex": (
        "a.yaml",
        "- prompt: x\n  expect: {regex: '('}\n",
        "2:3",
        "no regular expression",
        "docs/checks.md",
    ),
    "a broken schema": (
        "a.yaml",
        "- prompt: x\n  expect: {json_schema: {type: 3}}\n",
        "2:3",
        "no JSON Schema",
        "docs/checks.md",
    ),
    "an odd language": (
        "a.yaml",
        "- prompt: x\n  expect: {language: pt-BR}\n",
        "2:12",
        "expect.language",
        "docs/checks.md",
    ),
    "one JSON file": ("a.json", "[]", "", "written as .yaml or .jsonl", "one JSON object a line"),
}


@pytest.mark.parametrize("name", BAD)
def test_each_bad_file_is_refused_at_its_place_with_a_hint(name: str, tmp_path: Path) -> None:
    file, text, place, sentence, hint = BAD[name]
    path = tmp_path / (file or "none.yaml")
    if file:
        path.write_text(text)
    with pytest.raises(InputError) as refused:
        load_cases(str(path))
    assert sentence in str(refused.value)
    assert hint in refused.value.hint
    assert not place or str(refused.value).startswith(f"{path}:{place}: "), str(refused.value)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cases.yaml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="cannot be read as text"):
        load_cases(str(path))
