"""Sequence memory for transformers models: many texts of different lengths in one pass.

A slab holds keys and values as [slot, head, position, dimension]; each row writes at its own positions, and a mask of
ours (column = position) shows it its own past only. Models that cannot (state-space layers, caches of their own)
get a cache for each slot and run row by row. Knows nothing of files, text or sampling.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, NamedTuple, Protocol

# Lengths are rounded up to this, so that the shapes of attention change seldom: equal shapes are bit-equal.
STEP = 64


def rounded(length: int) -> int:
    """A number of columns, rounded up."""
    return -(-length // STEP) * STEP


class Work(NamedTuple):
    """Tokens for one slot, and of how many of the last ones the logits are wanted."""

    slot: int
    tokens: Sequence[int]
    want: int


class Memory(Protocol):
    """What holds the sequences: a slab for all, or a cache for each."""

    lengths: list[int]
    rewinds: bool

    def append(self, work: Sequence[Work]) -> list[Any]:
        """Logits of each row's wanted positions, [want, vocabulary], on the device."""
        ...

    def fork(self, source: int, target: int, length: int) -> None: ...
    def truncate(self, slot: int, length: int) -> None: ...
    def clear(self, slot: int) -> None:
        """Forget a slot and what a broken pass may have written there."""
        ...

    def bytes(self) -> int: ...


@dataclass(slots=True)
class Pass:
    """Where the keys and values of the current forward pass go, and what each row of the batch reads."""

    rows: int
    """Slots that the slab must have."""
    columns: int
    """Positions that are read."""
    readers: Any
    """Slot of each row of the batch: a slice (a view), or an index tensor (a copy)."""
    writers: Any
    """Slots [n, 1] that the first n rows write to; rows after them only pad."""
    positions: Any
    """[n, tokens]: where they write."""
    size: int


