"""What a proof is about: a case, what is expected of its reply, a verdict. Knows nothing of files, models or checks."""

import hashlib
import json
from functools import cached_property
from typing import NamedTuple, Self

from pydantic import Field, JsonValue, model_validator

from jeito.types import Message, Several, Value


class Verdict(NamedTuple):
    """Did a reply pass? None: it could not be measured, and `why` says what was missing; that is never a pass."""

    passed: bool | None
    why: str


class ExpectedCall(Value):
    """A call that has to be made, with these arguments and no others."""

    name: str = Field(min_length=1)
    arguments: dict[str, JsonValue] = Field(default_factory=dict)
    optional: dict[str, JsonValue] = Field(
        default_factory=dict, description="arguments that may be left out, and are this where they are not"
    )


class Expected(Value):
    """What is expected of a reply; what is left out is not asked for. Checks look their part up here."""

    number: float | None = Field(default=None, description="the final number of the answer")
    tolerance: float = Field(default=0.0, ge=0, description="how far the number may be off, in its own unit")
    unit: str | None = Field(default=None, min_length=1, description="what the number counts: `km|kilometers`")
    text: str | None = Field(default=None, min_length=1, description="the whole answer")
    contains: Several[str] = Field(default=(), description="facts that are named; `a|b`: one of these")
    absent: Several[str] = Field(default=(), description="words that must not be there")
    regex: str | None = Field(default=None, min_length=1, description="found somewhere in the answer")
    json_schema: dict[str, JsonValue] | None = None
    calls: Several[ExpectedCall] | None = Field(default=None, description="in any order; an empty list: no call")
    tests: str | None = Field(default=None, min_length=1, description="Python with asserts, run after the reply's code")
    reference: str | None = Field(default=None, min_length=1, description="an answer to be similar to")
    language: str | None = Field(default=None, pattern=r"^[a-z]{2}$", examples=["pt", "en"])
    checks: Several[dict[str, JsonValue]] = Field(default=(), description="of this case alone: {words: {max: 9}}")

    @property
    def kinds(self) -> list[str]:
        """What is expected, by name. An empty list of calls is an expectation: that none is made."""
        return [
            kind
            for kind in type(self).model_fields
            if kind not in ("tolerance", "unit") and (getattr(self, kind) or kind in ("number", "calls"))
            if getattr(self, kind) is not None
        ]


class Label(Value):
    """A reply that a person has judged: what a judge is measured by."""

    reply: str = Field(min_length=1)
    passes: bool


class Case(Value):
    """One thing to ask, and what is expected of the reply. Either `prompt` or `messages`."""

    name: str = Field(min_length=1, max_length=200)
    prompt: str | None = Field(default=None, min_length=1)
    messages: Several[Message] = ()
    expect: Expected = Expected()
    tags: Several[str] = ()
    tools: Several[dict[str, JsonValue]] = Field(
        default=(), description="as OpenAI has them; a call of one is kept in the trace, not made"
    )
    labels: Several[Label] = Field(default=(), description="replies to measure a judge by")

    @model_validator(mode="after")
    def _asks_one_thing(self) -> Self:
        if (self.prompt is None) == (not self.messages):
            raise ValueError("a case has either a prompt or messages")
        return self

    @property
    def ask(self) -> str | tuple[Message, ...]:
        return self.messages if self.prompt is None else self.prompt

    @cached_property
    def digest(self) -> str:
        """sha256 of all of it, as canonical JSON."""
        said = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(said.encode()).hexdigest()
