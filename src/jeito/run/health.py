"""Is a loaded model a model at all? One short pass over a fixed text, before anybody waits for a reply.

Weights that are lost or noise load without complaint. Knows nothing of files.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from jeito.engines.base import Engine, Row
from jeito.errors import EngineError, MemoryFull, ModelError

TEXT = "Once upon a time, there was a"
# A model that plain English surprises like an even guess among all tokens does not know it. Measured on the demo model,
# in parts of that guess (ln of the vocabulary): whole 0.23; one layer in the middle noise or zeros 0.22 to 0.3, and it
# still answers; three layers noise 0.94, six 0.97; the first layer 1.1 to 1.3; half of them 1.1, all 2.7.
# Not lower: a model of another language knows less English, and is not broken.
MOST_SURPRISED = 0.93
# Toys and the tiny models of tests are noise, and meant to be: no model of a language has so few tokens.
FEWEST_TOKENS = 1000

# [tokens of the text, vocabulary]
Scores = NDArray[np.float64]


class Health(NamedTuple):
    """Nats. `surprise`: the mean of -ln p of the text's tokens; `entropy`: of what may come next; `even`: ln V."""

    surprise: float
    entropy: float
    even: float

    @property
    def is_noise(self) -> bool:
        """Does the model know no more of the text than an even guess does?"""
        return self.surprise > MOST_SURPRISED * self.even


def check_health(engine: Engine, name: str, hint: str) -> Health | None:
    """Refuse a model whose logits say nothing, with ModelError and this hint; the slot is left empty.

    What counts is surprise at a known text: a model whose layers are noise can be very sure of what comes next, so its
    entropy alone tells nothing. None where the context is shorter than the text.
    """
    card = engine.card
    tokens = engine.tokens(TEXT, False)
    if card.add_bos and card.bos is not None:
        tokens = [card.bos, *tokens]
    if len(tokens) > min(card.context, card.batch):
        return None
    try:
        logits = engine.extend([Row(0, tokens, len(tokens))])[0].astype(np.float64)
    except MemoryFull:
        raise
    except EngineError as error:
        raise ModelError(f"{name!r} fails at its first words: {error}", hint=error.hint or hint) from error
    finally:
        engine.truncate(0, 0)
    why = _broken(logits)
    if why:
        raise ModelError(f"{name!r} is broken: {why}", hint=hint)
    found = _measure(logits, tokens)
    if card.vocabulary >= FEWEST_TOKENS and found.is_noise:
        raise ModelError(
            f"{name!r} is broken: plain English surprises it by {found.surprise:.1f} nats a token, an even guess among "
            f"its {card.vocabulary:,} tokens by {found.even:.1f}; its weights are lost or noise",
            hint=hint,
        )
    return found


def _broken(logits: Scores) -> str | None:
    # Minus infinity is a way to say never; it may stand for some tokens, not for all.
    if np.isnan(logits).any() or np.isposinf(logits).any() or np.isneginf(logits).all(axis=1).any():
        return "its logits are not numbers"
    if (logits == logits[:, :1]).all():
        return "every token is as likely as any other"
    return None


def _measure(logits: Scores, tokens: list[int]) -> Health:
    logs = logits - logits.max(axis=1, keepdims=True)
    logs -= np.log(np.exp(logs).sum(axis=1, keepdims=True))
    told = -logs[np.arange(len(tokens) - 1), tokens[1:]]
    last = logs[-1][np.isfinite(logs[-1])]
    return Health(float(told.mean()), float(-(np.exp(last) * last).sum()), math.log(logits.shape[1]))
