"""A behaviour in the words of another program, and in notes what gets lost there. Pure: no engine, network or file."""

import json
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import JsonValue

from jeito.behaviour.behaviour import Behaviour
from jeito.behaviour.complain import shown
from jeito.behaviour.targets import Target, targets
from jeito.errors import BehaviourError, InputError, nearest
from jeito.types import Message, Sampling

_WHOLE = ("sampling.logit_bias", "output.json_schema", "guard.repetition")
_ORDER = "penalties;dry;temperature;top_n_sigma;top_k;top_p;min_p;typ_p;xtc"


class Export(NamedTuple):
    """`text` holds the notes too, as comments, unless it is JSON."""

    text: str
    notes: tuple[str, ...]


class _Parts(NamedTuple):
    """What a text is written from. Names in `server` that begin with -- are flags."""

    name: str
    model: str
    server: dict[str, Any]
    request: dict[str, Any]
    notes: list[str]
    template: str


def export(
    behaviour: Behaviour,
    to: str,
    *,
    model: str | None = None,
    ask: str | Sequence[Message] = "Who are you?",
    tools: Sequence[dict[str, JsonValue]] = (),
    defaults: Mapping[str, JsonValue] | None = None,
) -> Export:
    """What the target `to` needs to behave so, and a note for all that it cannot express or means otherwise.

    `model`: what the target calls it. `tools`: the behaviour's, as OpenAI has them. `defaults`: knobs that the model's
    files give; none: not known. Raises InputError for an unknown target, BehaviourError for what it cannot hold.
    """
    if to not in targets():
        raise InputError(f"nothing is exported to {to!r}", hint=nearest(to, targets()))
    target, given = targets()[to], behaviour.model_dump(mode="json")["sampling"]
    notes = [] if model else ["MODEL stands for the model's name: --model"]
    unset = ", ".join(knob for knob in target.neutral if knob not in given)
    if unset and defaults is None:
        notes.append(f"{unset}: neutral, since {to} has other defaults; what the model's files recommend is not known")
    parts = _Parts(behaviour.name, model or "MODEL", {}, {"model": model or "MODEL"}, notes, target.text)
    parts.request["messages"] = _messages(behaviour, ask)
    for path, value in _leaves(behaviour, _knobs(target, given, defaults or {})):
        field = target.field(path)
        made = list(tools) if path == "tools" else field.make(value)
        if field.place:
            # The conversation stands there already, whatever of it comes by.
            (parts.server if field.place == "server" else parts.request).setdefault(field.name, made)
        if field.place == "request" and not target.has_request:
            notes.append(f"{path} = {shown(value)}: goes into each request; jeito export --to vllm shows one")
        if field.note:
            notes.append(f"{path} = {shown(value)}: {field.note}")
    return Export(_WRITERS[to](parts), tuple(notes))


def _knobs(target: Target, given: dict[str, Any], defaults: Mapping[str, JsonValue]) -> dict[str, Any]:
    """What is set, and what the target's own defaults would spoil, in one order."""
    told = {knob: Sampling.model_fields[knob].default for knob in ("max_new_tokens", *target.neutral)}
    told |= {**(defaults if target.neutral else {}), **given}
    return {knob: told[knob] for knob in Sampling.model_fields if knob in told}


