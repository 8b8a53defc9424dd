"""Two behaviours on the same cases and seeds: how much do they differ? Pure functions; knows nothing of traces."""

from collections.abc import Hashable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from jeito.proof.intervals import DRAWN, LISTED, Interval, bounded, symmetric
from jeito.proof.sequential import always, even_always, even_growth, growth
from jeito.proof.stats import by_case

Floats = NDArray[np.float64]


class Difference(NamedTuple):
    """How much more b has than a, in the mean over cases, and how sure that is.

    `pairs`: with the unmeasured; `clusters`: cases, or pairs where these cases are spoken of; `low`, `high`: none where
    there are too few clusters for an interval, and `why` says so; `p`: how likely a difference so large is if there is
    none; `variance_ratio`: see `variance_ratio`, none where no case has two pairs or nothing varies.
    """

    mean: float | None
    low: float | None
    high: float | None
    p: float
    pairs: int
    clusters: int
    unmeasured: int
    variance_ratio: float | None
    why: str


def difference(
    a: Sequence[float | None],
    b: Sequence[float | None],
    cases: Sequence[Hashable],
    *,
    kind: Literal["rate", "number"],
    meaning: Literal["these cases", "cases like these"] = "cases like these",
    repeats: int = 1,
    sequential: bool = False,
    claims: int = 1,
    alpha: float = 0.05,
) -> Difference:
    """Compare what a and b gave, entry i of both from one case and one seed, none where it could not be measured.

    kind: a rate is made of values in [0, 1] (True and False among them), and a missing one counts as the worst for each
    end of the interval; a number has no bounds, and a pair with a missing one is left out and counted. The interval of
    a number takes differences to be spread evenly around their centre. meaning, repeats, sequential, claims: as in
    `stats.decide`; the p-value is that of one test, to be corrected with the others' (`holm`).
    """
    pairs = [(x, y, case) for x, y, case in zip(a, b, cases, strict=True)]
    whole = [pair for pair in pairs if pair[0] is not None and pair[1] is not None]
    used = pairs if kind == "rate" else whole
    names = [case if meaning == "cases like these" else index for index, (_, _, case) in enumerate(used)]
    groups = by_case(names, repeats if sequential and meaning == "cases like these" else None)
    least, most = _clusters(used, groups, (0, 1)), _clusters(used, groups, (1, 0))
    interval = _interval(least, most, kind, sequential, alpha / claims) if len(groups) else None
    values = [float(y) - float(x) for x, y, _ in whole if x is not None and y is not None]
    known = by_case([case if meaning == "cases like these" else i for i, (_, _, case) in enumerate(whole)])
    return Difference(
        mean=float(np.mean([np.mean([values[i] for i in group]) for group in known])) if values else None,
        low=interval.low if interval else None,
        high=interval.high if interval else None,
        p=_p_value(least, most, kind, sequential),
        pairs=len(pairs),
        clusters=len(groups),
        unmeasured=len(pairs) - len(whole),
        variance_ratio=variance_ratio(a, b, cases),
        why="" if interval else f"{len(groups)} clusters are too few for an interval of a number",
    )


def sign_flip(values: ArrayLike) -> float:
    """How likely a mean at least so large is, if each value [n] might as well have had the other sign (Fisher 1935).

    All 2ⁿ ways to sign them are counted up to 15 values, 9,999 random ones beyond, the same each time. One-sided.
    """
    given = np.asarray(values, float)
    n = len(given)
    if not given.any():
        return 1.0
    if n <= LISTED:
        signs = ((np.arange(2**n)[:, None] >> np.arange(n)) & 1) * 2 - 1
    else:
        # The signs that the values have are one of the ways.
        drawn = np.random.default_rng(n).integers(0, 2, (DRAWN, n)) * 2 - 1
        signs = np.concatenate([np.ones((1, n), drawn.dtype), drawn])
    reached = signs @ given >= given.sum() - 1e-9 * np.abs(given).sum()
    return float(reached.mean())


def variance_ratio(a: Sequence[float | None], b: Sequence[float | None], cases: Sequence[Hashable]) -> float | None:
    """The variance of a difference between coupled replies over that between replies of two seeds to the same case.

    Within cases: what differs from case to case falls out of both. 0.25 says that one coupled pair is worth four
    others. It is what all re-pairings of a's and b's seeds would give in the mean.
    """
    whole = [(x, y, case) for x, y, case in zip(a, b, cases, strict=True) if x is not None and y is not None]
    coupled = apart = 0.0
    for group in by_case([case for _, _, case in whole]):
        if len(group) > 1:
            left = np.array([float(whole[i][0]) for i in group])
            right = np.array([float(whole[i][1]) for i in group])
            coupled += float(np.var(right - left, ddof=1))
            apart += float(np.var(left, ddof=1) + np.var(right, ddof=1))
    return coupled / apart if apart else None


def _clusters(
    pairs: Sequence[tuple[float | None, float | None, Hashable]],
    groups: Sequence[Sequence[int]],
    missing: tuple[float, float],
) -> Floats:
    """Mean difference of each group, with what b and a are where they are missing."""
    values = [float(missing[0] if y is None else y) - float(missing[1] if x is None else x) for x, y, _ in pairs]
    return np.array([np.mean([values[i] for i in group]) for group in groups])


def _interval(least: Floats, most: Floats, kind: str, sequential: bool, alpha: float) -> Interval | None:
    if kind == "number":
        return even_always(least, alpha) if sequential else symmetric(least, alpha)
    # A difference of rates lies in [-1, 1].
    low, high = (least + 1) / 2, (most + 1) / 2
    found = always(low, high, alpha) if sequential else Interval(bounded(low, alpha).low, bounded(high, alpha).high)
    return Interval(2 * found.low - 1, 2 * found.high - 1)


def _p_value(least: Floats, most: Floats, kind: str, sequential: bool) -> float:
    """Two-sided: twice the smaller of both sides."""
    if not len(least):
        return 1.0
    if not sequential:
        return min(1.0, 2 * min(sign_flip(least), sign_flip(-most)))
    if kind == "number":
        grown = max(even_growth(least, 0.0).max(), even_growth(-most, 0.0).max())
    else:
        grown = max(growth((least + 1) / 2, 0.5).max(), growth((1 - most) / 2, 0.5).max())
    return min(1.0, 2 * float(np.exp(-grown)))
