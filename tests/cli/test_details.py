"""Small things that a person meets."""

import json
import os
import subprocess
import sys

import pytest

from jeito.behaviour.load import load


def jeito(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "jeito.cli.main", *words], capture_output=True, text=True, check=False)


def test_words_in_brackets_are_words_and_no_markup() -> None:
    done = jeito("explain", "-m", "toy", "-b", 'plain+stop=["[/b]"]')
    assert done.returncode == 0, done.stderr
    assert "[/b]" in done.stdout


@pytest.mark.parametrize(
    ("words", "asked"),
    [((), True), (("--no-exact",), False), (("--set", "exact=false"), False), (("--exact",), True)],
)
def test_a_comparison_is_exact_unless_somebody_says_otherwise(words: tuple[str, ...], asked: bool) -> None:
    done = jeito("compare", "hi", "-m", "toy", "-n", "2", "--json", *words)
    assert [run["receipt"]["exact"]["asked"] for run in json.loads(done.stdout)["runs"]] == [asked] * 2


def test_a_replay_has_the_context_of_its_run() -> None:
    assert jeito("ask", "hello", "-m", "toy", "--context", "27", "--set", "exact=true").returncode == 0
    done = jeito("replay", "--last", "1", "--json")
    assert json.loads(done.stdout)["replays"][0]["verdict"] == "same", done.stdout


@pytest.mark.parametrize("change", ["reasoning.budget=9", "reasoning.show=true"])
def test_what_nothing_honours_yet_is_refused_and_not_ignored(change: str) -> None:
    assert load(f"plain+{change}").behaviour.needs()
    done = jeito("ask", "hi", "-m", "toy", "-b", f"plain+{change}")
    assert done.returncode == 64
    assert "cannot honour" in done.stderr


@pytest.mark.parametrize("model", ["toy@nf4", "nofile.gguf@toy", "toy#main"])
def test_the_toy_is_only_ever_called_toy(model: str) -> None:
    assert jeito("ask", "hi", "-m", model).returncode == 64


def test_a_name_that_no_system_takes_is_a_file_that_is_not_there() -> None:
    done = jeito("ask", "hi", "-m", "x" * 300 + ".gguf")
    assert done.returncode == 64
    assert "there is no file" in done.stderr


def test_a_failed_run_says_why_when_it_is_shown() -> None:
    jeito("ask", "x" * 100, "-m", "toy", "--context", "50")
    found = json.loads(jeito("log", "--json").stdout)["runs"]
    done = jeito("log", "show", found[0]["id"])
    assert "the prompt is" in done.stderr
    assert "None" not in done.stdout.splitlines()[0]


def test_a_terminal_that_is_not_utf8_shows_escapes_and_no_traceback() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "jeito.cli.main", "ask", "olá ☕", "-m", "toy"],
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "ol\\xe1 \\u2615\n"), done.stderr
