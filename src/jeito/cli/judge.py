"""`jeito judge`: a verdict repeated from the log, without a model; by other claims too."""

from typing import TYPE_CHECKING, Annotated

import typer

from jeito.cli import options, verdict
from jeito.errors import InputError

if TYPE_CHECKING:
    from jeito.proof.plan import Planned
    from jeito.trace.log import Log


def judge(
    name: Annotated[
        str | None,
        typer.Argument(metavar="PLAN", help="A plan's or proof's digest, or its first letters; else the newest proof."),
    ] = None,
    behaviour: Annotated[
        str | None,
        typer.Option("--behaviour", "-b", help="Whose claims to judge by: as it is now. Its replies must be the same."),
    ] = None,
    checks: options.Checks = [],  # noqa: B006 - Typer copies it
    at_least: options.AtLeast = [],  # noqa: B006
    sets: options.Set = [],  # noqa: B006
    json: options.Json = False,
    report: options.Report = None,
    junit: options.Junit = None,
) -> int:
    """Judge the runs of a plan again. Exit code 0: all claims hold; 1: one fails; 2: one is undecided."""
    from jeito.behaviour.load import load
    from jeito.proof.judge import judge as again
    from jeito.proof.judge import refuse_stale
    from jeito.trace.log import Log

    verdict.refuse_report(report, junit)
    log = Log()
    planned = _find(log, name)
    claims = verdict.claims_of(checks, at_least)
    if behaviour is not None:
        now = load(behaviour, sets).behaviour
        refuse_stale(planned, now, behaviour)
        planned = planned._replace(behaviour=now)
        claims = [*now.checks, *claims]
    found = again(log, planned, claims or None, verdict.setting_of(planned, log))
    return verdict.close(log, found, json=json, report=report, junit=junit)


def _find(log: "Log", name: str | None) -> "Planned":
    from jeito.proof.plan import find
    from jeito.proof.status import find_proof

    proof = find_proof(log, name)
    if proof is None and name is None:
        raise InputError("nothing is proved here yet", hint="jeito prove BEHAVIOUR --cases train")
    planned = find(log, proof.plan.digest if proof else name or "")
    if planned is None:
        raise InputError(f"no plan and no proof is called {name!r}", hint="jeito proofs")
    return planned
