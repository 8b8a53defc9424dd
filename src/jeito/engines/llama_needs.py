"""What a GGUF needs of memory in llama.cpp, by part, from its header alone. Knows nothing of the library itself."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jeito.engines.folder import BATCH
from jeito.engines.gguf_header import Header, Value
from jeito.engines.needs import Layers, Need, is_count

# What the process grows by besides, measured on CPUs (`bench/fit.py`).
LLAMA_BESIDE = 31_000_000


class GgufOutline(NamedTuple):
    """What decides the memory that a GGUF takes: its metadata, and the bytes of its tensors, of all its parts."""

    name: str
    metadata: Mapping[str, Value]
    weights: int
    unread: int = 0
    """Of them, what computing one token does not read."""

    def said(self, key: str) -> Any:
        """A count of the architecture's own, or a list of them by layer: none where it is not said."""
        found = self.metadata.get(f"{self.metadata.get('general.architecture')}.{key}")
        counts = found if isinstance(found, list) else [found]
        return found if counts and all(map(is_count, counts)) else None

    def count(self, key: str) -> int:
        """A count; of one for each layer, the greatest; 0 where it is not said."""
        found = self.said(key) or 0
        return int(max(found)) if isinstance(found, list) else int(found)

    def layers(self) -> Layers:
        count = self.count("block_count")
        heads = self.said("attention.head_count_kv") or self.said("attention.head_count") or 0
        kept = sum(1 for one in heads if one) if isinstance(heads, list) else count if heads else 0
        shared = min(kept, self.count("attention.shared_kv_layers"))
        window = self.said("attention.sliding_window")
        pattern = self.said("attention.sliding_window_pattern")
        sliding = sum(map(bool, pattern)) if isinstance(pattern, list) else 0
        if not isinstance(window, int) or window < 1:
            window, sliding = None, 0
        return Layers(kept - shared - sliding, sliding, shared, count - kept, window if sliding else None)

    def token_bytes(self) -> int:
        """Keys and values of one token in half precision, all layers; 0 where the file does not say."""
        count, heads = self.count("block_count"), self.said("attention.head_count")
        width, most = self.count("embedding_length"), self.count("attention.head_count")
        if not most or not count:
            return 0
        kept = self.said("attention.head_count_kv") or heads
        total = sum(kept) if isinstance(kept, list) else kept * count
        shared = self.layers().shared * (total // count)
        each = sum(self.count(f"attention.{one}_length") or width // most for one in ("key", "value"))
        return int(2 * (total - shared) * each)

    def need(self, *, context: int) -> Need:
        """Memory with the context full; all slots share it."""
        width = self.count("embedding_length")
        inner = self.count("feed_forward_length") or 4 * width
        # As for transformers, in float32; its mask is in half precision.
        work = BATCH * (6 * width + 3 * inner) * 4 + BATCH * context * 2
        texts = self.token_bytes() * context
        peak = self.weights + texts + work + LLAMA_BESIDE
        return Need(self.weights, texts, work, self.weights + texts, self.weights, LLAMA_BESIDE, peak)

    @property
    def longest(self) -> int | None:
        return self.count("context_length") or None


def unread(headers: Sequence[Header]) -> int:
    """Bytes of a GGUF's parts that computing one token does not read: embeddings by row, experts that do not act."""
    sizes = {tensor.name: tensor.bytes for header in headers for tensor in header.tensors}
    found = sizes.get("token_embd.weight", 0) if "output.weight" in sizes else 0
    found += sizes.get("per_layer_token_embd.weight", 0)
    said = headers[0].metadata
    kind = said.get("general.architecture")
    count, acting = (said.get(f"{kind}.{key}") for key in ("expert_count", "expert_used_count"))
    if isinstance(count, int) and isinstance(acting, int) and 0 <= acting <= count > 0:
        found += sum(size for name, size in sizes.items() if "_exps." in name) * (count - acting) // count
    return found
