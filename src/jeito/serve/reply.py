"""From runs to what OpenAI's clients read: a whole completion, or its chunks. Knows nothing of HTTP."""

import json
import time
from collections.abc import Iterator
from typing import Any, Protocol

from jeito.engines.remote import Remote
from jeito.run.run import Run
from jeito.serve.asked import Asked
from jeito.serve.catalogue import without_path
from jeito.serve.refusal import Refusal, shape
from jeito.types import Alternative, CallPiece, Receipt, Token, Trace

FINISHES = {
    "tool_calls": "tool_calls", "length": "length", "context": "length", "memory": "length", "limit": "length",
    "repetition": "length",
}  # fmt: skip
"""All others are `stop`."""

Json = dict[str, Any]


class Reply(Protocol):
    """One request's answer in the making, in the shape of its endpoint. `done`: what ends a stream, if anything."""

    done: str | None

    def whole(self) -> Json: ...

    def begun(self) -> Iterator[Json]: ...

    def piece(self, at: int, token: Token) -> Iterator[Json]:
        """What a token of the run at place `at` says: nothing where nothing became safe to show."""
        ...

    def ended(self) -> Iterator[Json]:
        """What was held back, how each reply ended, and what it used."""
        ...

    def failed(self, error: Refusal) -> Json: ...


class ChatReply:
    """Replies as messages."""

    done: str | None = "[DONE]"

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self._created = int(time.time())
        self._sent = [0] * len(asked.runs)
        """Characters of each answer that went out."""

    def whole(self) -> Json:
        choices = [self._choice(at, run.trace) for at, run in enumerate(self.asked.runs)]
        return self._head("chat.completion") | {"choices": choices, "usage": usage(self.asked)}

    def begun(self) -> Iterator[Json]:
        for at, run in enumerate(self.asked.runs):
            said = {"jeito": {"start": run.begun.model_dump(mode="json")}} if self._tells_tokens else {}
            yield self._chunk(at, {"role": "assistant", "content": ""}) | said

    def piece(self, at: int, token: Token) -> Iterator[Json]:
        delta: Json = {"content": token.text} if token.text else {}
        self._sent[at] += len(token.text)
        if token.reasoning and shows_reasoning(self.asked):
            delta["reasoning_content"] = token.reasoning
        if token.calls:
            delta["tool_calls"] = [self._call_piece(at, piece) for piece in token.calls]
        logprobs = self._logprobs([token])
        if self._tells_tokens:
            yield self._chunk(at, delta, logprobs) | {"jeito": {"token": token.model_dump(mode="json")}}
        elif delta or logprobs:
            yield self._chunk(at, delta, logprobs)

    def ended(self) -> Iterator[Json]:
        for at, run in enumerate(self.asked.runs):
            if rest := run.trace.answer[self._sent[at] :]:
                yield self._chunk(at, {"content": rest})
            said = own(run.trace, self.asked)
            if self._tells_tokens and run.ended is not None:
                said["end"] = run.ended.model_dump(mode="json", exclude={"memory"})
            yield self._chunk(at, {}, finish=finish_of(run.trace)) | {"jeito": said}
        if self.asked.chat.stream_options.include_usage:
            yield self._head("chat.completion.chunk") | {"choices": [], "usage": usage(self.asked)}

    def failed(self, error: Refusal) -> Json:
        return shape(error)

    @property
    def _tells_tokens(self) -> bool:
        return self.asked.chat.jeito.tokens

    def _head(self, kind: str) -> Json:
        return head(self.asked, "chatcmpl", kind, self._created)

    def _chunk(self, at: int, delta: Json, logprobs: Json | None = None, finish: str | None = None) -> Json:
        choice = {"index": at, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        return self._head("chat.completion.chunk") | {"choices": [choice]}

    def _choice(self, at: int, trace: Trace) -> Json:
        calls = [
            _call(trace, index, call.name, json.dumps(call.arguments, ensure_ascii=False))
            for index, call in enumerate(trace.calls)
        ]
        message: Json = {"role": "assistant", "content": None if calls and not trace.answer else trace.answer}
        message["refusal"] = None
        if calls:
            message["tool_calls"] = calls
        if trace.reasoning and shows_reasoning(self.asked):
            message["reasoning_content"] = trace.reasoning
        return {
            "index": at,
            "message": message,
            "logprobs": self._logprobs(trace.tokens),
            "finish_reason": finish_of(trace),
            "jeito": own(trace, self.asked),
        }

    def _call_piece(self, at: int, piece: CallPiece) -> Json:
        if not piece.name:
            return {"index": piece.index, "function": {"arguments": piece.arguments}}
        trace = self.asked.runs[at].trace
        return {"index": piece.index} | _call(trace, piece.index, piece.name, piece.arguments)

    def _logprobs(self, tokens: tuple[Token, ...] | list[Token]) -> Json | None:
        if not self.asked.chat.logprobs:
            return None
        return {"content": [logprob_of(self.asked, token) for token in tokens], "refusal": None}


def head(asked: Asked, prefix: str, kind: str, created: int) -> Json:
    """How every completion and every chunk of it begins."""
    return {
        "id": f"{prefix}-{asked.runs[0].trace.id}",
        "object": kind,
        "created": created,
        "model": asked.served.id,
        "system_fingerprint": f"fp_{asked.served.model.fingerprint[:12]}",
    }


def own(trace: Trace, asked: Asked) -> Json:
    """What only jeito says of a reply."""
    said: Json = {"run": trace.id, "seed": trace.seed, "finish": trace.finish, "why": trace.why}
    if asked.chat.jeito.receipt:
        said["receipt"] = shown(trace.receipt)
    return said


def usage(asked: Asked) -> Json:
    """A prompt counts once for all its replies, as OpenAI counts it."""
    traces = [run.trace for run in asked.runs]
    firsts = traces[:: asked.chat.n]
    prompt, generated = sum(trace.usage.prompt or 0 for trace in firsts), sum(trace.usage.generated for trace in traces)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": generated,
        "total_tokens": prompt + generated,
        "prompt_tokens_details": {"cached_tokens": sum(trace.usage.cached or 0 for trace in firsts)},
    }


