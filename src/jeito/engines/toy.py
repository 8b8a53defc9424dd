"""A model that says what a function tells it to: for tests and the tutorial. No weights; letters are tokens."""

import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

import numpy as np

from jeito.engines.base import PLAIN, Card, Logits, Row, Shape, Tuning
from jeito.errors import EngineError, MemoryFull, UnsupportedError
from jeito.types import Adapter, Steering

# Bytes are tokens 0 to 255; two more end a reply and start a text.
END, BOS, VOCABULARY = 256, 257, 258
TEMPLATE = (
    "{% for message in messages %}<{{ message.role }}>{{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)

Score = Callable[[Sequence[int]], Logits]


def echo(tokens: Sequence[int]) -> Logits:
    """Logits that say the last user turn again, letter by letter, then end."""
    text = bytes(token for token in tokens if token < 256)
    asked, _, said = text.rpartition(b"<assistant>")
    words = asked.rpartition(b"<user>")[2].rstrip(b"\n")
    row = np.zeros(VOCABULARY, np.float32)
    row[words[len(said)] if len(said) < len(words) else END] = 20.0
    return row


def babble(tokens: Sequence[int]) -> Logits:
    """Logits that depend on all tokens so far and on nothing else: printable letters, by a hash."""
    digest = hashlib.blake2b(np.asarray(tokens, np.uint32).tobytes(), digest_size=8).digest()
    row = np.random.default_rng(int.from_bytes(digest, "little")).normal(0, 2, VOCABULARY).astype(np.float32)
    row[:32] = row[127:256] = row[BOS] = -np.inf
    return row


class ToyEngine:
    """An `Engine` whose logits are `score(all tokens of the slot)`; exact in every shape."""

    def __init__(
        self, score: Score = echo, *, context: int = 4096, slots: int = 8, spare: int = 0, batch: int = 64,
        cells: int | None = None, outside: int = 0,
    ) -> None:  # fmt: skip
        self._score = score
        self._cells = cells or context * slots
        self._slots: list[list[int]] = [[] for _ in range(slots + spare)]
        self.resting: set[int] = set()
        self.calls: list[list[Row]] = []
        """Every call that was made, for tests that count work."""
        self.card = Card(
            name="toy", engine="toy", precision="none", device="cpu", vocabulary=VOCABULARY, context=context,
            slots=slots, spare=spare, outside=outside, batch=batch, bos=BOS, ends=frozenset({END}), add_bos=False,
            template=TEMPLATE, special={"eos_token": "", "bos_token": ""},
        )  # fmt: skip

    def without_template(self) -> "ToyEngine":
        """The same engine, of a model that has no chat template."""
        self.card = replace(self.card, template=None)
        return self

    def tokens(self, text: str, special: bool) -> list[int]:
        return list(text.encode(errors="replace"))

    def text(self, ids: Sequence[int]) -> bytes:
        return bytes(token for token in ids if token < 256)

    def marks(self) -> dict[int, str]:
        return {END: "<end>", BOS: "<begin>"}

    def extend(self, rows: Sequence[Row], exact: bool = False) -> list[Logits]:
        total = sum(len(row.tokens) for row in rows)
        if total > self.card.batch or not all(row.tokens for row in rows):
            raise EngineError(f"a call of {total} tokens in {len(rows)} rows: {self.card.batch} together is the most")
        self.resting.difference_update(row.slot for row in rows)
        if sum(len(held) for slot, held in enumerate(self._slots) if slot not in self.resting) + total > self._cells:
            raise MemoryFull(f"no room for {total} more tokens")
        self.calls.append(list(rows))
        return [self._extend_one(row) for row in rows]

    def interrupt(self) -> None:
        """Its passes are short."""

    def _extend_one(self, row: Row) -> Logits:
        held = self._slots[row.slot]
        wanted = []
        for index, token in enumerate(row.tokens):
            held.append(token)
            if index >= len(row.tokens) - row.want:
                wanted.append(self._score(held))
        return np.stack(wanted) if wanted else np.empty((0, VOCABULARY), np.float32)

    def fork(self, source: int, target: int, length: int) -> None:
        self._slots[target] = self._slots[source][:length]

    def truncate(self, slot: int, length: int) -> None:
        del self._slots[slot][length:]

    def least(self, slot: int) -> int:
        return 0 if self.card.rewinds else len(self._slots[slot])

    def rest(self, slots: Collection[int]) -> int:
        self.resting.update(slots)
        return sum(len(self._slots[slot]) for slot in self.resting)

    def tune(self, adapters: Sequence[Adapter], steering: Sequence[Steering]) -> Tuning:
        if adapters or steering:
            raise UnsupportedError("the toy has no weights to adapt or to steer", hint="-m demo")
        return PLAIN

    def exact(self, tuning: Tuning = PLAIN) -> tuple[Shape | None, str]:
        return Shape(1, self.card.batch), "a function of the tokens alone"

    def fingerprint(self) -> str:
        return hashlib.sha256(f"toy {self._score.__module__}.{self._score.__qualname__}".encode()).hexdigest()

    def close(self) -> None:
        self._slots.clear()
