"""Tokens' bytes to text that is safe to show: no character is split, no stop string or mark of reasoning gets out."""

import codecs
from collections.abc import Sequence
from typing import Literal, NamedTuple

from jeito.types import CallPiece, ToolCall

Phase = Literal["begin", "reasoning", "answer"]
"""Before either is known; between the marks; after them, or without any."""


class Marks(NamedTuple):
    """What stands around a model's reasoning."""

    open: str
    close: str


class Shown(NamedTuple):
    """What became safe to show."""

    answer: str = ""
    reasoning: str = ""
    calls: tuple[CallPiece, ...] = ()


class TextStream:
    """Feed it bytes; it gives back what can no longer change. After a stop string nothing more comes."""

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self._stops = tuple(stops)
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = ""
        self.stopped: str | None = None
        """The stop string that ended the text."""
        self.rest = ""
        """What came with it, after it."""

    def push(self, data: bytes) -> str:
        """The text that became safe with these bytes."""
        return self.add(self._decoder.decode(data))

    def add(self, text: str) -> str:
        """The same of characters."""
        if self.stopped is not None:
            return ""
        self._held += text
        # The first to be complete, so that it does not matter how the text was cut; of several, the longest.
        found = [(self._held.find(stop) + len(stop), -len(stop), stop) for stop in self._stops if stop in self._held]
        if found:
            end, size, self.stopped = min(found)
            safe, self.rest, self._held = self._held[: end + size], self._held[end:], ""
            return safe
        return self._release(self._longest_start())

    def _longest_start(self) -> int:
        """How many of the last characters could be the start of a stop string."""
        longest = max((len(stop) - 1 for stop in self._stops), default=0)
        for size in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-size:]) for stop in self._stops):
                return size
        return 0

    def _release(self, keep: int) -> str:
        cut = len(self._held) - keep
        safe, self._held = self._held[:cut], self._held[cut:]
        return safe

    def finish(self) -> str:
        """What was held back for a stop string that never came; an unfinished character is dropped."""
        return self._release(0)


class ReplyText:
    """A reply's bytes to its reasoning and its answer. Reasoning stands first or nowhere; stop strings end the answer.

    `inside`: the prompt itself has opened the reasoning. `contracted`: the answer is what a contract says, so what
    one token wrote behind the closing mark is none of it.
    """

    def __init__(
        self, stops: Sequence[str] = (), marks: Marks | None = None, *, inside: bool = False, contracted: bool = False
    ) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._open = marks.open if marks else ""
        self._reasoning = TextStream((marks.close,) if marks else ())
        self._answer = TextStream(stops)
        self._contracted = contracted
        self._lead = ""
        self._is_fresh = False
        self.phase: Phase = "answer" if marks is None else "reasoning" if inside else "begin"
        self.is_visible = False
        """Has the answer shown more than blanks?"""
        self.calls: list[ToolCall] = []
        self.unreadable: list[str] = []

    @property
    def stopped(self) -> str | None:
        """The stop string that ended the answer."""
        return self._answer.stopped

    def push(self, data: bytes) -> Shown:
        """What became safe with these bytes."""
        text, reasoning = self._decoder.decode(data), ""
        if self.phase == "begin":
            self._lead += text
            begun = self._lead.lstrip()
            if begun.startswith(self._open):
                self.phase, text = "reasoning", begun[len(self._open) :]
            elif self._open.startswith(begun):
                return Shown()
            else:
                self.phase, text = "answer", self._lead
        if self.phase == "reasoning":
            reasoning = self._reasoning.add(text)
            if self._reasoning.stopped is None:
                return Shown("", reasoning)
            self.phase, self._is_fresh = "answer", True
            text = "" if self._contracted else self._reasoning.rest
        return Shown(self._say(text), reasoning)

    def begin_answer(self) -> None:
        """What comes now is the answer, whatever it looks like."""
        self.phase = "answer"

    def _say(self, text: str) -> str:
        if self._is_fresh and not self._contracted:  # the blank lines between reasoning and answer are neither
            text = text.lstrip("\n")
            self._is_fresh = not text
        shown = self._answer.add(text)
        self.is_visible = self.is_visible or bool(shown.strip())
        return shown

    def finish(self) -> Shown:
        """What was held back for something that never came; an unfinished character is dropped."""
        lead, self._lead = (self._lead, "") if self.phase == "begin" else ("", "")
        return Shown(self._answer.add(lead) + self._answer.finish(), self._reasoning.finish())
