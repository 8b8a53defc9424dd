"""From a reference to facts: what files there are, how long, and what their small ones say. No weights are read.

Knows nothing of what is good or bad: verdict.py does.
"""

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field

from jeito.engines.demo import demo_file
from jeito.engines.folder import language_part, longest_of
from jeito.engines.gguf_header import Header, Omitted, read_header
from jeito.engines.llama_needs import unread
from jeito.engines.transformers import locate
from jeito.errors import InputError, ModelError
from jeito.preflight.gguf import HUB, SHARD, choose_gguf
from jeito.preflight.hub import PATIENCE, WAIT, Refused, Unreachable, open_repository
from jeito.preflight.source import (
    LONGEST_INDEX,
    FolderSource,
    SafetensorsHeader,
    Source,
    Unreadable,
    read_object,
    read_safetensors,
    read_text,
)  # fmt: skip
from jeito.preflight.vocabulary import count_tokens
from jeito.types import Value

INDEX, PICKLE_INDEX = "model.safetensors.index.json", "pytorch_model.bin.index.json"
# Room that headers of shards take beside their tensors: names, shapes and offsets, padded.
_HEADER_ROOM = 1024
T = TypeVar("T")


class Index(Value):
    """A map of shards: the files that it names, how many tensors it places, and their bytes, where it says so."""

    file: str
    shards: tuple[str, ...]
    tensors: int
    bytes: int | None


class Facts(Value):
    """All that can be known of a model without its weights. What could not be read is in `unreadable`, with why."""

    reference: str
    name: str
    asked: str
    place: Literal["hub", "cache", "folder", "file"]
    files: dict[str, int | None]
    digests: dict[str, str] = Field(default_factory=dict)
    revision: str | None = None
    refused: Refused | None = None
    away: str | None = None
    gated: bool = False
    private: bool = False
    licence: str | None = None
    base: tuple[str, ...] = ()
    config: dict[str, Any] | None = None
    generation: dict[str, Any] = Field(default_factory=dict)
    tokenizer: dict[str, Any] = Field(default_factory=dict)
    adapter: dict[str, Any] | None = None
    template: str | None = None
    index: Index | None = None
    headers: dict[str, SafetensorsHeader] = Field(default_factory=dict)
    gguf_file: str | None = None
    gguf: dict[str, Any] | None = None
    gguf_header: int = 0
    gguf_unread: int = 0
    quantisation: str | None = None
    vocabulary: int | None = None
    unreadable: dict[str, str] = Field(default_factory=dict)
    requests: int = 0
    bytes: int = 0

    @property
    def text(self) -> Mapping[str, Any]:
        """The part of the config that describes the language model."""
        return language_part(self.config or {})

    @property
    def longest(self) -> int | None:
        """Tokens that the model was made for, where its files say so."""
        said = self.gguf or {}
        found = said.get(f"{said.get('general.architecture')}.context_length")
        return found if type(found) is int and found > 0 else longest_of(self.text)


def find(
    target: str,
    revision: str | None = None,
    *,
    headers: bool = False,
    fresh: bool = False,
    wait: float = WAIT,
    patience: float = PATIENCE,
) -> Facts:
    """The facts of `demo`, FILE.gguf, a folder or ORG/NAME[:QUANTISATION].

    `headers`: of every weight file. `fresh`: by the hub's files, not by what the cache holds of them.

    Raises ModelError for what names no model, and where neither hub nor cache answers.
    """
    if target.startswith(("http://", "https://")):
        raise ModelError(f"{target!r} is a server: it says nothing of its files", hint="jeito check ORG/NAME")
    if target == "toy":
        raise ModelError("the toy has no files", hint="jeito check demo")
    path = demo_file() if target == "demo" else Path(os.path.expanduser(target))
    if os.path.isdir(path) or os.path.isfile(path):
        if revision:
            raise InputError(f"what lies here has no revision {revision!r}", hint=f"jeito check {target}")
        return _local(target, path, headers=headers)
    match = HUB.fullmatch(target)
    if not match or target.endswith(".gguf"):
        raise ModelError(f"there is no file and no folder {target!r}", hint="a folder, FILE.gguf or ORG/NAME")
    name, quantisation = match[1], match[2]
    try:
        repository = open_repository(name, revision, fresh=fresh, wait=wait, patience=patience)
    except Unreachable as away:
        return _cached(target, name, revision, quantisation, away)
    found = _Reader(repository, quantisation=quantisation).read(headers=headers)
    return Facts(
        **found, reference=target, asked=name, name=repository.name, place="hub", revision=repository.revision or None,
        digests=dict(repository.digests), refused=repository.refused, gated=repository.gated,
        private=repository.private, **_card(repository.card), requests=repository.requests, bytes=repository.received,
    )  # fmt: skip


