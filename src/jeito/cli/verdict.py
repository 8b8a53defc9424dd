"""What `prove` and `judge` share: claims as they are typed, and a proof as it is shown. No command of its own."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jeito.cli import show
from jeito.errors import InputError

if TYPE_CHECKING:
    from pydantic import JsonValue

    from jeito.behaviour.behaviour import Claim
    from jeito.proof.judge import Judge, Proof
    from jeito.proof.plan import Planned
    from jeito.proof.report import Result
    from jeito.proof.setting import Setting
    from jeito.run.open import Opened
    from jeito.trace.log import Log
    from jeito.types import Trace

CODES = {"holds": 0, "fails": 1, "undecided": 2}
SHOWN = 3
"""Runs that a claim's table names of those that did not pass."""


def claims_of(checks: Sequence[str], at_least: Sequence[float]) -> "list[Claim]":
    """`--check` and `--at-least` as claims; the check is `correct` where only a share is given.

    Raises InputError for a claim without a share.
    """
    if len(at_least) > 1 and len(at_least) != len(checks):
        raise InputError(f"{len(checks)} --check and {len(at_least)} --at-least", hint="one for all, or one for each")
    if at_least and not checks:
        checks = ["correct"]
    shares = list(at_least) * len(checks) if len(at_least) == 1 else [*at_least, *[None] * len(checks)]
    return [_claim(text, share) for text, share in zip(checks, shares, strict=False)]


def _claim(text: str, at_least: float | None) -> "Claim":
    from pydantic import ValidationError

    from jeito.behaviour.behaviour import Claim
    from jeito.behaviour.read import read

    node = read(text, lambda line, column: f"--check {text}")
    said = node.plain() if node else None
    if not isinstance(said, str | dict):
        raise InputError(f"--check {text!r} names no check", hint="--check 'words: {max: 120}' --at-least 0.9")
    given: dict[str, JsonValue] = {} if at_least is None else {"at_least": at_least}
    given |= {said: True} if isinstance(said, str) else said
    if "at_least" not in given:
        raise InputError(f"--check {text!r} does not say how many replies must pass", hint="--at-least 0.9")
    try:
        return Claim.model_validate(given)
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        hint = "--check 'words: {max: 120}' --at-least 0.9"
        raise InputError(f"--check {text!r}: {'.'.join(map(str, detail['loc']))} {detail['msg']}", hint=hint) from error


def setting_of(planned: "Planned", log: "Log", model: "Opened | None" = None) -> "Setting":
    """What checks may look at. A model is opened only for a check that asks one; the proved one is open already."""
    from jeito.proof.setting import Setting
    from jeito.run.open import open_model

    name = planned.plan.model
    return Setting(
        language=planned.behaviour.language, cases=planned.cases, open_model=open_model, model=name, log=log,
        opened={name: model} if model else {},
    )  # fmt: skip


def refuse_unknown(claims: "Sequence[Claim]") -> None:
    """Before a model loads: raise InputError for a check that there is not, or keywords that it does not take."""
    from jeito.proof.checks import bind

    for claim in claims:
        bind(claim)


def refuse_report(*files: Path | None) -> None:
    """Before anything runs: raise InputError where a page could not be written."""
    for file in filter(None, files):
        if not file.parent.is_dir():
            raise InputError(f"there is no folder {str(file.parent)!r} to write into", hint=f"mkdir {file.parent}")
        if file.is_dir():
            raise InputError(f"{str(file)!r} is a folder, not a file to write", hint=f"{file / 'found.html'}")


def write_report(file: Path | None, result: "Result", traces: "Sequence[Trace]" = ()) -> None:
    """A result as a page, where one is wanted, and where it is."""
    from jeito.proof.report import write

    if file is not None:
        write(result, traces, file)
        show.say(f"report: {file}")


def close(log: "Log", judge: "Judge", *, json: bool, report: Path | None, junit: Path | None) -> int:
    """Keep a proof, show it, and write what else was asked for; the exit code that it has."""
    from jeito.proof.judge import keep
    from jeito.proof.junit import write_junit
    from jeito.proof.report_proof import chosen

    proof = keep(log, judge)
    if json:
        show.emit(proof)
    else:
        _show(proof, judge)
    if junit is not None:
        write_junit(proof, judge, junit)
    write_report(report, judge, [log.get(run) for run in chosen(judge)] if report else ())
    return CODES[proof.decision]


def _show(proof: "Proof", judge: "Judge") -> None:
    from jeito.proof.plan import written

    plan, findings = proof.plan, proof.findings
    held = sum(finding.decision == "holds" for finding in findings)
    print(
        f"{proof.behaviour} on {proof.model}: {held} of {len(findings)} claims hold ({proof.decision}), "
        f"{proof.runs} of {plan.runs} runs, {plan.meaning}, proof {proof.id[:12]}"
    )
    rows = [
        (written(finding.claim), finding.decision, finding.passed, finding.trials, finding.clusters,
         finding.unmeasured, f"{finding.low:.3f} to {finding.high:.3f}", finding.why)
        for finding in findings
    ]  # fmt: skip
    show.table("", ("claim", "decision", "passed", "runs", "cases", "unmeasured", "interval", "why"), rows)
    for at, finding in enumerate(findings):
        for one in [one for one in judge.judged if not one.verdicts[at].passed][:SHOWN]:
            name = judge.planned.case_of(one.place).name
            print(f"not {finding.claim.name}: case {name}, run {one.run}: {one.verdicts[at].why}")
    for note in proof.notes:
        show.say(f"note: {note}")
