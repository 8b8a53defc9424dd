"""LoRA adapters as peft writes them, and control vectors: found, checked and read as arrays.

Both engines read them here, so that one file means the same on both. Knows nothing of torch or llama.cpp.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, JsonValue, ValidationError

from jeito.engines.base import Applied
from jeito.engines.gguf_header import read_file_header
from jeito.engines.weights import Tensor, read_header, read_json
from jeito.errors import ModelError
from jeito.home import file_digest
from jeito.types import Value

CONFIG, WEIGHTS, PICKLE, CARD = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin", "jeito.json"
# What peft's config says of adapters that are more, or other, than two matrices beside a linear layer.
OTHERWISE = (
    "use_dora", "modules_to_save", "layer_replication", "trainable_token_indices", "alora_invocation_tokens",
    "target_parameters", "lora_bias",
)  # fmt: skip
# Ways to begin that change the base itself: on the base as it was, such an adapter says something else.
CHANGES_BASE = ("pissa", "olora", "corda", "loftq")
_NAME = re.compile(r"(?:base_model\.model\.)?(?P<module>.+)\.lora_(?P<side>[AB])(?:\.default)?\.weight")
DIRECTION = re.compile(r"direction\.(\d+)")

Array = NDArray[np.float32]


class Pair(NamedTuple):
    """What one linear layer gets on top: b · (a · input). The adapter's own scaling is in b."""

    a: Array
    """[rank, inputs]"""
    b: Array
    """[outputs, rank]"""


class AdapterCard(Value):
    """What stands beside an adapter that was made here, in jeito.json."""

    made: str = Field(description="UTC, ISO 8601")
    base: str = Field(description="the model's reference, as it was typed")
    base_digest: str | None = Field(default=None, description="of the base's weight files")
    base_sum: float | None = Field(default=None, description="of the sizes of its norms and biases: a GGUF's are alike")
    behaviour: str | None = None
    behaviour_fingerprint: str | None = None
    training: dict[str, JsonValue] = Field(default_factory=dict)


class Outline(NamedTuple):
    """An adapter, known by its small files and headers."""

    path: Path
    base: str
    """As its maker named it; "" where it does not say."""
    ranks: Mapping[str, int]
    """By the full name of the layer that it acts on."""
    config: Mapping[str, Any]
    card: AdapterCard | None


def outline_of(path: Path) -> Outline:
    """An adapter's folder, checked without reading its weights; raises ModelError for what is no plain LoRA."""
    config = _config(path)
    if config.get("peft_type") != "LORA":
        raise ModelError(f"{str(path)!r} is a {config.get('peft_type')!r} adapter, not a LoRA", hint="take a LoRA")
    others = [name for name in OTHERWISE if config.get(name)]
    if config.get("bias", "none") != "none":
        others.append("bias")
    begun = config.get("init_lora_weights")
    if isinstance(begun, str) and begun.lower().startswith(CHANGES_BASE):
        others.append(f"init_lora_weights={begun}")
    if others:
        raise ModelError(
            f"{str(path)!r} is more than two matrices beside linear layers: {', '.join(others)}",
            hint="merge it with peft, and run the merged model",
        )
    ranks = _ranks(path, read_header(path / WEIGHTS))
    return Outline(path, str(config.get("base_model_name_or_path") or ""), ranks, config, _card(path))


def _config(path: Path) -> dict[str, Any]:
    known = "jeito adapters lists those that have a name here"
    if not path.is_dir():
        raise ModelError(f"there is no adapter {str(path)!r}", hint=known)
    if not (path / CONFIG).is_file():
        raise ModelError(f"{str(path)!r} is no adapter: it has no {CONFIG}", hint=known)
    if not (path / WEIGHTS).is_file():
        if (path / PICKLE).is_file():
            raise ModelError(
                f"{str(path)!r} has its weights as a pickle only ({PICKLE}), which can run any code when read",
                hint=f"have its author save it as {WEIGHTS}",
            )
        raise ModelError(f"{str(path)!r} lacks its weights, {WEIGHTS}", hint="get it again from where it came from")
    return read_json(path / CONFIG)


def _card(path: Path) -> AdapterCard | None:
    file = path / CARD
    if not file.is_file():
        return None
    try:
        return AdapterCard.model_validate(read_json(file))
    except ValidationError as error:
        raise ModelError(f"{str(file)!r} cannot be read: {error.errors()[0]['msg']}", hint=f"rm {file}") from error


def _ranks(path: Path, tensors: Iterable[Tensor]) -> dict[str, int]:
    """Rank by module, after a check that every tensor has its other half and nothing else is there."""
    sides: dict[str, dict[str, Tensor]] = {}
    for tensor in tensors:
        match = _NAME.fullmatch(tensor.name)
        if match is None or len(tensor.shape) != 2 or tensor.dtype not in _READ:
            raise ModelError(
                f"{str(path)!r} holds {tensor.name!r} ({tensor.dtype}, {list(tensor.shape)}): no matrix of a LoRA",
                hint="merge it with peft, and run the merged model",
            )
        sides.setdefault(match["module"], {})[match["side"]] = tensor
    broken = [name for name, two in sides.items() if len(two) < 2 or two["A"].shape[0] != two["B"].shape[1]]
    if broken or not sides:
        what = f"the halves of {broken[0]!r} do not fit together" if broken else "it holds no tensor"
        raise ModelError(f"{str(path)!r} is broken: {what}", hint="get it again from where it came from")
    return {name: two["A"].shape[0] for name, two in sides.items()}


# safetensors' names of what a LoRA may be kept in, and how numpy reads it; it knows no bfloat16.
_READ: dict[str, type[np.generic]] = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16, "F64": np.float64}


