"""GGUF files by llama.cpp, on CPU or GPU: rows in, logits out. Knows nothing of prompts, sampling or who asks."""

import hashlib
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from jeito import home
from jeito.engines.base import Card, Loading, Logits, Row, Shape
from jeito.engines.llama_binding import library, version
from jeito.engines.llama_cells import BATCH, Cells
from jeito.engines.meter import taken
from jeito.engines.needs import gigabytes
from jeito.errors import EngineError, InputError, ModelError
from jeito.types import Sourced

SLOTS = 16
# Longest context that is reserved unless more is asked for: the cache of a 135M model takes 23 KB a token.
DEFAULT_CONTEXT = 8192
# Tried in this order, and kept only if the self-test finds them exact on the very file: the first is cheaper.
SHAPES = (Shape(2, 32), Shape(8, 8), Shape(16, 16))

# GGUF's names of the sampling values that a model's author recommends.
_SAMPLING_KEYS = {
    "general.sampling.temp": "temperature",
    "general.sampling.top_k": "top_k",
    "general.sampling.top_p": "top_p",
    "general.sampling.min_p": "min_p",
    "general.sampling.penalty_repeat": "repetition_penalty",
    "general.sampling.penalty_last_n": "repetition_window",
}


def usable_cores() -> int:
    """Physical cores that this process may use: its affinity and its cgroup's quota respected."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    cores = set()
    for cpu in allowed:
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        cores.add(siblings.read_text().strip() if siblings.exists() else str(cpu))
    quota = Path("/sys/fs/cgroup/cpu.max")
    limit, period = quota.read_text().split() if quota.exists() else ("max", "1")
    most = len(cores) if limit == "max" else max(1, int(limit) // int(period))
    return max(1, min(len(cores), most))


def _parts(path: Path) -> list[Path]:
    """All files of a GGUF that is split into `…-00001-of-00003.gguf`; else the one."""
    match = re.fullmatch(r"(.*)-\d{5}-of-(\d{5})\.gguf", path.name)
    if not match:
        return [path]
    total = int(match[2])
    return [path.with_name(f"{match[1]}-{part:05d}-of-{total:05d}.gguf") for part in range(1, total + 1)]


def _check_file(path: Path) -> None:
    """What is surely no GGUF, before the library sees it."""
    for part in _parts(path):
        if not os.path.isfile(part):  # unlike Path.is_file, false for a name that no system takes
            raise ModelError(f"there is no file {str(part)!r}", hint="jeito ask -m demo … runs the demo model")
        try:
            with part.open("rb") as file:
                start = file.read(4)
        except OSError as error:
            raise ModelError(f"{str(part)!r} cannot be read: {error.strerror}", hint=f"ls -l {part}") from error
        if start != b"GGUF":
            raise ModelError(f"{str(part)!r} is no GGUF file: it starts with {start!r}", hint=f"file {part}")


def _load(path: Path, *, vocab_only: bool, gpu_layers: int) -> Any:
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


def read_card(path: Path) -> Card:
    """What a GGUF says of itself, read without its weights."""
    model = _load(path, vocab_only=True, gpu_layers=0)
    try:
        return _card(model, path, context=None, slots=SLOTS)
    finally:
        library().lib.llama_model_free(model)


def read_metadata(path: Path) -> dict[str, str]:
    """Every key of a GGUF's header, as llama.cpp writes its value; lists are cut to their beginning."""
    model = _load(path, vocab_only=True, gpu_layers=0)
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


def _card(model: Any, path: Path, *, context: int | None, slots: int) -> Card:
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
        rewinds=not (lib.llama_model_is_recurrent(model) or lib.llama_model_is_hybrid(model)),
        versions={"llama.cpp": version()},
    )


def load(path: Path, loading: Loading, notify: Callable[[str], None]) -> "LlamaEngine":
    """A GGUF opened as wanted; raises InputError for what means nothing here, ModelError for what cannot be."""
    for said, word in ((loading.compute, "compute"), (not loading.double_quantisation, "single-quantisation")):
        if said:
            raise InputError(f"a GGUF file is quantised already: --{word} means nothing", hint=f"-m {path}")
    if loading.budget is not None:
        _check_budget(path, loading, loading.budget)
    return LlamaEngine(
        path,
        context=loading.context,
        slots=loading.slots or SLOTS,
        gpu_layers=0 if loading.device == "cpu" else -1,
        notify=notify,
    )


def _check_budget(path: Path, loading: Loading, budget: int) -> None:
    """The file and the cache must fit, before weights are read. All slots share the context's cells."""
    model = _load(path, vocab_only=True, gpu_layers=0)
    try:
        context = _card(model, path, context=loading.context, slots=SLOTS).context
        cell = _cell_bytes(model)
    finally:
        library().lib.llama_model_free(model)
    weights = sum(part.stat().st_size for part in _parts(path))
    if weights + cell * context <= budget:
        return
    fits = (budget - weights) // cell // 64 * 64 if cell else 0
    raise ModelError(
        f"{path.name!r} with {context:,} tokens takes {gigabytes(weights + cell * context)} (weights "
        f"{gigabytes(weights)}, texts {gigabytes(cell * context)}), the budget is {gigabytes(budget)}",
        hint=f"--context {fits}" if fits >= 256 else "take a smaller model, or one of fewer bits",
    )


