"""Weight files of a model folder: found, checked and counted by their headers alone. Knows nothing of torch."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from jeito.errors import ModelError, nearest
from jeito.home import file_digest

SIZES = {
    "F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2,
    "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip
PICKLES = ("pytorch_model*.bin", "model*.bin", "*.pt", "*.pth", "*.ckpt")
# Headers of the largest models are under 10 MB; safetensors itself refuses more than this.
LONGEST_HEADER = 100_000_000


class Tensor(NamedTuple):
    """One tensor as its file's header describes it."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def parameters(self) -> int:
        return prod(self.shape)


class Weights(NamedTuple):
    """Files in the order of their names, and what they hold; a pickle's tensors are unknown without running it."""

    files: tuple[Path, ...]
    format: str
    tensors: tuple[Tensor, ...]

    def digest(self) -> str:
        """sha256 over the names and digests of the files."""
        lines = [f"{file.name} {file_digest(file)}" for file in self.files]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def bytes_by_dtype(self) -> dict[str, int]:
        sizes: dict[str, int] = {}
        for tensor in self.tensors:
            sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.parameters * SIZES.get(tensor.dtype, 1)
        return sizes


FLOATS = ("F64", "F32", "F16", "BF16")


def check_types(weights: Weights, config: Mapping[str, Any], name: str) -> None:
    """Are the values of a kind that loads? Raises ModelError for what config.json does not account for."""
    said = config.get("dtype") or config.get("torch_dtype")
    known = ("float32", "float16", "bfloat16", "float64")
    if isinstance(said, str) and said.removeprefix("torch.") not in known:
        raise ModelError(f"the config.json of {name!r} says dtype {said!r}", hint=nearest(said, known))
    if "quantization_config" in config:
        return
    # Masks that old checkpoints keep beside their weights are no matrices of weights.
    matrices = (tensor for tensor in weights.tensors if len(tensor.shape) == 2 and tensor.name.endswith(".weight"))
    strange = next((tensor for tensor in matrices if tensor.dtype not in FLOATS), None)
    if strange is not None:
        raise ModelError(
            f"{name!r} holds {strange.name!r} as {strange.dtype}, and its config.json says nothing of quantisation",
            hint="take the copy that it was made from, or its whole repository",
        )


def find_weights(folder: Path, *, allow_pickle: bool = False) -> Weights:
    """The weights of a folder, after a check of everything that headers and indexes tell."""
    index = folder / "model.safetensors.index.json"
    files = sorted(folder.glob("*.safetensors"))
    if index.is_file():
        return _indexed(folder, index)
    shards = [file for file in files if re.fullmatch(r".*-\d{5}-of-\d{5}\.safetensors", file.name)]
    if shards:
        _check_shards(folder, shards)
        raise ModelError(
            f"{str(folder)!r} has shards but no {index.name}", hint=f"download {index.name} from the model's source"
        )
    if files:
        single = folder / "model.safetensors"
        chosen = single if single.is_file() else files[0]
        return Weights((chosen,), "safetensors", tuple(read_header(chosen)))
    return _pickled(folder, allow_pickle=allow_pickle)


def _indexed(folder: Path, index: Path) -> Weights:
    entries = read_json(index).get("weight_map")
    if not isinstance(entries, dict) or not entries:
        raise ModelError(f"{str(index)!r} has no weight_map", hint="download it again from the model's source")
    names = sorted(set(entries.values()))
    absent = [name for name in names if not (folder / name).is_file()]
    if absent:
        raise ModelError(
            f"{str(folder)!r} lacks {len(absent)} of the {len(names)} weight files that its index names: "
            f"{', '.join(absent[:3])}{', …' if len(absent) > 3 else ''}",
            hint=_download(folder),
        )
    files = tuple(folder / name for name in names)
    held = {file.name: read_header(file) for file in files}
    present = {(name, tensor.name) for name, tensors in held.items() for tensor in tensors}
    lost = [tensor for tensor, name in entries.items() if (name, tensor) not in present]
    if lost:
        raise ModelError(
            f"{str(index)!r} places {lost[0]!r} in {entries[lost[0]]!r}, which does not hold it"
            + (f" (and {len(lost) - 1} more)" if len(lost) > 1 else ""),
            hint=_download(folder),
        )
    return Weights(files, "safetensors", tuple(tensor for tensors in held.values() for tensor in tensors))


