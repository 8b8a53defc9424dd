"""From the runs of a plan, in plan order, to a proof. Needs no model; what is asked of one is asked by a check."""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from pydantic import Field

from jeito.behaviour.behaviour import Behaviour, Claim
from jeito.errors import InputError
from jeito.proof.checks import bind
from jeito.proof.plan import Plan, Planned, changes
from jeito.proof.setting import Setting
from jeito.proof.stats import Decision, decide, decided_at
from jeito.proof.values import Verdict
from jeito.trace import plans
from jeito.trace.log import Log
from jeito.types import Several, Trace, Value


class Finding(Value):
    """What became of one claim. `low` counts what was not measured as failed, `high` as passed."""

    claim: Claim
    decision: Decision
    passed: int
    trials: int
    clusters: int = Field(description="cases")
    unmeasured: int
    rate: float | None = Field(description="passed of measured; none: nothing was")
    low: float
    high: float
    more: int | None = Field(description="units that would decide if they go on so; none: decided, or no number would")
    unit: Literal["run", "case"]
    why: str


class Proof(Value):
    """What a plan's runs came to. The same plan and replies give the same proof, whenever and however often made."""

    id: str
    behaviour: str
    model: str
    plan: Plan
    findings: Several[Finding]
    claims_fingerprint: str | None = Field(default=None, description="of its claims, with the files they name")
    decision: Decision = Field(description="fails if one does, else undecided if one is")
    runs: int = Field(description="judged, in plan order; fewer than planned where every claim was decided early")
    exact: bool = Field(description="did every reply keep the promise that nothing beside it changes it?")
    template: str | None = Field(description="the chat template's name")
    environment: dict[str, str] = Field(description="engine, precision, device, versions: of the first run")
    notes: Several[str] = ()


class Judged(NamedTuple):
    """One run in plan order, with a verdict for each claim."""

    place: int
    run: str
    verdicts: tuple[Verdict, ...]


