"""Types of keywords that several checks take, and the two sentences that they share."""

import re
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from jeito.proof.values import Verdict

Least = Annotated[int | None, Field(ge=0)]
Most = Annotated[int | None, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
AnyShare = Annotated[float | None, Field(ge=0, le=1)]


def _one_is_a_list(given: Any) -> Any:
    return (given,) if isinstance(given, str) else given


def _has_text(given: tuple[str, ...]) -> tuple[str, ...]:
    if not given or not all(given):
        raise ValueError("this is empty")
    return given


def _compiles(given: str) -> str:
    try:
        re.compile(given)
    except re.error as error:
        raise ValueError(f"this is no regular expression ({error})") from error
    return given


Texts = Annotated[tuple[str, ...], Field(strict=False), BeforeValidator(_one_is_a_list), AfterValidator(_has_text)]
"""One text, or a list of them."""
Pattern = Annotated[str, AfterValidator(_compiles)]


def between(found: float, low: float | None, high: float | None, what: str) -> Verdict:
    """Is a count within its bounds? Both are inside."""
    number = f"{found:.3g}" if isinstance(found, float) else str(found)
    if low is not None and found < low:
        return Verdict(False, f"{number} {what}, under {low}")
    if high is not None and found > high:
        return Verdict(False, f"{number} {what}, over {high}")
    return Verdict(True, f"{number} {what}")


def unsaid(case: str, what: str) -> Verdict:
    return Verdict(None, f"neither the claim nor the case {case!r} says {what}")


def shown(texts: Sequence[str]) -> str:
    return ", ".join(repr(text if len(text) <= 40 else f"{text[:39]}…") for text in texts)
