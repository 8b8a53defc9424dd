"""Do the statistics keep their word? Coverage, false alarms, power and savings, by simulation; naive ones beside them.

OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python bench/proof.py [--json] [--times 2000] [--only coverage]

Each row has its figure, its Monte-Carlo standard error (none where it is reckoned, not simulated) and what it must be.
A row that is called naive is a method one might have written first: it is expected to miss.
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats as scipy_stats

from jeito.proof.intervals import binomial, chance_below, symmetric
from jeito.proof.paired import difference, sign_flip, variance_ratio
from jeito.proof.power import chance_to_hold, course, pairs_for_difference, runs_for_rate
from jeito.proof.separation import classify, energy, holm, separate, standardised
from jeito.proof.sequential import even_growth, growth, growth_of_counts

Floats = NDArray[np.float64]
ALPHA = 0.05
RATES = (0.5, 0.7, 0.9, 0.95, 0.99)
CASES = (5, 10, 20, 50, 200)
REPEATS = 8


class Row(NamedTuple):
    """`at_most`, `at_least`: what the figure must be, 2 standard errors granted; `naive` ones are expected to miss."""

    section: str
    name: str
    figure: float
    error: float | None
    at_most: float | None = None
    at_least: float | None = None
    naive: bool = False

    @property
    def ok(self) -> bool:
        slack = 2 * (self.error or 0)
        kept = (self.at_most is None or self.figure <= self.at_most + slack) and (
            self.at_least is None or self.figure >= self.at_least - slack
        )
        return bool(kept != self.naive)


def share(hits: Any) -> tuple[float, float]:
    """A share and its standard error."""
    given = np.asarray(hits, float)
    return float(given.mean()), float(np.sqrt(given.mean() * (1 - given.mean()) / given.size))


def chances(random: np.random.Generator, rate: float, shape: tuple[int, ...], clustering: str) -> Floats:
    """Each case's own chance to pass: all the same, spread, or each case always or never passing."""
    if clustering == "none":
        return np.full(shape, rate)
    if clustering == "half":  # the correlation of two repeats is 1/2
        return random.beta(rate, 1 - rate, shape)
    return (random.random(shape) < rate).astype(float)


def coverage(random: np.random.Generator, times: int) -> Iterator[Row]:
    """Intervals of a fixed number: the worst of all rates for each number of cases and kind of clustering."""
    grid = np.linspace(0.5, 0.99, 50)
    for n in (*CASES, 40 * REPEATS):
        ends = np.array([binomial(s, n) for s in range(n + 1)])
        covered = [scipy_stats.binom.pmf(range(n + 1), n, p)[(ends[:, 0] <= p) & (p <= ends[:, 1])].sum() for p in grid]
        yield Row("coverage", f"these cases, {n} runs, the worst of 50 rates", min(covered), None, at_least=0.94)
    levels = np.arange(REPEATS + 1) / REPEATS
    for clustering in ("none", "half", "full"):
        for cases in CASES:
            met, wald, student = [], [], []
            for rate in RATES:
                runs = random.binomial(REPEATS, chances(random, rate, (times, cases), clustering))
                counts = (runs[..., None] == np.arange(REPEATS + 1)).sum(1)
                low = chance_below(levels, counts, rate) >= ALPHA / 2
                high = chance_below(1 - levels, counts, 1 - rate) >= ALPHA / 2
                met.append(share(low & high))
                means = runs / REPEATS
                middle = means.mean(1)
                apart = np.abs(middle - rate)
                wald.append(share(apart <= 1.96 * np.sqrt(middle * (1 - middle) / (cases * REPEATS))))
                reach = scipy_stats.t.ppf(0.975, cases - 1)
                student.append(share(apart <= reach * means.std(1, ddof=1) / np.sqrt(cases)))
            what = f"cases like these, {cases} cases x {REPEATS}, clustering {clustering}, the worst of 5 rates"
            yield Row("coverage", what, *min(met), at_least=0.94)
            if clustering != "none":
                yield Row("coverage", f"naive: Wald over runs; {what}", *min(wald), at_least=0.94, naive=True)
            if cases <= 20 and clustering != "none":
                yield Row("coverage", f"naive: Student over cases; {what}", *min(student), at_least=0.94, naive=True)
    yield from strange_laws(random, times)
    for law, draw in (
        ("normal", lambda shape: random.normal(0, 1, shape)),
        ("Laplace", lambda shape: random.laplace(0, 1, shape)),
        ("two clumps", lambda shape: random.choice([-1.0, 1.0], shape) + random.normal(0, 0.1, shape)),
    ):
        for cases in (6, 12, 32):
            found = [symmetric(draw(cases)) for _ in range(times)]
            hits = [interval is not None and interval.low <= 0 <= interval.high for interval in found]
            yield Row("coverage", f"number, {law} differences, {cases} cases", *share(hits), at_least=0.94)
    hits = []
    for _ in range(times):
        made = symmetric(random.exponential(1, 12) - 1)
        hits.append(made is not None and made.low <= 0 <= made.high)
    yield Row("beyond its word", "number, exponential differences (not even), 12 cases", *share(hits))


