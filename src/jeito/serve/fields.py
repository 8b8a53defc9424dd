"""What a chat request may hold: one table, from which validation, refusals and the table of docs/serve.md come.

Knows nothing of models and behaviours, nor of HTTP but the status of a refusal.
"""

import json
from typing import Any, Literal

from pydantic import Field, JsonValue, ValidationError, field_validator
from pydantic_core import from_json

from jeito.errors import nearest
from jeito.serve.refusal import Refusal
from jeito.types import Message, Sampling, Several, ToolCall, Value

UNUSED = "accepted, since clients send it; nothing here depends on it, and the receipt says so"
NAME = r"^[a-zA-Z0-9_.-]{1,64}$"


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


class StreamOptions(Value):
    include_usage: bool = False
    include_obfuscation: bool = False


class Own(Value):
    """What only jeito has."""

    exact: bool = Field(default=False, description="a reply that does not depend on what else runs")
    behaviour: str | None = Field(default=None, description="the same as model MODEL:BEHAVIOUR")
    receipt: bool = Field(default=False, description="the whole receipt in the reply")


class Chat(Sampling):
    """The body of a chat request: every sampling knob by its own name, and OpenAI's fields."""

    model: str = Field(description="MODEL or MODEL:BEHAVIOUR, as /v1/models lists them")
    messages: Several[Said] = Field(
        min_length=1, description="text and tool turns; those of the system at the start join the behaviour's own"
    )
    max_completion_tokens: int | None = Field(default=None, ge=1, description="the same as max_new_tokens")
    max_tokens: int | None = Field(default=None, ge=1, description="the same as max_new_tokens")
    min_tokens: int | None = Field(default=None, ge=0, description="the same as min_new_tokens")
    n: int = Field(default=1, ge=1, le=32, description="replies; the one at place i draws with a seed of its own")
    stream: bool = Field(default=False, description="server-sent events")
    stream_options: StreamOptions = Field(default=StreamOptions(), description="`include_usage`")
    logprobs: bool = Field(default=False, description="of every token, in the model's own distribution")
    top_logprobs: int | None = Field(default=None, ge=0, le=20, description="likeliest tokens at each place")
    response_format: Form | None = Field(default=None, description="text, json_object or json_schema: enforced")
    tools: Several[OfferedTool] = Field(default=(), max_length=128, description="returned as calls, never made here")
    tool_choice: Literal["auto", "none", "required"] | Choice | None = Field(default=None, description="enforced")
    parallel_tool_calls: bool | None = Field(default=None, description="several calls in one reply")
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high"] | None = Field(
        default=None, description="0, 64, 256, 1024 tokens of reasoning, or as many as come"
    )
    jeito: Own = Field(default=Own(), description="`exact`, `behaviour`, `receipt`")
    user: str | None = Field(default=None, description=UNUSED)
    store: bool | None = Field(default=None, description=UNUSED)
    metadata: JsonValue = Field(default=None, description=UNUSED)
    service_tier: str | None = Field(default=None, description=UNUSED)
    safety_identifier: str | None = Field(default=None, description=UNUSED)
    prompt_cache_key: str | None = Field(default=None, description=UNUSED)

    @field_validator("stop", mode="before")
    @classmethod
    def _one_stop_string(cls, stop: Any) -> Any:
        return [stop] if isinstance(stop, str) else stop

    def messages_of(self) -> tuple[str, list[Message]]:
        """The instruction that stands at the start, and the conversation after it."""
        messages = [said.message(at) for at, said in enumerate(self.messages)]
        first = next((at for at, message in enumerate(messages) if message.role != "system"), len(messages))
        return "\n\n".join(message.content for message in messages[:first]), messages[first:]

    def unused(self) -> list[str]:
        """Fields that were sent and that nothing depends on."""
        return [name for name in Chat.model_fields if name in self.model_fields_set and is_unused(name)]


def is_unused(name: str) -> bool:
    return Chat.model_fields[name].description == UNUSED


EFFORTS = {"none": 0, "minimal": 64, "low": 256, "medium": 1024, "high": None}
KNOWN = frozenset(Chat.model_fields) - {"exact"}  # which stands in `jeito`


def table() -> list[str]:
    """The rows of the table in docs/serve.md; a sampling knob is explained with the behaviours."""
    own = "the sampling knob, as in a behaviour"
    said = {name: Chat.model_fields[name].description for name in sorted(KNOWN)}
    return [f"| `{name}` | {own if name in Sampling.model_fields else text} |" for name, text in said.items()]


def read(body: bytes, *, lenient: bool) -> tuple[Chat, list[str]]:
    """A body as the request that it is, and the fields in no table, which only the lenient leave out.

    What is null counts as not sent. Raises Refusal.
    """
    try:
        tree = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise Refusal(400, f"the body is no JSON: {error}", hint="send UTF-8 JSON") from error
    if not isinstance(tree, dict):
        raise Refusal(400, "the body is no JSON object", hint='send {"model": …, "messages": […]}')
    unknown: list[str] = []
    tree = _known(tree, KNOWN, "", unknown)
    if isinstance(tree.get("messages"), list):
        known = frozenset(Said.model_fields)
        tree["messages"] = [
            _known(said, known, f"messages.{at}.", unknown) if isinstance(said, dict) else said
            for at, said in enumerate(tree["messages"])
        ]
    if unknown and not lenient:
        name = unknown[0].rpartition(".")[2]
        known = frozenset(Said.model_fields) if "." in unknown[0] else KNOWN
        hint = nearest(name, known)
        raise Refusal(400, f"there is no field {name!r}", hint=hint, param=unknown[0], code="unknown_parameter")
    try:
        return Chat.model_validate_json(json.dumps(tree)), unknown
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        path = ".".join(map(str, first["loc"]))
        given = repr(first["input"])
        what = f"{path} is {given[:60]}{'…' if len(given) > 60 else ''}"
        what = f"{path} is missing" if first["type"] == "missing" else what
        raise Refusal(400, what, hint=first["msg"], param=path, code="invalid_value") from error


def _known(tree: dict[str, Any], known: frozenset[str], above: str, unknown: list[str]) -> dict[str, Any]:
    sent = {name: value for name, value in tree.items() if value is not None}
    unknown += [above + name for name in sent if name not in known]
    return {name: value for name, value in sent.items() if name in known}
