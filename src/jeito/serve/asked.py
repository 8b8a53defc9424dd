"""From a request's body to runs that have not begun: the behaviour, the request's values on top, its seeds."""

from collections.abc import Generator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from jeito.behaviour.behaviour import Behaviour
from jeito.behaviour.resolve import beyond_raw, request, resolve
from jeito.decode.noise import derive
from jeito.run.open import Opened
from jeito.run.run import Run
from jeito.serve.catalogue import Catalogue, Served, changed
from jeito.serve.chat import EFFORTS, Asking, Body, Chat, Choice
from jeito.serve.refusal import Refusal
from jeito.serve.term import Term
from jeito.trace.log import Log
from jeito.types import End, Event, Message, Output, Request, Sourced, Trace

REPAIR = "guard.repair: what was streamed cannot be taken back, so nothing is repaired"
RAW_REPAIR = "guard.repair: a raw prompt has no turns, so nothing is repaired"
NO_PLACE = "a raw prompt has no place for it, it was left out"


class Leavable:
    """A model whose replies end soon after their term is over, in the middle of a long prompt too."""

    def __init__(self, model: Opened, term: Term) -> None:
        self._model, self._term = model, term
        self.name, self.abilities, self.fingerprint = model.name, model.abilities, model.fingerprint
        self.environment, self.close = model.environment, model.close

    @property
    def defaults(self) -> Mapping[str, Sourced]:
        return self._model.defaults

    @property
    def context(self) -> int | None:
        return self._model.context

    def stream(self, request: Request) -> Generator[Event]:
        with closing(self._model.stream(request, self._term.is_over)) as events:
            for event in events:
                if isinstance(event, End) and event.finish == "cancelled" and self._term.is_late:
                    event = event.model_copy(update={"finish": "limit", "why": self._term.why})
                yield event


@dataclass(slots=True)
class Asked:
    """A request, understood: `body` as it was sent, `chat` its values, `term` how long it has."""

    body: Body
    chat: Chat
    served: Served
    runs: list[Run]
    term: Term = field(default_factory=Term)


def understand(
    body: Body, unknown: list[str], catalogue: Catalogue, *, log: Log | None, lenient: bool, term: Term | None = None,
) -> Asked:  # fmt: skip
    """Decide every value, and refuse what cannot be: raises Refusal, InputError, UnsupportedError."""
    served = catalogue.find(body.model, body.jeito.behaviour)

    def find(id: str) -> Trace | None:
        found = catalogue.kept(log, id)
        return found[1] if found else None

    asking, model, term = body.asking(find), served.model, term or Term()
    term.limit(body.jeito.deadline)
    chat, is_raw = asking.chat, bool(asking.prompts)
    system, messages = chat.messages_of()
    behaviour, notes = _held(served.loaded.behaviour, asking, lenient=lenient)
    values, flags = _changes(behaviour, asking, model.abilities)
    if system:
        values["system"] = "\n\n".join(filter(None, (behaviour.system, system)))
        flags.append("system")
    sampling = chat.knobs()
    flags += [f"sampling.{knob}" for knob in sampling]
    loaded = changed(served.loaded._replace(behaviour=behaviour), values, sampling, flags)
    notes = [*served.lacking, *_answered(body, unknown), *asking.notes, *notes]
    logprobs = (chat.top_logprobs or 0) if chat.logprobs else None
    tools = [tool.schema_of() for tool in chat.tools]
    runs: list[Run] = []
    seed = chat.seed
    for prompt in [[_raw(model, prompt)] for prompt in asking.prompts] or [[*asking.before, *messages]]:
        for number in range(chat.n):
            resolved = resolve(
                loaded, defaults=model.defaults, abilities=model.abilities, context=model.context,
                seed=derive(seed, number) if seed is not None else None, allow_unsupported=lenient,
            )  # fmt: skip
            if seed is None:
                seed = resolved.sampling.seed
            resolved = resolved._replace(unsupported=(*resolved.unsupported, *notes))
            wanted = request(resolved, prompt, logprobs=logprobs, tools=tools, raw=is_raw)
            kept = None if chat.store is False else log
            runs.append(Run(Leavable(model, term), resolved, wanted, name=served.label, case="", log=kept))
    return Asked(body, chat, served, runs, term)


def _answered(body: Body, unknown: list[str]) -> list[str]:
    """What a receipt says of fields that do nothing."""
    unused = [f"{name}: accepted, and nothing here depends on it" for name in body.unused()]
    return unused + [f"{name}: there is no such field, it was left out" for name in unknown]


