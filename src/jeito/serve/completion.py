"""The old way to ask: a prompt as it is, and the text that goes on with it. Knows nothing of HTTP."""

import time
from collections.abc import Iterator
from itertools import accumulate
from typing import Any

from pydantic import Field

from jeito.serve.asked import Asked
from jeito.serve.chat import Asking, Chat, Find
from jeito.serve.fields import REPLIES, Common
from jeito.serve.refusal import Refusal, shape
from jeito.serve.reply import Json, data_of, finish_of, head, own, usage
from jeito.types import Several, Token

Prompt = str | Several[int]


class Completion(Common):
    """The body of a completion request."""

    prompt: str | Several[int] | Several[Prompt] = Field(
        description="text, tokens, or a list of either; no template is put around it"
    )
    max_tokens: int | None = Field(default=None, ge=1, description="the same as max_new_tokens")
    min_tokens: int | None = Field(default=None, ge=0, description="the same as min_new_tokens")
    n: int = Field(default=1, ge=1, le=32, description="replies to each prompt, each with a seed of its own")
    best_of: int | None = Field(default=None, ge=1, description="the same as n: nothing is ranked")
    echo: bool = Field(default=False, description="the prompt stands before each reply")
    logprobs: int | None = Field(default=None, ge=0, le=20, description="of every token, and so many likelier ones")
    suffix: str | None = Field(default=None, description="refused: models are not told what comes after")

    def asking(self, find: Find) -> Asking:
        if self.suffix:
            raise Refusal(400, "nothing is filled in before a suffix", hint="put it into the prompt", param="suffix")
        if self.best_of not in (None, self.n):
            raise Refusal(400, f"best_of is {self.best_of}, and n {self.n}", hint="ask for n", param="best_of")
        if self.echo and self.logprobs is not None:
            hint = "logprobs without echo"
            raise Refusal(400, "logprobs are of the reply, and echo asks for the prompt's", hint=hint, param="echo")
        prompts = self.prompts()
        if not 0 < len(prompts) * self.n <= REPLIES:
            what = f"{len(prompts)} prompts with {self.n} replies each"
            raise Refusal(400, what, hint=f"1 to {REPLIES} replies in all", param="prompt")
        same = ("max_tokens", "min_tokens", "n")
        values = self.shared() | {name: getattr(self, name) for name in same if name in self.model_fields_set}
        if self.logprobs is not None:
            values |= {"logprobs": True, "top_logprobs": self.logprobs}
        return Asking(Chat.model_construct(messages=(), **values), prompts=prompts)

    def prompts(self) -> tuple[str | tuple[int, ...], ...]:
        given: Any = self.prompt
        is_one = isinstance(given, str) or (given and isinstance(given[0], int))
        return (given,) if is_one else tuple(given)


class CompletionReply:
    """Replies as text after text."""

    done: str | None = "[DONE]"

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self._head = head(asked, "cmpl", "text_completion", int(time.time()))
        self._sent = [0] * len(asked.runs)
        """Characters of each answer that went out."""

    def whole(self) -> Json:
        choices = [
            self._choice(at, self._echo(at) + run.trace.answer, run.trace.tokens, finish_of(run.trace))
            | {"jeito": own(run.trace, self.asked)}
            for at, run in enumerate(self.asked.runs)
        ]
        return self._head | {"choices": choices, "usage": usage(self.asked)}

    def begun(self) -> Iterator[Json]:
        for at in range(len(self.asked.runs)):
            if text := self._echo(at):
                yield self._chunk(at, text)

    def piece(self, at: int, token: Token) -> Iterator[Json]:
        if token.text or self.asked.chat.logprobs:
            yield self._chunk(at, token.text, (token,))
        self._sent[at] += len(token.text)

    def ended(self) -> Iterator[Json]:
        for at, run in enumerate(self.asked.runs):
            rest = self._choice(at, run.trace.answer[self._sent[at] :], (), finish_of(run.trace))
            yield self._head | {"choices": [rest | {"jeito": own(run.trace, self.asked)}]}
        if self.asked.chat.stream_options.include_usage:
            yield self._head | {"choices": [], "usage": usage(self.asked)}

    def failed(self, error: Refusal) -> Json:
        return shape(error)

    def _echo(self, at: int) -> str:
        is_wanted = isinstance(self.asked.body, Completion) and self.asked.body.echo
        return self.asked.runs[at].trace.request.messages[0].content if is_wanted else ""

    def _chunk(self, at: int, text: str, tokens: tuple[Token, ...] = ()) -> Json:
        return self._head | {"choices": [self._choice(at, text, tokens, None)]}

    def _choice(self, at: int, text: str, tokens: tuple[Token, ...], finish: str | None) -> Json:
        logprobs = self._logprobs(tokens, self._sent[at]) if tokens and self.asked.chat.logprobs else None
        return {"index": at, "text": text, "logprobs": logprobs, "finish_reason": finish}

    def _logprobs(self, tokens: tuple[Token, ...], start: int) -> Json:
        """In this endpoint's shape: a list for each thing to know, and a map of the likeliest."""
        written = [data_of(self.asked, token).decode(errors="replace") for token in tokens]
        ends = accumulate((len(token.text) for token in tokens), initial=start)
        return {
            "tokens": written,
            # A token that could be no other was not asked of the model: it was certain.
            "token_logprobs": [token.logprob or 0.0 for token in tokens],
            "top_logprobs": [{other.text: other.logprob for other in token.top} for token in tokens],
            "text_offset": [end for end, _ in zip(ends, tokens, strict=False)],
        }
