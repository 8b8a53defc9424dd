"""Where requests wait for a model, and the threads that they run in. All but `_work` belongs to the event loop.

A request whose client has gone leaves the queue at once; one that runs ends at its next step.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from jeito.decode.local import LocalModel
from jeito.run.run import together
from jeito.serve.asked import Asked
from jeito.serve.metrics import Metrics
from jeito.serve.refusal import Refusal
from jeito.types import Token

Begun = Literal["begun"]
Heard = tuple[int, Token] | Begun
"""A token with its run's place, or that every run is with the model."""
_LEFT, _LATE, _OVER = object(), object(), object()


@dataclass(slots=True, eq=False)
class Job:
    asked: Asked
    client: str
    heard: asyncio.Queue[Any] = field(default_factory=asyncio.Queue)
    came: float = field(default_factory=time.monotonic)


class Desk:
    """One model's queue: `places` requests run at once, `most` wait, the rest is refused.

    `ended` hears of each that has run, when its traces are whole and before its client knows.
    """

    def __init__(self, places: int, most: int, metrics: Metrics, ended: Callable[[Asked], None]) -> None:
        self.waiting: deque[Job] = deque()
        self.running: list[Job] = []
        self._places, self._most, self._metrics, self._told = places, most, metrics, ended
        self._pool = ThreadPoolExecutor(places, thread_name_prefix="reply")

    async def serve(self, asked: Asked, client: str, receive: Receive) -> AsyncGenerator[Heard]:
        """What the runs of a request say, as it comes. To be closed. Raises Refusal, ClientDisconnect, JeitoError."""
        job = Job(asked, client)
        self._take(job)
        watch = asyncio.create_task(_watch(receive, job))
        alarm = asyncio.get_running_loop().call_later(asked.term.rest or 0, job.heard.put_nowait, _LATE)
        if asked.term.rest is None:
            alarm.cancel()
        try:
            while (heard := await job.heard.get()) is not _OVER:
                if heard is _LEFT:
                    self._metrics.left += 1
                    raise ClientDisconnect
                if heard is _LATE:
                    self._late(job)
                    continue
                if isinstance(heard, BaseException):
                    raise heard
                yield heard
        finally:
            watch.cancel()
            alarm.cancel()
            asked.term.is_left = True
            _hurry(job)
            if job in self.waiting:
                self.waiting.remove(job)

    def _take(self, job: Job) -> None:
        if len(self.running) >= self._places and len(self.waiting) >= self._most:
            raise self._full(429, f"{len(self.waiting)} requests wait already", "queue_full")
        self.waiting.append(job)
        self._go_on()

    def _full(self, status: int, what: str, code: str) -> Refusal:
        seconds = self._metrics.usual_seconds() * (len(self.waiting) + 1) / self._places
        return Refusal(status, what, hint="try again later", code=code, retry_after=max(1, round(seconds)))

    def _late(self, job: Job) -> None:
        """Its deadline has passed: what waits is refused, what runs is to end."""
        if job in self.waiting:
            raise self._full(503, f"it waited its {job.asked.term.seconds:g} seconds, and none was free", "deadline")
        _hurry(job)

    def _go_on(self) -> None:
        """Who has the fewest running comes first; among equals, who has waited longest."""
        while self.waiting and len(self.running) < self._places:
            busy = Counter(job.client for job in self.running)
            job = min(self.waiting, key=lambda job: busy[job.client])
            self.waiting.remove(job)
            self.running.append(job)
            self._metrics.queue.add(time.monotonic() - job.came)
            loop = asyncio.get_running_loop()
            loop.run_in_executor(self._pool, _work, job, loop).add_done_callback(partial(self._ended, job))

    def _ended(self, job: Job, _: object) -> None:
        self.running.remove(job)
        self._told(job.asked)
        job.heard.put_nowait(_OVER)
        self._go_on()


async def _watch(receive: Receive, job: Job) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    job.heard.put_nowait(_LEFT)


def _hurry(job: Job) -> None:
    """Where the model computes its prompt, that ends now; its term, which is over, does the rest."""
    model = job.asked.served.model
    if isinstance(model, LocalModel):
        model.hurry()


def _work(job: Job, loop: asyncio.AbstractEventLoop) -> None:
    """In a thread: run it all, and say what comes."""

    def say(what: object) -> None:
        loop.call_soon_threadsafe(job.heard.put_nowait, what)

    asked = job.asked
    try:
        for run in asked.runs:
            if not asked.term.is_left:
                run.start()
        say("begun")
        is_first = True
        for heard in together(asked.runs):
            if asked.term.is_left:
                break
            if is_first or asked.chat.stream:  # who waits for the whole needs no word of its parts
                say(heard)
            is_first = False
    except Exception as error:  # the edge of a thread: whoever waits for it is told
        say(error)
    finally:
        for run in asked.runs:
            run.close()
