"""The two seams. A `Model` is what callers hold; an `Engine` exists only where we see logits."""

from collections.abc import Collection, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from jeito.errors import EngineError
from jeito.types import Adapter, Event, Request, Sampling, Sourced, Steering

Logits = NDArray[np.float32]
"""[wanted positions, vocabulary], float32; valid until the next `extend`."""

SAMPLING_KNOBS = frozenset(Sampling.model_fields)
"""Every knob of our own sampler: what a model with a decoder can honour."""


class Loading(NamedTuple):
    """How a model is to be opened; what is left out is decided by its files and this machine."""

    precision: str = "auto"
    context: int | None = None
    slots: int | None = None
    """Replies at once."""
    budget: int | None = None
    """Bytes that weights and texts may take together."""
    device: str | None = None
    """As torch names it: cpu, cuda, cuda:1, mps."""
    compute: str | None = None
    """The precision that NF4 computes in."""
    double_quantisation: bool = True
    allow_pickle: bool = False
    trust_remote_code: bool = False
    server: str = "auto"
    """The kind of a remote server."""


AS_FOUND = Loading()


class Model(Protocol):
    """What callers hold, local or remote."""

    name: str
    abilities: frozenset[str]

    @property
    def defaults(self) -> Mapping[str, Sourced]:
        """Sampling values that the model's own files give."""
        ...

    @property
    def context(self) -> int | None:
        """Tokens that prompt and reply may take together, where it is known."""
        ...

    @property
    def fingerprint(self) -> str: ...
    def stream(self, request: Request) -> Generator[Event]:
        """A `Start`, then `Token`s, then an `End`; closing the iterator early cancels the reply."""
        ...

    def environment(self) -> dict[str, Any]:
        """Engine, precision, device, libraries, bytes: what a trace keeps of where it ran."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Shape:
    """How many tokens a call must have for exact logits: the engine pads to `low`, the decoder keeps to `high`."""

    low: int
    high: int

    def __str__(self) -> str:
        return f"{self.low} rows" if self.low == self.high else f"{self.low} to {self.high} rows"


@dataclass(frozen=True, slots=True)
class Card:
    """What an engine says of the model it holds. Ends are the tokens that end a reply."""

    name: str
    engine: str
    precision: str
    device: str
    vocabulary: int
    context: int
    slots: int
    batch: int
    """Most tokens that one `extend` takes, all rows together."""
    bos: int | None
    ends: frozenset[int]
    add_bos: bool
    template: str | None
    """Jinja source of the chat template, or none."""
    special: Mapping[str, str]
    """Texts of the special tokens that templates name: bos_token, eos_token, …"""
    defaults: Mapping[str, Sourced] = field(default_factory=dict)
    bytes: int = 0
    """Of the weights."""
    spare: int = 0
    """Slots beyond those, in which only what ended replies left is kept, for others to share."""
    outside: int = 0
    """Most tokens that slots may keep outside while they rest; 0: none rests."""
    rewinds: bool = True
    """Can a slot be cut at all? Recurrent models keep only their last state."""
    versions: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What a trace keeps of the loaded model: file format, bytes by kind, seconds of loading, memory after it."""
    notes: tuple[str, ...] = ()
    """What every receipt says of the loaded model: code of its own that ran, rows that run one by one."""
    abilities: frozenset[str] = frozenset()
    """What its engine can do to the passes themselves: `adapters`, `steering`."""


class Applied(NamedTuple):
    """An adapter's or a control vector's contents, by their sha256, and how strongly they act."""

    digest: str
    scale: float
    name: str
    form: str = ""
    """Of an adapter: which layers it acts on, and in how many dimensions."""


class Tuning(NamedTuple):
    """What passes have on top of the weights. What was computed under one is worth nothing under another."""

    adapters: tuple[Applied, ...] = ()
    steering: tuple[Applied, ...] = ()

    def notes(self) -> list[str]:
        """A sentence for each, for a receipt."""
        kinds = [("adapter", one) for one in self.adapters] + [("steering", one) for one in self.steering]
        return [f"{kind} {one.name!r}: sha256 {one.digest[:12]}, scale {one.scale:g}" for kind, one in kinds]

    def ways(self) -> str:
        """What of it decides how a row is computed, and so whether replies are exact: the adapters' forms.

        Not their numbers, nor a direction, which adds the same to every row.
        """
        return " ".join(one.form for one in self.adapters)


PLAIN = Tuning()


@dataclass(frozen=True, slots=True)
class Row:
    """Tokens to append to a slot. `want`: of how many of the last positions the logits are wanted."""

    slot: int
    tokens: Sequence[int]
    want: int = 1
    tuning: Tuning = PLAIN
    """The same in all rows of a call."""


def tuning_of(rows: Sequence[Row]) -> Tuning:
    """The one tuning that a call's rows are computed under."""
    found = {row.tuning for row in rows}
    if len(found) > 1:
        raise EngineError(f"a call of rows under {len(found)} tunings: one pass has one")
    return found.pop() if found else PLAIN


class Engine(Protocol):
    """Forward passes and sequence memory; never a loop and never a sampler."""

    card: Card

    def tokens(self, text: str, special: bool) -> list[int]:
        """Token ids of a text, nothing added; `special`: names of special tokens in it become those tokens."""
        ...

    def text(self, ids: Sequence[int]) -> bytes:
        """UTF-8 of tokens, perhaps cut inside a character; control tokens give nothing."""
        ...

    def marks(self) -> Mapping[int, str]:
        """Names of the tokens that stand for a mark and not for text: control tokens, and such as `<tool_call>`."""
        ...

    def extend(self, rows: Sequence[Row], exact: bool = False) -> list[Logits]:
        """Append each row's tokens to its slot, in one call; a slot stands in one row at most.

        One array a row, [want, vocabulary]. Rows together hold at most `card.batch` tokens, with `exact` at
        most `shape.high`. Raises MemoryFull or Interrupted with nothing changed, EngineError when the pass failed.
        """
        ...

    def interrupt(self) -> None:
        """From another thread: the pass under way may end at once, with Interrupted; where that cannot be, it ends."""
        ...

    def fork(self, source: int, target: int, length: int) -> None:
        """Make `target` hold exactly the first `length` tokens of `source`."""
        ...

    def truncate(self, slot: int, length: int) -> None:
        """Keep the first `length` tokens of a slot."""
        ...

    def least(self, slot: int) -> int:
        """The least length, besides 0, that a slot can be cut or forked at; what is cut further back is an EngineError.

        More than 0 where a model keeps only its last state, or layers have a window that has moved on.
        """
        ...

    def rest(self, slots: Collection[int]) -> int:
        """These slots are not used soon: what only they hold is to be in no pass's way.

        How many tokens are outside by now. Using a slot brings it back; that raises MemoryFull where there is no room,
        and then it rests on. Asked only where the card has room outside.
        """
        ...

    def tune(self, adapters: Sequence[Adapter], steering: Sequence[Steering]) -> Tuning:
        """Make ready what a request names, so that rows can be computed under it.

        Raises ModelError for files that cannot be read, are refused, or do not fit this model.
        """
        ...

    def exact(self, tuning: Tuning = PLAIN) -> tuple[Shape | None, str]:
        """The shape in which replies are exact, tested on this very file and build; else none, and why."""
        ...

    def fingerprint(self) -> str:
        """Digest of weights, template, engine, precision and the library versions that decode."""
        ...

    def close(self) -> None: ...
