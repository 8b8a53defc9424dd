"""Models side by side, and results to and from other programs."""

import json
from pathlib import Path
from typing import Any

import pytest

from jeito.behaviour.load import load
from jeito.engines.base import Loading
from jeito.errors import InputError
from jeito.proof.bench import ASKED, Benched, Contender, Task, bench, claims_of, on_front, run_model
from jeito.proof.comparison import Share
from jeito.proof.exchange import read_results, write_results
from jeito.proof.runs import Asked, Asking
from jeito.proof.values import Case, Expected

TIME = "2026-01-02T03-04-05"


def quiet(text: str) -> None:
    pass


@pytest.fixture
def behaviour(tmp_path: Path) -> Path:
    file = tmp_path / "terse.yaml"
    file.write_text("checks:\n- {words: {max: 3}, at_least: 0.5}\n- {words: {min: 9}, at_least: 0.5}\n")
    return file


def task(behaviour: Path, count: int = 20, repeats: int = 1) -> Task:
    """The toy says what it is asked: half of these are right, and all have three words."""
    cases = [
        Case(name=f"case {n}", prompt=f"it is {n}", expect=Expected(number=n if n % 2 else n + 1)) for n in range(count)
    ]
    asked = Asked("terse", str(behaviour), load(str(behaviour)))
    return Task((asked,), (Asking(cases, "numbers", repeats, 7),), Loading())


def test_a_model_is_measured_by_what_its_cases_expect_and_its_behaviours_claim(behaviour: Path) -> None:
    found, items = run_model("toy", task(behaviour), quiet)
    (cell,) = found.cells
    assert (cell.passed, cell.trials, cell.clusters, cell.unmeasured) == (10, 20, 20, 0)
    assert cell.quality == found.quality
    assert found.quality is not None
    assert found.quality.rate == 0.5
    assert 0.2 < found.quality.low < 0.5 < found.quality.high < 0.8
    # One of two claims is met by every reply, the other by none.
    assert found.claims == {"holds": 1, "fails": 1, "undecided": 0}
    assert found.follows is not None
    assert found.follows.rate == 0.5
    assert found.error is None
    assert found.tokens_per_second
    assert found.peak_bytes
    assert cell.tokens == sum(len(item.answer) + 1 for item in items), "the toy speaks by the letter, and ends"


def test_a_model_that_does_not_load_and_one_whose_process_dies_are_contenders_too(
    behaviour: Path, tmp_path: Path
) -> None:
    checks = tmp_path / "deadly.py"
    checks.write_text("import os\n\ndef die(trace):\n    os._exit(3)\n")
    behaviour.write_text(f"checks:\n- {{'{checks}:die': true, at_least: 0.5}}\n")
    wrong = task(behaviour, 2)
    lost, dead = bench(["nowhere.gguf", "toy"], wrong, quiet)
    checks.unlink()
    (broken,) = bench(["toy"], wrong, quiet)
    assert "there is no file" in str(broken.contender.error)
    assert "nowhere.gguf" in str(lost.contender.error)
    assert dead.contender.error == "its process died"
    assert (lost.contender.quality, dead.contender.cells) == (None, ())


def contender(name: str, rate: float | None, size: int | None) -> Contender:
    quality = None if rate is None else Share(rate=rate, low=0, high=1)
    return Contender(
        model=name, engine=None, precision=None, device=None, weight_bytes=size, peak_bytes=None, load_seconds=None,
        tokens_per_second=None, first_token_seconds=None, quality=quality, follows=None, claims={}, on_front=False,
        cells=(),
    )  # fmt: skip


def test_on_the_front_is_whom_nobody_beats() -> None:
    field = [
        contender("good", 0.9, 900), contender("small", 0.5, 100), contender("worse", 0.5, 500),
        contender("twin", 0.5, 100), contender("larger", 0.9, 901), contender("unknown", 0.99, None),
        contender("lost", None, 1),
    ]  # fmt: skip
    assert [one.model for one in on_front(field) if one.on_front] == ["good", "small", "twin"]


@pytest.mark.parametrize("name", ASKED)
def test_what_a_personality_asks_can_be_claimed_and_its_language_too(name: str) -> None:
    claims = [claim.name for claim in claims_of(load(name).behaviour)]
    assert claims[-1] == "language"
    assert len(claims) > 1


def test_claims_of_its_own_come_before_ours(behaviour: Path) -> None:
    assert claims_of(load(str(behaviour)).behaviour) == list(load(str(behaviour)).behaviour.checks)
    assert claims_of(load("plain").behaviour) == []


