"""The model that an adapter is trained on: found and checked by its small files, then loaded for training.

Not the engine that runs it: that one lays NF4's weights out anew at its first pass, and then they cannot be learned
through.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple

from jeito.decode.dialects import detect
from jeito.decode.template import Template
from jeito.engines.base import Loading
from jeito.engines.folder import Folder, check_tokenizer, end_tokens, special_texts
from jeito.engines.needs import Outline
from jeito.engines.pieces import Pieces
from jeito.engines.remote_open import is_remote
from jeito.engines.transformers import best_device, check_architecture, check_words, find, prepare_torch
from jeito.engines.transformers_weights import load_model, load_tokenizer, quietly, returning_memory
from jeito.engines.weights import Weights, check_types, find_weights
from jeito.errors import InputError, ModelError
from jeito.run.open import engine_of, parse


class Base(NamedTuple):
    """A base before its weights are read."""

    reference: str
    folder: Folder
    weights: Weights
    tokenizer: Any
    template: Template
    ends: frozenset[int]
    device: str
    precision: str
    """As it was asked for; `auto`: to be chosen."""

    @property
    def outline(self) -> Outline:
        return Outline(self.folder.name, self.folder.config, self.weights.tensors)

    def tokens(self, text: str) -> list[int]:
        """As prompts are tokenized: with the first token where texts begin with one, and never two."""
        encoded = self.tokenizer(text, add_special_tokens=False, verbose=False).input_ids
        first = self.tokenizer("", verbose=False).input_ids[:1]
        begins = first == [self.tokenizer.bos_token_id] and encoded[:1] != first
        return [*first, *encoded] if begins else list(encoded)


def read_base(reference: str, loading: Loading, notify: Callable[[str], None] = lambda text: None) -> Base:
    """All but the weights. Raises ModelError, and InputError for a reference that names no model to train."""
    asked = parse(reference)
    is_gguf = asked.target.endswith(".gguf") or asked.engine == "llamacpp"
    if is_remote(asked.target) or is_gguf or engine_of(asked) == "toy":
        raise InputError(
            f"{reference!r} cannot be trained: it has no weights that transformers loads",
            hint="-m demo, a folder, or ORG/NAME: the model that the GGUF was made from",
        )
    loading = loading._replace(precision=asked.precision or loading.precision)
    check_words(loading)
    prepare_torch()
    with quietly():
        folder = find(asked.target, asked.within, notify)
        check_tokenizer(folder, trust_remote_code=loading.trust_remote_code)
        weights = find_weights(folder.path, allow_pickle=loading.allow_pickle)
        check_types(weights, folder.config, folder.name)
        check_architecture(folder, trust_remote_code=loading.trust_remote_code)
        tokenizer = load_tokenizer(folder, trust_remote_code=loading.trust_remote_code)
    if folder.config.get("quantization_config"):
        raise ModelError(f"{folder.name!r} is quantised already", hint="train on the model that it was made from")
    names = Pieces(tokenizer).marks().values()
    template = Template(folder.template, special_texts(folder), detect(folder.template, names), names)
    return Base(
        reference, folder, weights, tokenizer, template, end_tokens(folder, tokenizer.eos_token_id),
        loading.device or best_device(), loading.precision,
    )  # fmt: skip


def load_base(base: Base, precision: str, loading: Loading) -> Any:
    """transformers' own model, its weights frozen. NF4 computes in bf16 where nothing is said and the device can."""
    torch: Any = import_module("torch")
    if not base.device.startswith("cuda") or torch.cuda.is_bf16_supported(including_emulation=False):
        loading = loading._replace(compute=loading.compute or "bf16")
    with quietly(), returning_memory():
        model = load_model(
            base.folder, precision, loading, base.device, use_safetensors=base.weights.format == "safetensors"
        )
    return model.requires_grad_(False)
