"""Adapters that have a name in home: listed, and merged into their base. Knows nothing of how they are trained."""

import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from jeito.behaviour.load import load
from jeito.decode.local import LocalModel
from jeito.decode.noise import derive
from jeito.engines.adapters import WEIGHTS, Pair, outline_of
from jeito.engines.base import Tuning
from jeito.engines.gguf_writer import package, write_gguf
from jeito.engines.llama_file import parts_of
from jeito.engines.llama_tuning import gguf_pairs, read_base
from jeito.engines.transformers_engine import TransformersEngine
from jeito.engines.transformers_weights import quietly
from jeito.errors import InputError, ModelError, nearest
from jeito.home import home, named
from jeito.proof.parity import Parity, Side, parity
from jeito.run.run import run
from jeito.types import Adapter, Several, Value

ASK = "Name three things that one can do on a rainy day, and say why."
TOKENS = 48
"""Of each reply by which a merged model is compared."""


class KeptAdapter(Value):
    """An adapter in home. `why`: what is wrong with it, where it cannot be used."""

    name: str
    path: str
    base: str = ""
    rank: int = 0
    targets: Several[str] = ()
    bytes: int = 0
    made: str = ""
    behaviour: str | None = None
    why: str | None = None


def kept() -> list[KeptAdapter]:
    """Every adapter that has a name here, by name."""
    folder = home() / "adapters"
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    return [_kept(path) for path in found if path.is_dir() and not path.name.startswith(".")]


def _kept(path: Path) -> KeptAdapter:
    try:
        outline = outline_of(path)
    except ModelError as error:
        return KeptAdapter(name=path.name, path=str(path), why=str(error))
    card, weights = outline.card, (path / WEIGHTS).stat()
    return KeptAdapter(
        name=path.name, path=str(path), base=card.base if card else outline.base, rank=max(outline.ranks.values()),
        targets=tuple(sorted({module.rpartition(".")[2] for module in outline.ranks})), bytes=weights.st_size,
        made=card.made if card else datetime.fromtimestamp(weights.st_mtime, UTC).isoformat(timespec="seconds"),
        behaviour=card.behaviour if card else None,
    )  # fmt: skip


def find(name: str) -> Path:
    """The folder of an adapter: a path, or a name in home; raises InputError for what is neither."""
    if Path(name).exists():
        return Path(name)
    if path := named("adapters", name):
        return path
    names = [one.name for one in kept()]
    raise InputError(f"there is no adapter {name!r}", hint=nearest(name, names) if names else "name its folder")


def merge_into_folder(engine: TransformersEngine, tuning: Tuning, folder: Path) -> None:
    """The model with its adapters in its weights, as a folder of its own; the one that is loaded stays as it is."""
    if engine.card.precision not in ("fp32", "bf16", "fp16"):
        raise InputError(f"a model in {engine.card.precision} has no weights to merge into", hint="--precision bf16")
    deltas = engine.tuner.deltas(tuning)
    changed = {f"{name}.weight": deltas[module] for name, module in engine.model.named_modules() if module in deltas}
    merged = {name: _added(tensor, changed.get(name)) for name, tensor in engine.model.state_dict().items()}
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with quietly():
            engine.model.save_pretrained(partial, state_dict=merged)
            engine.tokenizer.save_pretrained(partial)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _added(weight: Any, delta: Any) -> Any:
    if delta is None:
        return weight
    # Conv1D keeps its weights as [inputs, outputs].
    return (weight.float() + (delta if weight.shape == delta.shape else delta.T)).to(weight.dtype)


def merge_into_gguf(base: Path, adapter: Path, scale: float, file: Path) -> dict[str, str]:
    """A GGUF of its own with the adapter in its weights.

    Tensors of fewer than 8 bits that it acts on become Q8_0, or F16 where a row is no whole number of blocks: their
    names, and what they became.
    """
    gguf = package()
    pairs = gguf_pairs(adapter, read_base(base), base.name)
    readers = [gguf.GGUFReader(part) for part in parts_of(base)]
    turned: dict[str, str] = {}

    def fill(writer: Any) -> None:
        for field in readers[0].fields.values():
            # The writer says these itself; and what was split is whole now.
            if not field.name.startswith(("GGUF.", "split.")) and field.name != "general.architecture":
                inner = field.types[-1] if len(field.types) > 1 else None
                writer.add_key_value(field.name, field.contents(), field.types[0], sub_type=inner)
        for tensor in (tensor for reader in readers for tensor in reader.tensors):
            data, kind = tensor.data, tensor.tensor_type
            if tensor.name in pairs:
                data, became = _merged(gguf, data, kind, pairs[tensor.name], scale)
                if became != kind:
                    turned[tensor.name], kind = became.name, became
            writer.add_tensor(tensor.name, data, raw_dtype=kind)

    write_gguf(file, readers[0].fields["general.architecture"].contents(), fill)
    return turned


def _merged(gguf: Any, data: Any, kind: Any, pair: Pair, scale: float) -> tuple[Any, Any]:
    try:
        values = gguf.quants.dequantize(data, kind) + np.float32(scale) * (pair.b @ pair.a)
    except NotImplementedError as error:
        raise ModelError(f"the gguf package cannot read {kind.name}", hint="take a GGUF of another kind") from error
    kinds = gguf.GGMLQuantizationType
    if kind not in (kinds.F32, kinds.F16, kinds.BF16, kinds.Q8_0):
        # Rounded to 4 bits a second time, the demo model lost as much as the adapter had changed.
        kind = kinds.F16 if values.shape[1] % 32 else kinds.Q8_0
    return gguf.quants.quantize(values, kind), kind


def verify(base: LocalModel, adapter: Path, scale: float, merged: LocalModel, *, replies: int = 4) -> Parity:
    """How far the merged model is from its base with the adapter on top: same asks, same seeds."""
    loaded = load("plain", [f"max_new_tokens={TOKENS}", "exact=true"])
    adapted = loaded._replace(
        behaviour=loaded.behaviour.model_copy(update={"adapter": (Adapter(path=str(adapter), scale=scale),)})
    )
    sides = []
    for model, behaviour in ((base, adapted), (merged, loaded)):
        runs = [run(behaviour, model, ASK, seed=derive(0, index)).start() for index in range(replies)]
        for one in runs:
            one.text()
        sides.append(Side(model, [one.trace for one in runs]))
    return parity(*sides)
