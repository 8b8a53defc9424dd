"""Claims that make no sense are refused before the first run, each by one clear sentence."""

from pathlib import Path

import pytest

from jeito.behaviour.behaviour import Behaviour, Claim
from jeito.behaviour.load import load
from jeito.errors import InputError
from jeito.proof.checks import SHELF, bind, bind_value, check_claims, find_check, verdict_of
from tests.proof.replies import case, check, reply


@pytest.mark.parametrize(
    ("name", "value", "sentence", "hint"),
    [
        ("wrods", {"max": 3}, "no check is called 'wrods'", "did you mean words"),
        ("words", {"mx": 3}, "words has no keyword 'mx'", "did you mean max"),
        ("words", {"max": "3"}, "words: max: Input should be a valid integer", "docs/checks.md"),
        ("words", {"min": -1}, "words: min: Input should be greater than or equal to 0", "docs/checks.md"),
        ("words", 3, "words cannot take 3 alone", "{words: {min: …, max: …}}"),
        ("words", {}, "words has neither min nor max", "{words: {max: …}}"),
        ("words", {"min": 4, "max": 3}, "words: nothing is at least 4 and at most 3", "swap"),
        ("matches", "(", "matches: regex: this is no regular expression", "docs/checks.md"),
        ("language", "klingon", "no such language is known here", "docs/checks.md"),
        ("letters", "title", "letters: case_of:", "docs/checks.md"),
        ("contains", [], "contains: facts: this is empty", "docs/checks.md"),
        ("calls", 3, "calls cannot take 3 alone", "write {calls: true}"),
        ("refuses", {"who": "me"}, "refuses has no keyword 'who'", "{refuses: true}"),
        ("times", True, "times needs word", "{times: {word: …}}"),
        (
            "json_schema",
            {"schema": {"type": "integre"}},
            "json_schema: schema: this is no JSON Schema",
            "docs/checks.md",
        ),
        ("finish", "ended", "finish: by:", "docs/checks.md"),
        ("judge", True, "judge needs criterion", "{judge: {criterion: …}}"),
        ("none.py:check", True, "there is no file 'none.py' with checks", "FILE.py:function"),
    ],
)
def test_a_claim_that_makes_no_sense_is_refused(name: str, value: object, sentence: str, hint: str) -> None:
    with pytest.raises(InputError) as refused:
        bind_value(name, value)
    assert sentence in str(refused.value)
    assert hint in refused.value.hint


def test_a_claims_check_is_bound_to_its_keywords() -> None:
    claim = Claim(name="words", value={"max": 2}, at_least=0.5)
    assert verdict_of(claim, reply("one two"), case()).passed is True
    assert bind(claim)(reply("one two three"), case()) == (False, "3 words, over 2")


def test_a_least_number_that_nobody_asked_for_gives_way() -> None:
    assert check("code", True, "no code").passed is False
    assert check("code", {"max": 0}, "no code").passed is True


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "own.py"
    path.write_text(
        "from jeito.proof.values import Verdict\n"
        "def shorter(trace, *, characters: int):\n"
        "    return Verdict(len(trace.answer) < characters, 'so long')\n"
        "def named(trace, case, setting, *, word: str = 'x'):\n"
        "    return word in case.prompt\n"
        "def unsure(trace):\n    return None, 'hard to say'\n"
        "def crashes(trace):\n    return 1 / 0\n"
        "def leaves(trace):\n    raise SystemExit(0)\n"
        "def silent(trace):\n    pass\n"
        "def _hidden(trace):\n    return True\n"
    )
    return path


def test_a_file_brings_checks_of_its_own(file: Path) -> None:
    assert check(f"{file}:shorter", 4, "abc") == (True, "so long")
    assert check(f"{file}:shorter", {"characters": 3}, "abc").passed is False
    assert check(f"{file}:named", True, "abc").passed is True
    assert check(f"{file}:unsure", True, "abc") == (None, "hard to say")
    assert check(f"{file}:unsure", False, "abc").passed is None


