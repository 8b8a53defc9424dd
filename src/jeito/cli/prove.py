"""`jeito prove`: does a behaviour keep its claims on a model? Planned, run, judged, and kept."""

import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from jeito.cli import options, show, verdict
from jeito.errors import OK, InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jeito.behaviour.load import Loaded
    from jeito.engines.base import Loading
    from jeito.proof.judge import Judge
    from jeito.proof.plan import Planned
    from jeito.proof.prove import Heard
    from jeito.run.open import Opened
    from jeito.trace.log import Log


@options.loads_model
def prove(
    behaviour: Annotated[
        str, typer.Argument(help="NAME or PATH.yaml, then +key=value as often as wanted; left out with --batch-in.")
    ] = "",
    model: options.Model = "demo",
    cases: Annotated[str, typer.Option("--cases", help="A family that ships, or FILE.yaml, FILE.jsonl.")] = "",
    repeats: Annotated[int, typer.Option("--repeats", "-n", min=1, help="Replies to each case.")] = 1,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Of the cases, the first so many.")] = None,
    checks: options.Checks = [],  # noqa: B006 - Typer copies it
    at_least: options.AtLeast = [],  # noqa: B006
    sets: options.Set = [],  # noqa: B006
    seed: options.Seed = None,
    unit: Annotated[
        Literal["case", "run"],
        typer.Option("--unit", help="case: claims speak of cases like these; run: of these very cases."),
    ] = "case",
    alpha: Annotated[
        float, typer.Option("--alpha", min=1e-6, max=0.4, help="How often a decision may be wrong, all together.")
    ] = 0.05,
    early: Annotated[bool, typer.Option("--early/--no-early", help="Stop where every claim is decided.")] = True,
    exact: Annotated[
        bool | None,
        typer.Option("--exact/--no-exact", help="Replies that do not depend on what else runs; if the model can."),
    ] = None,
    json: options.Json = False,
    report: options.Report = None,
    junit: options.Junit = None,
    batch_out: Annotated[
        Path | None, typer.Option("--batch-out", metavar="FILE.jsonl", help="Write the plan for a server; run nothing.")
    ] = None,
    batch_in: Annotated[
        Path | None, typer.Option("--batch-in", metavar="FILE.jsonl", help="Take a server's results, and judge them.")
    ] = None,
    allow_unsupported: options.AllowUnsupported = False,
    *,
    loading: "Loading",
) -> int:
    """Does a behaviour keep its claims? Exit code 0: all hold; 1: one fails; 2: one is undecided."""
    import secrets

    from jeito.behaviour.load import load
    from jeito.proof.batch import read_batch, write_batch
    from jeito.proof.cases import load_cases
    from jeito.proof.judge import judge, refuse_stale
    from jeito.proof.plan import make_plan, unfinished
    from jeito.proof.prove import is_greedy
    from jeito.proof.runs import is_exact
    from jeito.run.open import open_model
    from jeito.trace.log import Log

    verdict.refuse_report(report, junit)
    log, claims = Log(), verdict.claims_of(checks, at_least)
    if batch_in is not None:
        taken = read_batch(log, batch_in)
        if behaviour:
            refuse_stale(taken.planned, load(behaviour, sets).behaviour, behaviour)
        show.say(f"{taken.new} results taken, {taken.known} were there, {taken.missing} are missing")
        found = judge(log, taken.planned, claims or None, verdict.setting_of(taken.planned, log))
        return verdict.close(log, found, json=json, report=report, junit=junit)
    if not behaviour or not cases:
        missing = "cases" if behaviour else "behaviour and cases"
        raise InputError(f"{missing} are missing", hint="jeito prove technical -m demo --cases train --repeats 8")
    loaded, asked = load(behaviour, sets), load_cases(cases)[:limit]
    # So that a proof says what to load again, and from where.
    label, cases_from = "+".join([behaviour, *sets]), str(Path(cases).resolve()) if Path(cases).is_file() else cases

    def plan(seed: int, opened: "Opened | None" = None) -> "Planned":
        return make_plan(
            loaded, asked, label=label, cases_from=cases_from, model=model,
            model_fingerprint=opened.fingerprint if opened else None, repeats=repeats, seed=seed,
            exact=is_exact(exact, opened) if opened else bool(exact), claims=claims, unit=unit,
            greedy=is_greedy(loaded, opened), alpha=alpha, early=early,
        )  # fmt: skip

    # What makes no sense is refused before a model is loaded.
    planned = plan(secrets.randbits(31) if seed is None else seed)
    if batch_out is not None:
        _announce(planned)
        for note in write_batch(log, planned, batch_out):
            show.say(f"note: {note}")
        show.say(f"{planned.plan.runs} requests written to {batch_out}; their results: jeito prove --batch-in FILE")
        return OK
    opened = open_model(model, loading=loading, notify=show.say)
    planned = plan(planned.plan.seed, opened)
    if seed is None and (begun := unfinished(log, planned)):
        show.say(f"going on with plan {begun.digest[:12]}, which was begun and not ended; --seed draws another")
        planned = plan(begun.seed, opened)
    found = _carry_out(planned, loaded, opened, log, lenient=allow_unsupported)
    return verdict.close(log, found, json=json, report=report, junit=junit)


def _announce(planned: "Planned") -> None:
    """What is about to be run, and what that can show at best."""
    from jeito.proof.plan import written
    from jeito.proof.stats import at_best

    plan = planned.plan
    show.say(
        f"plan {plan.digest[:12]}: {plan.cases} cases × {plan.repeats} = {plan.runs} runs, seed {plan.seed}; "
        f"of {plan.meaning}: {', '.join(map(written, plan.claims))}"
    )
    for claim in plan.claims:
        best = at_best(
            plan.runs, plan.cases, claim.at_least, meaning=plan.meaning, sequential=plan.early,
            claims=len(plan.claims), alpha=plan.alpha,
        )  # fmt: skip
        if not best.can_hold:
            needed = f"{best.needed} {best.unit}s could" if best.needed else "no number of them could"
            show.say(
                f"note: {written(claim)} cannot be shown: if every run passed, this plan would show "
                f"{best.low:.3f}; {needed}"
            )
    if plan.meaning == "cases like these" and plan.repeats > 1:
        show.say("note: repeats of one case are one cluster; --unit run speaks of these very cases")


def _carry_out(planned: "Planned", loaded: "Loaded", model: "Opened", log: "Log", *, lenient: bool) -> "Judge":
    from jeito.proof.prove import carry_out
    from jeito.trace import plans

    plan = planned.plan
    setting = verdict.setting_of(planned, log, model)
    try:
        _announce(planned)
        with _bar(planned) as heard:
            return carry_out(planned, loaded, model, log, allow_unsupported=lenient, setting=setting, heard=heard)
    except KeyboardInterrupt:
        done = len(plans.places_held(log, plan.digest))
        show.say(f"{done} of {plan.runs} runs are kept: the same command goes on from here, with --seed {plan.seed}")
        raise


@contextmanager
def _bar(planned: "Planned") -> "Iterator[Heard | None]":
    """A bar with each claim's rate so far, where a person looks."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}", markup=False)
    with Progress(*columns, console=show.console(errors=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("", total=planned.plan.runs)

        def heard(done: int, judge: "Judge") -> None:
            rates = (f"{claim.name} {passed}/{seen}" for claim, passed, seen in judge.rates())
            bar.update(task, completed=done, description=" · ".join(rates))

        yield None if bar.disable else heard
