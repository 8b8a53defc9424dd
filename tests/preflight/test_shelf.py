"""What is on the shelf, and what may be taken from it."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jeito.decode.local import LocalModel
from jeito.engines.toy import ToyEngine
from jeito.errors import InputError, ModelError
from jeito.preflight.shelf import find, plan, remove, shelf
from jeito.run.run import run
from jeito.trace.log import Log
from jeito.types import Trace

hub = pytest.importorskip("huggingface_hub")
OLD, NEW = "a" * 40, "b" * 40
Add = Callable[..., Path]


def safetensors(values: int) -> bytes:
    """A file of so many zeros in half precision."""
    entry = {"weight": {"dtype": "F16", "shape": [values], "data_offsets": [0, 2 * values]}}
    header = json.dumps(entry).encode()
    return len(header).to_bytes(8, "little") + header + bytes(2 * values)


@pytest.fixture
def add() -> Iterator[Add]:
    """A revision in the hub's cache, as its own library lays it out: links to blobs."""
    cache = Path(hub.constants.HF_HUB_CACHE)
    shutil.rmtree(cache, ignore_errors=True)

    def revision(name: str, commit: str, ref: str | None, blobs: dict[str, tuple[str, bytes]]) -> Path:
        repo = cache / f"models--{name.replace('/', '--')}"
        snapshot = repo / "snapshots" / commit
        for folder in (snapshot, repo / "blobs", repo / "refs"):
            folder.mkdir(parents=True, exist_ok=True)
        for file, (digest, data) in blobs.items():
            (repo / "blobs" / digest).write_bytes(data)
            (snapshot / file).symlink_to(Path("../../blobs") / digest)
        if ref:
            (repo / "refs" / ref).write_text(commit)
        return repo

    yield revision
    shutil.rmtree(cache, ignore_errors=True)


@pytest.fixture
def two(add: Add) -> Path:
    """One model in two revisions, which share their config."""
    config = ("c0", b"{}")
    add("org/name", OLD, None, {"config.json": config, "model.safetensors": ("c1", safetensors(1000))})
    return add("org/name", NEW, "main", {"config.json": config, "model.safetensors": ("c2", safetensors(3000))})


def keep(model: LocalModel) -> Trace:
    """A run of one token, logged."""
    one = run("plain", model, "hi", log=Log())
    one.text()
    return one.trace


def named(name: str) -> Any:
    return next(kept for kept in shelf() if kept.name == name)


def test_the_demo_is_here_and_is_no_ones_to_remove_but_pips(demo: Path) -> None:
    kept = named("demo")
    assert (kept.where, kept.precision, kept.bytes) == ("package", "Q4_1", demo.stat().st_size)
    with pytest.raises(InputError, match="package") as caught:
        plan(kept)
    assert "pip uninstall" in caught.value.hint


def test_a_file_that_ran_is_here_with_its_last_use_and_is_its_owners(demo: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.gguf"
    shutil.copyfile(demo, file)
    trace = keep(LocalModel(ToyEngine(), f"{file}@llamacpp"))
    kept = named(str(file))
    assert (kept.where, kept.used, kept.runs, kept.precision) == ("file", trace.time, 1, "Q4_1")
    with pytest.raises(InputError, match="somebody else") as caught:
        plan(kept)
    assert caught.value.hint == f"rm {file}"
    file.unlink()
    assert str(file) not in [kept.name for kept in shelf()]


def test_the_last_use_is_the_logs_whatever_the_precision(two: Path) -> None:
    first, last = (keep(LocalModel(ToyEngine(), f"org/name{how}")) for how in ("", "@nf4"))
    assert first.time <= last.time
    assert (named("org/name#bbbbbbbb").used, named("org/name#bbbbbbbb").runs) == (last.time, 2)
    assert named("org/name#aaaaaaaa").runs == 0


def test_a_cache_that_is_not_there_is_an_empty_one(add: Add) -> None:
    assert {kept.where for kept in shelf()} <= {"package", "home"}


def test_each_revision_of_the_hubs_cache_is_listed_with_size_and_precision(two: Path) -> None:
    new, old = named(f"org/name#{'b' * 8}"), named(f"org/name#{'a' * 8}")
    assert (new.precision, old.precision) == ("F16", "F16")
    assert new.bytes - old.bytes == 4000 + len("3000") - len("1000") + len("6000") - len("2000")
    assert new.used
    assert new.runs == 0


def test_a_model_that_lacks_weights_says_so(add: Add) -> None:
    add("org/empty", OLD, "main", {"config.json": ("d0", b"{}")})
    kept = named(f"org/empty#{'a' * 8}")
    assert kept.precision is None
    assert "no weights" in kept.why


def test_a_name_that_means_two_revisions_is_refused_with_both(two: Path) -> None:
    with pytest.raises(ModelError, match="2 revisions") as caught:
        find("org/name", shelf())
    assert "#aaaaaaaa" in caught.value.hint
    assert "#bbbbbbbb" in caught.value.hint


def test_an_unknown_name_lists_near_ones(two: Path) -> None:
    with pytest.raises(ModelError, match="'org/nam'") as caught:
        find("org/nam", shelf())
    assert "org/name" in caught.value.hint


def test_removing_a_revision_leaves_what_others_share(two: Path) -> None:
    removal = plan(find("org/name#a", shelf()))
    assert removal.bytes == len(safetensors(1000))
    remove(removal)
    assert sorted(file.name for file in (two / "blobs").iterdir()) == ["c0", "c2"]
    assert [kept.revision for kept in shelf() if kept.model == "org/name"] == [NEW]
    remove(plan(find("org/name", shelf())))
    assert not two.exists()


def test_a_repository_that_is_a_link_to_elsewhere_stays(two: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    two.rename(elsewhere)
    two.symlink_to(elsewhere)
    for kept in [kept for kept in shelf() if kept.model == "org/name"]:
        with pytest.raises(InputError, match="outside"):
            plan(kept)
    assert (elsewhere / "blobs" / "c2").exists()


def test_the_unpacked_demo_is_removed_from_home_only(home: Path, tmp_path: Path) -> None:
    def unpack(place: Path) -> Path:
        folder = place / "demo-123"
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(safetensors(500))
        return folder

    mine = unpack(home / "models")
    removal = plan(find("demo@transformers", shelf()))
    assert (removal.kept.precision, removal.bytes) == ("F16", len(safetensors(500)))
    remove(removal)
    assert not mine.exists()

    shared = unpack(tmp_path / "shared")
    (home / "models").rmdir()
    (home / "models").symlink_to(shared.parent)
    with pytest.raises(InputError, match="outside the home"):
        plan(find("demo@transformers", shelf()))
    assert shared.exists()
