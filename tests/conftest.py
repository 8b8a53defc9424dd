"""What tests share: a home of their own, the toy, and the real demo model, loaded once."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from jeito.decode.local import LocalModel
from jeito.engines.demo import demo_file, demo_folder
from jeito.engines.llama_binding import SPIN_COUNT
from jeito.engines.llamacpp import LlamaEngine
from jeito.engines.toy import ToyEngine, babble
from jeito.errors import ModelError

# The transformers engine sets these itself, but only before torch is loaded; some tests load torch first.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
# Nor does a test touch the user's own cache of the hub, whose place is read when its library is imported.
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="jeito-hub-")


@pytest.fixture(scope="session")
def demo() -> Path:
    """The demo model's file: without it the tests would pass and say nothing, so they fail."""
    try:
        return demo_file()
    except ModelError as error:
        pytest.fail(f"{error}: {error.hint}", pytrace=False)


@pytest.fixture(scope="session")
def kept_facts(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose facts hold the demo file's digest and the verdict of its self-test, which takes seconds."""
    folder = tmp_path_factory.mktemp("kept")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JEITO_HOME", str(folder))
        engine = LlamaEngine(demo)
        assert engine.exact()[0] is not None
        engine.close()
    return folder / "facts"


@pytest.fixture(scope="session")
def unpacked_demo(demo: Path, kept_facts: Path) -> Path:
    """The demo model as a folder for transformers, unpacked once for all tests, where a warm home has it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JEITO_HOME", str(kept_facts.parent))
        folder = demo_folder()
        assert demo_folder() == folder
    return folder


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test touches the user's own home."""
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("JEITO_HOME", str(folder))
    return folder


@pytest.fixture
def warm_home(home: Path, kept_facts: Path) -> Path:
    """A home that has seen the demo model before."""
    shutil.copytree(kept_facts, home / "facts")
    (home / "models").symlink_to(kept_facts.parent / "models")
    return home


@pytest.fixture
def toy() -> LocalModel:
    return LocalModel(ToyEngine(), "toy")


@pytest.fixture
def babbler() -> LocalModel:
    """A model whose logits depend on every token before."""
    return LocalModel(ToyEngine(babble), "babbler")


@pytest.fixture(scope="session")
def loaded_demo(demo: Path, kept_facts: Path) -> Iterator[LocalModel]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JEITO_HOME", str(kept_facts.parent))
        model = LocalModel(LlamaEngine(demo), "demo")
        assert model.decoder.engine.exact()[0] is not None
        assert model.fingerprint
        yield model
        model.close()


@pytest.fixture
def demo_model(loaded_demo: LocalModel) -> LocalModel:
    """The demo model, with nothing left in its memory."""
    loaded_demo.decoder.memory.forget()
    return loaded_demo
