"""A model as a judge: it is measured on replies that a person has labelled before anything that it says counts."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from jeito.decode.local import LocalModel
from jeito.engines.base import Logits
from jeito.engines.toy import END, VOCABULARY, ToyEngine
from jeito.proof.checks import bind_value
from jeito.proof.setting import Setting
from jeito.proof.values import Case, Label, Verdict
from jeito.trace.log import Log
from tests.proof.replies import reply

CRITERION = "The reply says please."
GOOD, BAD = ("please do", "do it, please", "please", "oh please"), ("do it", "now", "go", "no")


def voice(say: Callable[[str], str]) -> LocalModel:
    """A model that says one letter, by what it was asked."""

    def score(tokens: Sequence[int]) -> Logits:
        asked, _, said = bytes(token for token in tokens if token < 256).decode().rpartition("<assistant>")
        row = np.zeros(VOCABULARY, np.float32)
        row[END if said else ord(say(asked))] = 20.0
        return row

    return LocalModel(ToyEngine(score), "judge")


def which(asked: str, meets: bool) -> str:
    first = "A: The reply meets" in asked
    return "A" if first is meets else "B"


def honest(asked: str) -> str:
    return which(asked, "please" in asked.split("Reply:")[1].split("Criterion:")[0])


def judged(model: LocalModel, answer: str, labels: Sequence[Label] | None = None, **keywords: object) -> Verdict:
    if labels is None:
        labels = [Label(reply=text, passes=text in GOOD) for text in (*GOOD, *BAD)]
    case = Case(name="a", prompt="Ask me.", labels=labels)
    setting = Setting(cases=(case,), open_model=lambda reference: model)
    return bind_value("judge", {"criterion": CRITERION, **keywords})(reply(answer), case, setting)


def test_a_judge_that_agrees_with_the_labels_is_believed() -> None:
    assert judged(voice(honest), "please go") == (
        True, "the judge says yes (right on 4 of 4 labelled replies that pass and on 4 of 4 that do not)",
    )  # fmt: skip
    assert judged(voice(honest), "go away").passed is False


def test_a_judge_that_always_says_yes_is_caught_by_its_labelled_cases() -> None:
    found = judged(voice(lambda asked: which(asked, True)), "please go")
    assert found.passed is None
    assert "right on 4 of 4 labelled replies that pass and on 0 of 4 that do not" in found.why


@pytest.mark.parametrize("letter", "AB")
def test_a_judge_that_takes_the_same_letter_whatever_it_means_is_caught(letter: str) -> None:
    assert "0 of 4" in judged(voice(lambda asked: letter), "please go").why
    assert judged(voice(lambda asked: letter), "please go", agreement=0).why.endswith("A and B were swapped")


def test_a_judge_that_nobody_can_measure_is_not_believed() -> None:
    few = [Label(reply="please", passes=True)] * 9 + [Label(reply="no", passes=False)] * 3
    found = judged(voice(honest), "please go", few)
    assert found.passed is None
    assert "9 and 3 labelled replies" in found.why


def test_without_a_model_at_hand_a_judge_says_nothing() -> None:
    case = Case(name="a", prompt="x")
    assert bind_value("judge", CRITERION)(reply("please"), case, Setting()).passed is None


def test_a_judge_is_measured_once_and_its_runs_are_kept(home: object) -> None:
    asked: list[str] = []

    def say(text: str) -> str:
        asked.append(text)
        return honest(text)

    labels = [Label(reply=text, passes=text in GOOD) for text in (*GOOD, *BAD)]
    case = Case(name="a", prompt="Ask me.", labels=labels)
    model, log = voice(say), Log()
    opened: list[str] = []
    setting = Setting(cases=(case,), open_model=lambda name: opened.append(name) or model, model="m", log=log)  # type: ignore[func-returns-value]
    check = bind_value("judge", CRITERION)
    for answer in ("please go", "go"):
        check(reply(answer), case, setting)
    assert opened == ["m"]
    assert len(log.recent(100)) == 2 * (8 + 2)  # both orders of the labelled replies once, then of each reply
    assert {(trace.case, trace.request.sampling.exact) for trace in log.recent(100)} == {("judge of a", True)}
