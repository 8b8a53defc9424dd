import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jeito import __version__

Jeito = Callable[..., Any]

HEAVY = {"numpy", "rich", "jinja2", "yaml", "sqlite3", "cffi", "xllamacpp", "torch", "transformers"}
LISTS_MODULES = """
import sys
from jeito.cli.main import _run
code = _run()
print(*sys.modules, sep="\\n", file=sys.stderr)
sys.exit(code)
"""


@pytest.mark.parametrize("words", [["--help"], ["ask", "--help"], ["chat", "--help"], ["log", "--help"]])
def test_help_imports_nothing_heavy_and_no_engine(shell: Jeito, words: list[str]) -> None:
    done = shell(*words, command=(sys.executable, "-c", LISTS_MODULES))
    modules = set(done.err.split())
    assert done.code == 0
    assert "Usage: " in done.out
    assert "jeito.cli.main" in modules
    assert modules & HEAVY == set()
    assert {name.split(".")[1] for name in modules if name.startswith("jeito.")} == {"cli", "errors"}
    # Typer has pydantic read a command's options, but the list of commands needs none.
    assert words != ["--help"] or "pydantic" not in modules


def test_the_version_is_said(jeito: Jeito) -> None:
    assert jeito("--version") == (0, f"jeito {__version__}\n", "")


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["nope"],
        ["ask"],
        ["ask", "hi", "--bogus"],
        ["ask", "hi", "--seed", "x"],
        ["ask", "hi", "there"],
        ["compare", "hi", "-n", "0"],
        ["log", "nope"],
        ["log", "show"],
    ],
)
def test_wrong_usage_is_64(jeito: Jeito, words: list[str]) -> None:
    done = jeito(*words)
    assert done.code == 64
    assert "Traceback" not in done.err
    assert "Usage: jeito" in done.err + done.out


BAD = {
    "tecnical": ["ask", "hi", "-m", "toy", "-b", "tecnical"],
    "missing.yaml": ["ask", "hi", "-m", "toy", "-b", "missing.yaml"],
    "temprature": ["ask", "hi", "-m", "toy", "--set", "temprature=1"],
    "temperature": ["ask", "hi", "-m", "toy", "--set", "temperature=warm"],
    "the prompt is empty": ["ask", " ", "-m", "toy"],
    "18446744073709551616": ["ask", "hi", "-m", "toy", "--seed", "18446744073709551616"],
    "logprobs": ["ask", "hi", "-m", "toy", "--logprobs", "101"],
    "output.regex": ["ask", "hi", "-m", "toy", "--set", "output.regex=a("],
    "'llamacp'": ["ask", "hi", "-m", "demo@llamacp"],
    "'llamacpq'": ["ask", "hi", "--engine", "llamacpq"],
    "'fp61'": ["ask", "hi", "--precision", "fp61"],
    "missing.gguf": ["ask", "hi", "-m", "missing.gguf"],
    "org/name": ["ask", "hi", "-m", "org/name"],
    "http://": ["ask", "hi", "-m", "http://"],
    "27 tokens": ["ask", "123456789", "-m", "toy", "--context", "20"],
    "no behaviour is called 'x'": ["explain", "-m", "toy", "-b", "x"],
    "no behaviour is called 'y'": ["chat", "-m", "toy", "-b", "y"],
    "no behaviour is called 'z'": ["compare", "hi", "-m", "toy", "-b", "plain", "-b", "z"],
    "one reply is no comparison": ["compare", "hi", "-m", "toy"],
    "starts with '0000'": ["log", "show", "0000"],
    "starts with '0001'": ["replay", "0001"],
    "no run to replay": ["replay"],
    "missing.jsonl": ["log", "import", "missing.jsonl"],
}


@pytest.mark.parametrize("words", BAD)
def test_bad_input_is_64_with_one_line_and_its_hint(jeito: Jeito, words: str) -> None:
    done = jeito(*BAD[words])
    assert done.code == 64
    assert done.out == ""
    error, hint = done.err.splitlines()
    assert error.startswith("error: ")
    assert words in error
    assert hint.startswith("  try: ")
    assert len(hint) > len("  try: ")


def test_an_unknown_behaviour_comes_with_near_names(shell: Jeito) -> None:
    done = shell("ask", "hi", "-m", "toy", "-b", "tecnical")
    assert done == (64, "", "error: no behaviour is called 'tecnical'\n  try: did you mean technical?\n")


def test_what_fails_at_its_work_is_70(jeito: Jeito, home: Path) -> None:
    (home / "log.db").write_bytes(b"no database at all " * 99)
    done = jeito("log")
    assert done.code == 70
    assert [line[:7] for line in done.err.splitlines()] == ["error: ", "  try: "]


def test_behaviours_and_their_schema_are_listed(jeito: Jeito) -> None:
    names = [one["name"] for one in json.loads(jeito("behaviours", "--json").out)["behaviours"]]
    assert {"creative", "conservative", "technical", "agente_tecnico"} <= set(names)
    assert all(name in jeito("behaviours").out for name in names)
    assert {"system", "sampling"} <= json.loads(jeito("schema").out)["properties"].keys()
