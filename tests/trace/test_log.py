import gc
import math
import os
import random
import shutil
import sqlite3
import struct
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from jeito.errors import InputError, LogError
from jeito.trace.log import Log, UnknownRun, new_id
from jeito.trace.rows import Record
from jeito.types import (
    Alternative,
    Dry,
    Exact,
    Message,
    Receipt,
    Request,
    Sampling,
    Seconds,
    Sourced,
    Token,
    ToolCall,
    Trace,
    Usage,
    Xtc,
)

Make = Callable[..., Trace]
Start = Callable[..., "subprocess.Popen[str]"]
BEHAVIOUR = '{"name":"creative","system":"Olá"}'
ODD = 'Olá 👩‍🚀 \u2028\u0085\x00\r\n\t"\\ \u202e\ufeff'


def doubles(count: int) -> list[float]:
    """Finite floats of every size, from any bits."""
    chance = random.Random(1)
    several = (struct.unpack("d", chance.randbytes(8))[0] for _ in range(2 * count))
    return [0.1, -0.0, 5e-324, 1.7976931348623157e308, *[x for x in several if math.isfinite(x)][:count]]


def whole(make: Make) -> Trace:
    """A run in which no field is left at its default."""
    call = ToolCall(id="1", name="area", arguments={"w": 1e16, "h": [2**70, None, {"deep": ODD}], "exact": 1.0})
    tokens = [
        Token(id=i, text=ODD, logprob=x, drawn=-x, forced=True, top=(Alternative(id=i, text=ODD, logprob=x),))
        for i, x in enumerate(doubles(500))
    ]
    sampling = Sampling(
        temperature=0.1 + 0.2,
        xtc=Xtc(threshold=0.1, probability=0.5),
        dry=Dry(multiplier=0.8),
        logit_bias={3: -100.0, 128_000: 0.1},
        stop=("\n\n", ODD),
        seed=2**64 - 1,
        exact=True,
    )
    messages = (
        Message(role="system", content=ODD),
        Message(role="user", content=ODD),
        Message(role="assistant", content="", calls=(call,)),
        Message(role="tool", content=ODD, call_id="1"),
    )
    return make(
        seed=2**64 - 1,
        case="geo/1",
        request=Request(messages=messages, system=ODD, placement="user_end", sampling=sampling, logprobs=5),
        prompt=ODD * 100,
        answer=ODD,
        reasoning=ODD,
        calls=(call,),
        finish="tool_calls",
        why=ODD,
        tokens=tokens,
        usage=Usage(prompt=9, cached=3, generated=504, forced=1),
        receipt=Receipt(
            values={"temperature": Sourced(value=0.3, source="behaviour", file="a.yaml", line=3)},
            unsupported=("xtc",),
            placement="user_end",
            template="chatml",
            prompt_digest="abc",
            dropped=("turn 1",),
            exact=Exact(asked=True, held=True, shape="1x8", why=ODD),
            notes=(ODD,),
        ),
        seconds=Seconds(queue=0.1, prefill=0.2, decode=1 / 3, total=0.7),
        environment={"versions": {"jeito": "0.1.0"}, "threads": 4, "speed": 1 / 3},
        error=ODD,
    )


