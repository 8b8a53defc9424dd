"""Which slot holds what: found, forked, waited for, forgotten."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jeito.decode.memory import REST_AFTER, WORTH_RESTING, WORTH_WAITING, Memory, Place, shared
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


def test_a_slot_whose_window_has_moved_on_is_shared_only_where_it_can_be_cut_and_makes_nobody_wait() -> None:
    class Windowed(ToyEngine):
        def least(self, slot: int) -> int:
            return 70

    kept = Memory(Windowed(babble, slots=3, batch=256))
    fill(kept, LONG)
    assert fill(kept, [*LONG[:60], 7, 7]).reused == 0
    assert fill(kept, [*LONG[:80], 7, 7]).reused == 80
    busy = kept.place([*LONG[:50], 8], False)
    assert busy is not None
    assert kept.place([*LONG[:50], 9], False) is None  # that much is still to come, and can be shared once it has
    kept.hold(busy.slot, [*LONG[:50], 8], False)
    assert kept.place([*LONG[:50], 9], False) is not None


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


def resting(outside: int) -> tuple[ToyEngine, Memory]:
    engine = ToyEngine(babble, slots=2, batch=512, spare=6, outside=outside)
    return engine, Memory(engine)


def test_what_lies_idle_for_some_steps_is_put_out_of_the_way_and_is_shared_as_before() -> None:
    engine, kept = resting(4096)
    text = list(range(2 * WORTH_RESTING))
    slot = fill(kept, text).slot
    for _ in range(REST_AFTER - 1):
        kept.settle()
    assert not engine.resting
    kept.settle()
    assert engine.resting == {slot.index}
    other = fill(kept, [*text[:200], 7])
    assert other.reused == 200
    assert engine.resting == {slot.index}
    again = fill(kept, [*text, 9])
    assert (again.slot, again.reused) == (slot, len(text))
    assert not engine.resting
    assert not slot.rests


def test_little_is_not_worth_moving_nor_is_anything_where_nothing_can_rest() -> None:
    for size, outside in ((WORTH_RESTING // 2, 4096), (2 * WORTH_RESTING, 0)):
        engine, kept = resting(outside)
        fill(kept, list(range(size)))
        for _ in range(4 * REST_AFTER):
            kept.settle()
        assert not engine.resting


def test_where_there_is_not_room_for_all_outside_what_is_worth_most_rests() -> None:
    engine, kept = resting(500)
    for start in (0, 1000, 2000):
        fill(kept, list(range(start, start + 200)))
    fill(kept, [*range(200), 5, 6, 7])
    for _ in range(REST_AFTER):
        kept.settle()
    assert 400 <= engine.rest(()) <= 500
    assert not any(slot.rests for slot in kept.slots if slot.tokens[:1] == [1000])  # but it lies where it lay
    for start in (1000, 2000):
        assert fill(kept, [*range(start, start + 200), 1]).reused == 200
    for start in (5000, 6000, 7000):  # newer, and worth more: what rests gives way
        fill(kept, list(range(start, start + 240)))
        for _ in range(2 * REST_AFTER):
            kept.settle()
    assert engine.rest(()) <= 500
    assert sum(slot.rests for slot in kept.slots if slot.tokens[:1] > [4000]) == 2


def test_little_room_outside_makes_nobody_forget_what_finds_none() -> None:
    engine, kept = resting(10)
    for start in (0, 1000, 2000):
        fill(kept, list(range(start, start + 200)))
    for _ in range(2 * REST_AFTER):
        kept.settle()
    assert not engine.resting
    assert kept.evict()
    assert sum(bool(slot.tokens) for slot in kept.slots) == 2


def test_a_full_memory_puts_idle_slots_outside_before_it_forgets_anything() -> None:
    engine = ToyEngine(babble, slots=2, batch=512, spare=2, cells=300, outside=4096)
    kept = Memory(engine)
    fill(kept, list(range(200)))
    place = kept.place(list(range(1000, 1200)), False)
    assert place is not None
    with pytest.raises(MemoryFull):
        engine.extend([Row(place.slot.index, place.slot.plan, 1)])
    assert kept.evict()
    engine.extend([Row(place.slot.index, place.slot.plan, 1)])
    assert not kept.evict()
    assert fill(kept, [*range(50), 9]).reused == 50
    kept.forget()
    assert not any(slot.tokens for slot in kept.slots if not slot.busy)
