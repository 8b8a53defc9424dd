"""Which slot holds what: found, forked, waited for, forgotten."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jeito.decode.memory import WORTH_WAITING, Memory, Place, shared
from jeito.engines.base import Row
from jeito.engines.toy import ToyEngine, babble
from jeito.errors import MemoryFull

LONG = list(range(100))


def memory(slots: int = 3) -> Memory:
    return Memory(ToyEngine(babble, slots=slots, batch=256))


def fill(kept: Memory, prompt: list[int], exact: bool = False) -> Place:
    """Place a prompt, compute it, end it."""
    place = kept.place(prompt, exact)
    assert place is not None
    tokens = prompt[place.reused :]
    kept._engine.extend([Row(place.slot.index, tokens, 1)])
    kept.hold(place.slot, tokens, exact)
    kept.release(place.slot)
    return place


@given(st.lists(st.integers(0, 2)), st.lists(st.integers(0, 2)))
def test_the_common_prefix_is_as_long_as_a_plain_loop_finds_it(a: list[int], b: list[int]) -> None:
    plain = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    assert shared(a, b) == plain


def test_a_prompt_that_goes_on_from_a_slot_takes_it_as_it_is() -> None:
    kept = memory()
    first = fill(kept, LONG)
    second = fill(kept, [*LONG, 1, 2, 3])
    assert second.slot is first.slot
    assert second.reused == len(LONG)


def test_a_prompt_that_shares_a_part_forks_it_and_leaves_the_whole_for_others() -> None:
    kept = memory()
    first = fill(kept, LONG)
    second = fill(kept, [*LONG[:60], 7, 7])
    assert second.reused == 60
    assert second.slot is not first.slot
    assert fill(kept, [*LONG, 5]).reused == len(LONG)


def test_the_last_token_is_always_computed_since_its_logits_are_wanted() -> None:
    kept = memory()
    fill(kept, LONG)
    assert fill(kept, LONG).reused == len(LONG) - 1


def test_a_prompt_waits_for_a_neighbour_that_is_about_to_hold_its_prefix() -> None:
    kept = memory()
    busy = kept.place(LONG, False)
    assert busy is not None
    assert kept.place([*LONG, 1], False) is None
    assert kept.place([*LONG[: WORTH_WAITING - 1], 200, 201], False) is not None
    kept._engine.extend([Row(busy.slot.index, LONG, 1)])
    kept.hold(busy.slot, LONG, False)
    forked = kept.place([*LONG, 1], False)
    assert forked is not None
    assert forked.reused == len(LONG)


class Crowded(ToyEngine):
    """Empties the target of a fork, and then has no room for the copy."""

    def fork(self, source: int, target: int, length: int) -> None:
        self.truncate(target, 0)
        raise MemoryFull("no room to copy")


def test_a_copy_that_found_no_room_leaves_a_slot_that_is_known_to_be_empty() -> None:
    kept = Memory(Crowded(babble, slots=2, batch=256))
    fill(kept, LONG)
    fill(kept, [50, *LONG[::-1]])
    with pytest.raises(MemoryFull):
        kept.place([*LONG[:60], 7, 7], False)
    empty = [slot for slot in kept.slots if not slot.tokens]
    assert len(empty) == 1
    assert not empty[0].busy


def test_an_exact_reply_reuses_only_what_was_computed_exactly() -> None:
    kept = memory()
    fill(kept, LONG, exact=False)
    assert fill(kept, [*LONG, 1], exact=True).reused == 0
    assert fill(kept, [*LONG, 1, 2], exact=True).reused == len(LONG) + 1


def test_a_model_that_cannot_be_rewound_shares_only_whole_slots() -> None:
    engine = ToyEngine(babble, slots=3, batch=256)
    engine.card = replace(engine.card, rewinds=False)
    kept = Memory(engine)
    fill(kept, LONG)
    assert fill(kept, [*LONG[:60], 7, 7]).reused == 0
    assert fill(kept, [*LONG, 7]).reused == len(LONG)


def test_a_model_that_cannot_be_rewound_makes_nobody_wait_in_vain() -> None:
    engine = ToyEngine(babble, slots=3, batch=256)
    engine.card = replace(engine.card, rewinds=False)
    kept = Memory(engine)
    assert kept.place([*LONG, 1], False) is not None
    assert kept.place([*LONG, 2], False) is not None


def test_the_slot_used_longest_ago_is_forgotten_first() -> None:
    kept = memory(slots=2)
    old, new = [1] * 30, [2] * 30
    fill(kept, old)
    fill(kept, new)
    assert kept.evict()
    assert fill(kept, [*new, 3]).reused == 30
    assert kept.evict()
    assert not kept.evict()


def test_no_slot_is_free_while_all_are_busy() -> None:
    kept = memory(slots=1)
    assert kept.place([1, 2], False) is not None
    assert kept.place([3, 4], False) is None


def test_what_is_cheap_to_compute_again_is_forgotten_first_though_it_was_used_last() -> None:
    kept = memory(slots=3)
    fill(kept, LONG)
    for start in range(200, 230, 5):
        fill(kept, list(range(start, start + 5)))
    assert fill(kept, [*LONG, 5]).reused == len(LONG)


def test_a_prefix_that_others_start_from_is_kept_for_as_long_as_they_do() -> None:
    kept = memory(slots=3)
    fill(kept, LONG)
    for number in range(200, 260):
        fill(kept, [*LONG[:90], number, number])
        fill(kept, list(range(number, number + 40)))
    assert kept._floor > len(LONG)
    assert fill(kept, [*LONG, 5]).reused == len(LONG)


def test_what_was_cut_off_counts_no_more() -> None:
    kept = memory(slots=1)
    fill(kept, LONG)
    assert fill(kept, [*LONG[:10], 7]).slot.cost == 11


def test_what_nobody_uses_any_more_is_forgotten_however_long_it_is() -> None:
    kept = memory(slots=3)
    fill(kept, LONG)
    for start in range(200, 400, 5):
        fill(kept, list(range(start, start + 10)))
    assert fill(kept, [*LONG, 5]).reused == 0


def test_spare_slots_keep_prefixes_and_never_reply() -> None:
    engine = ToyEngine(babble, slots=2, batch=256, spare=3)
    kept = Memory(engine)
    for start in (100, 200, 300):
        fill(kept, list(range(start, start + 50)))
    assert kept.place(list(range(100, 160)), False).reused == 50
    assert kept.place(list(range(200, 260)), False).reused == 50
    assert kept.place(list(range(300, 360)), False) is None
