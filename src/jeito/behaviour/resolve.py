"""What a behaviour comes to on one model: each effective value with its source. Knows nothing of engines.

Lowest to highest: neutral < the model's own files < the behaviour, parents first < what was typed.
"""

import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import JsonValue, ValidationError

from jeito.behaviour.behaviour import Behaviour, Guard, Reasoning, is_neutral
from jeito.behaviour.load import Loaded
from jeito.errors import InputError, ModelError, UnsupportedError
from jeito.types import Message, Request, Sampling, Sourced, Thinking, Value

_ALWAYS = ("system", "placement", "language", "guard.overflow")
_ALONE = ("examples", "output", "tools", "adapter", "steering", "dialect")
_MAPS = ("limits", "reasoning", "guard")
_SEED_BITS = 31
"""A drawn seed fits the narrowest that a server takes: a signed 32-bit number."""


class Resolved(NamedTuple):
    """A behaviour on one model. `behaviour` and `sampling` are without what is listed as unsupported."""

    sampling: Sampling
    values: dict[str, Sourced]
    unsupported: tuple[str, ...]
    behaviour: Behaviour


def resolve(
    loaded: Loaded,
    *,
    defaults: Mapping[str, Sourced],
    abilities: frozenset[str],
    seed: int | None = None,
    context: int | None = None,
    allow_unsupported: bool = False,
) -> Resolved:
    """Decide every value before anything is asked of a model.

    `defaults`: sampling knobs that the model's files give. `context`: tokens that fit, none when not known. A seed
    that nobody gave is drawn. Raises UnsupportedError for all that the model lacks, unless `allow_unsupported`.
    """
    behaviour = loaded.behaviour
    sources = {knob: sourced for knob, sourced in defaults.items() if knob not in _set(behaviour.sampling)}
    chosen = _checked(sources) | {knob: getattr(behaviour.sampling, knob) for knob in _set(behaviour.sampling)}
    if seed is not None:
        if not 0 <= seed < 2**64:
            raise InputError(f"a seed is a number from 0 to 2^64 - 1, not {seed}", hint="--seed 0")
        chosen["seed"], sources["seed"] = seed, Sourced(value=seed, source=loaded.typed_by)
    needs = behaviour.needs() | {knob for knob, value in chosen.items() if not is_neutral(knob, value)}
    lacking = needs - abilities
    unsupported = _unsupported(behaviour, chosen, lacking, context, allow_unsupported)
    if chosen.get("seed") is None:
        chosen["seed"] = secrets.randbits(_SEED_BITS)
        sources["seed"] = Sourced(value=chosen["seed"], source="drawn")
        if "seed" not in abilities:
            unsupported = (*unsupported, "this model takes no seed: the same seed need not give the same reply")
    for knob in lacking & chosen.keys() - {"seed"}:
        del chosen[knob]
        sources[knob] = Sourced(value=None, source="neutral")
    effective = _without(behaviour, lacking)
    sampling = Sampling(**chosen)
    values = dict(_sampling_values(loaded, sampling, sources)) | dict(_other_values(loaded, effective))
    return Resolved(sampling, values, unsupported, effective)


