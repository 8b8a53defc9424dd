"""The page of a proof: what became of each claim, the replies that did not pass, the plan."""

import shlex
from collections.abc import Sequence

from jeito.proof.judge import Finding, Judge, Judged, Proof
from jeito.proof.page import Facts, Figure, Mark, Page, Section, Table
from jeito.proof.plan import Plan, asked, written
from jeito.proof.plots import Bar, forest
from jeito.proof.report_parts import called, check_words, decision, remarks, reproduction, running, unhonoured
from jeito.proof.surprisal import cut, reply
from jeito.types import Trace

WORST, FIRST = 6, 2
"""Replies that a page shows: of those that did not pass; where all did, of all."""
LETTERS = 120
"""Of a claim in the table."""


def chosen(judge: Judge) -> list[str]:
    """The runs that a page shows: those that pass the fewest claims; the first ones where all pass."""
    return [one.run for one in _shown(judge)]


def proof_page(judge: Judge, traces: Sequence[Trace]) -> Page:
    """What became of each claim, the runs that did not pass, and the plan."""
    proof = judge.proof()
    plan, findings = proof.plan, proof.findings
    held = sum(finding.decision == "holds" for finding in findings)
    claims = "its claim" if len(findings) == 1 and held else f"{held} of {len(findings)} claims"
    share = f"{100 * plan.alpha:g} %"
    said = (
        f"{proof.runs} of {plan.runs} planned runs were judged: {plan.cases} cases from {plan.cases_from or 'a list'}, "
        f"{plan.repeats} repl{'ies' if plan.repeats > 1 else 'y'} each. The claims speak of {plan.meaning}. At most "
        f"{share} of such pages decide anything wrongly, all claims together."
    )
    return Page(
        f"{called(proof.behaviour)} holds {claims} on {proof.model}", said, decision(proof.decision),
        [_claims(findings, plan), _replies(judge, traces), _planned(plan), running(proof.environment, proof.template),
         _again(judge, proof), *unhonoured(traces), *remarks(proof.notes)],
    )  # fmt: skip


def _claims(findings: Sequence[Finding], plan: Plan) -> Section:
    bars = [
        Bar(written(finding.claim), finding.low, finding.rate, finding.high, finding.claim.at_least, finding.decision)
        for finding in findings
    ]
    said = "; ".join(f"{written(one.claim)}: {one.decision}, {one.low:.3f} to {one.high:.3f}" for one in findings)
    rows = [
        (cut(written(one.claim), LETTERS), Mark(one.decision, one.decision), f"{one.passed} of {one.trials}",
         f"{one.low:.3f} to {one.high:.3f}", str(one.unmeasured) if one.unmeasured else "none",
         one.why)
        for one in findings
    ]  # fmt: skip
    early = "valid however early one stops" if plan.early else "for all planned runs and no fewer"
    return Section(
        "claims", "Claims", f"A claim holds where its whole interval reaches what it asks, and fails where all of it "
        f"stays under that. Intervals are {early}; unmeasured runs count as failed for the lower end, as passed for "
        "the upper.",
        [Figure(forest("claims-plot", "Share of replies that pass, by claim", said, bars, (0.0, 1.0)),
                "Dot: the share that passed, full where the claim holds, hollow where it is open, a cross where it "
                "fails. Dashed: what the claim asks."),
         Table("Every claim", ("claim", "decision", "passed", "interval", "unmeasured", "why"), rows)],
    )  # fmt: skip


def _replies(judge: Judge, traces: Sequence[Trace]) -> Section:
    by_id = {trace.id: trace for trace in traces}
    shown = [
        reply(by_id[one.run], judge.planned.case_of(one.place).name, _verdicts(judge, one))
        for one in _shown(judge)
        if one.run in by_id
    ]
    failed = sum(map(_failures, judge.judged))
    if not failed:
        return Section("replies", "Replies", "Every reply passed every claim; these came first.", shown)
    of = f"{sum(map(bool, map(_failures, judge.judged)))} of {len(judge.judged)} replies failed a claim"
    return Section("replies", "Replies that did not pass", f"{of}; these {len(shown)} failed the most.", shown)


def _verdicts(judge: Judge, one: Judged) -> list[tuple[Mark, str]]:
    """Of each claim that a reply does not meet, why."""
    return [
        (Mark("fails", claim.name), verdict.why)
        if verdict.passed is False
        else (Mark("undecided", f"{claim.name}, unmeasured"), verdict.why)
        for claim, verdict in zip(judge.claims, one.verdicts, strict=True)
        if not verdict.passed
    ]


def _failures(one: Judged) -> int:
    return sum(not verdict.passed for verdict in one.verdicts)


def _shown(judge: Judge) -> list[Judged]:
    ranked = sorted(filter(_failures, judge.judged), key=_failures, reverse=True)
    if not ranked:
        return judge.judged[:FIRST]
    # Of those that fail alike, replies to different cases say more than several to one.
    seen, first, others = set[int](), list[Judged](), list[Judged]()
    for one in ranked:
        case = one.place // judge.planned.plan.repeats
        (others if case in seen else first).append(one)
        seen.add(case)
    return (first + others)[:WORST]


def _planned(plan: Plan) -> Section:
    rows = [
        ("Plan", plan.digest[:12]), ("Cases", f"{plan.cases} from {plan.cases_from or 'a list'}"),
        ("Repeats of each", str(plan.repeats)), ("Seed", str(plan.seed)), ("Speaks of", plan.meaning),
        ("Errors allowed", f"{100 * plan.alpha:g} %, all claims together"),
        ("Stops early", "yes" if plan.early else "no"), ("Exact replies", "asked for" if plan.exact else "no"),
        ("Behaviour", plan.behaviour_fingerprint[:12]), ("Claims of the behaviour", plan.checks_fingerprint[:12]),
        ("Model", (plan.model_fingerprint or "runs elsewhere")[:12]), ("Digest of the cases", plan.cases_digest[:12]),
    ]  # fmt: skip
    return Section("plan", "Plan", "Written down before the first run.", [Facts(rows)])


def _again(judge: Judge, proof: Proof) -> Section:
    plan = proof.plan
    own = len(judge.planned.behaviour.checks)
    claims = [word for claim in plan.claims[own:] for word in check_words(asked(claim), claim.at_least)]
    words = ["jeito", "prove", plan.behaviour, "-m", plan.model, "--cases", plan.cases_from, "--limit", str(plan.cases),
             "--repeats", str(plan.repeats), "--seed", str(plan.seed), *claims,
             "--unit", "case" if plan.meaning == "cases like these" else "run", "--alpha", f"{plan.alpha:g}",
             *([] if plan.early else ["--no-early"]), *([] if plan.exact else ["--no-exact"])]  # fmt: skip
    return reproduction([shlex.join(words), f"jeito judge {plan.digest[:12]}", "jeito proofs"])
