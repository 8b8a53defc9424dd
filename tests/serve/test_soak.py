"""Clients of all kinds at once: nobody gets another's answer, nobody is left without one, no slot stays behind."""

import json
import random
import socket
import threading
from collections import Counter
from contextlib import suppress
from typing import Any

import httpx2

from jeito.decode.local import LocalModel
from jeito.engines.toy import ToyEngine, babble
from tests.serve.conftest import Serve, user

ASKS: list[dict[str, Any]] = [
    {"model": model, "messages": [user(text)], "max_tokens": most, "seed": seed}
    for model, text, most, seed in (
        ("toy", "one", 30, 1), ("toy:technical", "two", 20, 2), ("toy:creative", "three " * 60, 10, 3),
        ("toy", "4", 5, 4),
    )
]  # fmt: skip
REFUSED = [b"{", b"\xff", b'{"model": NaN}', b'{"model": "toy"}', b"[" * 9000, b" " * 30_000]
REFUSED += [json.dumps(ASKS[0] | more).encode() for more in ({"n": 1000}, {"temprature": 1}, {"model": "nobody"})]


def test_a_crowd_that_leaves_errs_and_asks_too_much_disturbs_nobody(serve: Serve) -> None:
    model = LocalModel(ToyEngine(babble, slots=4, batch=64), "toy")
    served = serve(model, queue=3, body=20_000, deadline=60)
    chance, lock = random.Random(7), threading.Lock()

    def answer(ask: dict[str, Any], streams: bool) -> str | int:
        body = ask | {"stream": streams, "jeito": {"exact": True}}
        got = httpx2.post(f"{served.url}/v1/chat/completions", json=body, timeout=60)
        if got.status_code != 200:
            assert int(got.headers["retry-after"]) >= 1
            return got.status_code
        if not streams:
            return str(got.json()["choices"][0]["message"]["content"])
        *chunks, last = [line[6:] for line in got.text.splitlines() if line]
        assert last == "[DONE]"
        return "".join(json.loads(chunk)["choices"][0]["delta"].get("content") or "" for chunk in chunks)

    def leave(ask: dict[str, Any], most: int) -> None:
        body = json.dumps(ask | {"stream": True, "max_tokens": 900}).encode()
        address = served.url.removeprefix("http://").split(":")
        with socket.create_connection((address[0], int(address[1]))) as connection, suppress(OSError):
            head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n"
            connection.sendall(head.encode() + body[: most % 3 * 50 or None])
            connection.settimeout(0.01 + most / 1000)
            while most > 50 and connection.recv(most):
                most -= 50

    expected = [answer(ask, False) for ask in ASKS]
    plan = iter(chance.choices(["asks"] * 7 + ["leaves"] * 2 + ["refused"], k=150))
    seen: Counter[str] = Counter()
    wrong: list[Any] = []

    def client() -> None:
        while True:
            with lock:
                kind, which, much = next(plan, None), chance.randrange(900), chance.randrange(400)
            if kind is None:
                return
            if kind == "leaves":
                leave(ASKS[which % len(ASKS)], much)
                what = "left"
            elif kind == "refused":
                data = REFUSED[which % len(REFUSED)]
                what = f"refused {httpx2.post(f'{served.url}/v1/chat/completions', content=data).status_code}"
            else:
                said = answer(ASKS[which % len(ASKS)], which % 2 == 0)
                what = str(said) if isinstance(said, int) else "answered"
                if what == "answered" and said != expected[which % len(ASKS)]:
                    wrong.append((which % len(ASKS), said))
            with lock:
                seen[what] += 1

    threads = [threading.Thread(target=client) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert seen.total() == 150
    assert set(seen) <= {"answered", "left", "429", "refused 400", "refused 404", "refused 413", "refused 429"}
    assert seen["answered"] > 20
    (desk,) = served.server._desks.values()
    served.until(lambda: not desk.running and not desk.waiting)
    assert model.decoder.active == []
    assert not model.decoder.waiting
    assert not any(slot.busy for slot in model.decoder.memory.slots)
    assert [answer(ask, True) for ask in ASKS] == expected