def request(
    resolved: Resolved,
    ask: str | Sequence[Message],
    history: Sequence[Message] = (),
    logprobs: int | None = None,
    tools: Sequence[dict[str, JsonValue]] = (),
    raw: bool = False,
) -> Request:
    """The whole conversation that a model is asked to go on with. Raises InputError for an empty prompt.

    `raw`: `ask` is the prompt itself, which may be empty; raises UnsupportedError where a behaviour says more.
    """
    asked = [_user(ask)] if isinstance(ask, str) else list(ask)
    if not asked or (asked[-1].role == "user" and not asked[-1].content.strip() and not raw):
        raise InputError("the prompt is empty", hint='say what you ask, such as jeito ask "Who are you?"')
    if logprobs is not None and not 0 <= logprobs <= 100:
        raise InputError(f"logprobs is a number from 0 to 100, not {logprobs}", hint="0 reports the drawn token alone")
    behaviour = resolved.behaviour
    if raw and (said := beyond_raw(behaviour)):
        raise UnsupportedError(
            f"a raw prompt has no place for {', '.join(said)} of {behaviour.name!r}", hint="ask it in a conversation"
        )
    examples = [
        turn
        for example in behaviour.examples
        for turn in (_user(example.user), Message(role="assistant", content=example.assistant))
    ]
    return Request(
        messages=(*examples, *history, *asked),
        system=behaviour.system,
        placement=behaviour.placement,
        raw=raw,
        sampling=resolved.sampling,
        output=behaviour.output if behaviour.output and behaviour.output.kinds() else None,
        tools=tuple(tools),
        tool_choice=behaviour.tool_choice,
        parallel_calls=behaviour.parallel_calls,
        dialect=behaviour.dialect,
        adapter=behaviour.adapter,
        steering=behaviour.steering,
        reasoning=Thinking(budget=behaviour.reasoning.budget),
        repetition=behaviour.guard.repetition,
        refuse_empty=behaviour.guard.empty == "refuse",
        logprobs=logprobs,
        drop_oldest=behaviour.guard.overflow == "drop_oldest",
    )


def beyond_raw(behaviour: Behaviour) -> dict[str, Any]:
    """What of a behaviour a raw prompt has no place for, each with the value that says nothing."""
    plain = Behaviour()
    return {
        key: getattr(plain, key)
        for key in ("system", "examples", "tools", "reasoning")
        if getattr(behaviour, key) != getattr(plain, key)
    }


def _user(text: str) -> Message:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        # A terminal hands over bytes that are not UTF-8 as half characters, which no tokenizer takes.
        raise InputError(f"this is not text: {text[:40]!r}", hint="give it as UTF-8") from error
    return Message(role="user", content=text)


def _set(value: Value) -> set[str]:
    return value.model_fields_set


def _checked(defaults: Mapping[str, Sourced]) -> dict[str, Any]:
    """Each default checked by itself, so that the file it stands in can be named."""
    checked: dict[str, Any] = {}
    for knob, sourced in defaults.items():
        try:
            sampling = Sampling.model_validate_json(json.dumps({knob: sourced.value}))
        except ValidationError as error:
            why = f"{knob} = {sourced.value!r}: {error.errors()[0]['msg']}"
            hint = f"set it yourself: --set {knob}=…"
            raise ModelError(f"{sourced.file or 'the model'} gives {why}", hint=hint) from error
        checked[knob] = getattr(sampling, knob)
    return checked


def _unsupported(
    behaviour: Behaviour, chosen: Mapping[str, Any], lacking: frozenset[str], context: int | None, allowed: bool
) -> tuple[str, ...]:
    """A sentence for each thing that this model cannot honour; raises unless that is allowed."""
    # A plain number is said with its name; a map or a list would drown the sentence.
    plain = {need for need in lacking if isinstance(chosen.get(need), int | float)}
    named = [f"{need}={chosen[need]}" if need in plain else need for need in sorted(lacking)]
    wanted = behaviour.requires.context
    short = context is not None and wanted is not None and wanted > context
    sentences = [f"this model cannot honour {name}" for name in named]
    if short:
        sentences.append(f"this behaviour requires a context of {wanted} tokens, and this model has {context}")
    if sentences and not allowed:
        together = [f"this model cannot honour {', '.join(named)}"] if named else []
        raise UnsupportedError(
            "; ".join(together + sentences[len(named) :]),
            hint="--allow-unsupported goes on without and says so in the receipt",
        )
    return tuple(sentences)


