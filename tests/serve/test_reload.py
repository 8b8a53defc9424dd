"""Behaviours that change while they are served."""

import os
from pathlib import Path

import pytest

from jeito.decode.local import LocalModel
from jeito.errors import InputError
from jeito.serve.catalogue import Catalogue
from jeito.serve.refusal import Refusal
from jeito.trace.log import Log
from tests.serve.conftest import Serve
from tests.serve.test_server import Gate, begin


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are looked at again whenever somebody asks."""
    monkeypatch.setattr("jeito.serve.shelf.PAUSE", 0.0)


def system(catalogue: Catalogue, id: str) -> str | None:
    return catalogue.seen(None).find(id).loaded.behaviour.system


def test_a_changed_file_is_served_from_the_next_request_on(toy: LocalModel, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("system: before\n")
    catalogue = Catalogue([toy], tmp_path)
    (tmp_path / "a.yaml").write_text("system: afterwards\n")
    (tmp_path / "b.yaml").write_text("extends: a.yaml\n")
    assert system(catalogue, "toy:a") == "afterwards"
    assert system(catalogue, "toy:b") == "afterwards"
    (tmp_path / "a.yaml").write_text("system: once more\n")
    assert system(catalogue, "toy:b") == "once more"
    (tmp_path / "b.yaml").unlink()
    with pytest.raises(Refusal, match="toy:b"):
        system(catalogue, "toy:b")


def test_a_file_elsewhere_that_is_extended_is_looked_at_too(toy: LocalModel, tmp_path: Path) -> None:
    (tmp_path / "parent.yaml").write_text("system: before\n")
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "child.yaml").write_text("extends: ../parent.yaml\n")
    catalogue = Catalogue([toy], folder)
    (tmp_path / "parent.yaml").write_text("system: afterwards\n")
    assert system(catalogue, "toy:child") == "afterwards"


def test_a_bad_file_keeps_the_old_behaviour_and_says_so_once(toy: LocalModel, tmp_path: Path) -> None:
    said: list[str] = []
    file = tmp_path / "a.yaml"
    file.write_text("system: before\n")
    catalogue = Catalogue([toy], tmp_path, notify=said.append)
    for text in ("sistem: broken\n", "reasoning: {budget: 5}\n"):
        file.write_text(text)
        assert system(catalogue, "toy:a") == "before"
        assert system(catalogue, "toy:a") == "before"
        assert catalogue.seen(None).find("toy:a").about(0, None)["jeito"]["stale"] is True
    assert [line.split(": ")[0] for line in said] == ["a", "toy:a"]
    assert all("served as it was" in line for line in said)
    file.write_text("system: mended\n")
    assert system(catalogue, "toy:a") == "mended"
    assert catalogue.seen(None).find("toy:a").about(0, None)["jeito"]["stale"] is False


def test_nothing_is_read_again_while_nothing_changes(
    toy: LocalModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.yaml").write_text("system: before\n")
    catalogue = Catalogue([toy], tmp_path)
    first = catalogue.seen(None).find("toy:a")
    assert catalogue.seen(None).find("toy:a") is first
    monkeypatch.setattr("jeito.serve.shelf.PAUSE", 3600.0)
    (tmp_path / "a.yaml").write_text("system: afterwards\n")
    assert catalogue.seen(None).find("toy:a") is first


def test_a_running_reply_ends_under_the_behaviour_that_it_began_with(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("system: before\n")
    gate = Gate()
    served = serve(gate.model, folder=tmp_path)
    with begin(served, model="toy:a", max_tokens=20) as got:
        lines = got.iter_lines()
        next(lines)
        (tmp_path / "a.yaml").write_text("system: afterwards\n")
        (tmp_path / "b.yaml").write_text("system: new\n")
        assert "toy:b" in [model.id for model in served.openai.models.list()]
        gate.opened.set()
        *_, last = [line for line in lines if line]
    assert last == "data: [DONE]"
    assert served.post(model="toy:a", max_tokens=2).status_code == 200
    assert ["afterwards" in (run.prompt or "") for run in Log().recent()] == [True, False]


def test_a_model_is_called_what_its_name_says(toy: LocalModel, babbler: LocalModel, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("system: x\n")
    catalogue = Catalogue([toy, babbler], tmp_path, ["first", "org/second"])
    assert set(catalogue.served) == {"first", "first:a", "org/second", "org/second:a"}
    assert catalogue.find("org/second:a").model is babbler
    for names in (["a", "b", "c"], ["same", "same"], ["a:b"], ["a b"]):
        with pytest.raises(InputError):
            Catalogue([toy, babbler], tmp_path, names)


def test_a_folder_that_is_not_there_is_refused(toy: LocalModel, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no folder"):
        Catalogue([toy], tmp_path / "none")
    assert os.listdir(tmp_path) == []
