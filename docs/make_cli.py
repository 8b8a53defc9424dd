"""Writes docs/cli.md from the help of every command; with --check it only says whether the page is up to date."""

import os
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).with_name("cli.md")
COMMANDS = [
    [], ["demo"], ["ask"], ["chat"], ["compare"], ["explain"], ["behaviours"], ["schema"], ["log"], ["log", "show"],
    ["log", "export"], ["log", "import"], ["replay"],
]  # fmt: skip


def help_of(command: list[str]) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "jeito.cli.main", *command, "--help"],
        env=os.environ | {"COLUMNS": "100", "TERMINAL_WIDTH": "100", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = (line.rstrip() for line in done.stdout.replace("python -m jeito.cli.main", "jeito").splitlines())
    return "\n".join(lines).strip()


def page() -> str:
    parts = ["# The command line\n", "Written by `make docs` from the commands' own help.\n"]
    for command in COMMANDS:
        parts.append(f"## jeito {' '.join(command)}".rstrip() + f"\n\n```text\n{help_of(command)}\n```\n")
    parts.append(
        "## Exit codes\n\n0: done. 1: `replay` found a difference. 64: wrong usage or bad input. 70: the work failed. "
        "130: interrupted.\n"
    )
    return "\n".join(parts)


def main() -> int:
    found = page()
    if "--check" in sys.argv:
        if not PAGE.exists() or PAGE.read_text() != found:
            print("docs/cli.md is not what the commands say: make docs")
            return 1
        return 0
    PAGE.write_text(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