class Layer:
    """Keys and values of one layer. transformers' own `Cache` holds a list of these and calls `update`."""

    is_compileable = False
    is_croppable = False
    is_sliding = False
    is_initialized = True
    supports_early_init = False

    def __init__(self, slab: "Slab") -> None:
        self.slab = slab
        self.keys: Any = None
        self.values: Any = None

    def update(self, keys: Any, values: Any, *_: Any, **__: Any) -> tuple[Any, Any]:
        now = self.slab.now
        self.keys = self._put(self.keys, keys, now)
        self.values = self._put(self.values, values, now)
        return self.keys[now.readers, :, : now.columns], self.values[now.readers, :, : now.columns]

    def _put(self, held: Any, new: Any, now: Pass) -> Any:
        held = self._room(held, new, now)
        held[now.writers, :, now.positions] = new[: now.size].transpose(1, 2)
        return held

    def _room(self, held: Any, new: Any, now: Pass) -> Any:
        rows, columns = (held.shape[0], held.shape[2]) if held is not None else (0, 0)
        if rows >= now.rows and columns >= now.columns:
            return held
        # A quarter more than needed: else a growing text would copy the slab every 64 tokens.
        wanted = (
            columns if columns >= now.columns else min(rounded(max(now.columns, columns * 5 // 4)), self.slab.columns)
        )
        rows = max(rows, now.rows)
        self.slab.room(rows * new.shape[1] * wanted * new.shape[3] * new.element_size())
        # Zeros, not whatever was there: a NaN in a masked column would still poison the sum.
        grown = new.new_zeros(rows, new.shape[1], wanted, new.shape[3])
        if held is not None:
            grown[: held.shape[0], :, : held.shape[2]] = held
        return grown

    def get_seq_length(self) -> int:
        return max(self.slab.lengths, default=0)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.slab.now.columns, 0

    def get_max_length(self) -> int:
        return -1

    def reset(self) -> None:
        self.keys = self.values = None


Windows = Mapping[str | None, int | None]
"""Attention windows by layer type (none: all the past); the key none stands for one mask for all layers."""


class Slab:
    """One cache for all slots. Rows of one call share forward passes, whatever their lengths."""

    rewinds = True

    def __init__(
        self, model: Any, *, layers: int, slots: int, context: int, windows: Windows, room: Callable[[int], None]
    ) -> None:
        cache_utils: Any = import_module("transformers.cache_utils")
        cache_utils.CacheLayerMixin.register(Layer)
        self.torch: Any = import_module("torch")
        self.model, self.windows, self.room = model, windows, room
        self.context, self.columns = context, rounded(context)
        self.lengths = [0] * slots
        self.layers = [Layer(self) for _ in range(layers)]
        self.cache = cache_utils.Cache(layers=self.layers)
        self.dtype, self.device = model.dtype, model.device
        self.now = Pass(0, 0, None, None, None, 0)

    def append(self, work: Sequence[Work]) -> list[Any]:
        """Rows of one token in one pass, longer ones each in its own; lengths change only when all went well."""
        results: list[Any] = [None] * len(work)
        short = sorted((i for i, item in enumerate(work) if len(item.tokens) == 1), key=lambda i: work[i].slot)
        groups = [short] if short else []
        groups += [[i] for i, item in enumerate(work) if len(item.tokens) > 1]
        for group in groups:
            items = [work[i] for i in group]
            logits = self._forward(
                [item.slot for item in items],
                [list(item.tokens) for item in items],
                [self.lengths[item.slot] for item in items],
                max(item.want for item in items),
            )
            for i, row in zip(group, logits, strict=True):
                results[i] = row[row.shape[0] - work[i].want :]
        self._commit(work)
        return results

    def append_exactly(self, work: Sequence[Work], width: int) -> list[Any]:
        """The same, but each token a row of its own and always `width` rows: every token, of a prompt or of a reply,
        goes through the same kernels in the same shapes, so what stands beside it cannot change a bit of it."""
        slots = [item.slot for item in work for _ in item.tokens]
        tokens = [[token] for item in work for token in item.tokens]
        starts = [self.lengths[item.slot] + i for item in work for i in range(len(item.tokens))]
        logits = self._forward(slots, tokens, starts, 1, width=width)
        self._commit(work)
        results, end = [], 0
        for item in work:
            end += len(item.tokens)
            results.append(logits[end - item.want : end, 0])
        return results

    def _commit(self, work: Sequence[Work]) -> None:
        for item in work:
            self.lengths[item.slot] += len(item.tokens)

    def _forward(
        self, slots: list[int], tokens: list[list[int]], starts: list[int], keep: int, width: int | None = None
    ) -> Any:
        """Logits [rows, keep, vocabulary]. `width`: repeat the first row up to so many rows, and copy what is read."""
        torch = self.torch
        size, count = len(slots), len(tokens[0])
        padding = (width or size) - size
        slots, tokens = slots + slots[:1] * padding, tokens + tokens[:1] * padding
        ids = torch.tensor(tokens, device=self.device)
        first = torch.tensor(starts + starts[:1] * padding, device=self.device)
        positions = first[:, None] + torch.arange(count, device=self.device)
        columns = rounded(max(starts) + count)
        where = torch.tensor(slots, device=self.device)
        adjoining = slots == list(range(slots[0], slots[0] + len(slots))) and width is None
        self.now = Pass(
            rows=max(slots) + 1,
            columns=columns,
            readers=slice(slots[0], slots[0] + len(slots)) if adjoining else where,
            writers=where[:size, None],
            positions=positions[:size],
            size=size,
        )
        return forward(
            self.model, ids, keep, attention_mask=self._masks(positions, columns), position_ids=positions,
            past_key_values=self.cache, use_cache=True,
        ).logits  # fmt: skip

    def _masks(self, positions: Any, columns: int) -> Any:
        """Additive masks [rows, 1, tokens, columns]: 0 where a position may look, the lowest number elsewhere."""
        torch = self.torch
        column = torch.arange(columns, device=self.device)
        here = positions[:, None, :, None]
        lowest = torch.finfo(self.dtype).min
        masks = {}
        for kind, window in self.windows.items():
            seen = column <= here
            if window is not None:
                seen = seen & (column > here - window)
            masks[kind] = torch.where(seen, 0.0, lowest).to(self.dtype)
        return masks[None] if None in masks else masks

    def fork(self, source: int, target: int, length: int) -> None:
        if source != target and length:
            self.now = Pass(max(source, target) + 1, rounded(length), None, None, None, 0)
            for layer in self.layers:
                if layer.keys is None:
                    continue
                layer.keys = layer._room(layer.keys, layer.keys, self.now)
                layer.values = layer._room(layer.values, layer.values, self.now)
                layer.keys[target, :, :length] = layer.keys[source, :, :length]
                layer.values[target, :, :length] = layer.values[source, :, :length]
        self.lengths[target] = length

    def truncate(self, slot: int, length: int) -> None:
        self.lengths[slot] = min(length, self.lengths[slot])

    def clear(self, slot: int) -> None:
        for layer in self.layers:
            if layer.keys is not None and slot < layer.keys.shape[0]:
                layer.keys[slot].zero_()
                layer.values[slot].zero_()
        self.lengths[slot] = 0

    def bytes(self) -> int:
        return sum(t.nbytes for layer in self.layers for t in (layer.keys, layer.values) if t is not None)


class Separate:
    """A cache of transformers' own for each slot, rows one by one: for models that cannot share a slab.

    A cache that cannot be cut (a recurrent state, a window that moved on) is built anew from its tokens.
    """

    def __init__(self, model: Any, *, slots: int, cached: bool) -> None:
        self.torch: Any = import_module("torch")
        self.cache_utils: Any = import_module("transformers.cache_utils")
        self.model, self.cached = model, cached
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
            raise

    def _append(self, item: Work) -> Any:
        slot = item.slot
        self.tokens[slot].extend(item.tokens)
        self.lengths[slot] += len(item.tokens)
        if self.caches[slot] is None and self.cached:
            self.caches[slot], self.held[slot] = self._new(), 0
        todo = self.tokens[slot][self.held[slot] :]
        ids = self.torch.tensor([todo], device=self.model.device)
        if self.cached:
            name = "cache_params" if "cache_params" in accepted(self.model) else "past_key_values"
            logits = forward(self.model, ids, item.want, use_cache=True, **{name: self.caches[slot]}).logits
            self.held[slot] = self.lengths[slot]
        else:
            logits = forward(self.model, ids, item.want, use_cache=False).logits
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
        if self.rewinds and length:
            try:
                self.caches[slot].crop(-surplus)
                self.held[slot] = length
                return
            except RuntimeError:
                pass  # the window has moved past what would be kept
        self.caches[slot], self.held[slot] = None, 0

    def clear(self, slot: int) -> None:
        self.truncate(slot, 0)
        self.caches[slot], self.held[slot] = None, 0

    def bytes(self) -> int:
        total = 0
        for cache in self.caches:
            for layer in cache.layers if cache is not None else ():
                total += sum(t.nbytes for t in vars(layer).values() if hasattr(t, "nbytes"))
        return total


def accepted(model: Any) -> frozenset[str]:
    """Names of the arguments of a model's forward pass."""
    import inspect

    return frozenset(inspect.signature(model.forward).parameters)


def forward(model: Any, ids: Any, keep: int, **inputs: Any) -> Any:
    """One pass without gradients; the head is computed for the last `keep` positions only, where the model can."""
    torch: Any = import_module("torch")
    if "logits_to_keep" in accepted(model):
        inputs["logits_to_keep"] = max(keep, 1)
    with torch.inference_mode():
        return model(input_ids=ids, **inputs)
