"""`jeito compare`: several behaviours or models side by side on one question, in one batch."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from jeito.cli import contrast, options, show
from jeito.errors import FAILED, OK, InputError

if TYPE_CHECKING:
    from rich.columns import Columns

    from jeito.behaviour.load import Loaded
    from jeito.decode.local import LocalModel
    from jeito.engines.base import Loading
    from jeito.proof.parity import Parity, Reading
    from jeito.run.run import Run


@options.loads_model
def compare(
    prompt: Annotated[
        str, typer.Argument(help="What is asked; - reads standard input; left out where there are --cases.")
    ] = "",
    behaviours: options.Behaviours = ["plain"],  # noqa: B006 - Typer copies it
    models: options.Models = ["demo"],  # noqa: B006
    adapters: options.Adapters = "",
    cases: Annotated[
        str, typer.Option("--cases", help="Compare over cases: a family that ships, or FILE.yaml, FILE.jsonl.")
    ] = "",
    n: Annotated[
        int | None,
        typer.Option(
            "-n",
            min=1,
            max=100_000,
            help="Replies for each side, 1; with --cases pairs in all, 32: one a case, several where cases are fewer.",
        ),
    ] = None,
    checks: options.Checks = [],  # noqa: B006
    at_least: Annotated[
        list[float],
        typer.Option(
            "--at-least", help="A claim: how much more often the later side passes; of every --check, or one for each."
        ),
    ] = [],  # noqa: B006
    unit: Annotated[
        Literal["case", "run"],
        typer.Option("--unit", help="case: differences on cases like these; run: on these very cases."),
    ] = "case",
    alpha: Annotated[
        float, typer.Option("--alpha", min=1e-6, max=0.4, help="How often an interval may miss, all together.")
    ] = 0.05,
    cause: Annotated[
        bool,
        typer.Option("--cause", help="Switch each line and knob alone: which makes the difference? One -b: to plain."),
    ] = False,
    report: options.Report = None,
    sets: options.Set = [],  # noqa: B006
    seed: options.Seed = None,
    exact: Annotated[
        bool | None,
        typer.Option("--exact/--no-exact", help="Replies that do not depend on what else runs; the default."),
    ] = None,
    json: options.Json = False,
    allow_unsupported: options.AllowUnsupported = False,
    no_log: options.NoLog = False,
    parity: Annotated[
        bool, typer.Option("--parity/--no-parity", help="Of several models: how far each is from the first.")
    ] = True,
    text: Annotated[
        Path | None, typer.Option("--text", help="A text to read for perplexity; a page of Alice if none is given.")
    ] = None,
    *,
    loading: "Loading",
) -> int:
    """Ask several behaviours the same; reply i of each side has the same seed, so their noise is shared.

    With --cases: what differs, how surely, and why. Exit code with --at-least: 0 holds, 1 fails, 2 undecided.
    """
    import secrets

    from jeito.decode.local import LocalModel
    from jeito.decode.noise import derive
    from jeito.run.open import open_model
    from jeito.run.run import run
    from jeito.trace.log import Log

    if adapters:
        behaviours = contrast.with_adapters(behaviours, adapters)
    if cases:
        if prompt or no_log:
            raise InputError(
                f"--cases and {'a prompt' if prompt else '--no-log'} do not go together",
                hint="the cases are what is asked, and their runs are kept",
            )
        wanted = contrast.Wanted(
            behaviours, models, cases, n, sets, seed, exact, checks, at_least, unit, alpha, cause,
            allow_unsupported,
        )  # fmt: skip
        return contrast.contrast(wanted, loading, json=json, report=report)
    if not prompt:
        raise InputError("nothing is asked", hint="jeito compare 'a question' -b …, or --cases train")
    n = n or 1
    loaded = [(name, _load(name, sets, exact)) for name in behaviours]
    if len(loaded) * len(models) * n < 2:
        raise InputError("one reply is no comparison", hint="a second -b or -m, or -n 8")
    ask = show.prompt_of(prompt)
    page = _page(text)
    first = seed if seed is not None else secrets.randbits(31)
    log = None if no_log else Log()
    opened = [open_model(model, loading=loading, notify=show.say) for model in models]
    plan = [(model, name, behaviour, i) for model in opened for name, behaviour in loaded for i in range(n)]
    runs = [
        run(
            behaviour,
            model,
            ask,
            seed=derive(first, i),
            allow_unsupported=allow_unsupported,
            log=log,
            label=name,
        )
        for model, name, behaviour, i in plan
    ]
    _watch(runs, silent=json)
    found: list[Parity] = []
    readings: list[Reading] = []
    local = [model for model in opened if isinstance(model, LocalModel)]
    if parity and len(opened) > 1 and len(local) < len(opened):
        show.say("no parity: it takes the logits of each model, and a server shows none")
    elif parity and len(opened) > 1:
        found, readings = _parities(local, runs, len(loaded), n, page)
    if json:
        traces = [one.trace for one in runs]
        show.emit({"pairs": [], "separation": None, "parity": found, "readings": readings, "runs": traces})
    elif found:
        _show_parity(found, readings, [model.name for model in opened])
    for one in runs:
        for loss in one.losses:
            show.say(f"warning: {loss}")
    return FAILED if any(one.trace.finish in ("memory", "error") for one in runs) else OK


def _page(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        found = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{str(path)!r} cannot be read as text: {error}", hint="--text FILE, in UTF-8") from error
    if len(found.split()) < 2:
        raise InputError(f"{str(path)!r} has too little text to read", hint="a page or more")
    return found


def _parities(
    models: "Sequence[LocalModel]", runs: "Sequence[Run]", behaviours: int, n: int, page: str | None
) -> "tuple[list[Parity], list[Reading]]":
    """Each model beside the first: behaviour by behaviour, and on one text."""
    from jeito.proof.parity import Side, parity, read_text

    show.say(f"reading {len(models)} models along the replies and a text …")
    each = behaviours * n
    found = []
    for at, model in enumerate(models[1:], 1):
        for group in range(behaviours):
            sides = [
                Side(side, [one.trace for one in runs[index * each + group * n :][:n]])
                for index, side in ((0, models[0]), (at, model))
            ]
            if all(trace.receipt.prompt_digest for side in sides for trace in side.traces):
                found.append(parity(*sides))
    return found, [read_text(models[0], model, page) for model in models[1:]]


def _show_parity(found: "Sequence[Parity]", readings: "Sequence[Reading]", models: Sequence[str]) -> None:
    rows: list[tuple[object, ...]] = []
    for one in found:
        pair = f"{one.a} → {one.b}"
        if one.why or one.first is None or one.walk is None:
            rows.append(
                (one.behaviour, pair, "no" if not one.same_prompt else "yes", "", "", "", "", "", one.why or "")
            )
            continue
        agreed = ", ".join(f"{reply.agree}/{max(reply.tokens_a, reply.tokens_b)}" for reply in one.replies)
        tops = "same" if one.first.same_top else f"{one.first.top_a!r}, {one.first.top_b!r}"
        rows.append(
            (one.behaviour, pair, "yes", _number(one.first.kl), tops, agreed, _number(one.walk.kl), one.walk.same_top,
             f"{one.walk.flips_per_1000:.0f} (of {one.walk.tokens})")
        )  # fmt: skip
    show.table(
        "Parity: facts, not a verdict",
        ("behaviour", "models", "same prompt", "KL first", "top first", "tokens that agree", "KL mean", "top same",
         "flips per 1,000"),
        rows,
    )  # fmt: skip
    for one in found:
        if not one.same_ends:
            print(f"note: {one.a} and {one.b} end a reply by other tokens ({one.behaviour})")
    parted = [
        (one.behaviour, f"{one.a} → {one.b}", reply.seed, reply.agree, repr(reply.token_a), repr(reply.token_b),
         _number(reply.margin_a, "could not be drawn"), _number(reply.margin_b, "could not be drawn"))
        for one in found for reply in one.replies if reply.token_a is not None or reply.token_b is not None
    ]  # fmt: skip
    if parted:
        columns = ("behaviour", "models", "seed", "after", "first says", "other says", "margin", "its margin")
        show.table("\nWhere replies part; a margin is in nats, noise included", columns, parted)
    lines = [
        (f"{models[0]} → {models[at]}", one.tokens_a, *map(_number, _measures(one)))
        for at, one in enumerate(readings, 1)
    ]
    reading = ("models", "tokens", "perplexity", "its perplexity", "bits per byte", "its bits per byte")
    show.table("\nOn one text", reading, lines)


def _measures(one: "Reading") -> tuple[float | None, ...]:
    return one.perplexity_a, one.perplexity_b, one.bits_per_byte_a, one.bits_per_byte_b


def _number(value: float | None, otherwise: str = "infinite") -> str:
    return otherwise if value is None else f"{value:.3g}"


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
