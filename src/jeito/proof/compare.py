"""Behaviours, models, precisions, prompts side by side: coupled pairs of replies, and what differs between them.

Reply r of a case has one seed on every side, so two sides share their noise. Knows nothing of how replies were made.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import combinations
from statistics import fmean, median
from typing import Literal

from jeito.behaviour.behaviour import Claim
from jeito.errors import InputError
from jeito.proof.checks import UNDONE
from jeito.proof.comparison import (
    Apart,
    Comparison,
    Confusion,
    Divergence,
    Pair,
    Separation,
    Share,
    Side,
    Variety,
)
from jeito.proof.intervals import Interval
from jeito.proof.measured import (
    Measure,
    SettingOf,
    clusters_of,
    measure_checks,
    measure_features,
    of_planned,
    questions,
)
from jeito.proof.measures import words
from jeito.proof.paired import Difference, difference
from jeito.proof.plan import ALPHA
from jeito.proof.runs import Replies
from jeito.proof.separation import Confusion as Guessed
from jeito.proof.separation import classify, diversity, holm, separate
from jeito.proof.stats import Decision, by_case

Meaning = Literal["these cases", "cases like these"]


def contrast(
    sides: Sequence[Replies],
    claims: Sequence[Claim] = (),
    *,
    at_least: Mapping[str, float] = {},
    setting_of: SettingOf = of_planned,
    meaning: Meaning = "cases like these",
    alpha: float = ALPHA,
    separate_too: bool = True,
) -> Comparison:
    """Compare sides that have replied to the same cases. No model is asked, but by a check that asks one.

    `claims`: checks to compare by, beside the behaviours' own; how many must pass is not looked at. `at_least`: by a
    check's name, how much more of it the later of two sides is claimed to have. Raises InputError for sides of
    different cases.
    """
    refuse_unequal(sides)
    checks = measure_checks(sides, questions(sides, claims), setting_of)
    features = measure_features(sides)
    pairs = [
        *paired(sides, checks, meaning=meaning, alpha=alpha, at_least=at_least),
        *paired(sides, features, meaning=meaning, alpha=alpha),
    ]
    decisions = {pair.decision for pair in pairs} - {None}
    plan = sides[0].planned.plan
    return Comparison(
        sides=tuple(map(_side, sides)),
        cases=plan.cases_from,
        clusters=plan.cases,
        repeats=plan.repeats,
        seed=plan.seed,
        meaning=meaning,
        alpha=alpha,
        pairs=tuple(pairs),
        divergence=tuple(_divergence(a, b) for a, b in combinations(sides, 2)),
        separation=_separation(sides, features, alpha) if separate_too else None,
        decision=worst(decisions),
        notes=tuple(_notes(sides)),
        runs=tuple(trace for side in sides for trace in side.traces),
        outcomes={check.name: tuple(map(tuple, check.values)) for check in checks},
    )


def paired(
    sides: Sequence[Replies], measures: Sequence[Measure], *, meaning: Meaning, alpha: float,
    at_least: Mapping[str, float] = {}, against_first: bool = False,
) -> list[Pair]:  # fmt: skip
    """Every measure of every two sides, or of the first and each other; all intervals hold at once."""
    numbered = list(enumerate(sides))
    chosen = [pair for pair in combinations(numbered, 2) if pair[0][0] == 0 or not against_first]
    clusters = clusters_of(sides[0])
    found = []
    for measure in measures:
        for (i, a), (j, b) in chosen:
            values = measure.values[i], measure.values[j]
            gave = difference(
                *values, clusters, kind="rate" if measure.kind == "check" else "number", meaning=meaning,
                claims=len(measures) * len(chosen), alpha=alpha,
            )  # fmt: skip
            found.append((a.name, b.name, measure, values, gave))
    adjusted = holm([gave.p for *_, gave in found])
    return [
        _pair(a, b, measure, values, clusters, gave, holms, at_least.get(measure.name))
        for (a, b, measure, values, gave), holms in zip(found, adjusted, strict=True)
    ]


def _pair(
    a: str, b: str, measure: Measure, values: tuple[list[float | None], list[float | None]],
    clusters: Sequence[int], gave: Difference, adjusted: float, at_least: float | None,
) -> Pair:  # fmt: skip
    whole = [place for place in range(len(clusters)) if values[0][place] is not None and values[1][place] is not None]
    groups = [[whole[i] for i in group] for group in by_case([clusters[place] for place in whole])]
    return Pair(
        a=a, b=b, check=measure.name, kind=measure.kind, a_mean=_mean(values[0], groups),
        b_mean=_mean(values[1], groups), difference=gave.mean, low=gave.low, high=gave.high, p=gave.p,
        adjusted=adjusted, n=gave.pairs, clusters=gave.clusters, unmeasured=gave.unmeasured,
        variance_ratio=gave.variance_ratio, at_least=at_least,
        decision=None if at_least is None else _decision(gave, at_least), why=gave.why,
    )  # fmt: skip


def _mean(values: Sequence[float | None], groups: Sequence[Sequence[int]]) -> float | None:
    """The mean over cases, as `difference` has it."""
    means = [fmean(value for i in group if (value := values[i]) is not None) for group in groups]
    return fmean(means) if means else None


def _decision(gave: Difference, at_least: float) -> Decision:
    if gave.low is not None and gave.low >= at_least:
        return "holds"
    return "fails" if gave.high is not None and gave.high < at_least else "undecided"


def worst(decisions: Collection[Decision | None]) -> Decision | None:
    """Of several: fails if one does, else undecided if one is."""
    return next((one for one in ("fails", "undecided", "holds") if one in decisions), None)


def refuse_unequal(sides: Sequence[Replies]) -> None:
    """Raise InputError for what cannot be paired."""
    if len(sides) < 2:
        raise InputError("one side is no comparison", hint="a second -b or -m")
    first = sides[0].planned.plan
    for side in sides[1:]:
        plan = side.planned.plan
        if (plan.cases_digest, plan.repeats) != (first.cases_digest, first.repeats):
            raise InputError(
                f"{side.name!r} was asked other cases than {sides[0].name!r}", hint="the same --cases and -n for both"
            )
    names = [side.name for side in sides]
    if twice := next((name for at, name in enumerate(names) if name in names[:at]), None):
        raise InputError(f"two sides are called {twice!r}", hint="leave one out")


def _side(side: Replies) -> Side:
    plan = side.planned.plan
    return Side(
        name=side.name, behaviour=plan.behaviour, model=plan.model, plan=plan.digest,
        exact=all(trace.receipt.exact.held for trace in side.traces),
        unmeasured=sum(trace.finish is None or trace.finish in UNDONE for trace in side.traces),
    )  # fmt: skip


def _divergence(a: Replies, b: Replies) -> Divergence:
    shared: list[int | None] = []
    n = identical = 0
    for one, other in zip(a.traces, b.traces, strict=True):
        left, right = ([token.id for token in trace.tokens] for trace in (one, other))
        at = next((i for i, (x, y) in enumerate(zip(left, right, strict=False)) if x != y), min(len(left), len(right)))
        n += bool(left and right)
        identical += bool(left and left == right)
        shared.append(None if left == right or not left or not right else at)
    apart = [count for count in shared if count is not None]
    return Divergence(
        a=a.name, b=b.name, n=n, identical=identical, median=float(median(apart)) if apart else None,
        tokens=tuple(shared),
    )  # fmt: skip


def _separation(sides: Sequence[Replies], measured: Sequence[Measure], alpha: float) -> Separation:
    names = [side.name for side in sides for _ in side.traces]
    clusters = [case for side in sides for case in clusters_of(side)]
    repeats = [place % side.planned.plan.repeats for side in sides for place in range(len(side.traces))]
    used, columns = [], []
    for measure in measured:
        column = [value for side in measure.values for value in side]
        known = [value for value in column if value is not None]
        if known:
            # Whose reply it is has no say in what is put where nothing could be measured: the test stays honest.
            used.append(measure.name)
            columns.append([fmean(known) if value is None else value for value in column])
    rows = list(zip(*columns, strict=True))
    variety = tuple(
        Variety(side=side.name, within=_share(*found[:2]), between=_share(*found[2:]))
        for side in sides
        if (found := diversity([words(t.answer.casefold()) for t in side.traces], clusters_of(side), alpha=alpha))
    )
    if not rows:
        return Separation(pairs=(), confusion=None, variety=variety, features=(), why="no reply could be measured")
    apart = tuple(Apart(**found._asdict()) for found in separate(rows, names, clusters, repeats))
    confusion, why = None, ""
    try:
        confusion = _confusion(classify(rows, names, clusters, alpha=alpha))
    except InputError as error:
        why = str(error)
    return Separation(pairs=apart, confusion=confusion, variety=variety, features=tuple(used), why=why)


def _share(rate: float | None, interval: Interval | None) -> Share | None:
    return None if rate is None or interval is None else Share(rate=rate, low=interval.low, high=interval.high)


def _confusion(found: Guessed) -> Confusion:
    of_row = [[count / max(1, sum(row)) for count in row] for row in found.counts]
    return Confusion(
        names=found.names,
        counts=found.counts,
        rates=tuple(
            tuple(Share(rate=rate, low=end.low, high=end.high) for rate, end in zip(*row, strict=True))
            for row in zip(of_row, found.rates, strict=True)
        ),
        accuracy=Share(rate=found.accuracy, low=found.interval.low, high=found.interval.high),
        clusters=found.clusters,
    )


def _notes(sides: Sequence[Replies]) -> Iterable[str]:
    for side in map(_side, sides):
        if side.unmeasured:
            yield f"{side.name}: {side.unmeasured} runs failed; checks count them as the worst for each end"
        if not side.exact:
            yield f"{side.name}: not every reply was exact, so what else ran may have changed some"
