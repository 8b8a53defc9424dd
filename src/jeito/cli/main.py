"""The entry point: one command a file, one error a line, the exit codes of SEMANTICS section 6."""

import io
import sys
import traceback
from typing import Annotated

import typer

from jeito import __version__
from jeito.cli import (
    adapters,
    ask,
    behaviours,
    bench,
    chat,
    check,
    compare,
    demo,
    doctor,
    explain,
    export,
    fit,
    judge,
    log,
    model,
    models,
    pairs,
    probe,
    proofs,
    prove,
    pull,
    replay,
    serve,
    steer,
    sweep,
    tune,
)
from jeito.cli.show import say
from jeito.errors import FAILED, INTERRUPTED, OK, WRONG_INPUT, JeitoError

# Wrong usage, as Typer's own parser raises it: the child of Exception that this subclass comes from.
UsageProblem: type[Exception] = typer.BadParameter.__mro__[-4]

app = typer.Typer(
    name="jeito",
    help="Gives a local language model a way of behaving, and proves that it behaves so.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"jeito {__version__}")
        raise typer.Exit


@app.callback()
def _jeito(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which.")] = False,
) -> None:
    pass


app.command("demo")(demo.demo)
app.command("ask")(ask.ask)
app.command("chat")(chat.chat)
app.command("compare")(compare.compare)
app.command("bench")(bench.bench)
app.command("sweep")(sweep.sweep)
app.command("prove")(prove.prove)
app.command("judge")(judge.judge)
app.command("proofs")(proofs.proofs)
app.command("explain")(explain.explain)
app.command("export")(export.export)
app.command("model")(model.model)
app.command("check")(check.check)
app.command("fit")(fit.fit)
app.command("pull")(pull.pull)
app.command("models")(models.models)
app.command("rm")(models.rm)
app.command("doctor")(doctor.doctor)
app.command("behaviours")(behaviours.behaviours)
app.command("schema")(behaviours.schema)
app.add_typer(log.app, name="log")
app.command("replay")(replay.replay)
app.command("pairs")(pairs.pairs)
app.command("tune")(tune.tune)
app.add_typer(adapters.app, name="adapters")
app.add_typer(steer.app, name="steer")
app.command("serve")(serve.serve)
app.command("probe")(probe.probe)


def main() -> None:
    """Run the command line and exit; every error of ours is one line and its hint."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        # What is not text is refused where it is read, in a sentence.
        sys.stdin.reconfigure(errors="surrogateescape")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal that is not UTF-8 shows escapes and loses nothing.
            stream.reconfigure(errors="backslashreplace")
    sys.exit(_run())


def _run() -> int:
    try:
        # Named here, since it is guessed from how Python was started: `python -m pytest` is not our name.
        code = app(prog_name="jeito", standalone_mode=False)
        if code == INTERRUPTED:  # Typer has caught the interrupt itself
            say("interrupted")
        return code if isinstance(code, int) else OK
    except JeitoError as error:
        say(f"error: {error}")
        if error.hint:
            say(f"  try: {error.hint}")
        return error.code
    except UsageProblem as error:
        show = getattr(error, "show", None)
        if show:
            show()
        return WRONG_INPUT
    except (KeyboardInterrupt, typer.Abort):
        say("interrupted")
        return INTERRUPTED
    except Exception:  # The edge: Python's own 1 would say that a claim fails.
        traceback.print_exc()
        return FAILED
    except SystemExit:
        # Typer's answer to a closed pipe: whoever read us has gone. Its 1 would say that a claim fails.
        return FAILED


if __name__ == "__main__":
    main()
