"""An engine and a decoder behind `Model`. Whoever needs a token turns the crank for all; there is no worker thread."""

import hashlib
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from collections.abc import Sequence as Tokens
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jeito.decode.call_grammar import of_request as call_grammar
from jeito.decode.call_text import CallText
from jeito.decode.decoder import Decoder, Sequence
from jeito.decode.dialects import detect
from jeito.decode.grammar import Grammars
from jeito.decode.guard import Rules, Tags, tags_of
from jeito.decode.template import Template
from jeito.decode.text import Marks, ReplyText
from jeito.engines.base import SAMPLING_KNOBS, Card, Engine, Row, Shape
from jeito.engines.meter import taken
from jeito.errors import ContextError, InputError
from jeito.types import End, Event, Exact, Message, Output, Placement, Request, Sourced, Start

ABILITIES = SAMPLING_KNOBS | {
    "logprobs", "overflow", "contract", "guard.repetition", "guard.empty", "repair", "tools", "tool_choice",
    "parallel_calls", "dialect",
}  # fmt: skip
"""What every model with our decoder can honour today."""


def abilities(template: str | None) -> frozenset[str]:
    """What a model with our decoder and this chat template can honour."""
    reasons = bool(detect(template).reasoning)
    own = {"reasoning.budget": reasons, "reasoning.show": reasons}
    own["a place for tools"] = Template(template, {}).has_tools
    return ABILITIES | {ability for ability, has in own.items() if has}


