"""Intervals for a mean from a number of values fixed beforehand. Pure functions; knows nothing of cases or claims.

For intervals that may be looked at while the values come in, see sequential.py.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

# Beyond so many values, their subsets are drawn instead of listed.
LISTED = 15
DRAWN = 9_999


class Interval(NamedTuple):
    """Both ends belong to it."""

    low: float
    high: float


def binomial(passed: int, trials: int, alpha: float = 0.05) -> Interval:
    """The exact interval of Clopper and Pearson (1934) for a rate.

    It also holds, with room to spare, for the mean of unequal rates, one for each run: Hoeffding (1956).
    """
    from scipy.stats import beta

    low = beta.ppf(alpha / 2, passed, trials - passed + 1) if passed else 0.0
    high = beta.ppf(1 - alpha / 2, passed + 1, trials - passed) if passed < trials else 1.0
    return Interval(float(low), float(high))


def bounded(values: ArrayLike, alpha: float = 0.05) -> Interval:
    """An interval for the mean of independent values in [0, 1], however they are distributed within.

    For values of 0 and 1 it is Clopper and Pearson's. Gaffke (2004); Learned-Miller and Thomas (2019). That it always
    covers is proved for some distributions only; bench/proof.py looks for others where it does not.
    """
    levels, counts = np.unique(np.asarray(values, float), return_counts=True)
    if set(levels) <= {0.0, 1.0}:
        return binomial(int(counts @ levels), int(counts.sum()), alpha)
    low = _crossing(lambda mean: float(chance_below(levels, counts, mean)), alpha / 2)
    high = 1 - _crossing(lambda mean: float(chance_below(1 - levels, counts, mean)), alpha / 2)
    return Interval(low, high)


def chance_below(levels: Floats, counts: NDArray[Any], mean: float) -> Floats:
    """How likely a mean up to `mean` is, if what was not seen may be as bad as can be: the lower end's p-value.

    `levels` [n] are the values seen, `counts` [..., n] how often each was. The values and one zero more are weighted
    by random shares that sum to 1 (uniform spacings). Such shares are exponential numbers over their sum, so this is
    the chance that a weighted sum of gamma numbers is not above 0, by Imhof's (1961) integral.
    """
    steps = np.append(levels, 0.0) - mean
    times = np.concatenate([counts, np.ones((*counts.shape[:-1], 1))], axis=-1)
    # Gauss and Legendre's nodes on (0, 1), carried to (0, ∞) where the sum's deviation is the unit.
    nodes, weights = _nodes(128)
    at = (1 + nodes) / (1 - nodes)
    unit = np.sqrt(times @ steps**2)
    scaled = steps * (at[:, None] / unit[..., None, None])
    angle = (times[..., None, :] * np.arctan(scaled)).sum(-1)
    size = np.exp(-0.5 * (times[..., None, :] * np.log1p(scaled**2)).sum(-1))
    area = (weights * 2 / (1 - nodes) ** 2 / at * np.sin(angle) * size).sum(-1)
    found: Floats = np.clip(0.5 - area / np.pi, 0, 1)
    return found


def symmetric(values: ArrayLike, alpha: float = 0.05) -> Interval | None:
    """An interval for the centre of independent values spread evenly around it; none if there are too few of them.

    Its ends are means of subsets (Hartigan 1969): those centres that the sign-flip test does not refuse.
    """
    given = np.asarray(values, float)
    means = subset_means(given)
    # The empty subset is below and above every centre: it counts against each end.
    drop = int(np.floor(alpha / 2 * (len(means) + 1) + 1e-9)) - 1
    return Interval(float(means[drop]), float(means[-1 - drop])) if drop >= 0 else None


def subset_means(values: Floats) -> Floats:
    """Sorted means of all subsets but the empty one; where these are too many, of random ones, the same each time."""
    n = len(values)
    if n <= LISTED:
        chosen = (np.arange(1, 2**n)[:, None] >> np.arange(n)) & 1
    else:
        chosen = np.random.default_rng(n).integers(0, 2, (DRAWN, n))
        chosen = chosen[chosen.any(axis=1)]
    return np.sort(chosen @ values / chosen.sum(axis=1))


@cache
def _nodes(count: int) -> tuple[Floats, Floats]:
    nodes, weights = np.polynomial.legendre.leggauss(count)
    return nodes, weights


def _crossing(chance: Callable[[float], float], level: float) -> float:
    """The mean whose chance is the level; `chance` grows from 0 to 1 over [0, 1]."""
    from scipy.optimize import brentq

    # All values may be as good as 0.
    return float(brentq(lambda mean: chance(mean) - level, 1e-9, 1.0, xtol=1e-9)) if chance(1e-9) < level else 0.0
