"""Who holds which of llama.cpp's cells: runs of them that slots share, pack, put outside and fetch back.

Attention adds cells up in the order in which they lie, and llama.cpp fills a freed cell below before it goes on
above. So a slot whose later tokens fell into a hole gives other bits than the same tokens without one: in exact mode
what is held is packed anew, in the order of positions, before the first call after cells were freed.

Every row of a pass goes through all cells, those of others too. So what only slots hold that rest is kept outside.
Where layers look back through a window, llama.cpp lets go of what lies behind it, and writes out only what does not:
there a slot cannot be cut to any length.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from jeito.engines.llama_binding import library
from jeito.errors import EngineError, MemoryFull


class _Copy(NamedTuple):
    """Cells as llama.cpp writes them out."""

    data: Any
    length: int


@dataclass(slots=True, eq=False)
class _Run:
    """Cells written one after the other, positions [start, start + length); forks hold the same run."""

    start: int
    length: int
    writer: int | None
    """The slot that may still append: none once the run is shared, or its only holder rests."""
    outside: _Copy | None = None
    """For holders that rest."""


class _Held(NamedTuple):
    """The first `length` cells of a run, as one slot holds them."""

    run: _Run
    length: int


class Runs:
    """The sequences of one context: `slots` of them, and one more, whose number is `spare`, to move cells with."""

    def __init__(self, context: Any, *, slots: int, window: int) -> None:
        shelf = library()
        self._lib, self._context = shelf.lib, context
        self._memory = self._lib.llama_get_memory(context)
        self._new_bytes = shelf.ffi.new_allocator(should_clear_after_alloc=False)
        self.spare, self._window = slots, window
        self._slots: list[list[_Held]] = [[] for _ in range(slots)]
        self._resting: set[int] = set()
        self._first: list[int] = [0] * slots
        """The first position since which no layer lacks any, as far as we have moved cells."""
        self.has_holes = self.is_broken = False

    def length(self, slot: int) -> int:
        held = self._slots[slot]
        return held[-1].run.start + held[-1].length if held else 0

    def least(self, slot: int) -> int:
        """The least length, besides 0, that a slot can be cut or forked at."""
        first = max(self._first[slot], self._lib.llama_memory_seq_pos_min(self._memory, slot)) if self._window else 0
        return first + self._window if first else 0

    def drop(self, slot: int) -> None:
        """A failed pass may have left some of its row behind; without that our lengths are true again."""
        self.has_holes = True
        self._lib.llama_memory_seq_rm(self._memory, slot, self.length(slot), -1)

    def clear_spare(self) -> None:
        self._lib.llama_memory_seq_rm(self._memory, self.spare, -1, -1)

    def grow(self, slot: int, count: int) -> None:
        held = self._slots[slot]
        if held and held[-1].run.writer == slot:
            run = held.pop().run
            run.length += count
        else:
            run = _Run(self.length(slot), count, slot)
        held.append(_Held(run, run.length))

    def fork(self, source: int, target: int, length: int) -> None:
        if source == target:
            return self.truncate(target, length)
        self._check_cut(source, length)
        self.truncate(target, 0)
        for run, held in list(self._slots[source]):
            if run.start < length < run.start + held:
                self._split(run, length)
        for run, held in self._slots[source]:
            if run.start < length:
                run.writer = None
                self._slots[target].append(_Held(run, min(held, length - run.start)))
        self._first[target] = self._first[source]
        if source not in self._resting:
            self._lib.llama_memory_seq_cp(self._memory, source, target, 0, length)
            return
        self._resting.add(target)
        try:
            self.wake(target)
        except MemoryFull:
            self.truncate(target, 0)
            raise

    def truncate(self, slot: int, length: int) -> None:
        held = self._slots[slot]
        if length >= self.length(slot):
            return
        self._check_cut(slot, length)
        if slot not in self._resting:
            if not self._lib.llama_memory_seq_rm(self._memory, slot, length, -1):
                raise EngineError(f"this model's memory cannot be cut to {length} tokens")
            self.has_holes = True
        while held and held[-1].run.start >= length:
            held.pop()
        if held:
            run, kept = held[-1]
            kept = min(kept, length - run.start)
            held[-1] = _Held(run, kept)
            if run.writer == slot:
                run.length = kept
            else:
                self._split(run, run.start + kept)
        else:
            self._resting.discard(slot)
            self._first[slot] = 0
        self._tidy()
        if not any(self._slots):
            self._lib.llama_memory_clear(self._memory, False)
            self.has_holes = self.is_broken = False

    def _split(self, run: _Run, at: int) -> None:
        """Make two runs of one, before this position, so that each is kept for as long as its own holders need it.

        Not of one that has a copy outside.
        """
        head = at - run.start
        if run.outside or not 0 < head < run.length:
            return
        tail = _Run(at, run.length - head, run.writer)
        run.length, run.writer = head, None
        for held in self._slots:
            for place, (one, length) in enumerate(held):
                if one is run and length > head:
                    held[place : place + 1] = [_Held(run, head), _Held(tail, length - head)]
                    break

    def _check_cut(self, slot: int, length: int) -> None:
        if 0 < length < min(self.least(slot), self.length(slot)):
            raise EngineError(f"a slot of {self.length(slot)} tokens has moved its window past {length}")

    def rest(self, slots: Collection[int]) -> int:
        """What only these slots hold leaves the cells until one is used again; how many tokens are outside by now."""
        if leaving := {slot for slot in slots if self._slots[slot]} - self._resting:
            self.pack(leaving)
        return sum(run.outside.length for run, _ in self._runs() if run.outside)

    def _runs(self) -> Iterator[tuple[_Run, dict[int, int]]]:
        """Each run once, in the order of positions, with how many of its cells each of its holders holds."""
        holders: dict[_Run, dict[int, int]] = {}
        for slot, held in enumerate(self._slots):
            for run, length in held:
                holders.setdefault(run, {})[slot] = length
        yield from sorted(holders.items(), key=lambda item: item[0].start)

    def pack(self, leaving: Collection[int] = ()) -> None:
        """Write all runs anew, in the order of their positions, bit for bit; shared runs stay shared.

        Slots that are leaving rest from now on. Raises MemoryFull, with nothing changed, where a window parts copies
        that have no room beside one another.
        """
        if self.is_broken:
            raise EngineError("the memory of this model was lost", hint="load it again")
        written, outside = [], []
        for run, holders in self._runs():
            inside = {slot: length for slot, length in holders.items() if slot not in self._resting}
            staying = {slot: length for slot, length in inside.items() if slot not in leaving}
            copies = [(group, self._save(run, group)) for group in self._alike(run, staying)]
            if len(staying) < len(holders) and run.outside is None:
                is_whole = copies and copies[0][1].length == max(inside.values())
                outside.append((run, copies[0][1] if is_whole else self._save(run, inside)))
            written += [(run, *copy) for copy in copies]
        if sum(copy.length for _, _, copy in written) > self._lib.llama_n_ctx(self._context):
            raise MemoryFull("no room to pack what is held", hint="fewer replies at once, or a longer --context")
        for run, copy in outside:
            run.outside = copy
        self._lib.llama_memory_clear(self._memory, False)
        # Should a copy not come back, no slot may go on as if it held something.
        self.is_broken = True
        self._resting.update(leaving)
        for run, holders in self._runs():
            run.writer = next(iter(holders)) if len(holders) == 1 and not holders.keys() & self._resting else None
            run.length = max(holders.values())
        for run, group, copy in written:
            if not self._restore(run, group, copy):
                raise EngineError(f"{len(copy.data)} bytes of cells could not be written back")
        self.has_holes = self.is_broken = False
        if self._window:
            self._first = [self._whole_since(held) for held in self._slots]

    def _alike(self, run: _Run, holders: dict[int, int]) -> list[dict[int, int]]:
        """Holders that one copy of a run is right for: all, but under a window those of whom it holds as much."""
        if not self._window:
            return [holders] if holders else []
        groups: dict[tuple[int, int], dict[int, int]] = {}
        for slot, length in holders.items():
            end = run.start + length
            since = min(end, max(run.start, end - self._window, self.least(slot) - self._window))
            groups.setdefault((since, length), {})[slot] = length
        return list(groups.values())

    def _whole_since(self, held: Sequence[_Held]) -> int:
        """Of each run llama.cpp has written out what its end looks back over."""
        for run, length in reversed(held):
            if length > self._window:
                return run.start + length - self._window
        return 0

    def _save(self, run: _Run, holders: dict[int, int]) -> _Copy:
        """The cells of a run, as far as these slots hold them; all have their cells inside."""
        slot = max(holders, key=lambda slot: holders[slot])
        length = holders[slot]
        self._lib.llama_memory_seq_cp(self._memory, slot, self.spare, run.start, run.start + length)
        size = self._lib.llama_state_seq_get_size(self._context, self.spare)
        data = self._new_bytes("uint8_t[]", size)
        written = self._lib.llama_state_seq_get_data(self._context, data, size, self.spare)
        self.clear_spare()
        if written != size:
            raise EngineError(f"{length} cells could not be copied: {written} of {size} bytes")
        return _Copy(data, length)

    def _restore(self, run: _Run, holders: dict[int, int], copy: _Copy) -> bool:
        """Write cells back for these slots; false where there is no room for them."""
        if not self._lib.llama_state_seq_set_data(self._context, copy.data, len(copy.data), self.spare):
            return False
        for slot, length in holders.items():
            self._lib.llama_memory_seq_cp(self._memory, self.spare, slot, run.start, run.start + length)
        self.clear_spare()
        return True

    def wake(self, slot: int) -> None:
        """Bring back what a slot that rests holds; raises MemoryFull, and then it rests on."""
        if slot not in self._resting:
            return
        if not self._fetch(slot):
            raise MemoryFull(
                f"no room for {self.length(slot)} tokens again", hint="fewer replies at once, or a longer --context"
            )
        self._resting.discard(slot)
        for run, holders in self._runs():
            if holders.keys() == {slot}:
                run.writer, run.length = slot, holders[slot]
        self._tidy()

    def _fetch(self, slot: int) -> bool:
        self.has_holes = True
        for run, holders in self._runs():
            if (length := holders.get(slot)) is None:
                continue
            awake = (other for other in holders.keys() - self._resting if holders[other] >= length)
            if (other := next(awake, None)) is not None:
                self._lib.llama_memory_seq_cp(self._memory, other, slot, run.start, run.start + length)
            elif not (run.outside and self._restore(run, {slot: length}, run.outside)):
                self._lib.llama_memory_seq_rm(self._memory, slot, -1, -1)
                return False
        return True

    def _tidy(self) -> None:
        """Drop the copies that no slot needs which rests."""
        for run, holders in self._runs():
            if run.outside and not holders.keys() & self._resting:
                run.outside = None
