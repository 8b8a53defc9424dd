"""Control vectors: directions in a model's states that lead from one manner to another, found by contrast.

The method is known from CAA (https://arxiv.org/abs/2312.06681) and repeng. Knows nothing of how they are applied.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from jeito.engines.adapters import Array, read_directions
from jeito.engines.gguf_header import read_file_header
from jeito.engines.gguf_writer import write_gguf
from jeito.engines.transformers_engine import TransformersEngine
from jeito.errors import InputError, ModelError
from jeito.home import home
from jeito.types import Value

Method = Literal["mean", "pca"]


class Contrast(NamedTuple):
    """What two sets of texts come to, by layer."""

    directions: dict[int, Array]
    told_apart: dict[int, float] | None
    """The share of texts that a direction made without them puts on their own side; none with one text on a side."""


class KeptVector(Value):
    """A control vector in home. `why`: what is wrong with it, where it cannot be used."""

    name: str
    path: str
    base: str = ""
    layers: str = ""
    method: str = ""
    made: str = ""
    why: str | None = None


def contrast(
    engine: TransformersEngine,
    positive: Sequence[str],
    negative: Sequence[str],
    *,
    method: Method = "mean",
    layers: range | None = None,
) -> Contrast:
    """Directions from what the negative texts have in common to what the positive ones have.

    A text counts by the mean of its tokens' states. `mean`: the difference of the two sets' means. `pca`: the first
    principal direction of the pairs' differences, as long as they are along it; needs as many texts on both sides.
    Each is divided by the number of layers, so that a scale of 1 moves a text, through all of them, about as far as
    the sets lie apart.
    """
    count = len(engine.tuner.layers)
    chosen = range(count // 4, count * 3 // 4) if layers is None else layers
    if not positive or not negative:
        raise InputError("a contrast needs texts on both sides", hint="--positive FILE --negative FILE")
    if method == "pca" and len(positive) != len(negative):
        raise InputError(
            f"pca takes pairs, and these are {len(positive)} texts against {len(negative)}", hint="--method mean"
        )
    if not 1 <= chosen.start < chosen.stop <= count:
        raise InputError(
            f"the model has no layers {chosen.start}-{chosen.stop - 1} to steer", hint=f"--layers 1-{count - 1}"
        )
    sides = [np.stack([_state(engine, text) for text in texts]) for texts in (positive, negative)]
    directions, told = {}, {}
    for layer in chosen:
        ones, others = sides[0][:, layer], sides[1][:, layer]
        directions[layer] = (_direction(ones, others, method) / len(chosen)).astype(np.float32)
        told[layer] = _told_apart(ones, others, method)
    enough = min(len(positive), len(negative)) > 1
    return Contrast(directions, told if enough else None)


def _state(engine: TransformersEngine, text: str) -> Array:
    """[layers, width]: the mean over a text's tokens, less what stands before it: every text's first state is alike."""
    begin = [engine.card.bos] if engine.card.bos is not None else []
    tokens = [*begin, *engine.tokens(text, special=False)][: engine.card.context]
    states: Array = engine.tuner.states(tokens)
    return np.asarray(states[:, 1 if len(tokens) > 1 else 0 :].mean(axis=1))


def _direction(ones: NDArray[Any], others: NDArray[Any], method: Method) -> NDArray[Any]:
    if method == "mean":
        return np.asarray(ones.mean(axis=0) - others.mean(axis=0))
    pairs = (ones - others).astype(np.float64)
    axis = np.linalg.svd(pairs, full_matrices=False)[2][0]
    return np.asarray(axis * (pairs @ axis).mean())


def _told_apart(ones: NDArray[Any], others: NDArray[Any], method: Method) -> float:
    """Each pair, and what is left over, is judged by the direction that all but it give, at the means' midpoint."""
    most = max(len(ones), len(others))
    if min(len(ones), len(others)) < 2:
        return 0.0
    right = total = 0
    for index in range(most):
        rest = [np.delete(side, index, axis=0) if index < len(side) else side for side in (ones, others)]
        direction = _direction(rest[0], rest[1], method)
        middle = (rest[0].mean(axis=0) + rest[1].mean(axis=0)) @ direction / 2
        for side, sign in ((ones, 1), (others, -1)):
            if index < len(side):
                right += sign * (side[index] @ direction - middle) > 0
                total += 1
    return float(right / total)


def save(file: Path, found: Contrast, *, base: str, family: str, method: Method, texts: tuple[int, int]) -> None:
    """A control vector as llama.cpp reads it, with what it was made from."""

    def fill(writer: Any) -> None:
        writer.add_string("controlvector.model_hint", family)
        writer.add_uint32("controlvector.layer_count", len(found.directions))
        writer.add_string("jeito.base", base)
        writer.add_string("jeito.method", method)
        writer.add_string("jeito.made", datetime.now(UTC).isoformat(timespec="seconds"))
        writer.add_string("jeito.texts", f"{texts[0]} against {texts[1]}")
        for layer, direction in found.directions.items():
            writer.add_tensor(f"direction.{layer}", direction)

    write_gguf(file, "controlvector", fill)


def kept() -> list[KeptVector]:
    """Every control vector that has a name here, by name."""
    return [_kept(path) for path in sorted((home() / "steering").glob("*.gguf")) if not path.name.startswith(".")]


def _kept(path: Path) -> KeptVector:
    try:
        layers = sorted(read_directions(path))
    except ModelError as error:
        return KeptVector(name=path.stem, path=str(path), why=str(error))
    said = read_file_header(path).metadata
    base, method, made = (str(said.get(f"jeito.{key}", "")) for key in ("base", "method", "made"))
    return KeptVector(
        name=path.stem, path=str(path), base=base, layers=f"{layers[0]}-{layers[-1]}", method=method, made=made
    )
