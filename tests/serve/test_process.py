"""The command, as a process of its own: how it begins and how it ends."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.serve.conftest import user

Process = subprocess.Popen[str]
# More than the buffers of a connection hold: so it goes on for as long as its client does not read.
LONG: Any = {"model": "toy", "messages": [user("x" * 1900)], "max_tokens": 2000, "stream": True}
LONG |= {"logprobs": True, "top_logprobs": 20}


@pytest.fixture
def begin() -> Iterator[Callable[..., Process]]:
    begun: list[Process] = []

    def start(*words: str) -> Process:
        command = [sys.executable, "-m", "jeito.cli.main", "serve", "-m", "toy", *words]
        env = {**os.environ, "PYTHONWARNINGS": "error"}
        # A process inherits that interrupts are ignored, as they are where tests run in the background.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            begun.append(subprocess.Popen(command, env=env, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        finally:
            signal.signal(signal.SIGINT, before)
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
    with httpx2.stream("POST", f"{url}/chat/completions", json=LONG, timeout=60) as got:
        lines = got.iter_lines()
        next(lines)
        process.send_signal(signal.SIGTERM)
        for path, code in (("ready", 503), ("v1/models", 503), ("health", 200)):
            while (now := httpx2.get(f"{url.removesuffix('v1')}{path}")).status_code != code:
                assert path == "ready"  # the signal is on its way
        assert now.status_code == 200
        refused = httpx2.post(f"{url}/chat/completions", json=LONG)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
        assert int(refused.headers["retry-after"]) > 0
        rest = [line for line in lines if line]
    assert rest[-1] == "data: [DONE]"
    assert len(rest) > 1900
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


def test_what_takes_longer_than_its_drain_is_broken_off(begin: Callable[..., Process]) -> None:
    process = begin("--port", "0", "--drain", "0")
    url = address(process)
    # More than the sockets between may hold, so that it cannot be over before anybody reads it.
    with httpx2.stream("POST", f"{url}/chat/completions", json=LONG | {"n": 8}, timeout=60) as got:
        lines = got.iter_lines()
        next(lines)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        rest: list[str] = []
        with pytest.raises(httpx2.TransportError):
            rest.extend(lines)
    assert "data: [DONE]" not in rest


def test_keys_that_cannot_be_are_refused_before_anything_is_loaded(
    begin: Callable[..., Process], tmp_path: Path
) -> None:
    (tmp_path / "keys").write_text("good\na-secret rate=often\n")
    out, err = (process := begin("--port", "0", "--keys", str(tmp_path / "keys"))).communicate(timeout=60)
    assert (process.returncode, out) == (64, "")
    assert "line 2" in err
    assert "a-secret" not in err


def test_all_that_is_said_of_a_server_on_the_command_line_holds(begin: Callable[..., Process], tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("k behaviours=a\n")
    (tmp_path / "a.yaml").write_text("system: Be brief.\n")
    words = ["--keys", str(tmp_path / "keys"), "--behaviours", str(tmp_path), "--name", "mine", "--allow-host", "ours"]
    process = begin("--port", "0", *words, "--access-log", "--deadline", "60")
    url, key = address(process), {"authorization": "Bearer k"}
    assert [one["id"] for one in httpx2.get(f"{url}/models", headers=key).json()["data"]] == ["mine:a"]
    body = {"model": "mine:a", "messages": [user("a secret")]}
    assert httpx2.post(f"{url}/chat/completions", json=body, headers=key).status_code == 200
    assert httpx2.post(f"{url}/chat/completions", json=body, headers={"host": "evil", **key}).status_code == 421
    assert httpx2.post(f"{url}/chat/completions", json=body).status_code == 401
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert [line.split()[2] for line in err.splitlines()] == ["200", "200", "421", "401"]
    assert "secret" not in err
