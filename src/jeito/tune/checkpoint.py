"""Where a training stands, in one safetensors file: written whole or not at all. No pickle; knows nothing of models."""

import json
import os
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field, ValidationError

from jeito.errors import InputError
from jeito.types import Several, Value


class Point(Value):
    """A step of the curve. Losses are nats a learned token; `held_out`: none where nobody looked."""

    step: int
    loss: float
    held_out: float | None = None
    rate: float


class State(Value):
    """What a training has come to after `step` steps."""

    begun: str = Field(description="digest of base, data and settings: of all that it depends on")
    step: int = 0
    curve: Several[Point] = ()
    best: int | None = Field(default=None, description="the step with the lowest held-out loss")
    best_loss: float | None = None
    misses: int = Field(default=0, description="looks since then")


class Checkpoint(NamedTuple):
    state: State
    tensors: Mapping[str, Any]


def write(file: Path, state: State, tensors: Mapping[str, Any]) -> None:
    """In place of the one before; a process that dies in between leaves that one as it was."""
    data = import_module("safetensors.torch").save(dict(tensors), {"state": state.model_dump_json()})
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    with partial.open("wb") as opened:
        opened.write(data)
        opened.flush()
        os.fsync(opened.fileno())
    partial.replace(file)


def read(file: Path) -> Checkpoint | None:
    """What was written last, if anything was. Raises InputError for what is no checkpoint."""
    if not file.is_file():
        return None
    safetensors: Any = import_module("safetensors")
    try:
        with safetensors.safe_open(str(file), "pt") as opened:
            state = State.model_validate_json((opened.metadata() or {})["state"])
            return Checkpoint(state, {name: opened.get_tensor(name) for name in opened.keys()})  # noqa: SIM118
    except (OSError, KeyError, ValidationError, json.JSONDecodeError, safetensors.SafetensorError) as error:
        raise InputError(f"the checkpoint {str(file)!r} cannot be read: {error}", hint="--restart") from error
