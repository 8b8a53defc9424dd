"""What tests of tuning share: tiny models that know some English, and the command line."""

import shutil
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import pytest

from jeito.cli.main import _run

Jeito = Callable[..., tuple[int, str, str]]
Teach = Callable[..., Path]


@pytest.fixture
def jeito(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Jeito:
    """The command line in this process: exit code, output, errors."""

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["jeito", *map(str, words)])
        capsys.readouterr()
        return (_run(), *capsys.readouterr())

    return call


@pytest.fixture(scope="session")
def teach(unpacked_demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Teach:
    """A Llama of these sizes in a folder, with the demo model's tokens."""
    torch = pytest.importorskip("torch")
    hf = pytest.importorskip("transformers")

    def made(**sizes: int) -> Path:
        folder = tmp_path_factory.mktemp("tiny") / "base"
        shutil.copytree(unpacked_demo, folder, ignore=shutil.ignore_patterns("*.safetensors"))
        torch.manual_seed(0)
        config = hf.LlamaConfig(**sizes, vocab_size=49152, bos_token_id=1, eos_token_id=2, initializer_range=0.02)
        model = hf.AutoModelForCausalLM.from_config(config)
        # A few steps on a page of English, since a model that is mere noise is not opened.
        page = resources.files("jeito.proof").joinpath("alice.txt").read_text()
        ids = hf.AutoTokenizer.from_pretrained(folder)(page, return_tensors="pt").input_ids[:, :256]
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        for _ in range(12):
            optimizer.zero_grad()
            model(ids, labels=ids).loss.backward()
            optimizer.step()
        model.save_pretrained(folder)
        return folder

    return made
