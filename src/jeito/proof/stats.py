"""What the outcomes of one claim show: holds, fails or undecided. Pure functions; knows nothing of traces or models.

Outcomes come in plan order: True, False, or None where a check could not measure. Each has the name of its case.
"""

import math
from collections.abc import Hashable, Sequence
from itertools import takewhile
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from jeito.proof.intervals import Interval, bounded, chance_below
from jeito.proof.sequential import always, growth

# What a rate speaks of. The order of the plan is part of it: an interval that may be looked at early needs it.
# - these cases: the unit is the run; the rate is the mean of the cases' own chances to pass. All runs are shuffled.
# - cases like these: the unit is the case; the rate is that of wherever these cases came from. The cases are shuffled,
#   the repeats of one stay together.
# - these replies: nothing is drawn (temperature 0), so one run a case; the rate is the share of the whole plan, known
#   for certain when all are done. All runs are shuffled.
Meaning = Literal["these cases", "cases like these", "these replies"]
Decision = Literal["holds", "fails", "undecided"]
Unit = Literal["run", "case"]
Floats = NDArray[np.float64]

# Further units than this are not worth naming.
FARTHEST = 100_000


class Decided(NamedTuple):
    """What a claim's outcomes show. `low` counts what was not measured as failed, `high` as passed.

    `trials`: runs, with the unmeasured; `clusters`: cases; `rate`: passed of the measured, none where none was;
    `more`: how many further units would decide if they go on as these did; none where it is decided, or where no
    number would, and `why` says so.
    """

    decision: Decision
    passed: int
    trials: int
    clusters: int
    unmeasured: int
    rate: float | None
    low: float
    high: float
    more: int | None
    unit: Unit
    why: str


class Best(NamedTuple):
    """What a plan can show at best, all passing. `needed`: how many units could; none if no number could."""

    low: float
    can_hold: bool
    needed: int | None
    unit: Unit


class Units(NamedTuple):
    """The values that an interval is made of, each in [0, 1]: the least and the most that each may be.

    `ends`: how many outcomes had been taken when each was complete.
    """

    least: Floats
    most: Floats
    ends: NDArray[np.int64]


def decide(
    outcomes: Sequence[bool | None],
    cases: Sequence[Hashable],
    at_least: float,
    *,
    meaning: Meaning = "these cases",
    repeats: int = 1,
    planned: int | None = None,
    sequential: bool = True,
    claims: int = 1,
    alpha: float = 0.05,
) -> Decided:
    """Judge one claim by its outcomes.

    sequential: the interval covers at all times at once, so one may look and stop, or go on beyond the plan, at will.
    Without it the interval is narrower, and wrong if the number of runs was chosen by looking. `repeats`: runs of each
    case in the plan; `planned`: runs in all, needed for these replies. `claims`: how many are judged together; each
    gets its share of alpha (Bonferroni), so that all intervals cover at once with 1 - alpha, whenever one stops.
    """
    units = _units(outcomes, cases, meaning, repeats, whole=sequential)
    finite = planned if meaning == "these replies" else None
    # Where all is known in the end, nothing is narrower than what knows what is left.
    sequential, share = sequential or finite is not None, alpha / claims
    interval = Interval(0.0, 1.0)
    if len(units.least) and sequential:
        interval = always(units.least, units.most, share, finite)
    elif len(units.least):
        interval = Interval(bounded(units.least, share).low, bounded(units.most, share).high)
    decision: Decision = "undecided"
    if sequential:
        _, decision = _first_decision(units, at_least, share, finite)
    elif interval.low >= at_least:
        decision = "holds"
    elif interval.high < at_least:
        decision = "fails"
    more = None
    if decision == "undecided" and len(units.least):
        more = _more(units, at_least, share, finite) if sequential else _more_fixed(units, at_least, share)
    passed = sum(outcome is True for outcome in outcomes)
    unmeasured = sum(outcome is None for outcome in outcomes)
    unit: Unit = "case" if meaning == "cases like these" else "run"
    return Decided(
        decision=decision,
        passed=passed,
        trials=len(outcomes),
        clusters=len(set(cases)),
        unmeasured=unmeasured,
        rate=passed / (len(outcomes) - unmeasured) if unmeasured < len(outcomes) else None,
        low=interval.low,
        high=interval.high,
        more=more,
        unit=unit,
        why=_why(decision, units, at_least, more, unit),
    )


def decided_at(
    outcomes: Sequence[bool | None],
    cases: Sequence[Hashable],
    at_least: float,
    *,
    meaning: Meaning = "these cases",
    repeats: int = 1,
    planned: int | None = None,
    claims: int = 1,
    alpha: float = 0.05,
) -> int | None:
    """How many outcomes had been taken when `decide` first knew; none if it does not yet. Quick: ask after each."""
    units = _units(outcomes, cases, meaning, repeats, whole=True)
    finite = planned if meaning == "these replies" else None
    at, _ = _first_decision(units, at_least, alpha / claims, finite)
    return None if at is None else int(units.ends[at])


