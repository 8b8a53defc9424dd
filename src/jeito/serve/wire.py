"""A body in, and server-sent events out. Knows nothing of models."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from jeito.errors import JeitoError
from jeito.serve.refusal import Refusal, refusal
from jeito.serve.reply import Json, Reply

PATIENCE = 30.0
"""Seconds that a body may take to come."""


async def body_of(request: Request, most: int) -> bytes:
    """The whole body, of at most so many bytes; raises Refusal."""
    parts: list[bytes] = []
    size = int(request.headers.get("content-length") or 0)
    try:
        async with asyncio.timeout(PATIENCE):
            async for part in request.stream():
                parts.append(part)
                size = max(size, sum(map(len, parts)))
                if size > most:
                    hint = "a shorter conversation, or --body"
                    raise Refusal(413, f"the body has over {most:,} bytes", hint=hint)
    except TimeoutError as error:
        raise Refusal(408, f"the body did not come within {PATIENCE:g} seconds") from error
    return b"".join(parts)


class Stream(Response):
    """Chunks as they come, then what ends a stream; an error in its place where a reply broke off."""

    def __init__(
        self, reply: Reply, first: Json, events: AsyncGenerator[Json], headers: dict[str, str]
    ) -> None:  # fmt: skip
        super().__init__(media_type="text/event-stream", headers={"cache-control": "no-cache", **headers})
        del self.headers["content-length"]
        self._reply, self._first, self._events = reply, first, events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def say(text: str, kind: str | None = None) -> None:
            data = f"{f'event: {kind}' + chr(10) if kind else ''}data: {text}\n\n".encode()
            await send({"type": "http.response.body", "body": data, "more_body": True})

        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        with suppress(ClientDisconnect, OSError):
            async with aclosing(self._events) as events:
                try:
                    await say(json.dumps(self._first), self._first.get("type"))
                    async for chunk in events:
                        await say(json.dumps(chunk), chunk.get("type"))
                    if self._reply.done:
                        await say(self._reply.done)
                except JeitoError as error:
                    said = self._reply.failed(refusal(error))
                    await say(json.dumps(said), said.get("type"))
            await send({"type": "http.response.body", "body": b""})
