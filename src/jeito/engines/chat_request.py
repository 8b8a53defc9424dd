"""A request as the body of a chat completion, in the words of a server's kind. Pure: knows nothing of HTTP."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from jeito.engines.servers import Server
from jeito.errors import UnsupportedError
from jeito.types import Dry, Message, Placement, Request, Sampling, Value, Xtc

Json = dict[str, Any]
_OFF: dict[str, Value] = {"dry": Dry(multiplier=0), "xtc": Xtc(threshold=0.1, probability=0)}
_DRAWING = ("temperature", "top_k", "top_p", "min_p", "typical_p")


class Asked(NamedTuple):
    """A body, and what of it means something else at the server."""

    body: Json
    notes: tuple[str, ...]


def asked(request: Request, server: Server, model: str) -> Asked:
    """The body of a streamed chat completion; raises UnsupportedError for what the kind has no word for."""
    body: Json = {"model": model, "stream": True, **server.fixed}
    if server.kind != "transformers":
        body["stream_options"] = {"include_usage": True}
    notes = list(server.always)
    if request.raw:
        raise UnsupportedError("a raw prompt cannot be asked of a server", hint="ask it in a conversation")
    if request.reasoning.open is not None:
        raise UnsupportedError("a server has marks of its own around reasoning", hint="leave reasoning.open out")
    for path, value, is_meant in _leaves(request, server):
        field = server.fields.get(path)
        if field is not None:
            put(body, field.name, field.make(value))
            if field.note and is_meant:
                notes.append(f"{path} = {_shown(value)}: {field.note}")
        elif is_meant:
            raise UnsupportedError(
                f"{server.kind} cannot honour {path} = {_shown(value)}",
                hint=f"another value of {path}, or a local model",
            )
    is_jeito = server.kind == "jeito"
    turns = [*request.messages] if is_jeito else placed(request.messages, request.system, request.placement)
    if is_jeito and request.system:
        turns.insert(0, Message(role="system", content=request.system))
    body["messages"] = [_turn(turn) for turn in turns]
    if request.logprobs is not None:
        body["logprobs"] = True
    if server.kind == "transformers":
        body["generation_config"] = generation_config(body["generation_config"])
    return Asked(body, tuple(notes))


def put(body: Json, name: str, value: Any) -> None:
    """Set a field; dots go into maps, which are made where they are not."""
    *above, last = name.split(".")
    for step in above:
        body = body.setdefault(step, {})
    body[last] = value


def placed(messages: Sequence[Message], system: str, placement: Placement) -> list[Message]:
    """The conversation with the instruction in it."""
    turns = list(messages)
    asks = [at for at, turn in enumerate(turns) if turn.role == "user"]
    if not system:
        return turns
    if placement == "system" or not asks:
        return [Message(role="system", content=system), *turns]
    at = asks[0] if placement == "user_start" else asks[-1]
    parts = (system, turns[at].content) if placement == "user_start" else (turns[at].content, system)
    turns[at] = turns[at].model_copy(update={"content": "\n\n".join(part.strip("\n") for part in parts)})
    return turns


def _leaves(request: Request, server: Server) -> Iterator[tuple[str, Any, bool]]:
    """Every value that the server must be told, by path; and whether it says anything, or only keeps others out."""
    yield from _knobs(request.sampling, server)
    if request.output is not None:
        for kind in request.output.kinds():
            yield f"output.{kind}", request.output.model_dump(mode="json")[kind], True
    if request.tools and request.tool_choice != "none":
        yield "tools", list(request.tools), True
        yield "tool_choice", request.tool_choice, request.tool_choice != "auto"
        yield "parallel_calls", request.parallel_calls, not request.parallel_calls
    if request.logprobs is not None:
        yield "logprobs", request.logprobs, True
    yield "token_ids", True, False
    if request.reasoning.budget is not None:
        yield "reasoning.budget", request.reasoning.budget, True
    if request.repetition is not None:
        yield "guard.repetition", request.repetition.model_dump(), True
    yield "guard.empty", request.refuse_empty, request.refuse_empty
    yield "guard.overflow", request.drop_oldest, request.drop_oldest
    yield "adapter", [one.path for one in request.adapter], bool(request.adapter)
    yield "steering", [one.vector for one in request.steering], bool(request.steering)
    yield "dialect", request.dialect, request.dialect != "auto"
    yield "placement", request.placement, False


def _knobs(sampling: Sampling, server: Server) -> Iterator[tuple[str, Any, bool]]:
    plain = Sampling().model_dump(mode="json")
    for knob, value in sampling.model_dump(mode="json").items():
        is_meant = value not in (plain[knob], None) or knob == "seed"
        if not is_meant and knob not in (*server.neutral, "max_new_tokens"):
            continue
        path = f"sampling.{knob}"
        if knob in _OFF and path not in server.fields and server.can(knob):
            off = _OFF[knob].model_dump(mode="json") if value is None else value
            yield from ((f"{path}.{part}", inner, is_meant) for part, inner in off.items())
        elif knob != "seed" or value is not None:
            # Without a seed of its own a server draws by itself; which seed was drawn here does not matter then.
            yield path, value, is_meant and (knob != "seed" or path in server.fields)


def generation_config(config: Json) -> str:
    """transformers refuses what draws where nothing is drawn."""
    draws = config["temperature"] > 0
    kept = {name: value for name, value in config.items() if draws or name not in _DRAWING}
    return json.dumps({"do_sample": draws, **kept})


def _turn(message: Message) -> Json:
    turn: Json = {"role": message.role, "content": message.content}
    if message.calls:
        turn["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": json.dumps(call.arguments, ensure_ascii=False)},
            }
            for call in message.calls
        ]
    return turn | ({"tool_call_id": message.call_id} if message.role == "tool" else {})


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, Mapping | list) else str(value)
    return text if len(text) <= 60 else f"{text[:59]}…"