def strange_laws(random: np.random.Generator, times: int) -> Iterator[Row]:
    """Four values of any size and any chance: the worst of many, lower than the truth by being picked."""
    for cases in (5, 10, 40):
        met = []
        for _ in range(60):
            levels = np.sort(random.random(4) ** random.choice([0.1, 1, 10]))
            weights = random.dirichlet(np.full(4, random.choice([0.1, 1.0])))
            counts, mean = random.multinomial(cases, weights, times), float(levels @ weights)
            low = chance_below(levels, counts, mean) >= ALPHA / 2
            met.append(share(low & (chance_below(1 - levels, counts, 1 - mean) >= ALPHA / 2)))
        yield Row(
            "coverage", f"cases like these, {cases} cases, the worst of 60 strange laws", *min(met), at_least=0.94
        )


def ever(values: Floats, mean: float, planned: int | None = None) -> NDArray[np.bool_]:
    """Was the true mean ever refused, looking after each value?"""
    limit = math.log(2 / ALPHA)
    above = growth(values, mean, planned).max(-1) >= limit
    below = growth(1 - values, 1 - mean, planned).max(-1) >= limit
    found: NDArray[np.bool_] = above | below
    return found


def peeking(random: np.random.Generator, times: int) -> Iterator[Row]:
    """Looking after each result: how often is the true rate ever refused? As many alarms as claims at their limit."""
    tables: dict[int, Floats] = {n: np.array([binomial(s, n) for s in range(n + 1)]) for n in range(5, 241, 5)}
    for rate in (0.5, 0.8, 0.9, 0.95, 0.99):
        single = (random.random((times, 240)) < rate).astype(float)
        yield Row("peeking", f"these cases, 240 runs, rate {rate}", *share(ever(single, rate)), at_most=ALPHA)
        sums = single.cumsum(1).astype(int)
        looked = [(t[sums[:, n - 1], 0] > rate) | (rate > t[sums[:, n - 1], 1]) for n, t in tables.items()]
        what = f"naive: exact interval of a fixed number looked at every 5 runs, rate {rate}"
        yield Row(
            "peeking", what, *share(np.any(looked, axis=0)), at_most=ALPHA if rate < 0.99 else None, naive=rate < 0.99
        )
        # Half of 30 cases always pass, all runs in one shuffle.
        own = np.repeat([1.0, 2 * rate - 1], 15 * REPEATS)
        plan = random.random((times, own.size)) < random.permuted(np.tile(own, (times, 1)), axis=1)
        what = f"these cases, 30 unequal cases x {REPEATS}, rate {rate}"
        yield Row("peeking", what, *share(ever(plan.astype(float), rate)), at_most=ALPHA)
        replies = np.arange(240) < 240 * rate
        plan = random.permuted(np.tile(replies, (times, 1)), axis=1)
        what = f"these replies, a plan of 240, {replies.mean():.3f} of them pass"
        yield Row("peeking", what, *share(ever(plan.astype(float), float(replies.mean()), 240)), at_most=ALPHA)
        for clustering in ("none", "half", "full"):
            runs = random.binomial(REPEATS, chances(random, rate, (times, 100), clustering)) / REPEATS
            what = f"cases like these, 100 cases x {REPEATS}, clustering {clustering}, rate {rate}"
            yield Row("peeking", what, *share(ever(runs, rate)), at_most=ALPHA)
            if clustering == "full":
                each = np.repeat(runs, REPEATS, axis=1)
                what = f"naive: the sequence for runs given clustered repeats, rate {rate}"
                yield Row("peeking", what, *share(ever(each, rate)), at_most=ALPHA, naive=True)
    four = [ever_at((random.random((times, 240)) < 0.9).astype(float), 0.9, ALPHA / 4) for _ in range(4)]
    yield Row("peeking", "four claims at their limit, any false alarm", *share(np.any(four, axis=0)), at_most=ALPHA)
    for planned, mean in ((60, 0.8), (60, 0.9), (120, 0.9)):
        what = f"these cases, {planned} runs, mean {mean}, reckoned for the worst of all unequal cases"
        yield Row("peeking", what, worst_plan(planned, mean), None, at_most=ALPHA)


