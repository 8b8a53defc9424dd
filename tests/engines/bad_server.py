"""A server on loopback that speaks OpenAI's API badly, in the one way that is asked of it; it drops every knob."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

Misdeed = Literal[
    "drops knobs", "closes early", "closes at once", "broken events", "no finish", "slow bytes", "silent",
    "wrong usage", "no usage", "storm", "fails", "fails in mid-stream", "wants a key", "no such model", "no API",
    "echoes the key", "too long", "gives up", "no [DONE]",
]  # fmt: skip
WORDS = ("One", " two", " three", ".")


class BadServer(ThreadingHTTPServer):
    """`storms`: how many requests are answered 429 (503 where it `fails`) before one is taken; none: all of them."""

    daemon_threads = True

    def __init__(self, misdeed: Misdeed = "drops knobs", *, storms: int | None = None, owner: str = "bad") -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.misdeed, self.storms, self.owner = misdeed, storms, owner
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.models: tuple[str, ...] = ("words",)
        self.pause = 0
        """Seconds that a storm says to wait."""
        self.closed = threading.Event()
        self.left = threading.Event()
        """Set when a client of a slow reply has gone."""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        self.left.set()


class Handler(BaseHTTPRequestHandler):
    server: BadServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        return

    def do_GET(self) -> None:
        self.server.keys.append(self.headers.get("authorization"))
        if self.server.misdeed == "no API":
            self._answer(200, "<html>Welcome</html>", "text/html")
        elif self.path == "/v1/models":
            models = [{"id": name, "owned_by": self.server.owner} for name in self.server.models]
            self._answer(200, json.dumps({"data": models}))
        else:
            self._refuse(404, "no such page")

    def do_POST(self) -> None:
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        server.bodies.append(body)
        server.keys.append(self.headers.get("authorization"))
        if server.misdeed in ("storm", "fails") and (server.storms is None or len(server.bodies) <= server.storms):
            headers = {"retry-after": str(server.pause)} if server.misdeed == "storm" else {}
            self._refuse(429 if server.misdeed == "storm" else 503, "not now", headers)
        elif server.misdeed == "wants a key":
            self._refuse(401, "wrong key")
        elif server.misdeed == "echoes the key":
            self._refuse(400, f"you sent {self.headers.get('authorization')}")
        elif server.misdeed == "no such model":
            self._refuse(404, f"no model {body.get('model')}")
        elif server.misdeed == "too long":
            self._refuse(400, "This model's maximum context length is 8 tokens, and you asked for 99")
        elif server.misdeed == "no API":
            self._answer(200, "<html>Welcome</html>", "text/html")
        elif server.misdeed == "closes at once":
            self.close_connection = True
        elif body.get("stream"):
            self._stream(body)
        else:
            choice = {"index": 0, "message": {"role": "assistant", "content": "".join(WORDS)}, "finish_reason": "stop"}
            self._answer(200, json.dumps({"object": "chat.completion", "choices": [choice], "usage": self._usage()}))

    def _answer(self, status: int, text: str, kind: str = "application/json", headers: dict[str, str] = {}) -> None:  # noqa: B006
        data = text.encode()
        self.send_response(status)
        for name, value in ({"content-type": kind, "content-length": str(len(data))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def _refuse(self, status: int, message: str, headers: dict[str, str] = {}) -> None:  # noqa: B006
        self._answer(status, json.dumps({"error": {"message": message}}), headers=headers)

    def _usage(self) -> dict[str, int]:
        wrong = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 99}
        return wrong if self.server.misdeed == "wrong usage" else wrong | {"completion_tokens": 4, "total_tokens": 9}

    def _stream(self, body: dict[str, Any]) -> None:
        misdeed = self.server.misdeed
        self.close_connection = True
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        if misdeed == "silent":
            self.server.closed.wait()
            return
        self._chunk({"role": "assistant", "content": ""})
        for at, word in enumerate(WORDS):
            if at == 2 and self._misbehaves(misdeed):
                return
            self._chunk({"content": word})
        if misdeed != "no finish":
            self._chunk({}, "error" if misdeed == "gives up" else "stop")
        if misdeed != "no usage":
            self._say(json.dumps({"choices": [], "usage": self._usage()}))
        if misdeed != "no [DONE]":
            self._say("[DONE]")

    def _misbehaves(self, misdeed: Misdeed) -> bool:
        """In the middle of a reply; true where that ends it."""
        if misdeed == "broken events":
            self._say('{"choices": [{"delta": {"content": "')
        elif misdeed == "fails in mid-stream":
            self._say(json.dumps({"error": {"message": "out of memory"}}))
        elif misdeed == "slow bytes":
            # One byte of an event at a time: a socket that is never silent, and says nothing.
            while not self.server.closed.wait(0.02):
                self.wfile.write(b":")
                self.wfile.flush()
        return misdeed in ("closes early", "broken events", "fails in mid-stream", "slow bytes")

    def _chunk(self, delta: dict[str, Any], finish: str | None = None) -> None:
        self._say(json.dumps({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}))

    def _say(self, data: str) -> None:
        self.wfile.write(f"data: {data}\n\n".encode())
        self.wfile.flush()


@contextmanager
def bad_server(
    misdeed: Misdeed = "drops knobs", *, storms: int | None = None, owner: str = "bad"
) -> Iterator[BadServer]:
    server = BadServer(misdeed, storms=storms, owner=owner)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.closed.set()
        server.shutdown()
        thread.join()
        server.server_close()