def of_file(path: Path, query: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()


def test_a_run_comes_back_exactly_as_it_was(log: Log, a_run: Make) -> None:
    run = whole(a_run)
    log.begin(a_run(id=run.id, request=run.request, seed=run.seed), BEHAVIOUR)
    log.finish(run)
    back = log.get(run.id)
    assert back == run
    assert back.model_dump_json() == run.model_dump_json()
    assert str(back.tokens[1].logprob) == "-0.0"
    assert log.behaviour_of(run.id) == BEHAVIOUR


def test_a_run_is_in_the_log_before_its_first_token_without_a_finish(log: Log, a_run: Make) -> None:
    run = a_run()
    log.begin(run, BEHAVIOUR)
    assert log.get(run.id) == run
    assert [one.finish for one in log.recent()] == [None]
    assert [one.finish for one in log.summaries()] == [None]


def test_prompts_and_behaviours_are_stored_once(log: Log, a_run: Make) -> None:
    for _ in range(5):
        run = a_run(prompt="a long prompt")
        log.begin(run, BEHAVIOUR)
        log.finish(run.model_copy(update={"finish": "stop"}))
    log.begin(a_run(prompt=""), BEHAVIOUR)
    assert sorted(of_file(log.path, "select text from blobs")) == [("",), ("a long prompt",), (BEHAVIOUR,)]
    assert of_file(log.path, "select count(*) from runs where instr(trace, 'a long prompt')") == [(0,)]
    assert {run.prompt for run in log.recent()} == {"a long prompt", ""}


def test_nothing_is_on_disk_until_the_first_write(log: Log, a_run: Make) -> None:
    assert log.recent() == []
    assert log.summaries() == []
    assert list(log.records()) == []
    with pytest.raises(UnknownRun):
        log.get("1")
    assert not log.path.parent.exists()
    log.begin(a_run(), BEHAVIOUR)
    assert log.path.exists()


def test_a_log_that_nobody_uses_is_one_file(log: Log, a_run: Make) -> None:
    other = Log(log.path)
    other.begin(a_run(), BEHAVIOUR)
    del other
    gc.collect()
    assert len(log.recent()) == 1
    assert os.listdir(log.path.parent) == ["log.db"]


def test_the_log_of_the_home_is_used_when_no_path_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JEITO_HOME", str(tmp_path))
    assert Log().path == tmp_path / "log.db"


def test_a_path_may_hold_what_an_address_may_not(tmp_path: Path, a_run: Make) -> None:
    log = Log(tmp_path / "50% of? #1 são" / "log.db")
    log.begin(a_run(), BEHAVIOUR)
    assert len(log.recent()) == 1
    assert log.path.exists()


def test_the_newest_runs_come_first_and_can_be_chosen(log: Log, a_run: Make) -> None:
    exact = Receipt(values={}, exact=Exact(asked=True, held=True))
    runs = [
        a_run(time="2026-01-01T00:00:01+00:00", finish="stop"),
        a_run(time="2026-01-01T00:00:02+00:00", finish="length", behaviour="terse", behaviour_fingerprint="fff"),
        a_run(time="2026-01-01T00:00:02.5+00:00", model="demo", model_fingerprint=None, receipt=exact),
    ]
    for run in reversed(runs):
        log.begin(run, BEHAVIOUR)
    first, second, third = runs
    assert log.recent() == [third, second, first]
    assert log.recent(2) == [third, second]
    assert log.recent(finish="stop") == [first]
    assert log.recent(finish="unfinished") == [third]
    assert log.recent(behaviour="terse") == log.recent(behaviour="fff") == [second]
    assert log.recent(model="demo") == [third]
    assert log.recent(model="ba9876543210") == [second, first]
    assert log.recent(exact=True) == [third]
    assert log.recent(exact=False, finish="stop") == [first]
    assert [one.id for one in log.summaries(2, exact=False)] == [second.id, first.id]
    with pytest.raises(InputError) as wrong:
        log.recent(finish="stopp")  # type: ignore[arg-type]
    assert "stop" in wrong.value.hint


def test_a_summary_says_who_how_long_and_the_first_words(log: Log, a_run: Make) -> None:
    long = "  word\n\nword " * 1000
    run = a_run(
        long,
        answer="  Olá,\n mundo ",
        seed=2**64 - 1,
        finish="stop",
        usage=Usage(generated=3),
        seconds=Seconds(total=2.5),
    )
    log.begin(run, BEHAVIOUR)
    (summary,) = log.summaries()
    assert (summary.id, summary.time, summary.behaviour, summary.model) == (run.id, run.time, "creative", "toy")
    assert (summary.seed, summary.finish, summary.generated, summary.seconds) == (2**64 - 1, "stop", 3, 2.5)
    assert summary.ask.startswith("word word word")
    assert summary.ask.endswith("…")
    assert len(summary.ask) == 80
    assert summary.answer == "Olá, mundo"


def test_a_summary_does_not_read_the_run(log: Log, a_run: Make) -> None:
    log.begin(a_run(), BEHAVIOUR)
    with closing(sqlite3.connect(log.path)) as connection:
        connection.execute("update runs set trace = 'unreadable'")
        connection.commit()
    assert len(log.summaries()) == 1
    with pytest.raises(LogError, match="does not know"):
        log.recent()


def test_a_run_is_found_by_a_prefix_that_is_its_own(log: Log, a_run: Make) -> None:
    for id in ("aab", "aac", "ab", "aabb", "a%_"):
        log.begin(a_run(id=id), BEHAVIOUR)
    assert log.get("aac").id == "aac"
    assert log.get("ab").id == "ab"
    assert log.get("a%").id == "a%_"
    assert log.get("aab").id == "aab", "a whole id wins over ids that it starts"
    with pytest.raises(UnknownRun) as several:
        log.get("aa")
    assert several.value.code == 64
    assert "aab" in several.value.hint
    assert "aac" in several.value.hint
    assert "ab," not in several.value.hint.replace("aab,", "")
    with pytest.raises(UnknownRun) as none:
        log.behaviour_of("x")
    assert (none.value.code, none.value.hint) == (64, "jeito log")
    with pytest.raises(LogError):
        log.get("\udcff")


def test_ids_sort_by_time_and_do_not_repeat() -> None:
    ids = [new_id() for _ in range(20_000)]
    assert len(set(ids)) == len(ids)
    assert [id[:9] for id in ids] == sorted(id[:9] for id in ids)
    assert {len(id) for id in ids} == {20}
    assert set("".join(ids)) == set("0123456789abcdefghjkmnpqrstvwxyz")


def test_every_run_is_walked_through_whatever_their_number(log: Log, a_run: Make) -> None:
    runs = [a_run() for _ in range(120)]
    assert log.add([Record(trace=run, behaviour=BEHAVIOUR) for run in runs]) == 120
    assert sorted(run.id for run in runs) == [record.trace.id for record in log.records()]


def test_the_first_end_of_a_run_stands(log: Log, a_run: Make) -> None:
    run = a_run()
    with pytest.raises(LogError, match="waits for its end"):
        log.finish(run)
    log.begin(run, BEHAVIOUR)
    with pytest.raises(LogError, match="already"):
        log.begin(run, BEHAVIOUR)
    log.finish(run.model_copy(update={"finish": "stop"}))
    with pytest.raises(LogError, match="waits for its end"):
        log.finish(run.model_copy(update={"finish": "error", "prompt": "of a write undone"}))
    assert log.get(run.id).finish == "stop"
    assert of_file(log.path, "select text from blobs") == [(BEHAVIOUR,)]


def test_a_run_that_json_cannot_say_is_a_log_error_and_the_next_is_kept(log: Log, a_run: Make) -> None:
    run = a_run()
    log.begin(run, BEHAVIOUR)
    # A model can write "\ud800" in the arguments of a call.
    call = ToolCall(id="1", name="f", arguments={"x": "\ud800"})
    with pytest.raises(LogError):
        log.finish(run.model_copy(update={"finish": "stop", "calls": (call,)}))
    log.finish(run.model_copy(update={"finish": "stop"}))
    assert log.get(run.id).finish == "stop"


def test_two_processes_that_write_200_runs_each_lose_none(log: Log, process: Start) -> None:
    writers = [process("runs", log, 200) for _ in range(2)]
    written = "".join(writer.communicate()[0] for writer in writers).split()
    assert [writer.returncode for writer in writers] == [0, 0]
    assert len(written) == 400
    assert sorted(written) == sorted(run.id for run in log.recent(1000, finish="stop"))
    assert len(log.recent(1000)) == 400


def test_forks_of_a_process_that_has_the_log_in_use_lose_no_run(log: Log, process: Start) -> None:
    parent = process("forks", log, 30)
    written = parent.communicate()[0].split()
    assert parent.returncode == 0
    assert len(written) == 1 + 3 * 30
    assert sorted(written) == sorted(run.id for run in log.recent(1000, finish="stop"))
    assert of_file(log.path, "pragma integrity_check") == [("ok",)]


def test_threads_that_write_at_once_to_a_new_log_lose_no_run(log: Log, a_run: Make) -> None:
    runs = [a_run() for _ in range(40)]

    def write(run: Trace) -> None:
        log.begin(run, BEHAVIOUR)
        log.finish(run.model_copy(update={"finish": "stop"}))
        assert log.get(run.id).finish == "stop"

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(write, runs))
    assert len(log.recent(100, finish="stop")) == 40
    assert of_file(log.path, "pragma journal_mode") == [("wal",)]


