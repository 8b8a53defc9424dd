"""A log in a folder of the test, runs to put in it, and other processes that use it."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jeito.trace.log import Log, new_id
from jeito.types import Message, Receipt, Request, Trace


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path / "home" / "log.db")


@pytest.fixture
def a_run() -> Callable[..., Trace]:
    def make(ask: str = "Who are you?", **fields: Any) -> Trace:
        common = {
            "id": new_id(),
            "time": "2026-01-31T12:00:00.5+00:00",
            "behaviour": "creative",
            "behaviour_fingerprint": "0123456789ab",
            "model": "toy",
            "model_fingerprint": "ba9876543210",
            "seed": 7,
            "request": Request(messages=(Message(role="user", content=ask),)),
            "receipt": Receipt(values={}),
        }
        return Trace(**{**common, **fields})

    return make


@pytest.fixture
def process() -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Start writer.py on a log; what still runs when the test ends is killed."""
    started = []

    def start(what: str, log: Log, *more: object) -> "subprocess.Popen[str]":
        script = Path(__file__).with_name("writer.py")
        command = [sys.executable, "-W", "error", str(script), what, str(log.path), *map(str, more)]
        started.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for one in started:
        one.kill()
        one.communicate()
