"""HTTP to servers that speak OpenAI's API: several addresses, patience, events as they come; nothing of replies."""

import json
import random
import socket
import threading
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from jeito.errors import ContextError, EngineError, InputError, ModelError

if TYPE_CHECKING:
    import httpx2

Json = dict[str, Any]
KEY_HINT = "JEITO_REMOTE_KEY=… in the environment"
_DIED = "it may have died: its own output says why"


class Patience(NamedTuple):
    """Seconds, and tries. What is tried again waits `first`, then twice that, … at most `longest`, give or take."""

    connect: float = 5.0
    silence: float = 180.0
    """Without one whole event: a long prompt on a slow machine says nothing for minutes. Tries end with it too."""
    tries: int = 6
    first: float = 0.5
    longest: float = 30.0


PATIENT = Patience()


@dataclass(slots=True, eq=False)
class Address:
    url: str
    busy: int = 0
    failures: int = 0
    """In a row."""
    rests_until: float = 0.0


@dataclass(slots=True, eq=False)
class Call:
    """One request under way. `left`: nobody waits for it any more. `tries`: what went wrong before it was taken."""

    left: threading.Event = field(default_factory=threading.Event)
    tries: list[str] = field(default_factory=list)
    url: str = ""
    _socket: socket.socket | None = None

    def leave(self) -> None:
        """From any thread: the server sees its client go, and whoever waits for it or reads stops."""
        self.left.set()
        if self._socket is not None:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def heard(self, event: str, info: Json) -> None:
        """httpx2 tells of each step: of a connection that was made, here is the socket."""
        if event.endswith(("connect_tcp.complete", "start_tls.complete")):
            self._socket = info["return_value"].get_extra_info("socket")
            if self.left.is_set():
                self.leave()


class _Again(Exception):
    """Not taken: to be tried again, after so many seconds if the server said so."""

    def __init__(self, why: str, hint: str, after: float | None = None) -> None:
        super().__init__(why)
        self.hint, self.after = hint, after


