"""What was already said makes tokens less likely: repetition, presence, frequency, DRY. Counts grow token by token.

Changes logits in place at the few tokens concerned; knows nothing of temperature, cuts or noise.
"""

from collections import deque
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from jeito.types import Dry

Floats = NDArray[np.float32]
Ids = NDArray[np.intp]

LARGEST = 1e37
"""Beyond any logit, and far enough from float32's end (3.4e38) that sums and products of penalties stay finite."""


class Tally:
    """How often each token occurs in a sequence, or in its last `window` tokens."""

    __slots__ = ("_counts", "_ids", "_recent", "_size", "_slots", "_window")

    def __init__(self, tokens: Sequence[int] = (), window: int | None = None) -> None:
        self._slots: dict[int, int] = {}
        self._ids = np.zeros(64, dtype=np.intp)
        self._counts = np.zeros(64, dtype=np.intp)
        self._size = 0
        self._window = window
        self._recent: deque[int] = deque()
        for token in tokens if window is None else tokens[max(0, len(tokens) - window) :]:
            self.add(token)

    def add(self, token: int) -> None:
        if self._window is not None:
            self._recent.append(token)
            if len(self._recent) > self._window:
                left = self._recent.popleft()
                if left == token:  # also with a window of 0, where the token itself leaves at once
                    return
                self._counts[self._slots[left]] -= 1
        slot = self._slots.get(token)
        if slot is None:
            slot = self._slots[token] = self._size
            self._size += 1
            if slot == self._ids.size:
                self._ids, self._counts = _doubled(self._ids), _doubled(self._counts)
            self._ids[slot] = token
        self._counts[slot] += 1

    def counted(self) -> tuple[Ids, Ids]:
        """(ids, how often each); no id twice."""
        ids, counts = self._ids[: self._size], self._counts[: self._size]
        if self._window is None:
            return ids, counts
        inside = np.flatnonzero(counts)
        return ids[inside], counts[inside]


class Suffixes:
    """For each earlier position, how long the text that ends there is also the end of all: what DRY looks at.

    A token whose text holds a breaker ends a match and is itself never penalised, as in text-generation-webui, where
    DRY comes from. Breakers that only several tokens together spell are not seen. Matches have no greatest length.
    """

    __slots__ = ("_breakers", "_breaks", "_dry", "_history", "_match", "_size", "_text")

    def __init__(self, dry: Dry, tokens: Sequence[int], text: Callable[[int], bytes]) -> None:
        self._dry = dry
        self._text = text
        self._breakers = [breaker.encode() for breaker in dry.breakers]
        self._breaks: dict[int, bool] = {}
        self._size = len(tokens)
        room = max(64, 2 * self._size)
        self._history = np.zeros(room, dtype=np.intp)
        self._history[: self._size] = tokens
        self._match = np.zeros(room, dtype=np.intp)
        self._match[: self._size] = self._matches(tokens)

    def add(self, token: int) -> None:
        """A match that goes on is one longer, every other begins anew."""
        size = self._size
        if size == self._history.size:
            self._history, self._match = _doubled(self._history), _doubled(self._match)
        if self._ends_match(token):
            self._match[:size] = 0
        else:
            self._match[1:size] = self._match[: max(size - 1, 0)]
            self._match[:1] = 0
            self._match[:size] += 1
            self._match[:size] *= self._history[:size] == token
        self._history[size] = token
        self._size += 1

    def penalties(self) -> tuple[Ids, Floats]:
        """(tokens that would prolong a repeated suffix, what each loses); the longest match of a token counts."""
        dry, size = self._dry, self._size
        start = 0 if dry.window < 0 else max(0, size - dry.window)
        lengths = self._match[start : max(size - 1, start)]
        at = np.flatnonzero(lengths >= dry.allowed_length)
        lengths = np.minimum(lengths[at], at + 1)  # a match reaches back to the window's edge at most
        follows = self._history[start + 1 + at]
        rising = lengths.argsort()  # in a dictionary the last one stays: the longest
        longest = dict(zip(follows[rising].tolist(), lengths[rising].tolist(), strict=True))
        longest = {
            token: length
            for token, length in longest.items()
            if length >= dry.allowed_length and not self._ends_match(token)
        }
        beyond = np.array(list(longest.values()), dtype=np.float64) - dry.allowed_length
        with np.errstate(over="ignore"):
            lost = np.minimum(dry.multiplier * dry.base**beyond, LARGEST)
        return np.array(list(longest), dtype=np.intp), lost.astype(np.float32)

    def _ends_match(self, token: int) -> bool:
        known = self._breaks.get(token)
        if known is None:
            text = self._text(token)
            known = self._breaks[token] = any(breaker in text for breaker in self._breakers)
        return known

    def _matches(self, tokens: Sequence[int]) -> list[int]:
        """The lengths for a whole text, in linear time: the Z-function of the text read backwards."""
        back = list(reversed(tokens))
        size = len(back)
        limit = next((i for i, token in enumerate(back) if self._ends_match(token)), size)
        lengths = [0] * size
        left = right = 0
        for i in range(1, size):
            length = min(right - i, lengths[i - left]) if i < right else 0
            while i + length < size and back[length] == back[i + length]:
                length += 1
            lengths[i] = length
            if i + length > right:
                left, right = i, i + length
        return [min(length, limit) for length in reversed(lengths)]


def add_bias(logits: Floats, ids: Ids, bias: Floats) -> None:
    old = logits[ids]
    _put(logits, ids, old, old + bias)


def repetition(logits: Floats, tally: Tally, penalty: float) -> None:
    """Hugging Face's rule: positive logits are divided, the others multiplied."""
    ids, _ = tally.counted()
    old = logits[ids]
    factor = np.float32(min(max(penalty, 1 / LARGEST), LARGEST))
    _put(logits, ids, old, np.where(old > 0, old / factor, old * factor))


def presence_and_frequency(logits: Floats, tally: Tally, presence: float, frequency: float) -> None:
    """OpenAI's rule; the tally is of the reply alone."""
    ids, counts = tally.counted()
    lost = np.clip(presence + frequency * counts, -LARGEST, LARGEST)
    old = logits[ids]
    _put(logits, ids, old, old - lost.astype(np.float32))


def dry(logits: Floats, suffixes: Suffixes) -> None:
    ids, lost = suffixes.penalties()
    if ids.size:
        old = logits[ids]
        _put(logits, ids, old, old - lost)


def _put(logits: Floats, ids: Ids, old: Floats, new: Floats) -> None:
    """A penalty forbids nothing, however large: what was finite stays finite, what was −inf stays −inf."""
    logits[ids] = np.where(old == -np.inf, old, np.clip(new, -LARGEST, LARGEST))


def _doubled(array: Ids) -> Ids:
    return np.concatenate([array, np.zeros_like(array)])
