"""`jeito compare --cases`, `sweep` and `bench`, on the toy, which says again what it is asked."""

import json
from pathlib import Path

import pytest

from jeito.trace.log import Log
from tests.cli.conftest import Jeito

TWO = ("-b", "plain", "-b", "plain+max_new_tokens=4")
SIDES = ("compare", *TWO, "-m", "toy", "--seed", 1)
LETTERS = ("--check", "characters: {max: 5}")


@pytest.fixture
def cases(tmp_path: Path) -> Path:
    file = tmp_path / "cases.jsonl"
    asked = [{"name": f"case {n}", "prompt": f"it is {n}", "expect": {"number": n}} for n in range(10, 30)]
    file.write_text("".join(json.dumps(case) + "\n" for case in asked))
    return file


def test_a_comparison_is_its_values_on_standard_output(jeito: Jeito, cases: Path) -> None:
    done = jeito(*SIDES, "--cases", cases, *LETTERS, "--json")
    found = json.loads(done.out)
    assert (done.code, done.out.count("\n")) == (0, 1)
    assert {"pairs", "separation", "runs"} <= found.keys()
    right, short = found["pairs"][:2]
    assert {"a", "b", "check", "difference", "low", "high", "n", "clusters", "variance_ratio"} <= right.keys()
    assert (right["a"], right["b"], right["check"], right["difference"]) == (*TWO[1::2], "correct", -1)
    assert (short["check"], short["difference"]) == ('characters {"max": 5}', 1)
    assert right["high"] < 0 < short["low"]
    # 32 pairs over 20 cases: two of each.
    assert (right["n"], right["clusters"], len(found["runs"])) == (40, 20, 80)
    assert {run["id"] for run in found["runs"]} == {run.id for run in Log().recent(100)}


def test_pairs_go_over_the_cases_before_any_case_comes_twice(jeito: Jeito, cases: Path) -> None:
    found = json.loads(jeito(*SIDES, "--cases", cases, "-n", 7, "--json").out)
    assert (found["clusters"], found["repeats"], found["pairs"][0]["n"]) == (7, 1, 7)


@pytest.mark.parametrize(
    ("check", "least", "code"),
    [("characters: {max: 5}", 0.3, 0), ("correct", 0, 1), ("correct", -1, 0), ("characters: {max: 5}", 0.95, 2)],
)
def test_a_claimed_difference_is_an_exit_code(jeito: Jeito, cases: Path, check: str, least: float, code: int) -> None:
    done = jeito(*SIDES, "--cases", cases, "--check", check, f"--at-least={least}")
    assert done.code == code
    assert {0: ": holds", 1: ": fails", 2: ": undecided"}[code] in done.out


def test_the_cause_is_named(jeito: Jeito, cases: Path) -> None:
    one = ("compare", "-b", "plain+max_new_tokens=4+top_k=9", "-m", "toy", "--seed", 1, "--cases", cases, "--cause")
    done = jeito(*one)
    assert done.code == 0
    assert done.out.splitlines()[-1] == "correct (+1 in all): sampling.max_new_tokens"
    parts = json.loads(jeito(*one, "--json").out)["cause"]["parts"]
    assert [part["name"] for part in parts] == ["sampling.top_k", "sampling.max_new_tokens"]
    assert [part["after"] for part in parts] == ["(the model's own)"] * 2


def test_several_models_stand_on_sides_of_their_own(jeito: Jeito, cases: Path) -> None:
    done = jeito("compare", "-m", "toy", "-m", "toy@toy", "--cases", cases, "-n", 3, "--json")
    found = json.loads(done.out)
    assert [side["name"] for side in found["sides"]] == ["plain on toy", "plain on toy@toy"]
    assert found["divergence"][0]["identical"] == 3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("-b", "plain"), "one side is no comparison"),
        (("-b", "plain", "-b", "plain"), "'plain' is there twice"),
        ((*TWO, "--no-log"), "do not go together"),
        (("hi", *TWO), "do not go together"),
        ((*TWO, "-m", "toy", "-m", "toy@toy", "--cause"), "between two behaviours on one model"),
        (("-b", "plain", "--cause"), "do not differ"),
        ((*TWO, "--at-least", "2"), "no share differs by 2"),
        ((*TWO, "--check", "wrods: {max: 3}"), "no check is called 'wrods'"),
    ],
)
def test_what_cannot_be_compared_is_said_before_a_model_loads(
    jeito: Jeito, cases: Path, words: tuple[str, ...], said: str
) -> None:
    done = jeito("compare", *words, *(() if "-m" in words else ("-m", "no.gguf")), "--cases", cases)
    assert (done.code, said in done.err) == (64, True), done.err