class Wire:
    """The addresses of one model. Safe to use from several threads."""

    def __init__(self, urls: list[str], key: str | None = None, patience: Patience = PATIENT) -> None:
        import httpx2

        self.addresses = [Address(url.rstrip("/")) for url in urls]
        self._key, self._patience = key, patience
        self._lock = threading.Lock()
        timeout = httpx2.Timeout(patience.silence, connect=patience.connect, pool=None)
        # A connection for each reply, so that whoever leaves ends it, while the server has not answered yet too.
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=0)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._client = httpx2.Client(headers=headers, timeout=timeout, limits=limits)

    def get(self, url: str, seconds: float = 10.0) -> tuple[int, Any]:
        """Status and JSON of a page, none where it is not JSON. Raises EngineError where nobody answers."""
        import httpx2

        try:
            answer = self._client.get(url, timeout=seconds)
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            why = f"nobody answers at {url}: {self._said(error)}"
            raise EngineError(why, hint=f"is it running? curl {url}") from error
        if answer.status_code in (401, 403):
            raise InputError(f"{url} wants a key, or another one: {answer.status_code}", hint=KEY_HINT)
        try:
            return answer.status_code, answer.json()
        except ValueError:
            return answer.status_code, None

    def stream(self, path: str, body: Json, call: Call) -> Generator[Json]:
        """The events of an answer, each a JSON object, of the least busy address; to be closed.

        What was refused for now, or broke off before its first event, is tried again. Raises JeitoError.
        """
        began = time.monotonic()
        for number in range(1, self._patience.tries + 1):
            with self._taken(call) as address:
                if call.left.is_set():
                    return
                try:
                    yield from self._once(address, path, body, call)
                    return
                except _Again as error:
                    why, hint = f"{address.url}: {error}", error.hint
                    self._rest(address, error.after)
                    call.tries.append(why)
            if number == self._patience.tries or time.monotonic() - began > self._patience.silence:
                times = f" ({number} tries)" if number > 1 else ""
                raise EngineError(f"{why}{times}", hint=hint)

    def close(self) -> None:
        self._client.close()

    @contextmanager
    def _taken(self, call: Call) -> Iterator[Address]:
        """The least busy address that does not rest; where all do, the first that will not, once it does not."""
        with self._lock:
            now = time.monotonic()
            awake = [one for one in self.addresses if one.rests_until <= now]
            address = min(awake, key=lambda one: one.busy) if awake else min(self.addresses, key=_rests_until)
            address.busy += 1
        call.url = address.url
        try:
            call.left.wait(max(0.0, address.rests_until - now))
            yield address
        finally:
            with self._lock:
                address.busy -= 1

    def _rest(self, address: Address, seconds: float | None) -> None:
        """Not to be asked for a while: as the server says, else longer each time; jitter keeps clients apart."""
        with self._lock:
            address.failures += 1
            longest = min(self._patience.longest, self._patience.first * 2 ** (address.failures - 1))
            pause = longest * random.uniform(0.5, 1.0) if seconds is None else seconds * random.uniform(1.0, 1.1)
            address.rests_until = time.monotonic() + pause

    def _once(self, address: Address, path: str, body: Json, call: Call) -> Iterator[Json]:
        import httpx2

        begun = False
        try:
            with self._client.stream(
                "POST", f"{address.url}{path}", json=body, extensions={"trace": call.heard}
            ) as answer:  # fmt: skip
                if call.left.is_set():
                    return
                self._check(answer, address)
                for event in self._events(answer, address):
                    begun = True
                    address.failures = 0
                    yield event
            if not begun and not call.left.is_set():
                raise _Again("an empty answer", _DIED)
        except httpx2.TimeoutException as error:
            is_open = isinstance(error, httpx2.ConnectTimeout)
            seconds = self._patience.connect if is_open else self._patience.silence
            why = f"no connection within {seconds:g} seconds" if is_open else f"nothing came for {seconds:g} seconds"
            self._broken(why, "is it overloaded? fewer at once: --slots 1", address, call, begun, error)
        except httpx2.HTTPError as error:
            why = f"{'the reply broke off' if begun else 'no reply'}: {self._said(error)}"
            hint = f"is it running? curl {address.url}/models"
            self._broken(why, hint, address, call, begun, error)

    def _broken(
        self, why: str, hint: str, address: Address, call: Call, begun: bool, error: Exception
    ) -> None:  # fmt: skip
        if call.left.is_set():
            return
        if not begun:
            raise _Again(why, hint) from error
        self._rest(address, None)
        raise EngineError(f"{address.url}: {why}", hint=hint) from error

    def _events(self, answer: "httpx2.Response", address: Address) -> Iterator[Json]:
        """Server-sent events, as JSON, up to [DONE], which not all servers send."""
        kind = answer.headers.get("content-type", "")
        if "text/event-stream" not in kind:
            said = self.hidden(answer.read()[:100].decode(errors="replace"))
            what = f"{address.url} does not stream, it answers {kind or 'nothing known'}: {said}"
            raise InputError(what, hint="an address like http://host:8000/v1")
        rest, last = b"", time.monotonic()
        for data in answer.iter_bytes():
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                if not line.startswith(b"data:"):
                    continue
                text = line[5:].strip()
                if text == b"[DONE]":
                    return
                last = time.monotonic()
                yield self._event(text, address)
            if time.monotonic() - last > self._patience.silence:
                # A byte now and then keeps a socket from being silent.
                what = f"{address.url}: no whole event for {self._patience.silence:g} seconds, though bytes came"
                raise EngineError(what, hint="what stands between here and the server? curl -N shows its bytes")

    def _event(self, text: bytes, address: Address) -> Json:
        try:
            found = json.loads(text)
        except ValueError as error:
            shown = self.hidden(text[:60].decode(errors="replace"))
            raise EngineError(
                f"{address.url} sent an event that is no JSON: {shown!r}", hint="jeito probe says what it can"
            ) from error
        if not isinstance(found, dict):
            raise EngineError(f"{address.url} sent an event that is no object: {str(found)[:60]!r}", hint="jeito probe")
        if "error" in found and "choices" not in found:
            raise EngineError(f"{address.url} failed in the middle of a reply: {self._message(found)}", hint=_DIED)
        return found

    def _check(self, answer: "httpx2.Response", address: Address) -> None:
        status = answer.status_code
        if status == 200:
            return
        data = answer.read()
        try:
            message = self._message(json.loads(data))
        except ValueError:
            message = self.hidden(data[:100].decode(errors="replace"))
        raise self._error(status, message, answer.headers, address)

    def _error(self, status: int, message: str, headers: Mapping[str, str], address: Address) -> Exception:
        where = f"{address.url} answers {status}: {message}"
        if status == 429 or status >= 500:
            after = _seconds(headers.get("retry-after"))
            if after is not None and after > 2 * self._patience.longest:
                return EngineError(where, hint=f"it says to come back in {after:g} seconds")
            hint = "fewer at once: --slots 1" if status == 429 else "its own output says why"
            return _Again(f"it answers {status}: {message}", hint, after)
        if status in (401, 403):
            return InputError(f"{address.url} wants a key, or another one: {status}", hint=KEY_HINT)
        if status == 404:
            return ModelError(where, hint=f"curl {address.url}/models lists what it serves")
        if "context" in message.lower() and status in (400, 413, 422):
            return ContextError(f"{address.url}: {message}", hint="a shorter prompt, or a server with a longer context")
        return InputError(where, hint="jeito probe says what it honours")

    def _message(self, body: Any) -> str:
        """A server's own words, in whatever shape it says them."""
        found = body.get("error", body) if isinstance(body, dict) else body
        found = found.get("message", found) if isinstance(found, dict) else found
        return self.hidden(str(found))[:300]

    def _said(self, error: Exception) -> str:
        return self.hidden(str(error)) or type(error).__name__

    def hidden(self, text: str) -> str:
        """Some servers say the key back to whom they refuse."""
        return text.replace(self._key, "…") if self._key else text


def _rests_until(address: Address) -> float:
    return address.rests_until


def _seconds(header: str | None) -> float | None:
    """Retry-After in seconds; a date is left to our own patience."""
    try:
        return max(0.0, float(header)) if header else None
    except ValueError:
        return None
