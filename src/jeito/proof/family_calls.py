"""Requests that need one tool, two or none of those that are offered: two to six, in any order."""

from collections.abc import Iterator, Mapping
from random import Random
from typing import Any

from pydantic import JsonValue

from jeito.proof.values import Case, Expected, ExpectedCall


def calls(wording: Mapping[str, Any], language: str, draw: Random) -> Iterator[Case]:
    """Endless cases without names, one kind of request after the other; the same ask may come twice."""
    while True:
        for ask in wording["asks"]:
            drawn = {slot: draw.choice(values) for slot, values in wording["values"].items()}
            expected = tuple(
                _expected(name, arguments, drawn) for call in ask["calls"] for name, arguments in call.items()
            )
            needed = [call.name for call in expected]
            others = [name for name in wording["tools"] if name not in needed]
            offered = needed + draw.sample(others, draw.randint(2, 6) - len(needed))
            draw.shuffle(offered)
            yield Case(
                name="?",
                prompt=draw.choice(ask[language]).format(**drawn),
                expect=Expected(calls=expected, language=language),
                tools=tuple(_schema(name, wording["tools"][name]) for name in offered),
                tags=(language, f"{len(expected)}-calls", f"{len(offered)}-tools"),
            )


def _expected(name: str, written: Mapping[str, JsonValue], drawn: Mapping[str, JsonValue]) -> ExpectedCall:
    marks: dict[str, dict[str, JsonValue]] = {"?": {}, "": {}}
    for key, value in written.items():
        mark, word = (value[:1], value[1:]) if isinstance(value, str) else ("", "")
        marks["?" if mark == "?" else ""][key] = drawn[word] if mark == "@" else word if mark == "?" else value
    return ExpectedCall(name=name, arguments=marks[""], optional=marks["?"])


def _schema(name: str, tool: Mapping[str, Any]) -> dict[str, JsonValue]:
    parameters = {"type": "object", "properties": tool["parameters"], "required": tool["required"]}
    return {"type": "function", "function": {"name": name, "description": tool["says"], "parameters": parameters}}
