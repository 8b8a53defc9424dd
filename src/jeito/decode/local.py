"""An engine and a decoder behind `Model`. Whoever needs a token turns the crank for all; there is no worker thread."""

import hashlib
import threading
from collections import deque
from collections.abc import Generator, Iterator, Mapping
from collections.abc import Sequence as Tokens
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jeito.decode.decoder import Decoder, Sequence
from jeito.decode.template import Template
from jeito.engines.base import SAMPLING_KNOBS, Card, Engine, Row, Shape
from jeito.engines.meter import taken
from jeito.errors import ContextError, InputError
from jeito.types import End, Event, Exact, Message, Placement, Request, Sourced, Start

ABILITIES = SAMPLING_KNOBS | {"logprobs", "overflow"}
"""What every model with our decoder can honour today."""


class LocalModel:
    """A model in this process. Safe to use from several threads; they share one batch."""

    def __init__(self, engine: Engine, name: str) -> None:
        self.name = name
        self.abilities = ABILITIES
        self.decoder = Decoder(engine)
        self._engine = engine
        self._template = Template(engine.card.template, engine.card.special)
        self._crank = threading.Lock()
        self._tokenized: tuple[str | None, list[int]] = None, []
        self._abandoned: deque[Sequence] = deque()
        self._fingerprint: str | None = None

    @property
    def card(self) -> Card:
        return self._engine.card

    @property
    def context(self) -> int:
        return self.card.context

    @property
    def defaults(self) -> Mapping[str, Sourced]:
        return self._engine.card.defaults

    @property
    def fingerprint(self) -> str:
        if self._fingerprint is None:
            self._fingerprint = self._engine.fingerprint()
        return self._fingerprint

    def environment(self) -> dict[str, Any]:
        card = self.card
        return {
            "engine": card.engine,
            "precision": card.precision,
            "device": card.device,
            "weight_bytes": card.bytes,
            "context": card.context,
            "slots": card.slots,
            **card.facts,
            **card.versions,
        }

    def stream(self, request: Request) -> Generator[Event]:
        """Render, submit, then events as they come. Raises ContextError before the first event."""
        start, tokens = self._prepare(request)
        shape = self._shape(request) if start.exact.held else None
        with self._crank:
            self._sweep()
            sequence = self.decoder.submit(tokens, request.sampling, shape, request.logprobs)
        try:
            yield start
            yield from self._events(sequence)
        finally:
            # The garbage collector may close us inside a step of this very thread: so never wait for the lock here.
            self._abandoned.append(sequence)
            if self._crank.acquire(blocking=False):
                try:
                    self._sweep()
                finally:
                    self._crank.release()

    def tokens(self, text: str) -> list[int]:
        """A plain text's tokens, begun as the model's texts begin; names of special tokens stay text."""
        card = self.card
        begin = [card.bos] if card.add_bos and card.bos is not None else []
        return begin + self._engine.tokens(text, special=False)

    def text(self, ids: Tokens[int]) -> bytes:
        return self._engine.text(ids)

    def prompt(self, request: Request) -> list[int]:
        """The tokens of a request's prompt."""
        return self._prepare(request)[1]

    def read(self, tokens: Tokens[int], start: int) -> Iterator[NDArray[np.float32]]:
        """The logits [vocabulary] that follow the first `start` tokens, the first `start` + 1, … and all of them.

        In exact calls, where the engine has them. Takes a slot for itself; raises EngineError when none is free.
        """
        memory = self.decoder.memory
        with self._crank:
            self._sweep()
            shape, _ = self._engine.exact()
            slot = memory.take()
        most = shape.high if shape else self.card.batch
        try:
            for at in range(0, len(tokens), most):
                chunk = tokens[at : at + most]
                want = min(len(chunk), max(0, at + len(chunk) - start + 1))
                with self._crank:
                    found = self._engine.extend([Row(slot.index, chunk, want)], exact=shape is not None)
                    rows = found[0].copy()
                yield from rows
        finally:
            with self._crank:
                memory.release(slot)

    def _sweep(self) -> None:
        """Under the lock: end the replies whose iterators were closed."""
        while self._abandoned:
            self.decoder.cancel(self._abandoned.popleft())

    def _events(self, sequence: Sequence) -> Generator[Event]:
        memory: dict[str, dict[str, int]] = {}
        while True:
            while not sequence.ready:
                with self._crank:
                    self._sweep()
                    if not sequence.ready:
                        self.decoder.step()
            while sequence.events:
                event = sequence.events.popleft()
                if sequence.error is not None and sequence.done and not sequence.events:
                    raise sequence.error
                if not memory:
                    memory["prefill"] = taken(self.card.device)
                if isinstance(event, End):
                    event = event.model_copy(update={"memory": memory | {"decode": taken(self.card.device)}})
                yield event
            if sequence.done:
                return

    def _shape(self, request: Request) -> Shape | None:
        with self._crank:
            return self._engine.exact()[0] if request.sampling.exact else None

    def _exact(self, request: Request) -> Exact:
        if not request.sampling.exact:
            return Exact(why="not asked for")
        with self._crank:
            shape, why = self._engine.exact()
        return Exact(asked=True, held=shape is not None, shape=str(shape) if shape else None, why=why)

    def _prepare(self, request: Request) -> tuple[Start, list[int]]:
        messages = list(request.messages)
        dropped: list[str] = []
        while True:
            turns, placement = self._template.place(messages, request.system, request.placement)
            prompt = self._template.render(turns)
            tokens = self._tokens(prompt)
            excess = len(tokens) + self._reserve(request, bool(dropped)) - self.card.context
            if excess <= 0:
                break
            oldest = self._oldest_turn(messages) if request.drop_oldest else []
            if not oldest and len(tokens) < self.card.context:
                break
            if not oldest:
                raise ContextError(
                    f"the prompt is {len(tokens)} tokens and the context {self.card.context}, reply included",
                    hint="a shorter prompt, a longer --context, or guard.overflow=drop_oldest in a conversation",
                )
            dropped += [f"{messages[at].role}: {messages[at].content[:40]}" for at in oldest]
            messages = [message for at, message in enumerate(messages) if at not in oldest]
        if not tokens:
            raise InputError("the prompt has no tokens", hint="ask something, or mend the model's template")
        return self._start(request, placement, prompt, tokens, dropped), tokens

    def _reserve(self, request: Request, is_dropping: bool) -> int:
        """Room left for the reply: one token is enough, but turns are dropped to make a useful one."""
        return min(request.sampling.max_new_tokens, self.card.context // 4) if is_dropping else 1

    def _oldest_turn(self, messages: list[Message]) -> list[int]:
        """Which messages make the oldest whole turn, never an instruction; none when the last ask alone is left."""
        asks = [index for index, message in enumerate(messages) if message.role == "user"]
        return [at for at in range(asks[1]) if messages[at].role != "system"] if len(asks) > 1 else []

    def _start(
        self, request: Request, placement: Placement, prompt: str, tokens: list[int], dropped: list[str]
    ) -> Start:
        notes = list(self.card.notes)
        _, note = self._template.placement(request.placement)
        if note and request.system:
            notes.append(note)
        if self._template.name == "plain-turns":
            notes.append("the model has no chat template: turns stand one after the other, each with the end token")
        return Start(
            template=self._template.name,
            placement=placement,
            prompt=prompt,
            prompt_digest=hashlib.sha256(prompt.encode(errors="replace")).hexdigest(),
            tokens=len(tokens),
            dropped=tuple(dropped),
            exact=self._exact(request),
            notes=tuple(notes),
        )

    def _tokens(self, prompt: str) -> list[int]:
        # Several replies to one prompt ask for the same tokens, one right after the other.
        kept, tokens = self._tokenized
        if kept == prompt:
            return tokens
        tokens = self._engine.tokens(prompt, special=True)
        card = self.card
        # Templates write the text's first token themselves, or leave it to the tokenizer: never both.
        if card.add_bos and card.bos is not None and tokens[:1] != [card.bos]:
            tokens.insert(0, card.bos)
        if not tokens and card.bos is not None:
            tokens = [card.bos]
        self._tokenized = prompt, tokens
        return tokens

    def close(self) -> None:
        with self._crank:
            self._engine.close()