def read_pairs(outline: Outline) -> dict[str, Pair]:
    """The matrices by module, in float32, each with its own scaling; raises ModelError for what is no number."""
    arrays: dict[str, dict[str, Array]] = {}
    for name, array in _arrays(outline.path / WEIGHTS):
        if not np.isfinite(array).all():
            raise ModelError(f"{str(outline.path)!r} has no numbers in {name!r}", hint="train it again")
        match = _NAME.fullmatch(name)
        assert match is not None, "outline_of has looked at every name"
        arrays.setdefault(match["module"], {})[match["side"]] = array
    return {
        module: Pair(two["A"], two["B"] * np.float32(_scaling(outline.config, module, two["A"].shape[0])))
        for module, two in arrays.items()
    }


def _arrays(path: Path) -> Iterable[tuple[str, Array]]:
    """Every tensor of a safetensors file whose header was checked."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    for name, entry in json.loads(data[8:start]).items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        raw = np.frombuffer(data[start + begin : start + end], _READ[entry["dtype"]])
        if entry["dtype"] == "BF16":  # the upper half of a float32
            raw = (raw.astype(np.uint32) << 16).view(np.float32)
        if raw.size != math.prod(entry["shape"]):
            raise ModelError(f"{str(path)!r} holds {raw.size:,} values of {name!r}, whose shape is {entry['shape']}")
        yield name, raw.astype(np.float32).reshape(entry["shape"])


def _scaling(config: Mapping[str, Any], module: str, rank: int) -> float:
    """alpha / rank, or alpha / √rank; a module's own alpha goes by a pattern of its name's end, as in peft."""
    alpha = config.get("lora_alpha", 8)
    for pattern, own in (config.get("alpha_pattern") or {}).items():
        if re.fullmatch(rf"(?:.*\.)?(?:{pattern})", module):
            alpha = own
            break
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def check_fit(outline: Outline, shapes: Mapping[str, tuple[int, int]], model: str, pairs: Mapping[str, Pair]) -> None:
    """Does every module that the adapter acts on stand in the model, with these (outputs, inputs)?"""
    made_for = f"made for {outline.base!r}" if outline.base else "which names no base"
    absent = [name for name in pairs if name not in shapes]
    if absent:
        raise ModelError(
            f"the adapter {outline.path.name!r}, {made_for}, acts on {len(absent)} layers that {model!r} lacks, such "
            f"as {absent[0]!r}",
            hint=f"-m {outline.base}" if outline.base else "ask its author for the base",
        )
    for name, pair in pairs.items():
        own = pair.b.shape[0], pair.a.shape[1]
        if own != shapes[name]:
            raise ModelError(
                f"the adapter {outline.path.name!r}, {made_for}, does not fit {model!r}: {name!r} is {own[0]} x "
                f"{own[1]} there and {shapes[name][0]} x {shapes[name][1]} here",
                hint=f"-m {outline.base}" if outline.base else "ask its author for the base",
            )


def adapter_digest(path: Path) -> str:
    """sha256 of what decides how an adapter acts: its config and its weights, or the one file of a GGUF."""
    if path.is_file():
        return file_digest(path)
    lines = [f"{name} {file_digest(path / name)}" for name in (CONFIG, WEIGHTS)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def read_directions(path: Path) -> dict[int, Array]:
    """A control vector's directions [width] by layer, counted from 0: each is added to what that layer passes on.

    The form is llama.cpp's: a GGUF of the architecture `controlvector` with tensors direction.N, N from 1.
    """
    if not path.is_file():
        raise ModelError(f"there is no control vector {str(path)!r}", hint="jeito steer lists those with a name here")
    header = read_file_header(path)
    if header.metadata.get("general.architecture") != "controlvector":
        kind = header.metadata.get("general.architecture")
        raise ModelError(f"{str(path)!r} is no control vector: its architecture is {kind!r}", hint="jeito steer make")
    found: dict[int, Array] = {}
    with path.open("rb") as file:
        for tensor in header.tensors:
            match = DIRECTION.fullmatch(tensor.name)
            if match is None or tensor.type != "F32" or len(tensor.shape) != 1 or match[1] == "0":
                raise ModelError(
                    f"{str(path)!r} holds {tensor.name!r} ({tensor.type}, {list(tensor.shape)}), which is no direction",
                    hint="a direction is a list of F32 called direction.N, N from 1",
                )
            file.seek(tensor.offset)
            found[int(match[1])] = np.frombuffer(file.read(tensor.bytes), np.float32)
    if not found or not all(np.isfinite(direction).all() for direction in found.values()):
        raise ModelError(f"{str(path)!r} has no directions that are numbers", hint="make it again: jeito steer make")
    return found


def check_directions(directions: Mapping[int, Array], path: Path, *, layers: int, width: int, model: str) -> None:
    """Were they made for a model of this many layers and this width?"""
    widths = {len(direction) for direction in directions.values()}
    if widths != {width} or max(directions) >= layers:
        raise ModelError(
            f"the control vector {path.name!r} is for {max(widths)} values in layers up to {max(directions)}; "
            f"{model!r} has {width} values in layers up to {layers - 1}",
            hint="make one for this model: jeito steer make",
        )


def form_of(parts: Iterable[object]) -> str:
    """A short digest of an adapter's layers and ranks, whatever its numbers are."""
    return hashlib.sha256(repr(sorted(map(repr, parts))).encode()).hexdigest()[:16]


def applied(found: Iterable[Applied]) -> tuple[Applied, ...]:
    """What a request names, one for each content: named twice, it acts twice as strongly."""
    merged: dict[str, Applied] = {}
    for one in found:
        before = merged.get(one.digest)
        merged[one.digest] = before._replace(scale=before.scale + one.scale) if before else one
    return tuple(merged.values())
