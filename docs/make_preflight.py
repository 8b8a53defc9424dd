"""Writes docs/preflight.md from the table of findings; with --check it only says whether the page is up to date."""

import sys
from pathlib import Path

from jeito.preflight.finding import CHECKS

PAGE = Path(__file__).with_name("preflight.md")
OPENING = """\
# What `jeito check` finds

Written by `make docs` from the table of findings. Each is ok, a warning or a blocker; the exit code is 0, 1 or 2 by the
worst of them. What stands in braces is filled in with what was found.

| finding | what it says | what to do where it is not ok |
| --- | --- | --- |
"""


def page() -> str:
    rows = [f"| `{name}` | {check.title} | {check.remedy} |" for name, check in CHECKS.items()]
    return OPENING + "\n".join(rows) + "\n"


def main() -> int:
    if "--check" not in sys.argv:
        PAGE.write_text(page())
    elif not PAGE.exists() or PAGE.read_text() != page():
        print("docs/preflight.md is not what the findings say: make docs")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
