"""`jeito pull`: what a model needs, from the hub into its cache, after the check that `jeito check` makes."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from jeito.cli import options, show


def pull(
    reference: Annotated[
        str, typer.Argument(metavar="MODEL", help="ORG/NAME[#revision], or ORG/NAME:Q4_K_M for one GGUF of many.")
    ],
    allow_pickle: Annotated[
        bool, typer.Option("--allow-pickle", help="Take weights that can run any code when read.")
    ] = False,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Take the code that the model brings.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Download what a model needs into the hub's cache, checked before and after; goes on where it was broken off."""
    from jeito.preflight.find import find
    from jeito.preflight.pull import plan
    from jeito.preflight.pull import pull as bring
    from jeito.run.open import parse

    asked = parse(reference)
    # What the cache holds of it may be damaged, so it is not asked.
    facts = find(asked.target, asked.within, fresh=True)
    planned = plan(facts, asked.within, allow_pickle=allow_pickle, trust_remote_code=trust_remote_code)
    if planned.facts.away:
        show.say(f"warning: {planned.facts.away}; what the cache holds is checked")
    for one in planned.warnings:
        if one.id in ("access.renamed", "engine.packages", "licence", "adapter.base"):
            show.say(f"warning: {one.evidence}: {one.remedy}")
    try:
        with _bar(planned.model) as progress:
            pulled = bring(planned, progress=progress, notify=show.say)
    except KeyboardInterrupt:
        show.say(f"what came stays; go on with: jeito pull {planned.model}")
        raise
    if json:
        show.emit(pulled)
        return
    print(pulled.path)
    show.say(f"{pulled.bytes:,} bytes are here and whole, {pulled.downloaded:,} of them came now")
    if planned.base:
        show.say(f"next, what the adapter runs on: jeito pull {planned.base}")
        return
    flags = (" --allow-pickle" if allow_pickle else "") + (" --trust-remote-code" if trust_remote_code else "")
    show.say(f'next: jeito ask -m {pulled.model}{flags} "…"')


@contextmanager
def _bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """One line with bytes, rate and time left, where a person looks on."""
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )  # fmt: skip

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    bar = Progress(
        *columns, TimeRemainingColumn(), console=show.console(errors=True), transient=True,
        disable=not sys.stderr.isatty(),
    )  # fmt: skip
    with bar:
        task = bar.add_task(title, start=False)

        def update(done: int, total: int) -> None:
            if not bar.tasks[0].started:  # what was here before is no part of the rate
                bar.reset(task, total=total, completed=done)
            bar.update(task, completed=done)

        yield update
