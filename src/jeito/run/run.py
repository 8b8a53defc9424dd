"""The heart: a behaviour and a model make a run; a run leaves a trace. Lazy: nothing is computed until it is read.

Long, since a run has one state, from its first turn to its trace, and whatever breaks it off must leave that whole.
"""

import json
import platform
import time
import weakref
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from typing import Any

from jeito import __version__
from jeito.behaviour.load import Loaded, load
from jeito.behaviour.resolve import Resolved, request, resolve
from jeito.decode.noise import derive
from jeito.engines.base import Model
from jeito.errors import JeitoError, LogError
from jeito.run.agent import Agent, Confirm, Notice, Stop, complaint_of, following
from jeito.run.tools import Result, Toolbox, open_tools
from jeito.trace.log import Log, new_id
from jeito.types import (
    End,
    Event,
    Finish,
    Message,
    Receipt,
    Request,
    Seconds,
    Start,
    Step,
    Token,
    ToolCall,
    Trace,
    Turn,
    Usage,
)


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
    tools: Toolbox | None = None,
    confirm: Confirm | None = None,
    notice: Notice | None = None,
) -> "Run":
    """A reply to `ask`, not yet begun: iterate for its tokens, then read `.trace`. With tools, as many as it takes.

    Everything is decided and checked here: raises BehaviourError, InputError, UnsupportedError. Without a log the
    trace is kept nowhere. `label` is what the trace calls the behaviour: as it was typed, else its name. `tools`: those
    that the behaviour names, opened by the caller, who closes them; else they are opened now, and closed with the run.
    """
    return _run(
        load(behaviour) if isinstance(behaviour, str) else behaviour, model, ask, seed=seed, case=case, history=history,
        logprobs=logprobs, allow_unsupported=allow_unsupported, log=log, tools=tools, confirm=confirm, notice=notice,
        name=label or (behaviour if isinstance(behaviour, str) else behaviour.behaviour.name), depth=0,
    )  # fmt: skip


# A behaviour that asks a behaviour that asks a behaviour: more is a team that hands its work round in circles.
DEEPEST = 3


def _run(
    loaded: Loaded, model: Model, ask: str | Sequence[Message], *, seed: int | None, name: str, depth: int,
    case: str = "", history: Sequence[Message] = (), logprobs: int | None = None, allow_unsupported: bool = False,
    log: Log | None = None, tools: Toolbox | None = None, confirm: Confirm | None = None, notice: Notice | None = None,
) -> "Run":  # fmt: skip
    resolved = resolve(
        loaded,
        defaults=model.defaults,
        abilities=model.abilities,
        seed=seed,
        context=model.context,
        allow_unsupported=allow_unsupported,
    )
    behaviour = resolved.behaviour
    request(resolved, ask, history, logprobs)  # refused before a tool is opened
    box = tools if tools is not None else open_tools(behaviour.tools) if behaviour.tools else None
    wanted = request(resolved, ask, history, logprobs, box.schemas() if box else ())

    def answer(reference: str, question: str, seconds: float | None) -> tuple[Result, Trace | None]:
        if depth >= DEEPEST:
            return Result(text=f"behaviours that ask behaviours: {DEEPEST} deep is enough", error=True), None
        asked = _within(load(reference), seconds)
        child = _run(
            asked, model, question, seed=derive(made.trace.seed, 2**32 + made.calls), name=reference,
            depth=depth + 1, allow_unsupported=allow_unsupported, confirm=confirm, notice=notice,
        )  # fmt: skip
        try:
            text = child.text()
        except JeitoError as error:
            return Result(text=str(error), error=True), child.trace
        return Result(text=text or "(no answer)", error=child.trace.finish == "error"), child.trace

    agent = Agent(box, behaviour.limits, ask=answer, confirm=confirm, notice=notice) if box is not None else None
    made = Run(model, resolved, wanted, name=name, case=case, log=log, agent=agent)
    if box is not None and tools is None:
        made.undone = weakref.finalize(made, box.close)
    return made


def _within(loaded: Loaded, seconds: float | None) -> Loaded:
    """A behaviour that ends within what is left of its asker's time."""
    if seconds is None:
        return loaded
    limits = loaded.behaviour.limits
    least = max(0.001, min(seconds, limits.seconds or seconds))
    limits = limits.model_copy(update={"seconds": least})
    return loaded._replace(behaviour=loaded.behaviour.model_copy(update={"limits": limits}))


