"""What a chat request may hold, which is what every other request is made into. Knows nothing of models."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol

from pydantic import Field, JsonValue
from pydantic_core import from_json

from jeito.serve.fields import MESSAGES, TOOLS, UNUSED, Common, Own
from jeito.serve.refusal import Refusal
from jeito.types import Message, Sampling, Several, ToolCall, Trace, Value

NAME = r"^[a-zA-Z0-9_.-]{1,64}$"


Find = Callable[[str], Trace | None]
"""A run that the log has, by the id of its reply."""


class Part(Value):
    type: Literal["text"]
    text: str


class CalledFunction(Value):
    name: str
    arguments: str = Field(description="JSON text")


class Called(Value):
    id: str
    type: Literal["function"] = "function"
    function: CalledFunction
    index: int | None = Field(default=None, description=UNUSED)


class Said(Value):
    """One message, as OpenAI has it."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Several[Part] = ""
    tool_calls: Several[Called] = ()
    tool_call_id: str | None = None
    name: str | None = Field(default=None, description=UNUSED)
    refusal: str | None = Field(default=None, description=UNUSED)
    annotations: JsonValue = Field(default=None, description=UNUSED)
    reasoning_content: str | None = Field(default=None, description=UNUSED)

    def message(self, at: int) -> Message:
        content = self.content if isinstance(self.content, str) else "\n".join(part.text for part in self.content)
        calls = tuple(_call(call, f"messages.{at}.tool_calls.{index}") for index, call in enumerate(self.tool_calls))
        role = "system" if self.role == "developer" else self.role
        if (role == "tool") != (self.tool_call_id is not None) or (calls and role != "assistant"):
            what = "a tool's result has a tool_call_id, and only an assistant has tool_calls"
            raise Refusal(400, f"message {at} does not fit its role {self.role!r}", hint=what, param=f"messages.{at}")
        return Message(role=role, content=content, calls=calls, call_id=self.tool_call_id)


def _call(call: Called, at: str) -> ToolCall:
    try:
        arguments = from_json(call.function.arguments or "{}", allow_inf_nan=False)
    except ValueError as error:
        arguments = error
    if not isinstance(arguments, dict):
        why = "arguments are a JSON object, written as text"
        raise Refusal(400, f"the arguments of {call.function.name!r} cannot be read", hint=why, param=at)
    return ToolCall(id=call.id, name=call.function.name, arguments=arguments)


class Function(Value):
    name: str = Field(pattern=NAME)
    description: str = ""
    parameters: dict[str, JsonValue] = Field(default_factory=dict)
    strict: bool = Field(default=True, description="calls always have the form of their schema")


class OfferedTool(Value):
    type: Literal["function"]
    function: Function

    def schema_of(self) -> dict[str, JsonValue]:
        parameters: JsonValue = self.function.parameters or {"type": "object", "properties": {}}
        said = {"name": self.function.name, "description": self.function.description, "parameters": parameters}
        return {"type": "function", "function": said}


class FunctionName(Value):
    name: str


class Choice(Value):
    type: Literal["function"]
    function: FunctionName


class NamedSchema(Value):
    name: str = ""
    description: str = ""
    strict: bool = True
    json_schema: dict[str, JsonValue] = Field(alias="schema")


class Form(Value):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: NamedSchema | None = None


Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
EFFORTS = {"none": 0, "minimal": 64, "low": 256, "medium": 1024, "high": None, "xhigh": None, "max": None}


class Chat(Common):
    """The body of a chat request: every sampling knob by its own name, and OpenAI's fields."""

    messages: Several[Said] = Field(
        min_length=1, max_length=MESSAGES,
        description="text and tool turns; those of the system at the start join the behaviour's own",
    )  # fmt: skip
    max_completion_tokens: int | None = Field(default=None, ge=1, description="the same as max_new_tokens")
    max_tokens: int | None = Field(default=None, ge=1, description="the same as max_new_tokens")
    min_tokens: int | None = Field(default=None, ge=0, description="the same as min_new_tokens")
    n: int = Field(default=1, ge=1, le=32, description="replies; the one at place i draws with a seed of its own")
    logprobs: bool = Field(default=False, description="of every token, in the model's own distribution")
    top_logprobs: int | None = Field(default=None, ge=0, le=20, description="likeliest tokens at each place")
    response_format: Form | None = Field(default=None, description="text, json_object or json_schema: enforced")
    tools: Several[OfferedTool] = Field(default=(), max_length=TOOLS, description="returned as calls, never made here")
    tool_choice: Literal["auto", "none", "required"] | Choice | None = Field(default=None, description="enforced")
    parallel_tool_calls: bool | None = Field(default=None, description="several calls in one reply")
    reasoning_effort: Effort | None = Field(
        default=None,
        description="none, minimal, low, medium: 0, 64, 256, 1024 tokens of reasoning; above, as many as come",
    )
    verbosity: str | None = Field(default=None, description=UNUSED)

    def asking(self, find: Find) -> "Asking":
        return Asking(self)

    def messages_of(self) -> tuple[str, list[Message]]:
        """The instruction that stands at the start, and the conversation after it."""
        messages = [said.message(at) for at, said in enumerate(self.messages)]
        first = next((at for at, message in enumerate(messages) if message.role != "system"), len(messages))
        return "\n\n".join(message.content for message in messages[:first]), messages[first:]

    def knobs(self) -> dict[str, Any]:
        """The sampling knobs that were sent, by their own names; the seed goes its own way."""
        found = {name: getattr(self, name) for name in self.model_fields_set & set(Sampling.model_fields) - _APART}
        for name, knob in (
            ("max_tokens", "max_new_tokens"), ("max_completion_tokens", "max_new_tokens"),
            ("min_tokens", "min_new_tokens"),
        ):  # fmt: skip
            given = getattr(self, name)
            if given is not None and found.setdefault(knob, given) != given:
                raise Refusal(400, f"{name} is {given}, and {knob} {found[knob]}", hint="send one of them", param=name)
        return found | ({"exact": True} if self.jeito.exact else {})


_APART = {"seed", "exact"}


class Asking(NamedTuple):
    """What a body comes to: the values of a chat request, and what else that cannot hold.

    `prompts`: raw ones, as text or tokens, in place of messages. `before`: turns of the log that go before them.
    `drops_oldest`: turns are dropped where a conversation does not fit.
    """

    chat: Chat
    prompts: tuple[str | tuple[int, ...], ...] = ()
    before: tuple[Message, ...] = ()
    drops_oldest: bool = False
    notes: tuple[str, ...] = ()


class Body(Protocol):
    """What was sent to any endpoint, read by its table."""

    @property
    def model(self) -> str: ...

    @property
    def jeito(self) -> Own: ...

    def asking(self, find: Find) -> Asking: ...

    def unused(self) -> list[str]: ...
