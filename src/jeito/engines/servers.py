"""Servers that speak OpenAI's API: which program it is, and its table of servers.yaml. Knows nothing of replies."""

import json
from collections.abc import Callable, Mapping
from functools import cache
from importlib import resources
from typing import Any, NamedTuple

import yaml

from jeito.engines.wire import Wire
from jeito.errors import InputError, nearest
from jeito.types import Sampling

Make = Callable[[Any], Any]
ALL = 2**20
"""Tokens, more than any context: llama-server's requests no longer take -1 for all of them (seen at build 11549)."""
_OWNERS = (
    ("jeito", "jeito", "/health", "version"),
    ("vllm", "vllm", "/version", "version"),
    ("llamacpp", "llama-server", "/props", "build_info"),
)
"""Whom a server's models belong to, its kind, and where it says its version."""


class Field(NamedTuple):
    """What a value is called in a request, where dots go into maps, and how it is made from ours.

    `note`: what it means there, where that is something else.
    """

    name: str
    note: str
    make: Make


class Server(NamedTuple):
    """A kind's table, by path. `neutral`: knobs written though nobody set them. `fixed`: in every request.

    `always`: what no request can change there.
    """

    kind: str
    fields: Mapping[str, Field]
    notes: Mapping[str, str]
    neutral: tuple[str, ...]
    fixed: Mapping[str, Any]
    always: tuple[str, ...]

    def can(self, knob: str) -> bool:
        """Has a sampling knob a field here, or each of its parts one?"""
        return any(path == f"sampling.{knob}" or path.startswith(f"sampling.{knob}.") for path in self.fields)


class Seen(NamedTuple):
    """What a server is. `version`: as it says it, none where it says none."""

    kind: str
    version: str | None


@cache
def servers() -> dict[str, Server]:
    tables = yaml.safe_load(resources.files("jeito.engines").joinpath("servers.yaml").read_text("utf-8"))
    return {kind: _server(kind, table) for kind, table in tables.items()}


def _server(kind: str, table: dict[str, Any]) -> Server:
    make, notes = _MAKE | _MAKE_FOR.get(kind, {}), table.get("notes", {})
    fields = {path: Field(name, notes.get(path, ""), make.get(path, _same)) for path, name in table["request"].items()}
    neutral = tuple(table.get("neutral", ()))
    assert set(neutral) <= set(Sampling.model_fields)
    return Server(kind, fields, notes, neutral, table.get("fixed", {}), tuple(table.get("always", ())))


def server_of(kind: str) -> Server:
    """The table of a kind; raises InputError for one that there is not."""
    if kind not in servers():
        raise InputError(f"{kind!r} is no kind of server", hint=nearest(kind, [*servers(), "auto"]))
    return servers()[kind]


def look(address: str, key: str | None = None) -> Seen:
    """Ask a server what it is; `address` ends in /v1, or does not. A server that says nothing known is `openai`.

    Raises EngineError where nobody answers, InputError where another key is wanted.
    """
    root = address.rstrip("/").removesuffix("/v1")
    wire = Wire([root], key)
    try:
        models = _asked(wire, f"{root}/v1/models")
        owners = {str(one.get("owned_by")) for one in models.get("data") or () if isinstance(one, dict)}
        for owner, kind, page, field in _OWNERS:
            if owner in owners:
                return Seen(kind, _text(_asked(wire, f"{root}{page}").get(field)))
        if version := _text(_asked(wire, f"{root}/api/version").get("version")):
            return Seen("ollama", version)
        # transformers names each model's owner, and alone has this route, which takes no GET.
        is_transformers = wire.get(f"{root}/load_model")[0] == 405
        return Seen("transformers" if is_transformers else "openai", None)
    finally:
        wire.close()


def said(error: Exception) -> str:
    """An error's own words, or its name where it has none."""
    return str(error) or type(error).__name__


def _asked(wire: Wire, url: str) -> dict[str, Any]:
    """The JSON object at an address; empty where there is none."""
    status, found = wire.get(url)
    return found if status == 200 and isinstance(found, dict) else {}


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _same(value: Any) -> Any:
    return value


def _choice(choice: str) -> Any:
    return choice if choice in ("auto", "none", "required") else {"type": "function", "function": {"name": choice}}


def _schema(schema: Any) -> Any:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}


def _repeated(guard: Mapping[str, int]) -> dict[str, int]:
    shortest = -(-guard["tokens"] // guard["times"])
    return {"min_pattern_size": shortest, "max_pattern_size": guard["tokens"], "min_count": guard["times"]}


def _gbnf(choice: list[str]) -> str:
    return "root ::= " + " | ".join(json.dumps(text, ensure_ascii=False) for text in choice)


_STRUCTURED: dict[str, Make] = {
    "output.regex": lambda regex: {"regex": regex},
    "output.choice": lambda choice: {"choice": choice},
    "output.lark": lambda grammar: {"grammar": grammar},
}
_MAKE: dict[str, Make] = {"tool_choice": _choice, "output.json_schema": _schema}
_MAKE_FOR: dict[str, dict[str, Make]] = {
    "vllm": {
        **_STRUCTURED,
        "guard.repetition": _repeated,
    },
    "llama-server": {
        "sampling.repetition_window": lambda window: ALL if window is None else window,
        "sampling.dry.window": lambda window: ALL if window == -1 else window,
        "sampling.dry.breakers": lambda breakers: breakers or ["none"],
        "sampling.seed": lambda seed: seed % 2**32,
        "output.choice": _gbnf,
        "logprobs": lambda most: max(1, most),  # of none it reports nothing at all
    },
    "transformers": {"sampling.logit_bias": lambda bias: [[[int(token)], value] for token, value in bias.items()]},
    "jeito": {
        "output.json_schema": lambda schema: {"json": schema},
        **_STRUCTURED,
    },
}
