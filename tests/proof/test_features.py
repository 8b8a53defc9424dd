"""Replies in numbers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jeito.proof import measures
from jeito.proof.features import FEATURES, features
from jeito.types import Token
from tests.proof.replies import case, reply

TEXT = "The cat sat. The cat sat on 2 mats.\n```\nx = 1\n```\n- one\n- two\n"


def test_a_reply_is_told_in_numbers() -> None:
    found = features(reply(TEXT))
    assert found["words"] == 13
    assert found["sentences"] == 4
    assert found["distinct_2"] == 10 / 12
    assert found["list_items"] == 2
    assert found["code_share"] == len("x = 1\n") / len(TEXT)
    assert found["digit_share"] == 2 / len(TEXT)
    assert found["tokens"] == len(TEXT)
    assert found["english"] is not None
    assert found["english"] > 0.5
    assert "answer" not in found


def test_surprisal_is_the_mean_over_tokens_that_were_drawn() -> None:
    tokens = (
        Token(id=1, text="a", logprob=-1.0), Token(id=2, text="b", logprob=-3.0),
        Token(id=3, text="c", logprob=-9.0, forced=True), Token(id=4, text="d"),
    )  # fmt: skip
    assert features(reply("abcd", tokens=tokens))["surprisal"] == 2.0


def test_what_an_empty_reply_does_not_have_is_none_and_not_zero() -> None:
    found = features(reply(""))
    assert (found["words"], found["sentences"], found["tokens"]) == (0, 0, 0)
    missing = {name for name, value in found.items() if value is None}
    assert missing == set(FEATURES) - {"words", "sentences", "tokens", "list_items"}


def test_a_case_with_a_number_says_whether_it_was_met() -> None:
    assert features(reply("It is 240."), case(number=240))["answer"] == 1.0
    assert features(reply("It is 24."), case(number=240))["answer"] == 0.0


@given(st.text(max_size=300))
def test_every_feature_of_every_text_is_a_finite_number_or_none(text: str) -> None:
    for name, value in features(reply(text)).items():
        assert value is None or (isinstance(value, float) and abs(value) < float("inf")), name


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("One. Two! Three? Four…", 4), ("Mr. Silva met Dr. Costa, e.g. at noon. Then he left.", 2),
        ("It costs 3.50 euros. version 1.2.3 is out", 1), ("- one\n- two", 2), ("No end", 1), ("...", 0),
        ("«Olá.» Disse ele.", 2), ("A Sra. Lima saiu. Ela volta às 3.", 2), ("Run it:\n```\na. B. C.\n```\nDone.", 2),
    ],
)  # fmt: skip
def test_sentences_are_counted_as_a_reader_would(text: str, count: int) -> None:
    assert len(measures.sentences(text)) == count, measures.sentences(text)


def test_words_hold_together_across_hyphens_points_and_apostrophes() -> None:
    assert measures.words("Don't guarda-chuva 3.5 km/h d’água, _so_") == [
        "Don't",
        "guarda-chuva",
        "3.5",
        "km",
        "h",
        "d’água",
        "so",
    ]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("```python\nx = f(1)\n```", "x = f(1)\n"),
        ("```py\na = 1\n```\ntext\n```\nb = 2\n```", "a = 1\n\nb = 2\n"),
        ("```js\nlet x\n```\n```python\ny = 2\n```", "y = 2\n"),
        ("Sure!\ndef f(x):\n    return x\n\nThis is how it works.", "def f(x):\n    return x\n"),
        ("```python\ndef f(:\n```", None),
        ("There is no code here.", None),
        ("```python\nx = 1", "x = 1"),
        ("```\nnot python at all\n```\n```\nz = 3\n```", "z = 3\n"),
    ],
)
def test_the_python_of_a_reply_is_found(text: str, code: str | None) -> None:
    assert measures.python(text) == code


def test_chrf_is_one_for_the_same_text_and_what_was_computed_by_hand_for_another() -> None:
    assert measures.chrf("abc", "a b c") == 1.0
    assert measures.chrf("", "abc") == 0.0
    # Of "ab" against "ac": one letter of two, no pair of one; means over the two orders are 1/4 each.
    assert measures.chrf("ab", "ac") == 0.25


@given(st.text("abc ", max_size=30), st.text("abc ", max_size=30))
def test_chrf_lies_between_nothing_and_all(one: str, other: str) -> None:
    assert 0 <= measures.chrf(one, other) <= 1
