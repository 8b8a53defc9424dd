"""Many sequences, one engine. A step: schedule → extend → sample → commit; nothing here knows text's meaning."""

import itertools
import time
from collections import deque
from collections.abc import Callable
from collections.abc import Sequence as Tokens
from dataclasses import dataclass, field

from jeito.decode.guard import Rules
from jeito.decode.memory import Memory, Slot
from jeito.decode.sampler import Draw, Sampler
from jeito.decode.text import ReplyText, Shown
from jeito.engines.base import PLAIN, Engine, Logits, Row, Shape, Tuning
from jeito.errors import EngineError, Interrupted, JeitoError, MemoryFull
from jeito.types import Alternative, End, Finish, Sampling, Seconds, Token, Usage

# While others decode, prompts go in chunks of so many tokens together, so that they do not stall them. A longer run of
# forced tokens is like a prompt.
PREFILL_BESIDE = 128


@dataclass(slots=True, eq=False)
class Sequence:
    """One reply in the making. `pending`: tokens that belong to it and are not in its slot yet."""

    number: int
    prompt: list[int]
    sampling: Sampling
    shape: Shape | None
    sampler: Sampler
    rules: Rules
    logprobs: int | None
    pending: list[int]
    is_left: Callable[[], bool]
    """Is nobody waiting for it any more?"""
    tuning: Tuning = PLAIN
    reply: list[int] = field(default_factory=list)
    forced: int = 0
    """Of the reply's tokens, those that the model was not asked for."""
    slot: Slot | None = None
    cached: int = 0
    served: int = 0
    """The step that last computed something for it."""
    events: deque[Token | End] = field(default_factory=deque)
    error: JeitoError | None = None
    done: bool = False
    submitted: float = field(default_factory=time.perf_counter)
    admitted: float | None = None
    prefilled: float | None = None

    @property
    def tokens(self) -> list[int]:
        """The prompt and what was drawn so far."""
        return self.prompt + self.reply

    @property
    def ready(self) -> bool:
        return bool(self.events) or self.done

    @property
    def is_prefilling(self) -> bool:
        """Has it more to compute than a step of decoding: one token, and those that were forced after it?"""
        return len(self.pending) > (1 if self.prefilled is None else PREFILL_BESIDE)


