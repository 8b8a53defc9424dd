"""What training an adapter takes of memory, by part, before the base is loaded. Knows nothing of torch.

The formula follows what a decoder's layer keeps for its backward pass; it was compared with `bench/tune.py memory`.
"""

from typing import NamedTuple

from jeito.engines.needs import BYTES, TORCH_BESIDE, Outline
from jeito.engines.weights import is_quantised

# AdamW keeps two moments beside a weight and its gradient, all in float32.
ADAPTER = 4 * 4
# On a CPU, of what layers keep, how much the heap takes for it: glibc's holes between aligned pieces. Measured on three
# shapes, 1.26 to 1.52, 1.46 to 1.71 and 1.68 to 1.87; where layers are computed twice they go back, but for a constant.
WASTE = {"bf16": 1.33, "fp16": 1.33, "nf4": 1.6, "int8": 1.6, "fp32": 1.75}
LEFT = {"nf4": 90_000_000, "int8": 90_000_000}


class TrainingNeed(NamedTuple):
    """Bytes, at the moment when most is held."""

    weights: int
    adapter: int
    """Matrices, gradients, moments."""
    layers: int
    """What the layers keep for the backward pass of one row."""
    head: int
    """Logits where something is learned."""
    load: int
    """Most that is held while the weights are read and made."""
    peak: int
    """What the process, or the GPU, has to have room for."""


def training_need(
    outline: Outline, precision: str, *, rank: int, targets: frozenset[str], length: int, learned: int,
    checkpointing: bool, device: str = "cpu",
) -> TrainingNeed:  # fmt: skip
    """For rows of `length` tokens, of which at most `learned` are learned; an adapter on the layers of these names."""
    text = outline.counts()
    width = text.get("hidden_size") or text.get("n_embd") or 0
    inner = text.get("intermediate_size") or text.get("n_inner") or 4 * width
    count = text.get("num_hidden_layers") or text.get("n_layer") or 0
    each = BYTES.get(precision, 2)
    # What one layer keeps of a token. In fp32: the stream before both norms and what they give, queries, keys and
    # values spread over the heads, what attention gives and what its projection takes; gate, its activation, up and
    # their product. In 16 bits a LoRA takes a copy in float32 of what goes into each of its layers besides.
    layer = (36 * width + 16 * inner) if each == 4 else (40 * width + 10 * inner)
    whole, is_cpu = length * layer, device == "cpu"
    layers = count * length * width * each + whole if checkpointing else count * whole
    if is_cpu:
        layers = layers + LEFT.get(precision, 40_000_000) if checkpointing else int(layers * WASTE.get(precision, 1.0))
    head = learned * text.get("vocab_size", 0) * (each + 12)
    adapter = ADAPTER * adapter_parameters(outline, rank, targets)
    loaded = outline.need(precision, slots=0, context=0, device=device)
    peak = max(loaded.load, loaded.weights + adapter + layers + head) + (TORCH_BESIDE if is_cpu else 0)
    return TrainingNeed(loaded.weights, adapter, layers, head, loaded.load, peak)


def adapter_parameters(outline: Outline, rank: int, targets: frozenset[str]) -> int:
    """Of a LoRA on the linear layers of these names; on all of them where none is named."""
    matrices = (tensor for tensor in outline.tensors if is_quantised(tensor))
    names = ((tensor, tensor.name.removesuffix(".weight").rpartition(".")[2]) for tensor in matrices)
    return sum(rank * sum(tensor.shape) for tensor, name in names if not targets or name in targets)
