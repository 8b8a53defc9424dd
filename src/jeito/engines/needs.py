"""What a model needs of memory, by part, before it is loaded; and what would fit when it does not.

Figures come from config.json and the headers of weight files; a GGUF's are llama_needs.py's. Knows nothing of torch:
what it takes besides was measured (`bench/fit.py`).
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, NamedTuple

from jeito.engines.folder import BATCH, language_part
from jeito.engines.weights import SIZES, Tensor, footprint, is_quantised
from jeito.errors import ModelError

# The least that is worth offering.
SHORTEST = 256
BYTES = {"fp32": 4, "bf16": 2, "fp16": 2, "nf4": 2, "int8": 2}
"""Of one value of keys and values, and of what passes from layer to layer."""
# What a process grows by besides: threads' stacks, code that is first run, tokenizers. Measured on CPUs.
TORCH_BESIDE = 48_000_000

_INPUT = r"embed_tokens|wte|embed_in|word_embeddings|tok_embeddings"
# What tensors are for, by the words that architectures use in their names; the first that matches.
_CLASSES = {
    "embeddings and head": rf"{_INPUT}|wpe|lm_head|embed_out|embed_positions|(^|\.)output\.weight",
    "experts": r"\.experts\.|block_sparse_moe",
    "norms and biases": r"norm|ln_|\.bias$",
    "attention": r"attn|attention",
    "feed-forward": r"mlp|feed_forward|ffn|fc\d|\.w[123]\.|expert",
}


class Need(NamedTuple):
    """Bytes, with every slot filled to the context."""

    weights: int
    texts: int
    """Keys and values of all slots."""
    work: int
    """What one pass takes besides."""
    load: int
    """Most that is held while the weights are read and made."""
    mapped: int
    """Of that the files' own pages, which the system takes back when it needs them."""
    engine: int
    """What the libraries take of this process besides."""
    peak: int
    """What the process grows by, at most."""

    @property
    def total(self) -> int:
        """What a budget has to cover."""
        return self.weights + self.texts + self.work


class Layers(NamedTuple):
    """How many layers keep what of the past: all of it, a window, another layer's, or a state of fixed size."""

    full: int
    sliding: int = 0
    shared: int = 0
    fixed: int = 0
    window: int | None = None

    def __str__(self) -> str:
        window = f" (of {self.window:,} tokens; kept whole here, so that a text can be cut)" if self.window else ""
        parts = [f"{self.full} full"] if self.full else []
        parts += [f"{self.sliding} sliding{window}"] if self.sliding else []
        parts += [f"{self.shared} shared"] if self.shared else []
        parts += [f"{self.fixed} of fixed size"] if self.fixed else []
        return ", ".join(parts) or "none"


