"""A server process: its socket, its thread, its end. Knows nothing of routes."""

import asyncio
import ipaddress
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from jeito.errors import InputError
from jeito.serve.door import Door

if TYPE_CHECKING:
    import uvicorn


def bind(host: str, port: int, *, has_keys: bool) -> socket.socket:
    """A socket that takes no connections yet; raises InputError for an address that is taken, or open to all."""
    if not has_keys and not _is_loopback(host):
        raise InputError(f"{host} is open to others, and there are no keys", hint="--keys FILE, one key a line")
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        made = socket.socket(family)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host, port))
    except (OSError, OverflowError) as error:
        made.close()
        raise InputError(f"{host}:{port} cannot be served: {error}", hint="--port 0 takes a free one") from error
    return made


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Serving:
    """A door that is being served, in a thread of its own: so it answers while models load in the main one."""

    def __init__(self, door: Door, bound: socket.socket, *, drain: float = 0) -> None:
        self._door, self._seconds = door, drain
        self._server = _server(door)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, args=(bound,), name="server")
        bound.listen(2048)
        self._thread.start()

    def _run(self, bound: socket.socket) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._server.serve(sockets=[bound]))

    def drain(self) -> None:
        """Take no more, give what runs its time, and end. At once, for any thread or signal."""

        async def drained() -> None:
            await self._door.drain(self._seconds)
            self._server.should_exit = True

        asyncio.run_coroutine_threadsafe(drained(), self._loop)

    def stop(self) -> None:
        """End now; what runs is broken off."""
        self._server.should_exit = True
        self.wait()

    def wait(self) -> None:
        self._thread.join()


def _server(door: Door) -> "uvicorn.Server":
    import uvicorn

    return uvicorn.Server(
        uvicorn.Config(
            door, http="h11", ws="none", lifespan="off", log_level="warning", access_log=False,
            timeout_graceful_shutdown=1, server_header=False,
        )
    )  # fmt: skip


@contextmanager
def told_to_stop(serving: Serving) -> Iterator[None]:
    """While the block runs, SIGTERM drains."""
    before = signal.signal(signal.SIGTERM, lambda *_: serving.drain())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
