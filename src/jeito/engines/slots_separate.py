"""A cache for each slot, rows one by one: for models that cannot share a slab, such as state-space ones."""

import copy
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from jeito.engines.slots import Work, forward


class Separate:
    """A cache of transformers' own for each slot, rows one by one: for models that cannot share a slab.

    A cache that cannot be cut (a recurrent state, a window that moved on) is built anew from its tokens.
    """

    def __init__(self, model: Any, *, slots: int, cached: bool, turn: int | None = None) -> None:
        """`turn`: a text longer than this has other positions (longrope), those before included."""
        self.torch: Any = import_module("torch")
        self.cache_utils: Any = import_module("transformers.cache_utils")
        self.model, self.cached, self.turn = model, cached, turn
        self.lengths = [0] * slots
        self.tokens: list[list[int]] = [[] for _ in range(slots)]
        self.caches: list[Any] = [None] * slots
        self.held = [0] * slots
        """Tokens that each slot's cache has seen: fewer than its length after a cut that it could not follow."""
        self.rewinds = cached and self._new().is_croppable

    def _new(self) -> Any:
        return self.cache_utils.DynamicCache(config=self.model.config)

    def append(self, work: Sequence[Work]) -> list[Any]:
        before = [(item.slot, self.lengths[item.slot]) for item in work]
        try:
            return [self._append(item) for item in work]
        except Exception:
            for slot, length in before:
                self.truncate(slot, length)
                self.mend(slot)
            raise

    def _append(self, item: Work) -> Any:
        slot = item.slot
        self.tokens[slot].extend(item.tokens)
        self.lengths[slot] += len(item.tokens)
        if self.turn is not None and self.held[slot] <= self.turn < self.lengths[slot]:
            self.caches[slot] = None
        if self.caches[slot] is None and self.cached:
            self.caches[slot], self.held[slot] = self._new(), 0
        todo = self.tokens[slot][self.held[slot] :]
        ids = self.torch.tensor([todo], device=self.model.device)
        if self.cached:
            logits = forward(self.model, ids, item.want, cache=self.caches[slot]).logits
            self.held[slot] = self.lengths[slot]
        else:
            logits = forward(self.model, ids, item.want).logits
        return logits[0, logits.shape[1] - item.want :]

    def fork(self, source: int, target: int, length: int) -> None:
        if source != target:
            self.tokens[target] = self.tokens[source][: self.lengths[source]]
            self.lengths[target] = self.lengths[source]
            # Not worth copying what cannot be cut to the length.
            useful = self.held[source] == length or self.rewinds
            self.caches[target] = copy.deepcopy(self.caches[source]) if useful else None
            self.held[target] = self.held[source] if useful else 0
        self.truncate(target, length)

    def truncate(self, slot: int, length: int) -> None:
        if length >= self.lengths[slot]:
            return
        del self.tokens[slot][length:]
        self.lengths[slot] = length
        surplus = self.held[slot] - length
        if surplus <= 0:
            return
        turned = self.turn is not None and length <= self.turn < self.held[slot]
        if self.rewinds and length and not turned:
            try:
                self.caches[slot].crop(-surplus)
                self.held[slot] = length
                return
            except RuntimeError:
                pass  # the window has moved past what would be kept
        self.caches[slot], self.held[slot] = None, 0

    def mend(self, slot: int) -> None:
        # Some layers may have seen tokens that others have not: all are read again when the slot goes on.
        self.caches[slot], self.held[slot] = None, 0

    def bytes(self) -> int:
        total = 0
        for held in self.caches:
            for layer in held.layers if held is not None else ():
                total += sum(_bytes(part) for part in vars(layer).values())
        return total


def _bytes(held: Any) -> int:
    """Of a tensor, or of the tensors in a list or a dict."""
    if isinstance(held, dict):
        held = list(held.values())
    if isinstance(held, list | tuple):
        return sum(_bytes(part) for part in held)
    return int(getattr(held, "nbytes", 0))
