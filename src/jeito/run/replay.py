"""Traces run again: the same tokens, or the first that differs."""

from collections.abc import Generator, Sequence
from itertools import zip_longest
from typing import Literal

from jeito.engines.base import Model
from jeito.errors import JeitoError
from jeito.run.agent import following
from jeito.types import End, Request, Start, Token, Trace, Value


class Replay(Value):
    """What running a trace again came to. `at`: index of the first token that differs, from 0."""

    id: str
    verdict: Literal["same", "different", "impossible"]
    tokens: int
    at: int | None = None
    expected: Token | None = None
    found: Token | None = None
    why: str = ""


def replay(traces: Sequence[Trace], model: Model) -> list[Replay]:
    """Ask the model each trace's own request again, and compare token by token. Nothing is logged.

    Exact runs share one batch, since what runs beside them cannot change them; the others run one by one.
    """
    results: dict[int, Replay] = {}
    exact = [index for index, trace in enumerate(traces) if trace.receipt.exact.held]
    alone = [[index] for index in range(len(traces)) if index not in exact]
    for group in [exact, *alone]:
        walks = {index: _walk(traces[index], model) for index in group}
        while walks:
            for index, walk in list(walks.items()):
                try:
                    next(walk)
                except StopIteration as end:
                    results[index] = end.value
                    del walks[index]
    return [results[index] for index in range(len(traces))]


def _walk(trace: Trace, model: Model) -> Generator[None, None, Replay]:
    """One trace's replay, a step at a time; what tools gave is taken from the trace."""
    if trace.finish is None or trace.error is not None:
        state = f"failed: {trace.error}" if trace.error else "never ended"
        return Replay(id=trace.id, verdict="impossible", tokens=0, why=f"the run {state}")
    notes: list[str] = []
    if trace.model_fingerprint != model.fingerprint:
        notes.append("the model is not the same: other weights, template, engine, precision or library")
    tokens: list[Token] = []
    request, ended = trace.request, None
    digests: list[str | None] = [turn.prompt_digest for turn in trace.turns] or [trace.receipt.prompt_digest]
    try:
        for number, digest in enumerate([*digests, None] if _goes_on(trace) else digests):
            ended = yield from _reply(request, digest, model, trace, tokens, notes)
            if number < len(trace.turns):
                request = following(request, trace.turns[number], trace.seed, number + 1)
            if any(not _is_same(a, b) for a, b in zip(tokens, trace.tokens, strict=False)):
                break
    except JeitoError as error:
        return Replay(id=trace.id, verdict="impossible", tokens=len(tokens), why=str(error))
    if ended is not None and ended.finish == "memory" != trace.finish:
        return Replay(id=trace.id, verdict="impossible", tokens=len(tokens), why=ended.why or "no room in memory")
    return _compare(trace, tokens, ended, notes)


def _goes_on(trace: Trace) -> bool:
    """Did it break off in a reply after its last whole turn?"""
    return bool(trace.turns) and len(trace.tokens) > sum(turn.tokens for turn in trace.turns)


def _reply(
    request: Request, digest: str | None, model: Model, trace: Trace, tokens: list[Token], notes: list[str]
) -> Generator[None, None, End | None]:
    """One reply of the run, its tokens put to the others; its end, unless it is followed no further."""
    events = model.stream(request)
    try:
        for event in events:
            if isinstance(event, Start) and digest is not None and event.prompt_digest != digest:
                notes.append("the prompt is rendered differently")
            elif isinstance(event, Token):
                tokens.append(event)
            elif isinstance(event, End):
                return event
            if _is_broken_off(trace) and len(tokens) >= len(trace.tokens):
                return None
            yield
        return None
    finally:
        events.close()


def _is_broken_off(trace: Trace) -> bool:
    """Such a reply can be followed only as far as it got."""
    return trace.finish in ("cancelled", "memory", "limit")


def _is_same(one: Token, other: Token) -> bool:
    """A server that names no tokens has only their texts to tell them apart by."""
    if one.id is None or other.id is None:
        return (one.text, one.reasoning, one.calls) == (other.text, other.reasoning, other.calls)
    return one.id == other.id


def _compare(trace: Trace, tokens: list[Token], ended: End | None, notes: list[str]) -> Replay:
    for at, (expected, found) in enumerate(zip_longest(trace.tokens, tokens)):
        if expected is None or found is None or not _is_same(expected, found):
            why = "; ".join(notes) or _usual_reason(trace)
            return Replay(id=trace.id, verdict="different", tokens=at, at=at, expected=expected, found=found, why=why)
    if ended is not None and not _is_broken_off(trace) and ended.finish != trace.finish:
        notes.append(f"it ended by {ended.finish}, not {trace.finish}")
        return Replay(id=trace.id, verdict="different", tokens=len(tokens), at=len(tokens), why="; ".join(notes))
    return Replay(id=trace.id, verdict="same", tokens=len(tokens), why="; ".join(notes))


def _usual_reason(trace: Trace) -> str:
    if trace.receipt.exact.held:
        return "an exact reply should not differ: please report it"
    return "the run was not exact, so its logits may depend on what ran beside it"
