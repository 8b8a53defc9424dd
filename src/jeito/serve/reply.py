"""From runs to what OpenAI's clients read: a whole completion, or its chunks. Knows nothing of HTTP."""

import json
import time
from collections.abc import Iterator
from typing import Any

from jeito.decode.local import LocalModel
from jeito.run.run import Run
from jeito.serve.asked import Asked
from jeito.types import CallPiece, Receipt, Token, Trace

FINISHES = {
    "tool_calls": "tool_calls", "length": "length", "context": "length", "memory": "length", "limit": "length",
    "repetition": "length",
}  # fmt: skip
"""All others are `stop`."""

Json = dict[str, Any]


class Reply:
    """One request's answer in the making."""

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.created = int(time.time())
        self._sent = [0] * len(asked.runs)
        """Characters of each answer that went out."""

    def whole(self) -> Json:
        choices = [self._choice(at, run.trace) for at, run in enumerate(self.asked.runs)]
        return self._head("chat.completion") | {"choices": choices, "usage": self.usage()}

    def begun(self) -> Iterator[Json]:
        for at in range(len(self.asked.runs)):
            yield self._chunk(at, {"role": "assistant", "content": ""})

    def piece(self, at: int, token: Token) -> Json | None:
        """The chunk of a token; none where nothing became safe to show."""
        delta: Json = {"content": token.text} if token.text else {}
        self._sent[at] += len(token.text)
        if token.reasoning and self._shows_reasoning:
            delta["reasoning_content"] = token.reasoning
        if token.calls:
            delta["tool_calls"] = [self._call_piece(at, piece) for piece in token.calls]
        logprobs = self._logprobs([token])
        return self._chunk(at, delta, logprobs) if delta or logprobs else None

    def ended(self) -> Iterator[Json]:
        """What was held back, how each reply ended, and what it used."""
        for at, run in enumerate(self.asked.runs):
            if rest := run.trace.answer[self._sent[at] :]:
                yield self._chunk(at, {"content": rest})
            yield self._chunk(at, {}, finish=_finish(run.trace)) | {"jeito": self._own(run.trace)}
        if self.asked.chat.stream_options.include_usage:
            yield self._head("chat.completion.chunk") | {"choices": [], "usage": self.usage()}

    def usage(self) -> Json:
        """The prompt counts once, as OpenAI counts it."""
        traces = [run.trace for run in self.asked.runs]
        prompt, generated = traces[0].usage.prompt, sum(trace.usage.generated for trace in traces)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": generated,
            "total_tokens": prompt + generated,
            "prompt_tokens_details": {"cached_tokens": traces[0].usage.cached or 0},
        }

    @property
    def _shows_reasoning(self) -> bool:
        return self.asked.served.loaded.behaviour.reasoning.show

    @property
    def _model(self) -> LocalModel:
        return self.asked.served.model

    def _head(self, kind: str) -> Json:
        return {
            "id": f"chatcmpl-{self.asked.runs[0].trace.id}",
            "object": kind,
            "created": self.created,
            "model": self.asked.served.id,
            "system_fingerprint": f"fp_{self._model.fingerprint[:12]}",
        }

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
        if trace.reasoning and self._shows_reasoning:
            message["reasoning_content"] = trace.reasoning
        return {
            "index": at,
            "message": message,
            "logprobs": self._logprobs(trace.tokens),
            "finish_reason": _finish(trace),
            "jeito": self._own(trace),
        }

    def _own(self, trace: Trace) -> Json:
        said: Json = {"run": trace.id, "seed": trace.seed, "finish": trace.finish, "why": trace.why}
        if self.asked.chat.jeito.receipt:
            said["receipt"] = shown(trace.receipt)
        return said

    def _call_piece(self, at: int, piece: CallPiece) -> Json:
        if not piece.name:
            return {"index": piece.index, "function": {"arguments": piece.arguments}}
        trace = self.asked.runs[at].trace
        return {"index": piece.index} | _call(trace, piece.index, piece.name, piece.arguments)

    def _logprobs(self, tokens: tuple[Token, ...] | list[Token]) -> Json | None:
        if not self.asked.chat.logprobs:
            return None
        # A token that could be no other was not asked of the model: it was certain.
        return {"content": [self._logprob(t.id, t.logprob or 0.0, t) for t in tokens], "refusal": None}

    def _logprob(self, id: int, logprob: float, token: Token | None) -> Json:
        data = self._model.text([id])
        said: Json = {"token": data.decode(errors="replace"), "logprob": logprob, "bytes": list(data)}
        if token is not None:
            said["top_logprobs"] = [self._logprob(other.id, other.logprob, None) for other in token.top]
        return said


def shown(receipt: Receipt) -> Json:
    """A receipt without the paths of this machine."""
    values = {
        name: sourced.model_copy(update={"file": sourced.file.replace("\\", "/").rpartition("/")[2]})
        if sourced.file
        else sourced
        for name, sourced in receipt.values.items()
    }
    return receipt.model_copy(update={"values": values}).model_dump(mode="json")


def failed(runs: list[Run]) -> str | None:
    """Why a run broke off, if one did."""
    return next((run.trace.error or "a reply broke off" for run in runs if run.trace.finish == "error"), None)


def _finish(trace: Trace) -> str:
    return FINISHES.get(trace.finish or "", "stop")


def _call(trace: Trace, index: int, name: str, arguments: str) -> Json:
    """With an id that no other call of any conversation has."""
    call_id = f"call_{trace.id}_{index}"
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
