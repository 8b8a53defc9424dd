"""Is what was loaded a model at all?"""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jeito.decode.local import LocalModel
from jeito.engines.base import Logits, Row
from jeito.engines.toy import VOCABULARY, ToyEngine, babble
from jeito.errors import ModelError
from jeito.run.health import TEXT, check_health
from jeito.run.open import open_model
from jeito.run.run import run


def everywhere(value: float) -> Callable[[Any], Logits]:
    return lambda tokens: np.full(VOCABULARY, value, np.float32)


def test_a_model_that_knows_its_language_is_hardly_surprised(demo_model: LocalModel) -> None:
    engine = demo_model.decoder.engine
    found = check_health(engine, "demo", "")
    assert found is not None
    assert 1 < found.surprise < 0.4 * found.even
    assert 0 < found.entropy < found.even
    assert not found.is_noise


def test_the_check_leaves_nothing_in_the_memory(demo_model: LocalModel) -> None:
    engine = demo_model.decoder.engine
    row = Row(0, engine.tokens("Hello there", False))
    before = engine.extend([row])[0].copy()
    engine.truncate(0, 0)
    check_health(engine, "demo", "")
    assert np.array_equal(engine.extend([row])[0], before)
    engine.truncate(0, 0)


@pytest.mark.parametrize("score", [None, babble])
def test_the_toy_is_well(score: Any) -> None:
    toy = ToyEngine(score) if score else ToyEngine()
    check_health(toy, "toy", "")
    assert [len(row.tokens) for call in toy.calls for row in call] == [len(TEXT)]
    assert run("plain", LocalModel(toy, "toy"), "hi").text()


@pytest.mark.parametrize(
    ("value", "why"), [(0.0, "as likely as any other"), (np.nan, "not numbers"), (np.inf, "not numbers")]
)
def test_logits_that_say_nothing_are_refused_with_a_remedy(value: float, why: str) -> None:
    toy = ToyEngine(everywhere(value))
    with pytest.raises(ModelError, match=why) as caught:
        check_health(toy, "toy", "get it again")
    assert caught.value.hint == "get it again"
    assert toy.extend([Row(0, [1])])[0].shape == (1, VOCABULARY)
    assert toy._slots[0] == [1]


BLOCKS = {"Q4_1": 20, "Q8_0": 34}  # bytes of a block of 32 values; its scale, a half, comes first
Break = Callable[[Callable[[str], bool], str], Path]


@pytest.fixture(scope="module")
def matrices(demo: Path) -> list[Any]:
    """The demo model's, with where in its file they stand: reading that takes seconds."""
    gguf = pytest.importorskip("gguf")
    return [one for one in gguf.GGUFReader(demo).tensors if one.data.ndim == 2]


@pytest.fixture
def broken(demo: Path, matrices: list[Any], tmp_path: Path) -> Iterator[Break]:
    """The demo model's file with the matrices of these names broken: blocks shuffled, zeros, or no numbers."""
    file = tmp_path / "broken.gguf"

    def make(chosen: Callable[[str], bool], how: str) -> Path:
        shutil.copyfile(demo, file)
        data = np.memmap(file, np.uint8, "r+")
        hit = [one for one in matrices if chosen(one.name)]
        assert hit
        for tensor in hit:
            stretch = data[int(tensor.data_offset) : int(tensor.data_offset + tensor.n_bytes)]
            blocks = stretch.reshape(-1, BLOCKS[tensor.tensor_type.name])
            if how == "shuffled":
                blocks[:] = np.random.default_rng(0).permutation(blocks)
            else:
                blocks[:, :2] = np.frombuffer(np.float16(how).tobytes(), np.uint8)
            if how == "0":
                blocks[:] = 0
        return file

    yield make
    file.unlink(missing_ok=True)


@pytest.mark.parametrize("part", ["blk.", "blk.0.", "token_embd", ""])
def test_weights_that_load_as_noise_are_refused(broken: Break, part: str) -> None:
    with pytest.raises(ModelError, match="lost or noise") as caught:
        open_model(str(broken(lambda name: part in name, "shuffled")))
    assert "sha256sum" in caught.value.hint


@pytest.mark.parametrize(("how", "why"), [("0", "as likely as any other"), ("nan", "not numbers")])
def test_embeddings_that_are_zeros_or_no_numbers_are_refused(broken: Break, how: str, why: str) -> None:
    with pytest.raises(ModelError, match=why):
        open_model(str(broken(lambda name: "token_embd" in name, how)))


def test_a_model_that_still_knows_its_language_runs(broken: Break) -> None:
    """One broken layer in the middle is not noise: what it costs is for proofs to say."""
    model = open_model(str(broken(lambda name: "blk.15." in name, "shuffled")))
    found = check_health(model.decoder.engine, "broken", "")
    assert found is not None
    assert found.surprise < 6
    model.close()


def test_a_context_that_is_shorter_than_the_text_is_not_judged() -> None:
    toy = ToyEngine(context=8, slots=1)
    assert check_health(toy, "toy", "") is None
    assert toy.calls == []
