"""What is to be run before anything runs: cases × seeds, in an order, with the claims. Knows nothing of replies.

A place is one run of a plan: case `place // repeats`, repeat `place % repeats`.
"""

import hashlib
import json
from collections.abc import Sequence
from typing import Literal, NamedTuple

from pydantic import Field, TypeAdapter

from jeito.behaviour.behaviour import SILENT, Behaviour, Claim
from jeito.behaviour.load import Loaded
from jeito.decode.noise import derive, mix
from jeito.engines.remote_open import is_remote
from jeito.errors import InputError, LogError
from jeito.proof.checks import check_claims
from jeito.proof.stats import Meaning
from jeito.proof.values import Case
from jeito.trace import plans
from jeito.trace.log import Log
from jeito.types import Several, Value

Unit = Literal["case", "run"]
"""What a claim speaks of: cases like these, each one draw (`case`), or runs of these very cases (`run`)."""
ALPHA = 0.05
"""How often a decision may be wrong, all claims together."""
_CASES = TypeAdapter(tuple[Case, ...])
CORRECT = Claim(name="correct", value=True, at_least=0.9)
"""What is claimed where nobody claims anything, and the cases expect something."""
MOST = 1_000_000
"""Runs of a plan."""


class Plan(Value):
    """Written before the first run. `digest`: of the cases, seeds and both fingerprints, so of all that is run."""

    digest: str
    behaviour: str = Field(description="as it was typed")
    behaviour_fingerprint: str
    checks_fingerprint: str = Field(description="of the behaviour's own claims")
    model: str
    model_fingerprint: str | None = Field(description="none: it runs elsewhere")
    cases: int
    cases_from: str = Field(description="a family's name or a file")
    cases_digest: str
    repeats: int
    seed: int
    exact: bool
    claims: Several[Claim]
    meaning: Meaning = "cases like these"
    alpha: float = Field(default=ALPHA, gt=0, lt=0.5)
    early: bool = Field(default=True, description="stop where every claim is decided")

    @property
    def runs(self) -> int:
        return self.cases * self.repeats


