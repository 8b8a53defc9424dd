"""`jeito prove`, `judge` and `proofs`, on the toy, which says again what it is asked."""

import json
import signal
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from jeito.trace.log import Log
from tests.cli.conftest import PATIENCE, Jeito

WORDS = ("--check", "words: {max: 3}", "--at-least", 0.5)


@pytest.fixture
def cases(tmp_path: Path) -> Path:
    """Twenty that the toy answers as they expect, and four that it does not."""
    file = tmp_path / "cases.jsonl"
    asked = [{"name": f"right {n}", "prompt": f"it is {n}", "expect": {"number": n}} for n in range(20)]
    asked += [{"name": f"wrong {n}", "prompt": f"it is {n}", "expect": {"number": n + 1}} for n in range(4)]
    file.write_text("".join(json.dumps(case) + "\n" for case in asked))
    return file


@pytest.fixture
def behaviour(tmp_path: Path) -> Path:
    file = tmp_path / "terse.yaml"
    file.write_text("system: Be terse.\nchecks:\n- {words: {max: 3}, at_least: 0.5}\n")
    return file


def test_a_proof_is_its_values_on_standard_output_and_a_code(jeito: Jeito, cases: Path) -> None:
    done = jeito("prove", "plain", "-m", "toy", "--cases", cases, *WORDS, "--seed", 1, "--json")
    assert done.code == 0
    proof = json.loads(done.out)
    assert proof["decision"] == "holds"
    assert proof["plan"]["seed"] == 1
    (finding,) = proof["findings"]
    assert finding["claim"] == {"words": {"max": 3}, "at_least": 0.5}
    assert {"decision", "passed", "trials", "clusters", "unmeasured", "low", "high", "more"} <= finding.keys()


def test_what_fails_ends_with_1_and_what_is_undecided_with_2(jeito: Jeito, cases: Path) -> None:
    fails = jeito("prove", "plain", "-m", "toy", "--cases", cases, "--check", "words: {max: 1}", "--at-least", 0.9)
    assert fails.code == 1
    assert "fails" in fails.out
    assert "not words: case" in fails.out
    undecided = jeito("prove", "plain", "-m", "toy", "--cases", cases, "--limit", 4, *WORDS)
    assert undecided.code == 2
    assert "undecided" in undecided.out
    assert "cannot be shown: if every run passed, this plan would show" in undecided.err
    both = jeito("prove", "plain", "-m", "toy", "--cases", cases, "--limit", 12, *WORDS, "--check", "words: {min: 4}",
                 "--at-least", 0.5)  # fmt: skip
    assert both.code == 1, "of several claims, one that fails decides"


def test_without_a_claim_replies_have_to_be_what_their_cases_expect(jeito: Jeito, cases: Path) -> None:
    done = jeito("prove", "plain", "-m", "toy", "--cases", cases, "--unit", "run", "-n", 4, "--at-least", 0.5)
    assert done.code == 0
    assert "correct at least 0.5" in done.out
    right = jeito("prove", "plain", "-m", "toy", "--cases", cases, "--no-early", "--json", "--unit", "run")
    (finding,) = json.loads(right.out)["findings"]
    assert (finding["claim"]["at_least"], finding["passed"], finding["trials"]) == (0.9, 20, 24)


def test_the_same_seed_is_the_same_plan_and_runs_nothing_again(jeito: Jeito, cases: Path) -> None:
    command = ("prove", "plain", "-m", "toy", "--cases", cases, *WORDS, "--seed", 3, "--json")
    first = jeito(*command)
    runs = json.loads(jeito("log", "-n", 100, "--json").out)
    assert jeito(*command).out == first.out
    assert json.loads(jeito("log", "-n", 100, "--json").out) == runs


def test_an_interrupted_plan_says_how_it_goes_on_and_does(jeito: Jeito, begin: Any, tmp_path: Path) -> None:
    file = tmp_path / "long.jsonl"
    file.write_text("".join(json.dumps({"name": f"{n}", "prompt": f"{n} " + "a" * 90}) + "\n" for n in range(24)))
    command = ("prove", "plain+max_new_tokens=90", "-m", "toy", "--cases", file, *WORDS, "--no-early")
    process, log = begin(*command), Log()
    while process.poll() is None and not log.recent(1, finish="length"):
        pass  # until a run has ended
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert b"of 24 runs are kept: the same command goes on from here" in said
    done = jeito(*command, "--json")
    assert "going on with plan" in done.err
    assert json.loads(done.out)["runs"] == 24


