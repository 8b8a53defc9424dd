"""The heart: a behaviour and a model make a run; a run leaves a trace. Lazy: nothing is computed until it is read."""

import json
import platform
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from typing import Any

from jeito import __version__
from jeito.behaviour.load import Loaded, load
from jeito.behaviour.resolve import Resolved, request, resolve
from jeito.engines.base import Model
from jeito.errors import JeitoError, LogError
from jeito.trace.log import Log, new_id
from jeito.types import End, Event, Finish, Message, Receipt, Request, Seconds, Start, Token, Trace, Usage


def run(
    behaviour: Loaded | str,
    model: Model,
    ask: str | Sequence[Message],
    *,
    seed: int | None = None,
    case: str = "",
    history: Sequence[Message] = (),
    logprobs: int | None = None,
    allow_unsupported: bool = False,
    log: Log | None = None,
    label: str | None = None,
) -> "Run":
    """One reply to `ask`, not yet begun: iterate for its tokens, then read `.trace`.

    Everything is decided and checked here: raises BehaviourError, InputError, UnsupportedError. Without a log the
    trace is kept nowhere. `label` is what the trace calls the behaviour: as it was typed, else its name.
    """
    loaded = load(behaviour) if isinstance(behaviour, str) else behaviour
    resolved = resolve(
        loaded,
        defaults=model.defaults,
        abilities=model.abilities,
        seed=seed,
        context=model.context,
        allow_unsupported=allow_unsupported,
    )
    wanted = request(resolved, ask, history, logprobs)
    name = label or (behaviour if isinstance(behaviour, str) else loaded.behaviour.name)
    return Run(model, resolved, wanted, name=name, case=case, log=log)


