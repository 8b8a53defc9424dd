"""Before any route: whose page asks, by which name, and whether anybody is in. Knows nothing of models."""

import asyncio
import ipaddress
import sys
import time
from collections.abc import Iterable
from contextlib import suppress

from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from jeito import __version__
from jeito.serve.metrics import Metrics
from jeito.serve.refusal import Refusal, response

OPEN = ("/health", "/ready")
"""Need no key."""
SAID = ["retry-after", "x-jeito-left-out"]
"""Headers of ours that another site's page may read."""


class Door:
    """The app that a server runs: closed until `open`, and again when told to stop.

    `hosts`: the names under which it may be asked; none: any, since keys stand before all. What is no name, but an
    address, no other site's name can be made to mean. `origins`: other sites whose pages may ask.
    """

    def __init__(
        self, metrics: Metrics, *, hosts: Iterable[str] | None = ("localhost",), origins: Iterable[str] = (),
        is_noted: bool = False,
    ) -> None:  # fmt: skip
        self._metrics, self._is_noted = metrics, is_noted
        self._hosts = None if hosts is None else {host.lower() for host in hosts}
        self._origins = {origin.rstrip("/").lower() for origin in origins}
        self._inside: ASGIApp | None = None
        self._is_draining = False
        self._count = 0
        self._emptied = asyncio.Event()

    def open(self, app: ASGIApp) -> None:
        origins = list(self._origins)
        self._inside = CORSMiddleware(
            app, allow_origins=origins, allow_methods=["GET", "POST"], allow_headers=["*"], expose_headers=SAID,
        ) if origins else app  # fmt: skip

    async def drain(self, seconds: float) -> None:
        """Take no more, and wait until those inside have been answered, or so long."""
        self._is_draining = True
        if self._count:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._emptied.wait(), seconds)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began, status = time.monotonic(), 499

        async def heard(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        self._count += 1
        try:
            app = self._app(Request(scope))
            await app(scope, receive, heard)
        finally:
            self._count -= 1
            if self._is_draining and not self._count:
                self._emptied.set()
            if self._is_noted:
                path = scope["path"].encode("ascii", "backslashreplace").decode()[:120]
                key = scope.get("jeito.key")
                who = f"key {key.number}" if key else (scope.get("client") or ["?"])[0]
                print(f"{scope['method']} {path!r} {status} {time.monotonic() - began:.3f}s {who}", file=sys.stderr)

    def _app(self, request: Request) -> ASGIApp:
        """What answers a request: whoever is inside, or a word at the door."""
        path = request.url.path
        try:
            self._check(request)
            if path == "/health":
                return JSONResponse({"status": "ok", "version": __version__})
            if self._inside is None or self._is_draining:
                why = "the server is about to stop" if self._is_draining else "the models are being loaded"
                code = "draining" if self._is_draining else "loading"
                raise Refusal(503, why, hint="try again later", code=code, retry_after=5)
        except Refusal as found:
            self._metrics.refused(found)
            return _answer(found)
        return JSONResponse({"status": "ready"}) if path == "/ready" else self._inside

    def _check(self, request: Request) -> None:
        host = request.headers.get("host", "").lower()
        if self._hosts is not None and host and not ({_name(host)} & self._hosts or _is_address(_name(host))):
            raise Refusal(421, f"this server is not called {host[:80]!r}", hint="--allow-host NAME", code="host")
        origin = request.headers.get("origin", "").lower()
        if origin and not {origin, "*"} & self._origins and origin.partition("//")[2] != host:
            raise Refusal(403, f"pages of {origin[:80]!r} may not ask", hint="--allow-origin ORIGIN", code="origin")


def _name(host: str) -> str:
    """A Host header without its port."""
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]


def _is_address(name: str) -> bool:
    try:
        return bool(ipaddress.ip_address(name))
    except ValueError:
        return False


def _answer(found: Refusal) -> Response:
    made = response(found)
    made.headers["connection"] = "close"
    return made


def hosts(bound: str, allowed: Iterable[str], has_keys: bool) -> set[str] | None:
    """The names of a server that listens at `bound`. A page that comes by another name has no key, and asks in vain."""
    return None if has_keys and not allowed else {"localhost", bound, *allowed}
