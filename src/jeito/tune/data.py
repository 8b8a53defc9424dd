"""Conversations to learn from: chat JSONL read line by line, told apart by case, split. Knows nothing of tokens.

A line is `{"messages": [{"role": …, "content": …}, …]}`, as OpenAI has it; `tools` may stand beside it. Only what the
assistant says after the first `given` messages is learned; `case` names what must not be split.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

from pydantic import Field, JsonValue, ValidationError, model_validator

from jeito.errors import InputError
from jeito.types import Message, Several, Value

TRAIN, HELD_OUT, CARD, CASES = "train.jsonl", "held_out.jsonl", "card.json", "held_out_cases.jsonl"
"""What a folder of pairs holds."""
HINT = '{"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}'


class Example(Value):
    """A conversation whose assistant's turns, but for those among the first `given` messages, are to be learned."""

    messages: Several[Message]
    tools: Several[dict[str, JsonValue]] = Field(default=(), description="as OpenAI has them")
    case: str = Field(default="", description="what it is about; one that has none is about what is asked first")
    given: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _something_is_learned(self) -> Self:
        learned = [message for message in self.messages[self.given :] if message.role == "assistant"]
        if not learned:
            raise ValueError("no turn of the assistant is in it")
        if not all(message.content.strip() or message.calls for message in learned):
            raise ValueError("a turn of the assistant is empty")
        if self.messages[0].role == "assistant":
            raise ValueError("the assistant speaks first: there is nothing that it replies to")
        return self

    @property
    def group(self) -> str:
        """What must not stand on both sides of a split."""
        asked = next((message.content for message in self.messages[self.given :] if message.role == "user"), "")
        return self.case or " ".join(asked.split()).casefold()


class Split(NamedTuple):
    """What is learned from, and what only measures."""

    train: tuple[Example, ...]
    held_out: tuple[Example, ...]


def read_chat(path: Path) -> list[Example]:
    """Every example of a chat JSONL. Raises InputError that names file and line."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise InputError(f"there is no file {str(path)!r}", hint="jeito pairs makes one from a behaviour") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{str(path)!r} cannot be read as text: {error}", hint="UTF-8, one object a line") from error
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        raise InputError(f"{str(path)!r} is empty", hint=HINT)
    return [_example(f"{path}:{number}", line) for number, line in lines]


def _example(where: str, line: str) -> Example:
    try:
        found = json.loads(line)
        if not isinstance(found, dict):
            raise InputError(f"{where}: a line is an object, not {found!r:.40}", hint=HINT)
        messages = found.get("messages")
        if isinstance(messages, list):
            found["messages"] = [_message(one) if isinstance(one, dict) else one for one in messages]
        return Example.model_validate_json(json.dumps(found))
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        field = ".".join(map(str, detail["loc"]))
        said = str(detail["ctx"]["error"]) if detail["type"] == "value_error" else detail["msg"]
        raise InputError(f"{where}: {f'{field}: ' if field else ''}{said}", hint=HINT) from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: this is not JSON: {error}", hint="one object a line") from error


def _message(said: Mapping[str, Any]) -> dict[str, Any]:
    """A message as OpenAI writes it as one of ours: only calls have other names."""
    own = {"tool_call_id": "call_id", "tool_calls": "calls"}
    found = {own.get(key, key): value for key, value in said.items()}
    if found.get("content") is None:
        found["content"] = ""
    if isinstance(said.get("tool_calls"), list):
        found["calls"] = [_call(call) for call in said["tool_calls"]]
    return found


def _call(call: Any) -> Any:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict):
        return call
    arguments = function.get("arguments", {})
    arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
    return {"id": call.get("id", ""), "name": function.get("name"), "arguments": arguments}


def read(path: Path, *, share: float, seed: int) -> Split:
    """A folder as `jeito pairs` makes it, split already, or a chat JSONL, split here. Raises InputError."""
    if not path.is_dir():
        return split(distinct(read_chat(path)), share=share, seed=seed)
    if not (path / TRAIN).is_file():
        raise InputError(f"{str(path)!r} has no {TRAIN}", hint="jeito pairs BEHAVIOUR --cases F --to FOLDER")
    held_out = path / HELD_OUT
    has_any = held_out.is_file() and held_out.stat().st_size  # no reply to a case that was held out may have passed
    return Split(tuple(read_chat(path / TRAIN)), tuple(read_chat(held_out)) if has_any else ())


def distinct(examples: Iterable[Example]) -> list[Example]:
    """Without those that say what another has said before: blanks and calls' ids make no difference."""
    seen: dict[str, Example] = {}
    for example in examples:
        said = [
            (message.role, message.content.split(), [(call.name, call.arguments) for call in message.calls])
            for message in example.messages
        ]
        seen.setdefault(json.dumps(said), example)
    return list(seen.values())


def held_out(groups: Iterable[str], *, share: float, seed: int) -> frozenset[str]:
    """Which groups only measure: so many of them, at least one of two, by a draw that depends on names and seed."""
    names = sorted(set(groups), key=lambda name: hashlib.sha256(f"{seed} {name}".encode()).digest())
    count = max(1, round(share * len(names))) if share > 0 and len(names) > 1 else 0
    return frozenset(names[: min(count, len(names) - 1)])


def split(examples: Sequence[Example], *, share: float, seed: int) -> Split:
    """By group, never by reply: what measures is about nothing that was learned."""
    apart = held_out((example.group for example in examples), share=share, seed=seed)
    return Split(
        tuple(example for example in examples if example.group not in apart),
        tuple(example for example in examples if example.group in apart),
    )


def write(path: Path, examples: Iterable[Example]) -> None:
    """A chat JSONL, as `read_chat` takes it and others do."""
    path.write_text("".join(f"{line}\n" for line in map(_line, examples)), encoding="utf-8")


def _line(example: Example) -> str:
    said = example.model_dump(mode="json", exclude_defaults=True)
    for message, one in zip(said["messages"], example.messages, strict=True):
        if calls := message.pop("calls", ()):
            message["tool_calls"] = [
                {"id": call["id"], "type": "function",
                 "function": {"name": call["name"], "arguments": json.dumps(call["arguments"], ensure_ascii=False)}}
                for call in calls
            ]  # fmt: skip
        if one.call_id is not None:
            message["tool_call_id"] = message.pop("call_id")
    return json.dumps(said, ensure_ascii=False)


def digest(split: Split) -> str:
    """sha256 of all that is learned from and measured by, in its order."""
    lines = [str(len(split.train)), *map(_line, (*split.train, *split.held_out))]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
