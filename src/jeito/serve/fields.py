"""What every request may hold, and how a body is read against the table of its endpoint.

From these tables come validation, refusals, docs/serve.md and /openapi.json. Knows nothing of models and behaviours,
nor of HTTP but the status of a refusal.
"""

import json
from functools import cache
from typing import Any, Self, TypeVar

from pydantic import Field, JsonValue, ValidationError, field_validator, model_validator
from pydantic_core import from_json

from jeito.errors import nearest
from jeito.serve.refusal import Refusal
from jeito.types import Output, Placement, Repetition, Sampling, Several, Value

UNUSED = "accepted, since clients send it; nothing here depends on it, and the receipt says so"
REPLIES = 128
"""Of one request: each is a row of the batch, and all hold their place until the last has ended."""
MESSAGES = 2048
"""Of one conversation: far more than a context holds, and a template's time grows with them."""
TOOLS = 128
"""As many as OpenAI takes; what their schemas may weigh is the grammar's to say (decode/grammar.py)."""
STOPS = 16
"""Four for OpenAI, more for others: each is looked for at every token."""
BIASES = 1024

T = TypeVar("T", bound="Common")


class StreamOptions(Value):
    include_usage: bool = False
    include_obfuscation: bool = False


class Own(Value):
    """What only jeito has."""

    exact: bool = Field(default=False, description="a reply that does not depend on what else runs")
    behaviour: str | None = Field(default=None, description="the same as model MODEL:BEHAVIOUR")
    receipt: bool = Field(default=False, description="the whole receipt in the reply")
    deadline: float | None = Field(default=None, gt=0, description="seconds from now that the reply may take")
    tokens: bool = Field(default=False, description="streamed: each chunk with its token, its id and all that is known")
    placement: Placement | None = Field(default=None, description="where the instruction goes, as in a behaviour")
    dialect: str | None = Field(default=None, description="how calls and reasoning are written, as in a behaviour")
    budget: int | None = Field(default=None, ge=0, description="tokens of reasoning")
    repetition: Repetition | None = Field(default=None, description="the loop that ends the reply")
    refuse_empty: bool | None = Field(default=None, description="no end before something was said")
    drop_oldest: bool | None = Field(default=None, description="drop whole turns when the prompt does not fit")


class Structured(Value):
    """A contract beyond response_format, in vLLM's words: one of these."""

    json_schema: dict[str, JsonValue] | None = Field(default=None, alias="json")
    regex: str | None = Field(default=None, min_length=1)
    choice: Several[str] | None = Field(default=None, min_length=1)
    grammar: str | None = Field(default=None, min_length=1, description="in Lark's notation")

    @model_validator(mode="after")
    def _one(self) -> Self:
        if sum(value is not None for value in (self.json_schema, self.regex, self.choice, self.grammar)) != 1:
            raise ValueError("structured_outputs takes one of json, regex, choice, grammar")
        return self

    def output(self) -> Output:
        return Output(json_schema=self.json_schema, regex=self.regex, choice=self.choice, lark=self.grammar)


class Common(Sampling):
    """What every endpoint takes: each sampling knob by its own name, and what clients send everywhere."""

    model: str = Field(description="MODEL or MODEL:BEHAVIOUR, as /v1/models lists them")
    stop: Several[str] = Field(default=(), max_length=STOPS, json_schema_extra={"type": ["array", "string"]})
    logit_bias: dict[int, float] = Field(default_factory=dict, max_length=BIASES)
    stream: bool = Field(default=False, description="server-sent events")
    stream_options: StreamOptions = Field(default=StreamOptions(), description="`include_usage`")
    structured_outputs: Structured | None = Field(
        default=None, description="`json`, `regex`, `choice` or `grammar` (Lark): enforced"
    )
    jeito: Own = Field(default=Own(), description="what only jeito has: see below")
    store: bool | None = Field(default=None, description="false: the run is not kept in the log")
    user: str | None = Field(default=None, description=UNUSED)
    metadata: JsonValue = Field(default=None, description=UNUSED)
    service_tier: str | None = Field(default=None, description=UNUSED)
    safety_identifier: str | None = Field(default=None, description=UNUSED)
    prompt_cache_key: str | None = Field(default=None, description=UNUSED)
    prompt_cache_retention: str | None = Field(default=None, description=UNUSED)

    @field_validator("stop", mode="before")
    @classmethod
    def _one_stop_string(cls, stop: Any) -> Any:
        return [stop] if isinstance(stop, str) else stop

    @classmethod
    def known(cls) -> frozenset[str]:
        """Its fields; `exact` stands in `jeito`."""
        return frozenset(cls.model_fields) - {"exact"}

    def unused(self) -> list[str]:
        """Fields that were sent and that nothing depends on."""
        return [name for name in type(self).model_fields if name in self.model_fields_set and self.is_unused(name)]

    @classmethod
    def is_unused(cls, name: str) -> bool:
        return cls.model_fields[name].description == UNUSED

    @classmethod
    def said_of(cls, name: str) -> str:
        """What a table says of a field."""
        is_knob = name in Sampling.model_fields
        return "the sampling knob, as in a behaviour" if is_knob else cls.model_fields[name].description or ""

    def shared(self) -> dict[str, Any]:
        """The values that were sent and that all endpoints mean alike."""
        return {name: getattr(self, name) for name in self.model_fields_set & set(Common.model_fields)}


