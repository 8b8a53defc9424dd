"""What commands print: answers and JSON on standard output, everything else on standard error."""

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from jeito.types import Receipt, Sourced, Step, Token, ToolCall, Trace, Usage, Value

# How wide a table may be where no terminal says it.
PLAIN_WIDTH = 160


def say(text: str) -> None:
    """A note for the person, not for a program."""
    print(text, file=sys.stderr, flush=True)


def emit(value: "Value | Any") -> None:
    """One JSON object on standard output."""
    import json

    from pydantic import BaseModel

    data = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    print(json.dumps(data, ensure_ascii=False, default=lambda inner: inner.model_dump(mode="json")))


def token(found: "Token", *, reasoning: bool) -> None:
    """What a token shows of the answer, and on standard error, where it is wanted, of the reasoning before it."""
    if reasoning and found.reasoning:
        print(found.reasoning, end="", file=sys.stderr, flush=True)
    print(found.text, end="", flush=True)


def prompt_of(text: str) -> str:
    """The argument itself, or standard input for `-`."""
    return sys.stdin.read() if text == "-" else text


def console(*, errors: bool = False) -> "Console":
    """rich where a person looks; plain text, wide enough, elsewhere."""
    from rich.console import Console

    stream = sys.stderr if errors else sys.stdout
    return Console(stderr=errors, width=None if stream.isatty() else PLAIN_WIDTH, highlight=False, soft_wrap=False)


def step(made: "ToolCall | Step") -> None:
    """A call before it is made, and what came of it."""
    from jeito.types import Step

    if isinstance(made, Step):
        first, *more = _plain(made.result).splitlines() or [""]
        say(
            f"  {'failed' if made.error else 'gave'}: {first[:200]}"
            + (f" (and {len(more)} lines more)" if more else "")
        )
    else:
        say(f"calls {_written(made)}")


def confirm(call: "ToolCall") -> bool:
    """May it be done? No is the default, and the answer where nobody sits at the terminal."""
    if not sys.stdin.isatty():
        say(f"  not allowed: {call.name} asks first, and nobody is there to be asked")
        return False
    print(f"allow {_written(call)}? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes", "s", "sim")


def _written(call: "ToolCall") -> str:
    import json

    given = (f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in call.arguments.items())
    return _plain(f"{call.name}({', '.join(given)})")


def _plain(text: str) -> str:
    """A stranger's text for a terminal: what would move its cursor or turn its letters round is shown as an escape."""
    return "".join(sign if sign.isprintable() or sign == "\n" else ascii(sign)[1:-1] for sign in text)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], *, errors: bool = False) -> None:
    """A small table; numbers to the right, cells never cut."""
    from rich.table import Table
    from rich.text import Text

    drawn = Table(
        title=Text(title) if title else None, title_justify="left", box=None, pad_edge=False, header_style="bold"
    )
    kept = [list(row) for row in rows]
    for index, column in enumerate(columns):
        numbers = all(isinstance(row[index], int | float) for row in kept) and bool(kept)
        drawn.add_column(column, justify="right" if numbers else "left", overflow="fold")
    for row in kept:
        drawn.add_row(*(Text(f"{cell:.3g}" if isinstance(cell, float) else str(cell)) for cell in row))
    console(errors=errors).print(drawn)


def where(sourced: "Sourced") -> str:
    """A value's source in a few words: `behaviour creative.yaml:7`."""
    from pathlib import Path

    if sourced.file is None:
        return sourced.source
    line = f":{sourced.line}" if sourced.line is not None else ""
    return f"{sourced.source} {Path(sourced.file).name}{line}"


def receipt(found: "Receipt", title: str, *, errors: bool = False) -> None:
    """Every effective value with its source, then what was not honoured."""
    rows = [(name, _short(sourced.value), where(sourced)) for name, sourced in found.values.items()]
    table(title, ("value of", "is", "from"), rows, errors=errors)
    out = console(errors=errors)
    exact = found.exact
    if found.template:
        out.print(f"template: {found.template}; instruction at: {found.placement}")
    if found.prompt_digest:
        out.print(f"prompt: sha256 {found.prompt_digest}")
        held = f"yes, in calls of {exact.shape}" if exact.held else "no"
        out.print(f"exact: {held} ({exact.why})", markup=False)
    for name, lines in (("note", found.notes), ("not honoured", found.unsupported), ("dropped turn", found.dropped)):
        for line in lines:
            out.print(f"{name}: {line}", markup=False)


def _short(value: object) -> str:
    text = str(value).strip().replace("\n", " ")
    return text if len(text) <= 60 else text[:57] + "…"


def reused(usage: "Usage") -> str:
    """How much of a prompt was in memory already."""
    if usage.cached is None:
        return f"{usage.prompt} tokens of the prompt; the reply was broken off before it said how many were reused"
    return f"{usage.cached} of {usage.prompt} tokens of the prompt were not computed again"


def ending(trace: "Trace", losses: Iterable[str] = ()) -> None:
    """Why a reply ended, where that is not simply its end; and what could not be logged."""
    if trace.finish not in ("stop", "tool_calls"):
        why = trace.error or trace.why
        say(f"[{trace.finish or 'unfinished'}]" + (f" {why}" if why else ""))
    for loss in losses:
        say(f"warning: {loss}")
