"""A model behind a server that speaks OpenAI's API, and in several places at once. Never sees logits."""

import hashlib
import json
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import Empty, SimpleQueue
from typing import Any

from pydantic import ValidationError

from jeito.engines.base import SAMPLING_KNOBS
from jeito.engines.chat_reply import Reading
from jeito.engines.chat_request import Asked, asked
from jeito.engines.servers import Seen, Server
from jeito.engines.verdicts import lacking, notes, recall
from jeito.engines.wire import Call, Wire
from jeito.errors import EngineError, JeitoError, UnsupportedError
from jeito.types import End, Event, Exact, Request, Sourced, Start

MOST = 128
"""Threads that read replies: more at once than that is another server's work."""
_ALIKE = ("logprobs", "tools", "tool_choice", "parallel_calls", "reasoning.budget", "guard.repetition", "guard.empty")
"""Abilities that are called as their fields are."""
_GLANCE = 0.1
"""Seconds between looks at whether anybody still waits."""


class Remote:
    """One model of a server. Safe to use from several threads; `slots` replies run at once, the others wait."""

    def __init__(
        self, name: str, wire: Wire, seen: Seen, server: Server, listed: Mapping[str, Any], *, slots: int
    ) -> None:  # fmt: skip
        self.name, self.slots, self.seen = name, min(slots, MOST), seen
        self.served = str(listed["id"])
        self._server, self._wire = server, wire
        self._own: dict[str, Any] = listed.get("jeito") or {}
        self._known = [
            one for address in wire.addresses for one in recall(address.url, self.served, seen.version).values()
        ]
        # A second jeito's adapters and vectors are files of its own: ours are not there.
        claimed = frozenset(self._own["abilities"]) - {"adapters", "steering"} if self._own else abilities(server)
        self.abilities = claimed - lacking(self._known)
        self.defaults = _defaults(self._own)
        self.context = _context(listed)
        self.has_system: bool | None = None
        """Has the template a place for an instruction? Nobody sees it."""
        self._said = {key: listed[key] for key in ("root", "meta", "max_model_len") if key in listed}
        self._pool = ThreadPoolExecutor(self.slots, thread_name_prefix="remote")

    @property
    def active(self) -> int:
        """Replies under way."""
        return sum(address.busy for address in self._wire.addresses)

    @property
    def fingerprint(self) -> str:
        """A second jeito's is its model's own; of others, a digest of all that they say of themselves."""
        if self._own:
            return str(self._own["model_fingerprint"])
        said = {"model": self.served, "kind": self.seen.kind, "version": self.seen.version, "said": self._said}
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()

    def environment(self) -> dict[str, Any]:
        return {
            "engine": "remote",
            "server": self.seen.kind,
            "server_version": self.seen.version,
            "served": self.served,
            "addresses": [address.url for address in self._wire.addresses],
            "slots": self.slots,
        }

    def stream(self, request: Request, is_left: Callable[[], bool] | None = None) -> Generator[Event]:
        """Events as they come. The request is sent at once, or when a slot is free; a `Start` may come before that.

        Raises UnsupportedError before anything is sent, and JeitoError for what the server refuses or breaks off.
        """
        body = asked(request, self._server, self.served)
        call, heard = Call(), SimpleQueue[Event | JeitoError | None]()
        work = self._pool.submit(self._work, request, body, call, heard)
        try:
            if self._server.kind != "jeito":
                yield self._start(request, body)
            while (event := _next(heard, is_left)) is not None:
                if isinstance(event, JeitoError):
                    raise event
                yield event
                if isinstance(event, End):
                    return
        finally:
            work.cancel()
            call.leave()

    def start(self, request: Request) -> Start:
        """What is known of a reply before it is asked for; nothing is sent. Raises UnsupportedError."""
        return self._start(request, asked(request, self._server, self.served))

    def written(self, ids: Sequence[int]) -> str:
        raise UnsupportedError("a server's tokens cannot be read here", hint="send the text")

    def hurry(self) -> None:
        """Nothing to do: the server hears of who has left when its connection ends."""

    def _work(self, request: Request, body: Asked, call: Call, heard: SimpleQueue[Event | JeitoError | None]) -> None:
        """In a thread of its own, so that no reply waits for another to be read."""
        reading = Reading(request)
        try:
            for chunk in self._wire.stream("/chat/completions", body.body, call):
                for event in reading.events(chunk):
                    heard.put(event)
            if not call.left.is_set():
                heard.put(reading.end(call.url, self._notes(call)))
        except JeitoError as error:
            heard.put(error)
        except Exception as error:  # the edge of a thread: whoever waits must hear of it
            heard.put(EngineError(f"{call.url}: {error!r}", hint="please report it"))
        finally:
            heard.put(None)

    def _notes(self, call: Call) -> list[str]:
        notes = [f"answered by {call.url}"] if len(self._wire.addresses) > 1 else []
        return notes + [f"tried again: {why}" for why in call.tries]

    def _start(self, request: Request, body: Asked) -> Start:
        said = {name: body.body[name] for name in ("messages", "tools") if name in body.body}
        return Start(
            template="the server's",
            placement=request.placement,
            prompt=None,
            prompt_digest=hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest(),
            tokens=None,
            exact=Exact(asked=request.sampling.exact, why=f"{self.seen.kind} promises nothing"),
            notes=(*body.notes, *notes(self._known, self._server, request.sampling)),
        )

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._wire.close()


def _next(heard: SimpleQueue[Any], is_left: Callable[[], bool] | None) -> Any:
    if is_left is None:
        return heard.get()
    while not is_left():
        try:
            return heard.get(timeout=_GLANCE)
        except Empty:
            continue
    return End(finish="cancelled")


def abilities(server: Server) -> frozenset[str]:
    """What a kind can honour, as far as its table says."""
    knobs = {knob for knob in SAMPLING_KNOBS if server.can(knob)}
    fields = server.fields
    others = {
        "contract": any(path.startswith("output.") for path in fields),
        "a place for tools": "tools" in fields,
        **{path: path in fields for path in _ALIKE},
        "repair": True,  # which asks again, and is done here
        "reasoning.show": True,  # of what the server tells apart as such
    }
    return frozenset(knobs | {ability for ability, has in others.items() if has})


def _defaults(own: Mapping[str, Any]) -> dict[str, Sourced]:
    try:
        return {knob: Sourced.model_validate(sourced) for knob, sourced in own.get("defaults", {}).items()}
    except ValidationError as error:
        raise EngineError(f"the server's defaults cannot be read: {error}", hint="is it as new as this one?") from error


def _context(listed: Mapping[str, Any]) -> int | None:
    """Tokens, where the server says it: jeito, vLLM and llama-server each in a place of its own."""
    places = (listed.get("jeito"), "context"), (listed, "max_model_len"), (listed.get("meta"), "n_ctx")
    found: Sequence[Any] = [place.get(name) for place, name in places if isinstance(place, Mapping)]
    return next((count for count in found if isinstance(count, int)), None)