def ever_at(values: Floats, mean: float, alpha: float) -> NDArray[np.bool_]:
    limit = math.log(2 / alpha)
    found: NDArray[np.bool_] = (growth(values, mean).max(-1) >= limit) | (growth(1 - values, 1 - mean).max(-1) >= limit)
    return found


def worst_plan(planned: int, mean: float) -> float:
    """The most that a shuffled plan of unequal chances can err, looked at after each run.

    Given how many pass in all, any order is as likely; so the error depends on the chances through that number alone,
    and is greatest where they are 0, 1, and one value more (Hoeffding 1956): all such plans are tried.
    """
    limit = math.log(2 / ALPHA)
    totals = np.arange(planned + 1)
    open_still = np.zeros((planned + 1, planned + 1))  # [passes in all, passes so far]
    open_still[:, 0] = 1.0
    for n in range(1, planned + 1):
        left = np.clip(totals[:, None] - totals[None], 0, None) / (planned - n + 1)
        moved = open_still * np.clip(1 - left, 0, None)
        moved[:, 1:] += (open_still * left)[:, :-1]
        refused = growth_of_counts(totals, np.maximum(n, totals), mean) >= limit
        failed = np.clip(n - totals, 0, None)
        refused |= growth_of_counts(failed, np.maximum(n, failed), 1 - mean) >= limit
        moved[:, refused] = 0.0
        open_still = moved
    error = 1 - open_still.sum(1)
    worst = 0.0
    for always in range(planned + 1):
        for never in range(planned + 1 - always):
            others = planned - always - never
            own = (planned * mean - always) / others if others else 0.0
            if (0 <= own <= 1) if others else math.isclose(always, planned * mean):
                chance = scipy_stats.binom.pmf(np.arange(others + 1), others, own)
                worst = max(worst, float(chance @ error[always : always + others + 1]))
    return worst


def pairs(random: np.random.Generator, times: int) -> Iterator[Row]:
    """A behaviour against itself: paired tests, with clustered repeats and under peeking."""
    laws: dict[str, Callable[[tuple[int, ...]], Floats]] = {
        "normal": lambda shape: random.normal(0, 1, shape),
        "Laplace": lambda shape: random.laplace(0, 1, shape),
    }
    for law, draw in laws.items():
        for cases in (6, 12, 32):
            whole = draw((times, cases, 1)) + draw((times, cases, 4))  # one case's repeats lean the same way
            means = whole.mean(2)
            p = [min(1.0, 2 * min(sign_flip(row), sign_flip(-row))) for row in means]
            what = f"sign flips, {law}, {cases} cases x 4"
            yield Row("pairs", what, *share(np.array(p) <= ALPHA), at_most=ALPHA)
            runs = whole.reshape(times, -1)
            what = f"naive: Student over pairs, {law}, {cases} cases x 4"
            yield Row(
                "pairs",
                what,
                *share(scipy_stats.ttest_1samp(runs, 0, axis=1).pvalue <= ALPHA),
                at_most=ALPHA,
                naive=True,
            )
        values = draw((times, 100))
        limit = math.log(2 / ALPHA)
        alarms = (even_growth(values, 0).max(1) >= limit) | (even_growth(-values, 0).max(1) >= limit)
        yield Row("pairs", f"number, {law}, looked at after each of 100 cases", *share(alarms), at_most=ALPHA)
        naive = [scipy_stats.ttest_1samp(values[:, :n], 0, axis=1).pvalue <= ALPHA for n in range(5, 101)]
        what = f"naive: Student after each case, {law}"
        yield Row("pairs", what, *share(np.any(naive, axis=0)), at_most=ALPHA, naive=True)
    for rate in (0.5, 0.9, 0.99):
        for cases in (5, 10, 32):
            own = chances(random, rate, (times, cases, 1), "half")
            apart = np.diff((random.random((2, times, cases, 4)) < own).mean(-1), axis=0)[0]
            levels = (np.arange(-4, 5) / 4 + 1) / 2
            counts = (np.rint(apart * 4)[..., None] == np.arange(-4, 5)).sum(1)
            alarms = chance_below(levels, counts, 0.5) < ALPHA / 2
            alarms |= chance_below(1 - levels, counts, 0.5) < ALPHA / 2
            what = f"rate {rate}, {cases} cases x 4"
            yield Row("pairs", f"interval, {what}", *share(alarms), at_most=ALPHA)
            looked = ever((apart + 1) / 2, 0.5)
            yield Row("pairs", f"interval looked at after each case, {what}", *share(looked), at_most=ALPHA)


