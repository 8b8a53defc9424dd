"""One Hugging Face model in memory: rows in, logits out. Knows nothing of prompts, sampling, files or who asks."""

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from typing import Any

import numpy as np

from jeito import home
from jeito.engines.base import PLAIN, Card, Loading, Logits, Row, Shape, Tuning, tuning_of
from jeito.engines.folder import (
    Folder,
    end_tokens,
    versions_of,
)  # fmt: skip
from jeito.engines.meter import free_memory, taken
from jeito.engines.pieces import Pieces
from jeito.engines.slots import Slab, Work
from jeito.engines.slots_probe import Suited, suit
from jeito.engines.slots_selftest import is_exact
from jeito.engines.transformers_tuning import Tuner
from jeito.engines.transformers_weights import TORCH_NAMES, first_line, tensors_of
from jeito.engines.weights import Weights
from jeito.errors import EngineError, MemoryFull
from jeito.types import Adapter, Steering

# Rows of every pass of an exact call. Measured on 2 cores: where a pass costs by its weights, more rows are nearly
# free; where it costs by its rows (bf16 without bf16 instructions), fewer serve a lone reply better. A GPU takes 32
# hardly slower than 8.
WIDTHS = {"fp32": 16, "bf16": 4, "fp16": 4, "nf4": 8, "int8": 8}
WIDTH_ON_GPU = 32
# Tokens of one exact call, in several passes if need be: more would hold the lock for longer.
EXACT_BATCH = 64