@dataclass(frozen=True, slots=True)
class Outline:
    """What decides the memory that a transformers model takes: its config.json, and its tensors by their headers."""

    name: str
    config: Mapping[str, Any]
    tensors: Sequence[Tensor]
    _counted: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)
    """What was found of thousands of tensors, so that it is counted once."""

    def layers(self) -> Layers:
        return layers_of(self.counts())

    def token_bytes(self, precision: str) -> int:
        """Keys and values of one token, all layers."""
        return token_bytes(self.counts(), precision)

    def counts(self) -> Mapping[str, Any]:
        """The language model's counts; its keys' width by their headers where the config leaves heads to the code."""
        if "text" not in self._counted:
            text = counts_of(language_part(self.config))
            if not ({"num_attention_heads", "n_head"} & text.keys()):
                keys = (one for one in self.tensors if one.name.endswith("k_proj.weight") and "vision" not in one.name)
                width = next((one.shape[0] for one in keys if len(one.shape) == 2), 0)
                text |= {"num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": width} if width else {}
            self._counted["text"] = text
        found: Mapping[str, Any] = self._counted["text"]
        return found

    def need(self, precision: str, *, slots: int, context: int, device: str = "cpu") -> Need:
        """Memory with every slot filled to the context."""
        text = self.counts()
        width = text.get("hidden_size") or text.get("n_embd") or 0
        inner = text.get("intermediate_size") or text.get("n_inner") or 4 * width
        vocabulary = text.get("vocab_size", 0)
        each = BYTES.get(precision, 2)
        # A chunk of a prompt between two layers; its mask; the logits, once as computed and once in float32.
        work = BATCH * (6 * width + 3 * inner) * each + BATCH * context * each + slots * vocabulary * (each + 4)
        weights = self.weights(precision)
        texts = self.token_bytes(precision) * context * slots
        if (precision, device) not in self._counted:
            self._counted[precision, device] = self._load(precision, weights, device)
        load, mapped, beside = self._counted[precision, device]
        peak = max(load, weights + beside + texts + work) + TORCH_BESIDE
        return Need(weights, texts, work, load, mapped, TORCH_BESIDE, peak)

    def weights(self, precision: str) -> int:
        """Bytes of all tensors in memory; of files that are quantised already, as they are."""
        return sum(self.by_class(precision).values())

    def by_class(self, precision: str) -> dict[str, int]:
        """The same, by what the tensors are for."""
        if precision not in self._counted:
            grouped = groupby(sorted(self.tensors, key=_class_of), _class_of)
            self._counted[precision] = {word: self._bytes(list(tensors), precision) for word, tensors in grouped}
        found: dict[str, int] = self._counted[precision]
        return found

    def _bytes(self, tensors: Sequence[Tensor], precision: str) -> int:
        if precision not in BYTES:
            return sum(tensor.parameters * SIZES.get(tensor.dtype, 1) for tensor in tensors)
        return footprint(tensors, self.config, precision)

    def read(self, precision: str) -> int:
        """Bytes of weights that computing one token reads: of embeddings one row, of experts those that act."""
        text, classes = self.counts(), self.by_class(precision)
        unread = self._inputs(precision)
        count = text.get("num_experts") or text.get("num_local_experts") or text.get("n_routed_experts")
        acting = text.get("num_experts_per_tok")
        if count and acting and acting <= count:
            unread += classes.get("experts", 0) * (count - acting) // count
        return sum(classes.values()) - unread

    def _load(self, precision: str, weights: int, device: str) -> tuple[int, int, int]:
        """Bytes: the most held while loading; of that the files' pages; and how many stay beside the weights."""
        file = sum(tensor.parameters * SIZES.get(tensor.dtype, 1) for tensor in self.tensors)
        if device != "cpu":
            return weights + 4 * max((tensor.parameters for tensor in self.tensors), default=0), 0, 0
        if precision in ("nf4", "int8"):
            # A matrix is made float32 before it is quantised; what is not quantised is copied at the end.
            matrices = [tensor for tensor in self.tensors if is_quantised(tensor)]
            made = self._bytes(matrices, precision)
            most = max((tensor.parameters for tensor in matrices), default=0)
            return file + max(weights, made + 4 * most), file, 0
        kinds = {"fp32": "F32", "bf16": "BF16", "fp16": "F16"}
        if precision in kinds and any(tensor.dtype != kinds[precision] for tensor in self.tensors):
            return file + weights, file, 0
        # Used where they lie in the file: of embeddings that are no head, only the rows of tokens that came. Experts
        # are put together into one tensor, so they are there twice, and a third time while that is done.
        experts, unread = self.by_class(precision).get("experts", 0), self._inputs(precision)
        return weights + 2 * experts - unread, file, experts - unread

    def _inputs(self, precision: str) -> int:
        """Bytes of embeddings that are read by row alone: none where they are the head too."""
        tied = self.config.get("tie_word_embeddings", language_part(self.config).get("tie_word_embeddings"))
        if tied or not any(tensor.name.endswith("lm_head.weight") for tensor in self.tensors):
            return 0
        return self._bytes([tensor for tensor in self.tensors if re.search(_INPUT, tensor.name)], precision)


def _class_of(tensor: Tensor) -> str:
    return next((word for word, pattern in _CLASSES.items() if re.search(pattern, tensor.name)), "norms and biases")


# More layers, heads, rows or tokens than any model has.
_MOST = 1 << 24
_WORDS = ("layer_types", "hybrid_override_pattern")


def is_count(value: Any) -> bool:
    """Is a stranger's value a number that some part of a model may have?"""
    return isinstance(value, int) and 0 <= value <= _MOST


def counts_of(text: Mapping[str, Any]) -> dict[str, Any]:
    """A config without what is no count where one should stand; of counts by layer, the greatest."""
    found = {key: text[key] for key in _WORDS if key in text}
    for key, value in text.items():
        counts = value if isinstance(value, list) else [value]
        if key not in _WORDS and counts and all(map(is_count, counts)):
            found[key] = max(counts)
    return found