def test_a_verdict_is_repeated_from_the_log_and_by_other_claims(jeito: Jeito, cases: Path, behaviour: Path) -> None:
    nothing = jeito("judge")
    assert nothing.code == 64
    assert "jeito prove" in nothing.err
    first = jeito("prove", behaviour, "-m", "toy", "--cases", cases, "--json")
    proof = json.loads(first.out)
    for name in ((), (proof["id"][:9],), (proof["plan"]["digest"][:9],)):
        assert jeito("judge", *name, "--json").out == first.out
    behaviour.write_text("system: Be terse.\nchecks:\n- {words: {max: 1}, at_least: 0.5}\n")
    stricter = jeito("judge", proof["id"][:9], "-b", behaviour)
    assert stricter.code == 1
    assert "claims" in stricter.err
    behaviour.write_text("system: Be wordy.\nchecks:\n- {words: {max: 3}, at_least: 0.5}\n")
    stale = jeito("judge", proof["id"][:9], "-b", behaviour)
    assert stale.code == 64
    assert "system changed since" in stale.err
    assert jeito("judge", "nothing").code == 64


def test_a_proof_is_stale_when_what_it_is_of_has_changed(jeito: Jeito, cases: Path, behaviour: Path) -> None:
    def standing() -> tuple[str, str]:
        (one,) = json.loads(jeito("proofs", "--json").out)["proofs"]
        return one["status"], one["why"]

    assert "no proof is kept" in jeito("proofs").err
    jeito("prove", behaviour, "-m", "toy", "--cases", cases)
    assert standing() == ("proved", "")
    before = behaviour.read_text()
    behaviour.write_text(before.replace("terse", "brief"))
    assert standing() == ("stale", "the behaviour: system")
    behaviour.write_text(before.replace("0.5", "0.4"))
    assert standing() == ("stale", "the behaviour's claims")
    behaviour.write_text(before)
    asked = cases.read_text()
    cases.write_text(asked.replace("it is 1", "it was 1"))
    assert standing() == ("stale", "the cases")
    cases.unlink()
    assert standing()[0] == "stale"
    cases.write_text(asked)
    assert standing() == ("proved", "")


def test_a_proof_is_stale_when_the_file_of_a_check_has_changed_until_it_is_judged_again(
    jeito: Jeito, cases: Path, tmp_path: Path
) -> None:
    def standing() -> tuple[str, str]:
        (one,) = json.loads(jeito("proofs", "--json").out)["proofs"]
        return one["status"], one["why"]

    code = tmp_path / "own.py"
    code.write_text("def brief(trace):\n    return len(trace.answer) < 99\n")
    done = jeito("prove", "plain", "-m", "toy", "--cases", cases, "--check", f"'{code}:brief'", "--at-least", 0.5,
                 "--json")  # fmt: skip
    assert standing() == ("proved", "")
    code.write_text("def brief(trace):\n    return len(trace.answer) < 90\n")
    assert standing() == ("stale", "the file of a check")
    assert jeito("judge", json.loads(done.out)["id"]).code == 0
    assert standing() == ("proved", "")


@pytest.mark.parametrize("option", ["--report", "--junit"])
def test_a_page_that_could_not_be_written_is_refused_before_anything_runs(
    jeito: Jeito, cases: Path, tmp_path: Path, option: str
) -> None:
    for place in (tmp_path / "nowhere" / "found", tmp_path):
        done = jeito("prove", "plain", "-m", "toy", "--cases", cases, *WORDS, option, place)
        assert (done.code, "folder" in done.err) == (64, True)
    assert json.loads(jeito("log", "--json").out) == {"runs": []}


@pytest.mark.parametrize("alpha", ["0", "1", "-0.1"])
@pytest.mark.parametrize("command", [("prove", "plain"), ("compare",), ("sweep", "--over", "top_k=1,2"), ("bench",)])
def test_an_error_rate_that_is_none_is_wrong_usage(jeito: Jeito, command: tuple[str, ...], alpha: str) -> None:
    done = jeito(*command, "-m", "toy", "--alpha", alpha)
    assert (done.code, "--alpha" in done.err) == (64, True)


