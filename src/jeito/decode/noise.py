"""Gumbel noise as a pure function of (seed, position, token), and the race that it decides. Knows nothing of logits."""

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ids = NDArray[np.intp]
Hashes = NDArray[np.uint64]

WORD = 2**64 - 1
GOLDEN = 0x9E3779B97F4A7C15
"""2⁶⁴ divided by the golden ratio: the step of SplitMix64 (Steele, Lea, Flood, 2014), whose finaliser `mix` is."""
FIRST, SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
TOKEN_STEP = 0xD1B54A32D192ED03
COIN = 2**32 - 1
"""The token id, beyond every vocabulary, whose u is the coin of a position."""

CHUNK = 16384  # 128 KiB of hashes: the passes over them stay in the second-level cache
FEW = 1024  # for so few tokens two logarithms each cost less than avoiding them
HIGHEST = 37.0  # no noise is higher: −ln(−ln(1 − 2⁻⁵³)) = 36.74
NEAR = 5.0  # nats under the likeliest token; only speed depends on it


def mix(x: int) -> int:
    """SplitMix64's finaliser: a bijection of the integers below 2⁶⁴."""
    x &= WORD
    x = ((x ^ (x >> 30)) * FIRST) & WORD
    x = ((x ^ (x >> 27)) * SECOND) & WORD
    return x ^ (x >> 31)


def derive(seed: int, i: int) -> int:
    """The seed of reply or repeat `i`; the first keeps the seed itself."""
    return seed if i == 0 else mix(seed + i * GOLDEN)


def coin(seed: int, position: int) -> float:
    """A number between 0 and 1 that no token of this position uses."""
    return float(uniform(seed, position, np.array([COIN], dtype=np.intp))[0])


def uniform(seed: int, position: int, ids: Ids) -> NDArray[np.float64]:
    """u of each token, 0 < u < 1, exact."""
    return _uniform(_finished(_half_mixed(_key(seed, position), ids)))


def noise(seed: int, position: int, ids: Ids) -> NDArray[np.float64]:
    """Standard Gumbel noise of each token."""
    return _gumbel(uniform(seed, position, ids))


def winner(seed: int, position: int, values: Floats, ids: Ids | None = None) -> int:
    """Index of the greatest value + noise, the lowest on ties: a draw from softmax(values).

    `ids`: token ids of the values, ascending; none: value i is token i's. −inf never wins; one value must be finite.
    """
    top = float(values.max())
    if values.size <= FEW:
        tokens = np.arange(values.size) if ids is None else ids
        return int(_scores(values, top, noise(seed, position, tokens)).argmax())
    return _long_race(_key(seed, position), values, top, ids)


def _long_race(key: int, values: Floats, top: float, ids: Ids | None) -> int:
    """The winner among many. Logarithms are taken only of hashes that could still win; the answer is the same.

    Some likely tokens set a lead. A token `d` under `top` can only beat it with noise ≥ lead + d, which is a bound on
    its hash, and hashes are compared without logarithms.
    """
    near = (values >= top - NEAR).nonzero()[0][:FEW]
    hashes = _half_mixed(key, near if ids is None else ids[near])
    lead = float(_scores(values[near], top, _gumbel(_uniform(_finished(hashes)))).max())
    able, their_hashes = [near], [hashes]
    # Without ids, the next chunk's token·step is this one's plus a constant: no product a chunk.
    steps = np.arange(CHUNK if ids is None else 0, dtype=np.uint64) * np.uint64(TOKEN_STEP)
    for start in range(0, values.size, CHUNK):
        part = values[start : start + CHUNK]
        needed = lead - (float(part.max()) - top)
        if needed > HIGHEST:
            continue
        if ids is None:
            hashes = _stirred(steps[: part.size] + np.uint64((key + start * TOKEN_STEP) & WORD))
        else:
            hashes = _half_mixed(key, ids[start : start + CHUNK])
        found = (hashes >= _least(needed)).nonzero()[0]
        able.append(found + start)
        their_hashes.append(hashes[found])
    at = np.concatenate(able)
    scores = _scores(values[at], top, _gumbel(_uniform(_finished(np.concatenate(their_hashes)))))
    return int(at[scores == scores.max()].min())


def _key(seed: int, position: int) -> int:
    return mix(seed + mix(position + 1) * GOLDEN)


def _half_mixed(key: int, ids: Ids) -> Hashes:
    """`mix` of each token's word but for its last step, which leaves the upper 31 bits alone."""
    words = ids.astype(np.uint64)
    words *= np.uint64(TOKEN_STEP)
    words += np.uint64(key)
    return _stirred(words)


def _stirred(x: Hashes) -> Hashes:
    """In place."""
    shifted = x >> np.uint64(30)
    x ^= shifted
    x *= np.uint64(FIRST)
    np.right_shift(x, np.uint64(27), out=shifted)
    x ^= shifted
    x *= np.uint64(SECOND)
    return x


def _finished(x: Hashes) -> Hashes:
    return x ^ (x >> np.uint64(31))


def _uniform(hashes: Hashes) -> NDArray[np.float64]:
    # 52 bits and a half need 53 bits of mantissa: float64 holds them exactly, and neither 0 nor 1 can come out.
    return ((hashes >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


def _gumbel(u: NDArray[np.float64]) -> NDArray[np.float64]:
    return -np.log(-np.log(u))


def _scores(values: Floats, top: float, gumbel: NDArray[np.float64]) -> NDArray[np.float64]:
    """log p + noise, but for the constant that all tokens share."""
    return (values.astype(np.float64) - top) + gumbel


def _least(needed: float) -> np.uint64:
    """No half-mixed hash below this has noise ≥ `needed`; rounded down by more than float64 can err."""
    if needed < -5:
        return np.uint64(0)
    u = math.exp(-math.exp(-(needed - 1e-9)))
    upper = max(int(u * 2**52) - 8, 0) << 12
    return np.uint64(upper >> 33 << 33)
