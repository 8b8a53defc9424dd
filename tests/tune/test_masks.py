"""What of a conversation is learned: what the assistant said, whatever template writes it."""

import re

import pytest

from jeito.decode.template import PLAIN_TURNS, Template
from jeito.errors import ModelError
from jeito.tune.data import Example
from jeito.tune.masks import Text, texts_of
from jeito.types import Message, ToolCall
from tests.decode.calls import TOOLS
from tests.decode.test_template import CHATML as UNMARKED
from tests.decode.test_template import NO_SYSTEM
from tests.decode.test_tool_prompts import ENDS

ASK, MORE = Message(role="user", content="How warm is it?"), Message(role="user", content="And now?")
WARM, COLD = Message(role="assistant", content="It is warm."), Message(role="assistant", content="It is cold.")
CALLS = (
    ToolCall(id="call00000", name="weather", arguments={"place": "Paris"}),
    ToolCall(id="call00001", name="now", arguments={}),
)
RESULTS = tuple(Message(role="tool", content=f"{call.name}: 21", call_id=call.id) for call in CALLS)


class Letters:
    """A tokenizer: a mark is a token, and so is every letter; `joined`: what it takes for one token besides."""

    def __init__(self, end: str, *joined: str) -> None:
        self.end = end
        self.known: dict[str, int] = {}
        self.pattern = re.compile("|".join([re.escape(mark) for mark in (*joined, end) if mark] + ["."]), re.DOTALL)

    def tokens(self, text: str) -> list[int]:
        return [self.known.setdefault(piece, len(self.known)) for piece in self.pattern.findall(text)]

    @property
    def ends(self) -> frozenset[int]:
        return frozenset(self.tokens(self.end))

    def said(self, text: Text) -> str:
        names = {id: piece for piece, id in self.known.items()}
        return "".join(names[token] for token, learned in zip(*text, strict=True) if learned)

    def whole(self, text: Text) -> str:
        names = {id: piece for piece, id in self.known.items()}
        return "".join(names[token] for token in text.tokens)


def texts(example: Example, source: str | None, letters: Letters) -> list[Text]:
    template = Template(source, {"eos_token": letters.end})
    return texts_of(example, template, letters.tokens, letters.ends)


TEMPLATES = {**ENDS, "plain turns": (PLAIN_TURNS, "<eos>"), "no system": (NO_SYSTEM, "]")}


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_reply_and_its_end_are_learned_and_nothing_else(name: str) -> None:
    source, end = TEMPLATES[name]
    letters = Letters(end)
    (text,) = texts(Example(messages=(ASK, WARM)), source, letters)
    opening = "[" if name == "no system" else ""  # which that template leaves for the model to write
    assert letters.said(text) == f"{opening}It is warm.{end}"
    assert text.learns == len("It is warm.") + len(opening) + 1


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_conversation_is_one_text_with_all_its_replies_or_one_for_each(name: str) -> None:
    source, end = TEMPLATES[name]
    letters = Letters(end)
    found = texts(Example(messages=(ASK, WARM, MORE, COLD)), source, letters)
    said = "".join(map(letters.said, found)).replace("[", "")
    assert said == f"It is warm.{end}It is cold.{end}"
    assert len(found) == 1


@pytest.mark.parametrize("name", ["hermes", "llama", "mistral", "deepseek-v3.1", "plain"])
def test_calls_are_learned_and_their_results_are_not(name: str) -> None:
    source, end = ENDS[name]
    letters = Letters(end)
    called = Message(role="assistant", content="", calls=CALLS)
    example = Example(messages=(ASK, called, *RESULTS, WARM), tools=tuple(TOOLS))
    found = texts(example, source, letters)
    said = "".join(map(letters.said, found))
    assert all(call.name in said for call in CALLS)
    assert "It is warm." in said
    assert "21" not in said
    assert "How warm" not in said
    assert all(any("21" in letters.whole(text) for text in found) for _ in RESULTS)


def test_the_prompt_that_is_learned_behind_is_the_one_that_is_asked_with() -> None:
    source, end = ENDS["plain"]
    letters = Letters(end)
    template = Template(source, {})
    told = Example(messages=(Message(role="system", content="Be brief."), ASK, WARM), tools=tuple(TOOLS))
    (text,) = texts(told, source, letters)
    prompt, _ = template.prompt([ASK], "Be brief.", "system", TOOLS)
    assert letters.whole(text).startswith(prompt)
    assert not any(text.learned[: len(letters.tokens(prompt))])


def test_where_there_is_no_system_role_the_instruction_goes_to_the_user() -> None:
    letters = Letters("]")
    (text,) = texts(Example(messages=(Message(role="system", content="Be brief."), ASK, WARM)), NO_SYSTEM, letters)
    assert letters.whole(text).startswith("[Be brief.\n\nHow warm is it?]")


def test_what_was_given_is_shown_and_not_learned() -> None:
    source, end = ENDS["plain"]
    letters = Letters(end)
    (text,) = texts(Example(messages=(ASK, WARM, MORE, COLD), given=3), source, letters)
    assert letters.said(text) == f"It is cold.{end}"
    assert "It is warm." in letters.whole(text)


REWRITES = (
    "{% for m in messages %}<{{ m.role }}>{% if loop.last or m.role == 'user' %}{{ m.content }}{% else %}…{% endif %}"
    "</>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


def test_a_template_that_writes_earlier_turns_anew_gives_a_text_for_each_reply() -> None:
    letters = Letters("</>")
    found = texts(Example(messages=(ASK, WARM, MORE, COLD)), REWRITES, letters)
    assert [letters.said(text) for text in found] == ["It is warm.</>", "It is cold.</>"]
    assert "…" in letters.whole(found[1])


@pytest.mark.parametrize(
    "source",
    [
        UNMARKED,
        "{% for m in messages %}{{ m.content }}|{% endfor %}{% if add_generation_prompt %}<think>{% endif %}",
        "{% for m in messages if m.role == 'user' %}{{ m.content }}|{% endfor %}",
        "{% for m in messages %}{{ m.content | upper }}|{% endfor %}",
        "{% for m in messages | reverse %}{{ m.content }}|{% endfor %}",
        "",
    ],
)  # fmt: skip
def test_a_template_whose_replies_cannot_be_found_is_refused(source: str) -> None:
    with pytest.raises(ModelError, match="cannot be found") as refused:
        texts(Example(messages=(ASK, WARM)), source or "{{ '' }}", Letters("|"))
    assert refused.value.hint


def test_a_token_across_the_border_is_not_learned_since_no_prompt_ends_in_its_middle() -> None:
    source = (
        "{% for m in messages %}{{ m.role }}:{{ m.content }}</>{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    letters = Letters("</>", ":I")
    (text,) = texts(Example(messages=(ASK, WARM)), source, letters)
    assert letters.said(text) == "It is warm.</>"
    before = letters.tokens(Template(source, {}).render([ASK]))
    assert list(text.tokens[: len(before)]) == before


def test_where_a_template_writes_no_end_one_is_added() -> None:
    source = "{% for m in messages %}{{ m.content }}\n{% endfor %}"
    letters = Letters("<eos>")
    found = texts(Example(messages=(ASK, WARM, MORE, COLD)), source, letters)
    assert [letters.said(text) for text in found] == ["It is warm.\n<eos>", "It is cold.\n<eos>"]
