"""Parts that the pages of several results share. Knows nothing of any one of them."""

import json
from collections.abc import Sequence

from jeito.proof.page import Facts, Lines, Mark, Section
from jeito.proof.stats import Decision
from jeito.types import Trace

LONGEST = 40
"""Letters of a value in a name."""


def decision(kind: Decision | None) -> Mark | None:
    return None if kind is None else Mark(kind, kind)


def called(label: str) -> str:
    """A behaviour as it was typed, without the values that take a line of their own."""
    parts = label.split("+")
    return "+".join(part if len(part) <= LONGEST else f"{part.partition('=')[0]}=…" for part in parts)


def running(environment: dict[str, str], template: str | None) -> Section:
    """What it ran on."""
    rows = [(name, value) for name, value in sorted(environment.items())]
    return Section(
        "environment", "Versions", "Of the first run.", [Facts([*rows, ("chat template", template or "none")])]
    )


def check_words(check: str, at_least: float | None) -> list[str]:
    """A check, as `plan.asked` has it, as it is typed."""
    name, _, value = check.partition(" ")
    typed = json.dumps({name: json.loads(value)}, ensure_ascii=False) if value else name
    # A file's name has a colon, which YAML would read as a map.
    typed = json.dumps(name) if not value and ":" in name else typed
    return ["--check", typed, *([] if at_least is None else ["--at-least", f"{at_least:g}"])]


def reproduction(commands: Sequence[str]) -> Section:
    return Section(
        "again", "Do it again", "The same cases, seeds and files give the same tokens where replies are exact.",
        [Lines(commands, commands=True)],
    )  # fmt: skip


def unhonoured(traces: Sequence[Trace]) -> list[Section]:
    """What behaviours asked for and did not get, in the replies at hand."""
    lines = sorted({f"{trace.behaviour}: {line}" for trace in traces for line in trace.receipt.unsupported})
    return [Section("unsupported", "Not honoured", "Asked for, and not possible there.", [Lines(lines)])] * bool(lines)


def remarks(notes: Sequence[str]) -> list[Section]:
    return [Section("notes", "Notes", "What else one should know.", [Lines(notes)])] * bool(notes)