def read(body: bytes, fields: type[T], *, lenient: bool) -> tuple[T, list[str]]:
    """A body as the request that it is, and the fields in no table, which only the lenient leave out.

    What is null counts as not sent. Raises Refusal.
    """
    tree = without_nulls(_tree(body))
    unknown = sorted(tree.keys() - fields.known())
    if unknown and not lenient:
        raise _unknown((unknown[0],), fields.known())
    for name in unknown:
        del tree[name]
    while True:
        try:
            return fields.model_validate_json(json.dumps(tree)), unknown
        except ValidationError as error:
            errors = error.errors(include_url=False, include_context=False)
        extra = [_place(tree, one["loc"]) for one in errors if one["type"] == "extra_forbidden"]
        if extra and not lenient:
            raise _unknown(extra[0], _inner(fields))
        gone = [place for place in extra if _drop(tree, place)]
        if not gone:
            raise _wrong(tree, errors)
        unknown += [".".join(map(str, place)) for place in gone]


def _tree(body: bytes) -> dict[str, Any]:
    try:
        # Pydantic's reader bounds the depth and refuses what is not UTF-8; Python's sees a name that comes twice.
        from_json(body, allow_inf_nan=False)
        tree = json.loads(body, object_pairs_hook=_pairs)
    except (ValueError, RecursionError) as error:
        raise Refusal(400, f"the body is no JSON: {error}", hint="send UTF-8 JSON") from error
    if not isinstance(tree, dict):
        raise Refusal(400, "the body is no JSON object", hint='send {"model": …}')
    return tree


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise Refusal(400, f"the body is no JSON that all read alike: {twice[:60]!r} comes twice", param=twice)
    return found


def without_nulls(tree: Any) -> Any:
    """Null means not sent, but for what is the client's own: a schema may well hold one."""
    if isinstance(tree, list):
        return [without_nulls(one) for one in tree]
    if not isinstance(tree, dict):
        return tree
    own = ("parameters", "schema", "json", "metadata")
    return {
        name: value if name in own else without_nulls(value) for name, value in tree.items() if value is not None
    }  # fmt: skip


def _unknown(path: tuple[int | str, ...], known: frozenset[str]) -> Refusal:
    name = str(path[-1])
    param = ".".join(map(str, path))
    return Refusal(
        400, f"there is no field {name[:60]!r}", hint=nearest(name, known), param=param, code="unknown_parameter"
    )  # fmt: skip


@cache
def _inner(fields: type[Common]) -> frozenset[str]:
    """The names of all fields below the first."""
    defined = fields.model_json_schema().get("$defs", {}).values()
    return frozenset(name for one in defined for name in one.get("properties", {}))


def _place(tree: Any, path: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """The steps of a path that stand in the tree, and its last one: kinds of a union are steps of Pydantic's own."""
    found: list[int | str] = []
    for at, step in enumerate(path):
        is_there = step in tree if isinstance(tree, dict) else isinstance(step, int) and isinstance(tree, list)
        if is_there:
            tree = tree[step]
            found.append(step)
        elif at == len(path) - 1 and isinstance(tree, dict):
            found.append(step)
    return tuple(found)


def _drop(tree: Any, place: tuple[int | str, ...]) -> bool:
    """Take out what stands at a place, unless it is gone already."""
    for step in place[:-1]:
        tree = tree[step]
    return tree.pop(place[-1], None) is not None


def _wrong(tree: Any, errors: list[Any]) -> Refusal:
    """Where one of several kinds would do, what is wrong lies in the kind that fits furthest."""
    error = max(errors, key=lambda one: (len(_place(tree, one["loc"])), not one["type"].endswith("_type")))
    path = ".".join(map(str, _place(tree, error["loc"])))
    given = repr(error["input"])
    what = f"{path} is {given[:60]}{'…' if len(given) > 60 else ''}"
    what = f"{path} is missing" if error["type"] == "missing" else what
    return Refusal(400, what, hint=error["msg"], param=path, code="invalid_value")
