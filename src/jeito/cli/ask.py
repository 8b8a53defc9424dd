"""`jeito ask`: one question, one reply."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jeito.cli import options, show
from jeito.errors import FAILED, OK, InputError

if TYPE_CHECKING:
    from jeito.behaviour.load import Loaded
    from jeito.engines.base import Loading

LARGEST = 1_000_000
"""Bytes of a schema's file."""


@options.loads_model
def ask(
    prompt: options.Prompt,
    behaviour: options.Behaviour = "plain",
    model: options.Model = "demo",
    sets: options.Set = [],  # noqa: B006 - Typer copies it
    schema: options.Schema = None,
    tools: options.Tools = [],  # noqa: B006
    seed: options.Seed = None,
    exact: Annotated[bool, typer.Option("--exact", help="A reply that does not depend on what else runs.")] = False,
    logprobs: options.Logprobs = None,
    json: options.Json = False,
    receipt: Annotated[bool, typer.Option("--receipt", help="Say where every value came from.")] = False,
    allow_unsupported: options.AllowUnsupported = False,
    engine: options.Engine = None,
    precision: options.Precision = None,
    no_log: options.NoLog = False,
    *,
    loading: "Loading",
) -> int:
    """Ask one question; the answer streams to standard output."""
    from jeito.behaviour.load import load
    from jeito.run.open import open_model
    from jeito.run.run import run
    from jeito.trace.log import Log

    loaded = load(behaviour, [*options.tools_set(tools), *sets, *(["exact=true"] if exact else [])])
    if schema is not None:
        loaded = _held_to(loaded, schema)
    text = show.prompt_of(prompt)
    opened = open_model(model, engine=engine, precision=precision, loading=loading, notify=show.say)
    reply = run(
        loaded,
        opened,
        text,
        seed=seed,
        logprobs=logprobs,
        allow_unsupported=allow_unsupported,
        log=None if no_log else Log(),
        label=behaviour,
        confirm=show.confirm,
        notice=show.step,
    )
    for token in reply:
        if not json:
            show.token(token, reasoning=loaded.behaviour.reasoning.show)
    if json:
        show.emit(reply.trace)
    else:
        print()
    show.ending(reply.trace, reply.losses)
    if receipt:
        show.receipt(reply.trace.receipt, f"receipt of {reply.trace.id}", errors=True)
    return FAILED if reply.trace.finish in ("memory", "error") else OK


def _held_to(loaded: "Loaded", file: str) -> "Loaded":
    """The behaviour with a schema in place of whatever its answers must be."""
    from pydantic import ValidationError
    from pydantic_core import from_json

    from jeito.types import Output

    try:
        if Path(file).stat().st_size > LARGEST:
            raise InputError(f"{file!r} has over {LARGEST:,} bytes", hint="a schema is a short file")
        output = Output(json_schema=from_json(Path(file).read_bytes()))
    except OSError as error:
        raise InputError(f"{file!r} cannot be read: {error.strerror}", hint="--schema takes a file") from error
    except ValueError as error:  # not JSON, or no map
        why = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise InputError(f"{file!r} holds no JSON schema: {why}", hint='write {"type": "object", …}') from error
    places = {path: place for path, place in loaded.places.items() if path.split(".")[0] != "output"}
    behaviour = loaded.behaviour.model_copy(update={"output": output})
    return loaded._replace(behaviour=behaviour, places=places, flags=loaded.flags | {"output"})
