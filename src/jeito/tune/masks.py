"""Conversations as tokens, with what the assistant said marked: by rendering what stood before each of its turns.

Knows templates and a tokenizer; nothing of models or of how they learn.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from jeito.decode.template import Template
from jeito.errors import ModelError
from jeito.tune.data import Example
from jeito.types import Message

Tokens = Callable[[str], list[int]]
"""A prompt's text as a model is given it: names of special tokens are those tokens, and it begins as texts begin."""


class Text(NamedTuple):
    """Tokens, and of each whether the model is to learn to write it."""

    tokens: tuple[int, ...]
    learned: tuple[bool, ...]

    @property
    def learns(self) -> int:
        """How many tokens are learned; the first of a text has nothing before it to be foretold from."""
        return sum(self.learned[1:])


class _Turn(NamedTuple):
    """A turn of the assistant as it is rendered: what stood before it, and it."""

    prompt: str
    reply: str


def texts_of(example: Example, template: Template, tokens: Tokens, ends: frozenset[int]) -> list[Text]:
    """A conversation as one text where each prompt begins with the one before and its reply, else as several.

    A reply is learned up to the first token that ends it; where the template writes none, one is added. Raises
    ModelError for a template in whose texts the replies cannot be found.
    """
    found: list[Text] = []
    whole: list[int] = []
    learned: list[bool] = []
    for turn in _turns(example, template):
        before = tokens(turn.prompt)
        if whole and before[: len(whole)] != whole:
            found.append(Text(tuple(whole), tuple(learned)))
            whole, learned = [], []
        learned += [False] * (len(before) - len(whole))
        after = _after(turn, before, tokens)
        end = next((at for at, token in enumerate(after) if token in ends), None)
        if end is None and ends:
            after, end = [*after, min(ends)], len(after)
        last = len(after) - 1 if end is None else end
        learned += [at <= last for at in range(len(after))]
        whole = [*before, *after]
    return [*found, Text(tuple(whole), tuple(learned))]


def _after(turn: _Turn, before: Sequence[int], tokens: Tokens) -> list[int]:
    """The reply's tokens, after just those that the model will be given as its prompt."""
    whole = tokens(turn.prompt + turn.reply)
    if whole[: len(before)] == before:
        return whole[len(before) :]
    # The tokenizer would join the prompt's last letters to the reply's first: the model never sees them joined.
    empty = tokens("")
    return tokens(turn.reply)[len(empty) :]


def _turns(example: Example, template: Template) -> Iterator[_Turn]:
    messages, given, system = example.messages, example.given, ""
    if messages[0].role == "system":
        system, messages, given = messages[0].content, messages[1:], max(0, given - 1)
    turns, tools, _ = template.told(messages, system, "system", example.tools)
    # Of a turn with several calls, where one is made at a time, each is a turn.
    shown = template.split(turns)
    first = len(template.split(turns[: given + len(turns) - len(messages)]))
    for at in range(first, len(shown)):
        if shown[at].role == "assistant":
            yield _turn(shown[: at + 1], tools, template)


def _turn(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], template: Template) -> _Turn:
    prompt = template.render(messages[:-1], tools)
    whole = template.render(messages, tools, opens=False)
    said = messages[-1]
    expected = [said.content.strip(), *(call.name for call in said.calls)]
    reply = whole[len(prompt) :]
    if not whole.startswith(prompt) or not all(part in reply for part in expected):
        raise ModelError(
            "the model's template does not write a reply behind its own prompt, so what the assistant says cannot be "
            f"found: behind {prompt[-30:]!r} should stand {said.content[:30]!r}, and there is {whole[-60:]!r}",
            hint="take a model with another template",
        )
    return _Turn(prompt, reply)
