"""A GGUF as its header describes it, and its loading by llama.cpp; read without weights but for the loading itself."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jeito.engines.base import Card
from jeito.engines.gguf_header import read_file_header
from jeito.engines.llama_binding import library, version
from jeito.engines.llama_cells import BATCH
from jeito.engines.llama_needs import GgufOutline, unread
from jeito.errors import ModelError
from jeito.types import Sourced

SLOTS = 16
MOST_SEQUENCES = 256  # that the library can tell apart in one context
# Longest context that is reserved unless more is asked for: the cache of a 135M model takes 23 KB a token.
DEFAULT_CONTEXT = 8192
# GGUF's names of the sampling values that a model's author recommends.
_SAMPLING_KEYS = {
    "general.sampling.temp": "temperature",
    "general.sampling.top_k": "top_k",
    "general.sampling.top_p": "top_p",
    "general.sampling.min_p": "min_p",
    "general.sampling.penalty_repeat": "repetition_penalty",
    "general.sampling.penalty_last_n": "repetition_window",
}


def parts_of(path: Path) -> list[Path]:
    """All files of a GGUF that is split into `…-00001-of-00003.gguf`; else the one."""
    match = re.fullmatch(r"(.*)-\d{5}-of-(\d{5})\.gguf", path.name)
    if not match:
        return [path]
    total = int(match[2])
    return [path.with_name(f"{match[1]}-{part:05d}-of-{total:05d}.gguf") for part in range(1, total + 1)]


def _check_file(path: Path) -> None:
    """What is surely no GGUF, before the library sees it."""
    for part in parts_of(path):
        if not os.path.isfile(part):  # unlike Path.is_file, false for a name that no system takes
            raise ModelError(f"there is no file {str(part)!r}", hint="jeito ask -m demo … runs the demo model")
        try:
            with part.open("rb") as file:
                start = file.read(4)
        except OSError as error:
            raise ModelError(f"{str(part)!r} cannot be read: {error.strerror}", hint=f"ls -l {part}") from error
        if start != b"GGUF":
            raise ModelError(f"{str(part)!r} is no GGUF file: it starts with {start!r}", hint=f"file {part}")


def load_file(path: Path, *, vocab_only: bool, gpu_layers: int) -> Any:
    _check_file(path)
    shelf = library()
    params = shelf.lib.llama_model_default_params()
    params.vocab_only = vocab_only
    params.n_gpu_layers = gpu_layers if shelf.lib.llama_supports_gpu_offload() else 0
    with shelf.complaints() as complaints:
        model = shelf.lib.llama_model_load_from_file(os.fsencode(path), params)
    if model == shelf.ffi.NULL:
        why = "; ".join(complaints[:2]) or "llama.cpp does not say why"
        raise ModelError(f"{str(path)!r} cannot be loaded: {why}", hint=f"is it complete? ls -l {path}")
    lib = shelf.lib
    if not lib.llama_model_has_decoder(model) or lib.llama_model_is_diffusion(model):
        lib.llama_model_free(model)
        raise ModelError(f"{str(path)!r} is no model that writes one token after the other", hint="take a chat model")
    return model


def _sampling_defaults(metadata: Mapping[str, str], file: str) -> dict[str, Sourced]:
    """The author's sampling values from the GGUF's `general.sampling.*`."""
    found: dict[str, Sourced] = {}
    for key, knob in _SAMPLING_KEYS.items():
        text = metadata.get(key)
        if text is None:
            continue
        try:
            number = float(text)
        except ValueError as error:
            raise ModelError(f"{file}: {key} is {text!r}, not a number", hint="get the file again") from error
        value = int(number) if knob in ("top_k", "repetition_window") else number
        if value < 0:
            continue  # llama.cpp's "all": our neutral value
        found[knob] = Sourced(value=value, source="model", file=file)
    return found


def read_outline(path: Path) -> GgufOutline:
    """What decides the memory that a GGUF takes, all its parts counted; raises ModelError."""
    _check_file(path)
    headers = [read_file_header(part) for part in parts_of(path)]
    weights = sum(part.stat().st_size for part in parts_of(path)) - headers[0].data_start
    return GgufOutline(path.name, headers[0].metadata, weights, unread(headers))


def read_card(path: Path) -> Card:
    """What a GGUF says of itself, read without its weights."""
    model = load_file(path, vocab_only=True, gpu_layers=0)
    try:
        return card_of(model, path, context=None, slots=SLOTS)
    finally:
        library().lib.llama_model_free(model)


def read_metadata(path: Path) -> dict[str, str]:
    """Every key of a GGUF's header, as llama.cpp writes its value; lists are cut to their beginning."""
    model = load_file(path, vocab_only=True, gpu_layers=0)
    shelf = library()
    buffer = shelf.ffi.new("char[]", 1 << 16)
    found: dict[str, str] = {}
    try:
        for index in range(shelf.lib.llama_model_meta_count(model)):
            shelf.lib.llama_model_meta_key_by_index(model, index, buffer, len(buffer))
            key = shelf.ffi.string(buffer).decode(errors="replace")
            shelf.lib.llama_model_meta_val_str_by_index(model, index, buffer, len(buffer))
            found[key] = shelf.ffi.string(buffer).decode(errors="replace")
    finally:
        shelf.lib.llama_model_free(model)
    return found


