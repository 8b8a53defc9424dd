"""What models took when they were loaded here, beside what was predicted: how far a prediction can be trusted.

Kept in home, one entry for a model, precision, device and shape. Knows nothing of how predictions are made.
"""

from statistics import median
from typing import NamedTuple

from pydantic import ValidationError

from jeito import home
from jeito.engines.base import Card
from jeito.types import Value

KIND = "loads"
# With fewer loads than this, what they were off by says little of the next.
ENOUGH = 3


class Load(Value):
    """Bytes of weights, and what the process (on a GPU: its memory) grew by; each as predicted and as it was."""

    engine: str
    device: str
    weights: int
    weights_predicted: int
    growth: int
    growth_predicted: int


class Past(NamedTuple):
    """Errors of past predictions of growth, as shares of them: 0.04 took 4 % more than was said."""

    loads: int
    error: float | None = None
    least: float | None = None
    greatest: float | None = None

    @property
    def correction(self) -> float:
        """What a prediction is to be multiplied by."""
        # Less was taken, it may be, only because something else had left room: that is no promise for the next.
        return 1 + max(0.0, self.error) if self.error is not None and self.loads >= ENOUGH else 1.0


def record(name: str, card: Card) -> None:
    """Keep what a model took, where its engine predicted anything."""
    predicted, memory = card.facts.get("predicted"), card.facts.get("memory", {})
    kind = "allocated" if card.device.startswith("cuda") else "resident"
    before, after = (memory.get(when, {}).get(kind) for when in ("start", "load"))
    if not predicted or before is None or after is None:
        return
    # llama.cpp takes the cache of all texts at once; on a GPU the libraries' own share is not allocated by torch.
    expected = predicted["weights"] + (predicted["texts"] if card.engine == "llamacpp" else 0)
    load = Load(
        engine=card.engine, device=card.device, weights=card.bytes, weights_predicted=predicted["weights"],
        growth=after - before, growth_predicted=expected + (predicted["engine"] if kind == "resident" else 0),
    )  # fmt: skip
    home.remember(KIND, f"{name} {card.device} {card.slots}x{card.context}", load.model_dump())


def past(engine: str, device: str) -> Past:
    """The errors of all loads by this engine on this device."""
    errors = []
    for entry in home.all_of(KIND).values():
        try:
            one = Load.model_validate(entry)
        except ValidationError:  # written by another version
            continue
        if (one.engine, one.device) == (engine, device) and min(one.growth, one.growth_predicted) > 0:
            errors.append(one.growth / one.growth_predicted - 1)
    return Past(len(errors), median(errors), min(errors), max(errors)) if errors else Past(0)
