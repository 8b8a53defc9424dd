"""Requests of all kinds at once against a server of its own: who leaves, who sends nonsense, who asks too much.

Driven by `python bench/serve.py --soak [--requests 2000]`. Every answer is exact, so it must be the one that the same
request got alone.
"""

import http.client
import json
import random
import socket
import threading
import time
from collections import Counter
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

Address = tuple[str, int]
Body = dict[str, Any]
CLIENTS, WARM_UP, TRIES = 32, 200, 30
QUARTERS = 4
ASKS = [
    {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": most, "seed": seed}
    for model, text, most, seed in (
        ("demo", "Name a colour.", 8, 1), ("demo:technical", "What is a mutex?", 12, 2),
        ("demo:creative", "Begin a story.", 12, 3), ("demo:conservative", "What is 3 times 80?", 10, 4),
        ("demo", "Say hello. " * 30, 6, 5), ("demo:technical", "What is a thread? " * 20, 8, 6),
    )
]  # fmt: skip
MALFORMED = [
    b"{", b"", b"[]", b"\xff", b'{"model": NaN}', b'{"model": "demo"}', b'{"model": "nobody", "messages": []}',
    b'{"model": "demo", "messages": [{"role": "user", "content": "x"}], "temprature": 1}', b"[" * 50_000,
]  # fmt: skip
BEYOND = [
    b" " * 2_000_000,
    json.dumps({"model": "demo", "messages": [{"role": "user", "content": "long " * 20_000}]}).encode(),
    json.dumps({"model": "demo", "messages": [{"role": "user", "content": "x"}], "n": 10_000}).encode(),
]


class Soak:
    """What became of each request. `wrong`: answers that the request did not get alone."""

    def __init__(self, address: Address, seed: int) -> None:
        self.address, self.counts, self.wrong = address, Counter[str](), list[str]()
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self.expected = [self._answer(ask, streams=False) for ask in ASKS]

    def all(self, requests: int) -> None:
        kinds = ["leaves"] * 20 + ["malformed"] * 5 + ["beyond"] * 5 + ["asks"] * 70
        plan = iter([self._random.choice(kinds) for _ in range(requests)])

        def go() -> None:
            while True:
                with self._lock:
                    kind, chance = next(plan, None), self._random.random()
                if kind is None:
                    return
                try:
                    what = getattr(self, f"_{kind}")(chance)
                except (OSError, http.client.HTTPException, ValueError) as error:
                    what = f"{kind}: unanswered ({type(error).__name__})"
                with self._lock:
                    self.counts[what] += 1

        threads = [threading.Thread(target=go) for _ in range(CLIENTS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _asks(self, chance: float) -> str:
        which = int(chance * 1e6) % len(ASKS)
        for _ in range(TRIES):
            answer = self._answer(ASKS[which], streams=chance < 0.5)
            if answer != 429:
                break
            with self._lock:
                self.counts["asks: 429, asked again"] += 1
            time.sleep(1 + chance)  # a server that is full says 1, and not all should come at once
        if isinstance(answer, int):
            return f"asks: {answer}"
        if answer != self.expected[which]:
            with self._lock:
                self.wrong.append(f"{ASKS[which]['messages'][0]['content'][:20]!r}: {answer!r}")
        return "asks: 200"

    def _answer(self, ask: Body, *, streams: bool) -> str | int:
        """The text, or the status of a refusal."""
        with closing(self._send(json.dumps(ask | {"jeito": {"exact": True}, "stream": streams}).encode())) as sent:
            got = sent.getresponse()
            data = got.read()
        if got.status != 200:
            assert got.status not in (429, 503) or got.headers["retry-after"], "a refusal that says not when"
            return got.status
        if not streams:
            return str(json.loads(data)["choices"][0]["message"]["content"])
        chunks = [line[6:] for line in data.decode().splitlines() if line.startswith("data: ")]
        if chunks.pop() != "[DONE]":
            raise ValueError("a stream that does not end")
        return "".join(json.loads(chunk)["choices"][0]["delta"].get("content") or "" for chunk in chunks)

    def _leaves(self, chance: float) -> str:
        ask = ASKS[int(chance * 1e6) % len(ASKS)] | {
            "stream": chance < 0.7,
            "jeito": {"exact": True},
            "max_tokens": 200,
        }
        connection = self._send(json.dumps(ask).encode())
        assert connection.sock is not None
        connection.sock.settimeout(chance * 1.5)
        with suppress(TimeoutError):
            while connection.sock.recv(200):
                if chance > 0.4:
                    break
        with suppress(OSError):
            connection.sock.shutdown(socket.SHUT_RDWR)
        connection.close()
        return "leaves"

    def _malformed(self, chance: float) -> str:
        return self._refused("malformed", MALFORMED[int(chance * len(MALFORMED))])

    def _beyond(self, chance: float) -> str:
        return self._refused("beyond", BEYOND[int(chance * len(BEYOND))])

    def _refused(self, kind: str, data: bytes) -> str:
        try:
            with closing(self._send(data)) as sent:
                return f"{kind}: {sent.getresponse().status}"
        except (BrokenPipeError, ConnectionResetError):  # refused and closed, while we still sent
            return f"{kind}: closed"

    def _send(self, data: bytes) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection(*self.address, timeout=300)
        connection.request("POST", "/v1/chat/completions", data, {"content-type": "application/json"})
        return connection

    def now(self) -> dict[str, float]:
        """The gauges of /metrics."""
        connection = http.client.HTTPConnection(*self.address, timeout=60)
        with closing(connection):
            connection.request("GET", "/metrics")
            page = connection.getresponse().read().decode()
        lines = [line.split(" ") for line in page.splitlines() if not line.startswith("#")]
        return {name.removeprefix("jeito_"): float(value) for name, value in lines}


def soak(address: Address, process: int, requests: int, seed: int = 7) -> dict[str, Any]:
    """`process`: the server's, whose memory is looked at after the first 200 requests and at the end."""
    begun = time.monotonic()
    made = Soak(address, seed)
    made.all(WARM_UP)
    before = _resident(process)
    resident = [before]
    for _ in range(QUARTERS):
        made.all((requests - WARM_UP) // QUARTERS)
        resident.append(_resident(process))
    busy = _settled(made)
    after = _resident(process)
    unanswered = sum(count for what, count in made.counts.items() if "unanswered" in what or ": 500" in what)
    return {
        "requests": requests, "seconds": round(time.monotonic() - begun, 1),
        "counts": dict(sorted(made.counts.items())),
        "wrong": len(made.wrong), "wrong_answers": made.wrong[:5], "unanswered": unanswered, "leaked_slots": busy,
        "resident_growth": round(after / before - 1, 4),
        "resident_mb": [round(one / 1e6, 1) for one in [*resident, after]],
    }  # fmt: skip


def _settled(made: Soak) -> int:
    """Slots that are still held ten seconds after the last client has left."""
    end = time.monotonic() + 10
    while True:
        now = made.now()
        busy = int(now["active_slots"] + now["running"] + now["queue"])
        if not busy or time.monotonic() > end:
            return busy
        time.sleep(0.2)


def _resident(process: int) -> int:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))