class Run:
    """A reply in the making. `losses` says what of the log could not be written."""

    def __init__(
        self, model: Model, resolved: Resolved, wanted: Request, *, name: str, case: str, log: Log | None
    ) -> None:
        self.losses: list[str] = []
        self._model, self._log = model, log
        self._behaviour, self._limits = canonical(resolved), resolved.behaviour.limits
        self._tokens: list[Token] = []
        self._events: Generator[Event] | None = None
        self._begun = time.perf_counter()
        self._prompt = 0
        seed = wanted.sampling.seed
        assert seed is not None, "resolve draws the seed that nobody gave"
        self.trace = Trace(
            id=new_id(),
            time=datetime.now(UTC).isoformat(timespec="milliseconds"),
            behaviour=name,
            behaviour_fingerprint=resolved.behaviour.fingerprint(),
            model=model.name,
            model_fingerprint=model.fingerprint,
            seed=seed,
            case=case,
            request=wanted,
            receipt=Receipt(values=resolved.values, unsupported=resolved.unsupported),
            environment=model.environment() | _here(),
        )

    def start(self) -> "Run":
        """Hand the request to the model, so that it shares a batch with other runs; iterating does it otherwise."""
        if self._events is None and self.trace.finish is None:
            self._keep("begin")
            self._begun = time.perf_counter()
            self._events = self._model.stream(self.trace.request)
            try:
                started = next(self._events)
            except JeitoError as error:
                self._fail(error)
                raise
            assert isinstance(started, Start), "a model's first event is its Start"
            self._note(started)
        return self

    def __iter__(self) -> Iterator[Token]:
        try:
            self.start()
            for event in self._events or ():
                if isinstance(event, Token):
                    # Not after the token: a reply that ends with its last allowed one has ended by itself.
                    if limit := self._limit():
                        self._finish("limit", limit)
                        return
                    self._tokens.append(event)
                    yield event
                elif isinstance(event, End):
                    self._finish(event.finish, event.why, end=event)
        except JeitoError as error:
            self._fail(error)
            raise
        finally:
            self.close()

    def text(self) -> str:
        """The whole answer; runs to the end."""
        for _ in self:
            pass
        return self.trace.answer

    def close(self) -> None:
        """Give the reply up: its slot is free, and the trace says `cancelled`. Nothing happens after the end."""
        if self._events is not None:
            with suppress(JeitoError):
                self._events.close()
        if self.trace.finish is None:
            self._finish("cancelled", None)

    def _limit(self) -> str | None:
        """Which of the behaviour's limits is reached, if one is."""
        limits, seconds = self._limits, time.perf_counter() - self._begun
        if limits.tokens is not None and len(self._tokens) >= limits.tokens:
            return f"limits.tokens: {limits.tokens}"
        if limits.seconds is not None and seconds >= limits.seconds:
            return f"limits.seconds: {limits.seconds:g}"
        return None

    def _note(self, start: Start) -> None:
        receipt = self.trace.receipt.model_copy(
            update={
                "placement": start.placement,
                "template": start.template,
                "prompt_digest": start.prompt_digest,
                "dropped": start.dropped,
                "exact": start.exact,
                "notes": start.notes,
            }
        )
        self._prompt = start.tokens
        self.trace = self.trace.model_copy(update={"prompt": start.prompt, "receipt": receipt})

    def _fail(self, error: JeitoError) -> None:
        self._finish("error", None, error=f"{error}")

    def _finish(self, finish: Finish, why: str | None, *, end: End | None = None, error: str | None = None) -> None:
        if self.trace.finish is not None:
            return
        answer = "".join(token.text for token in self._tokens) + (end.text if end else "")
        found: dict[str, Any] = {"finish": finish, "why": why, "answer": answer, "tokens": tuple(self._tokens)}
        # A reply that was broken off has no End to say it.
        broken_off = Usage(prompt=self._prompt, cached=None, generated=len(self._tokens))
        found["usage"] = end.usage if end else broken_off
        found["seconds"] = end.seconds if end else Seconds(total=time.perf_counter() - self._begun)
        if end is not None and end.memory:
            at_load = self.trace.environment.get("memory", {})
            found["environment"] = self.trace.environment | {"memory": {**at_load, **end.memory}}
        self.trace = self.trace.model_copy(update=found | {"error": error})
        self._keep("finish")

    def _keep(self, what: str) -> None:
        """Write to the log; a reply is worth more than its record, so a log that fails is said, not fatal."""
        # A run that was given up before it began was never asked of anyone: there is nothing to keep.
        if self._log is None or (what == "finish" and self._events is None):
            return
        try:
            if what == "begin":
                self._log.begin(self.trace, self._behaviour)
            elif self.losses:
                # Its beginning could not be written: perhaps there is room now for all of it.
                self._log.begin(self.trace, self._behaviour)
                self.losses.clear()
            else:
                self._log.finish(self.trace)
        except LogError as error:
            self.losses = [f"run {self.trace.id} is not in the log: {error}"]


def together(runs: Sequence[Run]) -> Iterator[tuple[int, Token]]:
    """The tokens of several runs as they come, each with its run's index; all share the model's batch.

    A run that fails has its error in its trace and ends; the others go on. Closing closes all.
    """
    streams: dict[int, Iterator[Token]] = {}
    try:
        for index, one in enumerate(runs):
            with suppress(JeitoError):
                one.start()
                streams[index] = iter(one)
        while streams:
            for index, stream in list(streams.items()):
                try:
                    yield index, next(stream)
                except (StopIteration, JeitoError):
                    del streams[index]
    finally:
        for one in runs:
            one.close()


def canonical(resolved: Resolved) -> str:
    """The behaviour as it ran, as canonical JSON; in its sampling every value that acted."""
    said = resolved.behaviour.model_dump(mode="json")
    said["sampling"] = resolved.sampling.model_dump(mode="json")
    return json.dumps(said, sort_keys=True, ensure_ascii=False)


@cache
def _here() -> dict[str, Any]:
    return {"jeito": __version__, "python": platform.python_version(), "platform": platform.platform()}
