import json
from collections.abc import Callable
from pathlib import Path

import pytest

from jeito.errors import InputError, LogError
from jeito.trace.export import Imported, export_jsonl, import_jsonl
from jeito.trace.log import Log
from jeito.types import Token, Trace

Make = Callable[..., Trace]
BEHAVIOUR = '{"name":"creative","system":"Olá","temperature":0.30000000000000004}'


def filled(log: Log, make: Make, count: int = 3) -> Log:
    for i in range(count):
        run = make(f"ask {i}\u2028", seed=2**64 - 1 - i, answer="Olá\n👩‍🚀", finish="stop", prompt="rendered")
        log.begin(run.model_copy(update={"tokens": (Token(id=1, text="x", logprob=-1 / 3),)}), BEHAVIOUR)
    log.begin(make(), "{}")
    return log


def test_what_is_exported_comes_back_exactly(log: Log, tmp_path: Path, a_run: Make) -> None:
    filled(log, a_run)
    file, other = tmp_path / "runs.jsonl", Log(tmp_path / "other.db")
    assert export_jsonl(log, file) == 4
    assert import_jsonl(other, file) == Imported(added=4, known=0)
    assert list(other.records()) == list(log.records())
    again = tmp_path / "again.jsonl"
    export_jsonl(other, again)
    assert again.read_bytes() == file.read_bytes()


def test_an_export_has_one_run_a_line_with_its_behaviour(log: Log, tmp_path: Path, a_run: Make) -> None:
    run = a_run(prompt="rendered")
    log.begin(run, BEHAVIOUR)
    export_jsonl(log, tmp_path / "runs.jsonl")
    (line,) = (tmp_path / "runs.jsonl").read_text().splitlines()
    assert json.loads(line) == {"trace": json.loads(run.model_dump_json()), "behaviour": BEHAVIOUR}


def test_runs_already_there_are_left_as_they_are_and_counted(log: Log, tmp_path: Path, a_run: Make) -> None:
    filled(log, a_run)
    file = tmp_path / "runs.jsonl"
    export_jsonl(log, file)
    lost = log.recent(finish="unfinished")[0]
    log.finish(lost.model_copy(update={"finish": "stop", "answer": "later"}))
    file.write_bytes(file.read_bytes() * 2 + b"\n")
    assert import_jsonl(log, file) == Imported(added=0, known=8)
    assert log.get(lost.id).answer == "later"
    assert import_jsonl(Log(tmp_path / "other.db"), file) == Imported(added=4, known=4)


@pytest.mark.parametrize(
    "broken",
    [
        b'{"trace": {"id": "x"',
        b"{}",
        b'{"trace": {}, "behaviour": "{}"}',
        b"[]",
        b"\xff\xfe",
        b'{"behaviour": "no json"}',
    ],
)
def test_a_broken_line_is_named_and_nothing_is_imported(log: Log, tmp_path: Path, a_run: Make, broken: bytes) -> None:
    file, other = tmp_path / "runs.jsonl", Log(tmp_path / "other.db")
    export_jsonl(filled(log, a_run), file)
    first, second, *rest = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([first, second, broken, b"\n", *rest]))
    with pytest.raises(InputError) as refused:
        import_jsonl(other, file)
    assert f"{file}:3 " in str(refused.value)
    assert "\n" not in str(refused.value)
    assert other.recent() == []


def test_a_behaviour_that_is_no_json_is_refused(log: Log, tmp_path: Path, a_run: Make) -> None:
    file = tmp_path / "runs.jsonl"
    line = {"trace": json.loads(a_run().model_dump_json()), "behaviour": "no json"}
    file.write_text(json.dumps(line))
    with pytest.raises(InputError, match="behaviour"):
        import_jsonl(log, file)
    assert log.recent() == []


def test_a_file_that_cannot_be_read_or_written_is_said(log: Log, tmp_path: Path, a_run: Make) -> None:
    filled(log, a_run)
    with pytest.raises(InputError, match="cannot be read"):
        import_jsonl(log, tmp_path / "none.jsonl")
    with pytest.raises(LogError, match="cannot be written"):
        export_jsonl(log, tmp_path / "none" / "runs.jsonl")


def test_a_log_that_cannot_be_read_leaves_an_earlier_export_alone(tmp_path: Path) -> None:
    file, notes = tmp_path / "runs.jsonl", tmp_path / "log.db"
    file.write_text("an earlier export")
    notes.write_text("my notes" * 1000)
    with pytest.raises(LogError):
        export_jsonl(Log(notes), file)
    assert file.read_text() == "an earlier export"


def test_an_empty_log_exports_an_empty_file(log: Log, tmp_path: Path) -> None:
    file = tmp_path / "runs.jsonl"
    assert export_jsonl(log, file) == 0
    assert file.read_bytes() == b""
    assert import_jsonl(log, file) == Imported(added=0, known=0)
