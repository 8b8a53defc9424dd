"""`jeito tune`: an adapter trained on pairs, and whether it was worth it."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jeito.cli import options, progress, show, verdict
from jeito.errors import FAILED, OK, InputError

if TYPE_CHECKING:
    from jeito.engines.base import Loading
    from jeito.proof.runs import Asked, Asking
    from jeito.tune.before_after import BeforeAfter, Other
    from jeito.tune.qlora import Heard
    from jeito.tune.train import Made, Prepared

SHOWN = 40
"""Points of the curve beside the bar."""


@options.loads_model
def tune(
    behaviour: Annotated[str, typer.Argument(help="NAME or PATH.yaml: what is learned; its checks prove it.")],
    source: Annotated[
        Path, typer.Option("--data", metavar="FOLDER|FILE.jsonl", help="What `jeito pairs` wrote, or a chat JSONL.")
    ],
    model: options.Model = "demo",
    name: Annotated[str | None, typer.Option("--name", help="The adapter's; the behaviour's when not given.")] = None,
    rank: Annotated[int | None, typer.Option(min=1, help="Of the matrices; by the model's size.")] = None,
    alpha: Annotated[float | None, typer.Option(help="The adapter acts by alpha / rank; twice the rank.")] = None,
    targets: Annotated[
        str | None, typer.Option(metavar="NAMES", help="Linear layers, such as q_proj,v_proj; all but the head.")
    ] = None,
    dropout: Annotated[float | None, typer.Option(help="Of what goes into the adapter; none.")] = None,
    rate: Annotated[float | None, typer.Option(help="AdamW's, at its highest; by the model's size.")] = None,
    warm_up: Annotated[float | None, typer.Option(help="Share of the steps in which the rate rises; 0.1.")] = None,
    decay: Annotated[float | None, typer.Option(help="AdamW's weight decay; 0.")] = None,
    clip: Annotated[float | None, typer.Option(help="The gradient's norm, at most; 1.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="How often each text is learned from; 3.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Texts of a step; 16, or fewer where texts are few.")] = None,
    length: Annotated[int | None, typer.Option(min=16, help="Tokens of a pass; 512, or the longest text.")] = None,
    every: Annotated[int | None, typer.Option(min=1, help="Steps from look to look, and between checkpoints.")] = None,
    patience: Annotated[int | None, typer.Option(min=1, help="Looks without a lower loss, then it stops; 3.")] = None,
    checkpointing: Annotated[
        bool | None, typer.Option("--checkpointing", help="Compute layers twice: slower, and less memory.")
    ] = None,
    share: Annotated[float, typer.Option("--held-out", min=0.0, max=0.9, help="Of a chat JSONL's cases.")] = 0.25,
    restart: Annotated[bool, typer.Option("--restart", help="Anew, not from the last checkpoint.")] = False,
    replace: Annotated[bool, typer.Option("--replace", help="In place of an adapter of this name.")] = False,
    prove: Annotated[
        bool, typer.Option("--prove/--no-prove", help="Compare before and after, where there are cases.")
    ] = True,
    cases: Annotated[
        str | None, typer.Option("--cases", help="To compare on; those that `jeito pairs` held out when not given.")
    ] = None,
    repeats: Annotated[int, typer.Option("--repeats", "-n", min=1, max=1000, help="Replies to each case.")] = 2,
    others: Annotated[
        list[str], typer.Option("--other", help="A behaviour to look for side effects on; as often as wanted.")
    ] = ["plain+max_new_tokens=128"],  # noqa: B006
    other_cases: Annotated[str, typer.Option("--other-cases", help="What those are asked.")] = "train:en:16",
    report: options.Report = None,
    sets: options.Set = [],  # noqa: B006
    seed: options.Seed = 0,
    json: options.Json = False,
    precision: options.Precision = None,
    *,
    loading: "Loading",
) -> int:
    """Train an adapter, from where it was left if it was; then prove it on what was held out."""
    from jeito.behaviour.load import load
    from jeito.proof.cases import load_cases
    from jeito.proof.runs import Asked, Asking
    from jeito.tune import data, train
    from jeito.tune.before_after import Other

    verdict.refuse_report(report)
    loaded = load(behaviour, sets)
    if cases is None and (source / data.CASES).is_file():
        cases = str(source / data.CASES)
    # What cannot be compared is refused before an hour of training.
    asked = load_cases(cases) if cases and prove else ()
    effects = [(other, load(other), load_cases(other_cases)) for other in others] if asked else []
    if asked and not (loaded.behaviour.checks or any(case.expect.kinds for case in asked)):
        raise InputError(
            f"{behaviour!r} has no checks, and the cases expect nothing: nothing tells before from after",
            hint="--no-prove, or checks: […] in the behaviour",
        )
    if report is not None and not asked:
        raise InputError("there is nothing to compare on, so no page of it", hint="--cases FILE.jsonl")
    name = name or Path(behaviour.split("+")[0]).stem
    if not re.fullmatch(r"[\w-][\w.-]*", name):
        raise InputError(f"{name!r} is no name for a folder", hint="--name with letters, digits, - and _")
    said: dict[str, Any] = {
        "rank": rank, "alpha": alpha, "targets": tuple(targets.split(",")) if targets else None, "dropout": dropout,
        "rate": rate, "warm_up": warm_up, "decay": decay, "clip": clip, "epochs": epochs, "batch": batch,
        "length": length, "every": every, "patience": patience, "seed": seed, "checkpointing": checkpointing,
    }  # fmt: skip
    given = {key: value for key, value in said.items() if value is not None}
    split = data.read(source, share=share, seed=seed or 0)
    prepared = train.prepare(model, split, given, loading._replace(precision=precision or "auto"), show.say)
    _announce(prepared)
    with _bar() as heard:
        made = train.tune(
            prepared, name, loading, behaviour=behaviour, fingerprint=loaded.behaviour.fingerprint(), restart=restart,
            replace=replace, heard=heard,
        )  # fmt: skip
    _tell(made)
    found = None
    if asked:
        label = "+".join([behaviour, *sets])
        found = _weigh(
            made, model, prepared.precision, Asked(label, label, loaded), Asking(asked, str(cases), repeats, seed or 0),
            [Other(Asked(name, name, other), Asking(few, other_cases, 1, seed or 0)) for name, other, few in effects],
            loading, report,
        )  # fmt: skip
    if json:
        show.emit({"adapter": str(made.path), "card": made.card, "proof": found})
    return FAILED if made.card.training["finish"] == "nan" else OK


def _weigh(
    made: "Made", model: str, precision: str, asked: "Asked", asking: "Asking", others: "list[Other]",
    loading: "Loading", report: Path | None,
) -> "BeforeAfter":  # fmt: skip
    from jeito.proof.report import write
    from jeito.run.open import engine_of, in_process, open_model, parse
    from jeito.trace.log import Log
    from jeito.tune.before_after import sentences, weigh

    is_trained = engine_of(parse(model)) == "transformers"  # the very weights that it was trained on
    precision_of = precision if is_trained else None
    opened = in_process(open_model(model, precision=precision_of, loading=loading, notify=show.say))
    log = Log()
    try:
        with progress.bar() as heard:
            found, comparison = weigh(
                opened, asked, made.path, asking, others, log, heard=heard,
                setting_of=lambda planned: verdict.setting_of(planned, log, opened),
            )  # fmt: skip
    finally:
        opened.close()
    for sentence in sentences(found):
        show.say(sentence)
    if report is not None:
        write(comparison, comparison.runs, report)
        show.say(f"{report} is written")
    return found


def _announce(prepared: "Prepared") -> None:
    from jeito.engines.needs import gigabytes

    settings, need = prepared.settings, prepared.need
    show.say(
        f"{len(prepared.train)} texts to learn from, {len(prepared.held_out)} held out; {prepared.base.folder.name} in "
        f"{prepared.precision}, rank {settings.rank}, rate {settings.rate:g}, {settings.epochs} epochs of steps of "
        f"{settings.batch}; about {gigabytes(need.peak)}" + (", layers computed twice" * settings.checkpointing)
    )
    if prepared.left_out:
        show.say(f"note: {prepared.left_out} texts are longer than {settings.length} tokens and left out")


@contextmanager
def _bar() -> "Iterator[Heard]":
    """A bar with the curve beside it where a person looks; elsewhere a line for each look at what is held out."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from jeito.tune.checkpoint import Point

    columns = BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}", markup=False)
    losses: list[float] = []
    with Progress(*columns, console=show.console(errors=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("")

        def heard(point: Point, steps: int) -> None:
            losses.append(point.loss)
            held_out = f", held out {point.held_out:.3f}" if point.held_out is not None else ""
            if bar.disable and held_out:
                show.say(f"step {point.step} of {steps}: loss {point.loss:.3f}{held_out}")
            bar.update(
                task, completed=point.step, total=steps, description=f"{curve(losses)} {point.loss:.3f}{held_out}"
            )

        yield heard


def curve(losses: list[float]) -> str:
    """The last losses as a line of blocks, the highest the tallest."""
    last = losses[-SHOWN:]
    low, high = min(last), max(last)
    return "".join("▁▂▃▄▅▆▇█"[round(7 * (loss - low) / (high - low or 1))] for loss in last)


def _tell(made: "Made") -> None:
    facts = made.card.training
    how = {
        "done": "all steps",
        "early": "stopped: the held-out loss fell no more",
        "nan": "stopped: the loss was no number any more; what was good before is kept",
    }[str(facts["finish"])]
    loss = facts["held_out_loss"]
    lowest = f", held-out loss {loss:.3f} at step {facts['best_step']}" if loss is not None else ""
    show.say(f"{facts['steps']} steps in {facts['seconds']} s ({how}){lowest}")
    is_there = "is written" if made.is_new else "was made of just this before (--restart --replace makes it anew)"
    show.say(f"{made.path} {is_there}; use it: adapter: [{{path: {made.path.name}}}] in a behaviour")
