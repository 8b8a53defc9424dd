"""Values that cross rooms. Frozen, strict, saved as JSON; they know nothing of engines, files or screens."""

from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator, model_validator
from pydantic_core import PydanticCustomError

T = TypeVar("T")

# A YAML or JSON list is accepted where a tuple is kept; its items stay strict.
Several = Annotated[tuple[T, ...], Field(strict=False)]

Placement = Literal["system", "user_start", "user_end"]
Finish = Literal[
    "stop", "length", "tool_calls", "repetition", "contract", "context", "memory", "limit", "cancelled", "error"
]
Source = Literal["neutral", "model", "behaviour", "flag", "request", "drawn"]


class Value(BaseModel):
    """What crosses a room: frozen, no unknown keys, no silent conversion."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class ToolCall(Value):
    id: str
    name: str
    arguments: dict[str, JsonValue]


class Message(Value):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str
    calls: Several[ToolCall] = ()
    call_id: str | None = None


class Xtc(Value):
    threshold: float = Field(ge=0, le=1)
    probability: float = Field(ge=0, le=1)


class Dry(Value):
    multiplier: float = Field(ge=0)
    base: float = Field(default=1.75, ge=1)
    allowed_length: int = Field(default=2, ge=1)
    window: int = Field(default=-1, ge=-1, description="last tokens looked at; -1: all")
    breakers: Several[str] = ("\n", ":", '"', "*")


class Sampling(Value):
    """How a row of logits becomes a token. The defaults are neutral: the model's own distribution."""

    temperature: float = Field(default=1.0, ge=0, description="0: the likeliest token, always")
    top_k: int = Field(default=0, ge=0, description="0: off")
    top_p: float = Field(default=1.0, gt=0, le=1)
    min_p: float = Field(default=0.0, ge=0, le=1)
    top_n_sigma: float = Field(default=0.0, ge=0, description="0: off")
    typical_p: float = Field(default=1.0, gt=0, le=1)
    xtc: Xtc | None = None
    repetition_penalty: float = Field(default=1.0, gt=0)
    repetition_window: int | None = Field(default=None, ge=0, description="last tokens looked at; none: all")
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    dry: Dry | None = None
    logit_bias: dict[int, float] = Field(default_factory=dict)
    min_new_tokens: int = Field(default=0, ge=0)
    max_new_tokens: int = Field(default=512, ge=1)
    stop: Several[str] = ()
    seed: int | None = Field(default=None, ge=0, lt=2**64)
    exact: bool = False

    @field_validator("stop")
    @classmethod
    def _stop_strings_have_text(cls, stop: tuple[str, ...]) -> tuple[str, ...]:
        if "" in stop:
            raise ValueError("an empty stop string would end every reply at once")
        return stop


class Output(Value):
    """The contract that an answer must meet: one of these at most; text when none."""

    json_schema: dict[str, JsonValue] | None = None
    regex: str | None = Field(default=None, min_length=1)
    choice: Several[str] | None = Field(default=None, min_length=1, description="the whole answer is one of these")
    lark: str | None = Field(default=None, min_length=1, description="a grammar in Lark's notation")

    @model_validator(mode="after")
    def _one_at_most(self) -> Self:
        given = self.kinds()
        if len(given) > 1:
            sentence, hint = f"output takes only one of {', '.join(given)}", f"one is switched off by {given[0]}: null"
            raise PydanticCustomError("behaviour", "{sentence}", {"sentence": sentence, "hint": hint})
        return self

    def kinds(self) -> list[str]:
        return [kind for kind in type(self).model_fields if getattr(self, kind) is not None]


class Thinking(Value):
    """What a model writes before its answer: between which marks, and for how long.

    Without marks they are the model's own, where it has any.
    """

    open: str | None = Field(default=None, min_length=1)
    close: str | None = Field(default=None, min_length=1)
    budget: int | None = Field(default=None, ge=0, description="tokens; then it is closed")


class Repetition(Value):
    """A loop: a stretch of at most `tokens` tokens that comes `times` times in a row, `tokens` tokens long in all."""

    action: Literal["stop"] = "stop"
    tokens: int = Field(default=24, ge=1, le=1024)
    times: int = Field(default=4, ge=2)


class Adapter(Value):
    """A LoRA adapter to go on top of the weights: a folder as peft writes it, or a GGUF."""

    path: str = Field(min_length=1)
    scale: float = 1.0


class Steering(Value):
    """A file of directions, one a layer, to be added to what the layers pass on."""

    vector: str = Field(min_length=1)
    scale: float = 1.0


class Request(Value):
    """What a model is asked for: a whole conversation, and every value already decided."""

    messages: Several[Message]
    system: str = ""
    placement: Placement = "system"
    raw: bool = Field(default=False, description="the one message is the prompt itself: no template, no turns")
    sampling: Sampling = Sampling()
    output: Output | None = None
    reasoning: Thinking = Thinking()
    tools: Several[dict[str, JsonValue]] = Field(default=(), description="as OpenAI has them")
    tool_choice: str = Field(default="auto", description="auto, none, required, or a tool's name")
    parallel_calls: bool = Field(default=True, description="several calls in one reply")
    dialect: str = "auto"
    adapter: Several[Adapter] = ()
    steering: Several[Steering] = ()
    repetition: Repetition | None = Field(default=None, description="the loop that ends the reply")
    refuse_empty: bool = Field(default=False, description="no end before something was said")
    logprobs: int | None = Field(
        default=None, ge=0, le=100, description="likeliest tokens to report; none: no logprobs"
    )
    drop_oldest: bool = Field(default=False, description="drop whole turns when the prompt does not fit")


