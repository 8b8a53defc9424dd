"""An engine and a decoder behind `Model`. Whoever needs a token turns the crank for all; there is no worker thread."""

import hashlib
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from collections.abc import Sequence as Tokens
from concurrent.futures import Executor
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from jeito.decode.decoder import Decoder, Sequence
from jeito.decode.dialects import detect
from jeito.decode.prompts import Prompt, Prompts
from jeito.decode.template import Template
from jeito.engines.base import PLAIN, SAMPLING_KNOBS, Card, Engine, Row, Shape, Tuning
from jeito.engines.meter import taken
from jeito.errors import MemoryFull, ModelError
from jeito.types import End, Event, Exact, Request, Sourced, Start

T = TypeVar("T")

ABILITIES = SAMPLING_KNOBS | {
    "logprobs", "overflow", "contract", "guard.repetition", "guard.empty", "repair", "tools", "tool_choice",
    "parallel_calls", "dialect",
}  # fmt: skip
"""What every model with our decoder can honour today."""


def abilities(card: Card) -> frozenset[str]:
    """What a model with our decoder and this card can honour."""
    template = card.template
    reasons = bool(detect(template).reasoning)
    own = {"reasoning.budget": reasons, "reasoning.show": reasons}
    own["a place for tools"] = Template(template, {}).has_tools
    return ABILITIES | card.abilities | {ability for ability, has in own.items() if has}


