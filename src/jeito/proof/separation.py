"""Are behaviours different at all, by their replies? Pure functions over features, names and tokens of replies."""

from collections.abc import Hashable, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from jeito.errors import InputError
from jeito.proof.intervals import DRAWN, Interval, bounded
from jeito.proof.stats import by_case

Floats = NDArray[np.float64]


class Separation(NamedTuple):
    """Two behaviours' replies to the same cases.

    `distance`: energy distance of the features; `p`: how likely one so large is if the behaviours do not differ;
    `adjusted`: the same where all pairs of behaviours are looked at.
    """

    a: str
    b: str
    distance: float
    p: float
    adjusted: float
    replies: int
    clusters: int


class Confusion(NamedTuple):
    """Who is taken for whom: `counts[i][j]` replies of names[i] taken for names[j] by a judge who never saw their case.

    `rates`: intervals of each share of a row; `accuracy`: the mean share that is right, with its interval. Both are
    clustered by case, and treat the judges of all folds as one.
    """

    names: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]
    rates: tuple[tuple[Interval, ...], ...]
    accuracy: float
    interval: Interval
    clusters: int


class Diversity(NamedTuple):
    """`within`: the share of distinct n-grams in a reply; `between`: how far two replies to one case are apart.

    Both in [0, 1], means over cases with intervals clustered by case; none where there was nothing to compare.
    """

    within: float | None
    within_interval: Interval | None
    between: float | None
    between_interval: Interval | None


def separate(
    features: ArrayLike,
    names: Sequence[str],
    cases: Sequence[Hashable],
    seeds: Sequence[Hashable] | None = None,
    *,
    draws: int = DRAWN,
) -> list[Separation]:
    """Test every pair of behaviours: features [replies, features], and of each reply its behaviour, case and seed.

    The two-sample test of Székely and Rizzo (2004): features are centred within each case and measured in their own
    deviations; who said what is shuffled among the replies to one case, or swapped within one seed of it where replies
    are coupled and `seeds` are given. Raises InputError for a feature that is not a finite number.
    """
    given, who = _finite(features), np.array(names)
    blocks = [(case, seeds[i]) if seeds is not None else case for i, case in enumerate(cases)]
    found = []
    for a, b in combinations(dict.fromkeys(names), 2):
        rows = [i for i, name in enumerate(names) if name in (a, b)]
        of_case = by_case([cases[i] for i in rows])
        scaled = standardised(given[rows], of_case)
        distance, p = energy(scaled, who[rows] == b, by_case([blocks[i] for i in rows]), draws)
        found.append((a, b, distance, p, len(rows), len(of_case)))
    adjusted = holm([p for *_, p, _, _ in found])
    return [
        Separation(a, b, distance, p, at, replies, clusters)
        for (a, b, distance, p, replies, clusters), at in zip(found, adjusted, strict=True)
    ]


def energy(
    points: Floats, is_b: NDArray[np.bool_], blocks: Sequence[Sequence[int]], draws: int = DRAWN
) -> tuple[float, float]:
    """(energy distance, p-value) of two groups of points [n, features], shuffled within blocks."""
    squares = (points**2).sum(axis=1)
    apart = np.sqrt(np.maximum(squares[:, None] + squares - 2 * points @ points.T, 0))
    random = np.random.default_rng(len(points))
    labels = np.empty((draws + 1, len(points)), bool)
    labels[0] = is_b
    for block in blocks:
        where = np.array(block)
        labels[1:, where] = random.permuted(np.tile(is_b[where], (draws, 1)), axis=1)
    weights = np.where(labels, 1 / is_b.sum(), -1 / (~is_b).sum())
    distances = -np.einsum("di,di->d", weights @ apart, weights)
    return float(distances[0]), float((distances >= distances[0] - 1e-9 * abs(distances[0])).mean())


