"""A run as /v1/responses tells it: items of output, whole or event by event. Knows nothing of HTTP."""

import json
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from jeito.serve.asked import Asked
from jeito.serve.refusal import Refusal
from jeito.serve.reply import Json, call_id, finish_of, logprob_of, own, shows_reasoning
from jeito.serve.respond import Respond
from jeito.types import Token, Trace

Place = str | int
"""An item: `reasoning`, `message`, or a call by its index."""


class RespondReply:
    """One reply; its items in the order in which they began."""

    done: str | None = None

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self._created = int(time.time())
        self._number = 0
        self._items: list[Place] = []
        self._sent = 0
        """Characters of the answer that went out."""
        self._logprobs: list[Json] = []
        """Of tokens whose text is held back."""

    def whole(self) -> Json:
        trace = self._trace
        places: list[Place] = ["reasoning"] if trace.reasoning and shows_reasoning(self.asked) else []
        places += ["message"] if trace.answer or not trace.calls else []
        return self._response([*places, *range(len(trace.calls))], status_of(trace))

    def begun(self) -> Iterator[Json]:
        for name in ("created", "in_progress"):
            yield self._event(f"response.{name}", response=self._response([], "in_progress"))

    def piece(self, at: int, token: Token) -> Iterator[Json]:
        if token.reasoning and shows_reasoning(self.asked):
            yield from self._open("reasoning")
            yield self._event("response.reasoning_text.delta", "reasoning", content_index=0, delta=token.reasoning)
        if self.asked.chat.logprobs:
            self._logprobs.append(logprob_of(self.asked, token))
        if token.text:
            yield from self._say(token.text)
        for piece in token.calls:
            if piece.name:
                yield from self._open(piece.index, piece.name)
            if piece.arguments:
                yield self._event("response.function_call_arguments.delta", piece.index, delta=piece.arguments)

    def ended(self) -> Iterator[Json]:
        trace = self._trace
        if rest := trace.answer[self._sent :]:
            yield from self._say(rest)
        if not self._items:
            yield from self._open("message")
        for place in self._items:
            yield from self._close(place)
        status = status_of(trace)
        yield self._event(f"response.{status}", response=self._response(self._items, status))

    def failed(self, error: Refusal) -> Json:
        return self._event("error", code=error.word, message=str(error), param=error.param)

    @property
    def _trace(self) -> Trace:
        return self.asked.runs[0].trace

    def _event(self, kind: str, place: Place | None = None, **said: Any) -> Json:
        event: Json = {"type": kind, "sequence_number": self._number}
        self._number += 1
        if place is not None:
            event |= {"item_id": _id(self._trace, place), "output_index": self._items.index(place)}
        return event | said

    def _say(self, text: str) -> Iterator[Json]:
        yield from self._open("message")
        self._sent += len(text)
        logprobs, self._logprobs = self._logprobs, []
        yield self._event("response.output_text.delta", "message", content_index=0, delta=text, logprobs=logprobs)

    def _open(self, place: Place, name: str = "") -> Iterator[Json]:
        if place in self._items:
            return
        self._items.append(place)
        item = _item(self._trace, place, "in_progress")
        item |= {"name": name} if name else {}
        yield self._event("response.output_item.added", output_index=len(self._items) - 1, item=item)
        if isinstance(place, str):
            yield self._event("response.content_part.added", place, content_index=0, part=_part(place, ""))

    def _close(self, place: Place) -> Iterator[Json]:
        item = self._item(place)
        if isinstance(place, int):
            yield self._event("response.function_call_arguments.done", place, **_only(item, "name", "arguments"))
        else:
            part = item["content"][0]
            more = _only(part, "text") | ({"logprobs": part["logprobs"]} if place == "message" else {})
            kind = "output_text" if place == "message" else "reasoning_text"
            yield self._event(f"response.{kind}.done", place, content_index=0, **more)
            yield self._event("response.content_part.done", place, content_index=0, part=part)
        at = self._items.index(place)
        yield self._event("response.output_item.done", output_index=at, item=item)

    def _item(self, place: Place) -> Json:
        trace, logprobs = self._trace, []
        if place == "message" and self.asked.chat.logprobs:
            logprobs = [logprob_of(self.asked, token) for token in trace.tokens]
        return _item(trace, place, status_of(trace), logprobs)

    def _response(self, places: list[Place], status: str) -> Json:
        body, trace = self.asked.body, self._trace
        assert isinstance(body, Respond)
        said = response(trace, self.asked.served.id, [self._item(place) for place in places], status)
        said |= {"created_at": self._created, "jeito": own(trace, self.asked)}
        return said | _only(body, "instructions", "previous_response_id", "store", "metadata")


