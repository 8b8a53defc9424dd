"""A model folder as its small files describe it: config, generation config, tokenizer, template.

Reads JSON by hand, so that a model's card costs no import of torch and no weights. Knows nothing of running it.
"""

import re
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from jeito.engines.base import Card
from jeito.engines.weights import read_json
from jeito.errors import ModelError
from jeito.types import Sampling, Sourced

# Longest prompt chunk of one call: more would hold the lock for longer and gain no speed.
BATCH = 512
# For models whose files name no longest text: state-space ones have none.
UNNAMED_CONTEXT = 8192
_CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len", "seq_length", "n_ctx")
_KNOBS = (
    "temperature", "top_k", "top_p", "min_p", "typical_p", "repetition_penalty", "min_new_tokens", "max_new_tokens",
)  # fmt: skip


class Folder(NamedTuple):
    """The small files of a model, as read."""

    path: Path
    config: dict[str, Any]
    generation: dict[str, Any]
    tokenizer: dict[str, Any]
    template: str | None
    name: str

    @property
    def text(self) -> Mapping[str, Any]:
        return language_part(self.config)

    @property
    def longest(self) -> int | None:
        return longest_of(self.text)


def language_part(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of a config.json that describes the language model."""
    part = config.get("text_config")
    return part if isinstance(part, dict) else config


def longest_of(text: Mapping[str, Any]) -> int | None:
    """Tokens that a model was made for, when its config says so."""
    for key in _CONTEXT_KEYS:
        value = text.get(key)
        if type(value) is int and value > 0:  # not true, which is an int too
            return value
    return None


def read_folder(path: Path, name: str | None = None) -> Folder:
    """The small files, checked: a folder that cannot hold a model that runs is refused with what is missing."""
    if not path.is_dir():
        raise ModelError(f"there is no folder {str(path)!r}", hint="a local model is a folder with a config.json")
    if not (path / "config.json").is_file():
        raise _without_config(path)
    config = read_json(path / "config.json")
    generation = path / "generation_config.json"
    tokenizer = path / "tokenizer_config.json"
    settings = read_json(tokenizer) if tokenizer.is_file() else {}
    extra = path / "special_tokens_map.json"
    if extra.is_file():
        settings = {**read_json(extra), **settings}
    return Folder(
        path=path,
        config=config,
        generation=read_json(generation) if generation.is_file() else {},
        tokenizer=settings,
        template=_template(path, settings),
        name=name or _name(path),
    )


def _without_config(path: Path) -> ModelError:
    if (path / "adapter_config.json").is_file():
        base = read_json(path / "adapter_config.json").get("base_model_name_or_path")
        return ModelError(
            f"{str(path)!r} is an adapter only; its base is {base!r}",
            hint=f"run the base with it: -m {base} and `adapter: [{{path: {path}}}]` in the behaviour",
        )
    ggufs = sorted(path.glob("*.gguf"))
    if ggufs:
        return ModelError(f"{str(path)!r} holds GGUF files, which llama.cpp runs", hint=f"-m {ggufs[0]}")
    return ModelError(
        f"{str(path)!r} has no config.json", hint="a model folder has config.json, a tokenizer and *.safetensors"
    )


def _name(path: Path) -> str:
    match = re.search(r"models--(.+?)--(.+?)[/\\]snapshots", str(path.absolute()))
    return f"{match[1]}/{match[2]}" if match else path.resolve().name


def _template(path: Path, settings: Mapping[str, Any]) -> str | None:
    file = path / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    found = settings.get("chat_template")
    if found is None and (path / "chat_template.json").is_file():
        found = read_json(path / "chat_template.json").get("chat_template")
    if isinstance(found, list):
        named = {entry.get("name"): entry.get("template") for entry in found if isinstance(entry, dict)}
        found = named.get("default")
    return found if isinstance(found, str) else None


def check_tokenizer(folder: Folder, *, trust_remote_code: bool) -> None:
    """Is there a tokenizer, and are the packages here that read it?"""
    path = folder.path
    if (path / "tokenizer.json").is_file() or (path / "vocab.txt").is_file():
        return
    if (path / "vocab.json").is_file() and (path / "merges.txt").is_file():
        return
    if "AutoTokenizer" in folder.tokenizer.get("auto_map", {}) and not trust_remote_code:
        raise ModelError(
            f"{folder.name!r} has a tokenizer that is code of its own", hint="trust its author: --trust-remote-code"
        )
    pieces = [*path.glob("tokenizer.model*"), *path.glob("*spiece.model"), *path.glob("sentencepiece*.model")]
    if list(path.glob("*.tiktoken")) or any(_is_tiktoken(file) for file in pieces):
        _need(folder, {"tiktoken": "tiktoken"})
    elif pieces:
        _need(folder, {"sentencepiece": "sentencepiece", "google.protobuf": "protobuf"})
    elif not (path / "tekken.json").is_file() and "AutoTokenizer" not in folder.tokenizer.get("auto_map", {}):
        raise ModelError(
            f"{str(path)!r} has no tokenizer", hint="copy tokenizer.json and tokenizer_config.json from its source"
        )


def _is_tiktoken(file: Path) -> bool:
    """Lines of base64 and a rank; sentencepiece's files are protobuf."""
    with file.open("rb") as opened:
        return re.match(rb"[A-Za-z0-9+/=]+ \d+\n", opened.read(200)) is not None


def _need(folder: Folder, modules: Mapping[str, str]) -> None:
    lacking = [package for module, package in modules.items() if not _is_here(module)]
    if lacking:
        raise ModelError(
            f"the tokenizer of {folder.name!r} needs {' and '.join(lacking)}", hint=f"pip install {' '.join(lacking)}"
        )


def _is_here(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # the package above it is missing
        return False


def context_of(folder: Folder, asked: int | None) -> int:
    """The longest text to allow: as asked, within what the model was made for."""
    return context_within(folder.longest, asked)


def context_within(longest: int | None, asked: int | None) -> int:
    """As asked, within the longest that there is; raises ModelError."""
    if asked is None:
        return longest or UNNAMED_CONTEXT
    if asked < 1 or (longest is not None and asked > longest):
        raise ModelError(f"a context of {asked} tokens: the model's is {longest}", hint=f"--context {longest}")
    return asked


def sampling_defaults(folder: Folder) -> dict[str, Sourced]:
    """The author's sampling values, where generation_config.json writes them down.

    What it leaves out stays neutral: transformers' own fall-backs (top_k 50) are not the author's.
    """
    file = folder.path / "generation_config.json"
    if not folder.generation:
        return {}
    lines = file.read_text(encoding="utf-8").splitlines()
    found: dict[str, Sourced] = {}

    def keep(knob: str, key: str, value: Any) -> None:
        line = next((i for i, text in enumerate(lines, 1) if f'"{key}"' in text), None)
        try:
            kept = getattr(Sampling.model_validate({knob: value}), knob)
        except ValidationError as error:
            raise ModelError(
                f"{str(file)!r} says {key}: {value!r}, which is out of range", hint=f"edit line {line} of {file}"
            ) from error
        found[knob] = Sourced(value=kept, source="model", file=file.name, line=line)

    for knob in _KNOBS:
        if folder.generation.get(knob) is not None:
            keep(knob, knob, folder.generation[knob])
    if folder.generation.get("do_sample") is False:
        keep("temperature", "do_sample", 0.0)
    return found


def special_texts(folder: Folder) -> dict[str, str]:
    """Texts of the special tokens that the tokenizer's files name, or, where they do not, the config's ids of them."""
    found = {}
    for key, value in folder.tokenizer.items():
        text = value.get("content") if isinstance(value, dict) else value
        if key.endswith("_token") and isinstance(text, str):
            found[key] = text
    for key in ("bos_token", "eos_token"):
        number = folder.text.get(f"{key}_id")
        text = _text_of(folder, number) if key not in found and isinstance(number, int) else None
        if text is not None:
            found[key] = text
    return found


def _text_of(folder: Folder, number: int) -> str | None:
    """A token's text by its id, from the vocabulary that the folder holds as JSON."""
    for text, known in _added_tokens(folder).items():
        if known == number:
            return text
    file = folder.path / "vocab.json"
    words = read_json(file) if file.is_file() else {}
    return next((text for text, known in words.items() if known == number), None)


def end_tokens(folder: Folder, eos: int | None) -> frozenset[int]:
    """Tokens that end a reply: what generation_config.json says, else config.json; and the tokenizer's own."""
    given = folder.generation.get("eos_token_id", folder.text.get("eos_token_id"))
    ends = set(given) if isinstance(given, list) else {given}
    return frozenset(token for token in ends | {eos} if isinstance(token, int))


def versions_of(precision: str) -> dict[str, str]:
    """Versions of the libraries that decide a logit."""
    packages = ["torch", "transformers", "tokenizers"]
    if precision in ("nf4", "int8"):
        packages.append("bitsandbytes")
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def card_of(folder: Folder, *, precision: str, device: str, slots: int, context: int, size: int) -> Card:
    """The card, from the small files alone."""
    ids = _added_tokens(folder)
    special = special_texts(folder)
    bos = folder.text.get("bos_token_id")
    eos = ids.get(special.get("eos_token", ""))
    return Card(
        name=folder.name,
        engine="transformers",
        precision=precision,
        device=device,
        vocabulary=int(folder.text.get("vocab_size", 0)),
        context=context,
        slots=slots,
        batch=BATCH,
        bos=ids.get(special.get("bos_token", ""), bos if isinstance(bos, int) else None),
        ends=end_tokens(folder, eos),
        add_bos=_adds_bos(folder, special.get("bos_token")),
        template=folder.template,
        special=special,
        defaults=sampling_defaults(folder),
        bytes=size,
        versions=versions_of(precision),
        abilities=frozenset({"adapters", "steering"}),
    )


def _added_tokens(folder: Folder) -> dict[str, int]:
    decoder = folder.tokenizer.get("added_tokens_decoder")
    found = {}
    if isinstance(decoder, dict):
        found = {entry["content"]: int(number) for number, entry in decoder.items()}
    file = folder.path / "tokenizer.json"
    if file.is_file():
        found |= {entry["content"]: int(entry["id"]) for entry in read_json(file).get("added_tokens", [])}
    return found


def _adds_bos(folder: Folder, bos: str | None) -> bool:
    """Does the tokenizer put its first token before a plain text?"""
    said = folder.tokenizer.get("add_bos_token")
    if isinstance(said, bool):
        return said and bos is not None
    file = folder.path / "tokenizer.json"
    if not file.is_file():
        # The old rule of Llama's own tokenizer, whose files may leave it out.
        return "Llama" in str(folder.tokenizer.get("tokenizer_class")) and bos is not None
    post = read_json(file).get("post_processor") or {}
    for step in post.get("processors", [post]):
        single = step.get("single") or [{}]
        if single[0].get("SpecialToken", {}).get("id") == bos:
            return bos is not None
    return False
