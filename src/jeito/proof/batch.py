"""A plan's runs made elsewhere: its requests as a file of OpenAI's batch API, and that API's results as its runs.

Any server that reads such files will do; what it did with a knob cannot be seen from here, and each receipt says so.
"""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import JsonValue

from jeito.behaviour.behaviour import Behaviour
from jeito.behaviour.export import export
from jeito.behaviour.load import Loaded
from jeito.behaviour.resolve import Resolved, request, resolve
from jeito.errors import InputError
from jeito.proof.plan import Planned, find, write
from jeito.run.run import canonical
from jeito.trace import plans
from jeito.trace.log import Log, new_id
from jeito.trace.rows import Record
from jeito.types import Exact, Finish, Receipt, ToolCall, Trace, Usage

SEED_BITS = 31
"""Of a seed, so many are sent: the narrowest that a server takes is a signed 32-bit number."""
TOGETHER = 500
"""Results that are written to the log at once."""
SHOWN = 16
"""Letters of the plan's digest in a request's name."""
_FINISH: dict[str | None, Finish] = {
    "stop": "stop", "length": "length", "tool_calls": "tool_calls", "function_call": "tool_calls"
}  # fmt: skip


class Taken(NamedTuple):
    """What came back: `new` results were read, `known` were there, `missing` of the plan's runs have none yet."""

    planned: Planned
    new: int
    known: int
    missing: int


def write_batch(log: Log, planned: Planned, file: Path) -> tuple[str, ...]:
    """Write a plan down, and its requests to a file, in plan order; what of the behaviour such a request cannot say.

    A request is called by its plan and its place there. Raises InputError where a run takes more than one request.
    """
    behaviour = planned.behaviour
    if behaviour.tools:
        raise InputError(
            f"{planned.plan.behaviour!r} has tools, whose calls would be made here",
            hint="a batch file is one request a run: --set tools=[]",
        )
    write(log, planned)
    notes: dict[str, None] = {}
    try:
        with file.open("w", encoding="utf-8") as lines:
            for place in planned.order():
                body, said = _body(planned, place)
                notes |= dict.fromkeys(said)
                line = {"custom_id": f"{planned.plan.digest[:SHOWN]}-{place}", "method": "POST",
                        "url": "/v1/chat/completions", "body": body}  # fmt: skip
                lines.write(json.dumps(line, ensure_ascii=False) + "\n")
    except OSError as error:
        raise InputError(f"{str(file)!r} cannot be written: {error.strerror}", hint="--batch-out FILE.jsonl") from error
    return tuple(notes)


def _body(planned: Planned, place: int) -> tuple[dict[str, Any], tuple[str, ...]]:
    case, behaviour = planned.case_of(place), _seeded(planned, place)
    made = export(behaviour, "openai", model=planned.plan.model, ask=case.ask)
    own = f"sampling.seed = {behaviour.sampling.seed}:"
    notes = tuple(note.replace(own, "sampling.seed, each run's own:") for note in made.notes)
    return json.loads(made.text) | ({"tools": list(case.tools)} if case.tools else {}), notes


def _seeded(planned: Planned, place: int) -> Behaviour:
    """The behaviour with the seed of one run, as far as it is sent."""
    own = planned.behaviour.sampling
    kept = {knob: getattr(own, knob) for knob in own.model_fields_set - {"exact"}}
    seed = planned.seed_of(place) % 2**SEED_BITS
    return planned.behaviour.model_copy(update={"sampling": type(own)(**{**kept, "seed": seed})})