def separations(random: np.random.Generator, times: int) -> Iterator[Row]:
    """Behaviours that do not differ: the energy test alone and among three, and the judge's accuracy."""
    cases = np.repeat(np.arange(8), 8)
    is_b = np.tile([False, True], 32)
    blocks = [list(np.flatnonzero(cases == case)) for case in range(8)]
    seeds = [[int(i), int(i) + 1] for i in range(0, 64, 2)]
    alone, coupled, accuracy, naive = [], [], [], []
    for _ in range(times):
        points = random.normal(0, 1, (64, 6)) + random.normal(0, 2, (8, 6))[cases]
        scaled = standardised(points, blocks)
        alone.append(energy(scaled, is_b, blocks, 199)[1] <= ALPHA)
        shared = points + np.repeat(random.normal(0, 1, (32, 6)), 2, axis=0)
        coupled.append(energy(standardised(shared, blocks), is_b, seeds, 199)[1] <= ALPHA)
    for _ in range(times // 4):
        points = random.normal(0, 1, (64, 6)) + random.normal(0, 2, (8, 6))[cases]
        judged = classify(points, ["b" if b else "a" for b in is_b], list(cases))
        accuracy.append(judged.interval.low > 0.5)
    yield Row("separation", "energy test, 8 cases x 4 a side", *share(alone), at_most=ALPHA)
    yield Row("separation", "energy test, coupled replies swapped within seeds", *share(coupled), at_most=ALPHA)
    yield Row("separation", "the judge's accuracy above 1/2", *share(accuracy), at_most=ALPHA)
    # Each behaviour on cases of its own kind, and replies shuffled freely: cases are taken for behaviours.
    for _ in range(times // 4):
        centre = random.normal(0, 2, (16, 6))
        points = random.normal(0, 1, (64, 6)) + centre[np.repeat(np.arange(16), 4)]
        naive.append(energy(standardised(points, [list(range(64))]), np.arange(64) >= 32, [list(range(64))], 199)[1])
    what = "naive: energy test of replies to unlike cases, shuffled freely"
    yield Row("separation", what, *share(np.array(naive) <= ALPHA), at_most=ALPHA, naive=True)
    names, three = ["a", "b", "c"] * 24, list(np.repeat(np.arange(6), 12))
    any_of = []
    for _ in range(times // 4):
        found = separate(random.normal(0, 1, (72, 6)), names, three, draws=199)
        any_of.append(min(pair.adjusted for pair in found) <= ALPHA)
    yield Row("separation", "three behaviours, any false alarm", *share(any_of), at_most=ALPHA)
    p = random.random((times, 6))
    yield Row("separation", "Holm over 6 tests", *share([min(holm(list(row))) <= ALPHA for row in p]), at_most=ALPHA)


def powers(random: np.random.Generator, times: int) -> Iterator[Row]:
    """What is found, and with how much less work. Reckoned where there is no error."""
    planned = 200
    for rate, at_least in ((0.99, 0.9), (0.98, 0.9), (0.7, 0.9), (0.95, 0.8), (0.5, 0.8)):
        made = course(planned, rate, at_least)
        saved = 1 - float(made.runs[-1]) / planned
        what = f"rate {rate}, claim {at_least}, plan of {planned}"
        yield Row("savings", f"runs saved, {what}", saved, None, at_least=0.4)
        yield Row("savings", f"right decisions, {what}", float(max(made.holds[-1], made.fails[-1])), None, at_least=0.9)
    for rate, at_least in ((0.95, 0.9), (0.93, 0.9)):
        made = course(planned, rate, at_least)
        yield Row(
            "savings", f"runs saved near the limit, rate {rate}, claim {at_least}", 1 - made.runs[-1] / planned, None
        )
        yield Row("savings", f"... and decided, stopping early, rate {rate}", float(made.holds[-1]), None)
        what = f"... and decided by the exact interval at the end, rate {rate}"
        yield Row("savings", what, chance_to_hold(planned, rate, at_least), None)
    yield Row("power", "runs to show 0.9 with chance 0.8 at rate 0.97", float(runs_for_rate(0.97, 0.9) or 0), None)
    for effect in (0.8, 1.2, 1.6):
        found = []
        cases = list(np.repeat(np.arange(16), 4))
        blocks = [list(range(4 * i, 4 * i + 4)) for i in range(16)]
        is_b = np.tile([False, True], 32)
        for _ in range(times // 4):
            points = random.normal(0, 1, (64, 6)) + random.normal(0, 2, (16, 6))[cases]
            points[is_b, 0] += effect
            found.append(energy(standardised(points, blocks), is_b, blocks, 199)[1] <= ALPHA)
        yield Row("power", f"energy test, 32 a side, one feature of six {effect} deviations apart", *share(found))
    for won, lost in ((0.4, 0.05), (0.3, 0.02)):
        apart = random.choice([1.0, -1.0, 0.0], (times // 4, 32), p=[won, lost, 1 - won - lost])
        found = [min(sign_flip(row), sign_flip(-row)) <= ALPHA / 2 for row in apart]
        yield Row("power", f"rate, 32 pairs, {won:.0%} won and {lost:.0%} lost", *share(found))
    n = pairs_for_difference(0.5, 1.0, power=0.8)
    drawn = random.normal(0.5, 1, (times // 4, n))
    found = [min(sign_flip(row), sign_flip(-row)) <= ALPHA / 2 for row in drawn]
    yield Row("power", f"number, half a deviation, {n} pairs planned for 0.8", *share(found), at_least=0.77)
    left = random.normal(0, 1, (200, 8))
    right = 0.8 * left + 0.6 * random.normal(0, 1, (200, 8))
    names = list(np.repeat(np.arange(200), 8))
    ratio = variance_ratio(list(left.ravel()), list(right.ravel()), names)
    yield Row("power", "variance ratio of coupling, 0.2 in truth", float(ratio or 0), None, at_least=0.17, at_most=0.23)
    quick = difference(list(left.ravel()), list(right.ravel()), names, kind="number")
    yield Row("power", "pairs read by difference()", float(quick.pairs), None, at_least=1600)


SECTIONS = {"coverage": coverage, "peeking": peeking, "pairs": pairs, "separation": separations, "power": powers}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--times", type=int, default=2000)
    parser.add_argument("--only", choices=SECTIONS)
    given = parser.parse_args()
    start, rows = time.perf_counter(), []
    for name, section in SECTIONS.items():
        if given.only in (None, name):
            for row in section(np.random.default_rng(7), given.times):
                rows.append(row)
                if not given.json:
                    error = "" if row.error is None else f"± {row.error:.4f}"
                    print(
                        f"{'ok  ' if row.ok else 'MISS'} {row.figure:8.4f} {error:<9} {row.section}: {row.name}",
                        flush=True,
                    )
    missed = [row.name for row in rows if not row.ok]
    if given.json:
        results = [row._asdict() | {"ok": row.ok} for row in rows]
        print(json.dumps({"times": given.times, "missed": missed, "results": results}))
    else:
        print(f"{len(rows)} figures, {len(missed)} missed, {time.perf_counter() - start:.0f} s")
    raise SystemExit(1 if missed else 0)


if __name__ == "__main__":
    main()
