"""What happens between the replies of a run: calls are made, results go back, what cannot be read is asked again.

Knows requests, tools and limits; nothing of how a reply comes or of where its trace is kept.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

from jeito.behaviour.behaviour import Limits
from jeito.decode.noise import derive
from jeito.run.tools import Result, Tool, Toolbox
from jeito.types import End, Finish, Message, Request, Step, ToolCall, Trace, Turn

Confirm = Callable[[ToolCall], bool]
"""May this call be made? Asked of a person, for tools whose permission is `ask`."""
Notice = Callable[[ToolCall | Step], None]
"""Hears of a call before it is made, and of what came of it."""


class Stop(NamedTuple):
    """Why a run ends although the model would go on."""

    finish: Finish
    why: str


class Agent:
    """The calls of one run, within its limits. `ask` answers for tools that are behaviours, with the answer's trace."""

    def __init__(
        self,
        tools: Toolbox,
        limits: Limits,
        *,
        ask: Callable[[str, str, float | None], tuple[Result, Trace | None]],
        confirm: Confirm | None = None,
        notice: Notice | None = None,
    ) -> None:
        self.tools, self.limits = tools, limits
        self._answer, self._confirm, self._notice = ask, confirm, notice
        self.begun = time.monotonic()
        """When the run's time began, which is not when it was made: it may have waited for others."""
        self.calls = 0
        self._child: Trace | None = None

    def seconds_left(self) -> float | None:
        limit = self.limits.seconds
        return None if limit is None else limit - (time.monotonic() - self.begun)

    def steps(self, calls: tuple[ToolCall, ...], made: list[Step]) -> Stop | None:
        """Make these calls, one after the other, as far as the limits go; `made` has them even if it is broken off."""
        for call in calls:
            left = self.seconds_left()
            if self.calls >= self.limits.calls:
                return Stop("limit", f"limits.calls: {self.limits.calls}")
            if left is not None and left <= 0:
                return Stop("limit", f"limits.seconds: {self.limits.seconds:g}")
            self.calls += 1
            if self._notice:
                self._notice(call)
            made.append(self._step(call, left))
            if self._notice:
                self._notice(made[-1])
        return None

    def _step(self, call: ToolCall, left: float | None) -> Step:
        tool = self.tools.tools.get(call.name)
        permitted = self._is_permitted(call, tool)
        self._child = None
        self.tools.ask = self._ask
        if permitted is False:
            found = Result(text=f"the user did not allow {call.name}", error=True)
        else:
            found = self.tools.call(call.name, call.arguments, left)
        return Step(
            call=call, result=found.text, error=found.error, seconds=found.seconds, permitted=permitted, run=self._child
        )

    def _ask(self, behaviour: str, question: str) -> Result:
        found, self._child = self._answer(behaviour, question, self.seconds_left())
        return found

    def _is_permitted(self, call: ToolCall, tool: Tool | None) -> bool | None:
        """Nobody there to ask means no."""
        if tool is None or tool.permission != "ask":
            return None
        return self._confirm(call) if self._confirm else False


def following(request: Request, turn: Turn, seed: int, number: int) -> Request:
    """What is asked after a turn, as the `number`th of its run, from 0: the conversation goes on with what came of it.

    A call that had to be made has been made: from then on the model is free. Each turn draws with a seed of its own.
    """
    said = Message(role="assistant", content=turn.answer, calls=tuple(step.call for step in turn.steps))
    told = [Message(role="tool", content=step.result, call_id=step.call.id) for step in turn.steps]
    if turn.repair is not None:
        told.append(Message(role="user", content=turn.repair))
    sampling = request.sampling.model_copy(update={"seed": derive(seed, number)})
    changes: dict[str, object] = {"messages": (*request.messages, said, *told), "sampling": sampling}
    if turn.steps and request.tool_choice not in ("auto", "none"):
        changes["tool_choice"] = "auto"
    return request.model_copy(update=changes)


def complaint_of(end: End, request: Request) -> str | None:
    """What the model is told was wrong with its reply, in words that it can act on; none where nothing was."""
    if end.unreadable:
        return f"A tool call could not be read: {end.unreadable[0]}. Write it again, complete and in its form."
    if request.output is not None and end.finish in ("contract", "length"):
        why = end.why or f"it was cut off after {end.usage.generated} tokens"
        return f"The answer does not have the form that was asked for: {why}. Answer again, shorter and complete."
    return None
