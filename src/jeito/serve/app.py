"""The routes of `jeito serve`. Knows HTTP; what a request means is asked.py's, what is said to it reply.py's."""

import asyncio
import hmac
import json
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from jeito.errors import JeitoError, LogError
from jeito.serve.asked import Asked, understand
from jeito.serve.catalogue import Catalogue
from jeito.serve.fields import read
from jeito.serve.metrics import Metrics
from jeito.serve.refusal import Refusal, refusal, response, shape
from jeito.serve.reply import Json, Reply, failed, shown
from jeito.serve.work import Desk
from jeito.trace.log import Log

PATIENCE = 30.0
"""Seconds that a body may take to come."""
OPEN = ("/health", "/ready")


class Server:
    """One process's models, queues and counts."""

    def __init__(
        self, catalogue: Catalogue, *, keys: list[str], log: Log | None, lenient: bool = False, queue: int = 64,
        body: int = 1_000_000,
    ) -> None:  # fmt: skip
        self.catalogue, self.log, self.lenient, self.body = catalogue, log, lenient, body
        self.metrics = Metrics()
        self.models = list({id(one.model): one.model for one in catalogue.served.values()}.values())
        self._desks = {model.name: Desk(model.card.slots, queue, self.metrics, self._ended) for model in self.models}
        self._keys = [key.encode() for key in keys]
        self._began = int(time.time())

    def app(self) -> Starlette:
        routes = [
            Route("/health", self.health),
            Route("/ready", self.health),
            Route("/metrics", self.page_of_metrics),
            Route("/v1/models", self.list_models),
            Route("/v1/models/{id:path}", self.one_model),
            Route("/v1/chat/completions", self.chat, methods=["POST"]),
            Route("/v1/jeito/receipt/{id}", self.receipt),
        ]
        made = Starlette(
            routes=[Route(one.path, self._guarded(one.endpoint), methods=one.methods) for one in routes],
            exception_handlers={
                HTTPException: self._refuse,
                JeitoError: self._refuse,
                Exception: self._refuse,
                ClientDisconnect: self._left,
            },
        )
        return made

    def _guarded(self, endpoint: Any) -> Any:
        """Keys are asked for, and answers counted."""

        async def guarded(request: Request) -> Response:
            if self._keys and request.url.path not in OPEN:
                self._check_key(request)
            made: Response = await endpoint(request)
            self.metrics.requests[made.status_code] += 1
            return made

        return guarded

    def _check_key(self, request: Request) -> None:
        given = request.headers.get("authorization", "").removeprefix("Bearer ").strip().encode()
        # All of them are compared, so that the time says nothing.
        if not sum(hmac.compare_digest(given, key) for key in self._keys):
            raise Refusal(401, "this key opens nothing here", hint="Authorization: Bearer KEY", code="invalid_api_key")

    async def _refuse(self, request: Request, error: Exception) -> Response:
        if isinstance(error, JeitoError):
            found = refusal(error)
        elif isinstance(error, HTTPException):
            hint = "docs/serve.md lists the routes" if error.status_code == 404 else ""
            found = Refusal(error.status_code, f"{request.method} {request.url.path}: {error.detail}", hint=hint)
        else:
            found = Refusal(500, "the server failed; its own output says how")
        self.metrics.requests[found.status] += 1
        return response(found)

    async def _left(self, request: Request, error: Exception) -> Response:
        return Response(status_code=499)  # nobody reads it

    async def health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def page_of_metrics(self, request: Request) -> Response:
        desks, models = self._desks.values(), self.models
        page = self.metrics.text(
            queue=sum(len(desk.waiting) for desk in desks),
            running=sum(len(desk.running) for desk in desks),
            active_slots=sum(len(model.decoder.active) for model in models),
            slots=sum(model.card.slots for model in models),
        )
        return PlainTextResponse(page, media_type="text/plain; version=0.0.4")

    async def list_models(self, request: Request) -> Response:
        listed = [one.about(self._began) for one in self.catalogue.served.values()]
        return JSONResponse({"object": "list", "data": listed})

    async def one_model(self, request: Request) -> Response:
        return JSONResponse(self.catalogue.find(request.path_params["id"]).about(self._began))

    async def receipt(self, request: Request) -> Response:
        run = request.path_params["id"].removeprefix("chatcmpl-")
        try:
            trace = await run_in_threadpool(self.log.get, run) if self.log else None
        except LogError:
            trace = None
        if trace is None or trace.id != run:
            raise Refusal(404, f"the log has no run {run!r}", hint="the id of a reply, or its jeito.run")
        return JSONResponse({"id": run, "receipt": shown(trace.receipt)})

    async def chat(self, request: Request) -> Response:
        body = await self._body(request)
        chat, unknown = await run_in_threadpool(read, body, lenient=self.lenient)
        asked = await run_in_threadpool(
            understand, chat, unknown, self.catalogue, log=self.log, lenient=self.lenient
        )  # fmt: skip
        headers = {"x-jeito-left-out": ", ".join(unknown).encode("ascii", "replace").decode()} if unknown else {}
        client = request.headers.get("authorization") or (request.client.host if request.client else "")
        events = self._events(asked, client, request.receive)
        first = await anext(events)  # what is refused has a status: nothing was sent
        if chat.stream:
            return Stream(first, events, headers)
        await events.aclose()
        return JSONResponse(first, headers=headers)

    async def _body(self, request: Request) -> bytes:
        parts: list[bytes] = []
        size = int(request.headers.get("content-length") or 0)
        try:
            async with asyncio.timeout(PATIENCE):
                async for part in request.stream():
                    parts.append(part)
                    size = max(size, sum(map(len, parts)))
                    if size > self.body:
                        hint = "a shorter conversation, or --body"
                        raise Refusal(413, f"the body has over {self.body:,} bytes", hint=hint)
        except TimeoutError as error:
            raise Refusal(408, f"the body did not come within {PATIENCE:g} seconds") from error
        return b"".join(parts)

    async def _events(self, asked: Asked, client: str, receive: Receive) -> AsyncGenerator[Json]:
        """The chunks of a reply, or the one whole one. To be closed."""
        reply, began, streams = Reply(asked), time.monotonic(), asked.chat.stream
        is_first = True
        async with aclosing(self._desks[asked.served.model.name].serve(asked, client, receive)) as replies:
            async for heard in replies:
                if heard == "begun":
                    for chunk in reply.begun() if streams else ():
                        yield chunk
                    continue
                if is_first:
                    is_first = False
                    self.metrics.first_token.add(time.monotonic() - began)
                if streams and (piece := reply.piece(*heard)):
                    yield piece
        if why := failed(asked.runs):
            raise Refusal(500, f"the reply broke off: {why}")
        for chunk in reply.ended() if streams else (reply.whole(),):
            yield chunk

    def _ended(self, asked: Asked) -> None:
        for run in asked.runs:
            self.metrics.ended(run.trace)
            for loss in run.losses:
                print(loss, file=sys.stderr)


class Stream(Response):
    """Server-sent events: chunks as they come, then [DONE]; an error in its place where a reply broke off."""

    def __init__(self, first: Json, events: AsyncGenerator[Json], headers: dict[str, str]) -> None:
        super().__init__(media_type="text/event-stream", headers={"cache-control": "no-cache", **headers})
        del self.headers["content-length"]
        self._first, self._events = first, events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def say(text: str) -> None:
            data = f"data: {text}\n\n".encode()
            await send({"type": "http.response.body", "body": data, "more_body": True})

        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        with suppress(ClientDisconnect, OSError):
            async with aclosing(self._events) as events:
                try:
                    await say(json.dumps(self._first))
                    async for chunk in events:
                        await say(json.dumps(chunk))
                    await say("[DONE]")
                except JeitoError as error:
                    await say(json.dumps(shape(refusal(error))))
            await send({"type": "http.response.body", "body": b""})
