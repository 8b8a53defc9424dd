"""YAML text as values that know their place. Knows nothing of what the keys mean.

Scalars follow YAML 1.2: `no`, `on` and `12:30` are text, `1e-3` is a number. Anchors, aliases and tags are refused.
"""

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import yaml
from pydantic import JsonValue

from jeito.errors import BehaviourError

DEEPEST = 50
"""Levels of nesting; JSON readers stop near 200."""

LONGEST_NUMBER = 40

_INTEGER = re.compile(r"[-+]?[0-9]+")
_NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


class Place(NamedTuple):
    """Where a value stands in a file; line and column count from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


Origin: TypeAlias = Place | str
"""A place in a file, or the flag as it was typed."""


@dataclass(frozen=True, slots=True)
class Node:
    """A value, where it stands (none: it holds what others set), and where its key stands."""

    data: "str | int | float | bool | dict[str, Node] | list[Node] | None"
    at: Origin | None
    key: Origin | None = None

    def plain(self) -> JsonValue:
        if isinstance(self.data, dict):
            return {key: node.plain() for key, node in self.data.items()}
        return [node.plain() for node in self.data] if isinstance(self.data, list) else self.data


Placer: TypeAlias = Callable[[int, int], Origin]


def read(text: str, place: Placer) -> Node | None:
    """The value of a YAML text, none for an empty one; `place` names a line and column. Raises BehaviourError."""
    try:
        events = yaml.parse(text, Loader=yaml.SafeLoader)
        next(events)
        if isinstance(next(events), yaml.StreamEndEvent):
            return None
        node = _node(next(events), events, place, 0)
        next(events)
        if not isinstance(after := next(events), yaml.StreamEndEvent):
            raise BehaviourError(f"{_at(after, place)}: a second document begins here", hint="one behaviour a file")
        return node
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = place(mark.line + 1, mark.column + 1) if mark else place(1, 1)
        hint = "YAML indents with spaces, not tabs" if "\\t" in str(error.problem) else "put quotes around odd text"
        raise BehaviourError(f"{where}: this is not YAML: {error.problem}", hint=hint) from error
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        where = place(before.count("\n") + 1, error.position - before.rfind("\n"))
        raise BehaviourError(
            f"{where}: a character that YAML does not allow", hint="delete it, or write \\x.."
        ) from error


def scalar(text: str, at: Origin) -> Node:
    """The number, truth value, null or text that an unquoted word stands for."""
    if text in _WORDS:
        return Node(_WORDS[text], at)
    if not _NUMBER.fullmatch(text):
        return _text(text, at)
    number = float(text)
    if len(text) > LONGEST_NUMBER or not math.isfinite(number):
        raise BehaviourError(f"{at}: {text[:20]}… is too long a number", hint="put quotes around it if it is text")
    return Node(int(text) if _INTEGER.fullmatch(text) else number, at)


def _node(event: yaml.Event, events: Iterator[yaml.Event], place: Placer, depth: int) -> Node:
    at = _at(event, place)
    _refuse_reuse(event, at)
    if depth > DEEPEST:
        raise BehaviourError(f"{at}: nested over {DEEPEST} levels deep", hint="flatten it")
    if isinstance(event, yaml.MappingStartEvent):
        return Node(_mapping(events, place, depth), at)
    if isinstance(event, yaml.SequenceStartEvent):
        items = []
        while not isinstance(event := next(events), yaml.SequenceEndEvent):
            items.append(_node(event, events, place, depth + 1))
        return Node(items, at)
    assert isinstance(event, yaml.ScalarEvent)
    return scalar(event.value, at) if event.implicit[0] else _text(event.value, at)


def _mapping(events: Iterator[yaml.Event], place: Placer, depth: int) -> dict[str, Node]:
    found: dict[str, Node] = {}
    while not isinstance(event := next(events), yaml.MappingEndEvent):
        key_at = _at(event, place)
        _refuse_reuse(event, key_at)
        if not isinstance(event, yaml.ScalarEvent):
            raise BehaviourError(f"{key_at}: a key is a word, not a list or map", hint="write key: value")
        _text(key := str(event.value), key_at)
        if key in found:
            raise BehaviourError(f"{key_at}: {key!r} is written twice", hint=f"it also stands at {found[key].key}")
        event = next(events)
        value = _node(event, events, place, depth + 1)
        # A block begins below its key: people look for it at the key.
        is_block = isinstance(event, yaml.CollectionStartEvent) and not event.flow_style
        found[key] = Node(value.data, key_at if is_block else value.at, key_at)
    return found


def _refuse_reuse(event: yaml.Event, at: Origin) -> None:
    """Aliases can grow without bound, and a place must be where the value is written; tags can make objects."""
    if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
        raise BehaviourError(f"{at}: no anchors (&) or aliases (*) here", hint="write it out, quote it, or use extends")
    if (tag := getattr(event, "tag", None)) is not None:
        raise BehaviourError(f"{at}: no YAML tags ({tag}) here", hint="put quotes around text that begins with !")


def _text(text: str, at: Origin) -> Node:
    """Half a character (an escape such as \\ud800) can be neither hashed nor sent."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BehaviourError(
            f"{at}: half a character (\\u{ord(error.object[error.start]):04x})", hint="delete it"
        ) from None
    return Node(text, at)


def _at(event: yaml.Event, place: Placer) -> Origin:
    mark = event.start_mark
    assert mark is not None
    return place(mark.line + 1, mark.column + 1)
