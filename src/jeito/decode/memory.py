"""Which slot already holds which tokens: what a prompt shares with them is not computed again.

Knows token ids and slots; nothing of logits or of text.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from jeito.engines.base import PLAIN, Engine, Tuning
from jeito.errors import EngineError

# A prompt waits for a neighbour's prefill when that saves it at least so many tokens.
WORTH_WAITING = 4
# What lies idle costs every row of every step some 0.8 µs a token on llama.cpp, and 12 µs to be copied away and back.
REST_AFTER = 16
WORTH_RESTING = 128


@dataclass(slots=True)
class Slot:
    """What an engine's slot holds. `plan`: what the sequence in it is about to hold (its whole prompt)."""

    index: int
    tokens: list[int] = field(default_factory=list)
    plan: Sequence[int] = ()
    busy: bool = False
    planned_exact: bool = False
    exact: bool = True
    """Was everything in it computed in the exact shape?"""
    tuning: Tuning = PLAIN
    """Under which it was computed."""
    used: int = 0
    cost: int = 0
    """Tokens that were computed into it, not copied."""
    worth: int = 0
    left: int = 0
    """The step after which it was idle."""
    rests: bool = False
    """Is it put where it is in nobody's way?"""


class Place(NamedTuple):
    """A slot made ready for a prompt: it holds the prompt's first `reused` tokens."""

    slot: Slot
    reused: int


