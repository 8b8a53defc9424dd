"""How long a reply has: until its client has gone, or its time is over. Read by any thread."""

import time
from dataclasses import dataclass, field


@dataclass(slots=True, eq=False)
class Term:
    """`seconds` from when the request came; none: as long as it takes."""

    seconds: float | None = None
    is_left: bool = False
    begun: float = field(default_factory=time.monotonic)

    def limit(self, seconds: float | None) -> None:
        """Make it no longer than this."""
        if seconds is not None:
            self.seconds = min(seconds, self.seconds or seconds)

    @property
    def rest(self) -> float | None:
        """Seconds that are left of it."""
        return None if self.seconds is None else self.begun + self.seconds - time.monotonic()

    @property
    def is_late(self) -> bool:
        return self.rest is not None and self.rest <= 0

    def is_over(self) -> bool:
        return self.is_left or self.is_late

    @property
    def why(self) -> str:
        return f"deadline: {self.seconds:g} seconds"
