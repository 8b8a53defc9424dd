"""llama.cpp as it is: files that are broken, libraries that are others, and the order of cells."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jeito.engines import llamacpp
from jeito.engines.base import Row, Shape
from jeito.engines.llama_cells import Cells
from jeito.errors import EngineError, ModelError
from jeito.run.open import demo_file, open_model

SHAPE = Shape(2, 32)
VOCABULARY = 49152


@pytest.fixture(scope="module")
def weights() -> object:
    return llamacpp._load(demo_file(), vocab_only=False, gpu_layers=0)


def ids(count: int) -> list[int]:
    return [int(token) for token in np.random.default_rng(1).integers(0, VOCABULARY, count)]


def feed(cells: Cells, slot: int, tokens: list[int], chunk: int = 32) -> np.ndarray:
    found = np.empty(0)
    for at in range(0, len(tokens), chunk):
        found = cells.extend([Row(slot, tokens[at : at + chunk], 1)], SHAPE)[0][-1].copy()
    return found


def test_a_neighbour_that_leaves_changes_no_bit_of_who_stays(weights: object) -> None:
    tokens = ids(560)
    alone = Cells(weights, cells=2048, slots=3, threads=2)
    expected = feed(alone, 0, tokens)
    alone.close()
    beside = Cells(weights, cells=2048, slots=3, threads=2)
    feed(beside, 1, tokens[:300])
    feed(beside, 0, tokens[:280])
    beside.truncate(1, 0)
    assert np.array_equal(feed(beside, 0, tokens[280:]), expected)
    beside.close()


def test_without_packing_a_hole_below_changes_the_bits(weights: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Why `_pack` exists. When this fails, llama.cpp has learnt to keep cells in order: drop the packing."""
    monkeypatch.setattr(Cells, "_pack", lambda self: None)
    tokens = ids(560)
    alone = Cells(weights, cells=2048, slots=3, threads=2)
    expected = feed(alone, 0, tokens)
    alone.close()
    beside = Cells(weights, cells=2048, slots=3, threads=2)
    feed(beside, 1, tokens[:300])
    feed(beside, 0, tokens[:280])
    beside.truncate(1, 0)
    assert not np.array_equal(feed(beside, 0, tokens[280:]), expected)
    beside.close()


def test_runs_that_slots_share_are_packed_once_and_stay_shared(weights: object) -> None:
    tokens = ids(120)
    # Sixteen forks of 100 cells fit into 512 cells only while they share them.
    cells = Cells(weights, cells=512, slots=17, threads=2)
    feed(cells, 0, tokens[:50])
    feed(cells, 1, tokens[:100])
    for slot in range(2, 17):
        cells.fork(1, slot, 100 - slot)
    cells.truncate(0, 0)
    expected = Cells(weights, cells=512, slots=2, threads=2)
    found = cells.extend([Row(16, tokens[84:90], 1)], SHAPE)[0][-1].copy()
    assert np.array_equal(found, feed(expected, 0, tokens[:90]))
    again = cells.extend([Row(1, tokens[100:110], 1)], SHAPE)[0][-1].copy()
    assert np.array_equal(again, feed(expected, 1, tokens[:110]))
    for one in (cells, expected):
        one.close()


@pytest.mark.parametrize("library", ["text", "libm.so.6"])
def test_a_library_that_is_not_this_build_is_refused_by_name(library: str, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no library")
    given = str(tmp_path / "text") if library == "text" else library
    done = subprocess.run(
        [sys.executable, "-c", "from jeito.engines.llama_binding import library; library()"],
        env=os.environ | {"JEITO_LLAMA_LIB": given},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "EngineError" in done.stderr
    assert library in done.stderr
    assert done.returncode == 1


def test_defaults_that_differ_betray_another_build(monkeypatch: pytest.MonkeyPatch) -> None:
    from jeito.engines import llama_binding

    monkeypatch.setitem(llama_binding._CONTEXT_DEFAULTS, "n_ctx", 4096)
    with pytest.raises(EngineError, match="n_ctx is 512 by default, not 4096"):
        llama_binding.Library()


def open_in_a_process(path: Path) -> subprocess.CompletedProcess[str]:
    """An abort of the library would end only that process."""
    return subprocess.run(
        [sys.executable, "-m", "jeito.cli.main", "ask", "hi", "-m", str(path), "--set", "max_new_tokens=1"],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("size", [0, 3, 4, 20, 1000, 500_000, 5_000_000, 98_000_000])
def test_a_truncated_file_is_refused_in_one_line(size: int, tmp_path: Path) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(demo_file().read_bytes()[:size])
    done = open_in_a_process(path)
    assert done.returncode == 64, done.stderr
    assert done.stderr.startswith("error: ")
    assert str(path) in done.stderr.splitlines()[0]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("at", [4, 8, 16, 24, 40, 100, 2000])
def test_a_corrupt_header_never_ends_the_process(at: int, tmp_path: Path) -> None:
    data = bytearray(demo_file().read_bytes())
    data[at : at + 8] = b"\xff" * 8
    path = tmp_path / "corrupt.gguf"
    path.write_bytes(data)
    done = open_in_a_process(path)
    assert done.returncode in (0, 64, 70), (done.returncode, done.stderr)
    assert "Traceback" not in done.stderr


def test_what_is_no_gguf_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(b"PK\x03\x04 a zip")
    with pytest.raises(ModelError, match="no GGUF"):
        llamacpp.read_card(path)
    with pytest.raises(ModelError, match="there is no file"):
        llamacpp.read_card(tmp_path / "none.gguf")
    with pytest.raises(ModelError, match="there is no file"):
        llamacpp.read_card(tmp_path)


def test_a_missing_part_of_a_split_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "m-00001-of-00002.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelError, match="00002-of-00002"):
        llamacpp.read_card(tmp_path / "m-00001-of-00002.gguf")


def test_a_context_longer_than_the_models_is_refused() -> None:
    with pytest.raises(ModelError, match="8192 tokens, not 9000"):
        open_model("demo", context=9000)


def test_the_card_is_read_without_weights_and_says_the_same() -> None:
    card = llamacpp.read_card(demo_file())
    assert (card.context, card.precision, card.vocabulary, card.ends) == (8192, "Q4_1", VOCABULARY, {0, 2, 4})
    assert card.template is not None
    assert "<|im_start|>" in card.template


def test_an_authors_sampling_values_become_defaults() -> None:
    found = llamacpp._sampling_defaults(
        {"general.sampling.temp": "0.6", "general.sampling.top_k": "20", "general.sampling.penalty_last_n": "-1"}, "f"
    )
    assert {knob: sourced.value for knob, sourced in found.items()} == {"temperature": 0.6, "top_k": 20}
    assert all(sourced.source == "model" and sourced.file == "f" for sourced in found.values())


def test_threads_keep_to_the_cores_that_the_process_may_use() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert llamacpp.usable_cores() == 1
    finally:
        os.sched_setaffinity(0, before)
    assert 1 <= llamacpp.usable_cores() <= len(before)
