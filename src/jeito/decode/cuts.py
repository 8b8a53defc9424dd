"""Which tokens may still be drawn: top_k, top_p, min_p, top_n_sigma, typical_p, XTC. Pure; knows nothing of noise.

Every cut takes tempered logits and gives the positions that stay, ascending; −inf is a token that is already out.
Whole vocabularies come here, so none sorts what it can decide without sorting.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jeito.types import Sampling

Floats = NDArray[np.float32]
Kept = NDArray[np.intp]

BLOCKS = 64  # tokens in a block of top_k; 152,000 tokens give 2,374 maxima
SMALL = 4096  # below this, sorting is cheapest
SAMPLE = 1024  # tokens looked at to guess where a prefix ends
BINS = 1024
INFINITY = math.inf


def cut(values: Floats, top: float, sampling: Sampling, coin: float, scratch: Floats) -> Kept | None:
    """The positions that all cuts leave, in the order of SEMANTICS; none: every one.

    `top`: the greatest value, which must be finite; `coin` decides whether XTC acts; `scratch` has at least the
    values' length and is written over.
    """
    kept: Kept | None = None
    sigma = deviation(values) if sampling.top_n_sigma else 0.0  # of the whole, before any cut
    left = values

    def keep(now: Kept) -> None:
        nonlocal kept, left
        kept = now if kept is None else kept[now]
        left = left[now]

    if 0 < sampling.top_k < values.size:
        keep(top_k(left, sampling.top_k))
    if sampling.top_p < 1:
        keep(top_p(left, top, sampling.top_p, scratch))
    if sampling.min_p > 0:
        keep((left >= top + math.log(sampling.min_p)).nonzero()[0])
    if sampling.top_n_sigma:
        keep((left >= top - sampling.top_n_sigma * sigma).nonzero()[0])
    if sampling.typical_p < 1:
        keep(typical_p(left, sampling.typical_p))
    if sampling.xtc and coin < sampling.xtc.probability:
        keep(xtc(left, sampling.xtc.threshold))
    return kept


def top_k(values: Floats, k: int) -> Kept:
    """The k greatest, and all that equal the k-th.

    The k-th greatest of the blocks' maxima is at most the k-th greatest of all, so only what reaches it is ranked.
    """
    columns = values.size // BLOCKS
    if k >= values.size:
        return np.arange(values.size)
    if k > columns // 2:
        whole: Kept = (values >= np.partition(values, -k)[-k]).nonzero()[0]
        return whole
    # A block is a column: the maximum of whole rows at a time is what vector instructions are good at.
    maxima = values[: columns * BLOCKS].reshape(BLOCKS, columns).max(axis=0)
    able: Kept = (values >= np.partition(maxima, -k)[-k]).nonzero()[0]
    ranked = values[able]
    kept: Kept = able[(ranked >= np.partition(ranked, -k)[-k]).nonzero()[0]]
    return kept


def likeliest(values: Floats, n: int) -> list[int]:
    """The n greatest, greatest first, lower position first on ties; −inf is none of them."""
    if n == 0:
        return []
    kept = top_k(values, min(n, values.size))
    kept = kept[np.lexsort((kept, -values[kept]))][:n]
    return [int(i) for i in kept if values[i] > -INFINITY]


def top_p(values: Floats, top: float, share: float, scratch: Floats) -> Kept:
    """The smallest prefix by falling value, lower position first on ties, that holds `share` of the mass."""
    weights = exponentials(values, top, scratch)
    kept, bar, ties = smallest_prefix(values, weights, share)
    at_bar = (values[kept] == bar).nonzero()[0]
    return np.delete(kept, at_bar[ties:]) if at_bar.size > ties else kept


def typical_p(values: Floats, share: float) -> Kept:
    """Tokens whose information is nearest to the entropy, until they hold `share`; those as near as the last stay too.

    Meister et al. 2022, with the ties of Hugging Face's TypicalLogitsWarper.
    """
    finite = (values > -INFINITY).nonzero()[0]
    shifted = values[finite].astype(np.float64)
    shifted -= shifted.max()
    weights = np.exp(shifted)
    total = float(weights.sum())
    shifted -= math.log(total)
    entropy = -float(weights @ shifted) / total
    kept, _, _ = smallest_prefix(-np.abs(shifted + entropy), weights, share)
    return finite[kept]


def xtc(values: Floats, threshold: float) -> Kept:
    """Without all tokens whose probability reaches the threshold but the last of them, as llama.cpp does.

    The last by falling value, lower position first on ties. A threshold above ½ could only ever meet one token.
    """
    everything = np.arange(values.size)
    if threshold > 0.5:
        return everything
    weights = np.exp(values.astype(np.float64) - float(values.max()))
    reach = ((weights >= threshold * weights.sum()) & (values > -INFINITY)).nonzero()[0]
    if reach.size < 2:
        return everything
    least = values[reach]
    last = reach[(least == least.min()).nonzero()[0][-1]]
    return np.delete(everything, reach[reach != last])


def deviation(values: Floats) -> float:
    """Population standard deviation of the finite values."""
    finite = values[(values > -INFINITY).nonzero()[0]].astype(np.float64)
    return float(finite.std())


def exponentials(values: Floats, top: float, scratch: Floats) -> Floats:
    """exp(values − top), written into the scratch array."""
    out = scratch[: values.size]
    np.subtract(values, np.float32(top), out=out)
    return np.exp(out, out=out)


def smallest_prefix(keys: NDArray[Any], weights: NDArray[Any], share: float) -> tuple[Kept, float, int]:
    """Those with the greatest keys that together hold `share` of the weight.

    (positions whose key reaches the last one's, that key, how many with exactly that key the prefix needs.)
    """
    if keys.size <= SMALL:
        bar, ties = _last(keys, weights, share * float(weights.sum(dtype=np.float64)))
        return (keys >= bar).nonzero()[0], bar, ties
    total = float(weights.sum())  # numpy adds pairwise: right to 1e-7, in half the time of float64
    need = share * total
    band, masses = _band(keys, weights, total, need)
    inner = keys[band]
    bar, ties = _last_of_many(inner, masses, need)
    return band[(inner >= bar).nonzero()[0]], bar, ties


def _last(keys: NDArray[Any], weights: NDArray[Any], need: float) -> tuple[float, int]:
    """(the key with which the falling sum reaches `need`, how many with exactly that key it takes)."""
    falling = -keys
    order = falling.argsort()
    falling = falling[order]
    running = weights[order].astype(np.float64).cumsum()
    last = min(int(running.searchsorted(need)), keys.size - 1)
    return -float(falling[last]), last + 1 - int(falling.searchsorted(falling[last]))


def _last_of_many(keys: NDArray[Any], weights: NDArray[Any], need: float) -> tuple[float, int]:
    """The same, sorting only the bin of a histogram in which the sum is reached."""
    low, high = float(keys.min()), float(keys.max())
    if keys.size <= SMALL or not 1e-30 < high - low < 1e30:
        return _last(keys, weights, need)
    # Rounding keeps the order, so every key of a bin lies above every key of the bins under it.
    place = keys - keys.dtype.type(low)
    place *= keys.dtype.type(BINS / (high - low))
    bins = place.astype(np.intp)
    running = np.bincount(bins, weights)[::-1].cumsum()
    reached = min(int(running.searchsorted(need)), running.size - 1)
    ahead = float(running[reached - 1]) if reached else 0.0
    inside = (bins == running.size - 1 - reached).nonzero()[0]
    return _last(keys[inside], weights[inside], need - ahead)


def _band(keys: NDArray[Any], weights: NDArray[Any], total: float, need: float) -> tuple[Kept, NDArray[Any]]:
    """(positions that surely hold the prefix, their weights): guessed from a sample, proven by a sum.

    The weight *after* the prefix lies in many small tokens, so every n-th token says well where it begins.
    """
    step = keys.size // SAMPLE
    sample = keys[::step]
    order = sample.argsort()
    below = weights[::step][order].astype(np.float64).cumsum() * step
    for slack in (1.2, 2.0, 8.0):
        under = int(below.searchsorted((total - need) / slack))
        if under == 0:
            break
        band = (keys >= sample[order[under - 1]]).nonzero()[0]
        masses = weights[band]
        if float(masses.sum(dtype=np.float64)) >= need:
            return band, masses
    return np.arange(keys.size), weights