@pytest.fixture
def benched(behaviour: Path) -> Benched:
    return run_model("toy", task(behaviour, 10, 2), quiet)


def test_what_is_written_for_others_is_read_again_as_it_was(benched: Benched, tmp_path: Path) -> None:
    (own,) = benched.contender.cells
    written = write_results(tmp_path / "out", benched.items, TIME)
    assert [file.name for file in written] == [
        f"samples_numbers_terse_{TIME}.jsonl", "numbers_terse.statgate.jsonl", "numbers_terse.evalsig.json",
        f"results_{TIME}.json",
    ]  # fmt: skip
    for file in written[:3]:
        (read,) = read_results(file)
        (cell,) = read.cells
        assert read.model == "toy"
        assert (cell.passed, cell.trials, cell.clusters, cell.unmeasured) == (10, 20, 10, 0), file
        assert cell.quality is not None
        assert own.quality is not None
        assert cell.quality == own.quality, "repeats of one case are one cluster there too"
    (folder,) = read_results(tmp_path / "out")
    assert [cell.behaviour for cell in folder.cells] == ["(lm-evaluation-harness)"], "the same replies are read once"


def test_the_harness_finds_its_own_fields_in_our_samples(benched: Benched, tmp_path: Path) -> None:
    samples, _, frame, results = write_results(tmp_path, benched.items, TIME)
    first = json.loads(samples.read_text().splitlines()[0])
    assert first.keys() == {
        "doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "filter", "metrics", "doc_hash",
        "prompt_hash", "target_hash", "correct",
    }  # fmt: skip
    assert first["resps"] == [[benched.items[0].answer]]
    assert json.loads(results.read_text())["results"]["numbers_terse"]["correct,none"] == 0.5
    assert {"run_id", "model_id", "task_id", "metric_name", "items"} <= json.loads(frame.read_text()).keys()


def test_replies_that_could_not_be_measured_stay_unmeasured(benched: Benched, tmp_path: Path) -> None:
    items = [item.model_copy(update={"score": None}) if item.repeat else item for item in benched.items]
    samples, statgate, *_ = write_results(tmp_path, items, TIME)
    (cell,) = read_results(samples)[0].cells
    assert (cell.unmeasured, cell.trials) == (10, 20)
    assert cell.quality is not None
    assert cell.quality.rate == 0.5
    assert len(statgate.read_text().splitlines()) == 10


def lines(*rows: Any) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_results_that_others_wrote_are_read(tmp_path: Path) -> None:
    (tmp_path / "pythia").mkdir()
    harness = tmp_path / "pythia" / "samples_gsm8k_2024-05-06T07-08-09.123.jsonl"
    harness.write_text(lines(*({"doc_id": n, "doc": {"question": "?"}, "exact_match": n % 2} for n in range(4))))
    gate = tmp_path / "gate.jsonl"
    gate.write_text(
        lines({"id": "a", "score": 0.25}, {"case_id": "a", "passed": False}, {"test_id": 3, "passed": True})
    )
    for file, model, name, passed, trials, rate in (
        (harness, "pythia", "gsm8k", 2, 4, 0.5), (gate, tmp_path.name, "gate", 1, 3, 1.25 / 3),
    ):  # fmt: skip
        (read,) = read_results(file)
        (cell,) = read.cells
        assert (read.model, cell.cases, cell.passed, cell.trials) == (model, name, passed, trials)
        assert cell.quality is not None
        assert cell.quality.rate == pytest.approx(rate)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.jsonl", "{]\n", "no known form"),
        ("a.jsonl", "[1]\n", "no known form"),
        ("a.jsonl", lines({"doc_id": 1, "perplexity": 3}), "a.jsonl:1: the sample has no metric"),
        ("a.jsonl", lines({"doc_id": 1, "acc": 1}, {"doc_id": 2, "acc": 7}), "a.jsonl:2: 7 is no score"),
        ("a.jsonl", lines({"passed": True}), "a.jsonl:1: the record names no case"),
        ("a.json", "{}", "no known form"),
        ("results_a.json", "{}", "holds no results"),
        ("a.jsonl", "", "no known form"),
    ],
)
def test_what_is_no_result_is_refused(name: str, text: str, words: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_text(text)
    with pytest.raises(InputError, match=words):
        read_results(tmp_path if name.startswith("results") else file)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        read_results(tmp_path / "nowhere")
