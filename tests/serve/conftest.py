"""A real server on loopback, in a thread of this process, so that tests see what its models hold."""

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import httpx2
import openai
import pytest

from jeito.decode.local import LocalModel
from jeito.serve.app import Server
from jeito.serve.catalogue import Catalogue
from jeito.serve.door import Door
from jeito.serve.keys import keys_of
from jeito.serve.server import Serving as Running
from jeito.serve.server import bind
from jeito.trace.log import Log

PATIENCE = 60
"""A guard against a test that hangs; nothing is concluded from how long anything takes."""


class Serving(NamedTuple):
    url: str
    server: Server
    http: httpx2.Client
    openai: openai.OpenAI

    def post(self, **body: Any) -> httpx2.Response:
        return self.http.post("/v1/chat/completions", json={"model": "toy", "messages": [user("hi")]} | body)

    def until(self, is_so: Callable[[], bool]) -> None:
        """Ask for the server's health again and again until something has come about."""
        end = time.monotonic() + PATIENCE
        while not is_so():
            assert time.monotonic() < end, "it did not come about"
            self.http.get("/health")


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


Serve = Callable[..., Serving]


@pytest.fixture
def serve() -> Iterator[Serve]:
    ends: list[Callable[[], object]] = []

    def start(
        *models: LocalModel, keys: list[str] | None = None, folder: Any = None, at_the_door: Any = None, **options: Any
    ) -> Serving:  # fmt: skip
        found = keys_of(("a test", line) for line in keys or ())
        made = Server(Catalogue(models, folder), keys=found, log=Log(), **options)
        bound = bind("127.0.0.1", 0, has_keys=False)
        door = Door(made.metrics, **(at_the_door or {}))
        door.open(made.app())
        running = Running(door, bound)

        def stop() -> None:
            running.stop()
            bound.close()

        url = f"http://127.0.0.1:{bound.getsockname()[1]}"
        key = keys[0].split()[0] if keys else "none"
        http = httpx2.Client(base_url=url, timeout=PATIENCE, headers={"authorization": f"Bearer {key}"})
        client = openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=PATIENCE)
        ends.extend([stop, http.close, client.close])
        return Serving(url, made, http, client)

    yield start
    for end in reversed(ends):
        end()
