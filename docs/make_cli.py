"""Writes docs/cli.md from the help of every command; with --check it only says whether the page is up to date."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Before Typer is imported: it and rich read how wide, and in which colours, to write.
os.environ |= {"COLUMNS": "100", "TERMINAL_WIDTH": "100", "NO_COLOR": "1"}

import typer
from typer.testing import CliRunner

from jeito.cli.main import app

PAGE = Path(__file__).with_name("cli.md")


def names(command: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every command as words, in the order of the help: itself, then what is under it."""
    yield above
    for name, inner in getattr(command, "commands", {}).items():
        yield from names(inner, (*above, name))


def help_of(words: tuple[str, ...]) -> str:
    done = CliRunner().invoke(app, [*words, "--help"], prog_name="jeito", catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return "\n".join(line.rstrip() for line in done.output.splitlines()).strip()


def page() -> str:
    parts = ["# The command line\n", "Written by `make docs` from the commands' own help.\n"]
    for words in names(typer.main.get_command(app)):
        parts.append(f"## {' '.join(('jeito', *words))}\n\n```text\n{help_of(words)}\n```\n")
    parts.append(
        "## Exit codes\n\n0: done. 1: `replay` found a difference, `check` or `doctor` a warning. 2: a blocker. "
        "64: wrong usage or bad input. 70: the work failed. 130: interrupted.\n"
    )
    return "\n".join(parts)


def main() -> int:
    found = page()
    if "--check" not in sys.argv:
        PAGE.write_text(found)
    elif not PAGE.exists() or PAGE.read_text() != found:
        print("docs/cli.md is not what the commands say: make docs")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
