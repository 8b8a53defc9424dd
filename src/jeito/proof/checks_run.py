"""Checks of how a reply came about: how long it took, how many tokens, how it ended."""

from typing import Annotated, Any, Literal

from pydantic import Field

from jeito.proof.keywords import Least, Most, between
from jeito.proof.values import Verdict
from jeito.types import Finish, Several, Trace


def latency(trace: Trace, *, max: Annotated[float, Field(gt=0)], of: Literal["total", "first"] = "total") -> Verdict:
    """Seconds until the reply was whole, or until its `first` token; what else shared the batch counts too."""
    seconds = trace.seconds
    found = seconds.total if of == "total" else seconds.queue + seconds.prefill
    if not seconds.total:
        return Verdict(None, "its time was not taken")
    return between(found, None, max, "seconds")


def tokens(trace: Trace, *, min: Least = None, max: Most = None) -> Verdict:
    """Number of tokens generated, all turns together."""
    return between(trace.usage.generated, min, max, "tokens")


def finish(trace: Trace, *, by: Finish | Several[Finish]) -> Verdict:
    """How the reply ended is this, or one of these: `stop`, `length`, `tool_calls`, `repetition`, …"""
    ways = (by,) if isinstance(by, str) else by
    return Verdict(trace.finish in ways, f"it ended by {trace.finish}" + (f": {trace.why}" if trace.why else ""))


CHECKS: tuple[Any, ...] = (latency, tokens, finish)
