import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jeito.trace.log import Log

Jeito = Callable[..., Any]
Begin = Callable[..., Any]
Until = Callable[[int, str], str]

# A reply that no pipe has room for: it cannot end before it is read.
ENDLESS = "ab" * 50_000


@pytest.fixture
def replying(begin: Begin, until: Until, home: Path) -> Any:
    """A process in the midst of an endless reply."""
    process = begin("ask", "-", "-m", "toy", "--context", 300_000, "--set", "max_new_tokens=100000")
    process.stdin.write(ENDLESS.encode())
    process.stdin.close()
    process.stdin = None
    until(process.stdout.fileno(), "a")
    return process


def test_an_interrupt_ends_a_reply_with_130_and_keeps_what_came(replying: Any) -> None:
    replying.send_signal(signal.SIGINT)
    out, err = replying.communicate(timeout=60)
    assert replying.returncode == 130
    assert err.decode().split() == ["interrupted"]
    (kept,) = Log().recent()
    assert (kept.finish, kept.error) == ("cancelled", None)
    assert ENDLESS.startswith(kept.answer)
    assert len(kept.answer) == kept.usage.generated == len(kept.tokens) >= len(out)


def test_a_reader_that_goes_away_ends_a_reply_without_a_traceback(replying: Any) -> None:
    replying.stdout.close()
    replying.stdout = None
    _, err = replying.communicate(timeout=60)
    # Not 1, which would say that a claim fails.
    assert (replying.returncode, err) == (70, b"")
    assert [one.finish for one in Log().recent()] == ["cancelled"]


def test_what_nobody_foresaw_is_70_and_says_of_no_claim_that_it_fails(begin: Begin) -> None:
    code = "from jeito.cli import main; main.app.command('divide')(lambda: 1 / 0); main.main()"
    process = begin("divide", command=(sys.executable, "-c", code))
    _, said = process.communicate(timeout=60)
    assert (process.returncode, b"ZeroDivisionError" in said) == (70, True)


def test_a_process_killed_in_mid_reply_loses_that_reply_alone(jeito: Jeito, replying: Any) -> None:
    before = json.loads(jeito("ask", "before", "-m", "toy", "--json").out)
    replying.kill()
    assert replying.wait(timeout=60) == -signal.SIGKILL
    assert json.loads(jeito("log", "show", before["id"], "--json").out) == before
    lost, *_ = Log().recent(finish="unfinished")
    assert lost.id in jeito("log").out
    assert "unfinished" in jeito("log").out
    assert ENDLESS.startswith(lost.request.messages[0].content[:50])
    assert jeito("ask", "after", "-m", "toy").code == 0
    assert sorted(one.finish or "" for one in Log().recent()) == ["", "stop", "stop"]
    assert jeito("replay", lost.id).code == 1


def test_two_processes_write_one_log(begin: Begin, jeito: Jeito, home: Path) -> None:
    processes = [begin("compare", word, "-m", "toy", "-n", 30, "--json") for word in ("left", "right")]
    found = []
    for process in processes:
        out, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (0, b"")
        found += json.loads(out)["runs"]
    kept = {one.id: one.model_dump(mode="json") for one in Log().recent(100)}
    assert kept == {one["id"]: one for one in found}
    assert len(kept) == 60


@pytest.mark.parametrize("where", ["under a file", "/proc/self/nothing", "/dev/null/home"])
def test_a_reply_comes_although_home_cannot_be_written(shell: Jeito, tmp_path: Path, where: str) -> None:
    (tmp_path / "file").write_text("")
    place = str(tmp_path / "file" / "home") if where == "under a file" else where
    done = shell("ask", "hi", "-m", "toy", env={"JEITO_HOME": place})
    assert (done.code, done.out) == (0, "hi\n")
    (warning,) = done.err.splitlines()
    assert warning.startswith("warning: run ")
    assert "is not in the log" in warning
    assert place in warning


def test_a_reply_comes_although_the_disk_is_full(shell: Jeito, jeito: Jeito, home: Path) -> None:
    before = json.loads(jeito("ask", "before", "-m", "toy", "--json").out)
    full = ("sh", "-c", 'ulimit -f 0; exec jeito "$@"', "sh")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = shell("ask", "hi", "-m", "toy", "--json", command=full, env={"PATH": path})
    trace = json.loads(done.out)
    assert (done.code, trace["answer"]) == (0, "hi")
    (warning,) = done.err.splitlines()
    assert warning.startswith(f"warning: run {trace['id']} is not in the log")
    assert [one.model_dump(mode="json") for one in Log().recent()] == [before]


def test_a_conversation_and_a_comparison_say_their_losses_too(jeito: Jeito, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JEITO_HOME", "/dev/null/home")
    assert "is not in the log" in jeito("chat", "-m", "toy", input="hi\n").err
    assert jeito("compare", "hi", "-m", "toy", "-n", "2").err.count("is not in the log") == 2


def test_a_real_model_answers_without_a_home(shell: Jeito) -> None:
    done = shell("ask", "hi", "--set", "max_new_tokens=2", "--json", env={"JEITO_HOME": "/dev/null/home"})
    assert done.code == 0
    assert len(json.loads(done.out)["tokens"]) == 2
    assert "is not in the log" in done.err
