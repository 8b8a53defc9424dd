"""The chunks of a streamed chat completion as the events of a reply. Pure: knows nothing of HTTP."""

import json
import time
from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from jeito.errors import EngineError
from jeito.types import Alternative, CallPiece, End, Event, Finish, Request, Seconds, Start, Token, ToolCall, Usage

Json = dict[str, Any]
_FINISHES: dict[str, Finish] = {
    "stop": "stop", "length": "length", "tool_calls": "tool_calls", "function_call": "tool_calls",
    "repetition": "repetition",
}  # fmt: skip
"""All others are `stop`, but for those of a reply that broke off."""


class Reading:
    """One reply as it comes. A piece of text whose tokens the server does not tell apart counts as one token."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._begun = time.perf_counter()
        self._first: float | None = None
        self._tokens = self._unnamed = 0
        self._finish: str | None = None
        self._usage: Json | None = None
        self._calls: dict[int, Json] = {}
        self._names_tokens = False
        """A second jeito: every token comes as the value that it is."""
        self._own: End | None = None

    def events(self, chunk: Json) -> Iterator[Event]:
        """What a chunk says; raises EngineError for one that cannot be read."""
        try:
            own = chunk.get("jeito") or {}
            if "start" in own:
                self._names_tokens = True
                yield Start.model_validate(own["start"])
            if isinstance(chunk.get("usage"), dict):
                self._usage = chunk["usage"]
            if "end" in own:
                self._own = End.model_validate(own["end"])
            for choice in chunk.get("choices") or ():
                delta = choice.get("delta") or {}
                self._finish = choice.get("finish_reason") or self._finish
                calls = [self._call(piece) for piece in delta.get("tool_calls") or ()]
                if "token" in own:
                    yield self._seen(Token.model_validate(own["token"]))
                elif not self._names_tokens:
                    yield from map(self._seen, self._pieces(choice, delta, calls))
        except (ValidationError, AttributeError, TypeError, KeyError, ValueError) as error:
            shown = json.dumps(chunk)[:200]
            raise EngineError(f"a chunk of the reply cannot be read: {shown}", hint="jeito probe") from error

    def _seen(self, token: Token) -> Token:
        self._first = self._first or time.perf_counter()
        self._tokens += 1
        self._unnamed += token.id is None
        return token

    def _pieces(self, choice: Json, delta: Json, calls: list[CallPiece]) -> Iterator[Token]:
        """The tokens of a chunk: what is shown stands with the last of them."""
        text = delta.get("content") or ""
        reasoning = delta.get("reasoning_content") or delta.get("reasoning") or ""
        said = (choice.get("logprobs") or {}).get("content") or []
        ids = choice.get("token_ids") or [one.get("id") for one in said]
        if not (text or reasoning or calls or ids):
            return
        for at in range(last := max(len(ids), len(said), 1)):
            is_last = at == last - 1
            one = said[at] if at < len(said) else {}
            yield Token(
                id=ids[at] if at < len(ids) else None,
                text=text if is_last else "",
                reasoning=reasoning if is_last else "",
                calls=tuple(calls) if is_last else (),
                logprob=one.get("logprob"),
                top=tuple(map(_alternative, one.get("top_logprobs") or ()))[: self._request.logprobs],
            )

    def _call(self, piece: Json) -> CallPiece:
        index, function = piece.get("index", 0), piece.get("function") or {}
        call = self._calls.setdefault(index, {"id": "", "name": "", "arguments": ""})
        call["id"] = call["id"] or piece.get("id") or ""
        name = "" if call["name"] else function.get("name") or ""
        call["name"] += name
        arguments = function.get("arguments") or ""
        call["arguments"] += arguments if isinstance(arguments, str) else json.dumps(arguments)
        return CallPiece(index=index, name=name, arguments=arguments if isinstance(arguments, str) else "")

    def end(self, url: str, notes: list[str]) -> End:
        """How it ended; raises EngineError for a reply that the server at `url` broke off."""
        total = time.perf_counter()
        first = self._first or total
        seconds = Seconds(prefill=first - self._begun, decode=total - first, total=total - self._begun)
        if self._own is not None:
            seconds = self._own.seconds.model_copy(update={"total": seconds.total})
            return self._own.model_copy(update={"notes": (*self._own.notes, *notes), "seconds": seconds})
        if self._finish is None or self._finish in ("error", "abort"):
            said = f"finish_reason {self._finish!r}" if self._finish else "no finish_reason came"
            raise EngineError(f"{url} broke off the reply: {said}", hint="its own output may say why")
        calls, unreadable = self._made()
        finish = _FINISHES.get(self._finish, "stop")
        why = None if self._finish in _FINISHES else f"the server says {self._finish!r}"
        usage, more = self._counted()
        if finish == "length" and usage.generated < self._request.sampling.max_new_tokens and not more:
            finish, why = "context", "the server's context is full"
        if calls and finish == "stop":
            finish = "tool_calls"
        if self._unnamed:
            more = [*more, f"the server names no tokens: {self._unnamed} pieces of text stand for {usage.generated}"]
        return End(
            finish=finish, why=why, notes=(*notes, *more), calls=tuple(calls), unreadable=tuple(unreadable),
            usage=usage, seconds=seconds,
        )  # fmt: skip

    def _made(self) -> tuple[list[ToolCall], list[str]]:
        calls: list[ToolCall] = []
        unreadable: list[str] = []
        for index, call in sorted(self._calls.items()):
            try:
                arguments = json.loads(call["arguments"] or "{}")
            except ValueError:
                arguments = None
            if not isinstance(arguments, dict):
                unreadable.append(f"the arguments of {call['name']!r} are no JSON object")
            else:
                calls.append(ToolCall(id=call["id"] or f"call_{index}", name=call["name"], arguments=arguments))
        return calls, unreadable

    def _counted(self) -> tuple[Usage, list[str]]:
        """The server's own counts, and what cannot be right of them."""
        said = self._usage
        if said is None:
            return Usage(prompt=None, cached=None, generated=self._tokens), ["the server counts no tokens"]
        prompt, generated = _count(said, "prompt_tokens"), _count(said, "completion_tokens")
        cached = _count(said.get("prompt_tokens_details") or {}, "cached_tokens")
        wrong: list[str] = []
        total = _count(said, "total_tokens")
        if None not in (prompt, generated, total) and (prompt or 0) + (generated or 0) != total:
            wrong.append(f"{prompt} and {generated} tokens are not {total}")
        # One more may be the end token, which is no part of the reply; and a piece without ids is one token or more.
        most = self._tokens + 1 if not self._unnamed else self._request.sampling.max_new_tokens
        if generated is not None and not self._tokens <= generated <= max(most, self._tokens):
            wrong.append(f"it counts {generated} tokens, and {self._tokens} came")
        notes = [f"the server's usage cannot be right: {'; '.join(wrong)}"] if wrong else []
        counted = self._tokens if wrong or generated is None else generated
        return Usage(prompt=prompt, cached=cached, generated=counted), notes


def _count(said: Json, name: str) -> int | None:
    found = said.get(name)
    return found if isinstance(found, int) and found >= 0 else None


def _alternative(said: Json) -> Alternative:
    return Alternative(id=said.get("id"), text=said["token"], logprob=said["logprob"])