class Planned(NamedTuple):
    """A plan with what it plans: all that is needed to run or judge it again."""

    plan: Plan
    cases: tuple[Case, ...]
    behaviour: Behaviour

    def case_of(self, place: int) -> Case:
        return self.cases[place // self.plan.repeats]

    def seed_of(self, place: int) -> int:
        """The seed of a run: the same for every behaviour and model, another for each case and repeat."""
        return seed_of(self.plan.seed, self.case_of(place), place % self.plan.repeats)

    def order(self) -> list[int]:
        """The places, shuffled by the plan's seed.

        Where cases are the unit, each case's repeats stay together, so that every case that was begun is soon whole.
        """
        plan = self.plan
        if plan.meaning != "cases like these":
            return _shuffled(plan.runs, plan.seed)
        cases = _shuffled(plan.cases, plan.seed)
        return [case * plan.repeats + repeat for case in cases for repeat in range(plan.repeats)]


def seed_of(seed: int, case: Case, repeat: int) -> int:
    """The seed of a case's repeat in a plan or a comparison of this seed."""
    return derive(derive(seed, int(case.digest, 16)), repeat)


def _meaning(unit: Unit, is_settled: bool) -> Meaning:
    """`is_settled`: there is one reply to each case, and it is there."""
    if unit == "case":
        return "cases like these"
    return "these replies" if is_settled else "these cases"


def _shuffled(count: int, seed: int) -> list[int]:
    # Sorted by noise: the same order in every version of Python.
    return sorted(range(count), key=lambda index: (mix(derive(seed, index + 1)), index))


def make_plan(
    loaded: Loaded,
    cases: Sequence[Case],
    *,
    label: str,
    cases_from: str,
    model: str,
    model_fingerprint: str | None,
    repeats: int,
    seed: int,
    exact: bool = True,
    claims: Sequence[Claim] = (),
    unit: Unit = "case",
    greedy: bool = False,
    alpha: float = ALPHA,
    early: bool = True,
    claims_needed: bool = True,
) -> Planned:
    """A plan for a behaviour's own claims and these besides. Raises InputError for what cannot be planned.

    Without any, the claim is that replies are what their cases expect, if a claim is needed. `greedy`: no token is
    drawn.
    """
    behaviour = loaded.behaviour
    claims = (*behaviour.checks, *claims)
    if claims_needed and not claims and any(case.expect.kinds for case in cases):
        claims = (CORRECT,)
    check_claims(loaded._replace(behaviour=behaviour.model_copy(update={"checks": claims})))
    digests = [case.digest for case in cases]
    if not cases:
        raise InputError(f"there is no case in {cases_from!r}", hint="--cases train")
    first = {digest: at for at, digest in reversed([*enumerate(digests)])}
    if twice := next((case for at, case in enumerate(cases) if first[case.digest] < at), None):
        raise InputError(f"the case {twice.name!r} is there twice", hint="more replies to each: --repeats 8")
    if not 1 <= len(cases) * repeats <= MOST:
        raise InputError(f"{len(cases)} cases × {repeats} repeats are no plan", hint=f"1 to {MOST:,} runs")
    if claims_needed and not claims:
        raise InputError(f"{label!r} claims nothing", hint="--check 'words: {max: 120}' --at-least 0.9")
    fingerprint = behaviour.fingerprint()
    what = {"cases": digests, "seeds": [seed, repeats], "behaviour": fingerprint, "exact": exact}
    # What a server says that it is, is its word: its replies are no other's, and another's are not its own.
    where = f"{model} {model_fingerprint}" if is_remote(model) else model_fingerprint or model
    plan = Plan(
        digest=_digest({**what, "model": where}),
        behaviour=label,
        behaviour_fingerprint=fingerprint,
        checks_fingerprint=behaviour.checks_fingerprint(),
        model=model,
        model_fingerprint=model_fingerprint,
        cases=len(cases),
        cases_from=cases_from,
        cases_digest=cases_digest(cases),
        repeats=repeats,
        seed=seed,
        exact=exact,
        claims=claims,
        meaning=_meaning(unit, greedy and repeats == 1),
        alpha=alpha,
        early=early,
    )
    return Planned(plan, tuple(cases), behaviour)


def cases_digest(cases: Sequence[Case]) -> str:
    return _digest([case.digest for case in cases])


def write(log: Log, planned: Planned) -> None:
    """Keep a plan; one of the same digest stays as it was first written."""
    plan = planned.plan
    plans.write_plan(
        log,
        plan.digest,
        plan=plan.model_dump_json(),
        cases=_CASES.dump_json(planned.cases).decode(),
        behaviour=planned.behaviour.model_dump_json(),
        behaviour_fingerprint=plan.behaviour_fingerprint,
        model=plan.model,
        model_fingerprint=plan.model_fingerprint,
    )


def find(log: Log, prefix: str) -> Planned | None:
    """The plan whose digest starts so."""
    kept = plans.find_plan(log, prefix)
    if kept is None:
        return None
    try:
        return Planned(
            Plan.model_validate_json(kept.plan),
            _CASES.validate_json(kept.cases),
            Behaviour.model_validate_json(kept.behaviour),
        )
    except ValueError as error:
        raise LogError(
            f"plan {prefix} was kept in a form that this jeito does not know", hint="read it with the jeito that did"
        ) from error


def unfinished(log: Log, planned: Planned) -> Plan | None:
    """The newest plan of the same work under whatever seed that was begun and has runs left: it can be gone on with."""
    own = planned.plan
    for text in plans.plans_of(log, own.behaviour_fingerprint, own.model_fingerprint):
        plan = Plan.model_validate_json(text)
        same = ("cases_digest", "repeats", "exact", "claims", "meaning", "alpha", "early", "model")
        if all(getattr(plan, name) == getattr(own, name) for name in same):
            return None if plans.proofs(log, plan=plan.digest) else plan
    return None


def written(claim: Claim) -> str:
    """A claim in a few words: `words {"max": 120} at least 0.9`."""
    return f"{asked(claim)} at least {claim.at_least:g}"


def asked(claim: Claim) -> str:
    """What a claim asks of one reply: `words {"max": 120}`."""
    value = "" if claim.value is True else f" {json.dumps(claim.value, ensure_ascii=False)}"
    return f"{claim.name}{value}"


def changes(old: Behaviour, new: Behaviour) -> list[str]:
    """What of two behaviours differs that can change a reply, by dotted path."""
    before, after = (_leaves(one.model_dump(mode="json", exclude=set(SILENT))) for one in (old, new))
    differ = [path for path in before.keys() | after.keys() if before.get(path) != after.get(path)]
    return sorted(differ) or ["a file that it names"]


def _leaves(tree: object, above: str = "") -> dict[str, object]:
    if not isinstance(tree, dict):
        return {above: tree}
    return {
        path: leaf
        for key, inner in tree.items()
        for path, leaf in _leaves(inner, f"{above}.{key}" if above else key).items()
    }


def _digest(said: object) -> str:
    text = json.dumps(said, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