class LocalModel:
    """A model in this process. Safe to use from several threads; they share one batch."""

    def __init__(self, engine: Engine, name: str) -> None:
        self.name = name
        self.abilities = abilities(engine.card.template)
        self.decoder = Decoder(engine)
        self._engine = engine
        self._templates: dict[str, Template] = {}
        self._names: dict[int, str] | None = None
        self._grammars = Grammars(engine)
        self._tags: dict[Marks, Tags] = {}
        self.stepped: Callable[[float], object] = lambda seconds: None
        """Hears how long each step took."""
        self._crank = threading.Lock()
        """Held by whoever steps the batch, or has the engine do something else."""
        self._turned = threading.Condition()
        """Rung whenever the crank was let go."""
        self._tokenized: tuple[str | None, list[int]] = None, []
        self._abandoned: deque[Sequence] = deque()
        self._fingerprint: str | None = None
        self._tested: tuple[Shape | None, str] | None = None

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
        return self._template(Request(messages=())).has_system

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
        if request.output:
            self._grammars.begin(request.output)  # refused before anything is rendered
        start, tokens = self._prepare(request)
        shape = self._exactness()[0] if start.exact.held else None
        rules = self._rules(request, start.prompt or "")
        sequence = self.decoder.submit(tokens, request.sampling, shape, request.logprobs, rules, is_left)
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

    def _rules(self, request: Request, prompt: str) -> Rules:
        template = self._template(request)
        marks, stops = self._marks(request, template), request.sampling.stop
        tags = None
        if marks is not None:
            tags = self._tags[marks] = self._tags.get(marks) or tags_of(self._engine, marks)
        inside = marks is not None and prompt.rstrip().endswith(marks.open)
        output, text, names = request.output, None, None
        if _offered(request):
            # Reasoning is told apart before calls are, and so that its budget holds.
            dialect, names = replace(template.dialect, reasoning=None), self._mark_names()
            special = {name: id for id, name in names.items()}
            lark = call_grammar(dialect, request, prompt, special)
            output = Output(lark=lark) if lark else None
            first = sum(len(message.calls) for message in request.messages)
            text = CallText(dialect, request.tools, prompt, first=first, stops=stops, marks=marks, inside=inside)
        try:
            contract = self._grammars.begin(output) if output else None
        except InputError as error:
            if output is request.output:
                raise
            raise InputError(
                f"calls cannot be held to the schemas of these tools: {error}",
                hint="docs/contracts.md says what a schema may use; leave the tool out",
            ) from error
        return Rules(
            self._engine,
            text or ReplyText(stops, marks, inside=inside, contracted=contract is not None),
            names=names,
            contract=contract,
            tags=tags,
            budget=request.reasoning.budget,
            repetition=request.repetition,
            refuse_empty=request.refuse_empty,
        )

    def _marks(self, request: Request, template: Template) -> Marks | None:
        said, own = request.reasoning, template.dialect.reasoning
        if said.open and said.close:
            return Marks(said.open, said.close)
        return Marks(*own) if own and not request.raw else None

    def _mark_names(self) -> dict[int, str]:
        if self._names is None:
            self._names = dict(self._engine.marks())
        return self._names

    def _template(self, request: Request) -> Template:
        """The model's template, as the request's dialect has it."""
        kept = self._templates.get(request.dialect)
        if kept is None:
            card, names = self.card, self._mark_names().values()
            dialect = detect(card.template, names, request.dialect)
            kept = self._templates[request.dialect] = Template(card.template, card.special, dialect, names)
        return kept

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

    def start(self, request: Request) -> Start:
        """What a reply would begin with; nothing is generated. Raises what `stream` raises before its first event."""
        start, _ = self._prepare(request)
        self._rules(request, start.prompt or "")
        return start

    def written(self, ids: Tokens[int]) -> str:
        """The text whose tokens these are, as a raw prompt; raises InputError where no text has them."""
        if wrong := [id for id in ids if not 0 <= id < self.card.vocabulary]:
            raise InputError(f"there is no token {wrong[0]}", hint=f"0 to {self.card.vocabulary - 1}")
        names, begin = self._mark_names(), self.card.add_bos and list(ids[:1]) == [self.card.bos]
        found = b"".join(names[id].encode() if id in names else self.text([id]) for id in ids[begin:])
        text = found.decode(errors="replace")
        if self._tokens(text) != list(ids):
            raise InputError(f"these {len(ids)} tokens are not what any text becomes here", hint="send the text")
        return text

    def read(self, tokens: Tokens[int], start: int) -> Iterator[NDArray[np.float32]]:
        """The logits [vocabulary] that follow the first `start` tokens, the first `start` + 1, … and all of them.

        In exact calls, where the engine has them. Takes a slot for itself; raises EngineError when none is free.
        """
        memory = self.decoder.memory
        shape, _ = self._exactness()
        with self._cranking():
            slot = memory.take()
        most = shape.high if shape else self.card.batch
        try:
            for at in range(0, len(tokens), most):
                chunk = tokens[at : at + most]
                want = min(len(chunk), max(0, at + len(chunk) - start + 1))
                with self._cranking():
                    found = self._engine.extend([Row(slot.index, chunk, want)], exact=shape is not None)
                    rows = found[0].copy()
                yield from rows
        finally:
            with self._cranking():
                memory.release(slot)

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
                self.decoder.step()
                self.stepped(time.perf_counter() - began)
        finally:
            self._let_go()

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

    def _exactness(self) -> tuple[Shape | None, str]:
        if self._tested is None:
            with self._cranking():
                self._tested = self._engine.exact()
        return self._tested

    def _exact(self, request: Request) -> Exact:
        if not request.sampling.exact:
            return Exact(why="not asked for")
        shape, why = self._exactness()
        return Exact(asked=True, held=shape is not None, shape=str(shape) if shape else None, why=why)

    def _prepare(self, request: Request) -> tuple[Start, list[int]]:
        messages = list(request.messages)
        dropped: list[str] = []
        while True:
            prompt, placement = self._written(request, messages)
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

    def _written(self, request: Request, messages: list[Message]) -> tuple[str, Placement | None]:
        if request.raw:
            return messages[0].content, None
        return self._template(request).prompt(messages, request.system, request.placement, _offered(request))

    def _reserve(self, request: Request, is_dropping: bool) -> int:
        """Room left for the reply: one token is enough, but turns are dropped to make a useful one."""
        return min(request.sampling.max_new_tokens, self.card.context // 4) if is_dropping else 1

    def _oldest_turn(self, messages: list[Message]) -> list[int]:
        """Which messages make the oldest whole turn, never an instruction; none when the last ask alone is left."""
        asks = [index for index, message in enumerate(messages) if message.role == "user"]
        return [at for at in range(asks[1]) if messages[at].role != "system"] if len(asks) > 1 else []

    def _start(
        self, request: Request, placement: Placement | None, prompt: str, tokens: list[int], dropped: list[str]
    ) -> Start:
        notes = list(self.card.notes)
        template = self._template(request)
        _, note = template.placement(request.placement)
        if note and request.system:
            notes.append(note)
        if _offered(request) and (note := template.tools_note()):
            notes.append(note)
        name = "none" if request.raw else template.name
        if name == "plain-turns":
            notes.append("the model has no chat template: turns stand one after the other, each with the end token")
        return Start(
            template=name,
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
        with self._cranking():
            self._engine.close()


def _offered(request: Request) -> tuple[dict[str, Any], ...]:
    """The tools that the model is told of."""
    return () if request.tool_choice == "none" else request.tools
