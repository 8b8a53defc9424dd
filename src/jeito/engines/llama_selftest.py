"""Are replies exact in this shape of call, on this file and build? Tried on the loaded weights, bit for bit."""

from typing import Any

import numpy as np

from jeito.engines.base import Logits, Row, Shape
from jeito.engines.llama_cells import Cells, Worn

# Beyond 512 cells attention takes other code paths, which is where bits have been seen to change.
PROMPT, REPLY, NEIGHBOURS = 540, 3, 7


class _Trial:
    """One context; slot 0 is the one whose logits are compared, the others are neighbours."""

    def __init__(self, model: Any, shape: Shape, ids: list[int], threads: int, worn: Worn) -> None:
        self.cells = Cells(model, cells=4096, slots=NEIGHBOURS + 2, threads=threads)
        self.cells.wear(worn)
        self.shape, self.ids = shape, ids

    def prefill(self, slot: int, until: int, chunk: int, neighbours: int = 0) -> None:
        """Feed tokens up to a length, with one token of each neighbour in the same calls."""
        while self.cells.runs.length(slot) < until:
            at = self.cells.runs.length(slot)
            self.call(slot, self.ids[at : min(at + chunk, until)], neighbours)

    def call(self, slot: int, tokens: list[int], neighbours: int = 0) -> Logits:
        beside = [Row(other + 1, [self.ids[(7 * other + self.cells.runs.length(other + 1)) % PROMPT]], 1)
                  for other in range(neighbours) if other + 1 != slot]  # fmt: skip
        return self.cells.extend([*beside, Row(slot, tokens, 1)], self.shape)[-1]

    def reply(self, slot: int, neighbours: int = 0) -> Logits:
        """[REPLY, vocabulary]: the logits of a few steps of decoding after the prompt."""
        return np.concatenate([self.call(slot, [self.ids[PROMPT + i]], neighbours).copy() for i in range(REPLY)])


def is_exact(model: Any, shape: Shape, vocabulary: int, threads: int, worn: Worn) -> bool:
    """The same logits alone, among others in other chunks, after a fork, a cut, and holes below; about 1,500 tokens."""
    ids = [int(token) for token in np.random.default_rng(0).integers(0, vocabulary, PROMPT + REPLY)]
    alone = _Trial(model, shape, ids, threads, worn)
    try:
        alone.prefill(0, PROMPT, shape.high)
        expected = alone.reply(0)
    finally:
        alone.cells.close()
    crowd = _Trial(model, shape, ids, threads, worn)
    try:
        return all(np.array_equal(expected, found) for found in _crowded(crowd, shape))
    finally:
        crowd.cells.close()


def _crowded(trial: _Trial, shape: Shape) -> list[Logits]:
    beside = min(NEIGHBOURS, shape.high // 2)
    last = NEIGHBOURS + 1
    trial.prefill(0, 100, shape.high)
    trial.prefill(last, PROMPT, max(1, shape.high // 2 - 3), beside)
    trial.cells.runs.truncate(0, 0)  # a hole below: what comes next must not fall into it
    among = trial.reply(last, beside)
    trial.cells.runs.fork(last, 0, PROMPT)
    forked = trial.reply(0)
    trial.cells.runs.truncate(0, PROMPT - 5 if trial.cells.runs.least(0) <= PROMPT - 5 else 0)
    trial.prefill(0, PROMPT, 3, beside)
    return [among, forked, trial.reply(0, beside)]
