"""Sequence memory for transformers models: many texts of different lengths in one pass.

A slab holds keys and values as [slot, head, position, dimension]; each row writes at its own positions, and a mask of
ours (column = position) shows it its own past only. Knows nothing of files, text or sampling. Long, since a pass, its
masks and where its keys go are one subject.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from typing import Any, NamedTuple, Protocol

from jeito.errors import MemoryFull

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
    def mend(self, slot: int) -> None:
        """Forget what a broken pass may have left behind a slot's last token."""
        ...

    def bytes(self) -> int: ...


@dataclass(slots=True)
class Pass:
    """Where the keys and values of the current forward pass go, and what each row of the batch reads."""

    rows: int
    """Rows that the slab must have."""
    columns: int
    """Positions that are read."""
    readers: Any
    """The slab's row for each row of the batch: a slice (a view), or an index tensor (a copy)."""
    repeat: int
    """Rows that read the one row of `readers`, without a copy; 0: each reads its own."""
    written: tuple[Any, Any] | None
    """(row, token) of the batch, index tensors, of every token that is one: the others only pad. None: all are one."""
    to: tuple[Any, Any]
    """(row, position) of the slab where each of them goes."""


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
        return self._read(self.keys, now), self._read(self.values, now)

    def _read(self, held: Any, now: Pass) -> Any:
        view = held[now.readers, :, : now.columns]
        return view.expand(now.repeat, -1, -1, -1) if now.repeat else view

    def _put(self, held: Any, new: Any, now: Pass) -> Any:
        if held is None:
            self.slab.room(2 * now.rows * now.columns * new.shape[1] * new.shape[3] * new.element_size(), 0)
            held = new.new_zeros(now.rows, new.shape[1], now.columns, new.shape[3])
        tokens = new[now.written[0], :, now.written[1]] if now.written else new.transpose(1, 2).flatten(0, 1)
        held[now.to[0], :, now.to[1]] = tokens
        return held

    def resize(self, rows: int, columns: int) -> None:
        self.keys = self._resized(self.keys, rows, columns)
        self.values = self._resized(self.values, rows, columns)

    def _resized(self, held: Any, rows: int, columns: int) -> Any:
        if held is None:  # a first pass that failed before it came to this layer
            return None
        # Zeros, not whatever was there: a NaN in a masked column would still poison the sum.
        new = held.new_zeros(rows, held.shape[1], columns, held.shape[3])
        most, longest = min(rows, held.shape[0]), min(columns, held.shape[2])
        new[:most, :, :longest] = held[:most, :, :longest]
        return new

    def move(self, row: int, to: int) -> None:
        for held in (self.keys, self.values):
            if held is not None:
                held[to] = held[row]
                held[row] = 0

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


Room = Callable[[int, int], None]
"""Raises MemoryFull when there is no room for so many bytes more, beside those that are held."""


