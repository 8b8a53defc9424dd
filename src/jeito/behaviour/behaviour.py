"""What a behaviour holds, what it needs of a model, and its fingerprint; knows nothing of YAML or where files lie."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    Field,
    FieldSerializationInfo,
    JsonValue,
    ValidationInfo,
    field_serializer,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

from jeito.errors import BehaviourError
from jeito.types import Adapter, Dry, Output, Placement, Repetition, Sampling, Several, Steering, Value, Xtc

SILENT = frozenset({"name", "description", "language", "requires", "checks"})
"""What no reply depends on: names, what checks look at, and what only refuses a model."""

_TOOL_FILE = re.compile(
    r"(?!mcp:)(?P<file>.+\.py)(?P<rest>:\w+)|(?!mcp:)(?:behaviour:)?(?P<behaviour>.+\.ya?ml)", re.DOTALL
)


class Example(Value):
    """One turn shown to the model before the conversation begins."""

    user: str
    assistant: str


class Tool(Value):
    """Something that the model may call: `FILE.py:function`, a behaviour, or `mcp:…`; with its limits."""

    use: str = Field(min_length=1)
    permission: Literal["allow", "ask", "deny"] = "allow"
    timeout: float = Field(default=20.0, gt=0, description="seconds")
    output: int = Field(default=8000, ge=1, description="characters of a result that the model sees")

    @model_validator(mode="before")
    @classmethod
    def _a_name_is_enough(cls, given: Any) -> Any:
        return {"use": given} if isinstance(given, str) else given


class Limits(Value):
    """Where a run ends although the model would go on."""

    turns: int = Field(default=8, ge=1)
    calls: int = Field(default=16, ge=1)
    tokens: int | None = Field(default=None, ge=1, description="generated, all turns together")
    seconds: float | None = Field(default=None, gt=0)


class Reasoning(Value):
    budget: int | None = Field(default=None, ge=0, description="tokens of reasoning; then it is closed")
    show: bool = False


class Guard(Value):
    repetition: Repetition | None = None
    overflow: Literal["error", "drop_oldest"] = Field(default="error", description="when a prompt does not fit")
    empty: Literal["allow", "refuse"] = Field(default="allow", description="a reply that ends before it says anything")
    repair: int = Field(default=0, ge=0, description="new tries when a tool call cannot be read")


class Requires(Value):
    """What makes no sense without: a model that lacks it is refused."""

    context: int | None = Field(default=None, ge=1, description="tokens")
    tools: bool = False


class Claim(Value):
    """A check's name, what it is given, and the share of replies that must pass.

    `value` is a map of the check's keywords, or its one argument. Written and saved as `{words: {max: 120},
    at_least: 0.9}`. Which checks there are is not known here.
    """

    name: str = Field(
        pattern=r"^([A-Za-z_][A-Za-z0-9_]*|[^\n]+\.py:[A-Za-z_][A-Za-z0-9_]*)$",
        description="a check, or FILE.py:function",
        examples=["words", "language"],
    )
    value: JsonValue
    at_least: float = Field(gt=0, le=1, description="share of replies that must pass")

    @model_validator(mode="before")
    @classmethod
    def _one_check(cls, given: Any) -> Any:
        if not isinstance(given, dict) or given.keys() == {"name", "value", "at_least"}:
            return given
        names = [name for name in given if name != "at_least"]
        if len(names) != 1:
            what = f"not {len(names)}: {', '.join(names)}" if names else "and this names none"
            raise _wrong(f"a claim names one check, {what}", "write {words: {max: 120}, at_least: 0.9}")
        if "at_least" not in given:
            raise _wrong(f"the claim {names[0]} has no threshold", "add at_least: 0.9, the share that must pass")
        return {"name": names[0], "value": given[names[0]], "at_least": given["at_least"]}

    @model_serializer
    def _as_written(self) -> dict[str, JsonValue]:
        return {self.name: self.value, "at_least": self.at_least}


class Behaviour(Value):
    """How a model should behave. In `sampling` only what is set counts (`model_fields_set`)."""

    name: str = Field(
        default="unnamed", pattern=r"^[\w.-]+$", description="the file's name when absent", examples=["agente_tecnico"]
    )
    description: str = ""
    language: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*$",
        description="BCP 47; for checks",
        examples=["pt-BR", "en"],
    )
    system: str = Field(default="", description="the instruction")
    placement: Placement = Field(default="system", description="where the instruction goes")
    examples: Several[Example] = Field(default=(), description="turns shown before the conversation")
    sampling: Sampling = Field(default=Sampling(), description="how a row of logits becomes a token")
    output: Output | None = Field(default=None, description="the contract that an answer must meet")
    tools: Several[Tool] = ()
    tool_choice: str = Field(default="auto", min_length=1, description="auto, none, required, or a tool's name")
    parallel_calls: bool = Field(default=True, description="several calls in one reply")
    dialect: str = Field(default="auto", min_length=1, description="how calls and reasoning are written")
    limits: Limits = Limits()
    reasoning: Reasoning = Reasoning()
    guard: Guard = Guard()
    adapter: Several[Adapter] = ()
    steering: Several[Steering] = ()
    requires: Requires = Requires()
    checks: Several[Claim] = ()

    @field_validator("tool_choice")
    @classmethod
    def _there_is_a_tool_to_choose(cls, choice: str, info: ValidationInfo) -> str:
        if choice not in ("auto", "none") and info.data.get("tools") == ():
            raise _wrong(f"tool_choice is {choice!r}, but there are no tools", "add tools, or leave it at auto")
        return choice

    @field_serializer("sampling")
    def _what_is_set(self, sampling: Sampling, info: FieldSerializationInfo) -> dict[str, Any]:
        """A knob that is not set is the model's to decide: saved as set, it would mean something else."""
        return sampling.model_dump(mode=info.mode, include=sampling.model_fields_set)

    def needs(self) -> frozenset[str]:
        """The abilities that a model must have to behave so; a knob at its neutral value needs none."""
        asked = {
            "contract": self.output is not None and bool(self.output.kinds()),
            "tools": bool(self.tools),
            "a place for tools": self.requires.tools,
            "adapters": bool(self.adapter),
            "steering": bool(self.steering),
            "dialect": self.dialect != "auto",
            "tool_choice": bool(self.tools) and self.tool_choice not in ("auto", "none"),
            "parallel_calls": bool(self.tools) and not self.parallel_calls,
            "reasoning.budget": self.reasoning.budget is not None,
            "reasoning.show": self.reasoning.show,
            "guard.repetition": self.guard.repetition is not None,
            "guard.empty": self.guard.empty == "refuse",
            "repair": self.guard.repair > 0,
            "overflow": self.guard.overflow == "drop_oldest",
        }
        knobs = {knob for knob in self.sampling.model_fields_set if not is_neutral(knob, getattr(self.sampling, knob))}
        return frozenset(knobs | {ability for ability, wanted in asked.items() if wanted})

    def fingerprint(self) -> str:
        """Digest of all that can change a reply, with the contents of the files it names. Raises BehaviourError."""
        said = self.model_dump(mode="json", exclude=set(SILENT))
        if said["output"]:  # what is asked for first in a schema is written first
            said["output"]["json_schema"] = json.dumps(said["output"]["json_schema"])
        for adapter in said["adapter"]:
            adapter["path"] = _contents(adapter["path"])
        for steering in said["steering"]:
            steering["vector"] = _contents(steering["vector"])
        for tool in said["tools"]:
            file, rest = tool_file(tool["use"])
            tool["use"] = _contents(file) + rest if file else rest
        return _digest(said)

    def checks_fingerprint(self) -> str:
        """Digest of what a proof judges: the claims, and the language that they look at."""
        files: list[JsonValue] = [_contents(file) for claim in self.checks if (file := tool_file(claim.name)[0])]
        return _digest([self.model_dump(mode="json", include={"language", "checks"}), files])


def _wrong(sentence: str, hint: str) -> PydanticCustomError:
    return PydanticCustomError("behaviour", "{sentence}", {"sentence": sentence, "hint": hint})


def is_neutral(knob: str, value: object) -> bool:
    """Does this value leave the model's own distribution, and the length of its reply, as they are?"""
    if isinstance(value, Dry):
        return value.multiplier == 0
    if isinstance(value, Xtc):
        return value.probability == 0
    return bool(value == Sampling.model_fields[knob].get_default(call_default_factory=True))


def tool_file(use: str) -> tuple[str, str]:
    """The file that a tool names, and what follows it (`:function`); no file: "" and the whole."""
    found = _TOOL_FILE.fullmatch(use)
    if not found:
        return "", use
    return found["file"] or found["behaviour"], found["rest"] or ""


def _digest(said: JsonValue) -> str:
    text = json.dumps(said, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _contents(name: str) -> str:
    """Digest of a file, or of every file in a folder; the name itself when nothing is there."""
    path = Path(name)
    try:
        if path.is_dir():
            files = sorted(file for file in path.rglob("*") if file.is_file())
            return _digest([[file.relative_to(path).as_posix(), _file_digest(file)] for file in files])
        return _file_digest(path) if path.is_file() else name
    except OSError as error:
        raise BehaviourError(
            f"{name!r} cannot be read: {error.strerror}", hint="the behaviour names it; make it readable"
        ) from error


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