def at_best(
    n_runs: int,
    n_cases: int,
    at_least: float,
    *,
    meaning: Meaning = "these cases",
    sequential: bool = True,
    claims: int = 1,
    alpha: float = 0.05,
) -> Best:
    """What could be shown if every run passed: before the first run, can the claim hold at all?"""
    unit: Unit = "case" if meaning == "cases like these" else "run"
    n, share = n_cases if unit == "case" else n_runs, alpha / claims
    if meaning == "these replies":
        return Best(1.0, True, math.ceil(at_least * n_runs), unit)
    passing = np.ones(n)
    low = always(passing, passing, share).low if sequential else bounded(passing, share).low
    if at_least == 1:
        return Best(low, False, None, unit)
    needed: int | None = math.ceil(math.log(share / 2) / math.log(at_least))
    if sequential:
        grown = growth(np.ones(FARTHEST), at_least) >= math.log(2 / share)
        needed = int(grown.argmax()) + 1 if grown.any() else None
    return Best(low, needed is not None and needed <= n, needed, unit)


def by_case(cases: Sequence[Hashable], repeats: int | None = None) -> list[list[int]]:
    """The places of each case's runs, cases as they first come; with `repeats`, those before the first unfinished."""
    runs: dict[Hashable, list[int]] = {}
    for index, case in enumerate(cases):
        runs.setdefault(case, []).append(index)
    if repeats is None:
        return list(runs.values())
    return [of_case[:repeats] for of_case in takewhile(lambda of_case: len(of_case) >= repeats, runs.values())]


def _units(
    outcomes: Sequence[bool | None], cases: Sequence[Hashable], meaning: Meaning, repeats: int, *, whole: bool
) -> Units:
    """Runs, or the means of cases in the order of their first run; if `whole`, those before the first unfinished."""
    least = [float(outcome is True) for outcome in outcomes]
    most = [float(outcome is not False) for outcome in outcomes]
    if meaning != "cases like these":
        return Units(np.array(least), np.array(most), np.arange(1, len(least) + 1))
    kept = by_case(cases, repeats if whole else None)
    # A case counts from when it and all before it are complete.
    ends = np.maximum.accumulate(np.array([of_case[-1] + 1 for of_case in kept], dtype=np.int64))
    means = [np.array([np.mean([side[i] for i in of_case]) for of_case in kept]) for side in (least, most)]
    return Units(means[0], means[1], ends)


def _first_decision(units: Units, at_least: float, alpha: float, finite: int | None) -> tuple[int | None, Decision]:
    """The first unit at which an interval that covers always lies on one side of the claim."""
    holds = growth(units.least, at_least, finite) >= math.log(2 / alpha)
    fails = growth(1 - units.most, 1 - at_least, finite) >= math.log(2 / alpha)
    if finite is not None:
        holds |= np.cumsum(units.least) >= at_least * finite - 1e-9
        fails |= np.cumsum(1 - units.most) > (1 - at_least) * finite + 1e-9
    reached = holds | fails
    if not reached.any():
        return None, "undecided"
    at = int(reached.argmax())
    return at, "holds" if holds[at] else "fails"


def _more(units: Units, at_least: float, alpha: float, finite: int | None) -> int | None:
    """Units until a decision if those seen come again and again; a finite plan has no more than it has."""
    n = len(units.least)
    size = finite or FARTHEST
    ahead = Units(np.resize(units.least, size), np.resize(units.most, size), np.resize(units.ends, size))
    at, _ = _first_decision(ahead, at_least, alpha, finite)
    return None if at is None else at + 1 - n


def _more_fixed(units: Units, at_least: float, alpha: float) -> int | None:
    """Units beyond these with which the exact interval would decide, in the proportions of these."""
    n = len(units.least)

    def decides(total: int) -> bool:
        for values, mean in ((units.least, at_least), (1 - units.most, 1 - at_least)):
            levels, counts = np.unique(values, return_counts=True)
            # One failure refutes 1: there is none here, or it would be decided.
            if mean > 0 and float(chance_below(levels, counts * total / n, mean)) <= alpha / 2:
                return True
        return False

    # Upwards from here: the integral behind it is not made for chances that are as good as nothing.
    few, enough = n, 2 * n
    while not decides(enough):
        few, enough = enough, 2 * enough
        if enough - n > FARTHEST:
            return None
    while enough - few > 1:
        middle = (few + enough) // 2
        few, enough = (few, middle) if decides(middle) else (middle, enough)
    return enough - n


def _why(decision: Decision, units: Units, at_least: float, more: int | None, unit: Unit) -> str:
    if decision != "undecided":
        return f"the interval lies {'at or above' if decision == 'holds' else 'below'} {at_least:g}"
    if more is not None:
        return f"{more} more {unit}{'s' * (more > 1)} would decide if what comes is like what came"
    if not len(units.least):
        return f"no {unit} is complete"
    if (units.least < units.most).any() and units.least.mean() <= at_least <= units.most.mean():
        return "too much could not be measured: more of the same decides nothing"
    return f"what was seen is so near {at_least:g} that {FARTHEST} more {unit}s would not decide"
