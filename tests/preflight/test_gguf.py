"""GGUFs by the names of their files, and those of the hub's cache."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("huggingface_hub")

from huggingface_hub.constants import HF_HUB_CACHE

from jeito.engines.transformers import locate
from jeito.errors import InputError, ModelError
from jeito.preflight.gguf import cached_gguf, choose_gguf, quantisations
from jeito.preflight.shelf import shelf
from jeito.run.open import open_model, read_card


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (["a-Q4_K_M.gguf", "a-Q8_0.gguf", "mmproj-a-f16.gguf", "a.imatrix.gguf"], ["Q4_K_M", "Q8_0"]),
        (["Qwen3.IQ3_XXS.gguf", "Qwen3-UD-Q4_K_XL.gguf", "Qwen3-BF16.gguf"], ["BF16", "UD-Q4_K_XL", "IQ3_XXS"]),
        (["Q4_0/m-Q4_0-00001-of-00002.gguf", "Q4_0/m-Q4_0-00002-of-00002.gguf", "m-q5_k_m.gguf"], ["Q4_0", "q5_k_m"]),
        (["model.gguf"], ["model"]),
        (["small-Q4_0.gguf", "large-Q4_0.gguf"], ["large-Q4_0", "small-Q4_0"]),
        (["a-Q4_K_M.gguf", "a-UD-Q4_K_M.gguf"], ["Q4_K_M", "UD-Q4_K_M"]),
    ],
)  # fmt: skip
def test_each_gguf_has_a_word_that_chooses_it_alone(files: list[str], words: list[str]) -> None:
    known = quantisations(files)
    assert list(known) == words
    for word, parts in known.items():
        assert choose_gguf(files, word) == choose_gguf(files, word.lower()) == parts


@pytest.fixture
def snapshot() -> Iterator[Path]:
    """Of org/ggufs in the cache of this process, still empty."""
    shutil.rmtree(HF_HUB_CACHE, ignore_errors=True)
    repository = Path(HF_HUB_CACHE) / "models--org--ggufs"
    folder = repository / "snapshots" / ("a" * 40)
    folder.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    yield folder
    shutil.rmtree(HF_HUB_CACHE, ignore_errors=True)


def test_a_name_in_the_cache_is_one_gguf_where_that_is_all_there_is(snapshot: Path, demo: Path) -> None:
    (snapshot / "m-Q4_1.gguf").symlink_to(demo)
    assert cached_gguf("org/ggufs") == cached_gguf("org/ggufs:q4_1") == snapshot / "m-Q4_1.gguf"
    assert read_card("org/ggufs").engine == "llamacpp"
    assert [kept.model for kept in shelf() if kept.where == "hub"] == ["org/ggufs:Q4_1"]
    for how in ("@nf4", "@transformers"):
        with pytest.raises(InputError, match="GGUF"):
            open_model(f"org/ggufs:Q4_1{how}")
    with pytest.raises(ModelError, match="'Q8_0'") as caught:
        cached_gguf("org/ggufs:Q8_0")
    assert caught.value.hint == "jeito pull org/ggufs:Q8_0"
    (snapshot / "m-Q8_0.gguf").symlink_to(demo)
    with pytest.raises(ModelError, match="2 GGUFs") as caught:
        open_model("org/ggufs")
    assert caught.value.hint == "-m org/ggufs:Q4_1"
    assert [kept.model for kept in shelf() if kept.where == "hub"] == ["org/ggufs"]
    (snapshot / "model.safetensors").write_bytes(b"")
    assert cached_gguf("org/ggufs") is None
    assert cached_gguf("org/ggufs:Q8_0") == snapshot / "m-Q8_0.gguf"


def test_a_part_that_is_missing_in_the_cache_is_named(snapshot: Path, demo: Path) -> None:
    folder = snapshot / "Q4_1"
    folder.mkdir()
    (folder / "m-Q4_1-00002-of-00002.gguf").symlink_to(demo)
    with pytest.raises(ModelError, match="m-Q4_1-00001-of-00002") as caught:
        open_model("org/ggufs:Q4_1#main")
    assert caught.value.hint == "jeito pull org/ggufs:Q4_1#main"


def test_a_snapshot_of_part_of_a_repository_is_found(snapshot: Path) -> None:
    """What huggingface_hub lists of a repository is more than what a model needs of it."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import IncompleteSnapshotError

    trees = snapshot.parent.parent / "trees"
    trees.mkdir()
    listing = {"format_version": 1, "files": {"onnx/model.onnx": {"size": 1, "blob_id": "b"}}}
    (trees / f"{'a' * 40}.json").write_text(json.dumps(listing))
    with pytest.raises(IncompleteSnapshotError):
        snapshot_download("org/ggufs", local_files_only=True)
    assert locate("org/ggufs") == (snapshot, "org/ggufs")