def _check_shards(folder: Path, shards: Sequence[Path]) -> None:
    total = int(shards[0].name[-17:-12])
    prefix = shards[0].name[:-27]
    names = [f"{prefix}-{number:05d}-of-{total:05d}.safetensors" for number in range(1, total + 1)]
    absent = [name for name in names if not (folder / name).is_file()]
    if absent:
        raise ModelError(
            f"{str(folder)!r} lacks {len(absent)} of its {total} shards: {', '.join(absent[:3])}",
            hint=_download(folder),
        )


def _pickled(folder: Path, *, allow_pickle: bool) -> Weights:
    pickles = sorted({file for pattern in PICKLES for file in folder.glob(pattern)})
    if not pickles:
        raise ModelError(f"{str(folder)!r} has no weights", hint=_download(folder))
    if not allow_pickle:
        raise ModelError(
            f"{str(folder)!r} has its weights as a pickle only ({pickles[0].name}), which can run any code when read",
            hint="take a copy in safetensors, or trust its author: --allow-pickle",
        )
    return Weights(tuple(pickles), "pickle", ())


def read_header(path: Path) -> list[Tensor]:
    """The tensors of a safetensors file: 8 bytes of length, JSON, data. Its size is checked against its offsets."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        if start == b"version ":
            raise ModelError(f"{str(path)!r} is a git-lfs pointer, not the file", hint=f"git -C {path.parent} lfs pull")
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > LONGEST_HEADER:
            raise ModelError(f"{str(path)!r} is no safetensors file", hint=_download(path.parent))
        raw = file.read(length)
    if len(raw) < length:
        raise _cut_short(path, size, 8 + length)
    try:
        header = json.loads(raw)
        tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
        end = max((int(entry["data_offsets"][1]) for entry in tensors.values()), default=0)
        found = [Tensor(name, str(entry["dtype"]), tuple(entry["shape"])) for name, entry in tensors.items()]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise ModelError(f"{str(path)!r} has an unreadable header: {error}", hint=_download(path.parent)) from error
    if size != 8 + length + end:
        raise _cut_short(path, size, 8 + length + end)
    return found


def _cut_short(path: Path, size: int, expected: int) -> ModelError:
    how = "is cut short" if size < expected else "is longer than its header says"
    return ModelError(f"{str(path)!r} {how}: {size:,} bytes of {expected:,}", hint=_download(path.parent))


def _download(folder: Path) -> str:
    match = re.search(r"models--([^/\\]+)--([^/\\]+)[/\\]snapshots", str(folder))
    if match:
        return f"jeito pull {match[1]}/{match[2]}"
    return f"download it again from the model's source into {folder}"


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of a model folder."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{str(path)!r} is not JSON: {error}", hint=_download(path.parent)) from error
    if not isinstance(value, dict):
        raise ModelError(f"{str(path)!r} holds no JSON object", hint=_download(path.parent))
    return value


def footprint(tensors: Sequence[Tensor], config: Mapping[str, Any], precision: str) -> int:
    """Bytes that the weights take in memory once loaded.

    bitsandbytes quantises the matrices of linear layers, not embeddings, head and vectors. NF4 with double
    quantisation: half a byte a value; a byte for each block of 64; for each 256 blocks a float32; two code tables.
    """
    part = config.get("text_config")
    beside = part.get("tie_word_embeddings") if isinstance(part, dict) else None
    tied = bool(config.get("tie_word_embeddings", beside))
    kept = [t for t in tensors if not _left_out(t) and not (tied and t.name.endswith("lm_head.weight"))]
    if precision not in ("nf4", "int8"):
        return sum(t.parameters for t in kept) * (4 if precision == "fp32" else 2)
    total = 0
    for tensor in kept:
        if not is_quantised(tensor):
            total += 2 * tensor.parameters
        elif precision == "int8":
            total += tensor.parameters + 4 * tensor.shape[0]
        else:
            blocks = -(-tensor.parameters // 64)
            total += -(-tensor.parameters // 2) + blocks + 4 * -(-blocks // 256) + (16 + 256 + 1) * 4
    return total


def _left_out(tensor: Tensor) -> bool:
    """Buffers that old checkpoints carry and no model loads."""
    return tensor.name.endswith((".inv_freq", ".masked_bias")) or (
        tensor.name.endswith("attn.bias") and len(tensor.shape) == 4
    )


def is_quantised(tensor: Tensor) -> bool:
    """Does bitsandbytes quantise it? The matrices of linear layers do, by their names; not experts and their router."""
    name = tensor.name.lower()
    kept_whole = ("embed", "wte", "wpe", "lm_head", "norm", "ln_", ".experts.", "router")
    is_matrix = len(tensor.shape) == 2 and name.endswith(".weight") and not name.endswith(".gate.weight")
    return is_matrix and not any(word in name for word in kept_whole)