class Run:
    """A reply in the making. `losses` says what of the log could not be written."""

    def __init__(
        self, model: Model, resolved: Resolved, wanted: Request, *, name: str, case: str, log: Log | None,
        agent: Agent | None = None,
    ) -> None:  # fmt: skip
        self.losses: list[str] = []
        self.undone: Callable[[], object] = lambda: None
        """Closes the tools that are this run's own."""
        self._model, self._log, self._agent = model, log, agent
        self._behaviour, self._limits = canonical(resolved), resolved.behaviour.limits
        self._repairs = resolved.behaviour.guard.repair
        self._tokens: list[Token] = []
        self._request = wanted
        self._start = Start(template="", placement="system", prompt="", prompt_digest="", tokens=0)
        self.ended: End | None = None
        """How the last reply ended, once the run has."""
        self._turns: list[Turn] = []
        self._seconds = Seconds()
        self._is_open = False
        """Is a reply under way that no turn holds yet?"""
        self._since = 0
        """How many tokens earlier replies of this run have."""
        self._events: Generator[Event] | None = None
        self._begun = time.perf_counter()
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
            if self._agent is not None:
                self._agent.begun = time.monotonic()
            self._ask(self.trace.request)
        return self

    def _ask(self, request: Request) -> None:
        self._request, self._since = request, len(self._tokens)
        self._events = self._model.stream(request)
        try:
            started = next(self._events)
        except JeitoError as error:
            self._fail(error)
            raise
        assert isinstance(started, Start), "a model's first event is its Start"
        self._start, self._is_open = started, True
        if not self._turns:
            self._note(started)

    def __iter__(self) -> Iterator[Token]:
        try:
            self.start()
            while self.trace.finish is None:
                for event in self._events or ():
                    if isinstance(event, Token):
                        # Not after the token: a reply that ends with its last allowed one has ended by itself.
                        if limit := self._limit():
                            self._finish("limit", limit)
                            return
                        self._tokens.append(event)
                        yield event
                    elif isinstance(event, End):
                        self._go_on(event)
        except JeitoError as error:
            self._fail(error)
            raise
        finally:
            self.close()

    def _go_on(self, end: End) -> None:
        """A reply has ended: the run ends with it, or goes on with what its calls gave, or with what was wrong."""
        complaint = complaint_of(end, self._request) if self._repairs else None
        if self._agent is None and complaint is None and not self._turns:
            self._finish(end.finish, end.why, end=end)
            return
        steps: list[Step] = []
        stop, is_whole = None, False
        try:
            if self._agent and end.finish == "tool_calls":
                stop = self._agent.steps(end.calls, steps)
            is_whole = True
        finally:  # what was done is told, even where a person broke it off
            turn = self._turn(end, steps, complaint)
            if not is_whole:
                self._finish("cancelled", None, end=end)
        if not steps and complaint is None and stop is None:
            self._finish(end.finish, end.why, end=end)
            return
        self._repairs -= complaint is not None
        if stop is None and len(self._turns) >= self._limits.turns:
            stop = Stop("limit", f"limits.turns: {self._limits.turns}")
        if stop is not None:
            self._finish(*stop, end=end)
            return
        self._ask(following(self._request, turn, self.trace.seed, len(self._turns)))

    def _turn(self, end: End, steps: Sequence[Step], complaint: str | None) -> Turn:
        """The current reply as a turn of the trace."""
        answer, reasoning = self._said(end)
        turn = Turn(
            prompt_digest=self._start.prompt_digest, answer=answer, reasoning=reasoning,
            tokens=len(self._tokens) - self._since, finish=end.finish, usage=end.usage, steps=tuple(steps),
            repair=complaint,
        )  # fmt: skip
        self._seconds = _added(self._seconds, end.seconds)
        self._turns.append(turn)
        self._is_open = False
        self.trace = self.trace.model_copy(update={"turns": tuple(self._turns)})
        return turn

    def _said(self, end: End | None) -> tuple[str, str]:
        """Answer and reasoning of the current reply."""
        own = self._tokens[self._since :]
        answer = "".join(token.text for token in own) + (end.text if end else "")
        reasoning = "".join(token.reasoning for token in own) + (end.reasoning if end else "")
        return answer, reasoning.strip()

    @property
    def begun(self) -> Start:
        """What the model made of the current reply's request."""
        return self._start

    @property
    def calls(self) -> int:
        """How many calls were begun."""
        return self._agent.calls if self._agent else 0

    def text(self) -> str:
        """The whole answer; runs to the end."""
        for _ in self:
            pass
        return self.trace.answer

    def conversation(self) -> list[Message]:
        """What this run adds to a conversation after its ask: every reply, and what tools gave."""
        said = self._request.messages[len(self.trace.request.messages) :]
        return [*said, Message(role="assistant", content=self.trace.answer)]

    def close(self) -> None:
        """Give the reply up: its slot is free, and the trace says `cancelled`. Nothing happens after the end."""
        if self._events is not None:
            with suppress(JeitoError):
                self._events.close()
        if self.trace.finish is None:
            self._finish("cancelled", None)
        self.undone()

    def _limit(self) -> str | None:
        """Which of the behaviour's limits is reached, if one is."""
        limits, seconds = self._limits, time.perf_counter() - self._begun
        if limits.tokens is not None and len(self._tokens) >= limits.tokens:
            return f"limits.tokens: {limits.tokens}"
        if limits.seconds is not None and seconds >= limits.seconds:
            return f"limits.seconds: {limits.seconds:g}"
        return None

    def _note(self, start: Start) -> None:
        receipt = noted(self.trace.receipt, start)
        self.trace = self.trace.model_copy(update={"prompt": start.prompt, "receipt": receipt})

    def _fail(self, error: JeitoError) -> None:
        self._finish("error", None, error=f"{error}")

    def _finish(self, finish: Finish, why: str | None, *, end: End | None = None, error: str | None = None) -> None:
        if self.trace.finish is not None:
            return
        self.ended = end
        answer, reasoning = self._said(end)
        found: dict[str, Any] = {"finish": finish, "why": why, "answer": answer, "tokens": tuple(self._tokens)}
        found["reasoning"] = reasoning
        found["calls"] = (*(step.call for turn in self._turns for step in turn.steps), *_unmade(end, self._turns))
        if end is not None and end.notes:
            receipt = self.trace.receipt
            found["receipt"] = receipt.model_copy(update={"notes": (*receipt.notes, *end.notes)})
        # A reply that was broken off has no End to say it.
        own = self._tokens[self._since :]
        forced = sum(token.forced for token in own)
        broken_off = Usage(prompt=self._start.tokens, cached=None, generated=len(own), forced=forced)
        usages = [turn.usage for turn in self._turns]
        if not self._turns or self._is_open:
            usages.append(end.usage if end else broken_off)
        found["usage"] = _sum(usages)
        found["seconds"] = (
            end.seconds
            if end and not self._turns
            else self._seconds.model_copy(update={"total": time.perf_counter() - self._begun})
        )
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


