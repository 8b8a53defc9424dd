"""`jeito ask`: one question, one reply."""

from typing import TYPE_CHECKING, Annotated

import typer

from jeito.cli import options, show
from jeito.errors import FAILED, OK

if TYPE_CHECKING:
    from jeito.engines.base import Loading


@options.loads_model
def ask(
    prompt: options.Prompt,
    behaviour: options.Behaviour = "plain",
    model: options.Model = "demo",
    sets: options.Set = [],  # noqa: B006 - Typer copies it
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

    loaded = load(behaviour, [*sets, *(["exact=true"] if exact else [])])
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
    )
    for token in reply:
        if not json:
            print(token.text, end="", flush=True)
    if json:
        show.emit(reply.trace)
    else:
        print()
    show.ending(reply.trace, reply.losses)
    if receipt:
        show.receipt(reply.trace.receipt, f"receipt of {reply.trace.id}", errors=True)
    return FAILED if reply.trace.finish in ("memory", "error") else OK
