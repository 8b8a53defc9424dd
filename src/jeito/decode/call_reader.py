"""Text read one character at a time, by steps that wait for the next one; and the values that calls are made of.

So it does not matter how a text is cut. It knows nothing of dialects.
"""

import json
import re
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, TypeVar

from jeito.decode.dialects import to_json

T = TypeVar("T")
Steps = Generator[None, str, T]
"""A reading in the making: it is sent characters, the empty one at the end, and returns what it has read."""

# No call's arguments are nested deeper, and every library on their way can take them.
_DEEPEST = 64
_PAIRS = {"{": 1, "[": 1, "(": 1, "}": -1, "]": -1, ")": -1}
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "\n": ""} | {same: same for same in "\\'\"/"}
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|(.))", re.DOTALL)
_IN_PYTHON = re.compile(
    r"""("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')|\b(True|False|None)\b|([A-Za-z_]\w*)\s*=""", re.DOTALL
)


class Broken(Exception):
    """What began like a call is none."""


class Characters:
    """The characters of a text. `taken` holds those of the call that is being read."""

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.is_over = False
        self._ahead: list[str] = []
        """To be read again, the next one last."""

    def push(self, text: str) -> None:
        """Let a text be read next."""
        self._ahead.extend(reversed(text))

    def next(self) -> Steps[str]:
        if self._ahead:
            return self._ahead.pop()
        return "" if self.is_over else (yield)

    def peek(self) -> Steps[str]:
        character = yield from self.next()
        self.push(character)
        return character

    def take(self) -> Steps[str]:
        character = yield from self.next()
        if not character:
            raise Broken("it breaks off")
        self.taken.append(character)
        return character

    def solid(self) -> Steps[str]:
        """The next character that is no white space, not taken yet."""
        while (character := (yield from self.peek())).isspace():
            yield from self.take()
        return character

    def expect(self, *wanted: str) -> Steps[str]:
        found = yield from self.solid()
        if found and found not in wanted:
            raise Broken(f"{found!r} stands where {' or '.join(map(repr, wanted))} should")
        return (yield from self.take())

    def while_in(self, pattern: str) -> Steps[str]:
        """As many characters as match."""
        text = ""
        while re.fullmatch(pattern, (yield from self.peek())):
            text += yield from self.take()
        return text

    def until(self, mark: str) -> Steps[str]:
        """Everything up to a mark, and the mark."""
        text = ""
        while not text.endswith(mark):
            text += yield from self.take()
        return text

    def up_to(self, marks: Callable[[], Sequence[str]], sink: Callable[[str], None]) -> Steps[str]:
        """The first mark that comes; the characters before it go to `sink` as soon as they are sure. At the end: none.

        Of marks that begin alike, the longest.
        """
        held = ""
        while True:
            active = marks()
            if not held or any(mark.startswith(held) and mark != held for mark in active):
                if character := (yield from self.next()):
                    held += character
                    continue
                if not held:
                    return ""
            mark = max((mark for mark in active if held.startswith(mark)), key=len, default="")
            self.push(held[len(mark) or 1 :])
            if mark:
                return mark
            sink(held[0])
            held = ""

    def json(self, sink: Callable[[str], None] | None = None) -> Steps[str]:
        """The text of one value of JSON."""
        if (yield from self.solid()) in '"{[':
            return (yield from self.balanced('"', sink=sink))
        return (yield from self.while_in(r"[\w.+-]")) or (yield from self.take())

    def balanced(self, quotes: str, depth: int = 0, sink: Callable[[str], None] | None = None) -> Steps[str]:
        """Text up to where all brackets and quotes that it opens are closed."""
        text: list[str] = []
        quote, is_escaped = "", False
        while True:
            character = yield from self.take()
            if character == "<" and not quote:
                self.push(self.taken.pop())
                raise Broken("a mark stands inside it")
            text.append(character)
            if sink:
                sink(character)
            if is_escaped:
                is_escaped = False
            elif quote:
                is_escaped = character == "\\"
                quote = "" if character == quote else quote
            elif character in quotes:
                quote = character
            else:
                depth += _PAIRS.get(character, 0)
            if depth > _DEEPEST:
                raise Broken(f"it is nested more than {_DEEPEST} deep")
            if not quote and depth <= 0:
                return "".join(text)


def from_json(text: str) -> Any:
    """What a JSON text says. Raises Broken."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON")

    try:
        # Models write line breaks in strings as they are.
        return json.loads(text, strict=False, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise Broken(f"it is no JSON: {error}") from error


def json_of_python(inside: str) -> str:
    """The arguments of a call in Python, as the text of a JSON object."""

    def one(found: re.Match[str]) -> str:
        text, word, name = found.groups()
        if text:
            return to_json(_python_text(text[1:-1]))
        return {"True": "true", "False": "false", "None": "null"}[word] if word else f'"{name}":'

    return "{" + _IN_PYTHON.sub(one, inside).strip().removesuffix(",") + "}"


def _python_text(inside: str) -> str:
    """What stands between the quotes of a text in Python; half characters, as JSON writes them, are joined."""

    def one(found: re.Match[str]) -> str:
        code, character = found[1] or found[2], found[3]
        return chr(int(code, 16)) if code else _ESCAPES.get(character, "\\" + character)

    return _ESCAPE.sub(one, inside).encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def json_of_escaped(text: str) -> str:
    """Bare words and texts between `<escape>`, as JSON."""
    return "".join(
        to_json(part) if at % 2 else re.sub(r"([A-Za-z_][\w-]*)\s*:", r'"\1":', part)
        for at, part in enumerate(text.split("<escape>"))
    )


def kinds(schema: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The schemas that a value may meet, one type each, where a schema names several."""
    types = schema.get("type")
    several = [{**schema, "type": one} for one in types] if isinstance(types, list) else [schema]
    return list(schema.get("anyOf") or schema.get("oneOf") or several)


def typed(text: str, schema: Mapping[str, Any]) -> Any:
    """A value that stands in a tag: text where its schema says so, else JSON where it is that."""
    types = [kind.get("type") for kind in kinds(schema)]
    if "string" in types and not (text == "null" and "null" in types):
        return text
    try:
        return from_json({"True": "true", "False": "false", "None": "null"}.get(text, text))
    except Broken:
        return text
