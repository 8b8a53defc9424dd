"""Microseconds per draw, beside a sampler that sorts the whole vocabulary, on rows of several shapes.

OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python bench/sampler.py [--json]
"""

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jeito.decode.sampler import Sampler
from jeito.types import Dry, Sampling

VOCABULARIES = (49_152, 151_936)
CUTS = Sampling(temperature=0.8, top_k=40, top_p=0.95)
WORKLOADS = {
    "greedy": Sampling(temperature=0),
    "top_k 40, top_p 0.95": CUTS,
    "... repetition 1.1": CUTS.model_copy(update={"repetition_penalty": 1.1}),
    "... all penalties, DRY": CUTS.model_copy(
        update={
            "repetition_penalty": 1.1,
            "presence_penalty": 0.2,
            "frequency_penalty": 0.1,
            "dry": Dry(multiplier=0.8),
        }
    ),
    "min_p 0.05": Sampling(temperature=0.8, min_p=0.05),
    "top_p 0.9": Sampling(temperature=0.8, top_p=0.9),
    "top_p 0.95": Sampling(top_p=0.95),
    "neutral": Sampling(),
}
HISTORY = 1000
ROWS = 16  # different rows, so that no answer and no branch is learnt by heart


def rows(shape: str, vocabulary: int) -> list[NDArray[np.float32]]:
    """Rows as models give them (`normal`, `peaked`), and as none does (`flat`: nothing stands out)."""
    random = np.random.default_rng(vocabulary)
    out = []
    for _ in range(ROWS):
        row = random.standard_normal(vocabulary).astype(np.float32)
        if shape == "flat":
            row *= np.float32(0.01)
        else:
            row *= np.float32({"normal 2.5": 2.5, "normal 3": 3.0, "peaked": 2.0}[shape])
        if shape == "peaked":  # a few hundred likely tokens far above the rest, as after training
            row[random.integers(0, vocabulary, 300)] += random.exponential(4, 300).astype(np.float32) + 6
        out.append(row)
    return out


def naive(row: NDArray[np.float32], sampling: Sampling, random: np.random.Generator) -> int:
    """What one writes first: softmax and sort of everything, one cumulative sum, one random number."""
    if sampling.temperature == 0:
        return int(row.argmax())
    logits = row / np.float32(sampling.temperature)
    order = np.argsort(-logits)
    weights = np.exp(logits[order] - logits[order[0]])
    if sampling.top_k:
        weights[sampling.top_k :] = 0
    shares = np.cumsum(weights) / weights.sum()
    weights[1:][shares[:-1] >= sampling.top_p] = 0
    weights[weights < sampling.min_p * weights[0]] = 0
    shares = np.cumsum(weights)
    return int(order[np.searchsorted(shares, random.random() * shares[-1])])


def timed(
    draw: Callable[[NDArray[np.float32]], object], given: list[NDArray[np.float32]], times: int
) -> tuple[float, float]:
    """(median, first decile) in microseconds; the decile is nearer the truth on a machine that does other work."""
    spent = []
    for i in range(times):
        row = given[i % len(given)]
        start = time.perf_counter_ns()
        draw(row)
        spent.append(time.perf_counter_ns() - start)
    middle, fast = np.quantile(spent[times // 10 :], (0.5, 0.1)) / 1000
    return float(middle), float(fast)


def sampler(sampling: Sampling, vocabulary: int) -> Sampler:
    """In the middle of a reply, with a prompt that repeats itself now and then."""
    random = np.random.default_rng(0)
    history = (random.zipf(1.3, HISTORY) % vocabulary).tolist()
    made = Sampler(sampling, 1, history[: HISTORY // 2], ends=frozenset({0}), text=lambda id: b"%d" % id)
    for token in history[HISTORY // 2 :]:
        made.accept(token)
    return made


def stepper(made: Sampler) -> Callable[[NDArray[np.float32]], object]:
    """A draw and its acceptance; the position moves, so that the noise differs from draw to draw."""

    def step(row: NDArray[np.float32]) -> None:
        drawn = made.draw(row)
        assert drawn
        made.accept(drawn.id)

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--times", type=int, default=400)
    given = parser.parse_args()
    results: list[dict[str, Any]] = []
    for vocabulary in VOCABULARIES:
        for shape in ("peaked", "normal 3", "normal 2.5", "flat"):
            inputs = rows(shape, vocabulary)
            for name, sampling in WORKLOADS.items():
                ours = timed(stepper(sampler(sampling, vocabulary)), inputs, given.times)
                peer = partial(naive, sampling=sampling, random=np.random.default_rng(0))
                theirs = timed(peer, inputs, max(given.times // 20, 10))
                results.append(
                    {
                        "vocabulary": vocabulary,
                        "rows": shape,
                        "sampling": name,
                        "us": ours[0],
                        "us_decile": ours[1],
                        "naive_us": theirs[0],
                        "ratio": theirs[0] / ours[0],
                    }
                )
    if given.json:
        print(json.dumps({"draws": given.times, "results": results}))
        return
    print(f"{'vocabulary':>10}  {'rows':<11}{'sampling':<24}{'µs':>8}{'decile':>8}{'naive µs':>10}{'ratio':>7}")
    for r in results:
        print(
            f"{r['vocabulary']:>10}  {r['rows']:<11}{r['sampling']:<24}"
            f"{r['us']:>8.0f}{r['us_decile']:>8.0f}{r['naive_us']:>10.0f}{r['ratio']:>7.1f}"
        )


if __name__ == "__main__":
    main()
