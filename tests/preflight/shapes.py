"""Repositories by their shapes: what each lists, how long its files are, and what the small ones say."""

import json
import struct
from typing import Any

from tests.preflight.hub import Sparse

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TOOLS = "{% if tools %}<tools>{{ tools | tojson }}</tools>{% endif %}" + CHATML
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 64, "hidden_size": 8,
    "max_position_embeddings": 2048, "bos_token_id": 1, "eos_token_id": 2, "dtype": "bfloat16",
}  # fmt: skip
Files = dict[str, bytes | Sparse]


def packed(value: Any) -> bytes:
    return json.dumps(value).encode()


def tensors(rows: int = 64, width: int = 8, layers: int = 1, more: int = 0) -> Sparse:
    """A safetensors file of zeros that is `more` bytes longer than it should be."""
    shapes = {"model.embed_tokens.weight": [rows, width]}
    shapes |= {f"model.layers.{number}.mlp.weight": [width, width] for number in range(layers)}
    header, at = {}, 0
    for name, (high, wide) in shapes.items():
        header[name] = {"dtype": "BF16", "shape": [high, wide], "data_offsets": [at, at + 2 * high * wide]}
        at += 2 * high * wide
    raw = packed(header)
    return Sparse(struct.pack("<Q", len(raw)) + raw, 8 + len(raw) + at + more)


def tokenizer(size: int = 64) -> bytes:
    vocabulary = {f"t{number}": number for number in range(size)}
    return packed({"model": {"type": "BPE", "vocab": vocabulary, "merges": []}, "added_tokens": []})


def settings(template: str | None = TOOLS, **more: Any) -> bytes:
    given = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", **more}
    return packed(given | ({"chat_template": template} if template is not None else {}))


def whole(template: str | None = TOOLS, **config: Any) -> Files:
    """A sound chat model."""
    return {
        "config.json": packed(CONFIG | config),
        "generation_config.json": packed({"eos_token_id": 2}),
        "tokenizer_config.json": settings(template),
        "tokenizer.json": tokenizer(),
        "model.safetensors": tensors(),
    }


def without(files: Files, *names: str) -> Files:
    return {name: body for name, body in files.items() if name not in names}


def sharded(count: int = 3, size: int = 4_000_000_000, **config: Any) -> Files:
    """Shards whose sizes are what their index says, but for headers; each holds one tensor."""
    wide = size // 2 // 1024
    names = [f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]
    shards: Files = {}
    for number, name in enumerate(names):
        entry = {"dtype": "BF16", "shape": [1024, wide], "data_offsets": [0, 2048 * wide]}
        raw = packed({f"layers.{number}.weight": entry})
        shards[name] = Sparse(struct.pack("<Q", len(raw)) + raw, 8 + len(raw) + 2048 * wide)
    places = {f"layers.{number}.weight": name for number, name in enumerate(names)}
    index = packed({"metadata": {"total_size": 2048 * wide * count}, "weight_map": places})
    return without(whole(**config), "model.safetensors") | shards | {"model.safetensors.index.json": index}


def gguf(architecture: str = "llama", *, short: int = 0, keys: int | None = None) -> Sparse:
    """A GGUF of one tensor and a chat template, `short` bytes of it missing."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    said: dict[str, str | int] = {
        "general.architecture": architecture, "general.license": "mit", f"{architecture}.context_length": 4096,
        "tokenizer.chat_template": TOOLS, "tokenizer.ggml.eos_token_id": 2, "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.padding_token_id": 0,
    }  # fmt: skip
    raw = b"GGUF" + struct.pack("<IQQ", 3, 1, (len(said) + 1) if keys is None else keys)
    for key, value in said.items():
        kind = struct.pack("<I", 4 if isinstance(value, int) else 8)
        raw += text(key) + kind + (struct.pack("<I", value) if isinstance(value, int) else text(value))
    raw += text("tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, 3) + text("a") + text("b") + text("c")
    raw += text("token_embd.weight") + struct.pack("<IQQIQ", 2, 1_000_000, 4_000, 1, 0)
    return Sparse(raw, -(-len(raw) // 32) * 32 + 2 * 4_000_000_000 - short)


def dialogpt() -> Files:
    """microsoft/DialoGPT-medium: no template, and its end token pads."""
    config = {
        "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_ctx": 1024, "n_positions": 1024,
        "bos_token_id": 50256, "eos_token_id": 50256, "vocab_size": 50257, "n_embd": 1024,
        "task_specific_params": {"conversational": {"max_length": 1000}},
    }  # fmt: skip
    header = packed({"wte.weight": {"dtype": "F32", "shape": [50257, 1024], "data_offsets": [0, 205852672]}})
    return {
        "config.json": packed(config),
        "generation_config.json": packed({"bos_token_id": 50256, "eos_token_id": 50256, "pad_token_id": 50256}),
        "tokenizer_config.json": packed({"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}),
        "vocab.json": packed({f"t{number}": number for number in range(50257)}),
        "merges.txt": b"#version: 0.2\n",
        "model.safetensors": Sparse(struct.pack("<Q", len(header)) + header, 8 + len(header) + 205852672),
        "pytorch_model.bin": Sparse(b"PK", 862_955_157),
        "tf_model.h5": Sparse(b"", 1_419_628_976),
    }


def mistral_7b() -> Files:
    """mistralai/Mistral-7B-Instruct: two shards of 14.5 GB, and the whole once more in another layout."""
    config = {
        "architectures": ["MistralForCausalLM"], "vocab_size": 32000, "max_position_embeddings": 32768,
        "model_type": "mistral", "sliding_window": None, "hidden_size": 4096,
    }  # fmt: skip
    files = sharded(2, 7_241_732_096, **config)
    files["tokenizer.model"] = b"".join(
        b"\n\x04\n\x02" + str(number % 100).zfill(2).encode() for number in range(32000)
    )
    files["tokenizer.json"] = tokenizer(32000)
    files["consolidated.safetensors"] = Sparse(b"", 14_483_498_224)
    template = (
        "{{ bos_token }}{% for message in messages %}"
        "{% if message.role == 'user' %}[INST] {{ message.content }} [/INST]"
        "{% elif message.role == 'assistant' %}{{ message.content }}{{ eos_token }}"
        "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
    )
    files["tokenizer_config.json"] = packed({"bos_token": "<s>", "eos_token": "</s>", "chat_template": template})
    return files