class LocalModel:
    """A model in this process. Safe to use from several threads; they share one batch."""

    def __init__(self, engine: Engine, name: str) -> None:
        self.name = name
        self.abilities = abilities(engine.card)
        self.decoder = Decoder(engine)
        self._engine = engine
        self._prompts = Prompts(engine)
        self.stepped: Callable[[float], object] = lambda seconds: None
        """Hears how long each step took."""
        self.worker: Executor | None = None
        """The one thread where all is computed, if not in whichever asks."""
        self._crank = threading.Lock()
        """Held by whoever steps the batch, or has the engine do something else."""
        self._turned = threading.Condition()
        """Rung whenever the crank was let go."""
        self._abandoned: deque[Sequence] = deque()
        self._fingerprint: str | None = None
        self._tested: dict[str, tuple[Shape | None, str]] = {}
        """By the ways of a tuning."""
        self._ready: dict[tuple[object, object], Tuning] = {}
        """By the adapters and vectors of a request."""

    @property
    def card(self) -> Card:
        return self._engine.card

    @property
    def context(self) -> int:
        return self.card.context

    @property
    def slots(self) -> int:
        """Replies that run at once."""
        return self.card.slots

    @property
    def active(self) -> int:
        """Replies under way."""
        return len(self.decoder.active)

    @property
    def defaults(self) -> Mapping[str, Sourced]:
        return self._engine.card.defaults

    @property
    def has_system(self) -> bool:
        """Has its template a place for an instruction?"""
        return self._prompts.template(Request(messages=())).has_system

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

    def stream(self, request: Request, is_left: Callable[[], bool] = lambda: False) -> Generator[Event]:
        """Render, submit, then events as they come; soon after nobody waits for it (`is_left`) it ends as cancelled.

        Before the first event raises ContextError, and InputError or UnsupportedError for a contract that cannot be.
        """
        self._prompts.refuse(request)
        tuning, prompt = self._tuned(request), self._prompts.of(request)
        start = self._start(request, prompt, tuning)
        shape = self._exactness(tuning)[0] if start.exact.held else None
        rules = self._prompts.rules(request, prompt.text)
        sequence = self.decoder.submit(prompt.tokens, request.sampling, shape, request.logprobs, rules, is_left, tuning)
        try:
            yield start
            yield from self._events(sequence)
        finally:
            # The garbage collector may close us inside a step of this very thread: so never wait for the lock here.
            if not sequence.done:
                self._abandoned.append(sequence)
                if self._crank.acquire(blocking=False):
                    self._let_go()

    def hurry(self) -> None:
        """Somebody has left: the engine's call under way ends soon if it computes their prompt. For any thread."""
        if any(sequence.is_prefilling and sequence.is_left() for sequence in list(self.decoder.active)):
            self._engine.interrupt()

    def tokens(self, text: str) -> list[int]:
        """A plain text's tokens, begun as the model's texts begin; names of special tokens stay text."""
        card = self.card
        begin = [card.bos] if card.add_bos and card.bos is not None else []
        return begin + self._engine.tokens(text, special=False)

    def text(self, ids: Tokens[int]) -> bytes:
        return self._engine.text(ids)

    def prompt(self, request: Request) -> list[int]:
        """The tokens of a request's prompt."""
        return self._prompts.of(request).tokens

    def start(self, request: Request) -> Start:
        """What a reply would begin with; nothing is generated. Raises what `stream` raises before its first event."""
        prompt = self._prompts.of(request)
        self._prompts.rules(request, prompt.text)
        return self._start(request, prompt, self._tuned(request))

    def written(self, ids: Tokens[int]) -> str:
        """The text whose tokens these are, as a raw prompt; raises InputError where no text has them."""
        return self._prompts.written(ids)

    def tuning(self, request: Request) -> Tuning:
        """The request's adapters and control vectors, made ready; raises ModelError for what does not fit."""
        if not (request.adapter or request.steering):
            return PLAIN
        with self._cranking():
            found = self._engine.tune(request.adapter, request.steering)
        self._ready[request.adapter, request.steering] = found
        return found

    def _tuned(self, request: Request) -> Tuning:
        """The same; where its files are lost or broken by now, what was made of them before is in memory still."""
        try:
            return self.tuning(request)
        except (ModelError, OSError):
            if (request.adapter, request.steering) in self._ready:
                return self._ready[request.adapter, request.steering]
            raise

    def read(self, tokens: Tokens[int], start: int, tuning: Tuning = PLAIN) -> Iterator[NDArray[np.float32]]:
        """The logits [vocabulary] that follow the first `start` tokens, the first `start` + 1, … and all of them.

        In exact calls, where the engine has them. Takes a slot for itself; raises EngineError when none is free.
        """
        memory = self.decoder.memory
        shape, _ = self._exactness(tuning)
        with self._cranking():
            slot = memory.take()
        most = shape.high if shape else self.card.batch
        try:
            for at in range(0, len(tokens), most):
                chunk = tokens[at : at + most]
                want = min(len(chunk), max(0, at + len(chunk) - start + 1))
                with self._cranking():
                    rows = self._extended(Row(slot.index, chunk, want, tuning), exact=shape is not None)
                yield from rows
        finally:
            with self._cranking():
                memory.release(slot)

    def _extended(self, row: Row, *, exact: bool) -> NDArray[np.float32]:
        """With the crank: the logits of one row; what idle slots hold gives way to it."""
        while True:
            try:
                return self._compute(partial(self._engine.extend, [row], exact=exact))[0].copy()
            except MemoryFull:
                if not self.decoder.memory.evict():
                    raise

    @contextmanager
    def _cranking(self) -> Iterator[None]:
        self._crank.acquire()
        try:
            self._sweep()
            yield
        finally:
            self._let_go()

    def _let_go(self) -> None:
        """Release the crank. Who found it held when they abandoned a reply could not free its slot: so that is done."""
        self._crank.release()
        while self._abandoned and self._crank.acquire(blocking=False):
            try:
                self._sweep()
            finally:
                self._crank.release()
        with self._turned:
            self._turned.notify_all()

    def _sweep(self) -> None:
        """With the crank: end the replies whose iterators were closed."""
        while self._abandoned:
            self.decoder.cancel(self._abandoned.popleft())

    def _turn(self, sequence: Sequence) -> None:
        """Step the batch for all; where another thread does, wait until it has."""
        with self._turned:
            if not self._crank.acquire(blocking=False):
                if not sequence.ready:
                    self._turned.wait()
                return
        try:
            self._sweep()
            if not sequence.ready:
                began = time.perf_counter()
                self._compute(self.decoder.step)
                self.stepped(time.perf_counter() - began)
        finally:
            self._let_go()

    def _compute(self, what: Callable[[], T]) -> T:
        return self.worker.submit(what).result() if self.worker else what()

    def _events(self, sequence: Sequence) -> Generator[Event]:
        memory: dict[str, dict[str, int]] = {}
        while True:
            while not sequence.ready:
                self._turn(sequence)
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

    def _exactness(self, tuning: Tuning) -> tuple[Shape | None, str]:
        if (ways := tuning.ways()) not in self._tested:
            with self._cranking():
                self._tested[ways] = self._compute(partial(self._engine.exact, tuning))
        return self._tested[ways]

    def _exact(self, request: Request, tuning: Tuning) -> Exact:
        if not request.sampling.exact:
            return Exact(why="not asked for")
        shape, why = self._exactness(tuning)
        return Exact(asked=True, held=shape is not None, shape=str(shape) if shape else None, why=why)

    def _start(self, request: Request, prompt: Prompt, tuning: Tuning) -> Start:
        return Start(
            template=prompt.template,
            placement=prompt.placement,
            prompt=prompt.text,
            prompt_digest=hashlib.sha256(prompt.text.encode(errors="replace")).hexdigest(),
            tokens=len(prompt.tokens),
            dropped=prompt.dropped,
            exact=self._exact(request, tuning),
            notes=(*self.card.notes, *tuning.notes(), *prompt.notes),
        )

    def close(self) -> None:
        with self._cranking():
            self._engine.close()
        if self.worker:
            self.worker.shutdown()
