"""Intervals that may be looked at after each value: they cover at all times at once. Pure functions; knows no claims.

A doubter of a mean bets on the values against it, with money that cannot grow on average if that mean is true. A mean
against which the money grew twenty-fold is refused at 5 % (Ville's inequality). Waudby-Smith and Ramdas (2024),
"Estimating means of bounded random variables by betting".
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from jeito.proof.intervals import Interval

Floats = NDArray[np.float64]

# The money is spread over bets of these sizes, as shares of what may be lost at once: the arcsine law, dense at both
# ends, for means that are nearly right and for values that are nearly all alike.
BETS = (1 - np.cos(np.pi * (np.arange(16) + 0.5) / 16)) / 2

# Distances from the centre, in deviations, at which one would bet most of the money on one side.
STEPS = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2)


def growth(values: ArrayLike, mean: ArrayLike, planned: int | None = None) -> Floats:
    """The logarithm of the money after each value [..., n] in [0, 1], begun with 1 and bet on a mean above `mean`.

    It falls as `mean` grows and grows with each value. With `planned`, the values are the first of so many in a
    random order, none comes twice, and `mean` is that of them all.
    """
    given = np.asarray(values, float)
    now = np.asarray(mean, float)[..., None] * np.ones_like(given)
    if planned is not None:
        before = np.cumsum(given, axis=-1) - given
        now = (planned * now - before) / (planned - np.arange(given.shape[-1]))
    # A mean that what was seen has already made impossible is refused by any value above it.
    now = np.maximum(now, 1e-300)
    total = np.full(given.shape, -np.inf)
    for bet in BETS:
        total = np.logaddexp(total, np.cumsum(np.log1p(bet * (given / now - 1)), axis=-1))
    found: Floats = total - np.log(len(BETS))
    return found


def growth_of_counts(passed: ArrayLike, trials: ArrayLike, mean: float) -> Floats:
    """As `growth`, at the end of so many values of which `passed` are 1 and the others 0, in whatever order."""
    good = np.asarray(passed, float)
    bad = np.asarray(trials, float) - good
    each = [good * np.log1p(bet * (1 / max(mean, 1e-300) - 1)) + bad * np.log1p(-bet) for bet in BETS]
    found: Floats = np.logaddexp.reduce(each, axis=0) - np.log(len(BETS))
    return found


def always(low_values: ArrayLike, high_values: ArrayLike, alpha: float = 0.05, planned: int | None = None) -> Interval:
    """An interval that covers the mean, and did after each value so far: at most alpha of all sequences ever fail it.

    `low_values` and `high_values` [n] are what is known of each value, the least and the most: equal where it was
    measured.
    """
    least, most = np.asarray(low_values, float), np.asarray(high_values, float)
    whole = _after(least, most, alpha, planned)
    if whole.low <= whole.high:
        return whole
    # Values in no random order can refuse every mean: what they said before that stands.
    few, many = 0, len(least)
    while many - few > 1:
        middle = (few + many) // 2
        found = _after(least[:middle], most[:middle], alpha, planned)
        few, many = (middle, many) if found.low <= found.high else (few, middle)
    return _after(least[:few], most[:few], alpha, planned)


def _after(least: Floats, most: Floats, alpha: float, planned: int | None) -> Interval:
    """What these values leave: its ends have crossed where they refuse every mean."""
    low, high = _lowest(least, alpha / 2, planned), 1 - _lowest(1 - most, alpha / 2, planned)
    if planned is not None:
        low = max(low, float(least.sum()) / planned)
        high = min(high, 1 - float((1 - most).sum()) / planned)
    return Interval(low, high)


def even_growth(values: ArrayLike, centre: ArrayLike) -> Floats:
    """The logarithm of the money after each value [..., n] of any size, bet on a centre above `centre`.

    Where values are spread evenly around the centre, a value's side is a fair coin however far away it is: one stakes
    on it the tanh of the distance, up to 99 %. It falls as `centre` grows.
    """
    given = np.asarray(values, float)
    count = np.arange(given.shape[-1])
    # The unit of distance is the deviation of the values before; the first two are not bet on.
    before, squares = np.cumsum(given, axis=-1) - given, np.cumsum(given**2, axis=-1) - given**2
    spread = np.sqrt(np.maximum(squares - before**2 / np.maximum(count, 1), 0) / np.maximum(count - 1, 1))
    away = (given - np.asarray(centre, float)[..., None]) / np.maximum(spread, 1e-9)
    total = np.full(given.shape, -np.inf)
    for bet in STEPS:
        total = np.logaddexp(total, np.cumsum(np.log1p(0.99 * np.tanh(bet * away) * (count > 1)), axis=-1))
    found: Floats = total - np.log(len(STEPS))
    return found


def even_always(values: ArrayLike, alpha: float = 0.05) -> Interval | None:
    """As `always`, for the centre of values of any size spread evenly around it; none while they are too few."""
    given = np.asarray(values, float)
    # Far from all values every bet is won.
    if (len(given) - 2) * np.log1p(0.99) < np.log(2 / alpha):
        return None
    low, high = _edge(given, alpha / 2), -_edge(-given, alpha / 2)
    return Interval(low, high)


def _edge(values: Floats, alpha: float) -> float:
    """The largest centre against which the money grew enough."""
    reach = float(np.ptp(values)) or 1e-6
    high = float(values.max())
    low = float(values.min()) - reach
    while even_growth(values, low).max() < np.log(1 / alpha):
        low, reach = low - reach, 2 * reach
    for _ in range(40):
        middle = (low + high) / 2
        refused = even_growth(values, middle).max() >= np.log(1 / alpha)
        low, high = (middle, high) if refused else (low, middle)
    return low


def _lowest(values: Floats, alpha: float, planned: int | None) -> float:
    """The largest mean against which the money never grew enough."""
    low, high = 0.0, 1.0
    for _ in range(24 if values.any() else 0):
        middle = (low + high) / 2
        refused = growth(values, middle, planned).max() >= np.log(1 / alpha)
        low, high = (middle, high) if refused else (low, middle)
    return low
