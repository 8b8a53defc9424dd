"""What the demo proves and refutes of its model. Outcomes are what is measured: no word here knows them beforehand."""

import json
from typing import TYPE_CHECKING, NamedTuple

from jeito.cli import progress

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from jeito.engines.base import Model
    from jeito.proof.comparison import Comparison, Pair
    from jeito.proof.judge import Finding, Judge
    from jeito.proof.runs import Asked, Replies
    from jeito.trace.log import Log
    from jeito.types import Trace

PERSONALITIES = ("technical", "conservative", "creative")
TOKENS = 60
"""Of a reply: one that is right has said its number before."""
PENALTY = "sampling.repetition_penalty"
SCHEMA = {
    "type": "object",
    "properties": {"answer": {"type": "integer", "minimum": 0, "maximum": 9999}, "unit": {"enum": ["km", "h", "km/h"]}},
    "required": ["answer", "unit"],
    "additionalProperties": False,
}
CONTRACT = f"plain+max_new_tokens=40+output={json.dumps({'json_schema': SCHEMA})}"
PORTUGUESE = f"agente_tecnico+repetition_penalty=1.0+max_new_tokens={TOKENS}"


class Sizes(NamedTuple):
    """How many cases each claim is tried on."""

    contract: int = 36
    """As many as it takes to show 0.9, if all of them keep it."""
    sums: int = 24
    portuguese: int = 16


QUICK = Sizes(contract=3, sums=3, portuguese=3)


class Shown(NamedTuple):
    """What was looked into: a sentence for the terminal, what its page is made of, and every reply that it took."""

    page: str
    sentence: str
    result: "Judge | Comparison"
    traces: "Sequence[Trace]"


def show_claims(model: "Model", log: "Log", seed: int, sizes: Sizes) -> "Iterator[Shown]":
    """One claim after the other, as it is measured. The sums' replies serve the cause and the personalities too."""
    contract = _prove(CONTRACT, f"train:en:{sizes.contract}", {"json_schema": {"schema": SCHEMA}, "at_least": 0.9},
                      model, log, seed)  # fmt: skip
    yield Shown("contract", f"The contract: {_found(contract[0], 'replies meet their JSON schema')}", *contract)
    sums, people = _compare(model, log, seed, f"train:en:simple:{sizes.sums}")
    yield Shown("sums", _of_sums(sums[0]), *sums)
    yield Shown("personalities", _of_people(people[0]), *people)
    portuguese = _prove(PORTUGUESE, f"train:pt:simple:{sizes.portuguese}", {"correct": True, "at_least": 0.25},
                        model, log, seed)  # fmt: skip
    beside = f"In English, without the penalty too: {_correct(sums[0]).b_mean or 0:.0%}."
    yield Shown("portuguese", f"Portuguese: {_found(portuguese[0], 'simple sums are right')} {beside}", *portuguese)


def _prove(
    label: str, cases: str, claim: dict[str, object], model: "Model", log: "Log", seed: int
) -> "tuple[Judge, list[Trace]]":
    from jeito.behaviour.behaviour import Claim
    from jeito.proof.cases import load_cases
    from jeito.proof.judge import judge
    from jeito.proof.plan import find
    from jeito.proof.prove import prove

    proof = prove(label, model, load_cases(cases), repeats=1, log=log, seed=seed,
                  claims=[Claim.model_validate(claim)], early=False, cases_from=cases)  # fmt: skip
    planned = find(log, proof.plan.digest)
    assert planned is not None, "it was written before the first run"
    found = judge(log, planned)
    return found, [log.get(one.run) for one in found.judged]


def _compare(
    model: "Model", log: "Log", seed: int, cases: str
) -> "tuple[tuple[Comparison, list[Trace]], tuple[Comparison, list[Trace]]]":
    """technical beside itself without its penalty, with the cause; and the personalities. All in one batch."""
    from jeito.behaviour.load import load
    from jeito.proof.cases import load_cases
    from jeito.proof.cause import as_asked, find_cause, switch_each
    from jeito.proof.compare import contrast
    from jeito.proof.runs import Asking, gather

    people, plain = [_asked(name) for name in PERSONALITIES], _asked("plain")
    technical = people[0]
    # The system prompt as a whole: line by line it would take three times the replies.
    switched = [
        one for one in switch_each(technical.loaded, load(plain.label)) if not one.name.startswith("system line")
    ]
    switches = as_asked(technical.label, switched)
    asking = Asking(load_cases(cases), cases, 1, seed)
    with progress.bar() as heard:
        replies = gather(asking, [*people, plain, *switches], model, log, heard)
    of_people, of_plain, of_switches = replies[:3], replies[3], replies[4:]
    without = next(one for one in of_switches if one.name == PENALTY)._replace(name="technical without its penalty")
    sums = contrast([of_people[0], without]).model_copy(
        update={"cause": find_cause(of_people[0], of_plain, switched, of_switches)}
    )
    used: list[Replies] = [of_people[0], of_plain, *of_switches]
    return (sums, _traces(used)), (contrast(of_people), _traces(of_people))


def _asked(name: str) -> "Asked":
    from jeito.behaviour.load import load
    from jeito.proof.runs import Asked

    label = f"{name}+max_new_tokens={TOKENS}"
    return Asked(name, label, load(label))


def _traces(sides: "Sequence[Replies]") -> "list[Trace]":
    return [trace for side in sides for trace in side.traces]


def _found(judge: "Judge", what: str) -> str:
    (finding,) = judge.proof().findings
    return (
        f"{finding.passed} of {finding.trials} {what} ({_between(finding)}). "
        f"The claim that {finding.claim.at_least:.0%} do {_decision(finding)}."
    )


def _decision(finding: "Finding") -> str:
    return "is undecided" if finding.decision == "undecided" else finding.decision


def _between(found: "Finding | Pair") -> str:
    return "no interval" if found.low is None or found.high is None else f"{found.low:.2f} to {found.high:.2f}"


def _correct(found: "Comparison") -> "Pair":
    return next(pair for pair in found.pairs if pair.check == "correct")


def _of_sums(found: "Comparison") -> str:
    pair, cause = _correct(found), found.cause
    assert cause is not None
    parts = ", ".join(_knob(part.name) for part in cause.parts)
    named = " and ".join(map(_knob, cause.named["correct"]))
    by = f"{named} surely changes it" if named else "none surely changes it"
    return (
        f"The sums: {pair.a} gets {pair.a_mean or 0:.0%} right, without its repetition penalty {pair.b_mean or 0:.0%}; "
        f"pair by pair under the same noise that is {pair.difference or 0:+.2f} ({_between(pair)}), "
        f"{'sure' if pair.differs else 'not sure'}. Of what it sets ({parts}), switched one at a time, {by}."
    )


def _knob(name: str) -> str:
    return name.removeprefix("sampling.")


def _of_people(found: "Comparison") -> str:
    separation = found.separation
    if separation is None or separation.confusion is None:
        return f"The personalities: {separation.why if separation else 'not looked at'}."
    right, chance = separation.confusion.accuracy, 1 / len(separation.confusion.names)
    told = [f"{one.a} and {one.b}" for one in separation.pairs if one.adjusted <= found.alpha]
    return (
        f"The personalities: by its features {right.rate:.0%} of replies are recognised ({right.low:.0%} to "
        f"{right.high:.0%}; {chance:.0%} by chance), by a judge that never saw the question. Surely different: "
        f"{', '.join(told) or 'none'}."
    )
