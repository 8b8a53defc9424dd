"""Behaviours with adapters behind one server: one base in memory, and each reply under its own."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")
pytest.importorskip("gguf")

from jeito.behaviour.load import load
from jeito.decode.local import LocalModel
from jeito.engines.llamacpp import LlamaEngine
from jeito.run.run import run
from tests.engines import tiny_gguf
from tests.serve.conftest import Serve, user

# What peft still calls, of a transformers that has given it another name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
FAMILY = tiny_gguf.FAMILIES["llama"]


def test_a_request_chooses_its_adapter_and_the_base_is_loaded_once(serve: Serve, tmp_path: Path) -> None:
    file = tiny_gguf.write(tiny_gguf.made(FAMILY), FAMILY, tmp_path / "tiny.gguf")
    tiny_gguf.adapted(FAMILY, tmp_path / "a")
    for name, said in {
        "none": "{}", "one": "{adapter: [{path: a}]}", "half": "{adapter: [{path: a, scale: 0.5}]}",
        "lost": "{adapter: [{path: b}]}",
    }.items():  # fmt: skip
        sampling = "sampling: {max_new_tokens: 12, seed: 3, exact: true}"
        (tmp_path / f"{name}.yaml").write_text(f"{sampling}\n" + said.strip("{}") + "\n")
    model = LocalModel(LlamaEngine(file, context=256, slots=4), "tiny")
    serving = serve(model, folder=tmp_path)

    def ask(name: str) -> Any:
        return serving.post(model=f"tiny:{name}", messages=[user("Hi!")], jeito={"receipt": True})

    names = ["none", "one", "half"]
    with ThreadPoolExecutor(6) as pool:
        replies = [found.json() for found in pool.map(ask, names * 2)]
    for name, found in zip(names * 2, replies, strict=True):
        alone = run(load(str(tmp_path / f"{name}.yaml")), model, "Hi!")
        assert found["choices"][0]["message"]["content"] == alone.text(), name
        receipt = found["choices"][0]["jeito"]["receipt"]
        assert ("adapter 'a'" in " ".join(receipt["notes"])) == (name != "none")
        assert receipt["exact"]["held"]
        assert str(tmp_path) not in json.dumps(found), "where it lies is nobody's business"
    assert len({found["choices"][0]["message"]["content"] for found in replies}) == 3
    assert ask("lost").status_code == 404
    assert "there is no adapter" in " ".join(serving.server.catalogue.left_out)
    shutil.rmtree(tmp_path / "a")
    later = ask("one").json()
    assert later["choices"][0]["message"] == replies[1]["choices"][0]["message"], "it is in memory still"
    serving.server.catalogue._shelf._looked = 0.0
    (listed,) = (one for one in serving.http.get("/v1/models").json()["data"] if one["id"] == "tiny:one")
    assert listed["jeito"]["stale"]
    assert "tiny:one: there is no adapter" in " ".join(serving.server.catalogue.left_out)
    assert ask("one").json()["choices"][0]["message"] == later["choices"][0]["message"]
    model.close()
