"""Random models of many architectures, small, as transformers has them and as a GGUF of the same weights."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

VOCABULARY, LAYERS, WIDTH, INNER, HEADS, KEYS, CONTEXT = 320, 3, 64, 96, 4, 2, 512
SIZES = {
    "vocab_size": VOCABULARY, "num_hidden_layers": LAYERS, "hidden_size": WIDTH, "intermediate_size": INNER,
    "num_attention_heads": HEADS, "num_key_value_heads": KEYS, "max_position_embeddings": CONTEXT,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "initializer_range": 0.2,
}  # fmt: skip
NORM = "attention.layer_norm_epsilon"


class Family(NamedTuple):
    """`config`: its class in transformers; `said`: what its GGUF says besides, by key after the architecture."""

    config: str
    architecture: str
    more: Mapping[str, Any] = MappingProxyType({})
    said: Mapping[str, Any] = MappingProxyType({})
    interleaved: bool = False
    """Are queries' and keys' rows in the order that llama.cpp turns neighbours in?"""
    one_more: bool = False
    """Does the GGUF keep norms' weights as 1 + what transformers keeps?"""


FAMILIES = {
    "llama": Family("LlamaConfig", "llama", interleaved=True),
    "mistral": Family("MistralConfig", "llama", {"sliding_window": None}, interleaved=True),
    "smollm3": Family("SmolLM3Config", "smollm3", {"no_rope_layer_interval": 4}, interleaved=True),
    "arcee": Family("ArceeConfig", "arcee", interleaved=True),
    "granite": Family(
        "GraniteConfig", "granite", {"embedding_multiplier": 2.0, "logits_scaling": 2.0, "residual_multiplier": 0.5,
        "attention_multiplier": 0.2}, {"embedding_scale": 2.0, "logit_scale": 2.0, "residual_scale": 0.5,
        "attention.scale": 0.2}, interleaved=True,
    ),
    "olmo": Family("OlmoConfig", "olmo", {}, {NORM: 1e-5}, interleaved=True),
    "olmo2": Family("Olmo2Config", "olmo2"),
    "qwen2": Family("Qwen2Config", "qwen2"),
    "qwen3": Family("Qwen3Config", "qwen3", {"head_dim": 16}),
    "gemma": Family("GemmaConfig", "gemma", {"head_dim": 16}, one_more=True),
    "gemma2": Family(
        "Gemma2Config", "gemma2", {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 64},
        {"attention.sliding_window": 64, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
        one_more=True,
    ),
    "gemma3": Family(
        "Gemma3TextConfig", "gemma3", {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 64},
        {"attention.sliding_window": 64}, one_more=True,
    ),
    "phi3": Family("Phi3Config", "phi3", {"sliding_window": None}),
    "stablelm": Family("StableLmConfig", "stablelm", {}, {NORM: 1e-5, "use_parallel_residual": False}),
    "starcoder2": Family("Starcoder2Config", "starcoder2", {"sliding_window": None}, {NORM: 1e-5}),
}  # fmt: skip


def made(family: Family) -> Any:
    """transformers' own model with random weights, its norms and biases too."""
    import torch
    import transformers

    config = getattr(transformers, family.config)(**SIZES, **family.more)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    for name, weight in model.named_parameters():
        if weight.ndim == 1:
            (weight.data.uniform_(-0.2, 0.2) if family.one_more or "bias" in name else weight.data.uniform_(0.8, 1.2))
    return model.requires_grad_(False)


def adapted(family: Family, folder: Path, *, seed: int = 1, spread: float = 0.3, **options: Any) -> Any:
    """peft's model with an adapter that changes what it says, written into the folder too."""
    import peft
    import torch

    wrapped = peft.get_peft_model(made(family), peft.LoraConfig(**{"r": 4, "target_modules": "all-linear", **options}))
    torch.manual_seed(seed)
    for name, weight in wrapped.named_parameters():
        if ".lora_" in name:
            torch.nn.init.normal_(weight, std=spread if ".lora_B" in name else 0.1)
    wrapped.save_pretrained(folder)
    return wrapped


def write(model: Any, family: Family, file: Path, kind: str = "F32") -> Path:
    """The same as a GGUF; `kind`: of its layers' matrices."""
    import gguf

    config, name = model.config, family.architecture
    architecture = next(number for number, known in gguf.MODEL_ARCH_NAMES.items() if known == name)
    names = gguf.get_tensor_name_map(architecture, LAYERS)
    head = getattr(config, "head_dim", None) or WIDTH // HEADS
    rope: dict[str, Any] = getattr(config, "rope_parameters", None) or {}
    rope = rope.get("full_attention", rope)
    said = {
        "context_length": CONTEXT, "embedding_length": WIDTH, "block_count": LAYERS, "feed_forward_length": INNER,
        "attention.head_count": HEADS, "attention.head_count_kv": KEYS, "attention.key_length": head,
        "attention.value_length": head, "attention.layer_norm_rms_epsilon": getattr(config, "rms_norm_eps", 1e-6),
        "rope.dimension_count": int(head * rope.get("partial_rotary_factor", 1.0)),
        "rope.freq_base": float(rope.get("rope_theta", 10000.0)), "vocab_size": VOCABULARY, **family.said,
    }  # fmt: skip
    writer = gguf.GGUFWriter(file, name)
    for key, value in said.items():
        add: Callable[[str, Any], None] = {bool: writer.add_bool, int: writer.add_uint32}.get(
            type(value), writer.add_float32
        )
        add(f"{name}.{key}", value)
    _tokens(writer)
    for key, weight in model.state_dict().items():
        found = names.get_name(key, (".weight", ".bias"))
        if found is None or (key == "lm_head.weight" and config.tie_word_embeddings):
            continue
        values = weight.float().numpy()
        if family.one_more and "norm" in key:
            values = values + 1
        if family.interleaved and ("q_proj" in key or "k_proj" in key):
            values = values.reshape(-1, 2, head // 2, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)
        is_matrix = values.ndim == 2 and found.startswith("blk.")
        dtype = gguf.GGMLQuantizationType[kind if is_matrix else "F32"]
        writer.add_tensor(found, gguf.quants.quantize(np.ascontiguousarray(values), dtype), raw_dtype=dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _tokens(writer: Any) -> None:
    """A vocabulary of single letters, since llama.cpp opens no model without one."""
    letters = [*map(chr, range(33, 127)), *map(chr, range(161, 173)), *map(chr, range(174, 256))]
    letters += [chr(256 + at) for at in range(256 - len(letters))]
    tokens = ["<pad>", "<s>", "</s>", *letters, "!!"]
    tokens += [f"<{at}>" for at in range(VOCABULARY - len(tokens))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in tokens[:3] else 1 for token in tokens])
    writer.add_token_merges(["! !"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