def read_batch(log: Log, file: Path) -> Taken:
    """Take results as the runs of the plan that they name. A result that failed is a run that failed.

    What the log holds already is left, so a file can be read again. Raises InputError, with the line, for what is no
    result of a plan here; the lines before it are taken.
    """
    planned: Planned | None = None
    held: set[int] = set()
    waiting: dict[int, Record] = {}
    new = known = 0

    def flush() -> None:
        assert planned is not None
        log.add(list(waiting.values()))
        plans.take_places(log, planned.plan.digest, {place: one.trace.id for place, one in waiting.items()})
        waiting.clear()

    for where, line in _lines(file):
        digest, place, result = _result(line, where)
        if planned is None:
            planned = find(log, digest)
            if planned is None:
                raise InputError(f"{where}: no plan {digest} is kept", hint="jeito prove … --batch-out writes one")
            held = plans.places_held(log, planned.plan.digest)
        if not planned.plan.digest.startswith(digest) or not 0 <= place < planned.plan.runs:
            raise InputError(f"{where}: not a run of plan {planned.plan.digest[:SHOWN]}", hint="one plan a file")
        if place in held:
            known += 1
            continue
        try:
            waiting[place] = _record(planned, place, result)
        except (LookupError, TypeError, AttributeError, ValueError) as error:
            flush()
            raise InputError(f"{where} is no chat completion: {error!r:.200}", hint="one result a line") from error
        held.add(place)
        new += 1
        if len(waiting) == TOGETHER:
            flush()
    if planned is None:
        raise InputError(f"{str(file)!r} holds no result", hint="the output file of a batch")
    flush()
    return Taken(planned, new, known, planned.plan.runs - len(held))


def _lines(file: Path) -> Iterator[tuple[str, bytes]]:
    try:
        with file.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield f"{file}:{number}", line
    except OSError as error:
        raise InputError(f"{str(file)!r} cannot be read: {error.strerror}", hint="--batch-in FILE.jsonl") from error


def _result(line: bytes, where: str) -> tuple[str, int, dict[str, Any]]:
    try:
        result = json.loads(line)
        digest, _, place = result["custom_id"].rpartition("-")
        return digest, int(place), result
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(
            f"{where}: a result has a custom_id that names a plan and a place", hint="the output file of a batch"
        ) from error


def _resolved(planned: Planned, place: int) -> Resolved:
    """The behaviour with all that it asks: what the other side honoured of it is not known here."""
    loaded = Loaded(_seeded(planned, place))
    return resolve(loaded, defaults={}, abilities=loaded.behaviour.needs() | {"seed"})


def _record(planned: Planned, place: int, result: dict[str, Any]) -> Record:
    resolved, case, plan = _resolved(planned, place), planned.case_of(place), planned.plan
    response = result.get("response") or {}
    body = response.get("body") or {}
    error, message = _failure(result, response), {}
    finish: Finish = "error"
    if error is None:
        choice = body["choices"][0]
        message, finish = choice["message"], _FINISH.get(choice["finish_reason"], "error")
        error = f"it ended with {choice['finish_reason']}" if finish == "error" else None
    usage = body.get("usage") or {}
    seed = resolved.sampling.seed
    assert seed is not None, "each run has a seed of its own"
    trace = Trace(
        id=new_id(),
        time=datetime.now(UTC).isoformat(timespec="milliseconds"),
        behaviour=plan.behaviour,
        behaviour_fingerprint=plan.behaviour_fingerprint,
        model=plan.model,
        model_fingerprint=None,
        seed=seed,
        case=case.name,
        request=request(resolved, case.ask, tools=case.tools),
        answer=message.get("content") or "",
        reasoning=message.get("reasoning_content") or message.get("reasoning") or "",
        calls=tuple(map(_call, message.get("tool_calls") or ())),
        finish=finish,
        usage=Usage(prompt=usage.get("prompt_tokens") or 0, generated=usage.get("completion_tokens") or 0),
        receipt=Receipt(
            values=resolved.values,
            exact=Exact(why="it ran elsewhere"),
            notes=("what the server honoured of these values is not known here",),
        ),
        environment={"engine": "batch", "model": str(body.get("model") or plan.model)},
        error=error,
    )
    return Record(trace=trace, behaviour=canonical(resolved))


def _failure(result: dict[str, Any], response: dict[str, Any]) -> str | None:
    if result.get("error"):
        return f"the batch says: {result['error']}"
    status = response.get("status_code")
    return None if status == 200 else f"the server answered {status}: {str(response.get('body'))[:200]}"


def _call(call: dict[str, Any]) -> ToolCall:
    made: dict[str, JsonValue] = json.loads(call["function"]["arguments"] or "{}")
    return ToolCall(id=str(call.get("id") or new_id()), name=call["function"]["name"], arguments=made)