def _raw(model: Opened, prompt: str | tuple[int, ...]) -> Message:
    return Message(role="user", content=prompt if isinstance(prompt, str) else model.written(prompt))


def _held(behaviour: Behaviour, asking: Asking, *, lenient: bool) -> tuple[Behaviour, list[str]]:
    """The behaviour less what this kind of request cannot hold, and what the receipt says of that."""
    gone: dict[str, Any] = {}
    notes: list[str] = []
    if behaviour.guard.repair and (asking.chat.stream or asking.prompts):
        gone["guard"] = behaviour.guard.model_copy(update={"repair": 0})
        notes.append(RAW_REPAIR if asking.prompts else REPAIR)
    if asking.prompts and lenient:
        beyond = beyond_raw(behaviour)
        gone |= beyond
        notes += [f"{name}: {NO_PLACE}" for name in beyond]
    return behaviour.model_copy(update=gone), notes


def _changes(behaviour: Behaviour, asking: Asking, abilities: frozenset[str]) -> tuple[dict[str, Any], list[str]]:
    """What else of a behaviour the request decides, and the paths of these values."""
    chat = asking.chat
    found: dict[str, Any] = {}
    if chat.response_format is not None or chat.structured_outputs is not None:
        found["output"] = _output(chat)
    if chat.parallel_tool_calls is not None:
        found["parallel_calls"] = chat.parallel_tool_calls
    if chat.tool_choice is not None:
        found["tool_choice"] = _choice(chat)
    tools = [tool.function.name for tool in chat.tools]
    if twice := next((name for name in tools if tools.count(name) > 1), None):
        raise Refusal(400, f"two tools are called {twice!r}", param="tools")
    if chat.top_logprobs is not None and not chat.logprobs:
        raise Refusal(400, "top_logprobs goes with logprobs: true", param="top_logprobs")
    flags = list(found)
    # A model that never reasons keeps to "none" as it is.
    if chat.reasoning_effort and not (chat.reasoning_effort == "none" and "reasoning.budget" not in abilities):
        found["reasoning"] = behaviour.reasoning.model_copy(update={"budget": EFFORTS[chat.reasoning_effort]})
        flags.append("reasoning.budget")
    _own_changes(behaviour, asking, found, flags)
    return found, flags


def _own_changes(behaviour: Behaviour, asking: Asking, found: dict[str, Any], flags: list[str]) -> None:
    """What only jeito's own clients can say, added to what else was found."""
    own, drops = asking.chat.jeito, asking.chat.jeito.drop_oldest or asking.drops_oldest
    plain = {"placement": own.placement, "dialect": own.dialect}
    found |= {key: value for key, value in plain.items() if value is not None}
    flags += [key for key, value in plain.items() if value is not None]
    if own.budget is not None:
        found["reasoning"] = behaviour.reasoning.model_copy(update={"budget": own.budget})
        flags.append("reasoning.budget")
    guard: dict[str, Any] = {"repetition": own.repetition} if own.repetition is not None else {}
    guard |= {} if own.refuse_empty is None else {"empty": "refuse" if own.refuse_empty else "allow"}
    guard |= {"overflow": "drop_oldest" if drops else "error"} if drops or own.drop_oldest is not None else {}
    if guard:
        found["guard"] = behaviour.guard.model_copy(update=guard)
        flags += [f"guard.{key}" for key in guard]


def _choice(chat: Chat) -> str:
    choice = chat.tool_choice.function.name if isinstance(chat.tool_choice, Choice) else chat.tool_choice
    assert choice is not None
    if not chat.tools and choice not in ("auto", "none"):
        raise Refusal(400, f"tool_choice is {choice!r}, but there are no tools", param="tool_choice")
    return choice


def _output(chat: Chat) -> Output | None:
    form, own = chat.response_format, chat.structured_outputs
    if own is not None:
        if form is not None and form.type != "text":
            raise Refusal(400, "response_format and structured_outputs are two contracts", hint="send one of them")
        return own.output()
    if form is None or form.type == "text":
        return None
    if form.type == "json_object":
        return Output(json_schema={"type": "object"})
    if form.json_schema is None:
        raise Refusal(400, "response_format has no json_schema", param="response_format.json_schema")
    return Output(json_schema=form.json_schema.json_schema)