class Exact(Value):
    """Was the reply independent of whatever else ran? `why` says what broke or replaced the promise."""

    asked: bool = False
    held: bool = False
    shape: str | None = None
    why: str | None = None


class Usage(Value):
    """Token counts of one reply."""

    prompt: int | None = Field(default=0, description="none: a server did not say")
    cached: int | None = Field(
        default=0, description="of the prompt, not computed again; none: broken off, or not said by a server"
    )
    generated: int = 0
    forced: int = Field(default=0, description="of the generated, those that could be no others: never drawn")


class Seconds(Value):
    """Where the time of one reply went."""

    queue: float = 0.0
    prefill: float = 0.0
    decode: float = 0.0
    total: float = 0.0


class Start(Value):
    """The first event of a reply: what the model made of the request."""

    template: str
    placement: Placement | None
    prompt: str | None = Field(description="as rendered; none: a server renders it and does not say")
    prompt_digest: str = Field(description="sha256 of the prompt, or of the conversation that a server was sent")
    tokens: int | None = Field(description="of the prompt; none: a server has not said yet")
    dropped: Several[str] = ()
    exact: Exact = Exact()
    notes: Several[str] = ()


class Alternative(Value):
    id: int | None = Field(description="none: the server says texts alone")
    text: str
    logprob: float


class CallPiece(Value):
    """What became sure of a call: its name where it begins, then its arguments as JSON text, piece by piece."""

    index: int
    name: str = ""
    arguments: str = ""


class Token(Value):
    """One token of a reply. `text` is what became safe to show of the answer with it, so it can be empty."""

    id: int | None = Field(description="none: the server tells pieces of text apart, which may be several tokens")
    text: str
    reasoning: str = Field(default="", description="the same of what was thought before the answer")
    logprob: float | None = Field(default=None, description="in the model's own distribution")
    drawn: float | None = Field(default=None, description="log-probability after bias, penalties and cuts")
    forced: bool = False
    calls: Several[CallPiece] = ()
    top: Several[Alternative] = ()


class End(Value):
    """The last event of a reply."""

    finish: Finish
    why: str | None = None
    text: str = Field(default="", description="text held back until now")
    reasoning: str = ""
    notes: Several[str] = Field(default=(), description="for the receipt: what was decided on the way")
    calls: Several[ToolCall] = ()
    unreadable: Several[str] = Field(default=(), description="why calls could not be read")
    usage: Usage = Usage()
    seconds: Seconds = Seconds()
    memory: dict[str, dict[str, int]] = Field(
        default_factory=dict, description="bytes of process and device, after `prefill` and after `decode`"
    )


Event = Start | Token | End


class Sourced(Value):
    """An effective value and where it comes from; `line` counts from 1."""

    value: JsonValue
    source: Source
    file: str | None = None
    line: int | None = None


class Receipt(Value):
    """Where each value of a reply came from, and what was not honoured."""

    values: dict[str, Sourced]
    unsupported: Several[str] = ()
    placement: Placement | None = None
    template: str | None = None
    prompt_digest: str | None = None
    dropped: Several[str] = ()
    exact: Exact = Exact()
    notes: Several[str] = ()


class Step(Value):
    """One call and what came of it. `permitted`: what a person said, where one was asked."""

    call: ToolCall
    result: str
    error: bool = False
    seconds: float = 0.0
    permitted: bool | None = None
    run: "Trace | None" = Field(default=None, description="of a tool that is a behaviour")


class Turn(Value):
    """One reply of a run with tools. `tokens`: how many of the trace's are its own, after those of turns before."""

    prompt_digest: str
    answer: str
    reasoning: str = ""
    tokens: int
    finish: Finish
    usage: Usage
    steps: Several[Step] = ()
    repair: str | None = Field(default=None, description="what the model was told was wrong with it")


class Trace(Value):
    """One run, whole: what was asked, what came, why it ended. `answer` is the text that was shown."""

    id: str
    time: str = Field(description="UTC, ISO 8601")
    behaviour: str
    behaviour_fingerprint: str
    model: str
    model_fingerprint: str | None
    seed: int
    case: str = ""
    request: Request
    prompt: str | None = Field(default=None, description="as rendered by the template")
    answer: str = ""
    reasoning: str = ""
    calls: Several[ToolCall] = ()
    turns: Several[Turn] = Field(default=(), description="of a run with tools or repairs: each reply, the last one too")
    finish: Finish | None = Field(default=None, description="none: still running, or its process died")
    why: str | None = None
    tokens: Several[Token] = ()
    usage: Usage = Usage()
    receipt: Receipt
    seconds: Seconds = Seconds()
    environment: dict[str, Any] = Field(default_factory=dict)
    error: str | None = None
