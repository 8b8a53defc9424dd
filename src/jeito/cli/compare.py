"""`jeito compare`: several behaviours or models side by side on one question, in one batch."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from jeito.cli import options, show
from jeito.errors import FAILED, OK, InputError

if TYPE_CHECKING:
    from rich.columns import Columns

    from jeito.behaviour.load import Loaded
    from jeito.run.run import Run


def compare(
    prompt: options.Prompt,
    behaviours: options.Behaviours = ["plain"],  # noqa: B006 - Typer copies it
    models: options.Models = ["demo"],  # noqa: B006
    n: Annotated[int, typer.Option("-n", min=1, max=1000, help="Replies for each side.")] = 1,
    sets: options.Set = [],  # noqa: B006
    seed: options.Seed = None,
    exact: Annotated[
        bool | None,
        typer.Option("--exact/--no-exact", help="Replies that do not depend on what else runs; the default."),
    ] = None,
    json: options.Json = False,
    allow_unsupported: options.AllowUnsupported = False,
    context: options.Context = None,
    no_log: options.NoLog = False,
) -> int:
    """Ask several behaviours the same; reply i of each side has the same seed, so their noise is shared."""
    import secrets

    from jeito.decode.noise import derive
    from jeito.run.open import open_model
    from jeito.run.run import run
    from jeito.trace.log import Log

    loaded = [(name, _load(name, sets, exact)) for name in behaviours]
    if len(loaded) * len(models) * n < 2:
        raise InputError("one reply is no comparison", hint="a second -b or -m, or -n 8")
    text = show.prompt_of(prompt)
    first = seed if seed is not None else secrets.randbits(31)
    log = None if no_log else Log()
    opened = [open_model(model, context=context, notify=show.say) for model in models]
    runs = [
        run(
            behaviour,
            model,
            text,
            seed=derive(first, index),
            allow_unsupported=allow_unsupported,
            log=log,
            label=name,
        )
        for model in opened
        for name, behaviour in loaded
        for index in range(n)
    ]
    _watch(runs, silent=json)
    if json:
        show.emit({"pairs": [], "separation": None, "runs": [one.trace for one in runs]})
    for one in runs:
        for loss in one.losses:
            show.say(f"warning: {loss}")
    return FAILED if any(one.trace.finish in ("memory", "error") for one in runs) else OK


def _load(name: str, sets: list[str], exact: bool | None) -> "Loaded":
    """Exact unless the behaviour or the caller says otherwise."""
    from jeito.behaviour.load import load

    loaded = load(name, sets)
    if exact is None and "exact" in loaded.behaviour.sampling.model_fields_set:
        return loaded
    return load(name, [*sets, f"exact={str(exact is not False).lower()}"])


def _watch(runs: "Sequence[Run]", *, silent: bool) -> None:
    from jeito.run.run import together

    if silent or not show.console().is_terminal:
        for _ in together(runs):
            pass
        if not silent:
            for one in runs:
                _print(one)
        return
    from rich.live import Live

    texts = [""] * len(runs)
    with Live(console=show.console(), refresh_per_second=8, vertical_overflow="visible") as live:
        for index, token in together(runs):
            texts[index] += token.text
            live.update(_columns(runs, texts))
    for one in runs:
        if one.trace.finish not in ("stop", "length"):
            show.say(f"{one.trace.behaviour}, seed {one.trace.seed}:")
            show.ending(one.trace)


def _print(one: "Run") -> None:
    trace = one.trace
    print(f"== {trace.behaviour} on {trace.model}, seed {trace.seed} [{trace.finish}]")
    print(trace.answer, end="\n\n")
    if trace.error:
        show.say(f"error: {trace.error}")


def _columns(runs: "Sequence[Run]", texts: Sequence[str]) -> "Columns":
    from rich.columns import Columns
    from rich.panel import Panel
    from rich.text import Text

    panels = [
        Panel(
            Text(text),
            title=Text(f"{one.trace.behaviour} · {one.trace.seed}"),
            width=max(30, show.console().width // min(3, len(runs)) - 1),
        )
        for one, text in zip(runs, texts, strict=True)
    ]
    return Columns(panels)
