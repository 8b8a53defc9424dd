"""Models made of a function, and a log in a folder of the test."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jeito.decode.local import LocalModel
from jeito.engines.toy import Score, ToyEngine, babble
from jeito.trace.log import Log


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path / "kept" / "log.db")


@pytest.fixture
def engine() -> ToyEngine:
    return ToyEngine()


@pytest.fixture
def model(engine: ToyEngine) -> LocalModel:
    """The toy: it says the last question again, letter by letter."""
    return LocalModel(engine, "toy")


@pytest.fixture
def made_of() -> Callable[..., LocalModel]:
    """A model that says what a function tells it to."""

    def make(score: Score = babble, **card: Any) -> LocalModel:
        return LocalModel(ToyEngine(score, **card), "toy")

    return make
