"""The routes of `jeito serve`. Knows HTTP; what a request means is asked.py's, what is said to it reply.py's."""

import sys
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Receive

from jeito.decode.local import LocalModel
from jeito.errors import JeitoError
from jeito.serve.asked import Asked, understand
from jeito.serve.catalogue import Catalogue
from jeito.serve.endpoints import ENDPOINTS, EXPLAIN, Endpoint
from jeito.serve.explain import explained
from jeito.serve.fields import read
from jeito.serve.keys import Key, Keys
from jeito.serve.metrics import Metrics
from jeito.serve.openapi import document
from jeito.serve.refusal import Refusal, refusal, response
from jeito.serve.reply import Json, Reply, failed, shown
from jeito.serve.respond_reply import response_kept
from jeito.serve.term import Term
from jeito.serve.wire import Stream, body_of
from jeito.serve.work import Desk
from jeito.trace.log import Log
from jeito.types import Trace


class Server:
    """One process's models, queues and counts."""

    def __init__(
        self, catalogue: Catalogue, *, keys: Keys, log: Log | None, lenient: bool = False, queue: int = 64,
        body: int = 1_000_000, deadline: float | None = None, metrics: Metrics | None = None,
    ) -> None:  # fmt: skip
        self.catalogue, self.log, self.lenient, self.body = catalogue, log, lenient, body
        self.metrics = metrics or Metrics()
        self.models = list(catalogue.models.values())
        for model in self.models:
            if isinstance(model, LocalModel):
                model.stepped = self.metrics.step.add
        self._desks = {model.name: Desk(model.slots, queue, self.metrics, self._ended) for model in self.models}
        self._keys, self._deadline = keys, deadline
        keys.check(one.label for one in catalogue.served.values())
        self._began = int(time.time())

    def app(self) -> Starlette:
        routes = [
            Route("/metrics", self.page_of_metrics),
            Route("/v1/models", self.list_models),
            Route("/v1/models/{id:path}", self.one_model),
            Route("/v1/responses/{id}", self.response),
            Route("/v1/jeito/receipt/{id}", self.receipt),
            Route("/openapi.json", self.described),
            Route(EXPLAIN, self.explain, methods=["POST"]),
            *(Route(path, partial(self.reply, one), methods=["POST"]) for path, one in ENDPOINTS.items()),
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
            key = request.scope["jeito.key"] = self._keys.of(request.headers.get("authorization", ""))
            if key is not None and request.method == "POST":
                key.count()
            made: Response = await endpoint(request)
            self.metrics.requests[made.status_code] += 1
            return made

        return guarded

    async def _refuse(self, request: Request, error: Exception) -> Response:
        if isinstance(error, JeitoError):
            found = refusal(error)
        elif isinstance(error, HTTPException):
            hint = "docs/serve.md lists the routes" if error.status_code == 404 else ""
            found = Refusal(error.status_code, f"{request.method} {request.url.path}: {error.detail}", hint=hint)
        else:
            found = Refusal(500, "the server failed; its own output says how")
        self.metrics.refused(found)
        return response(found)

    async def _left(self, request: Request, error: Exception) -> Response:
        return Response(status_code=499)  # nobody reads it

    async def page_of_metrics(self, request: Request) -> Response:
        desks, models = self._desks.values(), self.models
        page = self.metrics.text(
            queue=sum(len(desk.waiting) for desk in desks),
            running=sum(len(desk.running) for desk in desks),
            active_slots=sum(model.active for model in models),
            slots=sum(model.slots for model in models),
        )
        return PlainTextResponse(page, media_type="text/plain; version=0.0.4")

    async def list_models(self, request: Request) -> Response:
        def listed() -> list[Json]:
            return [one.about(self._began, self.log) for one in self._seen(request).served.values()]

        return JSONResponse({"object": "list", "data": await run_in_threadpool(listed)})

    async def one_model(self, request: Request) -> Response:
        def about() -> Json:
            return self._seen(request).find(request.path_params["id"]).about(self._began, self.log)

        return JSONResponse(await run_in_threadpool(about))

    def _seen(self, request: Request) -> Catalogue:
        """What is open to whoever asks, as its files are now."""
        key: Key | None = request.scope["jeito.key"]
        return self.catalogue.seen(key.behaviours if key else None)

    async def receipt(self, request: Request) -> Response:
        _, trace = await run_in_threadpool(self._kept, request)
        return JSONResponse({"id": trace.id, "receipt": shown(trace.receipt)})

    async def response(self, request: Request) -> Response:
        served, trace = await run_in_threadpool(self._kept, request)
        return JSONResponse(response_kept(trace, served))

    def _kept(self, request: Request) -> tuple[str, Trace]:
        id: str = request.path_params["id"]
        found = self._seen(request).kept(self.log, id)
        if found is None:
            raise Refusal(404, f"the log has no run {id[:60]!r}", hint="the id of a reply, or its jeito.run")
        return found

    async def described(self, request: Request) -> Response:
        return JSONResponse(document())

    async def explain(self, request: Request) -> Response:
        asked, headers = await self._asked(request, ENDPOINTS["/v1/chat/completions"])
        return JSONResponse(await run_in_threadpool(explained, asked), headers=headers)

    async def reply(self, endpoint: Endpoint, request: Request) -> Response:
        asked, headers = await self._asked(request, endpoint)
        client = request.headers.get("authorization") or (request.client.host if request.client else "")
        reply = endpoint.reply(asked)
        events = self._events(reply, asked, client, request.receive)
        first = await anext(events)  # what is refused has a status: nothing was sent
        if asked.chat.stream:
            return Stream(reply, first, events, headers)
        await events.aclose()
        return JSONResponse(first, headers=headers)

    async def _asked(self, request: Request, endpoint: Endpoint) -> tuple[Asked, dict[str, str]]:
        """A request, understood, and the headers that its answer gets."""
        term = Term(self._deadline)
        body = await body_of(request, self.body)

        def heard() -> tuple[Asked, list[str]]:
            found, unknown = read(body, endpoint.fields, lenient=self.lenient)
            seen = self._seen(request)
            return understand(found, unknown, seen, log=self.log, lenient=self.lenient, term=term), unknown

        asked, unknown = await run_in_threadpool(heard)
        left_out = ", ".join(unknown).encode("ascii", "backslashreplace").decode()
        return asked, {"x-jeito-left-out": left_out} if unknown else {}

    async def _events(self, reply: Reply, asked: Asked, client: str, receive: Receive) -> AsyncGenerator[Json]:
        """The chunks of a reply, or the one whole one. To be closed."""
        began, streams = time.monotonic(), asked.chat.stream
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
                for chunk in reply.piece(*heard) if streams else ():
                    yield chunk
        if why := failed(asked.runs):
            raise Refusal(500, f"the reply broke off: {why}")
        for chunk in reply.ended() if streams else (reply.whole(),):
            yield chunk

    def _ended(self, asked: Asked) -> None:
        for run in asked.runs:
            self.metrics.ended(run.trace)
            for loss in run.losses:
                print(loss, file=sys.stderr)
