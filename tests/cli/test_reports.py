"""`--report` of the commands that find something out, on the toy."""

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Jeito


@pytest.fixture
def cases(tmp_path: Path) -> Path:
    file = tmp_path / "cases.jsonl"
    file.write_text("".join(json.dumps({"name": f"case {n}", "prompt": f"say {n}"}) + "\n" for n in range(12)))
    return file


CLAIM = ("--check", "words: {max: 3}", "--at-least", "0.5")


def test_prove_and_judge_write_the_same_page(jeito: Jeito, cases: Path, tmp_path: Path) -> None:
    first, again = tmp_path / "first.html", tmp_path / "again.html"
    done = jeito("prove", "plain", "-m", "toy", "--cases", cases, *CLAIM, "--no-early", "--json", "--report", first)
    assert done.code == 0
    assert f"report: {first}" in done.err
    assert "<h1>plain holds its claim on toy</h1>" in first.read_text()
    plan = json.loads(done.out)["plan"]["digest"]
    assert jeito("judge", plan[:12], "--json", "--report", again).out == done.out
    assert again.read_text() == first.read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("compare", "-b", "plain", "-b", "technical", "-m", "toy"), "plain and technical"),
        (("sweep", "-b", "plain", "-m", "toy", "--over", "temperature=0.5:1.5:3", *CLAIM), "temperature"),
    ],
)
def test_comparisons_and_sweeps_write_pages(
    jeito: Jeito, cases: Path, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    page = tmp_path / "page.html"
    done = jeito(*words, "--cases", cases, "--seed", 1, "--json", "--report", page)
    assert done.code == 0, done.err
    assert said in page.read_text().partition("</h1>")[0].rpartition("<h1>")[2]


def test_a_page_without_a_folder_is_refused_before_anything_runs(jeito: Jeito, cases: Path, tmp_path: Path) -> None:
    done = jeito(
        "prove", "plain", "-m", "toy", "--cases", cases, *CLAIM, "--report", tmp_path / "nowhere" / "page.html"
    )
    assert done.code == 64
    assert "there is no folder" in done.err
    assert json.loads(jeito("log", "--json").out) == {"runs": []}