class Slab:
    """One cache for all slots. Rows of one call share forward passes, whatever their lengths.

    A slot has a row of the slab while it holds anything, so that few long texts need few rows.
    """

    rewinds = True

    def __init__(self, model: Any, *, layers: int, slots: int, context: int, windows: Windows, room: Room) -> None:
        cache_utils: Any = import_module("transformers.cache_utils")
        cache_utils.CacheLayerMixin.register(Layer)
        self.torch: Any = import_module("torch")
        self.model, self.windows, self.room = model, windows, room
        self.context, self.columns = context, rounded(context)
        self.lengths = [0] * slots
        self.rows: dict[int, int] = {}
        self.layers = [Layer(self) for _ in range(layers)]
        self.cache = cache_utils.Cache(layers=self.layers)
        self.dtype, self.device = model.dtype, model.device
        self.now = Pass(0, 0, None, 0, None, (None, None))

    def append(self, work: Sequence[Work]) -> list[Any]:
        """Rows of about one length share a pass; lengths change only when all went well."""
        results: list[Any] = [None] * len(work)
        for group in _groups([len(item.tokens) for item in work]):
            items = sorted((work[i] for i in group), key=lambda item: self.rows.get(item.slot, item.slot))
            logits = self._forward(
                [item.slot for item in items],
                [list(item.tokens) for item in items],
                [self.lengths[item.slot] for item in items],
                max(item.want for item in items),
            )
            for item, row in zip(items, logits, strict=True):
                results[work.index(item)] = row[row.shape[0] - item.want :]
        self._commit(work)
        return results

    def append_exactly(self, work: Sequence[Work], width: int) -> list[Any]:
        """The same, but each token is a row of its own, and each pass has exactly `width` rows.

        So every token, of a prompt or of a reply, goes through the same kernels in the same shapes, and what stands
        beside it cannot change a bit of it.
        """
        slots = [item.slot for item in work for _ in item.tokens]
        tokens = [[token] for item in work for token in item.tokens]
        starts = [self.lengths[item.slot] + i for item in work for i in range(len(item.tokens))]
        passes = []
        for at in range(0, len(slots), width):
            part = slice(at, at + width)
            passes.append(self._forward(slots[part], tokens[part], starts[part], 1, width=width)[: len(slots[part]), 0])
        logits = self.torch.cat(passes)
        self._commit(work)
        results, end = [], 0
        for item in work:
            end += len(item.tokens)
            results.append(logits[end - item.want : end])
        return results

    def _commit(self, work: Sequence[Work]) -> None:
        for item in work:
            self.lengths[item.slot] += len(item.tokens)

    def _forward(
        self, slots: list[int], tokens: list[list[int]], starts: list[int], keep: int, width: int | None = None
    ) -> Any:
        """Logits [rows, keep, vocabulary]; shorter rows are padded on the left, with nothing that is written.

        `width`: repeat the first row up to so many rows, and copy what is read.
        """
        torch = self.torch
        count = max(map(len, tokens))
        pads = [count - len(row) for row in tokens]
        padding = (width or len(slots)) - len(slots)
        rows_of_tokens = [row[:1] * pad + row for row, pad in zip(tokens, pads, strict=True)]
        ids = torch.tensor(rows_of_tokens + rows_of_tokens[:1] * padding, device=self.device)
        offsets = torch.tensor([pads + pads[:1] * padding, starts + starts[:1] * padding], device=self.device)
        steps = torch.arange(count, device=self.device)
        positions = offsets[1][:, None] + (steps - offsets[0][:, None]).clamp(min=0)
        columns = rounded(max(start + len(row) for start, row in zip(starts, tokens, strict=True)))
        self._reserve(slots, columns)
        rows = [self.rows[slot] for slot in slots + slots[:1] * padding]
        where = torch.tensor(rows, device=self.device)
        real = [(row, at) for row, pad in enumerate(pads) for at in range(pad, count)]
        index = torch.tensor(real, device=self.device).T
        alone = len(set(rows)) == 1
        adjoining = alone or (width is None and rows == list(range(rows[0], rows[0] + len(rows))))
        self.now = Pass(
            rows=max(self.rows.values()) + 1,
            columns=columns,
            readers=slice(rows[0], rows[-1] + 1) if adjoining else where,
            repeat=len(rows) if alone else 0,
            written=(index[0], index[1]) if any(pads) or padding else None,
            to=(where[index[0]], positions[index[0], index[1]]),
        )
        return forward(
            self.model, ids, keep, cache=self.cache, attention_mask=self._masks(positions, columns),
            position_ids=positions,
        ).logits  # fmt: skip

    def _reserve(self, slots: Sequence[int], columns: int) -> None:
        """Give each of these slots a row, and all so many positions; raises MemoryFull with everything as it was.

        A quarter more positions than needed, else a growing text would copy the slab every 64 tokens; but where that
        finds no room, only what is in use.
        """
        rows = self._placed(slots)
        sizes = [layer.keys.shape for layer in self.layers if layer.values is not None]
        have = min((size[0] for size in sizes), default=0), min((size[2] for size in sizes), default=0)
        if sizes and (have[0] <= max(rows.values()) or have[1] < columns):
            roomy = have[1] if have[1] >= columns else rounded(max(columns, have[1] * 5 // 4))
            try:
                self._resize(max(max(rows.values()) + 1, have[0]), min(roomy, self.columns), have)
            except (MemoryFull, RuntimeError):  # torch's own lack of memory is a RuntimeError
                self._compact()
                rows = self._placed(slots)
                self._resize(max(rows.values()) + 1, max(columns, rounded(max(self.lengths))), have)
        self.rows = rows

    def _placed(self, slots: Sequence[int]) -> dict[int, int]:
        """The rows of all slots, with the first free ones for those that have none."""
        fresh = [slot for slot in dict.fromkeys(slots) if slot not in self.rows]
        free = (row for row in range(len(self.lengths)) if row not in self.rows.values())
        return self.rows | dict(zip(fresh, free, strict=False))

    def _compact(self) -> None:
        """Close the gaps between rows in use, in place: what follows may fail, and must find each row where it is."""
        with self.torch.inference_mode():
            for to, (slot, row) in enumerate(sorted(self.rows.items(), key=lambda item: item[1])):
                if row != to:
                    for layer in self.layers:
                        layer.move(row, to)
                    self.rows[slot] = to

    def _resize(self, rows: int, columns: int, have: tuple[int, int]) -> None:
        held = self.bytes()
        grown = held * rows * columns // (have[0] * have[1])
        # While a layer is copied, both its old and its new tensors are there.
        self.room(grown - held + grown // len(self.layers), held)
        with self.torch.inference_mode():
            for layer in self.layers:
                layer.resize(rows, columns)
        if self.device.type == "cuda":
            # Else torch keeps all that was let go of for tensors of the old sizes, which never come again: 18 GB were
            # seen to be taken where 8.6 were in use.
            self.torch.cuda.empty_cache()

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
        return masks.get(None, masks)

    def fork(self, source: int, target: int, length: int) -> None:
        if source != target:
            self.truncate(target, 0)
            if length:
                self._copy(source, target, length)
            self.lengths[target] = length
        else:
            self.truncate(target, length)

    def _copy(self, source: int, target: int, length: int) -> None:
        self._reserve([source, target], rounded(length))
        to, row = self.rows[target], self.rows[source]
        with self.torch.inference_mode():
            for layer in self.layers:
                layer.keys[to, :, :length] = layer.keys[row, :, :length]
                layer.values[to, :, :length] = layer.values[row, :, :length]

    def truncate(self, slot: int, length: int) -> None:
        if length < self.lengths[slot]:
            self._wipe(slot, length, self.lengths[slot])
            self.lengths[slot] = length
        if length == 0:
            self.rows.pop(slot, None)

    def mend(self, slot: int) -> None:
        self._wipe(slot, self.lengths[slot], self.columns)
        if not self.lengths[slot]:
            self.rows.pop(slot, None)

    def _wipe(self, slot: int, start: int, end: int) -> None:
        # A NaN that an overflow left in a masked column would still poison what the slot holds next.
        row = self.rows.get(slot)
        with self.torch.inference_mode():
            for layer in self.layers:
                for held in (layer.keys, layer.values):
                    if held is not None and row is not None and row < held.shape[0]:
                        held[row, :, start:end] = 0

    def bytes(self) -> int:
        return sum(t.nbytes for layer in self.layers for t in (layer.keys, layer.values) if t is not None)


# A pass costs by its rows and by its weights: this much padding costs less than another pass.
MOST_PADDING = 1.2


def _groups(lengths: Sequence[int]) -> list[list[int]]:
    """Indexes of rows that share a pass: those of one token, and long ones as far as padding stays small."""
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: lengths[index]):
        group = [*groups[-1], index] if groups else []
        padded, real = lengths[index] * len(group), sum(lengths[i] for i in group)
        if group and (lengths[index] == 1 or lengths[group[0]] > 1) and padded <= MOST_PADDING * real:
            groups[-1] = group
        else:
            groups.append([index])
    return groups


@lru_cache
def _accepted(kind: Any) -> frozenset[str]:
    """Names of the arguments of a model's forward pass."""
    return frozenset(inspect.signature(kind.forward).parameters)


def forward(model: Any, ids: Any, keep: int, *, cache: Any = None, **inputs: Any) -> Any:
    """One pass without gradients; the head is computed for the last `keep` positions only, where the model can."""
    torch: Any = import_module("torch")
    accepted = _accepted(model.__class__)
    if "logits_to_keep" in accepted:
        inputs["logits_to_keep"] = max(keep, 1)
    if cache is not None:
        # transformers renamed it in 5.24; recurrent models had a name of their own before.
        inputs[next(name for name in ("cache", "cache_params", "past_key_values") if name in accepted)] = cache
    with torch.inference_mode():
        return model(input_ids=ids, use_cache=cache is not None, **inputs)