def test_a_run_whose_process_was_killed_is_listed_without_a_finish(log: Log, process: Start) -> None:
    earlier = process("runs", log, 3).communicate()[0].split()
    victim = process("mid_run", log)
    assert victim.stdout
    lost = victim.stdout.readline().strip()
    victim.kill()
    victim.wait()
    assert [run.id for run in log.recent(finish="unfinished")] == [lost]
    assert sorted(run.id for run in log.recent(finish="stop")) == sorted(earlier)
    assert log.get(lost).finish is None
    assert log.behaviour_of(lost) == "{}"


def test_a_process_killed_while_it_writes_takes_no_written_run_with_it(log: Log, process: Start) -> None:
    victim = process("runs", log, 100_000)
    assert victim.stdout
    written = [victim.stdout.readline().strip() for _ in range(30)]
    victim.kill()
    written += victim.communicate()[0].split()
    assert set(written) <= {run.id for run in log.recent(100_000, finish="stop")}
    assert len(log.recent(finish="unfinished")) <= 1
    assert process("runs", log, 1).communicate()[0].strip() in {run.id for run in log.recent()}
    assert of_file(log.path, "pragma integrity_check") == [("ok",)]


def test_a_full_disk_is_a_log_error_and_later_writes_work(log: Log, process: Start) -> None:
    (earlier,) = process("runs", log, 1).communicate()[0].split()
    begin, finish, again, later = process("full", log).communicate()[0].splitlines()
    for refused in (begin, finish):
        assert "cannot be written" in refused
        assert "df -h" in refused
    assert again == "written"
    assert {earlier, later} < {run.id for run in log.recent(finish="stop")}
    assert len(log.recent()) == len(log.recent(finish="stop")) == 3