def _unmade(end: End | None, turns: Sequence[Turn]) -> tuple[ToolCall, ...]:
    """Calls of the last reply that nobody made: there was no one to make them, or a limit was reached."""
    made = {step.call.id for turn in turns for step in turn.steps}
    return tuple(call for call in (end.calls if end else ()) if call.id not in made)


def _added(before: Seconds, now: Seconds) -> Seconds:
    parts = ("queue", "prefill", "decode", "total")
    return Seconds(**{part: getattr(before, part) + getattr(now, part) for part in parts})


def _sum(usages: Sequence[Usage]) -> Usage:
    cached, prompts = [usage.cached for usage in usages], [usage.prompt for usage in usages]
    return Usage(
        prompt=None if None in prompts else sum(count or 0 for count in prompts),
        cached=None if None in cached else sum(count or 0 for count in cached),
        generated=sum(usage.generated for usage in usages),
        forced=sum(usage.forced for usage in usages),
    )


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


def noted(receipt: Receipt, start: Start) -> Receipt:
    """A receipt with what a model made of the request."""
    names = ("placement", "template", "prompt_digest", "dropped", "exact", "notes")
    return receipt.model_copy(update={name: getattr(start, name) for name in names})


def canonical(resolved: Resolved) -> str:
    """The behaviour as it ran, as canonical JSON; in its sampling every value that acted."""
    said = resolved.behaviour.model_dump(mode="json")
    said["sampling"] = resolved.sampling.model_dump(mode="json")
    return json.dumps(said, sort_keys=True, ensure_ascii=False)


@cache
def _here() -> dict[str, Any]:
    return {"jeito": __version__, "python": platform.python_version(), "platform": platform.platform()}
