"""An end for what might never come to one: some regular expressions, on some texts. Knows nothing of checks."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from jeito.errors import InputError

SECONDS = 5.0


@contextmanager
def in_time(what: str, seconds: float | None = None) -> Iterator[None]:
    """Raises InputError inside when it takes longer; only where signals are heard, which is the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    seconds = seconds or SECONDS

    def end(*signalled: Any) -> None:
        raise InputError(f"{what} found no end in {seconds:g} s", hint="without repeats inside of repeats, as in (a+)+")

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
