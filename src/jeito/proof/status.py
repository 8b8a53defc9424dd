"""What has been shown until now: proofs in the log, and whether what they are of has changed since. Runs nothing."""

from collections.abc import Iterator
from functools import cache
from typing import Literal

from pydantic import ValidationError

from jeito.behaviour.behaviour import Behaviour
from jeito.behaviour.load import load
from jeito.errors import InputError, JeitoError, LogError
from jeito.proof.cases import load_cases
from jeito.proof.judge import Proof, claims_fingerprint
from jeito.proof.plan import cases_digest, changes, find
from jeito.run.open import read_fingerprint
from jeito.trace import plans
from jeito.trace.log import Log
from jeito.types import Value

Status = Literal["proved", "failed", "undecided", "stale"]
_STATUS: dict[str, Status] = {"holds": "proved", "fails": "failed", "undecided": "undecided"}
_CLAIMS = "the behaviour's claims"


class Standing(Value):
    """A proof as it stands today. `why`: what has changed, where it is stale."""

    id: str
    time: str
    behaviour: str
    model: str
    cases: str
    status: Status
    claims: str
    runs: int
    why: str = ""


def proof_status(behaviour: Behaviour, model_fingerprint: str, log: Log) -> list[Standing]:
    """What is shown of just this behaviour on just this model: the newest proof of each set of cases.

    Whether the cases have changed since is not looked at.
    """
    newest: dict[str, Standing] = {}
    for kept in plans.proofs(log, behaviour=behaviour.fingerprint(), model=model_fingerprint):
        proof = _proof(kept.proof)
        why = "" if proof.plan.checks_fingerprint == behaviour.checks_fingerprint() else _CLAIMS
        newest.setdefault(proof.plan.cases_digest, _standing(proof, kept.time, why))
    return list(newest.values())


def standings(log: Log) -> Iterator[Standing]:
    """Every proof, the newest first; stale where its behaviour, model or cases are not what they were."""
    watch = _Watch(log)
    for kept in plans.proofs(log):
        proof = _proof(kept.proof)
        yield _standing(proof, kept.time, watch.changed(proof))


def find_proof(log: Log, prefix: str | None = None) -> Proof | None:
    """The proof whose id starts so, else the newest. Raises InputError where several ids do."""
    found = plans.proofs(log) if prefix is None else plans.proofs(log, prefix=prefix)
    if prefix is not None and len(found) > 1:
        raise InputError(f"{len(found)} proofs' ids start with {prefix!r}", hint="more of its letters")
    return _proof(found[0].proof) if found else None


def _standing(proof: Proof, time: str, why: str) -> Standing:
    held = sum(finding.decision == "holds" for finding in proof.findings)
    return Standing(
        id=proof.id, time=time, behaviour=proof.behaviour, model=proof.model, cases=proof.plan.cases_from,
        status="stale" if why else _STATUS[proof.decision], claims=f"{held} of {len(proof.findings)} hold",
        runs=proof.runs, why=why,
    )  # fmt: skip


def _proof(text: str) -> Proof:
    try:
        return Proof.model_validate_json(text)
    except ValidationError as error:
        raise LogError(
            "a proof was kept in a form that this jeito does not know", hint="read it with the jeito that wrote it"
        ) from error


class _Watch:
    """What there is now, read once however many proofs are of it."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._behaviour, self._cases, self._model = cache(load), cache(load_cases), cache(self._fingerprint)

    def changed(self, proof: Proof) -> str:
        """What a proof is of that is no more; nothing: all is as it was."""
        plan = proof.plan
        try:
            behaviour = self._behaviour(plan.behaviour).behaviour
            if behaviour.fingerprint() != plan.behaviour_fingerprint:
                planned = find(self._log, plan.digest)
                return f"the behaviour: {', '.join(changes(planned.behaviour, behaviour)) if planned else 'changed'}"
            if behaviour.checks_fingerprint() != plan.checks_fingerprint:
                return _CLAIMS
            claims = [finding.claim for finding in proof.findings]
            if proof.claims_fingerprint not in (None, claims_fingerprint(behaviour, claims)):
                return "the file of a check"
            if plan.cases_from and cases_digest(self._cases(plan.cases_from)[: plan.cases]) != plan.cases_digest:
                return "the cases"
            now = self._model(plan.model) if plan.model_fingerprint else None
            return "the model" if now not in (None, plan.model_fingerprint) else ""
        except JeitoError as error:  # what cannot be read any more is not what it was
            return str(error)

    def _fingerprint(self, model: str) -> str | None:
        """Of its files where they tell, else as it last ran."""
        return read_fingerprint(model) or plans.fingerprint_of(self._log, model)
