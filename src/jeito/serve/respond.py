"""What a request to /v1/responses may hold, and how it becomes a chat request. Knows nothing of HTTP."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, JsonValue, Tag

from jeito.serve.chat import (
    NAME,
    Asking,
    Called,
    CalledFunction,
    Chat,
    Choice,
    Effort,
    Find,
    Form,
    Function,
    FunctionName,
    NamedSchema,
    OfferedTool,
    Said,
)  # fmt: skip
from jeito.serve.fields import MESSAGES, TOOLS, UNUSED, Common, StreamOptions
from jeito.serve.refusal import Refusal
from jeito.serve.reply import call_id
from jeito.types import Message, Several, Value

LOGPROBS = "message.output_text.logprobs"
NOT_CARRIED = "previous_response_id: its instructions are not carried on, as OpenAI has it; send them again"


class Text(Value):
    type: Literal["input_text", "output_text", "text"]
    text: str
    annotations: JsonValue = Field(default=None, description=UNUSED)
    logprobs: JsonValue = Field(default=None, description=UNUSED)


class Item(Value):
    """What every item of a conversation may have."""

    id: str | None = Field(default=None, description=UNUSED)
    status: str | None = Field(default=None, description=UNUSED)


class Turn(Item):
    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: str | Several[Text]
    phase: str | None = Field(default=None, description=UNUSED)


class Call(Item):
    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str = Field(description="JSON text")


class Result(Item):
    type: Literal["function_call_output"]
    call_id: str
    output: str | Several[Text]


class Reasoned(Item):
    """What was thought before an earlier reply: templates leave it out."""

    type: Literal["reasoning"]
    summary: JsonValue = Field(default=None, description=UNUSED)
    content: JsonValue = Field(default=None, description=UNUSED)
    encrypted_content: str | None = Field(default=None, description=UNUSED)


def _kind(item: Any) -> Any:
    return item.get("type", "message") if isinstance(item, dict) else getattr(item, "type", None)


AnyItem = Annotated[
    Annotated[Turn, Tag("message")]
    | Annotated[Call, Tag("function_call")]
    | Annotated[Result, Tag("function_call_output")]
    | Annotated[Reasoned, Tag("reasoning")],
    Discriminator(_kind),
]


class FlatTool(Value):
    """A tool as this endpoint writes it."""

    type: Literal["function"]
    name: str = Field(pattern=NAME)
    description: str = ""
    parameters: dict[str, JsonValue] = Field(default_factory=dict)
    strict: bool = Field(default=True, description="calls always have the form of their schema")


class FlatChoice(Value):
    type: Literal["function"]
    name: str


class Format(Value):
    type: Literal["text", "json_object", "json_schema"]
    name: str = ""
    description: str = ""
    strict: bool = True
    json_schema: dict[str, JsonValue] | None = Field(default=None, alias="schema")


class TextForm(Value):
    format: Format | None = None
    verbosity: str | None = Field(default=None, description=UNUSED)


class Effortful(Value):
    effort: Effort | None = None
    summary: str | None = Field(default=None, description=UNUSED)
    generate_summary: str | None = Field(default=None, description=UNUSED)


class Respond(Common):
    """The body of a request to /v1/responses."""

    input: str | Annotated[Several[AnyItem], Field(min_length=1, max_length=MESSAGES)] = Field(
        description="text, or items: messages, function_call, function_call_output, reasoning (left out)"
    )
    instructions: str | None = Field(default=None, description="joins the behaviour's own; not carried on")
    previous_response_id: str | None = Field(
        default=None, description="the conversation goes on after that reply, which the log must hold"
    )
    max_output_tokens: int | None = Field(default=None, ge=1, description="the same as max_new_tokens")
    text: TextForm = Field(default=TextForm(), description="`format`: text, json_object or json_schema: enforced")
    reasoning: Effortful = Field(default=Effortful(), description="`effort`, as reasoning_effort in a chat request")
    tools: Several[FlatTool] = Field(default=(), max_length=TOOLS, description="returned as calls, never made here")
    tool_choice: Literal["auto", "none", "required"] | FlatChoice | None = Field(default=None, description="enforced")
    parallel_tool_calls: bool | None = Field(default=None, description="several calls in one reply")
    top_logprobs: int | None = Field(default=None, ge=0, le=20, description="likeliest tokens at each place")
    include: Several[Literal["message.output_text.logprobs", "reasoning.encrypted_content"]] = Field(
        default=(), description=f"`{LOGPROBS}`; reasoning is never encrypted here, so that adds nothing"
    )
    truncation: Literal["auto", "disabled"] | None = Field(
        default=None, description="auto: the oldest turns are dropped where a conversation does not fit"
    )
    stream_options: StreamOptions = Field(default=StreamOptions(), description="usage stands at the end in any case")
    background: Literal[False] | None = Field(default=None, description="false: replies are waited for")
    max_tool_calls: int | None = Field(default=None, description=UNUSED)

    def asking(self, find: Find) -> Asking:
        values = self.shared() | self._renamed()
        before, notes = self._before(find)
        messages = [Said(role="system", content=self.instructions)] if self.instructions else []
        messages += _said(self.input)
        chat = Chat.model_construct(messages=tuple(messages), **values)
        return Asking(chat, before=before, drops_oldest=self.truncation == "auto", notes=notes)

    def unused(self) -> list[str]:
        inner = [("text.verbosity", self.text.verbosity), ("reasoning.summary", self.reasoning.summary)]
        return super().unused() + [name for name, value in inner if value is not None]

    def _renamed(self) -> dict[str, Any]:
        """What a chat request calls otherwise."""
        found: dict[str, Any] = {
            "max_completion_tokens": self.max_output_tokens,
            "reasoning_effort": self.reasoning.effort,
            "tools": tuple(_nested(tool) for tool in self.tools),
            "parallel_tool_calls": self.parallel_tool_calls,
            "top_logprobs": self.top_logprobs,
            "logprobs": self.top_logprobs is not None or LOGPROBS in self.include,
            "tool_choice": self.tool_choice,
        }
        if isinstance(self.tool_choice, FlatChoice):
            found["tool_choice"] = Choice(type="function", function=FunctionName(name=self.tool_choice.name))
        if form := self.text.format:
            schema = NamedSchema(schema=form.json_schema) if form.json_schema is not None else None
            found["response_format"] = Form(type=form.type, json_schema=schema)
        return found

    def _before(self, find: Find) -> tuple[tuple[Message, ...], tuple[str, ...]]:
        """The conversation that this one goes on with, and what of it is left behind."""
        if self.previous_response_id is None:
            return (), ()
        trace = find(self.previous_response_id)
        if trace is None or trace.finish is None or trace.request.raw:
            raise Refusal(
                400, f"the log has no reply {self.previous_response_id[:60]!r}", hint="send the whole conversation",
                param="previous_response_id", code="previous_response_not_found",
            )  # fmt: skip
        examples = trace.receipt.values.get("examples")
        calls = tuple(call.model_copy(update={"id": call_id(trace, at)}) for at, call in enumerate(trace.calls))
        said = Message(role="assistant", content=trace.answer, calls=calls)
        # The examples of the behaviour stand before the conversation, and will again.
        shown = examples.value if examples and isinstance(examples.value, list) else []
        turns = trace.request.messages[2 * len(shown) :]
        is_lost = not self.instructions and trace.receipt.values["system"].source == "request"
        return (*turns, said), (NOT_CARRIED,) if is_lost else ()


def _said(given: str | tuple[Any, ...]) -> list[Said]:
    """The items as messages: a call joins what the assistant said just before it."""
    if isinstance(given, str):
        return [Said(role="user", content=given)]
    said: list[Said] = []
    for item in given:
        if isinstance(item, Turn):
            said.append(Said(role=item.role, content=_text(item.content)))
        elif isinstance(item, Result):
            said.append(Said(role="tool", content=_text(item.output), tool_call_id=item.call_id))
        elif isinstance(item, Call):
            call = Called(id=item.call_id, function=CalledFunction(name=item.name, arguments=item.arguments))
            if not said or said[-1].role != "assistant":
                said.append(Said(role="assistant"))
            said[-1] = said[-1].model_copy(update={"tool_calls": (*said[-1].tool_calls, call)})
    return said


def _text(content: str | tuple[Text, ...]) -> str:
    return content if isinstance(content, str) else "\n".join(part.text for part in content)


def _nested(tool: FlatTool) -> OfferedTool:
    function = Function(name=tool.name, description=tool.description, parameters=tool.parameters)
    return OfferedTool(type="function", function=function)
