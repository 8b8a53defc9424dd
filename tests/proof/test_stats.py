"""What the outcomes of a claim show: decisions, corrections, how many more."""

from typing import Any

import pytest

from jeito.proof.stats import Meaning, at_best, by_case, decide, decided_at

TEN = [True] * 9 + [False]


def runs(outcomes: list[Any]) -> list[int]:
    return list(range(len(outcomes)))


def test_twenty_four_cases_can_never_show_nine_tenths() -> None:
    for sequential in (True, False):
        best = at_best(24, 24, 0.9, sequential=sequential)
        assert not best.can_hold
        found = decide([True] * 24, runs([1] * 24), 0.9, sequential=sequential)
        assert found.decision == "undecided"
        assert found.low == pytest.approx(best.low)


def test_what_a_plan_needs_at_best_is_what_it_takes() -> None:
    # 0.9³⁵ is 0.02503, a hair above 2.5 %.
    assert at_best(24, 24, 0.9, sequential=False).needed == 36
    for sequential, enough in ((False, 36), (True, 48)):
        best = at_best(enough, enough, 0.9, sequential=sequential)
        assert (best.needed, best.can_hold) == (enough, True)
        assert decide([True] * enough, runs([1] * enough), 0.9, sequential=sequential).decision == "holds"
        assert decide([True] * 24, runs([1] * 24), 0.9, sequential=sequential).more == enough - 24
        assert (
            decide([True] * (enough - 1), runs([1] * (enough - 1)), 0.9, sequential=sequential).decision == "undecided"
        )


def test_a_plan_of_cases_is_measured_by_its_cases() -> None:
    best = at_best(400, 40, 0.9, meaning="cases like these")
    assert (best.can_hold, best.needed, best.unit) == (False, 48, "case")


def test_certainty_can_be_refuted_and_not_shown_but_by_replies_that_are_certain() -> None:
    assert at_best(100, 100, 1.0).needed is None
    for sequential in (True, False):
        assert decide([True] * 200, runs([1] * 200), 1.0, sequential=sequential).decision == "undecided"
        assert decide([True] * 199 + [False], runs([1] * 200), 1.0, sequential=sequential).decision == "fails"
    assert at_best(10, 10, 1.0, meaning="these replies").can_hold
    for sequential in (True, False):
        certain = decide(
            [True] * 10, runs([1] * 10), 1.0, meaning="these replies", planned=10, sequential=sequential
        )  # fmt: skip
        assert (certain.decision, certain.low, certain.high) == ("holds", 1, 1)


def test_the_counts_say_what_was_run() -> None:
    found = decide([True, None, False, True], ["a", "a", "b", "b"], 0.5)
    assert (found.passed, found.trials, found.clusters, found.unmeasured) == (2, 4, 2, 1)
    assert found.rate == pytest.approx(2 / 3)


def test_what_could_not_be_measured_is_never_a_pass_nor_a_failure() -> None:
    nothing = decide([None] * 100, runs([1] * 100), 0.9)
    assert (nothing.decision, nothing.rate, nothing.low, nothing.high, nothing.more) == ("undecided", None, 0, 1, None)
    assert "not be measured" in nothing.why
    assert "not be measured" in decide([True, None], ["a", "b"], 0.5).why, "the least that it may be is just enough"
    for sequential in (True, False):
        passing = decide([True] * 90 + [None] * 20, runs([1] * 110), 0.9, sequential=sequential)
        failing = decide([False] * 5 + [None] * 20, runs([1] * 25), 0.5, sequential=sequential)
        assert passing.high == 1
        assert failing.low == 0
        if not sequential:
            assert (passing.decision, failing.decision) == ("undecided", "undecided")


def test_an_empty_plan_shows_nothing() -> None:
    found = decide([], [], 0.9)
    assert (found.decision, found.rate, found.more) == ("undecided", None, None)