def shared(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the common prefix; slices are compared, halving, since that runs in C."""
    low, high = 0, min(len(a), len(b))
    if a[:high] == b[:high]:
        return high
    while low + 1 < high:
        middle = (low + high) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle
    return low


class Memory:
    """The slots of one engine: places prompts, forks prefixes, forgets what is cheap to compute again and long unused.

    GreedyDual (Young 1994): whatever is used is worth its cost above the worth of what was forgotten last.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._clock = self._floor = self._steps = 0
        self.slots = [Slot(index) for index in range(engine.card.slots + engine.card.spare)]

    def place(self, prompt: list[int], exact: bool, tuning: Tuning = PLAIN) -> Place | None:
        """A slot for a prompt, or none now: as many reply as can, or a neighbour is about to hold what it needs.

        The prompt's last token is always left to compute, since its logits are wanted. An exact reply reuses
        only what was computed exactly, and every reply only what was computed under the same tuning.
        """
        idle = [slot for slot in self.slots if not slot.busy]
        if len(idle) <= self._engine.card.spare:
            return None
        wanted = prompt[:-1]
        source, reused = self._best(wanted, exact, tuning)
        if self._comes_soon(wanted, exact, tuning) >= reused + WORTH_WAITING:
            return None
        target = self._target(idle, source, reused)
        if source is target:
            self._engine.truncate(target.index, reused)
            target.tokens, target.cost = target.tokens[:reused], min(target.cost, reused)
        else:
            # Before a copy: an engine that finds no room for it has emptied the slot.
            self._forget(target)
            if source is not None:
                self._engine.fork(source.index, target.index, reused)
                target.tokens, target.exact = source.tokens[:reused], source.exact
                self._use(source)
        self._use(target)
        target.busy, target.rests, target.plan, target.planned_exact = True, False, prompt, exact
        target.tuning = tuning
        return Place(target, reused)

    def _best(self, wanted: list[int], exact: bool, tuning: Tuning) -> tuple[Slot | None, int]:
        best: Slot | None = None
        most = 0
        for slot in self.slots:
            if slot.tuning != tuning or (exact and not slot.exact):
                continue
            length = shared(slot.tokens, wanted)
            if length > most and self._can_be_cut(slot, length):
                best, most = slot, length
        return best, most

    def _can_be_cut(self, slot: Slot, length: int) -> bool:
        return length == len(slot.tokens) or length >= self._engine.least(slot.index)

    def _comes_soon(self, wanted: list[int], exact: bool, tuning: Tuning) -> int:
        if not self._engine.card.rewinds:
            return 0  # what a neighbour holds can be shared only while it holds exactly that
        busy = (slot for slot in self.slots if slot.busy and slot.tuning == tuning)
        lengths = ((slot, shared(slot.plan, wanted)) for slot in busy if slot.planned_exact or not exact)
        # What has gone past that, and cannot be cut back to it, does not come any more.
        return max((n for slot, n in lengths if n > len(slot.tokens) or self._can_be_cut(slot, n)), default=0)

    def _target(self, idle: list[Slot], source: Slot | None, reused: int) -> Slot:
        # A slot that the prompt simply goes on from is taken as it is; otherwise it stays, for others to share.
        if source is not None and not source.busy and reused == len(source.tokens):
            return source
        return min(idle, key=lambda slot: (bool(slot.tokens), slot is source, slot.worth, slot.used))

    def take(self) -> Slot:
        """An empty slot, kept busy until it is released; what it is given then is nobody's to share."""
        idle = [slot for slot in self.slots if not slot.busy]
        if not idle:
            raise EngineError("every slot is busy", hint="more --slots")
        slot = self._target(idle, None, 0)
        self._forget(slot)
        slot.busy = True
        return slot

    def hold(self, slot: Slot, tokens: Iterable[int], exact: bool) -> None:
        """The engine has appended these tokens to the slot."""
        before = len(slot.tokens)
        slot.tokens.extend(tokens)
        slot.cost += len(slot.tokens) - before
        slot.exact = slot.exact and exact

    def release(self, slot: Slot) -> None:
        """The slot's sequence ended; what it holds stays, to be shared."""
        slot.busy, slot.plan, slot.left = False, (), self._steps
        self._use(slot)
        if not slot.tokens:
            self._engine.truncate(slot.index, 0)

    def evict(self) -> bool:
        """Make room where passes are computed: idle slots rest, or the one that is worth least is forgotten.

        False where no idle slot is in the way.
        """
        held = [slot for slot in self._idle() if not slot.rests]
        if not held:
            return False
        if not self._rest(held):
            self._forget(_least(held))
        return True

    def forget(self) -> None:
        """Forget whatever idle slots hold."""
        for slot in self._idle():
            self._forget(slot)

    def settle(self) -> None:
        """After a step: what lies idle for long enough that moving it is worth the copies is put to rest."""
        self._steps += 1
        if not self._engine.card.outside or self._steps % REST_AFTER:
            return
        long = [slot for slot in self._idle() if not slot.rests and self._steps - slot.left >= REST_AFTER]
        # What stays is moved too.
        stays = sum(slot.cost for slot in self.slots if slot.busy)
        if sum(slot.cost for slot in long) >= max(WORTH_RESTING, stays // 8):
            self._rest(long)

    def _rest(self, slots: Sequence[Slot]) -> bool:
        """Put slots out of the way as far as there is room, where what is worth less gives way; did any find some?"""
        most = self._engine.card.outside
        outside = self._engine.rest(()) if most else 0
        going: list[Slot] = []
        for slot in sorted(slots, key=lambda slot: (slot.worth, slot.used), reverse=True):
            size = len(slot.tokens)
            while size <= most < outside + size:
                less = [one for one in self._idle() if one.rests and one.worth < slot.worth]
                if not less:
                    break
                self._forget(_least(less))
                outside = self._engine.rest(()) + sum(len(one.tokens) for one in going)
            if outside + size <= most:
                going.append(slot)
                outside += size
        if going:
            self._engine.rest([slot.index for slot in going])
            for slot in going:
                slot.rests = True
        return bool(going)

    def _idle(self) -> list[Slot]:
        return [slot for slot in self.slots if not slot.busy and slot.tokens]

    def _use(self, slot: Slot) -> None:
        self._clock += 1
        slot.used, slot.worth = self._clock, self._floor + slot.cost

    def _forget(self, slot: Slot) -> None:
        self._engine.truncate(slot.index, 0)
        if slot.tokens:
            self._floor = max(self._floor, slot.worth)
        slot.tokens, slot.exact, slot.cost, slot.rests = [], True, 0, False


def _least(slots: Sequence[Slot]) -> Slot:
    return min(slots, key=lambda slot: (slot.worth, slot.used))