def test_a_plan_runs_elsewhere_and_comes_back(jeito: Jeito, cases: Path, tmp_path: Path) -> None:
    out, back = tmp_path / "out.jsonl", tmp_path / "back.jsonl"
    written = jeito("prove", "technical", "-m", "org/big", "--cases", cases, "--check", "answer", "--at-least", 0.5,
                    "--no-early", "--batch-out", out)  # fmt: skip
    assert written.code == 0
    assert "24 requests" in written.err
    assert written.err.count("another generator") == 1, "what is so of every run is said once"
    requests = [json.loads(line) for line in out.read_text().splitlines()]
    assert len({request["custom_id"] for request in requests}) == 24
    body = requests[0]["body"]
    assert body["model"] == "org/big"
    assert body["temperature"] == 0.2
    assert body["messages"][-1]["role"] == "user"
    assert len({request["body"]["seed"] for request in requests}) == 24

    def result(request: dict[str, Any], **message: Any) -> str:
        said = {"content": request["body"]["messages"][-1]["content"], **message}
        completion = {"model": "org/big", "choices": [{"message": said, "finish_reason": "stop"}], "usage": {}}
        return json.dumps({"custom_id": request["custom_id"], "response": {"status_code": 200, "body": completion}})

    lines = [result(request) for request in requests]
    back.write_text("\n".join(lines[:10]))
    assert jeito("prove", "--batch-in", back).code == 2, "what is missing is not shown"
    failed = {"custom_id": requests[-1]["custom_id"], "response": None, "error": {"code": "batch_expired"}}
    back.write_text("\n".join([*lines[:-1], json.dumps(failed)]))
    done = jeito("prove", "--batch-in", back, "--json")
    assert "14 results taken, 10 were there, 0 are missing" in done.err
    (finding,) = json.loads(done.out)["findings"]
    assert (finding["trials"], finding["unmeasured"]) == (24, 1)
    assert finding["passed"] in (19, 20)
    back.write_text(lines[0].replace(requests[0]["custom_id"], "elsewhere-1"))
    assert jeito("prove", "--batch-in", back).code == 64
    back.write_text(lines[0])
    changed = jeito("prove", "technical+temperature=1", "--batch-in", back)
    assert changed.code == 64
    assert "sampling.temperature changed since" in changed.err


def test_junit_says_which_claims_were_not_shown_and_where(jeito: Jeito, cases: Path, tmp_path: Path) -> None:
    file = tmp_path / "found.xml"
    jeito("prove", "plain", "-m", "toy", "--cases", cases, *WORDS, "--check", "words: {max: 1}", "--at-least", 0.5,
          "--check", "correct", "--at-least", 0.85, "--junit", file)  # fmt: skip
    suite = ElementTree.parse(file).getroot()[0]
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("3", "1", "1")
    held, failed, undecided = suite.findall("testcase")
    assert held.find("failure") is None
    assert failed.find("failure") is not None
    assert undecided.find("error") is not None
    assert "wrong" in (undecided.findtext("system-out") or "")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--check", "json"), "does not say how many"),
        (("--check", "jsom", "--at-least", 0.5), "no check is called 'jsom'"),
        (("--check", "json: true", "--at-least", 1.5), "at_least"),
        (("--check", "[json]", "--at-least", 0.5), "names no check"),
        (("--check", "json", "--at-least", 0.5, "--at-least", 0.6), "1 --check and 2 --at-least"),
        (("--check", "words: {max: 3}", "--check", "words: {min: 9}", "--at-least", 0.9), "no reply meets both"),
    ],
)
def test_claims_that_make_no_sense_are_refused(jeito: Jeito, cases: Path, words: tuple[Any, ...], said: str) -> None:
    done = jeito("prove", "plain", "-m", "toy", "--cases", cases, *words)
    assert done.code == 64
    assert said in done.err
    assert json.loads(jeito("log", "--json").out) == {"runs": []}


def test_a_check_that_crashes_is_no_verdict(jeito: Jeito, cases: Path, tmp_path: Path) -> None:
    code = tmp_path / "own.py"
    code.write_text("def fragile(trace):\n    return 1 / (len(trace.answer) - 7) > 0\n")
    done = jeito("prove", "plain", "-m", "toy", "--cases", cases, "--check", f"'{code}:fragile'", "--at-least", 0.5,
                 "--no-early", "--json")  # fmt: skip
    (finding,) = json.loads(done.out)["findings"]
    assert finding["unmeasured"] == 14, "fourteen answers have seven letters"
    assert finding["decision"] == "undecided"