def test_without_a_prompt_and_without_cases_nothing_is_asked(jeito: Jeito) -> None:
    done = jeito("compare", *TWO, "-m", "toy")
    assert (done.code, "nothing is asked" in done.err) == (64, True)


def test_a_side_whose_runs_all_fail_makes_the_work_fail(jeito: Jeito, cases: Path) -> None:
    done = jeito("compare", "-b", "plain", "-b", "plain+top_k=9", "-m", "toy", "--cases", cases, "--context", 5)
    assert done.code == 70
    assert "32 runs failed" not in done.err
    assert "40 runs failed" in done.err


def test_a_sweep_whose_runs_all_fail_makes_the_work_fail(jeito: Jeito, cases: Path) -> None:
    assert jeito("sweep", "-m", "toy", "--cases", cases, "--context", 5, "--over", "top_k=1,2").code == 70


def test_a_sweep_is_its_values_and_one_after_the_other_are_several(jeito: Jeito, cases: Path) -> None:
    one = ("sweep", "-m", "toy", "--cases", cases, "--seed", 1, "--over", "max_new_tokens=4,9")
    found = json.loads(jeito(*one, "--json").out)
    (right,) = [curve for curve in found["curves"] if curve["check"] == "correct"]
    assert [point["mean"] for point in right["points"]] == [0, 1]
    assert found["plateau"]["middle"] == {"max_new_tokens": 9}
    both = json.loads(jeito(*one, "--over", "top_k=1,2", "--json").out)["sweeps"]
    assert [[axis["knob"] for axis in each["axes"]] for each in both] == [["max_new_tokens"], ["top_k"]]
    grid = json.loads(jeito(*one, "--over", "top_k=1,2", "--grid", "--json").out)
    assert len(grid["plans"]) == 4


def test_the_middle_of_a_plateau_is_written_with_where_it_holds(jeito: Jeito, cases: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("# my own\nsampling:\n  max_new_tokens: 4 # short\n")
    over = ("sweep", "-m", "toy", "-b", file, "--cases", cases, "--over", "max_new_tokens=4,9,10,11", "--write", file)
    done = jeito(*over)
    assert "all claims were kept, though it is not shown, at max_new_tokens 9 to 11" in done.out
    how = "holds from 9 to 11: seen, not shown, on 20 cases of cases.jsonl"
    assert file.read_text() == f"# my own\nsampling:\n  max_new_tokens: 10 # short  # {how}\n"
    never = jeito(*over, "--check", "words: {min: 99}", "--at-least", 0.5)
    assert "nothing is written" in never.err


@pytest.mark.parametrize("over", ["temprature=0:1:2", "temperature=1:0:2", "temperature", "top_p=0.5:2:3"])
def test_a_sweep_over_nothing_is_refused_before_a_model_loads(jeito: Jeito, cases: Path, over: str) -> None:
    done = jeito("sweep", "-m", "no.gguf", "--cases", cases, "--over", over)
    assert done.code == 64
    assert "no.gguf" not in done.err


def test_a_bench_goes_on_without_a_model_that_does_not_load(jeito: Jeito, cases: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    asked = ("-b", "plain", "--cases", cases, "--export", out, "--json")
    done = jeito("bench", "-m", "toy", "-m", "no.gguf", *asked)
    toy, lost = json.loads(done.out)["contenders"]
    assert (done.code, toy["quality"]["rate"], toy["on_front"], lost["quality"]) == (0, 1, True, None)
    assert "no.gguf" in lost["error"]
    beside = jeito("bench", "-m", "no.gguf", "-b", "plain", "--cases", cases, "--read", out / "toy")
    assert beside.code == 70
    assert "(lm-evaluation-harness)" in beside.out
