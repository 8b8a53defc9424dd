"""A reply's text as it comes, told apart: answer, reasoning, tool calls. Knows nothing of tokens or of what tools do.

However the text is cut, the parts are the same; what could be the start of a mark is held until it is sure.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

from pydantic import ValidationError

from jeito.decode.call_reader import Broken, Characters, Steps, from_json, json_of_escaped, json_of_python, typed
from jeito.decode.dialects import Dialect, to_json
from jeito.types import ToolCall

Channel = Literal["answer", "reasoning"]

# No name, id or fence that stands before a call's arguments is longer.
_LONGEST_HEADER = 200


@dataclass(frozen=True, slots=True)
class Said:
    """Text for whoever reads. White space next to a mark belongs to the mark."""

    channel: Channel
    text: str


@dataclass(frozen=True, slots=True)
class CallBegan:
    index: int
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """More of a call's arguments, as JSON text. Where the dialect writes no JSON, all of it in one piece."""

    index: int
    piece: str


@dataclass(frozen=True, slots=True)
class CallEnded:
    index: int
    call: ToolCall


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A call that cannot be read, and why; `index`: the call that had begun and will not end."""

    text: str
    why: str
    index: int | None = None


Part = Said | CallBegan | CallArguments | CallEnded | Unreadable


class CallParser:
    """Feed it a reply's text, special tokens' texts included; it gives back what it can be sure of.

    `tools`: those that were offered, as OpenAI has them; none: any name will do. `prompt`: where it ends inside
    reasoning or at a call's mark, the reply goes on there. `first`: how many calls the conversation holds already.
    """

    def __init__(
        self, dialect: Dialect, tools: Iterable[Mapping[str, Any]] | None = None, *, prompt: str = "", first: int = 0
    ) -> None:
        self._dialect, self._first = dialect, first
        self._tools = None if tools is None else {tool["function"]["name"]: tool["function"] for tool in tools}
        self._parts: list[Part] = []
        self._text = Characters()
        self._text.push(next((mark for mark in dialect.opens if prompt.endswith(mark)), ""))
        self._channel: Channel = "reasoning" if dialect.is_open(prompt) else "answer"
        self._since: Literal["start", "call", "text"] = "start"
        """What came last: nothing yet (or reasoning), a call, or text of the answer."""
        self._by_place = _marks_by_place(dialect)
        self._space, self._is_after_mark = "", self._channel == "reasoning"
        self._is_sure = True
        self._count = 0
        self._is_open = False
        """Has the last call begun and not ended?"""
        self._steps = self._reply()
        next(self._steps)

    def feed(self, text: str) -> list[Part]:
        """What became sure with this text."""
        for character in text:
            self._steps.send(character)
        return self._new_parts()

    def finish(self) -> list[Part]:
        """What was held back, now that nothing more comes."""
        self._text.is_over = True
        with suppress(StopIteration):
            self._steps.send("")
        return self._new_parts()

    def _new_parts(self) -> list[Part]:
        parts, self._parts = self._parts, []
        joined: list[Part] = []
        for _, alike in groupby(parts, key=_kind):
            first, *more = alike
            if isinstance(first, Said):
                joined.append(Said(first.channel, first.text + "".join(part.text for part in more)))  # type: ignore[union-attr]
            elif isinstance(first, CallArguments):
                joined.append(CallArguments(first.index, first.piece + "".join(part.piece for part in more)))  # type: ignore[union-attr]
            else:
                joined += [first, *more]
        return joined

    def _reply(self) -> Steps[None]:
        while mark := (yield from self._text.up_to(self._marks, self._say)):
            if self._dialect.reasoning and mark in self._dialect.reasoning:
                self._channel = "answer" if self._channel == "reasoning" else "reasoning"
                self._after_mark("start")
            elif mark in self._dialect.opens or mark == self._dialect.bare:
                yield from self._call(mark)
            else:
                self._after_mark(self._since)
        if self._space and not self._is_after_mark:
            self._parts.append(Said(self._channel, self._space))

    def _marks(self) -> Sequence[str]:
        """The marks that mean something here."""
        return self._by_place["reasoning" if self._channel == "reasoning" else self._since]

    def _say(self, character: str) -> None:
        if character.isspace():
            self._space += character
            return
        text = character if self._is_after_mark else self._space + character
        self._space, self._is_after_mark = "", False
        if self._channel == "answer":
            self._since = "text"
        self._parts.append(Said(self._channel, text))

    def _after_mark(self, since: Literal["start", "call", "text"]) -> None:
        self._space, self._is_after_mark, self._since = "", True, since

    # Calls.

    def _call(self, mark: str) -> Steps[None]:
        is_bare = mark == self._dialect.bare
        self._is_sure = self._dialect.is_sure and not is_bare
        self._text.taken = [] if is_bare else [mark]
        self._text.push(mark if is_bare else "")
        before = self._count
        try:
            yield from self._form()
        except Broken as broken:
            if not self._is_sure and self._count == before:
                # No call: its first character is text, and the rest is read again.
                text = "".join(self._text.taken)
                self._text.push(text[1:])
                self._say(text[0])
                return
            yield from self._rest_of_broken()
            index = self._count - 1 if self._is_open else None
            self._parts.append(Unreadable("".join(self._text.taken), str(broken), index))
            self._is_open = False
        self._after_mark("call")

    def _rest_of_broken(self) -> Steps[None]:
        """What cannot be read goes on to where a call is closed, or another one begins."""
        marks = self._dialect.opens + self._dialect.closes
        mark = yield from self._text.up_to(lambda: marks, self._text.taken.append)
        if mark in self._dialect.closes:
            self._text.taken.append(mark)
        else:
            self._text.push(mark)

    def _began(self, name: str) -> None:
        if not name:
            raise Broken("it names no tool")
        if not self._is_sure and self._tools is not None and name not in self._tools:
            raise Broken(f"no tool is called {name!r}")
        self._parts.append(CallBegan(self._count, name))
        self._count, self._is_open = self._count + 1, True

    def _argument(self, piece: str) -> None:
        self._parts.append(CallArguments(self._count - 1, piece))

    def _ended(self, name: str, arguments: str, call_id: str | None = None) -> None:
        """A call is whole. Some models write its arguments as JSON in a string."""
        read = from_json(arguments)
        if isinstance(read, str):
            arguments, read = read, from_json(read)
        if not isinstance(read, dict):
            raise Broken("its arguments are no object")
        number = self._first + self._count - (1 if self._is_open else 0)
        try:
            to_json([name, read]).encode()
            call = ToolCall(id=call_id or self._dialect.call_id(number), name=name, arguments=read)
        except UnicodeEncodeError as error:
            raise Broken("it holds half a character") from error
        except ValidationError as error:
            raise Broken(f"its arguments cannot be used: {error.errors()[0]['msg']}") from error
        if not self._is_open:
            self._began(name)
            self._argument(arguments)
        self._parts.append(CallEnded(self._count - 1, call))
        self._is_open = False
        self._text.taken.clear()

    # The forms of a call.

    def _form(self) -> Steps[None]:
        match self._dialect.form:
            case "object":
                return self._objects()
            case "named":
                return self._named()
            case "python":
                return self._python()
            case "parameters":
                return self._parameters()
            case "escaped":
                return self._escaped()

    def _objects(self) -> Steps[None]:
        if (yield from self._text.solid()) != "[":
            return (yield from self._object())
        yield from self._text.take()
        yield from self._object()
        while (yield from self._text.expect(",", "]")) == ",":
            yield from self._object()

    def _object(self) -> Steps[None]:
        text = self._text
        name, call_id, arguments = "", None, None
        separator = yield from text.expect("{")
        while separator != "}" and (yield from text.solid()) != "}":
            key = from_json((yield from text.json()))
            yield from text.expect(":")
            if key in ("arguments", "parameters"):
                if arguments is not None:
                    raise Broken("it has arguments twice")
                # Only an object can be shown as it grows, and only once it is known whose it is.
                is_shown = bool(name) and (yield from text.solid()) == "{"
                if is_shown:
                    self._began(name)
                arguments = yield from text.json(self._argument if is_shown else None)
            else:
                value = from_json((yield from text.json()))
                if key == "name" and isinstance(value, str):
                    name = name or value
                elif key == "id" and isinstance(value, str):
                    call_id = value
            separator = yield from text.expect(",", "}")
        if separator != "}":
            yield from text.take()
        if arguments is None and not self._is_sure:
            raise Broken("it has no arguments")
        self._ended(name, arguments or "{}", call_id)

    def _named(self) -> Steps[None]:
        header = ""
        while (yield from self._text.peek()) != "{":
            header += yield from self._text.take()
            if len(header) > _LONGEST_HEADER or (not self._is_sure and not re.fullmatch(r"[\w.-]+\s*", header)):
                raise Broken("no arguments follow")
        found = re.fullmatch(self._dialect.header, header)
        if not found:
            raise Broken("no name stands before its arguments")
        self._began(found["name"])
        arguments = yield from self._text.json(self._argument)
        self._ended(found["name"], arguments, found.groupdict().get("id"))

    def _python(self) -> Steps[None]:
        text = self._text
        separator = yield from text.expect("[")
        if self._is_sure and (yield from text.solid()) == "{":
            text.push("[")
            return (yield from self._objects())
        while separator != "]":
            yield from text.solid()
            name = yield from text.while_in(r"[\w.-]")
            yield from text.expect("(")
            inside = yield from text.balanced("\"'", depth=1)
            self._ended(name, json_of_python(inside[:-1]))
            separator = yield from text.expect(",", "]")

    def _parameters(self) -> Steps[None]:
        body = yield from self._text.until("</tool_call>")
        while not (inside := body.removesuffix("</tool_call>").strip()).endswith("</function>"):
            body += yield from self._text.until("</tool_call>")
        found = re.fullmatch(r"<function=([^>\n]+)>(.*)</function>", inside, re.DOTALL)
        if not found:
            raise Broken("it is no <function=…>…</function>")
        schema = (self._tools or {}).get(found[1], {}).get("parameters", {}).get("properties", {})
        given = re.findall(r"<parameter=([^>\n]+)>\n?(.*?)\n?</parameter>", found[2], re.DOTALL)
        self._ended(found[1], to_json({key: typed(value, schema.get(key, {})) for key, value in given}))

    def _escaped(self) -> Steps[None]:
        body = yield from self._text.until("<end_function_call>")
        while body.count("<escape>") % 2:
            body += yield from self._text.until("<end_function_call>")
        found = re.fullmatch(r"\s*call:([\w.-]+)\s*(\{.*\})\s*<end_function_call>", body, re.DOTALL)
        if not found:
            raise Broken("it is no call:NAME{…}")
        self._ended(found[1], json_of_escaped(found[2]))


def _marks_by_place(dialect: Dialect) -> dict[str, tuple[str, ...]]:
    """Which marks mean something where. After text of the answer, a tag of reasoning is a word about it."""
    opens, closes = (dialect.reasoning[:1], dialect.reasoning[1:]) if dialect.reasoning else ((), ())
    text = dialect.opens + dialect.silent
    start = text + opens + ((dialect.bare,) if dialect.bare else ())
    return {"reasoning": closes, "text": text, "start": start, "call": start + dialect.closes + dialect.joins}


def _kind(part: Part) -> tuple[type, Any]:
    """Parts of one kind in a row are one."""
    return type(part), part.channel if isinstance(part, Said) else getattr(part, "index", None)
