import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jeito.trace.log import Log

Jeito = Callable[..., Any]


@pytest.fixture
def kept(jeito: Jeito, home: Path) -> list[dict[str, Any]]:
    """Three runs, the newest first."""
    asks = (("one", "plain"), ("two", "creative"), ("three", "plain"))
    return [json.loads(jeito("ask", ask, "-m", "toy", "-b", name, "--json").out) for ask, name in asks][::-1]


def test_the_runs_are_listed_the_newest_first(jeito: Jeito, kept: list[dict[str, Any]]) -> None:
    found = json.loads(jeito("log", "--json").out)["runs"]
    assert [one["id"] for one in found] == [one["id"] for one in kept]
    assert [one["ask"] for one in found] == ["three", "two", "one"]
    table = jeito("log").out.splitlines()
    assert [line.split()[0] for line in table[1:]] == [one["id"] for one in kept]
    assert "creative" in table[2]
    assert [one["id"] for one in json.loads(jeito("log", "-n", "1", "--json").out)["runs"]] == [kept[0]["id"]]


def test_an_empty_log_says_where_it_would_be(jeito: Jeito, home: Path) -> None:
    done = jeito("log")
    assert (done.code, done.out) == (0, "")
    assert str(home / "log.db") in done.err
    assert jeito("log", "--json").out == '{"runs": []}\n'
    assert not (home / "log.db").exists()


def test_a_run_is_shown_by_its_first_letters(jeito: Jeito, kept: list[dict[str, Any]]) -> None:
    (start,) = {one["id"][:1] for one in kept}
    assert json.loads(jeito("log", "show", kept[1]["id"], "--json").out) == kept[1]
    assert json.loads(jeito("log", "show", kept[1]["id"][:19], "--json").out) == kept[1]
    several = jeito("log", "show", start)
    assert several.code == 64
    assert all(one["id"] in several.err for one in kept)


def test_a_run_is_shown_with_its_prompt_answer_seed_and_receipt(jeito: Jeito, kept: list[dict[str, Any]]) -> None:
    out = jeito("log", "show", kept[1]["id"]).out
    assert "<user>two\n<assistant>" in out
    assert f"seed {kept[1]['seed']}" in out
    assert "creative.yaml:" in out


def test_runs_go_out_to_a_file_and_into_another_log(
    jeito: Jeito, kept: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "runs.jsonl"
    assert jeito("log", "export", file).err == f"3 runs written to {file}\n"
    monkeypatch.setenv("JEITO_HOME", str(tmp_path / "another"))
    assert jeito("log", "import", file).err == "3 runs read, 0 already there\n"
    assert jeito("log", "import", file).err == "0 runs read, 3 already there\n"
    assert [one.model_dump(mode="json") for one in Log().recent()] == kept


def test_a_file_with_a_broken_line_is_refused_whole(
    jeito: Jeito, kept: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "runs.jsonl"
    jeito("log", "export", file)
    file.write_text(file.read_text() + "{}\n")
    monkeypatch.setenv("JEITO_HOME", str(tmp_path / "another"))
    done = jeito("log", "import", file)
    assert done.code == 64
    assert "runs.jsonl:4 is no run" in done.err
    assert Log().recent() == []


def test_a_run_that_was_broken_off_is_listed_as_such(jeito: Jeito, kept: list[dict[str, Any]]) -> None:
    log = Log()
    trace = log.get(kept[0]["id"])
    log.begin(trace.model_copy(update={"id": "z" * 20, "finish": None}), "{}")
    assert "unfinished" in jeito("log", "-n", "1").out


def test_a_run_is_replayed_from_the_log(jeito: Jeito, kept: list[dict[str, Any]]) -> None:
    done = jeito("replay", kept[2]["id"], "--json")
    (found,) = json.loads(done.out)["replays"]
    assert (done.code, found["id"], found["verdict"], found["tokens"]) == (0, kept[2]["id"], "same", 4)
    assert [one["id"] for one in json.loads(jeito("replay", "--last", "2", "--json").out)["replays"]] == [
        one["id"] for one in kept[:2]
    ]
    assert len(Log().recent()) == 3


def test_a_run_that_cannot_be_followed_is_no_success(jeito: Jeito, home: Path) -> None:
    assert jeito("ask", "far too long for it", "-m", "toy", "--context", "20").code == 64
    done = jeito("replay", "--last", "1")
    assert done.code == 1
    assert "impossible" in done.out
