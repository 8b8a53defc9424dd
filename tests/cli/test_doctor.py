"""`jeito doctor`, `jeito models` and `jeito rm`, as they are typed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Jeito = Callable[..., Any]


def unpacked(home: Path) -> Path:
    """A folder where the unpacked demo would be."""
    folder = home / "models" / "demo-1"
    folder.mkdir(parents=True)
    (folder / "some.txt").write_bytes(bytes(2_000_000))
    return folder


def test_the_doctor_says_the_same_to_people_and_to_programs(jeito: Jeito, home: Path) -> None:
    (home / "log.db").write_text("no database")
    done = jeito("doctor", "--json")
    said = json.loads(done.out)
    levels = {finding["level"] for finding in said["findings"]}
    assert "warning" in levels, "a broken log stops nothing"
    assert done.code == said["code"] == (2 if "blocker" in levels else 1)
    shown = jeito("doctor")
    assert shown.code == done.code
    for word in ("GB/s", str(home / "log.db"), "warning: ", "mv "):
        assert word in shown.out
    assert shown.out.count("\n  try: ") == len(said["findings"])


def test_models_are_listed_and_one_is_removed_once_somebody_says_yes(jeito: Jeito, home: Path) -> None:
    folder = unpacked(home)
    listed = {one["model"]: one for one in json.loads(jeito("models", "--json").out)["models"]}
    assert listed["demo@transformers"]["bytes"] == 2_000_000
    assert "demo@transformers" in jeito("models").out

    for answer, code in (("n\n", 0), ("\n", 0), ("", 64)):
        done = jeito("rm", "demo@transformers", input=answer)
        assert (done.code, done.out) == (code, "")
        assert "2.0 MB" in done.err
        assert folder.exists()
    assert "--yes" in done.err

    done = jeito("rm", "demo@transformers", input="y\n")
    assert (done.code, done.out) == (0, "removed demo@transformers: 2.0 MB freed\n")
    assert not folder.exists()


def test_rm_asks_nothing_with_yes_and_tells_a_program_what_was_freed(jeito: Jeito, home: Path) -> None:
    unpacked(home)
    done = jeito("rm", "demo@transformers", "--yes", "--json")
    assert json.loads(done.out)["freed_bytes"] == 2_000_000
    assert done.err == ""


def test_rm_of_what_is_not_here_or_not_ours_is_refused(jeito: Jeito) -> None:
    assert "pip uninstall" in jeito("rm", "demo", "--yes").err
    assert jeito("rm", "demi", "--yes").code == 64