def standardised(features: Floats, groups: Sequence[Sequence[int]]) -> Floats:
    """Features [n, features] centred within each group and in units of their deviation; constant ones left out."""
    centred = features.copy()
    for group in groups:
        centred[list(group)] -= features[list(group)].mean(axis=0)
    spread = centred.std(axis=0)
    varies = spread > 1e-9 * (np.abs(features).max(axis=0, initial=0) + 1e-12)
    scaled: Floats = centred[:, varies] / spread[varies]
    return scaled


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values of several tests: those up to alpha are wrong in alpha of all cases together (Holm 1979)."""
    count = len(p_values)
    adjusted, largest = [0.0] * count, 0.0
    for rank, index in enumerate(sorted(range(count), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (count - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def classify(
    features: ArrayLike, names: Sequence[str], cases: Sequence[Hashable], *, folds: int = 5, alpha: float = 0.05
) -> Confusion:
    """Guess each reply's behaviour from its features [replies, features], having learnt from other cases alone.

    A linear discriminant with its covariance drawn a tenth towards a diagonal (Friedman 1989). Raises InputError for
    one behaviour only, for fewer than two cases, or for a feature that is not a finite number.
    """
    given, groups = _finite(features), by_case(cases)
    known = tuple(dict.fromkeys(names))
    if len(known) < 2 or len(groups) < 2:
        raise InputError(
            f"{len(known)} behaviour(s) on {len(groups)} case(s) cannot be told apart by what is learnt elsewhere",
            hint="give two behaviours and two cases at least",
        )
    who = np.array([known.index(name) for name in names])
    fold = np.empty(len(who), int)
    for index, group in enumerate(np.random.default_rng(0).permutation(len(groups))):
        fold[groups[group]] = index % folds
    guessed = np.empty(len(who), int)
    for index in np.unique(fold):
        guessed[fold == index] = _discriminant(given[fold != index], who[fold != index], given[fold == index])
    counts = tuple(
        tuple(int(((who == i) & (guessed == j)).sum()) for j in range(len(known))) for i in range(len(known))
    )
    rates = tuple(
        tuple(
            bounded([np.mean(guessed[group][who[group] == i] == j) for group in _with(groups, who == i)], alpha)
            for j in range(len(known))
        )
        for i in range(len(known))
    )
    right = [float(np.mean(guessed[group] == who[group])) for group in groups]
    return Confusion(known, counts, rates, float(np.mean(right)), bounded(right, alpha), len(groups))


def diversity(
    replies: Sequence[Sequence[Hashable]], cases: Sequence[Hashable], *, n: int = 2, alpha: float = 0.05
) -> Diversity:
    """Variety within replies and between those to one case, from their tokens or words."""
    grams = [[tuple(reply[i : i + n]) for i in range(len(reply) - n + 1)] for reply in replies]
    within, between = [], []
    for group in by_case(cases):
        shares = [distinct(replies[i], n) for i in group]
        measured = [share for share in shares if share is not None]
        within += [float(np.mean(measured))] if measured else []
        pairs = list(combinations([set(grams[i]) for i in group if grams[i]], 2))
        between += [float(np.mean([1 - len(x & y) / len(x | y) for x, y in pairs]))] if pairs else []
    return Diversity(*_mean(within, alpha), *_mean(between, alpha))


def distinct(reply: Sequence[Hashable], n: int = 2) -> float | None:
    """The share of a reply's n-grams that are distinct (Li and others 2016); none if it is shorter than n."""
    grams = [tuple(reply[i : i + n]) for i in range(len(reply) - n + 1)]
    return len(set(grams)) / len(grams) if grams else None


def _mean(values: list[float], alpha: float) -> tuple[float | None, Interval | None]:
    return (float(np.mean(values)), bounded(values, alpha)) if values else (None, None)


def _with(groups: Sequence[list[int]], mask: NDArray[np.bool_]) -> list[list[int]]:
    return [group for group in groups if mask[group].any()]


def _discriminant(seen: Floats, who: NDArray[np.int64], unseen: Floats) -> NDArray[Any]:
    """The nearest centre to each unseen reply, by a distance that knows how features vary together."""
    present = np.unique(who)
    centres = np.array([seen[who == i].mean(axis=0) for i in present])
    within = seen - centres[np.searchsorted(present, who)]
    covariance = within.T @ within / max(len(seen) - len(present), 1)
    scale = np.diag(covariance).copy()
    # A feature that is constant among those seen tells nothing here.
    scale[scale <= 0] = np.inf
    shrunk = 0.9 * covariance + np.diag(0.1 * np.where(np.isinf(scale), 1.0, scale))
    use = np.isfinite(scale)
    away = unseen[:, None, use] - centres[None][:, :, use]
    distances = np.einsum("rcf,fg,rcg->rc", away, np.linalg.pinv(shrunk[np.ix_(use, use)]), away)
    nearest: NDArray[Any] = present[distances.argmin(axis=1)]
    return nearest


def _finite(features: ArrayLike) -> Floats:
    given = np.asarray(features, float)
    if not np.isfinite(given).all():
        row, column = np.argwhere(~np.isfinite(given))[0]
        raise InputError(
            f"feature {column} of reply {row} is {given[row, column]!r}, not a finite number",
            hint="leave out features that some reply has not",
        )
    return given