def _without(behaviour: Behaviour, lacking: frozenset[str]) -> Behaviour:
    """The behaviour less what the model lacks."""
    kept = {knob: getattr(behaviour.sampling, knob) for knob in _set(behaviour.sampling) - (lacking - {"seed"})}
    changes: dict[str, Any] = {"sampling": Sampling(**kept)} if kept.keys() != _set(behaviour.sampling) else {}
    for need, key, nothing in (
        ("contract", "output", None),
        ("tools", "tools", ()),
        ("tools", "tool_choice", "auto"),
        ("tools", "parallel_calls", True),
        ("tool_choice", "tool_choice", "auto"),
        ("parallel_calls", "parallel_calls", True),
        ("dialect", "dialect", "auto"),
        ("adapters", "adapter", ()),
        ("steering", "steering", ()),
    ):
        if need in lacking:
            changes[key] = nothing
    if {"reasoning.budget", "reasoning.show"} & lacking:
        reasoning = behaviour.reasoning
        changes["reasoning"] = Reasoning(
            budget=None if "reasoning.budget" in lacking else reasoning.budget,
            show=reasoning.show and "reasoning.show" not in lacking,
        )
    if {"guard.repetition", "guard.empty", "repair", "overflow"} & lacking:
        guard = behaviour.guard
        changes["guard"] = Guard(
            repetition=None if "guard.repetition" in lacking else guard.repetition,
            empty="allow" if "guard.empty" in lacking else guard.empty,
            repair=0 if "repair" in lacking else guard.repair,
            overflow="error" if "overflow" in lacking else guard.overflow,
        )
    return behaviour.model_copy(update=changes) if changes else behaviour


def _sampling_values(
    loaded: Loaded, sampling: Sampling, sources: Mapping[str, Sourced]
) -> Iterator[tuple[str, Sourced]]:
    said = sampling.model_dump(mode="json")
    for knob in Sampling.model_fields:
        value = said[knob]
        if knob in sources:
            yield knob, sources[knob].model_copy(update={"value": value})
        elif isinstance(getattr(sampling, knob), Value):
            for part in value:
                yield f"{knob}.{part}", _source(loaded, f"sampling.{knob}.{part}", value[part])
        else:
            yield knob, _source(loaded, f"sampling.{knob}", value)


def _other_values(loaded: Loaded, effective: Behaviour) -> Iterator[tuple[str, Sourced]]:
    """Everything but sampling that acts: what is set, what is not neutral, and what a reader always asks for."""
    said, neutral = effective.model_dump(mode="json"), Behaviour().model_dump(mode="json")
    leaves = {key: (said[key], neutral[key]) for key in ("system", "placement", "language", *_ALONE)}
    for key in _MAPS:
        leaves |= {f"{key}.{part}": (said[key][part], neutral[key][part]) for part in said[key]}
    acting = set(_ALWAYS)
    if effective.tools:
        leaves |= {key: (said[key], neutral[key]) for key in ("tool_choice", "parallel_calls")}
        acting |= {"tool_choice", "limits.turns", "limits.calls"}
    for path, (value, default) in leaves.items():
        lost = value == default and _at(loaded.behaviour, path) != _at(effective, path)
        sourced = Sourced(value=value, source="neutral") if lost else _source(loaded, path, value)
        if path in acting or value != default or sourced.source != "neutral":
            yield path, sourced


def _source(loaded: Loaded, path: str, value: JsonValue) -> Sourced:
    if any(flag == path or flag.startswith(f"{path}.") for flag in loaded.flags):
        return Sourced(value=value, source=loaded.typed_by)
    if place := loaded.places.get(path):
        return Sourced(value=value, source="behaviour", file=place.file, line=place.line)
    above, _, leaf = path.rpartition(".")
    holder = _at(loaded.behaviour, above) if above else loaded.behaviour
    is_set = isinstance(holder, Value) and leaf in _set(holder)
    return Sourced(value=value, source="behaviour" if is_set else "neutral")


def _at(behaviour: Behaviour, path: str) -> Any:
    found: Any = behaviour
    for step in path.split("."):
        found = getattr(found, step)
    return found
