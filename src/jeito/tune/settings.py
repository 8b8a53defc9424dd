"""How an adapter is trained: every value, with what suits a model of its size. Knows nothing of torch."""

import math
from collections.abc import Sequence
from typing import Any

from pydantic import Field, ValidationError

from jeito.decode.noise import derive, mix
from jeito.errors import InputError
from jeito.types import Several, Value


class Settings(Value):
    """All that decides an adapter's numbers, beside the base and the data."""

    rank: int = Field(default=8, ge=1)
    alpha: float = Field(default=16.0, gt=0, description="what the adapter adds is scaled by alpha / rank")
    targets: Several[str] = Field(default=(), description="names of linear layers; none: all but the head")
    dropout: float = Field(default=0.0, ge=0, lt=1)
    rate: float = Field(default=2e-4, gt=0, description="AdamW's, at its highest")
    warm_up: float = Field(default=0.1, ge=0, lt=1, description="share of the steps in which the rate rises")
    decay: float = Field(default=0.0, ge=0, description="AdamW's weight decay")
    clip: float = Field(default=1.0, gt=0, description="the gradient's norm, at most")
    epochs: int = Field(default=3, ge=1)
    batch: int = Field(default=16, ge=1, description="texts of a step")
    length: int = Field(default=512, ge=16, description="tokens of a pass; several texts share one where they fit")
    every: int = Field(default=10, ge=1, description="steps between two looks at what is held out, and checkpoints")
    patience: int = Field(default=3, ge=1, description="looks without a lower loss, then it stops")
    seed: int = Field(default=0, ge=0, lt=2**63)
    checkpointing: bool = Field(default=False, description="compute a layer twice rather than keep what it computed")


def suited(parameters: int, texts: int, given: dict[str, Any]) -> Settings:
    """What suits a model of so many parameters and so many texts to learn from, under what was given.

    Ranks and rates after QLoRA (arXiv:2305.14314: 2e-4 up to 13 billion, 1e-4 beyond); smaller models take higher
    rates. A step has 16 texts, or fewer where that would leave under 30 steps. Raises InputError.
    """
    rank = 8 if parameters < 10**9 else 16 if parameters < 13 * 10**9 else 32
    rate = 1e-3 if parameters < 3 * 10**8 else 5e-4 if parameters < 10**9 else 2e-4
    rate = 1e-4 if parameters > 13 * 10**9 else rate
    rank, epochs = given.get("rank", rank), given.get("epochs", 3)
    batch = given.get("batch", max(1, min(16, texts * epochs // 30)))
    steps = epochs * math.ceil(texts / batch)
    own = {"rank": rank, "alpha": 2.0 * rank, "rate": rate, "batch": batch, "every": max(1, math.ceil(steps / 10))}
    try:
        return Settings(**{**own, **given})
    except ValidationError as error:
        wrong = error.errors(include_url=False)[0]
        option = "--" + str(wrong["loc"][0]).replace("_", "-")
        raise InputError(
            f"{option} {wrong['input']}: {wrong['msg'].lower()}", hint=f"without {option} there is what suits the model"
        ) from error


def steps_of(settings: Settings, count: int) -> list[list[int]]:
    """Which of so many texts each step learns from: every epoch all of them, in an order drawn by the seed."""
    steps = []
    for epoch in range(settings.epochs):
        noise = derive(settings.seed, epoch + 1)
        order = sorted(range(count), key=lambda at: mix(derive(noise, at + 1)))
        steps += [order[at : at + settings.batch] for at in range(0, count, settings.batch)]
    return steps


def rate_at(settings: Settings, step: int, steps: int) -> float:
    """The rate of a step, from 0: it rises in a line, then falls to nothing along a cosine."""
    rising = math.ceil(settings.warm_up * steps)
    if step < rising:
        return settings.rate * (step + 1) / rising
    return settings.rate * 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


def rows_of(lengths: Sequence[int], length: int) -> list[list[int]]:
    """Texts together in rows of so many tokens at most: the longest first, each into the first row that has room."""
    rows: list[list[int]] = []
    left: list[int] = []
    for at in sorted(range(len(lengths)), key=lambda at: (-lengths[at], at)):
        row = next((row for row, room in enumerate(left) if lengths[at] <= room), len(rows))
        if row == len(rows):
            rows.append([])
            left.append(length)
        rows[row].append(at)
        left[row] -= lengths[at]
    return rows