class TransformersEngine:
    """One model in memory, and one memory for its sequences. `model` and `tokenizer` are transformers' own objects."""

    def __init__(
        self,
        folder: Folder,
        weights: Weights,
        model: Any,
        tokenizer: Any,
        card: Card,
        *,
        loading: Loading,
        facts: Mapping[str, Any],
        notify: Callable[[str], None],
    ) -> None:
        self._folder, self._weights, self._budget, self._notify = folder, weights, loading.budget, notify
        self.model, self.tokenizer = model, tokenizer
        self._torch: Any = import_module("torch")
        self._pieces = Pieces(tokenizer)
        self._device, self._precision = card.device, card.precision
        self._suited: Suited = suit(model, context=card.context, room=self._check_room)
        self.memory_of_slots = self._suited.make(card.slots)
        eos, bos = tokenizer.eos_token_id, tokenizer.bos_token_id
        self.card: Card = replace(
            card,
            vocabulary=self._vocabulary(),
            bos=bos if bos is not None else card.bos,
            ends=end_tokens(folder, eos),
            add_bos=bos is not None and _ids(tokenizer, "", added=True)[:1] == [bos],
            rewinds=self.memory_of_slots.rewinds,
            facts=self._facts(loading) | dict(facts),
            notes=self._notes(loading),
        )
        self.tuner = Tuner(model, card.name, weights.digest)
        self._exact: dict[str, tuple[Shape | None, str]] = {}
        self._fingerprint: str | None = None

    def _facts(self, loading: Loading) -> dict[str, Any]:
        by_dtype: dict[str, int] = {}
        for tensor in tensors_of(self.model):
            name = str(tensor.dtype).removeprefix("torch.")
            by_dtype[name] = by_dtype.get(name, 0) + tensor.nbytes
        facts: dict[str, Any] = {
            "format": self._weights.format,
            "weights": by_dtype,
            "attention": self.model.config._attn_implementation,
            "rows": "together" if self._suited.shares else "one by one",
        }
        if self._precision == "nf4":
            compute = next(word for word, name in TORCH_NAMES.items() if str(self.model.dtype) == f"torch.{name}")
            facts |= {"compute": compute, "double_quantisation": loading.double_quantisation}
        return facts

    def _notes(self, loading: Loading) -> tuple[str, ...]:
        notes = []
        if not self._suited.shares:
            notes.append(f"rows run one by one: {self._suited.why}")
        if loading.trust_remote_code and self._folder.config.get("auto_map"):
            notes.append("the model's own code ran (trust_remote_code)")
        if self._weights.format == "pickle":
            notes.append("the weights were read from a pickle (allow_pickle)")
        return tuple(notes)

    def _vocabulary(self) -> int:
        head = self.model.get_output_embeddings()
        size = getattr(head, "out_features", None)
        return int(size or self.model.config.get_text_config(decoder=True).vocab_size)

    def tokens(self, text: str, special: bool) -> list[int]:
        return _ids(self.tokenizer, text.encode(errors="replace").decode(), special=special)

    def text(self, ids: Sequence[int]) -> bytes:
        return self._pieces.text(ids)

    def marks(self) -> dict[int, str]:
        return self._pieces.marks()

    def extend(self, rows: Sequence[Row], exact: bool = False) -> list[Logits]:
        tuning = tuning_of(rows)
        shape = self.exact(tuning)[0] if exact else None
        if exact and shape is None:
            raise EngineError(f"no exact replies here: {self.exact(tuning)[1]}")
        self.tuner.use(tuning)
        self._check(rows, shape.high if shape else self.card.batch)
        work = [Work(row.slot, row.tokens, row.want) for row in rows]
        memory = self.memory_of_slots
        before = [memory.lengths[row.slot] for row in rows]
        try:
            if shape is not None:
                assert isinstance(memory, Slab)
                found = memory.append_exactly(work, shape.low)
            else:
                found = memory.append(work)
        except (RuntimeError, MemoryError, IndexError, ValueError, TypeError) as error:
            for row in rows:
                memory.mend(row.slot)
            if _is_out_of_memory(error):
                raise MemoryFull(
                    f"no room for {sum(len(row.tokens) for row in rows)} more tokens",
                    hint="fewer replies at once, or a shorter --context",
                ) from error
            raise EngineError(f"the model failed at a call of {len(rows)} rows: {first_line(error)}") from error
        # One way from the device for all rows, which waits for it once.
        values = self._torch.cat(found).float().cpu().numpy()
        ends = np.cumsum([tensor.shape[0] for tensor in found])[:-1]
        logits = np.split(values, ends)
        if np.isnan(values).any():
            for row, length in zip(rows, before, strict=True):
                memory.truncate(row.slot, length)
            raise EngineError(
                f"the model gave no numbers in {self.card.precision}: its values overflow", hint="--precision bf16"
            )
        return logits

    def interrupt(self) -> None:
        """torch has no way out of a pass."""

    def _check(self, rows: Sequence[Row], most: int) -> None:
        total = sum(len(row.tokens) for row in rows)
        if total > most or not all(row.tokens for row in rows):
            raise EngineError(f"a call of {total} tokens in {len(rows)} rows: from 1 a row to {most} together can be")
        for row in rows:
            length = self.memory_of_slots.lengths[row.slot] + len(row.tokens)
            if length > self.card.context:
                raise MemoryFull(
                    f"a text of {length} tokens: the context is {self.card.context}", hint="a longer --context"
                )

    def _check_room(self, more: int, held: int) -> None:
        """Before more bytes are taken for texts than are held: a full system ends the process without a word."""
        if self._budget is not None:
            left: int | None = self._budget - self.card.bytes - held
        elif self._device == "cpu":
            left = free_memory("cpu")
        else:
            return  # torch says so itself
        if left is not None and more > left:
            raise MemoryFull(
                f"{more / 2**20:.0f} MiB more for texts, and {max(left, 0) / 2**20:.0f} MiB are left",
                hint="fewer replies at once, or a shorter --context",
            )

    def fork(self, source: int, target: int, length: int) -> None:
        self.memory_of_slots.fork(source, target, length)

    def truncate(self, slot: int, length: int) -> None:
        self.memory_of_slots.truncate(slot, length)

    def least(self, slot: int) -> int:
        return 0 if self.card.rewinds else self.memory_of_slots.lengths[slot]

    def rest(self, slots: Collection[int]) -> int:
        """A slab's pass goes through the rows in it alone: what rests is in nobody's way."""
        return 0

    def memory(self) -> dict[str, int]:
        """Bytes: of the weights, of what the slots hold, and what the process and the device have taken."""
        held = {"weights": self.card.bytes, "slots": self.memory_of_slots.bytes()}
        return held | taken(self._device)

    def tune(self, adapters: Sequence[Adapter], steering: Sequence[Steering]) -> Tuning:
        return self.tuner.tune(adapters, steering)

    def exact(self, tuning: Tuning = PLAIN) -> tuple[Shape | None, str]:
        if (ways := tuning.ways()) not in self._exact:
            self._exact[ways] = self._recall_exact(tuning)
        return self._exact[ways]

    def _recall_exact(self, tuning: Tuning) -> tuple[Shape | None, str]:
        if not self._suited.shares:
            return None, f"rows run one by one: {self._suited.why}"
        config = self.model.config.get_text_config(decoder=True)
        if any(getattr(config, name, None) for name in ("num_experts", "num_local_experts", "n_routed_experts")):
            return None, "a mixture of experts computes a token differently beside others"
        if self._device == "cpu" and self._torch.backends.mkl.is_available() and not home.mkl_is_strict():
            return None, "torch was loaded before MKL_CBWR=AUTO,STRICT was set"
        width = WIDTHS[self._precision] if self._device == "cpu" else WIDTH_ON_GPU
        key = f"{self.fingerprint()} device={self._device_name()} threads={self._torch.get_num_threads()} width={width}"
        key += f" under {tuning.ways()}" if tuning.adapters else ""
        kept = home.recall("exact", key)
        if not isinstance(kept, bool):
            self._notify("testing, once for these files, whether replies are exact …")
            slab = self._suited.make(4)
            assert isinstance(slab, Slab), "only a slab shares passes"
            self.tuner.use(tuning)
            kept = is_exact(slab, width=width, vocabulary=self.card.vocabulary, context=self.card.context)
            home.remember("exact", key, kept)
        if not kept:
            return None, f"calls of {width} rows gave other logits alone than among others, on these files and build"
        return Shape(width, EXACT_BATCH), f"tested on these files with torch {self._torch.__version__}"

    def _device_name(self) -> str:
        if self._device.startswith("cuda"):
            return str(self._torch.cuda.get_device_name(self._device))
        return self._device

    def fingerprint(self) -> str:
        if self._fingerprint is None:
            small = ("config.json", "tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt")
            parts = {
                "weights": self._weights.digest(),
                "files": {
                    name: home.file_digest(self._folder.path / name)
                    for name in small
                    if (self._folder.path / name).is_file()
                },
                "template": self.card.template,
                "engine": "transformers",
                "precision": self.card.precision,
                "computes": str(self.model.dtype),
                "attention": self.model.config._attn_implementation,
                "double": self.card.facts.get("double_quantisation"),
                "versions": dict(versions_of(self.card.precision)),
            }
            text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
            self._fingerprint = hashlib.sha256(text.encode()).hexdigest()
        return self._fingerprint

    def close(self) -> None:
        """Let the weights and the slots go; on a GPU also what torch keeps for later."""
        del self.model, self.memory_of_slots, self._suited
        if self._device.startswith("cuda"):
            self._torch.cuda.empty_cache()


def _ids(tokenizer: Any, text: str, *, special: bool = True, added: bool = False) -> list[int]:
    """Token ids. `special`: names of special tokens become those tokens; `added`: as the tokenizer begins a text."""
    encoded = tokenizer(text, add_special_tokens=added, split_special_tokens=not special, verbose=False)
    return [int(token) for token in encoded.input_ids]


def _is_out_of_memory(error: BaseException) -> bool:
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(
        words in text for words in ("out of memory", "can't allocate memory", "not enough memory")
    )
