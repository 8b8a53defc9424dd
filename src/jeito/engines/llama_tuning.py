"""Adapters and control vectors on a GGUF: peft's matrices under GGUF's names, kept in home, and loaded by llama.cpp.

Knows nothing of contexts, slots or who asks.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jeito.engines.adapters import (
    Array,
    Outline,
    Pair,
    adapter_digest,
    applied,
    check_directions,
    check_fit,
    form_of,
    outline_of,
    read_directions,
    read_pairs,
)
from jeito.engines.base import PLAIN, Applied, Tuning
from jeito.engines.gguf_header import GgufTensor, read_file_header
from jeito.engines.gguf_writer import package, write_gguf
from jeito.engines.llama_binding import library
from jeito.engines.llama_cells import Worn
from jeito.engines.llama_file import parts_of
from jeito.errors import ModelError
from jeito.home import file_digest, home
from jeito.types import Adapter, Steering

# Architectures whose matrices GGUF keeps as Hugging Face does, but for the rows of queries and keys where llama.cpp
# turns pairs of neighbours: those are interleaved. Others are rearranged in ways of their own.
KNOWN = (
    "llama", "arcee", "granite", "olmo", "smollm3",
    "gemma", "gemma2", "gemma3", "olmo2", "phi3", "qwen2", "qwen3", "stablelm", "starcoder2",
)  # fmt: skip
ROPE_NORM = 0  # of llama.h's llama_rope_type: neighbours are turned, not halves
FORM = 1  # of the files kept in home: another number makes them anew


class Base(NamedTuple):
    """What a GGUF's header says that an adapter depends on."""

    architecture: str
    layers: int
    width: int
    heads: int
    key_heads: int
    tensors: Mapping[str, GgufTensor]
    turns_neighbours: bool


class LlamaTuner:
    """What can be put on top of one GGUF; contents that were loaded once stay, by their digest."""

    def __init__(self, model: Any, path: Path) -> None:
        self._model, self._path = model, path
        self._base: Base | None = None
        self._loras: dict[str, Any] = {}
        self._directions: dict[str, dict[int, Array]] = {}
        self._worn: dict[Tuning, Worn] = {PLAIN: Worn()}

    @property
    def base(self) -> Base:
        if self._base is None:
            self._base = read_base(self._path, library().lib.llama_model_rope_type(self._model))
        return self._base

    def tune(self, adapters: Sequence[Adapter], steering: Sequence[Steering]) -> Tuning:
        """Load what is named and not here yet; raises ModelError for what does not fit."""
        return Tuning(
            applied([self._adapter(Path(one.path), one.scale) for one in adapters]),
            applied([self._vector(Path(one.vector), one.scale) for one in steering]),
        )

    def _adapter(self, path: Path, scale: float) -> Applied:
        if path.is_file():
            digest, file = file_digest(path), path
            form = form_of(_check_gguf(path, self.base, self._path.name))
        else:
            outline = outline_of(path)
            _check_base(outline, self.base.architecture, self._path)
            form = form_of(outline.ranks.items())
            digest = adapter_digest(path)
            file = self._converted(path, digest)
        if digest not in self._loras:
            shelf = library()
            with shelf.complaints() as complaints:
                lora = shelf.lib.llama_adapter_lora_init(self._model, os.fsencode(file))
            if lora == shelf.ffi.NULL:
                why = "; ".join(complaints[:2]) or "llama.cpp does not say why"
                raise ModelError(f"the adapter {str(path)!r} cannot be loaded: {why}", hint="get it again")
            self._loras[digest] = lora
        return Applied(digest, scale, path.name, form)

    def _converted(self, path: Path, digest: str) -> Path:
        """The adapter as a GGUF for models of this base's form; written at the first call."""
        base = self.base
        form = f"{FORM} {base._replace(tensors={})} {sorted(base.tensors)}"
        file = home() / "loras" / f"{digest[:16]}-{hashlib.sha256(form.encode()).hexdigest()[:12]}.gguf"
        if not file.is_file():
            write_lora(gguf_pairs(path, base, self._path.name), base.architecture, file)
        return file

    def _vector(self, path: Path, scale: float) -> Applied:
        directions = read_directions(path)
        check_directions(directions, path, layers=self.base.layers, width=self.base.width, model=self._path.name)
        digest = file_digest(path)
        self._directions[digest] = directions
        return Applied(digest, scale, path.name)

    def worn(self, tuning: Tuning) -> Worn:
        if tuning not in self._worn:
            total: Array | None = None
            for one in tuning.steering:
                if total is None:
                    total = np.zeros((self.base.layers - 1, self.base.width), np.float32)
                for layer, direction in self._directions[one.digest].items():
                    total[layer - 1] += np.float32(one.scale) * direction
            loras = tuple((self._loras[one.digest], one.scale) for one in tuning.adapters)
            self._worn[tuning] = Worn(loras, total)
        return self._worn[tuning]


