"""Are replies exact in calls of this width, on this model and build? Tried on the loaded weights, bit for bit."""

from collections.abc import Sequence
from importlib import import_module
from typing import Any

from jeito.engines.slots import Layer, Slab, Work

# Attention goes in blocks of 512: below that, ways of computing agree that differ beyond.
COPIED, PROMPT, REPLY = 480, 540, 3
OPENING = 45


def is_exact(slab: Slab, *, width: int, vocabulary: int, context: int) -> bool:
    """The same logits alone and again: in another slot, cut otherwise, forked, truncated, beside a longer text.

    Of an opening, and of a prompt beyond 512 tokens, whose middle is computed once and copied. The slab is a new one
    of at least four slots. About 300 tokens in calls of this width.
    """
    torch: Any = import_module("torch")
    copied, prompt = min(COPIED, context * 3 // 4), min(PROMPT, context - REPLY - 1)
    if prompt < copied + 3 or context < OPENING + REPLY + 1:
        return False
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(0, vocabulary, (max(prompt, OPENING) + REPLY,), generator=draw).tolist()

    def feed(slot: int, until: int, chunk: int, beside: Sequence[int]) -> Any:
        """The last logits, after tokens up to a length; each neighbour gets one token in each call."""
        logits = None
        while (at := slab.lengths[slot]) < until:
            others = [Work(other, [7 + other], 1) for other in beside if slab.lengths[other] < context]
            logits = slab.append_exactly([*others, Work(slot, ids[at : min(at + chunk, until)], 1)], width)[-1].clone()
        return logits

    def reply(slot: int, length: int, chunk: int, beside: Sequence[int] = ()) -> Any:
        feed(slot, length, chunk, beside)
        return torch.cat([feed(slot, length + i + 1, 1, beside) for i in range(REPLY)])

    def agree(length: int, start: int) -> bool:
        """Slot 0 holds the first `start` tokens, slot 2 a longer text, slot 1 a shorter one."""
        slab.fork(0, 3, start)
        alone = reply(0, length, width)
        crowded = reply(3, length, max(1, width - 3), beside=(2, 1))
        if not torch.equal(alone, crowded) or not all(
            _same(layer, slab.rows[0], slab.rows[3], length) for layer in slab.layers
        ):
            return False
        slab.truncate(0, length - 2)
        return bool(torch.equal(alone, reply(0, length, 1, beside=(3,))))

    slab.append_exactly([Work(1, ids[:2], 1)], width)
    slab.append([Work(2, ids[: OPENING + 30], 0)])
    if not agree(OPENING, 0):
        return False
    slab.truncate(0, 0)
    slab.append([Work(0, ids[:copied], 0)])
    slab.fork(0, 2, copied)
    # The longer neighbour has more columns, where there is room for them.
    slab.append([Work(2, ids[: min(130, max(1, context - copied - 100))], 0)])
    return agree(prompt, copied)


def _same(layer: Layer, one: int, other: int, length: int) -> bool:
    """Low precisions round most differences away before the logits: so keys and values are compared too."""
    return all(bool((held[one, :, :length] == held[other, :, :length]).all()) for held in (layer.keys, layer.values))
