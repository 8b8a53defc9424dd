"""The command, as a process of its own: how it begins and how it ends."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest

from tests.serve.conftest import user

Process = subprocess.Popen[str]


@pytest.fixture
def begin() -> Iterator[Callable[..., Process]]:
    begun: list[Process] = []

    def start(*words: str) -> Process:
        command = [sys.executable, "-m", "jeito.cli.main", "serve", "-m", "toy", *words]
        env = {**os.environ, "PYTHONWARNINGS": "error"}
        begun.append(subprocess.Popen(command, env=env, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        return begun[-1]

    yield start
    for one in begun:
        one.kill()
        one.communicate()


def address(process: Process) -> str:
    line = process.stderr.readline()  # type: ignore[union-attr]
    assert " on http://" in line, line
    return line.split(" on ")[1].strip()


def test_told_to_stop_it_lets_what_runs_end_and_takes_no_more(begin: Callable[..., Process]) -> None:
    process = begin("--port", "0")
    url = address(process)
    asked: Any = {"model": "toy", "messages": [user("x" * 900)], "max_tokens": 1000, "stream": True}
    with httpx2.stream("POST", f"{url}/chat/completions", json=asked, timeout=60) as got:
        lines = got.iter_lines()
        next(lines)
        process.send_signal(signal.SIGTERM)
        rest = [line for line in lines if line]
    assert rest[-1] == "data: [DONE]"
    assert len(rest) > 900
    assert process.wait(60) == 0
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(f"{url}/models")


def test_two_servers_on_one_port_are_refused_in_a_sentence(begin: Callable[..., Process]) -> None:
    first = begin("--port", "0")
    port = address(first).rpartition(":")[2].removesuffix("/v1")
    out, err = (second := begin("--port", port)).communicate(timeout=60)
    assert (second.returncode, out) == (64, "")
    assert "cannot be served" in err
    assert "--port 0" in err


def test_an_interrupt_ends_it_quietly(begin: Callable[..., Process]) -> None:
    process = begin("--port", "0")
    address(process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "interrupted\n")


def test_nothing_of_the_prompt_or_of_this_machine_is_printed(begin: Callable[..., Process]) -> None:
    process = begin("--port", "0")
    url = address(process)
    said = httpx2.post(f"{url}/chat/completions", json={"model": "toy", "messages": [user("a secret")]}, timeout=60)
    assert said.json()["choices"][0]["message"]["content"] == "a secret"
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=60) == ("", "")
