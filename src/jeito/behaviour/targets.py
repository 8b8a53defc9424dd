"""What other programs call the values of a behaviour: the tables of targets.yaml, and how values become theirs."""

import json
from collections.abc import Callable, Mapping
from functools import cache
from importlib import resources
from typing import Any, NamedTuple

import yaml

Make = Callable[[Any], Any]
ALL = 2**20
"""Tokens, more than any context: llama-server's requests no longer take -1 for all of them (seen at build 11549)."""


class Field(NamedTuple):
    """Where a target keeps a value: `server`, `request` or nowhere; `name` as it is called there.

    `note`: what is lost there, or means something else. `make`: from our value to theirs.
    """

    place: str
    name: str
    note: str
    make: Make


class Target(NamedTuple):
    """A program's table, by path. `neutral`: knobs that are written though nobody set them. `text`: a template."""

    fields: Mapping[str, Field]
    elsewhere: Mapping[str, str]
    neutral: tuple[str, ...]
    has_request: bool
    text: str = ""

    def field(self, path: str) -> Field:
        return self.fields.get(path) or Field("", "", self.elsewhere.get(path, "no counterpart"), _same)


@cache
def targets() -> dict[str, Target]:
    tables = yaml.safe_load(resources.files("jeito.behaviour").joinpath("targets.yaml").read_text("utf-8"))
    elsewhere = tables.pop("elsewhere")
    made: dict[str, Target] = {}
    for name, table in tables.items():
        if "like" in table:
            made[name] = made[table["like"]]._replace(has_request=False, text=table["text"])
            continue
        notes, make = table["notes"], _MAKE | _MAKE_FOR.get(name, {})
        fields = {path: Field("", "", note, _same) for path, note in notes.items()}
        for place in ("server", "request"):
            for path, theirs in table.get(place, {}).items():
                fields[path] = Field(place, theirs, notes.get(path, ""), make.get(path, _same))
        made[name] = Target(fields, elsewhere, tuple(table.get("neutral", ())), "request" in table)
    return made


def _same(value: Any) -> Any:
    return value


def _choice(choice: str) -> Any:
    return choice if choice in ("auto", "none", "required") else {"type": "function", "function": {"name": choice}}


def _schema(schema: Any) -> Any:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}


def _scaled(files: list[dict[str, Any]]) -> str:
    return ",".join(f"{file.get('path') or file.get('vector')}:{file['scale']}" for file in files)


def _repeated(guard: dict[str, int]) -> dict[str, int]:
    shortest = -(-guard["tokens"] // guard["times"])
    return {"min_pattern_size": shortest, "max_pattern_size": guard["tokens"], "min_count": guard["times"]}


def _gbnf(choice: list[str]) -> str:
    return "root ::= " + " | ".join(json.dumps(text, ensure_ascii=False) for text in choice)


_MAKE: dict[str, Make] = {"tool_choice": _choice, "output.json_schema": _schema}
_MAKE_FOR: dict[str, dict[str, Make]] = {
    "vllm": {
        "output.regex": lambda regex: {"regex": regex},
        "output.choice": lambda choice: {"choice": choice},
        "output.lark": lambda grammar: {"grammar": grammar},
        "guard.repetition": _repeated,
        "adapter": lambda adapters: [f"adapter{index}={one['path']}" for index, one in enumerate(adapters)],
    },
    "llama-server": {
        "sampling.repetition_window": lambda window: ALL if window is None else window,
        "sampling.dry.window": lambda window: ALL if window == -1 else window,
        "sampling.dry.breakers": lambda breakers: breakers or ["none"],
        "sampling.logit_bias": lambda bias: [f"{token}{value:+}" for token, value in bias.items()],
        "sampling.seed": lambda seed: seed % 2**32,
        "adapter": _scaled,
        "steering": _scaled,
        "output.choice": _gbnf,
    },
    "ollama": {
        "sampling.repetition_window": lambda window: -1 if window is None else window,
        "adapter": lambda adapters: [one["path"] for one in adapters],
    },
    "transformers": {"sampling.logit_bias": lambda bias: [[[int(token)], value] for token, value in bias.items()]},
}
