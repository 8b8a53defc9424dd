"""What a server counts, as Prometheus reads it. Belongs to the event loop; knows nothing of requests but numbers."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from typing import Any

from jeito.types import Trace

BOUNDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Seconds."""


class Histogram:
    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.sum = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.sum += seconds

    def lines(self, name: str) -> Iterator[str]:
        total = 0
        for bound, count in zip((*BOUNDS, "+Inf"), self.counts, strict=True):
            total += count
            yield f'{name}_bucket{{le="{bound}"}} {total}'
        yield f"{name}_sum {self.sum:.6f}"
        yield f"{name}_count {total}"


class Metrics:
    """`requests` by status, `finishes` of replies, `tokens` by kind."""

    def __init__(self) -> None:
        self.requests: Counter[Any] = Counter()
        self.finishes: Counter[Any] = Counter()
        self.tokens: Counter[Any] = Counter({"prompt": 0, "cached": 0, "generated": 0, "forced": 0})
        self.left = 0
        self.first_token = Histogram()
        self._seconds: list[float] = [1.0]

    def ended(self, trace: Trace) -> None:
        usage = trace.usage
        self.finishes[trace.finish or "error"] += 1
        self._seconds = [*self._seconds[-99:], trace.seconds.total]
        self.tokens.update(
            prompt=usage.prompt, cached=usage.cached or 0, generated=usage.generated, forced=usage.forced
        )

    def usual_seconds(self) -> float:
        """How long the last replies took, in the mean."""
        return sum(self._seconds) / len(self._seconds)

    def text(self, **now: int) -> str:
        """The page of /metrics; `now`: what is counted elsewhere."""
        refused = sum(count for status, count in self.requests.items() if status >= 400)
        counters = {"refusals_total": refused, "clients_left_total": self.left}
        families = {"requests": ("status", self.requests), "replies": ("finish", self.finishes)}
        lines = [line for name, value in counters.items() for line in _one(name, "counter", value)]
        lines += [line for name, value in now.items() for line in _one(name, "gauge", value)]
        for name, (label, counts) in {**families, "tokens": ("kind", self.tokens)}.items():
            lines.append(f"# TYPE jeito_{name}_total counter")
            lines += [f'jeito_{name}_total{{{label}="{key}"}} {count}' for key, count in counts.items()]
        lines.append("# TYPE jeito_first_token_seconds histogram")
        return "\n".join([*lines, *self.first_token.lines("jeito_first_token_seconds"), ""])


def _one(name: str, kind: str, value: int) -> list[str]:
    return [f"# TYPE jeito_{name} {kind}", f"jeito_{name} {value}"]
