"""What a server counts, as Prometheus reads it. Belongs to the event loop; knows nothing of requests but numbers."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from threading import Lock
from typing import Any

from jeito.serve.refusal import Refusal
from jeito.types import Trace

BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Seconds."""


class Histogram:
    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.sum = 0.0
        self._lock = Lock()

    def add(self, seconds: float) -> None:
        """From any thread."""
        with self._lock:
            self.counts[bisect_left(BOUNDS, seconds)] += 1
            self.sum += seconds

    def lines(self, name: str) -> Iterator[str]:
        total = 0
        yield f"# TYPE {name} histogram"
        for bound, count in zip((*BOUNDS, "+Inf"), self.counts, strict=True):
            total += count
            yield f'{name}_bucket{{le="{bound}"}} {total}'
        yield f"{name}_sum {self.sum:.6f}"
        yield f"{name}_count {total}"


class Metrics:
    """`requests` by status, `refusals` by reason, `finishes` of replies, `tokens` by kind."""

    def __init__(self) -> None:
        self.requests: Counter[Any] = Counter()
        self.refusals: Counter[Any] = Counter()
        self.finishes: Counter[Any] = Counter()
        self.tokens: Counter[Any] = Counter({"prompt": 0, "cached": 0, "generated": 0, "forced": 0})
        self.left = 0
        self.first_token, self.queue, self.step = Histogram(), Histogram(), Histogram()
        self._seconds: list[float] = [1.0]

    def refused(self, found: Refusal) -> None:
        self.requests[found.status] += 1
        self.refusals[found.reason] += 1

    def ended(self, trace: Trace) -> None:
        usage = trace.usage
        self.finishes[trace.finish or "error"] += 1
        self._seconds = [*self._seconds[-99:], trace.seconds.total]
        self.tokens.update(
            prompt=usage.prompt or 0, cached=usage.cached or 0, generated=usage.generated, forced=usage.forced
        )

    def usual_seconds(self) -> float:
        """How long the last replies took, in the mean."""
        return sum(self._seconds) / len(self._seconds)

    def text(self, **now: int) -> str:
        """The page of /metrics; `now`: what is counted elsewhere."""
        families = {"requests": ("status", self.requests), "replies": ("finish", self.finishes)}
        families |= {"refusals": ("reason", self.refusals)}
        lines = _one("clients_left_total", "counter", self.left)
        lines += [line for name, value in now.items() for line in _one(name, "gauge", value)]
        for name, (label, counts) in {**families, "tokens": ("kind", self.tokens)}.items():
            lines.append(f"# TYPE jeito_{name}_total counter")
            lines += [f'jeito_{name}_total{{{label}="{key}"}} {count}' for key, count in counts.items()]
        for name in ("first_token", "queue", "step"):
            lines += getattr(self, name).lines(f"jeito_{name}_seconds")
        return "\n".join([*lines, ""])


def _one(name: str, kind: str, value: int) -> list[str]:
    return [f"# TYPE jeito_{name} {kind}", f"jeito_{name} {value}"]
