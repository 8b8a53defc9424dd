"""A reply with tools: its bytes to reasoning, answer and calls. Knows nothing of tokens, or of what tools do."""

from collections.abc import Mapping, Sequence
from typing import Any

from jeito.decode.call_parser import CallArguments, CallBegan, CallEnded, CallParser, Part, Said
from jeito.decode.dialects import Dialect
from jeito.decode.text import Marks, ReplyText, Shown, TextStream
from jeito.types import CallPiece, ToolCall


class CallText:
    """As ReplyText, of a reply that may hold calls; stop strings end what is said, and never cut a call.

    `first`: how many calls the conversation holds already.
    """

    def __init__(
        self,
        dialect: Dialect,
        tools: Sequence[Mapping[str, Any]],
        prompt: str,
        *,
        first: int,
        stops: Sequence[str] = (),
        marks: Marks | None = None,
        inside: bool = False,
    ) -> None:
        self._reply = ReplyText((), marks, inside=inside)
        self._parser = CallParser(dialect, tools, prompt=prompt, first=first)
        self._said = TextStream(stops)
        self._is_over = False
        self.is_visible = False
        self.calls: list[ToolCall] = []
        self.unreadable: list[str] = []
        """Why a call could not be read."""

    @property
    def phase(self) -> str:
        return self._reply.phase

    @property
    def stopped(self) -> str | None:
        return self._said.stopped

    def push(self, data: bytes) -> Shown:
        """What became safe with these bytes."""
        shown = self._reply.push(data)
        return self._told(self._parser.feed(shown.answer), shown.reasoning)

    def begin_answer(self) -> None:
        """Nothing: free text is allowed to begin like a mark of reasoning, so its bytes decide."""

    def finish(self) -> Shown:
        """What was held back for something that never came."""
        if self._is_over:
            return Shown()
        self._is_over = True
        held = self._reply.finish()
        told = self._told([*self._parser.feed(held.answer), *self._parser.finish()], held.reasoning)
        return told._replace(answer=told.answer + self._said.finish())

    def _told(self, parts: Sequence[Part], reasoning: str) -> Shown:
        said, pieces = "", []
        for part in parts:
            if isinstance(part, Said):
                said += part.text
            elif isinstance(part, CallBegan):
                pieces.append(CallPiece(index=part.index, name=part.name))
            elif isinstance(part, CallArguments):
                pieces.append(CallPiece(index=part.index, arguments=part.piece))
            elif isinstance(part, CallEnded):
                self.calls.append(part.call)
            else:
                self.unreadable.append(part.why)
                said += part.text
        shown = self._said.add(said)
        self.is_visible = self.is_visible or bool(shown.strip()) or bool(pieces)
        return Shown(shown, reasoning, tuple(pieces))
