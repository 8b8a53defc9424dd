"""What a model's small files say, and which of it touches behaviour. Reads no weights; runs only the template."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from jeito.decode.template import Template
from jeito.engines.base import Card
from jeito.engines.folder import Folder
from jeito.errors import ModelError
from jeito.types import Value

# What a file's key does to a reply. Keys that are not here describe the network: another value fits no weights, or
# means nothing.
_GENERATION = {
    "temperature": ("sampling", "the default; a behaviour's value wins"),
    "top_k": ("sampling", "the default; a behaviour's value wins"),
    "top_p": ("sampling", "the default; a behaviour's value wins"),
    "min_p": ("sampling", "the default; a behaviour's value wins"),
    "typical_p": ("sampling", "the default; a behaviour's value wins"),
    "repetition_penalty": ("sampling", "the default; a behaviour's value wins"),
    "do_sample": ("sampling", "false: the likeliest token, always, unless a behaviour says otherwise"),
    "min_new_tokens": ("length", "the default; a behaviour's value wins"),
    "max_new_tokens": ("length", "the default; a behaviour's value wins"),
    "eos_token_id": ("end", "each of these tokens ends a reply"),
    "max_length": ("nothing", "not read: a reply's length is its own, whatever the prompt's"),
    "pad_token_id": ("nothing", "not read: nothing is padded here"),
}
_CONFIG = {
    "model_type": ("engine", "which code runs"),
    "architectures": ("engine", "which code runs"),
    "auto_map": ("engine", "code of the model's own; runs only with --trust-remote-code"),
    "eos_token_id": ("end", "ends a reply, where generation_config.json names no token"),
    "bos_token_id": ("prompt", "begins a text, where the tokenizer says so"),
    "max_position_embeddings": ("context", "the longest prompt and reply together"),
    "n_positions": ("context", "the longest prompt and reply together"),
    "n_ctx": ("context", "the longest prompt and reply together"),
    "sliding_window": ("context", "some layers see only so many tokens back"),
    "rope_scaling": ("context", "how positions beyond the trained ones are told apart"),
    "rope_parameters": ("context", "how positions are told apart"),
    "dtype": ("precision", "what `auto` loads, where it fits"),
    "torch_dtype": ("precision", "what `auto` loads, where it fits"),
    "quantization_config": ("precision", "the weights are quantised already"),
    "temperature": ("nothing", "not read from this file: it belongs in generation_config.json"),
    "top_p": ("nothing", "not read from this file: it belongs in generation_config.json"),
    "top_k": ("nothing", "not read from this file: it belongs in generation_config.json"),
    "repetition_penalty": ("nothing", "not read from this file: it belongs in generation_config.json"),
    "task_specific_params": ("nothing", "not read: a behaviour says what its task needs"),
}
_TOKENIZER = {
    "chat_template": ("template", "how a conversation becomes the prompt"),
    "bos_token": ("prompt", "named by templates"),
    "eos_token": ("end", "ends a reply; named by templates"),
    "add_bos_token": ("prompt", "whether a text begins with bos_token"),
    "additional_special_tokens": ("prompt", "marks that a template may write; plain text never becomes one"),
    "model_max_length": ("nothing", "not read: the context is config.json's"),
    "padding_side": ("nothing", "not read: nothing is padded here"),
}
_GGUF = {
    "general.architecture": ("engine", "which code runs"),
    "general.file_type": ("precision", "how the weights are quantised"),
    "general.sampling": ("sampling", "the default; a behaviour's value wins"),
    "context_length": ("context", "the longest prompt and reply together"),
    "sliding_window": ("context", "some layers see only so many tokens back"),
    "rope.scaling": ("context", "how positions beyond the trained ones are told apart"),
    "tokenizer.chat_template": ("template", "how a conversation becomes the prompt"),
    "tokenizer.ggml.eos_token_id": ("end", "ends a reply"),
    "tokenizer.ggml.eot_token_id": ("end", "ends a reply"),
    "tokenizer.ggml.bos_token_id": ("prompt", "begins a text, where add_bos_token says so"),
    "tokenizer.ggml.add_bos_token": ("prompt", "whether a text begins with bos"),
}
REASONING = ("<think>", "</think>", "<|channel|>", "[THINK]", "<reasoning>", "<|thinking|>", "<seed:think>")
PROBE_TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "jeito_probe_tool",
        "description": "x",
        "parameters": {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]},
    },
}


class Fact(Value):
    """One key of a model's files. `touches`: what of a reply it changes; architecture and nothing change none."""

    file: str
    key: str
    value: Any
    touches: str
    how: str = ""


class Trial(NamedTuple):
    """What the template does with a conversation, tried."""

    template: str
    system: bool
    tools: bool
    reasoning: tuple[str, ...]


def facts_of_folder(folder: Folder) -> list[Fact]:
    """Every key of config.json, generation_config.json and tokenizer_config.json."""
    files: tuple[tuple[str, Mapping[str, Any], dict[str, tuple[str, str]]], ...] = (
        ("generation_config.json", folder.generation, _GENERATION),
        ("tokenizer_config.json", folder.tokenizer, _TOKENIZER),
        ("config.json", folder.config, _CONFIG),
    )
    found = [Fact(file=file, key=key, value=value, touches=touches, how=how)
             for file, values, known in files
             for key, value, touches, how in _touching(values, known)]  # fmt: skip
    if folder.template is not None and "chat_template" not in folder.tokenizer:
        touches, how = _TOKENIZER["chat_template"]
        found.append(Fact(file="chat_template.jinja", key="(all)", value=folder.template, touches=touches, how=how))
    return sorted(found, key=lambda fact: fact.touches in ("nothing", "architecture"))


def _touching(
    values: Mapping[str, Any], known: Mapping[str, tuple[str, str]]
) -> Iterator[tuple[str, Any, str, str]]:  # fmt: skip
    for key, value in values.items():
        if key == "text_config" and isinstance(value, dict):
            for inner, its, touches, how in _touching(value, known):
                yield f"text_config.{inner}", its, touches, how
            continue
        touches, how = known.get(key, ("architecture" if known is _CONFIG else "nothing", ""))
        yield key, value, touches, how


def facts_of_gguf(file: str, metadata: Mapping[str, str]) -> list[Fact]:
    """Every key of a GGUF's header."""
    found = []
    for key, value in metadata.items():
        hit = next((known for known in _GGUF if key == known or key.endswith(f".{known}") or key.startswith(known)), "")
        usual = "nothing" if key.startswith(("general.", "tokenizer.")) else "architecture"
        touches, how = _GGUF.get(hit, (usual, ""))
        found.append(Fact(file=file, key=key, value=value, touches=touches, how=how))
    return sorted(found, key=lambda fact: fact.touches in ("nothing", "architecture"))


def tried(card: Card) -> Trial:
    """The template, tried: does an instruction reach the prompt, do tools, which marks of reasoning does it know?"""
    template = Template(card.template, card.special)
    text = (card.template or "") + " ".join(card.special.values())
    try:
        tools = template.shows(PROBE_TOOL)
    except ModelError:
        tools = False
    return Trial(template.name, template.has_system, tools, tuple(mark for mark in REASONING if mark in text))


def short(value: Any) -> str:
    """A value in one line."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = " ".join(text.split())
    return text if len(text) <= 48 else text[:47] + "…"
