"""What a transformers model needs of memory, by part, before it is loaded; and what would fit when it does not.

Figures come from config.json and the headers of the weight files. Knows nothing of torch.
"""

from collections.abc import Sequence
from typing import NamedTuple

from jeito.engines.folder import BATCH, Folder
from jeito.engines.weights import Weights, footprint
from jeito.errors import ModelError

# Beside the weights of a matrix or a norm, allocators round up and keep some: measured 1 to 2 %.
SLACK = 0.02
# The least that is worth offering.
SHORTEST = 256
BYTES = {"fp32": 4, "bf16": 2, "fp16": 2, "nf4": 2, "int8": 2}
"""Of one value of keys and values, and of what passes from layer to layer."""


class Need(NamedTuple):
    """Bytes. `texts`: keys and values of all slots, full. `work`: what one pass takes besides."""

    weights: int
    texts: int
    work: int

    @property
    def total(self) -> int:
        return self.weights + self.texts + self.work


def token_bytes(folder: Folder, precision: str) -> int:
    """Keys and values of one token, all layers; 0 where the config names no heads (state-space models)."""
    text = folder.text
    heads = text.get("num_attention_heads") or text.get("n_head") or 0
    width = text.get("hidden_size") or text.get("n_embd") or 0
    size = text.get("head_dim") or (width // heads if heads else 0)
    layers = text.get("num_hidden_layers") or text.get("n_layer") or text.get("num_layers") or 0
    kept = text.get("num_key_value_heads") or heads
    return int(2 * layers * kept * size * BYTES[precision])


def need(folder: Folder, weights: Weights, precision: str, *, slots: int, context: int) -> Need:
    """Memory with every slot filled to the context."""
    text = folder.text
    width = text.get("hidden_size") or text.get("n_embd") or 0
    inner = text.get("intermediate_size") or text.get("n_inner") or 4 * width
    vocabulary = text.get("vocab_size", 0)
    each = BYTES[precision]
    # A chunk of a prompt between two layers; its mask; the logits, once as computed and once in float32.
    work = BATCH * (6 * width + 3 * inner) * each + BATCH * context * each + slots * vocabulary * (each + 4)
    held = footprint(weights.tensors, folder.config, precision)
    return Need(int(held * (1 + SLACK)), token_bytes(folder, precision) * context * slots, work)


def choose(
    folder: Folder, weights: Weights, order: Sequence[str], *, slots: int, context: int, budget: int
) -> str:  # fmt: skip
    """The first of these precisions that fits the budget, texts included; raises ModelError with what would fit."""
    needs = {word: need(folder, weights, word, slots=slots, context=context) for word in order}
    for word, found in needs.items():
        if found.total <= budget:
            return word
    least = min(needs, key=lambda word: needs[word].total)
    found = needs[least]
    raise ModelError(
        f"{folder.name!r} in {least} with {slots} slots of {context:,} tokens takes {gigabytes(found.total)} "
        f"(weights {gigabytes(found.weights)}, texts {gigabytes(found.texts)}), the budget is {gigabytes(budget)}",
        hint=_instead(folder, weights, order, slots=slots, context=context, budget=budget),
    )


def _instead(
    folder: Folder, weights: Weights, order: Sequence[str], *, slots: int, context: int, budget: int
) -> str:  # fmt: skip
    """What to give up, cheapest first: context, slots, precision."""

    def fits(word: str, count: int, length: int) -> bool:
        return need(folder, weights, word, slots=count, context=length).total <= budget

    for word in [*order, *(smaller for smaller in ("int8", "nf4") if smaller not in order)]:
        said = "" if word == order[-1] else f"--precision {word} "
        offers = [f"--precision {word}"] if said and fits(word, slots, context) else []
        shorter = max((n for n in range(SHORTEST, context, 64) if fits(word, slots, n)), default=None)
        fewer = max((n for n in range(1, slots) if fits(word, n, context)), default=None)
        offers += [f"{said}--context {shorter}"] if shorter else []
        offers += [f"{said}--slots {fewer}"] if fewer else []
        if not offers:
            both = max((n for n in range(SHORTEST, context, 64) if fits(word, 1, n)), default=None)
            offers = [f"{said}--slots 1 --context {both}"] if both else []
        if offers:
            return ", or ".join(offers)
    return "take a smaller model"


def gigabytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