def test_a_log_that_stays_locked_is_a_log_error_and_later_writes_work(log: Log, a_run: Make) -> None:
    run, hasty = a_run(), Log(log.path, patience=0.05)
    hasty.begin(run, BEHAVIOUR)
    with closing(sqlite3.connect(log.path, isolation_level=None)) as other:
        other.execute("begin immediate")
        with pytest.raises(LogError) as locked:
            hasty.finish(run.model_copy(update={"finish": "stop"}))
        assert "locked" in str(locked.value)
        assert hasty.get(run.id) == run, "a writer does not keep readers out"
        other.execute("rollback")
    hasty.finish(run.model_copy(update={"finish": "stop"}))
    assert hasty.get(run.id).finish == "stop"


def test_a_home_that_cannot_be_made_is_a_log_error(tmp_path: Path, a_run: Make) -> None:
    (tmp_path / "file").write_text("no folder")
    for log in (Log(tmp_path / "file" / "log.db"), Log(tmp_path / "file" / "home" / "log.db")):
        with pytest.raises(LogError) as refused:
            log.begin(a_run(), BEHAVIOUR)
        assert "JEITO_HOME" in refused.value.hint
        assert log.recent() == []


@pytest.mark.parametrize("left", ["nothing", "a -wal file", "a -wal and an -shm file"])
def test_a_log_in_a_folder_that_cannot_be_written_is_still_read(
    log: Log, tmp_path: Path, a_run: Make, process: Start, left: str
) -> None:
    runs = [a_run() for _ in range(6)]
    Log(log.path).add([Record(trace=run, behaviour=BEHAVIOUR) for run in runs[:3]])
    gc.collect()
    if left != "nothing":  # what `log` writes stays in the -wal file as long as it is in use
        log.add([Record(trace=run, behaviour=BEHAVIOUR) for run in runs[3:]])
    written = [run.id for run in runs[: 3 if left == "nothing" else 6]]
    copy = Log(tmp_path / "copy" / "log.db")
    shutil.copytree(log.path.parent, copy.path.parent)
    if left == "a -wal file":
        (copy.path.parent / "log.db-shm").unlink()
    assert {file.name: file.stat().st_size > 0 for file in copy.path.parent.iterdir()} == {
        "nothing": {"log.db": True},
        "a -wal file": {"log.db": True, "log.db-wal": True},
        "a -wal and an -shm file": {"log.db": True, "log.db-wal": True, "log.db-shm": True},
    }[left]
    for file in copy.path.parent.iterdir():
        file.chmod(0o444)
    copy.path.parent.chmod(0o555)
    *read, refused = process("read", copy).communicate()[0].splitlines()
    copy.path.parent.chmod(0o755)
    if refused == "writable":
        pytest.skip("root that cannot give up its rights")
    assert sorted(read) == sorted(written)
    assert "cannot be written" in refused


def test_a_newer_schema_is_refused_and_left_alone(log: Log, a_run: Make) -> None:
    log.begin(a_run(), BEHAVIOUR)
    of_file(log.path, "pragma user_version = 99")
    before = log.path.read_bytes()
    for use in (log.recent, lambda: log.begin(a_run(), BEHAVIOUR)):
        with pytest.raises(LogError, match="99") as refused:
            use()
        assert f"mv {log.path}" in refused.value.hint
    assert log.path.read_bytes() == before


def test_a_file_that_is_no_database_is_refused_and_left_alone(log: Log, a_run: Make) -> None:
    log.path.parent.mkdir()
    log.path.write_text("my notes, much longer than the header of a database would be" * 100)
    before = log.path.read_bytes()
    for use in (log.recent, lambda: log.begin(a_run(), BEHAVIOUR)):
        with pytest.raises(LogError, match="not a database") as refused:
            use()
        assert f"mv {log.path}" in refused.value.hint
    assert log.path.read_bytes() == before


def test_a_database_of_another_program_is_refused_and_left_alone(log: Log, a_run: Make) -> None:
    log.path.parent.mkdir()
    of_file(log.path, "create table theirs (x)")
    before = log.path.read_bytes()
    for use in (log.recent, lambda: log.begin(a_run(), BEHAVIOUR)):
        with pytest.raises(LogError, match="no log of jeito"):
            use()
    assert log.path.read_bytes() == before


def test_an_empty_file_is_a_log_without_runs(log: Log, a_run: Make) -> None:
    log.path.parent.mkdir()
    log.path.touch()
    assert log.recent() == []
    log.begin(a_run(), BEHAVIOUR)
    assert len(log.recent()) == 1
