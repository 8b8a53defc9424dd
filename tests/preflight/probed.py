"""Servers to probe: a toy that copies as models do, behind a proxy that changes what it is asked."""

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx2

from jeito.engines.base import Logits
from jeito.engines.toy import END, babble

Json = dict[str, Any]
Alter = Callable[[Json], Json | str | bytes]
"""Another body in place of one, or why it is refused, or what is answered."""
SEEN = 6
SURE = 8.0


def parrot(tokens: Sequence[int]) -> Logits:
    """Babble that goes on as it went on before: after letters that came already, what followed them the last time."""
    row = babble(tokens)
    said, end = bytes(token for token in tokens if token < 256), bytes(token for token in tokens[-SEEN:] if token < 256)
    at = said.rfind(end, 0, len(said) - 1)
    if at >= 0 and len(end) == SEEN:
        following = said[at + SEEN]
        row[END if following == ord("\n") else following] = row.max() + SURE
    return row


class Proxy(ThreadingHTTPServer):
    """A server in front of a good one. `crowded`: it changes the seed of what comes while another waits."""

    daemon_threads = True

    def __init__(self, target: str, alter: Alter, *, crowded: bool = False) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target, self.alter, self.crowded = target, alter, crowded
        self.inside = threading.Semaphore(1)
        self.client = httpx2.Client(timeout=60)  # made once, since making one takes long

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class _Handler(BaseHTTPRequestHandler):
    server: Proxy

    def log_message(self, format: str, *args: Any) -> None:
        return

    def do_GET(self) -> None:
        self._pass(self.server.client.get(self.server.target.removesuffix("/v1") + self.path))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        is_alone = self.server.inside.acquire(blocking=False)
        try:
            if self.server.crowded and not is_alone:
                body["seed"] += 1000
            altered = self.server.alter(body)
            if isinstance(altered, str):
                answer = httpx2.Response(400, json={"error": {"message": altered}})
            elif isinstance(altered, bytes):
                answer = httpx2.Response(200, content=altered, headers={"content-type": "application/json"})
            else:
                answer = self.server.client.post(f"{self.server.target}/chat/completions", json=altered)
        finally:
            if is_alone:
                self.server.inside.release()
        self._pass(answer)

    def _pass(self, answer: httpx2.Response) -> None:
        self._say(answer.status_code, answer.content, answer.headers["content-type"])

    def _say(self, status: int, data: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def proxy(target: str, alter: Alter, *, crowded: bool = False) -> Iterator[str]:
    made = Proxy(target, alter, crowded=crowded)
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield made.address
    finally:
        made.shutdown()
        thread.join()
        made.server_close()
        made.client.close()


def without(*names: str) -> Alter:
    """A server that does not know these fields, and says nothing of it; dots go into maps."""

    def alter(body: Json) -> Json:
        for name in names:
            *above, last = name.split(".")
            inner = body
            for step in above:
                inner = inner.get(step, {})
            inner.pop(last, None)
        return body

    return alter


def called(old: str, new: str) -> Alter:
    """A server that takes one field for another."""

    def alter(body: Json) -> Json:
        if body.get(old):
            body[new] = body.pop(old)
        return body

    return alter


def refusing(name: str) -> Alter:
    return lambda body: f"{name} is not taken here" if body.get(name) not in (None, 0, 0.0, []) else body


def reading(letters: int) -> Alter:
    """A server that reads the last letters of a turn, and says nothing of it."""

    def alter(body: Json) -> Json:
        for message in body["messages"]:
            message["content"] = message["content"][-letters:]
        return body

    return alter