def _cell_bytes(model: Any) -> int:
    """Keys and values of one token in half precision, by the file's metadata; 0 where that does not say."""
    prefix = _metadata(model, "general.architecture").get("general.architecture", "")
    names = {
        name: f"{prefix}.{name}"
        for name in (
            "block_count", "attention.head_count", "attention.head_count_kv", "embedding_length",
            "attention.key_length", "attention.value_length",
        )
    }  # fmt: skip
    said = _metadata(model, *names.values())
    try:
        found = {name: int(said[key]) for name, key in names.items() if key in said}
        heads = found["attention.head_count"]
        size = found["embedding_length"] // heads
        each = found.get("attention.key_length", size) + found.get("attention.value_length", size)
        return 2 * found["block_count"] * found.get("attention.head_count_kv", heads) * each
    except (KeyError, ValueError, ZeroDivisionError):  # a list of heads by layer, or no heads at all
        return 0


class LlamaEngine:
    """One GGUF in memory: its weights, one context of `card.context` cells that all slots share."""

    def __init__(
        self,
        path: Path,
        *,
        context: int | None = None,
        slots: int = SLOTS,
        threads: int | None = None,
        gpu_layers: int = -1,
        notify: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._path, self._notify = path, notify
        start = time.perf_counter()
        self._model = _load(path, vocab_only=False, gpu_layers=gpu_layers)
        with ExitStack() as undo:
            undo.callback(library().lib.llama_model_free, self._model)
            self.card: Card = _card(self._model, path, context=context, slots=slots)
            self._threads = threads or usable_cores()
            self._cells = Cells(self._model, cells=self.card.context, slots=slots, threads=self._threads)
            undo.pop_all()
        self.card = replace(
            self.card,
            facts={
                "format": "gguf",
                "weights": {self.card.precision: self.card.bytes},
                "load_seconds": round(time.perf_counter() - start, 3),
                "memory": {"load": taken(self.card.device)},
            },
        )
        self._vocab = library().lib.llama_model_get_vocab(self._model)
        self._pieces: dict[int, bytes] = {}

    def tokens(self, text: str, special: bool) -> list[int]:
        shelf = library()
        data = text.encode(errors="replace")
        size = len(data) + 8
        while True:
            ids = shelf.ffi.new("llama_token[]", size)
            count = shelf.lib.llama_tokenize(self._vocab, data, len(data), ids, size, False, special)
            if count >= 0:
                return list(ids[0:count])
            if -count <= size:
                raise EngineError(f"a text of {len(data)} bytes cannot be tokenized")
            size = -count

    def text(self, ids: Sequence[int]) -> bytes:
        return b"".join(self._pieces.get(token) or self._piece(token) for token in ids)

    def _piece(self, token: int) -> bytes:
        shelf = library()
        if not 0 <= token < self.card.vocabulary:
            raise EngineError(f"there is no token {token}: the vocabulary has {self.card.vocabulary}")
        size = 64
        while True:
            buffer = shelf.ffi.new("char[]", size)
            count = shelf.lib.llama_token_to_piece(self._vocab, token, buffer, size, 0, False)
            if count >= 0:
                self._pieces[token] = bytes(shelf.ffi.buffer(buffer, count))
                return self._pieces[token]
            size = -count

    def extend(self, rows: Sequence[Row], exact: bool = False) -> list[Logits]:
        shape = self.exact()[0] if exact else None
        if exact and shape is None:
            raise EngineError(f"no exact replies here: {self.exact()[1]}")
        return self._cells.extend(rows, shape)

    def fork(self, source: int, target: int, length: int) -> None:
        self._cells.fork(source, target, length)

    def truncate(self, slot: int, length: int) -> None:
        self._cells.truncate(slot, length)

    def exact(self) -> tuple[Shape | None, str]:
        if self._exact is None:
            self._exact = self._recall_exact()
        return self._exact

    _exact: tuple[Shape | None, str] | None = None

    def _recall_exact(self) -> tuple[Shape | None, str]:
        if not self.card.rewinds:
            return None, "a recurrent state cannot be rewound"
        key = f"{self.fingerprint()} threads={self._threads}"
        kept = home.recall("exact", key)
        if kept is None:
            self._notify("testing, once for this file, in which shape of call replies are exact …")
            try:
                kept = self._test_exact()
            except EngineError as error:
                return None, f"the self-test could not run: {error}"
            home.remember("exact", key, kept)
        if not kept:
            return None, "no shape of call gave the same logits alone and among others on this file and build"
        return Shape(*kept), f"tested on this file with {version()}"

    def _test_exact(self) -> list[int]:
        from jeito.engines.llama_selftest import is_exact

        for shape in SHAPES:
            if is_exact(self._model, shape, self.card.vocabulary, self._threads):
                return [shape.low, shape.high]
        return []

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for part in _parts(self._path):
            digest.update(home.file_digest(part).encode())
        digest.update(repr((self.card.template, "llamacpp", self.card.precision, version())).encode())
        return digest.hexdigest()

    def close(self) -> None:
        if self._model is not None:
            self._cells.close()
            library().lib.llama_model_free(self._model)
            self._model = None