def response_kept(trace: Trace, model: str) -> Json:
    """A reply again, as the log has it."""
    places: list[Place] = ["message"] if trace.answer or not trace.calls else []
    status = status_of(trace) if trace.finish != "error" else "failed"
    items = [_item(trace, place, status_of(trace)) for place in [*places, *range(len(trace.calls))]]
    return response(trace, model, items, status)


def response(trace: Trace, model: str, output: list[Json], status: str) -> Json:
    """The object that stands for a reply; its values are those that acted."""
    asked, usage, sampling = trace.request, trace.usage, trace.request.sampling
    prompt = usage.prompt or 0
    error = {"code": "server_error", "message": "the reply broke off"} if status == "failed" else None
    return {
        "id": f"resp_{trace.id}",
        "object": "response",
        "created_at": int(datetime.fromisoformat(trace.time).timestamp()),
        "status": status,
        "error": error,
        "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
        "model": model,
        "output": output,
        "parallel_tool_calls": asked.parallel_calls,
        "tool_choice": _choice(asked.tool_choice),
        "tools": [{"type": "function", "strict": True, **_function(tool)} for tool in asked.tools],
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_output_tokens": sampling.max_new_tokens,
        "truncation": "auto" if asked.drop_oldest else "disabled",
        "usage": None
        if status == "in_progress"
        else {
            "input_tokens": prompt,
            "input_tokens_details": {"cached_tokens": usage.cached or 0, "cache_write_tokens": 0},
            "output_tokens": usage.generated,
            "output_tokens_details": {"reasoning_tokens": sum(bool(token.reasoning) for token in trace.tokens)},
            "total_tokens": prompt + usage.generated,
        },
    }


def status_of(trace: Trace) -> str:
    return "incomplete" if finish_of(trace) == "length" else "completed"


def _id(trace: Trace, place: Place) -> str:
    return f"fc_{trace.id}_{place}" if isinstance(place, int) else f"{_PREFIX[place]}_{trace.id}"


_PREFIX = {"message": "msg", "reasoning": "rs"}


def _item(trace: Trace, place: Place, status: str, logprobs: list[Json] | None = None) -> Json:
    said: Json = {"id": _id(trace, place), "status": status}
    if isinstance(place, int):
        made = trace.calls[place] if place < len(trace.calls) else None
        arguments = json.dumps(made.arguments, ensure_ascii=False) if made else ""
        called = {"name": made.name if made else "", "arguments": arguments, "call_id": call_id(trace, place)}
        return said | {"type": "function_call"} | called
    is_open = status == "in_progress"
    if place == "message":
        content = [] if is_open else [_part(place, trace.answer, logprobs)]
        return said | {"type": "message", "role": "assistant", "content": content}
    content = [] if is_open else [_part(place, trace.reasoning)]
    return said | {"type": "reasoning", "summary": [], "content": content}


def _part(place: str, text: str, logprobs: list[Json] | None = None) -> Json:
    if place == "message":
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs or []}
    return {"type": "reasoning_text", "text": text}


def _choice(choice: str) -> str | Json:
    return choice if choice in ("auto", "none", "required") else {"type": "function", "name": choice}


def _function(tool: Json) -> Json:
    return dict(tool["function"])


def _only(said: Any, *names: str) -> Json:
    read = said.get if isinstance(said, dict) else lambda name: getattr(said, name)
    return {name: read(name) for name in names}