def read_base(path: Path, rope: int = ROPE_NORM) -> Base:
    """What adapters depend on, from the header of a GGUF; raises ModelError where it says it by layer."""
    headers = [read_file_header(part) for part in parts_of(path)]
    metadata = headers[0].metadata
    name = str(metadata.get("general.architecture"))

    def number(key: str, default: int | None = None) -> int:
        found = metadata.get(f"{name}.{key}", default)
        if not isinstance(found, int):
            raise ModelError(f"{path.name!r} says {key} as {found!r}: its layers are not alike", hint="-m demo")
        return found

    heads = number("attention.head_count")
    return Base(
        architecture=name,
        layers=number("block_count"),
        width=number("embedding_length"),
        heads=heads,
        key_heads=number("attention.head_count_kv", heads),
        tensors={tensor.name: tensor for header in headers for tensor in header.tensors},
        turns_neighbours=rope == ROPE_NORM,
    )


def gguf_pairs(path: Path, base: Base, model: str) -> dict[str, Pair]:
    """A peft adapter's matrices by the GGUF's names of the tensors that they act on, rows in the GGUF's order."""
    if base.architecture not in KNOWN:
        raise ModelError(
            f"adapters for the architecture {base.architecture!r} are not turned into GGUF here",
            hint="llama.cpp's convert_lora_to_gguf.py may do it: name its file as the path",
        )
    outline = outline_of(path)
    pairs = read_pairs(outline)
    named = names_of(list(pairs), base)
    shapes = {
        module: (held.shape[0], held.shape[1])
        for module, name in named.items()
        if (held := base.tensors.get(name)) is not None and len(held.shape) == 2
    }
    check_fit(outline, shapes, model, pairs)
    return {named[module]: _reordered(pair, named[module], base) for module, pair in pairs.items()}


@cache
def list_sum(path: Path) -> float:
    """The sum of the sizes of norms and biases, which a GGUF of any precision has as they were."""
    total = 0.0
    for part in parts_of(path):
        with part.open("rb") as file:
            for tensor in read_file_header(part).tensors:
                if tensor.type == "F32" and len(tensor.shape) == 1 and not tensor.name.startswith("rope"):
                    file.seek(tensor.offset)
                    total += float(np.abs(np.frombuffer(file.read(tensor.bytes), np.float32)).sum(dtype=np.float64))
    return total


def _check_base(outline: Outline, architecture: str, path: Path) -> None:
    card = outline.card
    # gemma's norms are 1 more in a GGUF; of some stablelm they are joined to a matrix.
    if card is None or not card.base_sum or architecture.startswith(("gemma", "stablelm")):
        return
    if abs(list_sum(path) - card.base_sum) > 1e-6 * card.base_sum:
        raise ModelError(
            f"the adapter {outline.path.name!r} was made on {card.base!r}, and {path.name!r} has other weights: its "
            f"norms come to {list_sum(path):.7g}, not {card.base_sum:.7g}",
            hint="-m a GGUF of that model",
        )


def names_of(modules: Sequence[str], base: Base) -> dict[str, str]:
    """Hugging Face's name of a layer → GGUF's name of its weights, as far as the gguf package knows it."""
    gguf = package()
    architecture = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}[base.architecture]
    known = gguf.get_tensor_name_map(architecture, base.layers)
    found = {module: known.get_name(module) for module in modules}
    return {module: f"{name}.weight" for module, name in found.items() if name}


def _reordered(pair: Pair, name: str, base: Base) -> Pair:
    """Hugging Face turns a head's first half with its second; where llama.cpp turns neighbours, rows interleave."""
    heads = {"attn_q": base.heads, "attn_k": base.key_heads}.get(name.split(".")[-2])
    if heads is None or not base.turns_neighbours:
        return pair
    rows = pair.b.reshape(heads, 2, -1, pair.b.shape[1])
    return pair._replace(b=rows.swapaxes(1, 2).reshape(pair.b.shape))


def write_lora(pairs: Mapping[str, Pair], architecture: str, file: Path) -> None:
    """A LoRA as llama.cpp reads it. Its own scaling is in the matrices, so it says no alpha."""

    def fill(writer: Any) -> None:
        writer.add_type("adapter")
        writer.add_string("adapter.type", "lora")
        writer.add_float32("adapter.lora.alpha", 0.0)
        for name, pair in pairs.items():
            writer.add_tensor(f"{name}.lora_a", np.ascontiguousarray(pair.a))
            writer.add_tensor(f"{name}.lora_b", np.ascontiguousarray(pair.b))

    write_gguf(file, architecture, fill)


def _check_gguf(path: Path, base: Base, model: str) -> list[tuple[str, tuple[int, ...]]]:
    """Is this file a LoRA for this model? Its tensors' names and shapes."""
    header = read_file_header(path)
    kind, architecture = header.metadata.get("general.type"), header.metadata.get("general.architecture")
    if kind != "adapter":
        raise ModelError(f"{str(path)!r} is no adapter: its general.type is {kind!r}", hint=f"-m {path}")
    if architecture != base.architecture:
        raise ModelError(
            f"the adapter {path.name!r} is for the architecture {architecture!r}; {model!r} is {base.architecture!r}",
            hint="run it on the model that it was made for",
        )
    for tensor in header.tensors:
        name, _, side = tensor.name.rpartition(".lora_")
        held = base.tensors.get(name)
        fits = held is not None and tensor.shape[side == "a"] == held.shape[side == "a"]
        if not fits:
            raise ModelError(
                f"the adapter {path.name!r} does not fit {model!r}: {tensor.name!r} is {list(tensor.shape)}"
                + (f", and {name!r} {list(held.shape)}" if held else ", and there is no such tensor"),
                hint="run it on the model that it was made for",
            )
    return [(tensor.name, tensor.shape) for tensor in header.tensors]
