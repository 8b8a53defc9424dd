"""From one row of logits to one token, by SEMANTICS section 3. Knows nothing of text or of other sequences.

What a draw gives depends on the row, the sampling values, the seed and the tokens accepted so far, and on nothing else.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from jeito.decode import cuts, noise, penalties
from jeito.errors import EngineError, InputError
from jeito.types import Sampling

Floats = NDArray[np.float32]
Ids = NDArray[np.intp]

FEW_ALLOWED = 8  # a mask that allows under an eighth of the vocabulary is worth leaving the rest out altogether


class Draw(NamedTuple):
    """A drawn token. The log-probabilities are none and `top` empty unless they were asked for."""

    id: int
    logprob: float | None
    """In the model's own distribution."""
    drawn: float | None
    """After bias, penalties and cuts."""
    top: list[tuple[int, float]]
    """The likeliest tokens of the model's own distribution, likeliest first, lower id first on ties."""


class Sampler:
    """Draws the tokens of one reply. `text` gives a token's bytes; `logprobs` asks for that many alternatives."""

    def __init__(
        self,
        sampling: Sampling,
        seed: int,
        prompt: Sequence[int],
        *,
        ends: frozenset[int],
        text: Callable[[int], bytes],
        logprobs: int | None = None,
    ) -> None:
        self.position = 0
        self._sampling = sampling
        self._seed = seed
        self._ends = ends
        self._logprobs = logprobs
        self._vocabulary = 0
        repeats = sampling.repetition_penalty != 1
        self._seen = penalties.Tally(prompt, sampling.repetition_window) if repeats else None
        counts = sampling.presence_penalty != 0 or sampling.frequency_penalty != 0
        self._said = penalties.Tally() if counts else None
        dry = sampling.dry
        self._suffixes = penalties.Suffixes(dry, prompt, text) if dry and dry.multiplier > 0 else None

    def accept(self, id: int) -> None:
        """The token becomes part of the reply, drawn or forced."""
        self.position += 1
        for record in (self._seen, self._said, self._suffixes):
            if record is not None:
                record.add(id)

    def draw(self, row: Floats, allowed: NDArray[np.bool_] | None = None) -> Draw | None:
        """One row of logits [vocabulary] → a token, or none if none is allowed. The row is only read, and not kept.

        Raises EngineError if the row holds NaN or +inf, InputError if `logit_bias` names a token that there is not.
        """
        row = np.require(row, np.float32, ["C", "ALIGNED"])
        likeliest = int(row.argmax())  # of NaN and +inf too, the first comes out
        top = float(row[likeliest])
        if math.isnan(top) or top == math.inf:
            raise EngineError(f"the model gave {top!r} as a logit", hint="its file may be broken: get it again")
        if self._vocabulary != row.size:
            self._prepare(row.size)
        # An overflow only ever says −inf to a token that is hopeless beside the likeliest.
        with np.errstate(over="ignore"):
            logits, ids = self._masked(self._adjusted(row), allowed)
            at = likeliest if logits is row else int(logits.argmax()) if logits.size else None
            if at is None or logits[at] == -np.inf:
                return None
            id, drawn = self._chosen(logits, at, ids)
            return Draw(id, None, None, []) if self._logprobs is None else self._reported(row, id, drawn)

    def _prepare(self, vocabulary: int) -> None:
        """What needs the vocabulary's size, which only the first row tells."""
        for id in self._sampling.logit_bias:
            if not 0 <= id < vocabulary:
                raise InputError(
                    f"logit_bias names token {id}, but the model has tokens 0 to {vocabulary - 1}",
                    hint="remove it from logit_bias",
                )
        self._vocabulary = vocabulary
        self._buffer = np.empty(vocabulary, dtype=np.float32)
        self._scratch = np.empty(vocabulary, dtype=np.float32)
        bias = self._sampling.logit_bias
        self._biased = np.array(list(bias), dtype=np.intp)
        self._bias = np.clip(list(bias.values()), -penalties.LARGEST, penalties.LARGEST).astype(np.float32)
        self._ending = np.array(sorted(id for id in self._ends if 0 <= id < vocabulary), dtype=np.intp)

    def _adjusted(self, row: Floats) -> Floats:
        """Steps 1 to 4: the row itself where nothing acts, else our own copy."""
        sampling = self._sampling
        held_back = self.position < sampling.min_new_tokens
        if not (held_back or self._biased.size or self._seen or self._said or self._suffixes):
            return row
        logits = self._buffer
        np.copyto(logits, row)
        if self._biased.size:
            penalties.add_bias(logits, self._biased, self._bias)
        if held_back:
            logits[self._ending] = -np.inf
        if self._seen:
            penalties.repetition(logits, self._seen, sampling.repetition_penalty)
        if self._said:
            penalties.presence_and_frequency(logits, self._said, sampling.presence_penalty, sampling.frequency_penalty)
        if self._suffixes:
            penalties.dry(logits, self._suffixes)
        return logits

    def _masked(self, logits: Floats, allowed: NDArray[np.bool_] | None) -> tuple[Floats, Ids | None]:
        """What the constraint allows: (logits, their token ids), or all logits, the forbidden ones −inf, and none.

        It comes after the penalties, which is the same: none of them moves −inf.
        """
        if allowed is None:
            return logits, None
        if np.count_nonzero(allowed) < allowed.size // FEW_ALLOWED:
            ids = np.flatnonzero(allowed)
            return logits[ids], ids
        # Arithmetic, since numpy's masked copies take three times as long: true → +inf, false → −inf.
        np.copyto(self._scratch, allowed)
        self._scratch -= 0.5
        self._scratch *= np.inf
        return np.minimum(logits, self._scratch, out=self._buffer), None

    def _chosen(self, logits: Floats, at: int, ids: Ids | None) -> tuple[int, float | None]:
        """Steps 5 to 7: (token, its log-probability among those that could be drawn, if asked for).

        `at`: where the greatest of the logits is, the first of them.
        """
        if self._sampling.temperature == 0:
            return at if ids is None else int(ids[at]), 0.0
        values, ids = self._survivors(logits, at, ids)
        at = noise.winner(self._seed, self.position, values, ids)
        drawn = None if self._logprobs is None else float(values[at]) - self._mass(values)
        return at if ids is None else int(ids[at]), drawn

    def _survivors(self, logits: Floats, at: int, ids: Ids | None) -> tuple[Floats, Ids | None]:
        """Steps 5 and 6: what is left to draw from."""
        values = self._tempered(logits, float(logits[at]))
        coin = noise.coin(self._seed, self.position) if self._sampling.xtc else 0.0
        kept = cuts.cut(values, float(values[at]), self._sampling, coin, self._scratch)
        if kept is None:
            return values, ids
        return values[kept], kept if ids is None else ids[kept]

    def distribution(self, row: Floats) -> tuple[Ids, NDArray[np.float64]]:
        """The tokens that the next draw may give, and their log-probabilities; one token at temperature 0."""
        row = np.require(row, np.float32, ["C", "ALIGNED"])
        if self._vocabulary != row.size:
            self._prepare(row.size)
        logits = self._adjusted(row)
        at = int(logits.argmax())
        if self._sampling.temperature == 0:
            return np.array([at], dtype=np.intp), np.zeros(1)
        values, ids = self._survivors(logits, at, None)
        found = np.flatnonzero(values > -np.inf)
        logs = values[found].astype(np.float64)
        logs -= logs.max()
        return found if ids is None else ids[found], logs - np.log(np.exp(logs).sum())

    def _tempered(self, logits: Floats, best: float) -> Floats:
        temperature = self._sampling.temperature
        if temperature == 1:
            return logits
        out = self._buffer[: logits.size]
        if abs(best) > penalties.LARGEST * temperature:
            # The quotient would not fit float32; a common shift changes no probability.
            logits = np.subtract(logits, np.float32(best), out=out)
        divisor = min(max(temperature, 1 / penalties.LARGEST), penalties.LARGEST)
        return np.divide(logits, np.float32(divisor), out=out)

    def _mass(self, values: Floats) -> float:
        """Logarithm of the summed exponentials."""
        top = float(values.max())
        return top + math.log(float(cuts.exponentials(values, top, self._scratch).sum(dtype=np.float64)))

    def _reported(self, row: Floats, id: int, drawn: float | None) -> Draw:
        mass = self._mass(row)
        top = [(i, float(row[i]) - mass) for i in cuts.likeliest(row, self._logprobs or 0)]
        return Draw(id, float(row[id]) - mass, drawn, top)
