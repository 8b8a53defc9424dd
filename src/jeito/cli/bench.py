"""`jeito bench`: models × behaviours × precisions over cases: quality, speed, memory."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jeito.cli import options, show, verdict
from jeito.errors import FAILED, OK

if TYPE_CHECKING:
    from jeito.engines.base import Loading
    from jeito.proof.bench import Bench, Contender
    from jeito.proof.comparison import Share

CASES = ("train:{}:6", "explain:{}:3", "robots:{}:3")
TOKENS = 96
NOTE = "follows: of what the behaviours' claims ask of a reply, the share that is done; quality: replies that are right"


@options.loads_model
def bench(
    models: options.Models = ["demo"],  # noqa: B006 - Typer copies it
    behaviours: Annotated[
        list[str],
        typer.Option("--behaviour", "-b", help="As often as wanted; else the three personalities."),
    ] = ["creative", "conservative", "technical"],  # noqa: B006
    cases: Annotated[
        list[str],
        typer.Option("--cases", help="As often as wanted: a family or file; else twelve of three families."),
    ] = [],  # noqa: B006
    repeats: Annotated[int, typer.Option("--repeats", "-n", min=1, help="Replies to each case.")] = 1,
    tokens: Annotated[
        int, typer.Option("--tokens", min=1, help="At most so many a reply, where no file says.")
    ] = TOKENS,
    sets: options.Set = [],  # noqa: B006
    seed: options.Seed = None,
    alpha: Annotated[float, typer.Option("--alpha", min=1e-6, max=0.4, help="How often an interval may miss.")] = 0.05,
    read: Annotated[
        list[Path],
        typer.Option("--read", metavar="PATH", help="Other programs' results, shown beside: file or folder."),
    ] = [],  # noqa: B006
    export: Annotated[
        Path | None, typer.Option("--export", metavar="FOLDER", help="Write every reply's score for other programs.")
    ] = None,
    json: options.Json = False,
    report: options.Report = None,
    allow_unsupported: options.AllowUnsupported = False,
    *,
    loading: "Loading",
) -> int:
    """How good, how fast and how large are these models, asked to behave so? Each runs in a process of its own."""
    import secrets
    from datetime import UTC, datetime

    from jeito.behaviour.load import load
    from jeito.proof.bench import Bench, Task, on_front
    from jeito.proof.bench import bench as run_bench
    from jeito.proof.cases import load_cases
    from jeito.proof.exchange import read_results, write_results
    from jeito.proof.runs import Asked, Asking

    verdict.refuse_report(report)
    others = [found for path in read for found in read_results(path)]
    first = secrets.randbits(31) if seed is None else seed
    language = (load(behaviours[0], sets).behaviour.language or "en")[:2]
    cases = cases or [each.format(language if language == "pt" else "en") for each in CASES]
    asked = []
    for name in behaviours:
        is_capped = "max_new_tokens" in load(name, sets).behaviour.sampling.model_fields_set
        extra = [*sets, *([] if is_capped else [f"max_new_tokens={tokens}"])]
        asked.append(Asked(name, "+".join([name, *extra]), load(name, extra)))
    verdict.refuse_unknown([claim for one in asked for claim in one.loaded.behaviour.checks])
    asking = [
        Asking(load_cases(one), str(Path(one).resolve()) if Path(one).is_file() else one, repeats, first,
               allow_unsupported=allow_unsupported)
        for one in cases
    ]  # fmt: skip
    runs = sum(len(one.cases) for one in asking) * repeats * len(asked)
    show.say(f"{len(models)} models × {runs} runs, seed {first}")
    found = run_bench(models, Task(tuple(asked), tuple(asking), loading, alpha), show.say)
    made = Bench(
        contenders=tuple(on_front([*(one.contender for one in found), *others])), behaviours=tuple(behaviours),
        cases=tuple(cases), seed=first, alpha=alpha, notes=(NOTE,),
    )  # fmt: skip
    if export is not None:
        items = [item for one in found for item in one.items]
        written = write_results(export, items, f"{datetime.now(UTC):%Y-%m-%dT%H-%M-%S}")
        show.say(f"{len(written)} files written into {export}")
    if json:
        show.emit(made)
    else:
        _show(made)
    verdict.write_report(report, made)
    return FAILED if all(one.contender.error for one in found) else OK


def _show(made: "Bench") -> None:
    rows = [
        (one.model, _share(one.quality), _share(one.follows), _claims(one), _number(one.tokens_per_second),
         _number(one.first_token_seconds), _number(one.load_seconds), _size(one.peak_bytes), _size(one.weight_bytes),
         "yes" if one.on_front else "", one.error or "")
        for one in made.contenders
    ]  # fmt: skip
    columns = ("model", "quality", "follows", "claims", "tokens/s", "first token, s", "load, s", "peak MB",
               "weights MB", "on the front", "")  # fmt: skip
    show.table("Models", columns, rows)
    cells = [
        (one.model, cell.behaviour, cell.cases, cell.check, _share(cell.quality), cell.passed, cell.trials,
         cell.unmeasured, cell.tokens, _number(cell.tokens_per_second))
        for one in made.contenders for cell in one.cells
    ]  # fmt: skip
    of_cell = ("model", "behaviour", "cases", "of", "quality", "passed", "replies", "unmeasured", "tokens", "tokens/s")
    show.table("\nBy behaviour and cases", of_cell, cells)
    for note in made.notes:
        show.say(f"note: {note}")


def _claims(one: "Contender") -> str:
    return ", ".join(f"{count} {decision}" for decision, count in one.claims.items() if count)


def _share(share: "Share | None") -> str:
    return "" if share is None else f"{share.rate:.0%} ({share.low:.0%} to {share.high:.0%})"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _size(value: int | None) -> str:
    return "" if value is None else f"{value / 1e6:.0f}"
