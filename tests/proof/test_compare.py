"""Pairs of replies, what differs between them and why: on the toy, whose replies are a function of prompt and seed."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from jeito.behaviour.behaviour import Claim
from jeito.behaviour.load import Loaded, load
from jeito.decode.local import LocalModel
from jeito.engines.toy import ToyEngine, babble
from jeito.errors import InputError
from jeito.proof.cause import as_asked, find_cause, switch_each
from jeito.proof.compare import contrast
from jeito.proof.comparison import Comparison, Pair
from jeito.proof.plan import find, seed_of
from jeito.proof.runs import Asked, Asking, Replies, begun, gather
from jeito.proof.values import Case, Expected
from jeito.trace import plans
from jeito.trace.log import Log

SHORT = Claim(name="characters", value={"max": 40}, at_least=1.0)
Sides = Callable[..., list[Replies]]


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path / "log.db")


def asking(count: int = 12, repeats: int = 1, seed: int = 5, **fields: Any) -> Asking:
    cases = [Case(name=f"case {n}", prompt=f"say {n}", **fields) for n in range(count)]
    return Asking(cases, "cases.yaml", repeats, seed)


def asked(*labels: str) -> list[Asked]:
    return [Asked(label, label, load(label, ["max_new_tokens=60"])) for label in labels]


def pair(found: Comparison, check: str) -> Pair:
    (one,) = [pair for pair in found.pairs if pair.check == check]
    return one


def test_both_sides_of_a_pair_have_the_seed_of_their_case_and_share_the_batch(babbler: LocalModel, log: Log) -> None:
    a, b = gather(asking(3, 2), asked("plain", "plain+temperature=0.5"), babbler, log)
    for side in (a, b):
        cases = [(case, repeat) for case in side.planned.cases for repeat in range(2)]
        assert [trace.seed for trace in side.traces] == [seed_of(5, case, repeat) for case, repeat in cases]
        assert [trace.case for trace in side.traces] == [case.name for case, _ in cases]
    assert {trace.behaviour for trace in b.traces} == {"plain+temperature=0.5"}
    rows = [len(call) for call in babbler.decoder.engine.calls]  # type: ignore[attr-defined]
    assert max(rows) > 6, "more replies than one side has were under way at once"


def test_replies_that_the_log_holds_are_not_made_again(babbler: LocalModel, log: Log) -> None:
    sides = asked("plain", "plain+temperature=0.5")
    first = gather(asking(), sides, babbler, log)
    engine = ToyEngine(babble)
    heard: list[tuple[int, int]] = []
    again = gather(asking(), sides, LocalModel(engine, "babbler"), log, lambda *counts: heard.append(counts))
    assert (again, engine.calls, heard) == (first, [], [])


def test_a_comparison_that_was_broken_off_is_found_again_until_it_is_whole(babbler: LocalModel, log: Log) -> None:
    sides = asked("plain", "plain+temperature=0.5")

    def break_off(done: int, total: int) -> None:
        assert total == 24
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gather(asking(), sides, babbler, log, break_off)
    assert begun(asking(seed=99), sides, babbler, log) == 5
    assert begun(asking(11, seed=99), sides, babbler, log) is None, "other cases"
    first = gather(asking(), sides, babbler, log)[0]
    assert begun(asking(seed=99), sides, babbler, log) is None
    plan = find(log, first.planned.plan.digest)
    assert plan is not None
    assert plans.places_held(log, plan.plan.digest) == set(range(12))


def test_the_same_behaviour_twice_does_not_differ_in_anything(babbler: LocalModel, log: Log) -> None:
    (one,) = gather(asking(), asked("plain"), babbler, log)
    found = contrast([one, one._replace(name="again")], [SHORT])
    assert {pair.difference for pair in found.pairs} == {0.0}
    assert not any(pair.differs for pair in found.pairs)
    (divergence,) = found.divergence
    assert (divergence.n, divergence.identical, divergence.median) == (12, 12, None)
    assert found.separation is not None
    assert found.separation.pairs[0].p == 1


def test_what_differs_is_found_with_its_sign_and_size(babbler: LocalModel, log: Log) -> None:
    (a,) = gather(asking(24), asked("plain"), babbler, log)
    (b,) = gather(asking(24), [Asked("short", "short", load("plain", ["max_new_tokens=12"]))], babbler, log)
    found = contrast([a, b], [SHORT])
    words = pair(found, 'characters {"max": 40}')
    passed = [[len(trace.answer) <= 40 for trace in side.traces] for side in (a, b)]
    assert words.a_mean == pytest.approx(sum(passed[0]) / 24)
    assert words.b_mean == pytest.approx(sum(passed[1]) / 24) == 1
    assert words.difference == pytest.approx(1 - sum(passed[0]) / 24)
    assert words.difference > 0.3
    tokens = pair(found, "tokens")
    assert tokens.differs
    assert tokens.difference is not None
    assert tokens.difference < 0
    # The shorter reply is the longer one's beginning: they part where it ends.
    assert {count for count in found.divergence[0].tokens if count is not None} == {12}
    assert found.separation is not None
    assert found.separation.pairs[0].p < 0.01
    assert found.separation.confusion is not None
    assert found.separation.confusion.accuracy.low > 0.5


def test_a_claim_about_a_difference_holds_fails_or_is_undecided(babbler: LocalModel, log: Log) -> None:
    (a,) = gather(asking(40), asked("plain"), babbler, log)
    (b,) = gather(asking(40), [Asked("short", "short", load("plain", ["max_new_tokens=4"]))], babbler, log)
    name = 'characters {"max": 40}'
    for least, decision in ((0.0, "holds"), (1.0, "fails"), (0.6, "undecided"), (None, None)):
        found = contrast([a, b], [SHORT], at_least={} if least is None else {name: least})
        assert (pair(found, name).decision, found.decision) == (decision, decision), least


def test_coupling_is_measured_where_cases_have_several_pairs(babbler: LocalModel, log: Log) -> None:
    once = contrast(gather(asking(6), asked("plain", "plain+top_p=0.99"), babbler, log))
    often = contrast(gather(asking(6, 4), asked("plain", "plain+top_p=0.99"), babbler, log))
    assert pair(once, "tokens").variance_ratio is None
    ratio = pair(often, "tokens").variance_ratio
    assert ratio is not None
    assert ratio < 0.9, "replies that share their noise stay alike"
    assert pair(often, "tokens").clusters == 6
    assert (
        contrast([*gather(asking(6, 4), asked("plain", "plain+top_p=0.99"), babbler, log)], meaning="these cases")
        .pairs[0]
        .clusters
        == 24
    )


def test_what_cannot_be_measured_counts_as_the_worst_for_each_end(babbler: LocalModel, log: Log) -> None:
    a, b = gather(asking(), asked("plain", "plain+temperature=0.5"), babbler, log)
    failed = tuple(trace.model_copy(update={"finish": "error", "error": "no room"}) for trace in b.traces)
    found = contrast([a, b._replace(traces=failed)], [SHORT], at_least={'characters {"max": 40}': -1.0})
    lost = pair(found, 'characters {"max": 40}')
    assert (lost.unmeasured, lost.n, lost.difference) == (12, 12, None)
    assert lost.low is not None
    assert lost.high is not None
    assert lost.low < -0.2 < 0.2 < lost.high
    assert pair(found, "words").low is None
    assert "12 runs failed" in found.notes[0]
    assert found.separation is not None


def test_every_check_more_makes_the_intervals_of_all_wider(babbler: LocalModel, log: Log) -> None:
    sides = gather(asking(24), asked("plain", "plain+temperature=0.5"), babbler, log)
    more = [Claim(name="characters", value={"max": most}, at_least=1.0) for most in (10, 20, 30)]
    alone, among = (pair(contrast(sides, claims), 'characters {"max": 40}') for claims in ([SHORT], [SHORT, *more]))
    assert alone.low is not None
    assert among.low is not None
    assert among.low < alone.low
    assert alone.adjusted == alone.p
    assert among.adjusted >= among.p == alone.p


def test_what_cannot_be_paired_is_refused(babbler: LocalModel, log: Log) -> None:
    (a,) = gather(asking(), asked("plain"), babbler, log)
    (other,) = gather(asking(11), asked("plain+temperature=0.4"), babbler, log)
    for sides, words in (([a], "no comparison"), ([a, other], "other cases"), ([a, a], "two sides are called")):
        with pytest.raises(InputError, match=words):
            contrast(sides)


def test_sides_of_one_case_have_no_classifier_and_it_is_said_why(babbler: LocalModel, log: Log) -> None:
    found = contrast(gather(asking(1, 8), asked("plain", "plain+temperature=0.5"), babbler, log))
    assert found.separation is not None
    assert found.separation.confusion is None
    assert "1 case" in found.separation.why
    assert found.separation.variety[0].between is not None


def test_being_right_is_compared_where_cases_say_what_is_right(babbler: LocalModel, log: Log) -> None:
    sides = asked("plain", "plain+temperature=0.5")
    found = contrast(gather(asking(4, expect=Expected(absent=("xyzzy",))), sides, babbler, log))
    assert pair(found, "correct").a_mean == 1


def changed(first: Loaded, second: Loaded) -> dict[str, tuple[str, str]]:
    return {one.name: (one.before, one.after) for one in switch_each(first, second)}


def test_every_knob_and_line_that_differs_is_switched_alone() -> None:
    technical, plain = load("technical"), load("plain")
    parts = switch_each(technical, plain)
    lines = technical.behaviour.system.splitlines()
    assert {one.name for one in parts} == {
        "sampling.temperature", "sampling.top_p", "sampling.repetition_penalty", "system",
        *(f"system line {at}" for at in range(1, len(lines) + 1)),
    }  # fmt: skip
    for one in parts:
        behaviour = one.loaded.behaviour
        knobs = behaviour.sampling.model_fields_set
        if one.name.startswith("sampling."):
            assert technical.behaviour.sampling.model_fields_set - knobs == {one.name.removeprefix("sampling.")}
            assert behaviour.system == technical.behaviour.system
        else:
            assert knobs == technical.behaviour.sampling.model_fields_set
            left = behaviour.system.splitlines()
            assert one.before.splitlines() == [line for line in lines if line not in left]
    assert len({one.loaded.behaviour.fingerprint() for one in parts}) == len(parts)


def test_a_behaviour_with_one_difference_becomes_the_other_when_it_is_switched() -> None:
    first, second = load("technical"), load("technical+repetition_penalty=1.0")
    (one,) = switch_each(first, second)
    assert (one.name, one.before, one.after) == ("sampling.repetition_penalty", "1.25", "1.0")
    assert one.loaded.behaviour.fingerprint() == second.behaviour.fingerprint()
    assert changed(load("plain"), load("plain+placement=user_end")) == {"placement": ("system", "user_end")}
    with pytest.raises(InputError, match="do not differ"):
        switch_each(load("plain"), load("plain+language=pt"))


def test_the_cause_of_a_difference_is_named_and_what_changes_nothing_is_not(babbler: LocalModel, log: Log) -> None:
    first, second = asked("plain+top_k=500", "plain+max_new_tokens=8")
    second = second._replace(loaded=load("plain", ["max_new_tokens=8"]))
    switched = switch_each(first.loaded, second.loaded)
    every: Sequence[Asked] = [first, second, *as_asked(first.label, switched)]
    sides = gather(asking(40), every, babbler, log)
    found = find_cause(sides[0], sides[1], switched, sides[2:], [SHORT])
    name = 'characters {"max": 40}'
    assert found.named == {name: ("sampling.max_new_tokens",)}
    assert {part.name for part in found.parts} == {"sampling.top_k", "sampling.max_new_tokens"}
    (total,) = found.total
    (alone,) = next(part.pairs for part in found.parts if part.name == "sampling.max_new_tokens")
    assert total.difference == alone.difference
