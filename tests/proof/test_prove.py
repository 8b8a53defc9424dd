"""Plans, their runs, and what they come to: on the toy, whose replies are a function of prompt and seed."""

import random
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from jeito.behaviour.behaviour import Claim
from jeito.behaviour.load import load
from jeito.decode.local import LocalModel
from jeito.engines.toy import ToyEngine, babble
from jeito.errors import InputError, UnsupportedError
from jeito.proof.judge import Judge, judge, keep, refuse_stale
from jeito.proof.plan import find, make_plan, seed_of
from jeito.proof.prove import carry_out, prove
from jeito.proof.status import proof_status
from jeito.proof.values import Case, Expected, ExpectedCall
from jeito.trace import plans
from jeito.trace.log import Log
from jeito.types import Message
from tests.proof.prover import CLAIM, proved

KILLS = 3
SHORT = Claim(name="words", value={"max": 3}, at_least=0.5)
ALL = Claim(name="characters", value={"min": 0}, at_least=0.5)


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path / "log.db")


def cases(count: int, **fields: Any) -> list[Case]:
    return [Case(name=f"case {number}", prompt=f"say {number}", **fields) for number in range(count)]


def planned(model: LocalModel, count: int, repeats: int, **changes: Any) -> Any:
    loaded = load("plain", ["max_new_tokens=8"])
    return loaded, make_plan(
        loaded, cases(count), label="plain+max_new_tokens=8", cases_from="cases.yaml", model=model.name,
        model_fingerprint=model.fingerprint, repeats=repeats, seed=1, **{"claims": [SHORT], **changes},
    )  # fmt: skip