def logprob_of(asked: Asked, token: Token) -> Json:
    # A token that could be no other was not asked of the model: it was certain.
    return _logprob(asked, token, token.logprob or 0.0) | {
        "top_logprobs": [_logprob(asked, other, other.logprob) for other in token.top]
    }


def _logprob(asked: Asked, token: Token | Alternative, logprob: float) -> Json:
    data = data_of(asked, token)
    return {"token": data.decode(errors="replace"), "logprob": logprob, "bytes": list(data)}


def data_of(asked: Asked, token: Token | Alternative) -> bytes:
    """What a token says, also where it is only a part of a character; what a stranger drew has no number."""
    model = asked.served.model
    return token.text.encode() if token.id is None or isinstance(model, Remote) else model.text([token.id])


def shows_reasoning(asked: Asked) -> bool:
    return asked.served.loaded.behaviour.reasoning.show


def shown(receipt: Receipt) -> Json:
    """A receipt without the paths of this machine."""
    values = {name: without_path(sourced) for name, sourced in receipt.values.items()}
    return receipt.model_copy(update={"values": values}).model_dump(mode="json")


def failed(runs: list[Run]) -> str | None:
    """Why a run broke off, if one did."""
    return next((run.trace.error or "a reply broke off" for run in runs if run.trace.finish == "error"), None)


def finish_of(trace: Trace) -> str:
    """As OpenAI's clients know it."""
    return FINISHES.get(trace.finish or "", "stop")


def call_id(trace: Trace, index: int) -> str:
    """An id that no other call of any conversation has."""
    return f"call_{trace.id}_{index}"


def _call(trace: Trace, index: int, name: str, arguments: str) -> Json:
    return {"id": call_id(trace, index), "type": "function", "function": {"name": name, "arguments": arguments}}