@pytest.mark.parametrize("meaning", ["these cases", "cases like these"])
@pytest.mark.parametrize("sequential", [True, False])
def test_so_many_more_decide_and_one_fewer_does_not(meaning: Meaning, sequential: bool) -> None:
    found = decide(TEN * 3, runs(TEN * 3), 0.75, meaning=meaning, sequential=sequential)
    assert found.more is not None
    if sequential:
        ahead = (TEN * 30)[: 30 + found.more]
        assert decided_at(ahead, runs(ahead), 0.75, meaning=meaning) == len(ahead)
    else:
        # In the same proportions, to a whole ten.
        tens = (30 + found.more + 9) // 10
        enough, few = TEN * tens, TEN * (tens - 2)
        assert decide(enough, runs(enough), 0.75, meaning=meaning, sequential=False).decision == "holds"
        assert decide(few, runs(few), 0.75, meaning=meaning, sequential=False).decision == "undecided"


def test_a_rate_at_its_limit_is_not_promised_a_decision() -> None:
    for sequential in (True, False):
        found = decide(TEN * 5, runs(TEN * 5), 0.9, sequential=sequential)
        assert found.more is None
        assert "so near 0.9" in found.why


def test_a_decision_once_reached_stays_where_it_was_reached() -> None:
    outcomes = [True] * 60 + [False] * 60
    at = decided_at(outcomes, runs(outcomes), 0.9)
    assert at == 48
    assert decide(outcomes[:47], runs(outcomes[:47]), 0.9).decision == "undecided"
    later = decide(outcomes, runs(outcomes), 0.9)
    assert later.decision == "holds"
    assert later.low >= 0.9


def test_several_claims_share_the_error() -> None:
    one = at_best(24, 24, 0.9, sequential=False)
    four = at_best(24, 24, 0.9, sequential=False, claims=4)
    assert four.low == pytest.approx((0.05 / 4 / 2) ** (1 / 24))
    assert four.low < one.low
    fixed = decide([True] * 24, runs([1] * 24), 0.9, sequential=False, claims=4)
    assert fixed.low == pytest.approx(four.low)
    assert decide([True] * 50, runs([1] * 50), 0.9, claims=4).low < 0.9 < decide([True] * 50, runs([1] * 50), 0.9).low
    assert decided_at([True] * 90, runs([1] * 90), 0.9, claims=4) == at_best(24, 24, 0.9, claims=4).needed == 62


def test_repeats_of_one_case_count_once_where_cases_are_the_unit() -> None:
    outcomes, cases = [True] * 400, [index // 20 for index in range(400)]
    alike = decide(outcomes, cases, 0.9, meaning="cases like these", repeats=20)
    alone = decide([True] * 20, runs([1] * 20), 0.9, meaning="cases like these")
    assert (alike.low, alike.decision) == (alone.low, "undecided")
    assert decide(outcomes, cases, 0.9, meaning="these cases", repeats=20).decision == "holds"


def test_a_case_counts_when_it_and_all_before_it_are_complete() -> None:
    assert by_case("abacbc", 2) == [[0, 2], [1, 4], [3, 5]]
    assert by_case("abacb", 2) == [[0, 2], [1, 4]]
    assert by_case("abaca", 2) == [[0, 2]]
    # Forty-eight passing cases decide; the first of two runs of each comes first.
    outcomes, cases = [True] * 100, [*range(50), *range(50)]
    assert decided_at(outcomes, cases, 0.9, meaning="cases like these", repeats=2) == 50 + 48
    assert decided_at(outcomes[:97], cases[:97], 0.9, meaning="cases like these", repeats=2) is None
    # The first case is the last to be complete.
    late = [0, *(case for case in range(1, 48) for _ in range(2)), 0]
    assert decided_at([True] * 96, late, 0.9, meaning="cases like these", repeats=2) == 96


def test_replies_that_are_certain_decide_as_soon_as_the_rest_cannot_change_it() -> None:
    outcomes = [True, False] * 10
    # The ninth pass is the 17th reply, the ninth failure the 18th.
    assert decided_at(outcomes, runs(outcomes), 0.45, meaning="these replies", planned=20) == 17
    assert decided_at(outcomes, runs(outcomes), 0.6, meaning="these replies", planned=20) == 18
    # 8.4 failures may be: the ninth is one too many.
    assert decided_at(outcomes, runs(outcomes), 0.58, meaning="these replies", planned=20) == 18
    found = decide(outcomes[:16], runs(outcomes[:16]), 0.6, meaning="these replies", planned=20)
    assert (found.decision, found.low, found.high, found.more) == ("undecided", 8 / 20, 12 / 20, 2)
