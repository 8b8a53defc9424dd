"""What keeps a reply on its course: contract, reasoning and its budget, loops, empty replies.

Says which tokens may come next, which must, and whether the reply is at its end; knows nothing of logits or slots.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from jeito.decode.call_text import CallText
from jeito.decode.grammar import Contract
from jeito.decode.text import Marks, ReplyText
from jeito.engines.base import Engine
from jeito.errors import InputError
from jeito.types import Finish, Repetition

THINK = Marks("<think>", "</think>")
"""The marks that most models with reasoning use."""


class Loop:
    """Finds a stretch of tokens that comes again and again, by its exact tokens; one short pass over arrays a token."""

    def __init__(self, rule: Repetition) -> None:
        periods = np.arange(1, rule.tokens + 1)
        self._before = np.full(rule.tokens, -1)  # the last token, the one before it, …
        self._runs = np.zeros(rule.tokens, np.intp)  # for each period, how many last tokens equal the one so far back
        # Four blanks or two rows of a table are no loop: what is short has to go on for longer.
        self._enough = np.maximum(periods * rule.times, rule.tokens) - periods
        self.why: str | None = None

    def add(self, token: int) -> None:
        self._runs += 1
        self._runs *= self._before == token
        self._before[1:] = self._before[:-1]
        self._before[0] = token
        found = np.flatnonzero(self._runs >= self._enough)
        if found.size and self.why is None:
            period = int(found[0]) + 1
            times = int(self._runs[found[0]]) // period + 1
            self.why = f"the same {f'{period} tokens' if period > 1 else 'token'} came {times} times in a row"


class Tags(NamedTuple):
    """The marks of reasoning as tokens."""

    open: list[int]
    close: list[int]
    names: dict[int, bytes]
    """What control tokens among them say, which have no text."""


def tags_of(engine: Engine, marks: Marks) -> Tags:
    """Raises InputError for marks that this model's tokenizer cannot write."""
    tags = Tags(engine.tokens(marks.open, special=True), engine.tokens(marks.close, special=True), {})
    for mark, ids in zip(marks, (tags.open, tags.close), strict=True):
        if len(ids) == 1 and not engine.text(ids):
            tags.names[ids[0]] = mark.encode()
        elif not ids or mark.encode() not in engine.text(ids):
            raise InputError(f"this model's tokenizer cannot write {mark!r}", hint="name another mark of reasoning")
    return tags


class Rules:
    """The rules of one reply, and how far it has come by them. `text` is where its bytes go, after each token.

    `names`: what control tokens say where that counts, since they have no text.
    """

    def __init__(
        self,
        engine: Engine,
        text: ReplyText | CallText,
        *,
        names: Mapping[int, str] | None = None,
        contract: Contract | None = None,
        tags: Tags | None = None,
        budget: int | None = None,
        repetition: Repetition | None = None,
        refuse_empty: bool = False,
    ) -> None:
        self.text = text
        self.contract = contract
        self.notes: list[str] = []
        self._engine, self._tags, self._budget = engine, tags, budget
        self._names = {id: name.encode() for id, name in (names or {}).items()} | (tags.names if tags else {})
        self._loop = Loop(repetition) if repetition else None
        self._refuses_empty = refuse_empty
        self._thought = 0
        self._owed: list[int] = []  # of a mark of reasoning, still to be written
        self._opens: int | None = None  # the token that opens reasoning although the contract does not allow it
        self._is_begun = False  # the contract: nothing stands before it any more
        self._ends = np.array(sorted(engine.card.ends), np.intp)

    def holds_back(self, token: int) -> bool:
        """May the reply not end with this token yet?"""
        return self._refuses_empty and not self.text.is_visible and token in self._engine.card.ends

    def allowed(self) -> NDArray[np.bool_] | None:
        """[vocabulary]: what may be drawn now; none: every token."""
        is_thinking = self.text.phase == "reasoning"
        has_to_speak = self._refuses_empty and not self.text.is_visible
        if self.contract is None or is_thinking:
            if not has_to_speak and not (is_thinking and self.contract):
                return None
            mask = np.ones(self._engine.card.vocabulary, np.bool_)
            mask[self._ends] = False
            return mask
        mask = self.contract.allowed()
        if has_to_speak:
            mask[self._ends] = False
        if self._tags and self.text.phase == "begin" and not self._is_begun:
            first = self._tags.open[0]
            self._opens = None if mask[first] else first
            mask[first] = True
        return mask

    def forced(self) -> list[int]:
        """The tokens that must come now; none: one is to be drawn."""
        if self._owed:
            return list(self._owed)
        if self.text.phase == "reasoning":
            if self._tags is None or self._budget is None or self._thought < self._budget:
                return []
            self.notes.append(f"the reasoning was closed after {self._thought} tokens, its budget")
            self._owed = list(self._tags.close)
            return list(self._owed)
        # At the very beginning a model that can think is asked whether it does.
        return self.contract.forced() if self.contract and self.text.phase == "answer" else []

    def accept(self, token: int) -> bytes:
        """The reply goes on with this token; its bytes, for `text`."""
        if self._loop:
            self._loop.add(token)
        if self._owed:
            del self._owed[0]
        elif self.text.phase == "reasoning":
            self._thought += 1
        elif self._tags and token == self._opens:
            self._owed, self._opens = self._tags.open[1:], None
        elif self.contract:
            self.contract.accept(token)
            self._is_begun = True
            self.text.begin_answer()
        if token in self._engine.card.ends:
            return b""
        return self._names.get(token) or self._engine.text([token])

    def finish(self) -> tuple[Finish, str] | None:
        """How and why the reply ends here, if it does."""
        if self.contract and self.contract.is_complete:
            return "stop", "the contract is met"
        if self.contract and self.contract.why is not None:
            return "contract", self.contract.why
        if self._loop and self._loop.why is not None:
            return "repetition", self._loop.why
        return None
