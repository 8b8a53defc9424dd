"""A bar over runs, for the commands that make many. No command of its own."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from jeito.cli import show


@contextmanager
def bar() -> Iterator[Callable[[int, int], None] | None]:
    """Hears how many runs there are and how many there will be; none where nobody looks."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=show.console(errors=True), transient=True, disable=not sys.stderr.isatty()) as made:
        task = made.add_task("")

        def heard(done: int, total: int) -> None:
            made.update(task, completed=done, total=total)

        yield None if made.disable else heard
