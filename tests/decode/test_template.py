"""A conversation as a prompt: by the model's own template, in a sandbox."""

import pytest

from jeito.decode.template import Template
from jeito.errors import ModelError
from jeito.types import Message

CHATML = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</>{% endfor %}{% if add_generation_prompt %}<a>{% endif %}"
)
NO_SYSTEM = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system here') }}{% endif %}"
    "[{{ m.content }}]{% endfor %}"
)
ASK = Message(role="user", content="hi")


def test_turns_are_rendered_up_to_where_the_reply_begins() -> None:
    assert (
        Template(CHATML, {}).render([ASK, Message(role="assistant", content="yo")]) == "<user>hi</><assistant>yo</><a>"
    )


def test_a_system_role_is_found_by_trying() -> None:
    assert Template(CHATML, {}).has_system
    assert not Template(NO_SYSTEM, {}).has_system
    assert not Template("{{ messages[-1].content }}", {}).has_system


@pytest.mark.parametrize(
    ("placement", "source", "expected", "stands"),
    [
        ("system", CHATML, "<system>be brief</><user>hi</><a>", "system"),
        ("user_start", CHATML, "<user>be brief\n\nhi</><a>", "user_start"),
        ("user_end", CHATML, "<user>hi\n\nbe brief</><a>", "user_end"),
        ("system", NO_SYSTEM, "[be brief\n\nhi]", "user_start"),
    ],
)
def test_the_instruction_stands_where_it_was_placed_or_where_it_can(
    placement: str, source: str, expected: str, stands: str
) -> None:
    template = Template(source, {})
    turns, where = template.place([ASK], "be brief", placement)  # type: ignore[arg-type]
    assert template.render(turns) == expected
    assert where == stands


def test_in_a_conversation_the_end_is_the_last_question_and_the_start_the_first() -> None:
    template = Template(CHATML, {})
    turns = [ASK, Message(role="assistant", content="yo"), Message(role="user", content="more")]
    at_end, _ = template.place(turns, "X", "user_end")
    assert [turn.content for turn in at_end] == ["hi", "yo", "more\n\nX"]
    at_start, _ = template.place(turns, "X", "user_start")
    assert [turn.content for turn in at_start] == ["X\n\nhi", "yo", "more"]


def test_without_an_instruction_nothing_is_added() -> None:
    assert Template(CHATML, {}).place([ASK], "", "system") == ([ASK], "system")


def test_a_model_without_a_template_gets_plain_turns() -> None:
    template = Template(None, {"eos_token": "<e>"})
    assert template.name == "plain-turns"
    assert template.render([ASK, Message(role="assistant", content="yo")]) == "hi<e>yo<e>"
    assert template.place([ASK], "be brief", "system")[1] == "user_start"


def test_a_broken_template_is_named_with_its_line() -> None:
    with pytest.raises(ModelError, match="line 2"):
        Template("ok\n{% for %}", {}).render([ASK])


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{% for i in range(99999999) %}x{% endfor %}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{{ (''|attr('__class__')).x }}",
        "{{ raise_exception.__globals__['json'].x }}",
        "{{ messages[0].update({'role': 'system'}) }}",
        "{% include '/etc/passwd' %}",
        "{{ 1 / 0 }}",
        "{{ messages | dictsort }}",
        "{{ 'x' | no_such_filter }}",
        "{{ messages[7].content }}",
        "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
        "{% for a in [1] %}" * 25 + "{% endfor %}" * 25,
        "{{ raise_exception('never') }}",
    ],
)
def test_a_template_that_breaks_out_or_fails_is_an_error_of_ours(source: str) -> None:
    with pytest.raises(ModelError):
        Template(source, {}).render([ASK])


def test_a_format_string_reaches_no_attribute_either() -> None:
    with pytest.raises(ModelError):
        Template("{{ '{0.__class__.__mro__}'.format('') }}", {}).render([ASK])
    assert "class" not in Template("{{ '{0.__class__}'.format('') }}", {}).render([ASK])


def test_a_template_that_refuses_a_conversation_says_why() -> None:
    with pytest.raises(ModelError, match="refuses this conversation: no system here"):
        Template(NO_SYSTEM, {}).render([Message(role="system", content="be brief"), ASK])


def test_tojson_writes_what_models_were_trained_on() -> None:
    assert Template("{{ messages[0].content | tojson }}", {}).render([Message(role="user", content="<é>")]) == '"<é>"'


@pytest.mark.parametrize(
    ("style", "expected"),
    [
        ("", '{"b": "é", "a": [1]}'),
        ("separators=(',', ':')", '{"b":"é","a":[1]}'),
        ("sort_keys=true", '{"a": [1], "b": "é"}'),
        ("indent=1", '{\n "b": "é",\n "a": [\n  1\n ]\n}'),
        ("true", '{"b": "\\u00e9", "a": [1]}'),
    ],
)
def test_tojson_takes_the_styles_that_transformers_takes(style: str, expected: str) -> None:
    source = "{{ {'b': 'é', 'a': [1]} | tojson(" + style + ") }}"
    assert Template(source, {}).render([ASK]) == expected


def test_blocks_leave_no_blank_lines_and_special_tokens_have_their_texts() -> None:
    source = "{{ bos_token }}\n  {% for m in messages %}\n{{ m.content }}\n  {% endfor %}\n{{ eos_token }}"
    assert Template(source, {"bos_token": "<s>", "eos_token": "</s>"}).render([ASK]) == "<s>\nhi\n</s>"


def test_an_instruction_that_moved_is_noted_and_one_that_stays_is_not() -> None:
    assert Template(CHATML, {}).placement("system") == ("system", None)
    assert Template(NO_SYSTEM, {}).placement("user_end") == ("user_end", None)
    where, note = Template(NO_SYSTEM, {}).placement("system")
    assert where == "user_start"
    assert "no system role" in (note or "")


def test_an_instruction_without_a_question_is_the_question() -> None:
    turns, where = Template(CHATML, {}).place([], "begin", "user_end")
    assert ([turn.content for turn in turns], where) == (["begin"], "user_start")