def _metadata(model: Any, *keys: str) -> dict[str, str]:
    shelf = library()
    found = {}
    buffer = shelf.ffi.new("char[]", 1024)
    for key in keys:
        if shelf.lib.llama_model_meta_val_str(model, key.encode(), buffer, 1024) >= 0:
            found[key] = shelf.ffi.string(buffer).decode(errors="replace")
    return found


def _special_texts(vocab: Any) -> dict[str, str]:
    shelf = library()
    lib = shelf.lib
    named = {
        "bos_token": lib.llama_vocab_bos(vocab),
        "eos_token": lib.llama_vocab_eos(vocab),
        "pad_token": lib.llama_vocab_pad(vocab),
    }
    texts = {name: lib.llama_vocab_get_text(vocab, token) for name, token in named.items() if token >= 0}
    return {name: shelf.ffi.string(text).decode(errors="replace") for name, text in texts.items()}


def card_of(model: Any, path: Path, *, context: int | None, slots: int) -> Card:
    shelf = library()
    lib, ffi = shelf.lib, shelf.ffi
    vocab = lib.llama_model_get_vocab(model)
    size = lib.llama_vocab_n_tokens(vocab)
    # Metadata, not llama_model_n_ctx_train: that one is not filled in when only the vocabulary is loaded.
    metadata = _metadata(model, "general.name", "general.architecture", "general.file_type", *_SAMPLING_KEYS)
    length_key = f"{metadata.get('general.architecture')}.context_length"
    trained = int(_metadata(model, length_key).get(length_key, DEFAULT_CONTEXT))
    if context is not None and not 1 <= context <= trained:
        raise ModelError(f"the model's context is {trained} tokens, not {context}", hint=f"--context {trained}")
    bos = lib.llama_vocab_bos(vocab)
    template = lib.llama_model_chat_template(model, ffi.NULL)
    file_type = int(metadata.get("general.file_type", lib.llama_model_ftype(model)))
    rewinds = not (lib.llama_model_is_recurrent(model) or lib.llama_model_is_hybrid(model))
    return Card(
        name=metadata.get("general.name") or path.stem,
        engine="llamacpp",
        precision=ffi.string(lib.llama_ftype_name(file_type)).decode(),
        device="gpu" if lib.llama_supports_gpu_offload() else "cpu",
        vocabulary=size,
        context=context or min(trained, DEFAULT_CONTEXT),
        slots=slots,
        batch=BATCH,
        bos=bos if bos >= 0 else None,
        ends=frozenset(token for token in range(size) if lib.llama_vocab_is_eog(vocab, token)),
        add_bos=bool(lib.llama_vocab_get_add_bos(vocab)),
        template=ffi.string(template).decode(errors="replace") if template != ffi.NULL else None,
        special=_special_texts(vocab),
        defaults=_sampling_defaults(metadata, path.name),
        bytes=lib.llama_model_size(model),
        spare=min(3 * slots, max(0, MOST_SEQUENCES - 1 - slots)) if rewinds else 0,
        rewinds=rewinds,
        versions={"llama.cpp": version()},
        abilities=frozenset({"adapters", "steering"}),
    )
