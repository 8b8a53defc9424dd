"""A server process: its socket, its signals, its end. Knows nothing of routes."""

import ipaddress
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.applications import Starlette

from jeito.errors import InputError
from jeito.home import api_keys

if TYPE_CHECKING:
    import uvicorn


def keys(file: Path | None) -> list[str]:
    """The keys of a file, one a line, and of JEITO_KEYS; raises InputError for a file that has none."""
    if file is None:
        return api_keys()
    try:
        found = [line.strip() for line in file.read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the keys in {str(file)!r} cannot be read: {error}", hint="one key a line") from error
    if not found:
        raise InputError(f"{str(file)!r} holds no key", hint="one key a line")
    return found + api_keys()


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


def server(app: Starlette, *, drain: int) -> "uvicorn.Server":
    """A server that has not begun; told to stop, what runs then has `drain` seconds to end."""
    import uvicorn

    return uvicorn.Server(
        uvicorn.Config(
            app, loop="asyncio", http="h11", ws="none", lifespan="off", log_level="warning", access_log=False,
            timeout_graceful_shutdown=drain, server_header=False,
        )
    )  # fmt: skip


def serve(app: Starlette, bound: socket.socket, *, drain: int, begun: Callable[[], None]) -> None:
    """Answer until SIGTERM or an interrupt."""
    # uvicorn raises what it caught once more when all is over: an end that was asked for is no failure.
    signal.signal(signal.SIGTERM, lambda *_: None)
    bound.listen(2048)
    begun()
    server(app, drain=drain).run(sockets=[bound])
