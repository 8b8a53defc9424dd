"""A trace run again: the same tokens, or the first that differs."""

from itertools import zip_longest
from typing import Literal

from jeito.engines.base import Model
from jeito.types import End, Start, Token, Trace, Value


class Replay(Value):
    """What running a trace again came to. `at`: index of the first token that differs, from 0."""

    id: str
    verdict: Literal["same", "different", "impossible"]
    tokens: int
    at: int | None = None
    expected: Token | None = None
    found: Token | None = None
    why: str = ""


def replay(trace: Trace, model: Model) -> Replay:
    """Ask the model the trace's own request again, and compare token by token. Nothing is logged."""
    if trace.finish is None or trace.error is not None:
        state = f"failed: {trace.error}" if trace.error else "never ended"
        return Replay(id=trace.id, verdict="impossible", tokens=0, why=f"the run {state}")
    notes = _differences(trace, model)
    tokens: list[Token] = []
    ended: End | None = None
    # A reply that was broken off is followed as far as it got.
    broken_off = trace.finish in ("cancelled", "memory")
    events = model.stream(trace.request)
    for event in events:
        if isinstance(event, Start) and event.prompt_digest != trace.receipt.prompt_digest:
            notes.append("the prompt is rendered differently")
        elif isinstance(event, Token):
            tokens.append(event)
        elif isinstance(event, End):
            ended = event
        if broken_off and len(tokens) >= len(trace.tokens):
            break
    events.close()
    for at, (expected, found) in enumerate(zip_longest(trace.tokens, tokens)):
        if expected is None or found is None or expected.id != found.id:
            return Replay(
                id=trace.id, verdict="different", tokens=at, at=at, expected=expected, found=found,
                why="; ".join(notes) or _usual_reason(trace),
            )  # fmt: skip
    if ended is not None and not broken_off and ended.finish != trace.finish:
        notes.append(f"it ended by {ended.finish}, not {trace.finish}")
        return Replay(id=trace.id, verdict="different", tokens=len(tokens), at=len(tokens), why="; ".join(notes))
    return Replay(id=trace.id, verdict="same", tokens=len(tokens), why="; ".join(notes))


def _differences(trace: Trace, model: Model) -> list[str]:
    if trace.model_fingerprint != model.fingerprint:
        return ["the model is not the same: other weights, template, engine, precision or library"]
    return []


def _usual_reason(trace: Trace) -> str:
    if trace.receipt.exact.held:
        return "an exact reply should not differ: please report it"
    return "the run was not exact, so its logits may depend on what ran beside it"
