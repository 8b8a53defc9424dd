"""From a request's body to runs that have not begun: the behaviour, the request's values on top, its seeds."""

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from threading import Event as Flag
from typing import Any

from jeito.behaviour.resolve import request, resolve
from jeito.decode.local import LocalModel
from jeito.decode.noise import derive
from jeito.run.run import Run
from jeito.serve.catalogue import Catalogue, Served, changed
from jeito.serve.fields import EFFORTS, Chat, Choice
from jeito.serve.refusal import Refusal
from jeito.trace.log import Log
from jeito.types import Event, Output, Request, Sampling, Sourced

REPAIR = "guard.repair: what was streamed cannot be taken back, so nothing is repaired"


class Leavable:
    """A model whose replies end soon after a flag is raised, in the middle of a long prompt too."""

    def __init__(self, model: LocalModel, left: Flag) -> None:
        self._model, self._left = model, left
        self.name, self.abilities, self.fingerprint = model.name, model.abilities, model.fingerprint
        self.environment, self.close = model.environment, model.close

    @property
    def defaults(self) -> Mapping[str, Sourced]:
        return self._model.defaults

    @property
    def context(self) -> int | None:
        return self._model.context

    def stream(self, request: Request) -> Generator[Event]:
        return self._model.stream(request, self._left.is_set)


@dataclass(slots=True)
class Asked:
    """A request, understood. `left` is raised when its client has gone."""

    chat: Chat
    served: Served
    runs: list[Run]
    left: Flag = field(default_factory=Flag)


def understand(
    chat: Chat, unknown: list[str], catalogue: Catalogue, *, log: Log | None, lenient: bool
) -> Asked:  # fmt: skip
    """Decide every value, and refuse what cannot be: raises Refusal, InputError, UnsupportedError."""
    served = catalogue.find(chat.model, chat.jeito.behaviour)
    system, messages = chat.messages_of()
    behaviour, values, sampling = served.loaded.behaviour, _changes(chat), _sampling(chat)
    if system:
        values["system"] = "\n\n".join(filter(None, (behaviour.system, system)))
    flags = [*values, *(f"sampling.{knob}" for knob in sampling)]
    if chat.reasoning_effort is not None:
        budget = EFFORTS[chat.reasoning_effort]
        values["reasoning"] = behaviour.reasoning.model_copy(update={"budget": budget})
        flags.append("reasoning.budget")
    notes = [*served.lacking, *(f"{name}: accepted, and nothing here depends on it" for name in chat.unused())]
    notes += [f"{name}: there is no such field, it was left out" for name in unknown]
    if chat.stream and behaviour.guard.repair:
        values["guard"] = behaviour.guard.model_copy(update={"repair": 0})
        notes.append(REPAIR)
    loaded = changed(served.loaded, values, sampling, flags)
    left, model, seed = Flag(), served.model, chat.seed
    runs: list[Run] = []
    for number in range(chat.n):
        resolved = resolve(
            loaded, defaults=model.defaults, abilities=model.abilities, context=model.context,
            seed=derive(seed, number) if seed is not None else None, allow_unsupported=lenient,
        )  # fmt: skip
        if seed is None:
            seed = resolved.sampling.seed
        resolved = resolved._replace(unsupported=(*resolved.unsupported, *notes))
        logprobs = (chat.top_logprobs or 0) if chat.logprobs else None
        wanted = request(resolved, messages, logprobs=logprobs, tools=[tool.schema_of() for tool in chat.tools])
        runs.append(Run(Leavable(model, left), resolved, wanted, name=served.label, case="", log=log))
    return Asked(chat, served, runs, left)


def _sampling(chat: Chat) -> dict[str, Any]:
    """The sampling knobs that the request has; the seed goes its own way."""
    sent = chat.model_fields_set & set(Sampling.model_fields) - {"seed", "exact"}
    found = {knob: getattr(chat, knob) for knob in sent}
    for name, knob in (
        ("max_tokens", "max_new_tokens"), ("max_completion_tokens", "max_new_tokens"), ("min_tokens", "min_new_tokens")
    ):  # fmt: skip
        given = getattr(chat, name)
        if given is not None and found.setdefault(knob, given) != given:
            raise Refusal(400, f"{name} is {given}, and {knob} {found[knob]}", hint="send one of them", param=name)
    return found | ({"exact": True} if chat.jeito.exact else {})


def _changes(chat: Chat) -> dict[str, Any]:
    """What else of a behaviour the request decides."""
    found: dict[str, Any] = {}
    if chat.response_format is not None:
        found["output"] = _output(chat)
    found |= {} if chat.parallel_tool_calls is None else {"parallel_calls": chat.parallel_tool_calls}
    if chat.tool_choice is not None:
        choice = chat.tool_choice.function.name if isinstance(chat.tool_choice, Choice) else chat.tool_choice
        if not chat.tools and choice not in ("auto", "none"):
            raise Refusal(400, f"tool_choice is {choice!r}, but there are no tools", param="tool_choice")
        found["tool_choice"] = choice
    tools = [tool.function.name for tool in chat.tools]
    if twice := next((name for name in tools if tools.count(name) > 1), None):
        raise Refusal(400, f"two tools are called {twice!r}", param="tools")
    if chat.top_logprobs is not None and not chat.logprobs:
        raise Refusal(400, "top_logprobs goes with logprobs: true", param="top_logprobs")
    return found


def _output(chat: Chat) -> Output | None:
    form = chat.response_format
    assert form is not None
    if form.type == "text":
        return None
    if form.type == "json_object":
        return Output(json_schema={"type": "object"})
    if form.json_schema is None:
        raise Refusal(400, "response_format has no json_schema", param="response_format.json_schema")
    return Output(json_schema=form.json_schema.json_schema)
