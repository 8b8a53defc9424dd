"""What a plan is likely to show, and how many runs a question needs, before any is made. Pure functions."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from jeito.proof.intervals import binomial
from jeito.proof.sequential import growth_of_counts

Floats = NDArray[np.float64]


class Course(NamedTuple):
    """How a plan that stops early is likely to go; entry n - 1 of each is for a plan of n runs.

    `holds`, `fails`: the chance to have decided so; `runs`: how many are made in the mean.
    """

    holds: Floats
    fails: Floats
    runs: Floats


def course(planned: int, rate: float, at_least: float, *, claims: int = 1, alpha: float = 0.05) -> Course:
    """Reckon, not simulate, what a claim of `at_least` meets if every run, or whole case, passes with chance `rate`."""
    limit = math.log(2 * claims / alpha)
    open_still = np.zeros(planned + 1)  # the chance of each number of passes, nothing being decided yet
    open_still[0] = 1.0
    passed = np.arange(planned + 1)
    made = Course(np.zeros(planned), np.zeros(planned), np.zeros(planned))
    for n in range(1, planned + 1):
        made.runs[n - 1] = open_still.sum()
        open_still[1 : n + 1] = open_still[1 : n + 1] * (1 - rate) + open_still[:n] * rate
        open_still[0] *= 1 - rate
        here = slice(0, n + 1)
        holds = growth_of_counts(passed[here], n, at_least) >= limit
        fails = growth_of_counts(n - passed[here], n, 1 - at_least) >= limit
        made.holds[n - 1] = open_still[here][holds].sum()
        made.fails[n - 1] = open_still[here][fails].sum()
        open_still[here][holds | fails] = 0.0
    return Course(*(np.cumsum(part) for part in made))


def chance_to_hold(trials: int, rate: float, at_least: float, *, claims: int = 1, alpha: float = 0.05) -> float:
    """The chance that the exact interval of so many trials lies at or above `at_least`: nobody looks before the end."""
    from scipy.stats import binom

    enough = next((n for n in range(trials + 1) if binomial(n, trials, alpha / claims).low >= at_least), None)
    return 0.0 if enough is None else float(binom.sf(enough - 1, trials, rate))


def runs_for_rate(
    rate: float, at_least: float, *, power: float = 0.8, claims: int = 1, alpha: float = 0.05, most: int = 2048
) -> int | None:
    """The least plan, stopping early, that shows the claim with chance `power` at this rate; none up to `most`."""
    planned = 64
    while planned <= most:
        reached = course(planned, rate, at_least, claims=claims, alpha=alpha).holds >= power
        if reached.any():
            return int(reached.argmax()) + 1
        planned *= 2
    return None


def pairs_for_difference(
    difference: float, deviation: float, *, power: float = 0.8, tests: int = 1, alpha: float = 0.05
) -> int:
    """How many clusters of pairs find a mean difference whose clusters vary by `deviation`.

    Two-sided, by the normal law, with what Student's adds for few (Guenther 1981).
    """
    from scipy.stats import norm

    against = float(norm.ppf(1 - alpha / tests / 2))
    return math.ceil(((against + float(norm.ppf(power))) * deviation / difference) ** 2 + against**2 / 2)
