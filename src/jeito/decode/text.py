"""Tokens' bytes to text that is safe to show: no character is split, no stop string gets out."""

import codecs
from collections.abc import Sequence


class TextStream:
    """Feed it bytes; it gives back what can no longer change. After a stop string nothing more comes."""

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self._stops = tuple(stops)
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = ""
        self.stopped: str | None = None
        """The stop string that ended the text."""

    def push(self, data: bytes) -> str:
        """The text that became safe with these bytes."""
        if self.stopped is not None:
            return ""
        self._held += self._decoder.decode(data)
        # The first to be complete, so that it does not matter how the text was cut; of several, the longest.
        found = [(self._held.find(stop) + len(stop), -len(stop), stop) for stop in self._stops if stop in self._held]
        if found:
            end, size, self.stopped = min(found)
            safe, self._held = self._held[: end + size], ""
            return safe
        return self._release(self._longest_start())

    def _longest_start(self) -> int:
        """How many of the last characters could be the start of a stop string."""
        longest = max((len(stop) - 1 for stop in self._stops), default=0)
        for size in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-size:]) for stop in self._stops):
                return size
        return 0

    def _release(self, keep: int) -> str:
        cut = len(self._held) - keep
        safe, self._held = self._held[:cut], self._held[cut:]
        return safe

    def finish(self) -> str:
        """What was held back for a stop string that never came; an unfinished character is dropped."""
        return self._release(0)