def _local(target: str, path: Path, *, headers: bool) -> Facts:
    if path.is_dir():
        found = _Reader(FolderSource(path)).read(headers=True)
        return Facts(**found, reference=target, asked=target, name=path.resolve().name, place="folder", **_readme(path))
    if not path.name.endswith(".gguf"):
        raise ModelError(f"{target!r} is a file, and no GGUF", hint="jeito check FOLDER, or FILE.gguf")
    shard = SHARD.fullmatch(path.name)
    parts = path.parent.glob(f"{shard[1]}-*-of-{shard[3]}.gguf") if shard else [path]
    source = FolderSource(path.parent, tuple(part.name for part in parts))
    found = _Reader(source).read(headers=headers)
    return Facts(**found, reference=target, asked=target, name=path.name, place="file")


def _cached(target: str, name: str, revision: str | None, quantisation: str | None, away: Unreachable) -> Facts:
    """What the hub's cache holds, where the hub itself cannot be asked."""
    try:
        folder, _ = locate(name, revision)
    except ModelError as error:
        raise ModelError(f"{away}, and its cache has no {name!r}", hint=away.hint or error.hint) from away
    names = tuple(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    found = _Reader(FolderSource(folder, names), quantisation=quantisation).read(headers=True)
    return Facts(
        **found, reference=target, asked=name, name=name, place="cache", revision=folder.name, away=str(away),
        **_readme(folder),
    )  # fmt: skip


def _readme(path: Path) -> dict[str, Any]:
    """Licence and base from the front matter of a README.md."""
    import yaml

    try:
        text = (path / "README.md").read_text(encoding="utf-8", errors="replace")
        match = re.match(r"---\s*\n(.*?)\n---", text[:100_000], re.DOTALL)
        card = yaml.safe_load(match[1]) if match else {}
    except (OSError, yaml.YAMLError):
        card = {}
    return _card(card if isinstance(card, dict) else {})


def _card(card: Mapping[str, Any]) -> dict[str, Any]:
    licence, base = card.get("license"), card.get("base_model")
    if isinstance(licence, list):
        licence = ", ".join(map(str, licence))
    if licence == "other":
        licence = str(card.get("license_name") or "other")
    bases = base if isinstance(base, list) else [base]
    return {
        "licence": licence if isinstance(licence, str) else None,
        "base": tuple(one for one in bases if isinstance(one, str)),
    }


class _Reader:
    """Reads what is there to read, in an order that needs few requests; what fails is noted and does not end it."""

    def __init__(self, source: Source, *, quantisation: str | None = None) -> None:
        self.source = source
        # A name that leaves its folder is reported, and never read.
        self.names = [name for name in source.files if is_safe(name)]
        self.quantisation = quantisation
        self.unreadable: dict[str, str] = {}

    def read(self, *, headers: bool) -> dict[str, Any]:
        """Keywords of Facts."""
        chosen = choose_gguf(self.names, self.quantisation)
        if self.quantisation:  # of which no other file says anything
            found: dict[str, Any] = {"files": dict(self.source.files), "quantisation": self.quantisation}
            return found | (self._gguf(chosen) if chosen else {}) | {"unreadable": self.unreadable}
        config = self._object("config.json")
        tokenizer = self._object("tokenizer_config.json") or {}
        if not {"eos_token", "bos_token"} <= tokenizer.keys():
            tokenizer = (self._object("special_tokens_map.json") or {}) | tokenizer
        index = self._index()
        found = {
            "files": dict(self.source.files),
            "config": config,
            "generation": self._object("generation_config.json") or {},
            "adapter": self._object("adapter_config.json"),
            "tokenizer": tokenizer,
            "template": self._template(tokenizer),
            "index": index,
            "headers": self._headers(index, always=headers),
            "vocabulary": count_tokens(self.source, self.names, tokenizer, self._try),
        }
        if chosen and not (config and self._has_weights()):
            found |= self._gguf(chosen)
        return found | {"unreadable": self.unreadable}

    def _try(self, name: str, read: Callable[[], T]) -> T | None:
        try:
            return read()
        except ModelError as error:
            self.unreadable[name] = str(error)
            return None

    def _object(self, name: str) -> dict[str, Any] | None:
        return self._try(name, lambda: read_object(self.source, name)) if name in self.names else None

    def _template(self, tokenizer: Mapping[str, Any]) -> str | None:
        file = "chat_template.jinja"
        if file in self.names:
            return self._try(file, lambda: read_text(self.source, file))
        found = tokenizer.get("chat_template")
        if found is None:
            found = (self._object("chat_template.json") or {}).get("chat_template")
        if isinstance(found, list):
            named = {entry.get("name"): entry.get("template") for entry in found if isinstance(entry, dict)}
            found = named.get("default")
        return found if isinstance(found, str) else None

    def _has_weights(self) -> bool:
        return any(name.endswith((".safetensors", ".bin", ".pt", ".pth")) for name in self.names)

    def _index(self) -> Index | None:
        safe = any(name.endswith(".safetensors") and "/" not in name for name in self.names)
        file = next((name for name in ((INDEX,) if safe else (INDEX, PICKLE_INDEX)) if name in self.names), None)
        raw = self._try(file, lambda: read_object(self.source, file, LONGEST_INDEX)) if file else None
        entries = raw.get("weight_map") if raw else None
        if not file or not raw or not isinstance(entries, dict) or not entries:
            if file and raw is not None:
                self.unreadable[file] = f"{file!r} has no weight_map"
            return None
        metadata = raw.get("metadata")
        size = metadata.get("total_size") if isinstance(metadata, dict) else None
        shards = tuple(sorted({str(shard) for shard in entries.values()}))
        number = int(size) if isinstance(size, int | float) and 0 <= size < 1e18 else None
        return Index(file=file, shards=shards, tensors=len(entries), bytes=number)

    def _headers(self, index: Index | None, *, always: bool) -> dict[str, SafetensorsHeader]:
        """Headers of safetensors, where sizes alone do not settle whether they are whole."""
        if index and not always and _sizes_settle(index, self.source.files):
            return {}
        wanted = index.shards if index else [name for name in self.names if "/" not in name]
        found = {}
        for name in wanted:
            if name.endswith(".safetensors") and name in self.names:
                header = self._try(name, lambda name=name: read_safetensors(self.source, name))  # type: ignore[misc]
                if header:
                    found[name] = header
        return found

    def _part(self, name: str) -> Header | None:
        return self._try(name, lambda: read_gguf(self.source, name))

    def _gguf(self, chosen: list[str]) -> dict[str, Any]:
        file = chosen[0]
        header = self._part(file)
        if header is None:
            return {"gguf_file": file}
        kept = {
            key: value
            for key, value in header.metadata.items()
            if not isinstance(value, Omitted) and not (key.startswith("tokenizer.") and isinstance(value, list))
        }
        tokens = header.metadata.get("tokenizer.ggml.tokens")
        known = tokens.length if isinstance(tokens, Omitted) else len(tokens) if isinstance(tokens, list) else None
        return {
            "gguf_file": file,
            "gguf": kept,
            "gguf_header": header.data_start,
            "gguf_unread": unread([header, *(one for part in chosen[1:] if (one := self._part(part)))]),
            "template": kept.get("tokenizer.chat_template"),
            "vocabulary": known,
        }


def is_safe(name: str) -> bool:
    """Does a file name stay within its repository?"""
    return not (name.startswith(("/", "\\", "~")) or ".." in re.split(r"[/\\]", name) or ":" in name or "\0" in name)


def _sizes_settle(index: Index, sizes: Mapping[str, int | None]) -> bool:
    """Do the shards' sizes make what the index says, but for headers? Then no part of a tensor is missing."""
    held = [sizes.get(shard) for shard in index.shards]
    known = [size for size in held if size is not None]
    if index.bytes is None or len(known) < len(held):
        return len(known) < len(held)  # a shard that is missing is a finding already
    return 0 <= sum(known) - index.bytes <= _HEADER_ROOM * (index.tensors + len(held))


def read_gguf(source: Source, name: str) -> Header:
    """A GGUF's header; raises ModelError."""
    size = source.files.get(name)
    if size is None:
        raise Unreadable(f"nobody says how long {name!r} is")
    return read_header(lambda start, length: source.read(name, start, length), size, name)