class Decoder:
    """The one loop. Not thread-safe: whoever steps it holds the lock of its owner."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.memory = Memory(engine)
        self.waiting: deque[Sequence] = deque()
        self.active: list[Sequence] = []
        self._numbers = itertools.count()
        self._steps = 0
        self._is_full = False
        """Memory ran out: nobody new is admitted until a reply ends."""
        self.peak = 0
        """Most sequences that were active at once."""

    def submit(
        self,
        prompt: Tokens[int],
        sampling: Sampling,
        shape: Shape | None,
        logprobs: int | None,
        rules: Rules | None = None,
        is_left: Callable[[], bool] = lambda: False,
        tuning: Tuning = PLAIN,
    ) -> Sequence:
        """Queue a reply to a prompt of at least one token; `shape`: it must be exact, in calls of this shape.

        Needs no lock: new replies would wait for it longest, since whoever steps takes it again and again.
        """
        if sampling.seed is None:
            raise EngineError("a reply needs a seed before it is decoded")
        sequence = Sequence(
            number=next(self._numbers),
            prompt=list(prompt),
            sampling=sampling,
            shape=shape,
            sampler=Sampler(
                sampling,
                sampling.seed,
                prompt,
                ends=self.engine.card.ends,
                text=lambda token: self.engine.text([token]),
                logprobs=logprobs,
            ),
            rules=rules or Rules(self.engine, ReplyText(sampling.stop)),
            logprobs=logprobs,
            pending=list(prompt),
            is_left=is_left,
            tuning=tuning,
        )
        self._force(sequence)
        if not sequence.done:
            self.waiting.append(sequence)
        return sequence

    def step(self) -> None:
        """One call of the engine: what decodes first, then prompts, as far as the call has room."""
        self._steps += 1
        for sequence in [*self.active, *self.waiting]:
            if sequence.is_left():
                self.cancel(sequence)
        self._admit()
        rows, served = self._schedule()
        if not rows:
            return
        exact = any(sequence.shape for sequence in served)
        try:
            logits = self.engine.extend(rows, exact=exact)
        except MemoryFull:
            try:
                self._make_room()
            except EngineError as error:
                self._fail(served, error)
            return
        except Interrupted:
            return
        except EngineError as error:
            self._fail(served, error)
            return
        for row, sequence, found in zip(rows, served, logits, strict=True):
            self._commit(row, sequence, found, exact)
        try:
            self.memory.settle()
        except EngineError as error:
            self._fail(self.active, error)

    def _fail(self, sequences: Tokens[Sequence], error: EngineError) -> None:
        for sequence in list(sequences):
            if not sequence.done:
                sequence.error = error
                self._end(sequence, "error", str(error))

    def cancel(self, sequence: Sequence) -> None:
        """End a reply now, whatever its state; its slot is free at once."""
        if not sequence.done:
            self._end(sequence, "cancelled", None)

    def _admit(self) -> None:
        for sequence in list(self.waiting):
            if self._is_full and self.active:
                break
            tokens = sequence.tokens
            try:
                place = self.memory.place(tokens, sequence.shape is not None, sequence.tuning)
            except MemoryFull:  # a copy of what it shares with another finds no room
                if self.memory.evict():
                    return
                if self.active:
                    self._is_full = True
                else:
                    self._end(sequence, "memory", f"{len(tokens)} tokens are too many for the memory")
                return
            except EngineError as error:
                self._fail([sequence], error)
                continue
            if place is None:
                continue
            self.waiting.remove(sequence)
            sequence.slot = place.slot
            sequence.pending = tokens[place.reused :]
            if sequence.admitted is None:
                sequence.admitted, sequence.cached = time.perf_counter(), place.reused
            self.active.append(sequence)
        self.peak = max(self.peak, len(self.active))

    def _schedule(self) -> tuple[list[Row], list[Sequence]]:
        # One pass has one tuning: the one whose sequence waits longest, so that all have their turn.
        tuning = min(self.active, key=lambda s: (s.served, s.number)).tuning if self.active else PLAIN
        alike = [sequence for sequence in self.active if sequence.tuning == tuning]
        shapes = [sequence.shape for sequence in alike if sequence.shape]
        room = min([self.engine.card.batch, *(shape.high for shape in shapes)])
        # Longest unserved first, so that a narrow call serves all in turn; a single token is a decoding step.
        order = sorted(alike, key=lambda s: (s.is_prefilling, s.served, s.number))
        is_decoding = any(not sequence.is_prefilling for sequence in self.active)
        prefill = min(room, PREFILL_BESIDE) if is_decoding else room
        rows: list[Row] = []
        served: list[Sequence] = []
        for sequence in order:
            is_prompt = sequence.is_prefilling
            most = min(room, prefill) if is_prompt else room
            if most < 1 or sequence.slot is None:
                break
            chunk = sequence.pending[:most]
            rows.append(Row(sequence.slot.index, chunk, int(len(chunk) == len(sequence.pending)), tuning))
            served.append(sequence)
            sequence.served = self._steps
            room -= len(chunk)
            prefill -= len(chunk) if is_prompt else 0
        return rows, served

    def _make_room(self) -> None:
        """Forget an idle slot; else the youngest reply waits, and goes on when another has ended.

        What it had computed is computed again then. Alone, it is too long for the memory, and ends.
        """
        if self.memory.evict():
            return
        youngest = max(self.active, key=lambda sequence: sequence.number)
        if len(self.active) == 1:
            self._end(youngest, "memory", f"{len(youngest.tokens)} tokens are too many for the memory")
            return
        assert youngest.slot is not None
        self.active.remove(youngest)
        self.memory.release(youngest.slot)
        youngest.slot = None
        self.waiting.appendleft(youngest)
        self._is_full = True

    def _commit(self, row: Row, sequence: Sequence, logits: Logits, exact: bool) -> None:
        assert sequence.slot is not None
        self.memory.hold(sequence.slot, row.tokens, exact)
        sequence.pending = sequence.pending[len(row.tokens) :]
        if sequence.pending:
            return
        if sequence.prefilled is None:
            sequence.prefilled = time.perf_counter()
        try:
            draw = sequence.sampler.draw(logits[-1], sequence.rules.allowed())
        except JeitoError as error:
            sequence.error = error
            self._end(sequence, "error", str(error))
            return
        if draw is None:
            ended = sequence.rules.finish()
            self._end(sequence, "contract", ended[1] if ended else "no token is allowed here")
            return
        self._take(sequence, draw)
        self._force(sequence)

    def _force(self, sequence: Sequence) -> None:
        """Tokens that can be no others join the reply at once, and are computed together with the one before them."""
        while not sequence.done and (run := sequence.rules.forced()):
            for token in run:
                if sequence.done or self._comes_too_early(sequence, token):
                    return
                sequence.forced += 1
                self._take(sequence, Draw(token, None, None, []), forced=True)

    def _comes_too_early(self, sequence: Sequence, token: int) -> bool:
        is_short = len(sequence.reply) < sequence.sampling.min_new_tokens
        return (is_short and token in self.engine.card.ends) or sequence.rules.holds_back(token)

    def _take(self, sequence: Sequence, draw: Draw, *, forced: bool = False) -> None:
        """A token is drawn or forced: it joins the reply, and may end it."""
        sequence.sampler.accept(draw.id)
        sequence.reply.append(draw.id)
        sequence.pending.append(draw.id)
        text = sequence.rules.text
        shown = text.push(sequence.rules.accept(draw.id))
        finish, why = self._finish_of(sequence, draw.id in self.engine.card.ends)
        if finish:
            last = text.finish()
            shown = Shown(shown.answer + last.answer, shown.reasoning + last.reasoning, shown.calls + last.calls)
        sequence.events.append(self._token(draw, shown, forced))
        if finish:
            self._end(sequence, finish, why)

    def _finish_of(self, sequence: Sequence, is_end: bool) -> tuple[Finish | None, str | None]:
        if is_end:
            return "stop", None
        if (stopped := sequence.rules.text.stopped) is not None:
            return "stop", f"stop string {stopped!r}"
        if ended := sequence.rules.finish():
            return ended
        if len(sequence.reply) >= sequence.sampling.max_new_tokens:
            return "length", None
        length = len(sequence.prompt) + len(sequence.reply)
        if length >= self.engine.card.context:
            return "context", f"{length} tokens fill the context"
        return None, None

    def _token(self, draw: Draw, shown: Shown, forced: bool) -> Token:
        top = tuple(Alternative(id=id, text=self._show(id), logprob=logprob) for id, logprob in draw.top)
        return Token(
            id=draw.id, text=shown.answer, reasoning=shown.reasoning, logprob=draw.logprob, drawn=draw.drawn,
            forced=forced, calls=shown.calls, top=top,
        )  # fmt: skip

    def _show(self, token: int) -> str:
        return self.engine.text([token]).decode(errors="replace")

    def _end(self, sequence: Sequence, finish: Finish, why: str | None) -> None:
        if sequence.slot is not None:
            self.memory.release(sequence.slot)
            self.active.remove(sequence)
            self._is_full = False
        elif sequence in self.waiting:
            self.waiting.remove(sequence)
        now = time.perf_counter()
        admitted = sequence.admitted or now
        prefilled = sequence.prefilled or now
        seconds = Seconds(
            queue=admitted - sequence.submitted,
            prefill=prefilled - admitted,
            decode=now - prefilled,
            total=now - sequence.submitted,
        )
        usage = Usage(
            prompt=len(sequence.prompt), cached=sequence.cached, generated=len(sequence.reply), forced=sequence.forced
        )
        text, notes = sequence.rules.text, tuple(sequence.rules.notes)
        held = text.finish()
        if finish == "stop" and text.calls:
            finish = "tool_calls"
        sequence.events.append(
            End(
                finish=finish,
                why=why,
                text=held.answer,
                reasoning=held.reasoning,
                notes=notes,
                calls=tuple(text.calls),
                unreadable=tuple(text.unreadable),
                usage=usage,
                seconds=seconds,
            )
        )  # fmt: skip
        sequence.done = True
