"""Processes that are ended whole: a command under its keeper, and Python code in a place of its own.

Knows nothing of models or behaviours. A process's keeper (keeper.py) sees to it that nothing outlives it.
"""

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from pydantic import Field

from jeito.errors import InputError
from jeito.types import Several, Value

TAIL = 4000
"""Bytes of the standard error that are kept: its end, where Python says what went wrong."""

# Bytes of one file, and open files; how many processes, the keeper knows.
_FILE, _FILES = 64 << 20, 256
# Where Python and what it loads lie; the rest of the disk is closed to the code.
_SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/nix/store", "/etc/ld.so.cache", "/etc/localtime")
_KNOWN = ("/dev/urandom", "/dev/random", "/dev/zero", "/sys/devices/system/cpu", "/proc/cpuinfo", "/proc/meminfo")


class Outcome(Value):
    """What a piece of code did."""

    stdout: str
    stderr: str = Field(description="its end")
    status: int | None = Field(description="0: well; below 0: the signal that ended it; none: it was stopped")
    why: str | None = Field(default=None, description="why it was stopped")
    seconds: float
    notes: Several[str] = Field(default=(), description="bounds that this system did not allow")


def kept(command: list[str], **settings: Any) -> list[str]:
    """The command line that runs `command` under a keeper. Raises InputError where there are no such processes."""
    if os.name != "posix":
        raise InputError(f"tools that are processes need Linux or macOS, not {sys.platform}", hint="wsl --install")
    said = json.dumps({"parent": os.getpid(), **settings})
    return [sys.executable, "-I", "-S", str(Path(__file__).with_name("keeper.py")), said, *command]


def end(process: "subprocess.Popen[bytes]") -> None:
    """End a kept process that leads its session, and all that came of it."""
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def run_sandboxed(
    code: str, *, stdin: str = "", timeout: float = 20.0, memory: int = 1 << 30, output: int = 1 << 20
) -> Outcome:
    """Run Python code in a process of its own: an empty folder, no network, an empty environment, bounds on all.

    `timeout` in seconds of the clock, `memory` in bytes for each process, `output` in bytes of standard output: whoever
    prints more is stopped. Its folder is deleted and its processes are ended before this returns. What the system does
    not allow of this is in `notes`. It bounds accidents and mischief; it is no jail for who knows a hole in the kernel.
    """
    begun = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="jeito-", ignore_cleanup_errors=True) as place,
        tempfile.TemporaryFile() as given,
    ):
        folder = os.path.realpath(place)
        Path(folder, "main.py").write_bytes(code.encode(errors="replace"))
        given.write(stdin.encode(errors="replace"))
        given.seek(0)
        reading, writing = os.pipe()
        with open(reading) as notes:
            with _start(folder, writing, given.fileno(), timeout, memory) as process:
                try:
                    printed, said, why = _read(process, begun + timeout, output, timeout)
                finally:
                    end(process)
            found = notes.read().splitlines()
    return Outcome(
        stdout=printed.decode(errors="replace"),
        stderr=said.decode(errors="replace"),
        status=None if why else process.returncode,
        why=why,
        seconds=time.monotonic() - begun,
        notes=tuple(found),
    )


def _start(folder: str, notes: int, stdin: int, timeout: float, memory: int) -> "subprocess.Popen[bytes]":
    cpu = int(timeout) + 1
    alone = {
        "limits": {"AS": memory, "CPU": cpu, "FSIZE": _FILE, "NOFILE": _FILES},
        "write": folder,
        "read": [sys.prefix, sys.base_prefix, *_SYSTEM, *_KNOWN],
    }
    try:
        return subprocess.Popen(
            # Unbuffered: what was printed before it was stopped is worth reading.
            kept([sys.executable, "-I", "-u", "-X", "utf8", "main.py"], alone=alone, notes=notes),
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=folder,
            # Libraries for numbers reserve memory for each thread: on a large machine more than is allowed.
            env={"HOME": folder, "TMPDIR": folder, "LANG": "C.UTF-8", "OMP_NUM_THREADS": "1"},
            pass_fds=(notes,),
            start_new_session=True,
        )
    finally:
        os.close(notes)


def _read(
    process: "subprocess.Popen[bytes]", deadline: float, output: int, timeout: float
) -> tuple[bytes, bytes, str | None]:
    """Standard output, the end of standard error, and why the process has to be stopped, if it has."""
    printed, said, late = bytearray(), b"", f"it took more than {timeout:g} seconds"
    assert process.stdout is not None
    assert process.stderr is not None
    with selectors.DefaultSelector() as ready:
        for stream in (process.stdout, process.stderr):
            ready.register(stream, selectors.EVENT_READ)
        while ready.get_map():
            left = deadline - time.monotonic()
            if left <= 0:
                return bytes(printed), said, late
            for key, _ in ready.select(left):
                chunk = os.read(key.fd, 1 << 16)
                if not chunk:
                    ready.unregister(key.fileobj)
                elif key.fileobj is process.stderr:
                    said = (said + chunk)[-TAIL:]
                else:
                    printed += chunk
                    if len(printed) > output:
                        return bytes(printed[:output]), said, f"it printed more than {output} bytes"
    try:
        # Its streams are closed; it may go on all the same.
        process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        return bytes(printed), said, late
    return bytes(printed), said, None
