"""What slots of llama.cpp hold is cut, shared, packed, put outside, fetched back: and nobody's logits change by it."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jeito.engines import llama_file
from jeito.engines.base import Loading, Row, Shape
from jeito.engines.llama_binding import library
from jeito.engines.llama_cells import Cells
from jeito.engines.llamacpp import LlamaEngine, load
from jeito.errors import EngineError, MemoryFull
from tests.engines import tiny_gguf

SHAPE = Shape(2, 32)
SLOTS = 6


@pytest.fixture(scope="module", params=["llama", "gemma2", "gemma3"])
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """Gemma has windows: a part of its layers forgets what lies far back."""
    family = tiny_gguf.FAMILIES[request.param]
    file = tiny_gguf.write(tiny_gguf.made(family), family, tmp_path_factory.mktemp("tiny") / "tiny.gguf")
    model = llama_file.load_file(file, vocab_only=False, gpu_layers=0)
    yield model
    library().lib.llama_model_free(model)


@pytest.fixture(scope="module")
def demo_weights(demo: Path) -> Iterator[object]:
    model = llama_file.load_file(demo, vocab_only=False, gpu_layers=0)
    yield model
    library().lib.llama_model_free(model)


def ids(count: int, seed: int = 1, vocabulary: int = 49152) -> list[int]:
    return [int(token) for token in np.random.default_rng(seed).integers(3, vocabulary, count)]


def feed(cells: Cells, slot: int, tokens: list[int], shape: Shape | None = SHAPE) -> np.ndarray:
    found = np.empty(0)
    for at in range(0, len(tokens), 32):
        found = cells.extend([Row(slot, tokens[at : at + 32], 1)], shape)[0][-1].copy()
    return found


@pytest.mark.parametrize("seed", range(3))
def test_whatever_is_done_in_whatever_order_every_slot_goes_on_as_if_it_had_been_alone(tiny: object, seed: int) -> None:
    draw = np.random.default_rng(seed)
    cells, alone = Cells(tiny, cells=400, slots=SLOTS, threads=1), Cells(tiny, cells=400, slots=1, threads=1)
    held: list[list[int]] = [[] for _ in range(SLOTS)]
    done: Counter[str] = Counter()
    for step in range(300):
        what = str(draw.choice(["extend", "extend", "fork", "cut", "rest"]))
        slot, other = (int(one) for one in draw.choice(SLOTS, 2, replace=False))
        length = int(draw.integers(0, len(held[slot]) + 1))
        if what in ("fork", "cut") and 0 < length < min(cells.runs.least(slot), len(held[slot])):
            with pytest.raises(EngineError, match="has moved its window past"):
                cells.runs.truncate(slot, length)
            what = "refused"
        done[what] += 1
        try:
            if what == "rest" and not cells.window:
                cells.runs.rest({int(one) for one in draw.choice(SLOTS, 3)})
            elif what == "cut":
                cells.runs.truncate(slot, length)
                del held[slot][length:]
            elif what == "fork":
                held[other] = []
                cells.runs.fork(slot, other, length)
                held[other] = held[slot][:length]
            elif what == "extend":
                tokens = ids(int(draw.integers(1, 60)), seed=1000 * seed + step, vocabulary=tiny_gguf.VOCABULARY)
                shape = SHAPE if len(tokens) <= SHAPE.high and step % 2 else None
                found = cells.extend([Row(slot, tokens, 1)], shape)[0][-1].copy()
                held[slot] += tokens
                alone.runs.truncate(0, 0)
                # Half precision adds up otherwise in another order; a token too many or too few makes whole units.
                assert np.allclose(found, feed(alone, 0, held[slot], None), atol=0.1), (step, done)
        except MemoryFull:
            for one in range(0, SLOTS, 2):
                cells.runs.truncate(one, 0)
                held[one] = []
        assert [cells.runs.length(one) for one in range(SLOTS)] == [len(tokens) for tokens in held]
    assert min(done[what] for what in ("extend", "fork", "cut", "rest")) > 20
    assert (done["refused"] > 0) == bool(cells.window)
    for one in (cells, alone):
        one.close()


@pytest.fixture(scope="module")
def undisturbed(demo_weights: object) -> np.ndarray:
    alone = Cells(demo_weights, cells=1024, slots=1, threads=2)
    found = feed(alone, 0, ids(560))
    alone.close()
    return found


def test_who_stays_and_who_comes_back_says_the_same_bit_for_bit(demo_weights: object, undisturbed: np.ndarray) -> None:
    tokens = ids(560)
    cells = Cells(demo_weights, cells=1024, slots=3, threads=2)
    feed(cells, 1, tokens[:300])
    feed(cells, 0, tokens[:280])
    assert cells.runs.rest([1]) == 300
    assert np.array_equal(feed(cells, 0, tokens[280:]), undisturbed)
    assert cells.runs.rest([0]) == 860
    assert np.array_equal(feed(cells, 1, tokens[300:]), undisturbed)
    cells.close()


def test_what_slots_share_is_kept_once_and_comes_back_for_who_needs_it(
    demo_weights: object, undisturbed: np.ndarray
) -> None:  # fmt: skip
    tokens = ids(560)
    cells = Cells(demo_weights, cells=1024, slots=5, threads=2)
    feed(cells, 1, tokens[:530])
    cells.runs.fork(1, 2, 530)
    feed(cells, 2, tokens[530:540])
    assert cells.runs.rest([1]) == 530  # a copy, for it alone: the other one has the cells themselves
    assert cells.runs.rest([2]) == 540
    cells.runs.fork(1, 3, 500)
    assert cells.runs.length(3) == 500
    assert np.array_equal(feed(cells, 3, tokens[500:]), undisturbed)
    assert cells.runs.rest([]) == 540
    assert np.array_equal(feed(cells, 2, tokens[540:]), undisturbed)
    assert cells.runs.rest([]) == 530
    cells.runs.truncate(1, 0)
    assert cells.runs.rest([]) == 0
    cells.close()


def test_outside_there_is_room_for_more_than_the_cells_hold(demo_weights: object) -> None:
    cells = Cells(demo_weights, cells=256, slots=6, threads=2)
    texts = [ids(200, seed) for seed in range(5)]
    for slot, text in enumerate(texts):
        feed(cells, slot, text)
        cells.runs.rest([slot])
    assert cells.runs.rest([]) == 1000
    alone = Cells(demo_weights, cells=256, slots=1, threads=2)
    for slot, text in enumerate(texts):
        alone.runs.truncate(0, 0)
        assert np.array_equal(feed(cells, slot, [5, 6, 7]), feed(alone, 0, [*text, 5, 6, 7]))
        cells.runs.rest([slot])
    for one in (cells, alone):
        one.close()


def test_who_finds_no_room_to_come_back_rests_on_and_comes_when_there_is(demo_weights: object) -> None:
    cells = Cells(demo_weights, cells=256, slots=4, threads=2)
    feed(cells, 0, ids(200))
    cells.runs.rest([0])
    feed(cells, 1, ids(360, seed=2))  # llama.cpp makes 512 cells of those
    for _ in range(2):
        with pytest.raises(MemoryFull, match="no room for 200 tokens again"):
            feed(cells, 0, [5])
        with pytest.raises(MemoryFull):
            cells.runs.fork(0, 2, 190)
        assert (cells.runs.length(0), cells.runs.length(1), cells.runs.length(2)) == (200, 360, 0)
    cells.runs.truncate(1, 300)
    cells.runs.fork(0, 2, 60)
    alone = Cells(demo_weights, cells=256, slots=2, threads=2)
    assert np.array_equal(feed(cells, 2, [5, 6]), feed(alone, 0, [*ids(200)[:60], 5, 6]))
    cells.runs.truncate(1, 0)
    cells.runs.truncate(2, 0)
    assert np.array_equal(feed(cells, 0, [5, 6]), feed(alone, 1, [*ids(200), 5, 6]))
    for one in (cells, alone):
        one.close()


def test_as_much_may_rest_as_a_budget_leaves_and_never_more_than_the_context(demo: Path) -> None:
    need = llama_file.read_outline(demo).need(context=512)
    each = llama_file.read_outline(demo).token_bytes()

    def outside(budget: int | None) -> int:
        engine = load(demo, Loading(context=512, budget=budget), print)
        engine.close()
        return engine.card.outside

    assert outside(need.total) == 0
    assert outside(need.total + 100 * each) == 100
    assert outside(need.total + 2000 * each) == 512
    assert outside(None) == 512


def test_an_engine_lets_slots_rest_and_goes_on_with_them(demo: Path) -> None:
    engine = LlamaEngine(demo, context=512, slots=2)
    before = engine.extend([Row(0, ids(100), 1)])[0].copy()
    engine.fork(0, 1, 99)
    assert engine.rest([0, 1]) == 100
    assert np.allclose(engine.extend([Row(1, ids(100)[99:], 1)])[0], before, atol=0.5)
    engine.close()


def test_a_copy_outside_is_no_longer_than_what_rests(demo_weights: object) -> None:
    cells = Cells(demo_weights, cells=512, slots=3, threads=2)
    feed(cells, 0, ids(300))
    cells.runs.fork(0, 1, 20)
    feed(cells, 1, [5, 6, 7, 8, 9])
    assert cells.runs.rest([0, 1]) == 305
    cells.runs.truncate(0, 0)
    assert cells.runs.rest([]) == 25
    feed(cells, 2, ids(300, seed=2))
    alone = Cells(demo_weights, cells=512, slots=1, threads=2)
    assert np.array_equal(feed(cells, 1, [10]), feed(alone, 0, [*ids(300)[:20], 5, 6, 7, 8, 9, 10]))
    for one in (cells, alone):
        one.close()


def test_a_window_parts_nobody_who_shares_and_what_cannot_be_packed_is_said(tmp_path: Path) -> None:
    family = tiny_gguf.FAMILIES["gemma3"]
    model = llama_file.load_file(
        tiny_gguf.write(tiny_gguf.made(family), family, tmp_path / "t.gguf"), vocab_only=False, gpu_layers=0
    )
    text = ids(100, vocabulary=tiny_gguf.VOCABULARY)
    cells = Cells(model, cells=400, slots=8, threads=1)
    feed(cells, 0, text)
    for slot in (1, 2, 3):
        cells.runs.fork(0, slot, 100)
    cells.runs.truncate(0, 0)
    for slot in (1, 2, 3):
        feed(cells, slot, ids(70 + slot, seed=slot, vocabulary=tiny_gguf.VOCABULARY))
    alone = Cells(model, cells=400, slots=1, threads=1)
    for again in range(3):  # a hole, a pack, and once more
        feed(cells, 7, [5, 6])
        cells.runs.truncate(7, 0)
        found = feed(cells, 1, [9])
        alone.runs.truncate(0, 0)
        whole = [*text, *ids(71, seed=1, vocabulary=tiny_gguf.VOCABULARY), *[9] * (again + 1)]
        assert np.allclose(found, feed(alone, 0, whole), atol=0.1)
    lib = cells.runs._lib
    cells.runs._lib, cells.runs.has_holes = Smaller(lib), True
    with pytest.raises(MemoryFull, match="no room to pack"):
        feed(cells, 1, [9])
    cells.runs._lib = lib
    assert np.allclose(feed(cells, 1, [9]), feed(alone, 0, [9]), atol=0.1)
    for one in (cells, alone):
        one.close()
    library().lib.llama_model_free(model)


class Smaller:
    """The library, with a context that is too small to pack what it holds."""

    def __init__(self, lib: Any) -> None:
        self._lib = lib

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lib, name)

    def llama_n_ctx(self, context: object) -> int:
        return 200
