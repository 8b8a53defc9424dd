"""`jeito export`: a behaviour in another program's words, and what gets lost on the way."""

from pathlib import Path
from typing import Annotated

import typer

from jeito.cli import options, show


def export(
    behaviour: Annotated[str, typer.Argument(help="NAME or PATH.yaml, then +key=value as often as wanted.")],
    to: Annotated[str, typer.Option(help="ollama, vllm, llama-server, openai, transformers, compose or kubernetes.")],
    model: Annotated[
        str | None, typer.Option("--model", "-m", metavar="REF", help="What the target calls the model.")
    ] = None,
    sets: options.Set = [],  # noqa: B006 - Typer copies it
    json: options.Json = False,
) -> None:
    """Write a behaviour for another program; what that cannot express stands in comments, or on standard error."""
    from jeito.behaviour.export import export as write
    from jeito.behaviour.load import load
    from jeito.behaviour.targets import targets
    from jeito.run.open import read_card
    from jeito.run.tools import open_tools

    loaded = load(behaviour, sets)
    is_asked = to in targets() and targets()[to].has_request
    with open_tools(loaded.behaviour.tools if is_asked else ()) as box:
        tools = box.schemas()
    is_here = model is not None and Path(model).exists()
    defaults = {knob: one.value for knob, one in read_card(model).defaults.items()} if model and is_here else None
    made = write(loaded.behaviour, to, model=model, tools=tools, defaults=defaults)
    if json:
        show.emit({"behaviour": behaviour, "to": to, "model": model, "text": made.text, "notes": made.notes})
        return
    print(made.text, end="")
    if made.text.startswith("{"):
        show.say("\n".join(["notes:", *(f"- {note}" for note in made.notes)]))