def test_a_check_that_crashes_or_says_nothing_is_no_pass(file: Path) -> None:
    assert check(f"{file}:crashes", True, "abc") == (
        None,
        f"{file}:crashes crashed: ZeroDivisionError: division by zero",
    )
    assert check(f"{file}:crashes", False, "abc").passed is None
    assert check(f"{file}:leaves", True, "abc") == (None, f"{file}:leaves crashed: SystemExit: 0")
    assert check(f"{file}:silent", True, "abc").passed is None
    assert "no verdict" in check(f"{file}:silent", True, "abc").why


@pytest.mark.parametrize(
    ("function", "value", "sentence", "hint"),
    [
        ("shortr", 3, "has no function 'shortr'", "did you mean shorter"),
        ("shorter", {"character": 3}, "has no keyword 'character'", "did you mean characters"),
        ("shorter", "x", "characters: Input should be a valid integer", "docs/checks.md"),
    ],
)
def test_a_files_checks_are_validated_like_the_others(
    file: Path, function: str, value: object, sentence: str, hint: str
) -> None:
    with pytest.raises(InputError, match=sentence) as refused:
        bind_value(f"{file}:{function}", value)
    assert hint in refused.value.hint


def test_a_file_that_cannot_be_imported_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text("x = 1\ny = 1 / 0\n")
    with pytest.raises(InputError, match="line 2: ZeroDivisionError"):
        bind_value(f"{path}:x", True)


def test_a_behaviour_names_a_file_beside_it(file: Path) -> None:
    behaviour = file.with_name("terse.yaml")
    behaviour.write_text("system: Be brief.\nchecks:\n  - {'own.py:shorter': 9, at_least: 0.9}\n")
    (bound,) = check_claims(load(str(behaviour)))
    assert bound(reply("brief"), case()).passed is True


def test_a_files_contents_are_part_of_what_is_judged(file: Path) -> None:
    claim = Claim(name=f"{file}:unsure", value=True, at_least=0.5)
    before = Behaviour(checks=(claim,)).checks_fingerprint()
    assert before == Behaviour(checks=(claim,)).checks_fingerprint()
    file.write_text(file.read_text() + "# more\n")
    assert Behaviour(checks=(claim,)).checks_fingerprint() != before


@pytest.mark.parametrize(
    ("claims", "line", "sentence"),
    [
        (
            "  - {words: {max: 9}, at_least: 0.9}\n  - {wrods: {max: 9}, at_least: 0.9}\n",
            4,
            "no check is called 'wrods'",
        ),
        (
            "  - {words: {max: 9}, at_least: 0.9}\n  - {words: {min: 10}, at_least: 0.2}\n",
            4,
            "at least 10 and at most 9",
        ),
        (
            "  - {refuses: true, at_least: 0.9}\n\n  - {refuses: false, at_least: 0.2}\n",
            5,
            "one says true, the other false",
        ),
        ("  - {language: pt, at_least: 0.9}\n  - {language: en, at_least: 0.9}\n", 4, "pt and en"),
    ],
)
def test_a_wrong_claim_is_refused_with_its_file_and_line(tmp_path: Path, claims: str, line: int, sentence: str) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(f"system: x\nchecks:\n{claims}")
    with pytest.raises(InputError) as refused:
        check_claims(load(str(path)))
    assert str(refused.value).startswith(f"{path}:{line}:")
    assert sentence in str(refused.value)


@pytest.mark.parametrize(
    "claims",
    [
        [("words", {"max": 9}, 0.5), ("words", {"min": 10}, 0.5)],  # each by half of the replies
        [("words", {"min": 3}, 0.9), ("words", {"max": 9}, 0.9)],
        [("repetition", {"max": 0.1, "n": 2}, 0.9), ("repetition", {"min": 0.2, "n": 3}, 0.9)],
        [("contains", "a", 0.9), ("contains", "b", 0.9)],
    ],
)
def test_claims_that_can_hold_together_are_let_be(claims: list[tuple[str, object, float]]) -> None:
    loaded = load("plain")
    made = tuple(Claim(name=name, value=value, at_least=share) for name, value, share in claims)
    changed = loaded._replace(behaviour=loaded.behaviour.model_copy(update={"checks": made}))
    assert len(check_claims(changed)) == 2


def test_every_check_says_what_it_is_and_can_be_bound_again() -> None:
    for name in SHELF:
        found = find_check(name)
        assert found is find_check(name)
        assert found.function.__doc__, name
