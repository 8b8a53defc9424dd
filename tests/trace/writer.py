"""Another process that uses a log: python writer.py WHAT LOG [COUNT]. It prints one line for each thing done."""

import ctypes
import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path

from jeito.errors import LogError
from jeito.trace.log import Log, new_id
from jeito.types import Message, Receipt, Request, Trace


def a_run(prompt: str = "the same prompt") -> Trace:
    return Trace(
        id=new_id(),
        time="2026-01-31T12:00:00+00:00",
        behaviour="creative",
        behaviour_fingerprint="0123456789ab",
        model="toy",
        model_fingerprint=None,
        seed=1,
        request=Request(messages=(Message(role="user", content="hello"),)),
        receipt=Receipt(values={}),
        prompt=prompt,
    )


def runs(log: Log, count: int) -> None:
    """Runs, begun and finished as fast as it goes."""
    for _ in range(count):
        run = a_run()
        log.begin(run, "{}")
        log.finish(run.model_copy(update={"finish": "stop", "answer": "done"}))
        os.write(1, f"{run.id}\n".encode())  # at once, whoever else writes to the same pipe


def mid_run(log: Log) -> None:
    """A run that has begun and waits for its first token."""
    run = a_run()
    log.begin(run, "{}")
    print(run.id, flush=True)
    sys.stdin.read()


def forks(log: Log, count: int) -> None:
    """A process that has the log in use and goes on in forks of itself, which outlive it."""
    runs(log, 1)
    for _ in range(2):
        if os.fork() == 0:
            break
    runs(log, count)


def attempt(write: Callable[[], None]) -> None:
    try:
        write()
        print("written", flush=True)
    except LogError as error:
        print(f"{error} ({error.hint})", flush=True)


def full(log: Log) -> None:
    """No file of this process may grow beyond what the log has now, as on a full disk; then there is room again."""
    begun = a_run()
    log.begin(begun, "{}")
    ended = begun.model_copy(update={"finish": "stop", "answer": "too long" * 100_000})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (log.path.stat().st_size, hard))
    attempt(lambda: log.begin(a_run("too long" * 100_000), "{}"))
    attempt(lambda: log.finish(ended))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    attempt(lambda: log.finish(ended))
    runs(log, 1)


def read(log: Log) -> None:
    """The ids of a log whose folder cannot be written, then what a write says."""
    if sys.platform == "linux":
        # Root may write everywhere, until it gives up CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH (capset(2)).
        header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
        ctypes.CDLL(None).capget(header, sets)
        sets[0] &= ~0b110
        ctypes.CDLL(None).capset(header, sets)
    if os.access(log.path.parent, os.W_OK, effective_ids=True):
        print("writable", flush=True)
        return
    for run in log.recent(1000):
        print(run.id, flush=True)
    attempt(lambda: log.begin(a_run(), "{}"))


if __name__ == "__main__":
    what, log = sys.argv[1], Log(Path(sys.argv[2]))
    if what in ("runs", "forks"):
        {"runs": runs, "forks": forks}[what](log, int(sys.argv[3]))
    else:
        {"mid_run": mid_run, "full": full, "read": read}[what](log)
