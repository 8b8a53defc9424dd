"""Reading what a server sends, well made or not: replies, the pieces of a stream, errors. Knows nothing of knobs."""

import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

Json = dict[str, Any]


class Broken(Exception):
    """No whole reply came: what went wrong."""


class Reply(NamedTuple):
    """One reply, or the first of several. `logprobs`: OpenAI's list of tokens, none where there is none."""

    text: str
    finish: str | None
    calls: list[Json]
    usage: Json
    logprobs: list[Json] | None
    texts: tuple[str, ...]

    @property
    def prompt(self) -> int | None:
        return _count(self.usage, "prompt_tokens")

    @property
    def generated(self) -> int | None:
        return _count(self.usage, "completion_tokens")


def quoted(text: str) -> str:
    """The beginning of a reply, for a sentence."""
    return json.dumps(text if len(text) <= 40 else text[:39] + "…", ensure_ascii=False)


def chunks(lines: Sequence[str]) -> Iterator[Json]:
    """The chunks of a stream. Raises Broken for what is none."""
    for line in lines:
        if line.startswith("data: ") and line != "data: [DONE]":
            yield _object(line[6:])


def read(data: bytes) -> Reply:
    whole = _object(data.decode(errors="replace"))
    try:
        choices = whole["choices"]
        first = choices[0]
        return Reply(
            text=first["message"].get("content") or "",
            finish=first.get("finish_reason"),
            calls=[call["function"] for call in first["message"].get("tool_calls") or ()],
            usage=whole.get("usage") or {},
            logprobs=(first.get("logprobs") or {}).get("content"),
            texts=tuple(choice["message"].get("content") or "" for choice in choices),
        )
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise Broken(f"the reply is not of OpenAI's shape: {quoted(data.decode(errors='replace'))}") from error


def _object(text: str) -> Json:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise Broken(f"no JSON came: {quoted(text)}") from error
    if not isinstance(found, dict):
        raise Broken(f"no JSON object came: {quoted(text)}")
    if "error" in found:
        raise Broken(f"an error came in the middle of the reply: {message_of(text.encode())}")
    return found


def message_of(data: bytes) -> str:
    """What an error says, in any of the shapes that servers have."""
    text = data.decode(errors="replace").strip()
    try:
        said: Any = json.loads(text)
    except ValueError:
        said = text
    for key in ("error", "message", "detail"):
        said = said.get(key, said) if isinstance(said, dict) else said
    return str(said)[:200] or "no word of why"


def _count(usage: Json, name: str) -> int | None:
    found = usage.get(name)
    return found if isinstance(found, int) else None