class Judge:
    """Takes a plan's runs in its order. `claims`: others than the plan's; `written`: the plan as it was first written.

    Raises InputError for what is no check.
    """

    def __init__(
        self, planned: Planned, claims: Sequence[Claim] | None = None, *, written: Plan | None = None,
        setting: Setting | None = None,
    ) -> None:  # fmt: skip
        self.planned, self._written = planned, written or planned.plan
        self.claims = planned.plan.claims if claims is None else tuple(claims)
        if not self.claims:
            raise InputError("there is no claim to judge by", hint="--check 'words: {max: 120}' --at-least 0.9")
        self.judged: list[Judged] = []
        self._checks = [bind(claim) for claim in self.claims]
        self._setting = setting or Setting(language=planned.behaviour.language, cases=planned.cases)
        self._outcomes: list[list[bool | None]] = [[] for _ in self.claims]
        self._passed = [0 for _ in self.claims]
        self._cases: list[int] = []
        self._decided: list[int | None] = [None for _ in self.claims]
        self._first: Trace | None = None
        self._loose: set[str] = set()
        """Why replies were not exact."""

    def add(self, place: int, trace: Trace) -> None:
        """The next run in plan order."""
        plan, case = self.planned.plan, self.planned.case_of(place)
        verdicts = tuple(check(trace, case, self._setting) for check in self._checks)
        self.judged.append(Judged(place, trace.id, verdicts))
        self._cases.append(place // plan.repeats)
        if self._first is None or self._first.receipt.template is None:
            self._first = trace
        if trace.receipt.template is not None and not trace.receipt.exact.held:
            self._loose.add(trace.receipt.exact.why or "not asked for")
        for at, verdict in enumerate(verdicts):
            self._outcomes[at].append(verdict.passed)
            self._passed[at] += verdict.passed is True
        # Among many, one more decides little, and the look at all of them takes long.
        seen = len(self.judged)
        if plan.early and (seen % max(1, seen // 100) == 0 or seen == plan.runs):
            self._decide()

    def _decide(self) -> None:
        plan = self.planned.plan
        for at, claim in enumerate(self.claims):
            if self._decided[at] is None:
                self._decided[at] = decided_at(
                    self._outcomes[at], self._cases, claim.at_least, meaning=plan.meaning, repeats=plan.repeats,
                    planned=plan.runs, claims=len(self.claims), alpha=plan.alpha,
                )  # fmt: skip

    @property
    def is_decided(self) -> bool:
        """Is every claim, for good? More runs would change nothing."""
        return None not in self._decided

    @property
    def is_over(self) -> bool:
        return self.is_decided or len(self.judged) == self.planned.plan.runs

    def rates(self) -> list[tuple[Claim, int, int]]:
        """Of each claim, how many runs passed and how many were judged, so far."""
        return [(claim, passed, len(self.judged)) for claim, passed in zip(self.claims, self._passed, strict=True)]

    def proof(self) -> Proof:
        """What has been judged until now, as a proof."""
        plan = self.planned.plan
        findings = tuple(self._finding(at) for at in range(len(self.claims)))
        decisions = {finding.decision for finding in findings}
        first = self._first
        return Proof(
            id=_digest([plan.digest, *(claim.model_dump_json() for claim in self.claims), plan.meaning,
                        str(plan.alpha), str(plan.early), str(self.planned.behaviour.language)]),
            behaviour=plan.behaviour,
            model=plan.model,
            plan=plan,
            findings=findings,
            claims_fingerprint=claims_fingerprint(self.planned.behaviour, self.claims),
            decision="fails" if "fails" in decisions else "undecided" if "undecided" in decisions else "holds",
            runs=len(self.judged),
            exact=first is not None and first.receipt.exact.held and not self._loose,
            template=first.receipt.template if first else None,
            environment={key: value for key, value in first.environment.items() if isinstance(value, str)}
            if first
            else {},
            notes=tuple(self._notes()),
        )  # fmt: skip

    def _finding(self, at: int) -> Finding:
        plan, claim = self.planned.plan, self.claims[at]
        found = decide(
            self._outcomes[at], self._cases, claim.at_least, meaning=plan.meaning, repeats=plan.repeats,
            planned=plan.runs, sequential=plan.early, claims=len(self.claims), alpha=plan.alpha,
        )._asdict()  # fmt: skip
        if not plan.early and not self.is_over:
            why = f"{len(self.judged)} of {plan.runs} runs, and this interval is for all of them"
            found |= {"decision": "undecided", "more": None, "why": why}
        return Finding(claim=claim, **found)

    def _notes(self) -> Iterable[str]:
        plan, written = self.planned.plan, self._written
        changed = [name for name in ("meaning", "alpha", "early") if getattr(plan, name) != getattr(written, name)]
        if self.claims != written.claims:
            changed.insert(0, "claims")
        if changed:
            yield f"not as it was planned before the first run: {', '.join(changed)}"
        if not self.is_over:
            yield f"{len(self.judged)} of {plan.runs} runs, and not every claim is decided"
        for why in sorted(self._loose):
            yield f"not every reply was exact: {why}"


def judge(log: Log, planned: Planned, claims: Sequence[Claim] | None = None, setting: Setting | None = None) -> Judge:
    """A plan's runs judged again from the log, as far as they go in plan order, until every claim is decided."""
    made = Judge(planned, claims, setting=setting)
    for place in planned.order():
        trace = plans.run_at(log, planned.plan.digest, place)
        if trace is None or made.is_over:
            break
        made.add(place, trace)
    return made


def keep(log: Log, judge: Judge) -> Proof:
    """The proof, kept in the log where it is whole."""
    proof = judge.proof()
    if judge.is_over:
        plan = proof.plan
        plans.write_proof(
            log, proof.id, plan=plan.digest, behaviour_fingerprint=plan.behaviour_fingerprint,
            model_fingerprint=plan.model_fingerprint, decision=proof.decision, proof=proof.model_dump_json(),
        )  # fmt: skip
    return proof


def claims_fingerprint(behaviour: Behaviour, claims: Sequence[Claim]) -> str:
    """Of claims with the files that they name, whoever made them."""
    return behaviour.model_copy(update={"checks": tuple(claims)}).checks_fingerprint()


def refuse_stale(planned: Planned, behaviour: Behaviour, label: str) -> None:
    """Raise InputError where a behaviour would not give the replies that a plan holds."""
    plan = planned.plan
    if behaviour.fingerprint() != plan.behaviour_fingerprint:
        what = ", ".join(changes(planned.behaviour, behaviour))
        raise InputError(
            f"{label!r} is not what plan {plan.digest[:12]} ran: {what} changed since",
            hint=f"jeito prove {label} -m {plan.model} --cases {plan.cases_from}",
        )


def _digest(parts: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