def _leaves(behaviour: Behaviour, knobs: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every value that says something, by dotted path."""
    plain = dict(_flat(Behaviour().model_dump(mode="json", exclude={"name", "sampling"})))
    always = {"tool_choice", "parallel_calls"} if behaviour.tools else set()
    for path, value in _flat(behaviour.model_dump(mode="json", exclude={"sampling"})):
        if path in always or value != plain.get(path):
            yield path, value
    for path, value in _flat({"sampling": knobs}):
        is_off = value is None or value is False or (path, value) == ("sampling.stop", [])
        if not is_off or path == "sampling.repetition_window":  # none: all
            yield path, value


def _flat(value: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, inner in value.items():
        if isinstance(inner, dict) and f"{above}{key}" not in _WHOLE:
            yield from _flat(inner, f"{above}{key}.")
        elif inner != {}:
            yield f"{above}{key}", inner


def _messages(behaviour: Behaviour, ask: str | Sequence[Message]) -> list[dict[str, Any]]:
    turns: list[dict[str, Any]] = [
        {"role": role, "content": text} for one in behaviour.examples for role, text in one.model_dump().items()
    ]
    turns += [{"role": "user", "content": ask}] if isinstance(ask, str) else map(_message, ask)
    if behaviour.system and behaviour.placement == "system":
        turns.insert(0, {"role": "system", "content": behaviour.system})
    elif behaviour.system:
        asks = [turn for turn in turns if turn["role"] == "user"]
        turn = asks[0 if behaviour.placement == "user_start" else -1]
        parts = [behaviour.system.strip("\n"), turn["content"]]
        turn["content"] = "\n\n".join(parts if behaviour.placement == "user_start" else reversed(parts))
    return turns


def _message(message: Message) -> dict[str, Any]:
    said: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.calls:
        functions = [(call.id, {"name": call.name, "arguments": _json(call.arguments, None)}) for call in message.calls]
        said["tool_calls"] = [{"id": id, "type": "function", "function": function} for id, function in functions]
    return said if message.call_id is None else said | {"tool_call_id": message.call_id}


def _commented(text: str, parts: _Parts) -> str:
    notes = "".join(f"#   {note}\n" for note in parts.notes)
    return f"# {parts.name}, written by jeito. What is lost here, or means something else:\n{notes}{text}"


def _json(value: Any, indent: int | None = 2) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _command(words: Sequence[str], port: int, parts: _Parts) -> str:
    """A line of shell that starts a server, and one that asks it."""
    start = " ".join(("\\\n  " if word.startswith("--") else "") + shlex.quote(word) for word in words)
    curl = f"curl http://127.0.0.1:{port}/v1/chat/completions -H 'Content-Type: application/json' -d "
    return _commented(f"{start}\n\n# A request:\n{curl}{shlex.quote(_json(parts.request))}\n", parts)


def _vllm_words(parts: _Parts) -> list[str]:
    overrides = {name: value for name, value in parts.server.items() if not name.startswith("--")}
    words = [parts.model, "--override-generation-config", _json(overrides, None)]
    if length := parts.server.get("--max-model-len"):
        words += ["--max-model-len", str(length)]
    if adapters := parts.server.get("--lora-modules"):
        words += ["--enable-lora", "--lora-modules", *adapters]
        parts.request["model"] = "adapter0"
    return words


def _llama(parts: _Parts) -> str:
    source = "--model" if parts.model.endswith(".gguf") else "--hf-repo"
    words = ["llama-server", source, parts.model, "--port", "8080", "--samplers", _ORDER]
    for name, value in parts.server.items():
        words += [word for one in _several(value) for word in (name, str(one))]
    return _command(words, 8080, parts)


def _several(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _ollama(parts: _Parts) -> str:
    lines = [f"FROM {parts.model}"]
    for name, value in parts.server.items():
        for one in _several(value):
            if name == "MESSAGE":
                lines += [f"MESSAGE {role} {_quoted(text)}" for role, text in one.items()]
            else:
                word = name if name.isupper() else f"PARAMETER {name}"
                lines.append(f"{word} {_quoted(one) if isinstance(one, str) else one}")
    return _commented("\n".join(lines) + "\n", parts)


def _quoted(text: str) -> str:
    if '"""\n' in text:
        raise BehaviourError(
            f'a Modelfile cannot hold """ at the end of a line: {shown(text)}', hint="write another mark"
        )
    return f'"""{text}"""'


def _transformers(parts: _Parts) -> str:
    server = parts.server
    parts.notes.append("merge it into the model's own generation_config.json, whose end tokens it has not")
    server["do_sample"] = server["temperature"] > 0
    if not server["do_sample"]:
        for knob in {"temperature", "top_k", "top_p", "min_p", "typical_p"} & server.keys():
            del server[knob]
        parts.notes.append("sampling.temperature = 0: do_sample false, without the cuts, which do nothing then")
    return _json(server) + "\n"


def _compose(parts: _Parts) -> str:
    # JSON is YAML; and a dollar begins a variable in a compose file.
    words = _json([word.replace("$", "$$") for word in _vllm_words(parts)], None)
    return _commented(parts.template.replace("WORDS", words), parts)


def _kubernetes(parts: _Parts) -> str:
    name = re.sub(r"[^a-z0-9]+", "-", f"vllm-{parts.name}".lower())[:60].strip("-")
    # $(NAME) is a variable in a container's arguments.
    words = _json([word.replace("$(", "$$(") for word in _vllm_words(parts)], None)
    return _commented(parts.template.replace("NAME", name).replace("WORDS", words), parts)


_WRITERS: dict[str, Callable[[_Parts], str]] = {
    "ollama": _ollama,
    "vllm": lambda parts: _command(["vllm", "serve", *_vllm_words(parts)], 8000, parts),
    "llama-server": _llama,
    "openai": lambda parts: _json(parts.request) + "\n",
    "transformers": _transformers,
    "compose": _compose,
    "kubernetes": _kubernetes,
}
