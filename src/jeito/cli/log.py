"""`jeito log`: the runs that were kept."""

from pathlib import Path
from typing import Annotated

import typer

from jeito.cli import options, show

app = typer.Typer(help="List the runs that were kept; show, export or import them.", rich_markup_mode=None)

Id = Annotated[str, typer.Argument(help="A run's id, or its first letters.")]


@app.callback(invoke_without_command=True)
def _list(
    context: typer.Context,
    last: Annotated[int, typer.Option("-n", min=1, help="So many, the newest first.")] = 20,
    json: options.Json = False,
) -> None:
    if context.invoked_subcommand is not None:
        return
    from jeito.trace.log import Log

    log = Log()
    found = log.summaries(last)
    if json:
        show.emit({"runs": found})
        return
    if not found:
        show.say(f"no run is kept in {log.path}")
        return
    rows = [
        (
            run.id,
            run.time[:19],
            run.behaviour,
            run.model,
            run.finish or "unfinished",
            run.generated,
            run.ask,
            run.answer,
        )
        for run in found
    ]
    show.table("", ("id", "time", "behaviour", "model", "finish", "tokens", "asked", "answered"), rows)


@app.command("show")
def show_run(run: Id, json: options.Json = False) -> None:
    """One run, whole: what was asked, what came, and its receipt."""
    from jeito.trace.log import Log

    trace = Log().get(run)
    if json:
        show.emit(trace)
        return
    show.console().print(trace.prompt or "(no prompt was rendered)", markup=False)
    show.console().print(f"{trace.answer}\n", markup=False)
    show.ending(trace)
    usage = trace.usage
    show.console().print(
        f"{trace.behaviour} on {trace.model}, seed {trace.seed}: {show.reused(usage)}; "
        f"{usage.generated} generated in {trace.seconds.total:.2f} s",
        markup=False,
    )
    show.receipt(trace.receipt, f"receipt of {trace.id}")


@app.command("export")
def export(file: Annotated[Path, typer.Argument(help="A JSONL file to write.")]) -> None:
    """Write every run as a line of JSON."""
    from jeito.trace.export import export_jsonl
    from jeito.trace.log import Log

    show.say(f"{export_jsonl(Log(), file)} runs written to {file}")


@app.command("import")
def import_(file: Annotated[Path, typer.Argument(help="A JSONL file that `export` wrote.")]) -> None:
    """Read runs in; those already there stay as they are."""
    from jeito.trace.export import import_jsonl
    from jeito.trace.log import Log

    found = import_jsonl(Log(), file)
    show.say(f"{found.added} runs read, {found.known} already there")
