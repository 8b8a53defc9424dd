"""The command line: in this process where speed matters, as a process of its own where that is what is tested."""

import io
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from jeito.cli.main import _run

COMMAND = str(Path(sys.executable).with_name("jeito"))
# A guard against a test that hangs; nothing is concluded from how long anything takes.
PATIENCE = 60


class Done(NamedTuple):
    code: int
    out: str
    err: str


Jeito = Callable[..., Done]
Process = subprocess.Popen[bytes]


@pytest.fixture
def jeito(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Jeito:
    """A command, run in this process."""

    def call(*words: object, input: str = "") -> Done:
        monkeypatch.setattr(sys, "argv", ["jeito", *map(str, words)])
        monkeypatch.setattr(sys, "stdin", io.StringIO(input))
        capsys.readouterr()
        return Done(_run(), *capsys.readouterr())

    return call


@pytest.fixture
def begin() -> Iterator[Callable[..., Process]]:
    """A command, begun as a process; what still runs when the test ends is killed."""
    begun: list[Process] = []

    def start(*words: object, command: tuple[str, ...] = (COMMAND,), env: Any = None, **streams: Any) -> Process:
        pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE) | streams
        # A process inherits that interrupts are ignored, as they are where tests run in the background.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            begun.append(
                subprocess.Popen(
                    [*command, *map(str, words)], env={**os.environ, "PYTHONWARNINGS": "error", **(env or {})}, **pipes
                )
            )
        finally:
            signal.signal(signal.SIGINT, before)
        return begun[-1]

    yield start
    for one in begun:
        one.kill()
        one.wait()
        for stream in (one.stdin, one.stdout, one.stderr):
            if stream:
                stream.close()


@pytest.fixture
def shell(begin: Callable[..., Process]) -> Jeito:
    """A command, run as a process."""

    def call(*words: object, input: str | bytes = "", **how: Any) -> Done:
        process = begin(*words, **how)
        data = input if isinstance(input, bytes) else input.encode()
        out, err = process.communicate(data, timeout=PATIENCE)
        return Done(process.returncode, out.decode(), err.decode())

    return call


@pytest.fixture
def until() -> Callable[[int, str], str]:
    """What a process writes, up to the first time that it has written a text."""

    def read(descriptor: int, text: str) -> str:
        got = b""
        while text not in got.decode(errors="replace"):
            ready, _, _ = select.select([descriptor], [], [], PATIENCE)
            assert ready, f"{text!r} did not come; this came: {got!r}"
            more = os.read(descriptor, 65536)
            assert more, f"it ended without {text!r}; this came: {got!r}"
            got += more
        return got.decode(errors="replace")

    return read
