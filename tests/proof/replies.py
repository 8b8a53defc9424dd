"""Replies and cases as tests need them: only what a check looks at."""

from typing import Any

from jeito.proof.checks import bind_value
from jeito.proof.setting import Setting
from jeito.proof.values import Case, Expected, Verdict
from jeito.types import Message, Receipt, Request, Seconds, Token, Trace, Usage

TOOL = {"type": "function", "function": {"name": "area", "parameters": {"type": "object", "properties": {}}}}


def reply(answer: str = "", *, tools: bool = False, seconds: float = 0.0, **fields: Any) -> Trace:
    """A run that ended with this answer; its tokens are its letters."""
    tokens = tuple(Token(id=ord(letter), text=letter) for letter in answer)
    given = {
        "id": "1", "time": "2026-01-01", "behaviour": "plain", "behaviour_fingerprint": "b", "model": "m",
        "model_fingerprint": None, "seed": 1, "receipt": Receipt(values={}), "answer": answer, "finish": "stop",
        "request": Request(messages=(Message(role="user", content="x"),), tools=(TOOL,) if tools else ()),
        "tokens": tokens, "usage": Usage(generated=len(tokens)), "seconds": Seconds(prefill=seconds / 2, total=seconds),
    }  # fmt: skip
    return Trace(**given | fields)


def case(**expect: Any) -> Case:
    return Case(name="a case", prompt="x", expect=Expected(**expect))


def check(name: str, value: Any, answer: str | Trace, asked: Case | None = None, **setting: Any) -> Verdict:
    """What a check says of an answer."""
    trace = reply(answer) if isinstance(answer, str) else answer
    return bind_value(name, value)(trace, asked or case(), Setting(**setting))