def layers_of(text: Mapping[str, Any]) -> Layers:
    """What each layer keeps, by the language model's config."""
    count = int(text.get("num_hidden_layers") or text.get("n_layer") or text.get("num_layers") or 0)
    kinds = text.get("layer_types") or _pattern(text, count)
    shared = min(count, int(text.get("num_kv_shared_layers") or 0))
    window = text.get("sliding_window")
    if isinstance(kinds, list) and len(kinds) == count:
        kept = kinds[: count - shared]
        fixed = sum(1 for kind in kept if "attention" not in str(kind) or str(kind).startswith("linear"))
        sliding = sum(1 for kind in kept if "sliding" in str(kind) or "chunked" in str(kind))
        return Layers(len(kept) - fixed - sliding, sliding, shared, fixed, window if sliding else None)
    if not (text.get("num_attention_heads") or text.get("n_head")):
        return Layers(0, fixed=count)
    if isinstance(window, int) and text.get("use_sliding_window") is not False:
        return Layers(0, count - shared, shared, window=window)
    return Layers(count - shared, shared=shared)


def _pattern(text: Mapping[str, Any], count: int) -> list[str] | None:
    """Kinds of layers where a config has them in words of its own: Jamba's, Nemotron-H's."""
    period, written = text.get("attn_layer_period"), text.get("hybrid_override_pattern")
    if isinstance(period, int) and period > 0:
        first = int(text.get("attn_layer_offset") or 0)
        return ["attention" if at % period == first else "mamba" for at in range(count)]
    return ["attention" if mark == "*" else "mamba" for mark in written] if isinstance(written, str) else None


def token_bytes(text: Mapping[str, Any], precision: str) -> int:
    """Keys and values of one token, all layers; 0 where the config names no heads (state-space models)."""
    heads = text.get("num_attention_heads") or text.get("n_head") or 0
    width = text.get("hidden_size") or text.get("n_embd") or 0
    size = text.get("head_dim") or (width // heads if heads else 0)
    kept = text.get("num_key_value_heads") or (1 if text.get("multi_query") else heads)
    layers = layers_of(text)
    if text.get("kv_lora_rank"):  # latent attention, which transformers keeps spread out over the heads
        each = heads * (text.get("qk_nope_head_dim", 0) + text.get("qk_rope_head_dim", 0) + text.get("v_head_dim", 0))
    else:
        each = 2 * kept * size
    # Layers that see all may have other heads than those with a window (Gemma 4).
    whole = 2 * (text.get("num_global_key_value_heads") or kept) * (text.get("global_head_dim") or 0) or each
    return int((layers.full * whole + layers.sliding * each) * BYTES.get(precision, 2))


def choose(outline: Outline, order: Sequence[str], *, slots: int, context: int, budget: int) -> str:
    """The first of these precisions that fits the budget, texts included; raises ModelError with what would fit."""
    needs = {word: outline.need(word, slots=slots, context=context) for word in order}
    for word, found in needs.items():
        if found.total <= budget:
            return word
    least = min(needs, key=lambda word: needs[word].total)
    found = needs[least]
    raise ModelError(
        f"{outline.name!r} in {least} with {slots} slots of {context:,} tokens takes {gigabytes(found.total)} "
        f"(weights {gigabytes(found.weights)}, texts {gigabytes(found.texts)}), the budget is {gigabytes(budget)}",
        hint=", or ".join(instead(outline, order, slots=slots, context=context, budget=budget)) or SMALLER,
    )


SMALLER = "take a smaller model"


def instead(outline: Outline, order: Sequence[str], *, slots: int, context: int, budget: int) -> list[str]:
    """What to give up, cheapest first: context, slots, precision; none where nothing helps."""

    def fits(word: str, count: int, length: int) -> bool:
        return outline.need(word, slots=count, context=length).total <= budget

    smaller = ("int8", "nf4") if order[0] in BYTES else ()  # what is quantised already stays as it is
    for word in [*order, *(word for word in smaller if word not in order)]:
        said = "" if word == order[-1] else f"--precision {word} "
        offers = [f"--precision {word}"] if said and fits(word, slots, context) else []
        shorter = longest(lambda length, word=word: fits(word, slots, length), context)  # type: ignore[misc]
        fewer = max((n for n in range(1, slots) if fits(word, n, context)), default=None)
        offers += [f"{said}--context {shorter}"] if shorter else []
        offers += [f"{said}--slots {fewer}"] if fewer else []
        if not offers:
            both = longest(lambda length, word=word: fits(word, 1, length), context)  # type: ignore[misc]
            offers = [f"{said}--slots 1 --context {both}"] if both else []
        if offers:
            return offers
    return []


def longest(fits: Callable[[int], bool], most: int) -> int | None:
    """The longest context under `most` that fits, a multiple of 64; none where not even the shortest does."""
    low, high = SHORTEST, (most - 1) // 64 * 64
    if high < low or not fits(low):
        return None
    while low < high:
        middle = (low + high + 64) // 128 * 64
        low, high = (middle, high) if fits(middle) else (low, middle - 64)
    return low


def gigabytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