def test_a_proof_killed_three_times_is_the_proof_of_an_undisturbed_one(tmp_path: Path) -> None:
    undisturbed = proved(Log(tmp_path / "undisturbed.db"), 5)
    file, chance = tmp_path / "log.db", random.Random(7)
    script = str(Path(__file__).with_name("prover.py"))
    for _ in range(KILLS):
        process = subprocess.Popen([sys.executable, script, str(file), "5"], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for _ in range(chance.randint(1, 9)):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        said, _ = process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert "{" not in said, "it was killed before its end"
    log = Log(file)
    lost = log.recent(100, finish="unfinished")
    assert lost, "a run was under way when its process died"

    assert proved(log, 5) == undisturbed
    whole = [run for run in log.recent(1000) if run.finish is not None]
    assert len(whole) == undisturbed.plan.runs == 36, "no run was lost, and none made twice"
    assert len({(run.case, run.seed) for run in whole}) == 36


def test_what_the_log_holds_of_a_plan_is_not_run_again(babbler: LocalModel, log: Log) -> None:
    loaded, plan = planned(babbler, 6, 2, early=False)
    first = keep(log, carry_out(plan, loaded, babbler, log))
    engine = ToyEngine(babble)
    again = keep(log, carry_out(plan, loaded, LocalModel(engine, "babbler"), log))
    assert again == first
    assert engine.calls == []


def test_a_whole_run_keeps_its_place_whoever_else_runs_the_plan(babbler: LocalModel, log: Log) -> None:
    loaded, plan = planned(babbler, 2, 1, early=False)
    first = judge(log, plan).judged or carry_out(plan, loaded, babbler, log).judged
    plans.take_places(log, plan.plan.digest, {0: "another", 1: "a third"})
    assert judge(log, plan).judged == first


def test_a_verdict_from_the_log_stops_where_the_proof_stopped_whatever_else_the_log_holds(
    babbler: LocalModel, log: Log
) -> None:
    changes = {"claims": [ALL], "unit": "run"}
    loaded, whole = planned(babbler, 60, 1, early=False, **changes)
    carry_out(whole, loaded, babbler, log)
    _, early = planned(babbler, 60, 1, **changes)
    found = judge(log, early)
    assert found.is_decided
    assert len(found.judged) < 60
    assert found.judged == carry_out(early, loaded, babbler, log).judged


def test_a_plan_is_written_before_its_first_run(babbler: LocalModel, log: Log) -> None:
    loaded, plan = planned(babbler, 2, 1)
    seen = []

    class Watched(LocalModel):
        def stream(self, *given: Any) -> Any:
            seen.append(find(log, plan.plan.digest))
            return super().stream(*given)

    carry_out(plan, loaded, Watched(ToyEngine(babble), "babbler"), log)
    assert seen[0] is not None
    assert seen[0].plan == plan.plan
    assert seen[0].cases == plan.cases
    assert seen[0].behaviour == loaded.behaviour


def test_a_run_has_the_seed_of_its_plan_its_case_and_its_repeat(babbler: LocalModel, log: Log) -> None:
    loaded, plan = planned(babbler, 3, 2, early=False)
    found = carry_out(plan, loaded, babbler, log)
    expected = {(case.name, seed_of(1, case, repeat)) for case in plan.cases for repeat in range(2)}
    assert {(run.case, run.seed) for run in log.recent(100)} == expected
    assert len(expected) == 6
    assert found.proof().exact, "receipts say that it held"


def test_repeats_of_a_case_stay_together_where_cases_are_the_unit_and_nowhere_else(babbler: LocalModel) -> None:
    _, of_cases = planned(babbler, 20, 3)
    _, of_runs = planned(babbler, 20, 3, unit="run")
    blocks = [place // 3 for place in of_cases.order()]
    assert [blocks[at : at + 3] for at in range(0, 60, 3)] == [[case] * 3 for case in blocks[::3]]
    assert blocks[::3] != sorted(blocks[::3])
    assert sorted(of_runs.order()) == list(range(60))
    assert sum(a // 3 == b // 3 for a, b in zip(of_runs.order(), of_runs.order()[1:], strict=False)) < 10


def test_results_are_taken_in_plan_order_though_short_replies_finish_first(log: Log) -> None:
    model = LocalModel(ToyEngine(), "echo")
    lengths = [Case(name=f"{size}", prompt="x" * size) for size in (60, 1, 40, 2, 50, 3, 30, 4)]
    ended: list[int] = []
    loaded = load("plain")
    plan = make_plan(
        loaded, lengths, label="plain", cases_from="", model="echo", model_fingerprint=None, repeats=1, seed=2,
        claims=[ALL], unit="run", early=False,
    )  # fmt: skip
    found = carry_out(plan, loaded, model, log, heard=lambda done, judge: ended.append(len(judge.judged)))
    assert [one.place for one in found.judged] == plan.order()
    sizes = [len(run.answer) for run in map(log.get, (one.run for one in found.judged))]
    assert sizes != sorted(sizes)
    assert max(sizes) == 60


def test_a_new_run_begins_as_soon_as_one_ends(log: Log) -> None:
    engine = ToyEngine(slots=4)
    loaded, plan = planned(LocalModel(engine, "echo"), 30, 1, early=False)
    engine.calls.clear()
    carry_out(plan, loaded, LocalModel(engine, "echo"), log)
    widths = [len(call) for call in engine.calls]
    assert widths.count(4) > 0.8 * len(widths)


def test_it_stops_where_every_claim_is_decided_and_says_the_same_the_next_time(babbler: LocalModel, log: Log) -> None:
    loaded, plan = planned(babbler, 60, 1, claims=[ALL], unit="run")
    found = keep(log, carry_out(plan, loaded, babbler, log))
    assert found.decision == "holds"
    assert found.runs < 30
    assert keep(log, judge(log, find(log, plan.plan.digest) or plan)) == found
    assert keep(log, carry_out(plan, loaded, babbler, log)) == found


def test_a_failed_run_is_data_and_counts_against_the_claim_at_both_ends(log: Log) -> None:
    model = LocalModel(ToyEngine(context=64), "echo")
    asked = [*cases(6), *(Case(name=f"long {n}", prompt="x" * 100 + str(n)) for n in range(2))]
    loaded = load("plain", ["max_new_tokens=8"])
    found = prove(loaded, model, asked, repeats=1, log=log, seed=1, claims=[ALL], early=False)
    (finding,) = found.findings
    assert (finding.passed, finding.trials, finding.unmeasured, finding.rate) == (6, 8, 2, 1.0)
    assert finding.high == 1.0
    assert finding.low < 0.5
    errors = [run for run in log.recent(100) if run.finish == "error"]
    assert len(errors) == 2
    assert "context" in (errors[0].error or "")


def test_where_nothing_could_be_measured_nothing_is_shown(log: Log) -> None:
    model = LocalModel(ToyEngine(context=16), "echo")
    asked = [Case(name=f"{n}", prompt="x" * 100 + str(n)) for n in range(40)]
    found = prove("plain", model, asked, repeats=1, log=log, seed=1, claims=[ALL])
    assert (found.decision, found.findings[0].unmeasured, found.runs) == ("undecided", 40, 40)
    assert not found.exact


def test_the_tools_that_a_case_offers_are_returned_and_not_made(log: Log) -> None:
    call = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
    schema = {
        "type": "function",
        "function": {"name": "add", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}},
    }
    expected = Expected(calls=(ExpectedCall(name="add", arguments={"a": 1}),))
    asked = Case(name="add", prompt="add 1", tools=(schema,), expect=expected)
    claim = Claim(name="calls", value=True, at_least=0.5)
    loaded = load("plain", ["tool_choice=auto", "dialect=hermes", "max_new_tokens=200"])
    prove(loaded, LocalModel(ToyEngine(_says(call)), "caller"), [asked], repeats=1, log=log, seed=1, claims=[claim])
    (run,) = log.recent(1)
    assert run.finish == "tool_calls"
    assert run.calls[0].name == "add"
    assert run.calls[0].arguments == {"a": 1}
    assert not run.turns
    ((_, _, verdicts),) = judge(log, find(log, "") or pytest.fail("no plan")).judged
    assert verdicts[0].passed


def _says(text: str) -> Any:
    """A toy that says this, whatever is asked."""
    import numpy as np

    from jeito.engines.toy import END, VOCABULARY

    def score(tokens: Any) -> Any:
        said = bytes(token for token in tokens if token < 256).rpartition(b"<assistant>")[2]
        row = np.zeros(VOCABULARY, np.float32)
        row[text.encode()[len(said)] if len(said) < len(text) else END] = 30.0
        return row

    return score


def test_changed_claims_are_judged_on_old_runs_and_the_proof_says_so(babbler: LocalModel, log: Log) -> None:
    loaded, plan = planned(babbler, 10, 2, early=False)
    first = keep(log, carry_out(plan, loaded, babbler, log))
    other = keep(log, judge(log, plan, [ALL]))
    assert other.id != first.id
    assert other.findings[0].claim == ALL
    assert other.runs == 20
    assert other.notes == ("not as it was planned before the first run: claims",)
    assert not first.notes


def test_a_changed_behaviour_is_not_merged_into_an_old_plan(babbler: LocalModel, log: Log) -> None:
    loaded, plan = planned(babbler, 4, 1, early=False)
    carry_out(plan, loaded, babbler, log)
    changed = load("plain", ["max_new_tokens=8", "temperature=0.5", "system=Be brief."]).behaviour
    with pytest.raises(InputError, match=r"sampling\.temperature, system changed since"):
        refuse_stale(plan, changed, "plain")
    refuse_stale(plan, load("plain", ["max_new_tokens=8", "language=en"]).behaviour, "plain")
    _, other = planned(LocalModel(ToyEngine(), "babbler"), 4, 1)
    assert other.plan.digest != plan.plan.digest
    assert not plans.places_held(log, other.plan.digest)


def test_an_interrupted_plan_is_undecided_and_no_proof_of_it_is_kept(babbler: LocalModel, log: Log) -> None:
    loaded, plan = planned(babbler, 10, 1, claims=[ALL], early=False)

    def interrupt(done: int, judge: Judge) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        carry_out(plan, loaded, babbler, log, heard=interrupt)
    found = keep(log, judge(log, plan))
    assert found.decision == "undecided"
    assert found.runs < 10
    assert "of 10 runs" in found.findings[0].why
    assert not plans.proofs(log)
    assert Counter(run.finish for run in log.recent(100))["cancelled"] > 0
    assert keep(log, carry_out(plan, loaded, babbler, log)).runs == 10


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"claims": []}, "claims nothing"),
        ({"claims": [Claim(name="wrods", value=1, at_least=0.5)]}, "no check is called 'wrods'"),
        ({"count": 0}, "there is no case"),
    ],
)
def test_what_cannot_be_planned_is_refused(babbler: LocalModel, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        planned(babbler, changes.pop("count", 2), 1, **changes)


def test_what_the_model_cannot_honour_is_refused_before_a_plan_is_written(babbler: LocalModel, log: Log) -> None:
    babbler.abilities = frozenset()
    with pytest.raises(UnsupportedError, match="temperature"):
        prove("plain+temperature=0.3", babbler, cases(2), repeats=1, log=log, seed=1, claims=[ALL])
    assert not log.path.exists()


def test_a_server_can_say_what_is_proved_of_a_behaviour(babbler: LocalModel, log: Log) -> None:
    loaded, plan = planned(babbler, 60, 1, claims=[ALL], unit="run")
    proof = keep(log, carry_out(plan, loaded, babbler, log))
    (standing,) = proof_status(loaded.behaviour, babbler.fingerprint, log)
    assert (standing.id, standing.status, standing.claims) == (proof.id, "proved", "1 of 1 hold")
    assert proof_status(loaded.behaviour, "another", log) == []
    claimed = loaded.behaviour.model_copy(update={"checks": (ALL,)})
    (standing,) = proof_status(claimed, babbler.fingerprint, log)
    assert (standing.status, standing.why) == ("stale", "the behaviour's claims")


def test_a_conversation_is_a_case_too(log: Log) -> None:
    turns = [("user", "one"), ("assistant", "two"), ("user", "three")]
    asked = Case(name="talk", messages=[Message(role=role, content=text) for role, text in turns])  # type: ignore[arg-type]
    prove("plain", LocalModel(ToyEngine(), "echo"), [asked], repeats=1, log=log, seed=1, claims=[ALL])
    (run,) = log.recent(1)
    assert run.answer == "three"
    assert len(run.request.messages) == 3


def test_a_log_of_an_older_jeito_gets_its_new_tables_with_the_first_write(babbler: LocalModel, log: Log) -> None:
    loaded, plan = planned(babbler, 2, 1)
    carry_out(plan, loaded, babbler, log)
    with sqlite3.connect(log.path) as connection:
        for table in ("plans", "places", "proofs"):
            connection.execute(f"drop table {table}")
        connection.execute("pragma user_version = 1")
    old = Log(log.path)
    kept = [run.id for run in old.recent(10)]
    assert len(kept) == 2
    assert plans.proofs(old) == []
    assert find(old, plan.plan.digest) is None
    found = keep(old, carry_out(plan, loaded, babbler, old))
    assert found.runs == 2
    assert set(kept) < {run.id for run in old.recent(10)}


def test_the_demo_model_is_proved_in_one_batch(demo_model: LocalModel, log: Log) -> None:
    loaded = load("technical", ["max_new_tokens=12"])
    found = prove(loaded, demo_model, cases(3), repeats=3, log=log, seed=1, claims=[CLAIM], early=False)
    assert found.exact
    assert found.runs == 9
    assert found.environment["engine"] == "llamacpp"
    cached = sum(run.usage.cached or 0 for run in log.recent(9))
    assert cached > 0, "repeats of one case share its prompt"
