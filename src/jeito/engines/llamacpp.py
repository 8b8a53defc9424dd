"""GGUF files by llama.cpp, on CPU or GPU: rows in, logits out. Knows nothing of prompts, sampling or who asks."""

import hashlib
import os
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from jeito import home
from jeito.engines.base import PLAIN, Card, Loading, Logits, Row, Shape, Tuning, tuning_of
from jeito.engines.llama_binding import library, version
from jeito.engines.llama_cells import Cells
from jeito.engines.llama_file import DEFAULT_CONTEXT, SLOTS, card_of, load_file, parts_of, read_outline
from jeito.engines.llama_tuning import LlamaTuner
from jeito.engines.meter import free_memory, taken
from jeito.engines.needs import SMALLER, gigabytes, longest
from jeito.engines.pieces import is_mark
from jeito.errors import EngineError, InputError, ModelError
from jeito.types import Adapter, Steering

# Tried in this order, and kept only if the self-test finds them exact on the very file: the first is cheaper.
SHAPES = (Shape(2, 32), Shape(8, 8), Shape(16, 16))
# Of llama.h's llama_token_attr.
CONTROL, USER_DEFINED = 1 << 3, 1 << 4


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
        budget=loading.budget,
        gpu_layers=0 if loading.device == "cpu" else -1,
        notify=notify,
    )


def fingerprint_of(path: Path, card: Card) -> str:
    """A GGUF's fingerprint on this build of llama.cpp; `card` may be one that was read without the weights."""
    digest = hashlib.sha256()
    for part in parts_of(path):
        digest.update(home.file_digest(part).encode())
    digest.update(repr((card.template, "llamacpp", card.precision, version())).encode())
    return digest.hexdigest()


def _check_budget(path: Path, loading: Loading, budget: int) -> None:
    """Weights and cache must fit, before the weights are read."""
    outline = read_outline(path)
    context = loading.context or min(outline.longest or DEFAULT_CONTEXT, DEFAULT_CONTEXT)
    found = outline.need(context=context)
    if found.total <= budget:
        return
    fits = longest(lambda length: outline.need(context=length).total <= budget, context)
    raise ModelError(
        f"{path.name!r} with {context:,} tokens takes {gigabytes(found.total)} (weights "
        f"{gigabytes(found.weights)}, texts {gigabytes(found.texts)}), the budget is {gigabytes(budget)}",
        hint=f"--context {fits}" if fits else f"{SMALLER}, or one of fewer bits",
    )


class LlamaEngine:
    """One GGUF in memory: its weights, one context of `card.context` cells that all slots share."""

    def __init__(
        self,
        path: Path,
        *,
        context: int | None = None,
        slots: int = SLOTS,
        threads: int | None = None,
        budget: int | None = None,
        gpu_layers: int = -1,
        notify: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.path, self._notify = path, notify
        start, before = time.perf_counter(), taken("cpu")
        self._model = load_file(path, vocab_only=False, gpu_layers=gpu_layers)
        with ExitStack() as undo:
            undo.callback(library().lib.llama_model_free, self._model)
            self.card: Card = card_of(self._model, path, context=context, slots=slots)
            self._threads = threads or usable_cores()
            slots += self.card.spare
            self._cells = Cells(self._model, cells=self.card.context, slots=slots, threads=self._threads)
            undo.pop_all()
        outline = read_outline(path)
        need = outline.need(context=self.card.context)
        self.card = replace(
            self.card,
            outside=self._outside(outline.token_bytes(), None if budget is None else budget - need.total),
            facts={
                "format": "gguf",
                "weights": {self.card.precision: self.card.bytes},
                "load_seconds": round(time.perf_counter() - start, 3),
                "memory": {"start": before, "load": taken(self.card.device)},
                "predicted": need._asdict(),
            },
        )
        self.tuner = LlamaTuner(self._model, path)
        self._exact: dict[str, tuple[Shape | None, str]] = {}
        self._vocab = library().lib.llama_model_get_vocab(self._model)
        self._pieces: dict[int, bytes] = {}

    def _outside(self, token_bytes: int, left: int | None) -> int:
        """How many tokens may rest outside, of a text's so many bytes: as many as inside, in what is left.

        That is of the budget, or else a quarter of what is free. On a GPU idle cells cost little, and copies much.
        Where a window has let go of cells, a copy would not be whole.
        """
        room = (free_memory("cpu") or 0) // 4 if left is None else max(0, left)
        if self.card.device != "cpu" or not self.card.rewinds or not token_bytes or self._cells.window:
            return 0
        return min(self.card.context, room // token_bytes)

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

    def marks(self) -> dict[int, str]:
        shelf = library()
        found = {}
        for token in range(self.card.vocabulary):
            kind = shelf.lib.llama_vocab_get_attr(self._vocab, token)
            if kind & (CONTROL | USER_DEFINED):
                name = shelf.ffi.string(shelf.lib.llama_vocab_get_text(self._vocab, token)).decode(errors="replace")
                if kind & CONTROL or is_mark(name):
                    found[token] = name
        return found

    def extend(self, rows: Sequence[Row], exact: bool = False) -> list[Logits]:
        tuning = tuning_of(rows)
        shape = self.exact(tuning)[0] if exact else None
        if exact and shape is None:
            raise EngineError(f"no exact replies here: {self.exact(tuning)[1]}")
        self._cells.wear(self.tuner.worn(tuning))
        return self._cells.extend(rows, shape)

    def interrupt(self) -> None:
        self._cells.interrupt()

    def fork(self, source: int, target: int, length: int) -> None:
        self._cells.runs.fork(source, target, length)

    def truncate(self, slot: int, length: int) -> None:
        self._cells.runs.truncate(slot, length)

    def least(self, slot: int) -> int:
        return self._cells.runs.least(slot) if self.card.rewinds else self._cells.runs.length(slot)

    def rest(self, slots: Collection[int]) -> int:
        return self._cells.runs.rest(slots)

    def tune(self, adapters: Sequence[Adapter], steering: Sequence[Steering]) -> Tuning:
        return self.tuner.tune(adapters, steering)

    def exact(self, tuning: Tuning = PLAIN) -> tuple[Shape | None, str]:
        if (ways := tuning.ways()) not in self._exact:
            self._exact[ways] = self._recall_exact(tuning)
        return self._exact[ways]

    def _recall_exact(self, tuning: Tuning) -> tuple[Shape | None, str]:
        if not self.card.rewinds:
            return None, "a recurrent state cannot be rewound"
        key = f"{self.fingerprint()} threads={self._threads}" + (f" under {tuning.ways()}" if tuning.adapters else "")
        kept = home.recall("exact", key)
        if kept is None:
            self._notify("testing, once for this file, in which shape of call replies are exact …")
            try:
                kept = self._test_exact(tuning)
            except EngineError as error:
                return None, f"the self-test could not run: {error}"
            home.remember("exact", key, kept)
        if not kept:
            return None, "no shape of call gave the same logits alone and among others on this file and build"
        return Shape(*kept), f"tested on this file with {version()}"

    def _test_exact(self, tuning: Tuning) -> list[int]:
        from jeito.engines.llama_selftest import is_exact

        for shape in SHAPES:
            if is_exact(self._model, shape, self.card.vocabulary, self._threads, self.tuner.worn(tuning)):
                return [shape.low, shape.high]
        return []

    def fingerprint(self) -> str:
        return fingerprint_of(self.path, self.card)

    def close(self) -> None:
        if self._model is not None:
            self._cells.close()
            library().lib.llama_model_free(self._model)
            self._model = None
