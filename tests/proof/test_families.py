"""The cases that ship: no two alike, and each answer right, computed here in another way."""

import json
import math
import re
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from jeito.errors import InputError
from jeito.proof.cases import load_cases, refuse_contradictions
from jeito.proof.families import LANGUAGES, NAMES, family
from jeito.proof.family_train import KINDS
from jeito.proof.languages import guess
from jeito.proof.values import Case
from jeito.types import ToolCall
from tests.proof.replies import check, reply

SIZES = {"train": 200, "shapes": 200, "calls": 200, "instructions": 200, "explain": 34, "robots": 34}


@pytest.mark.parametrize("name", NAMES)
def test_a_family_has_its_size_and_no_two_cases_alike(name: str) -> None:
    cases = load_cases(name)
    assert len(cases) == SIZES[name]
    for of in (lambda case: case.name, lambda case: case.prompt, lambda case: case.digest):
        assert len({of(case) for case in cases}) == len(cases)
    for case in cases:
        refuse_contradictions(case)
        assert "{" not in re.sub(r"`[^`]*`", "", case.prompt or "")
        assert "  " not in (case.prompt or "")


@pytest.mark.parametrize("name", NAMES)
def test_half_of_a_family_is_in_each_language_and_reads_so(name: str) -> None:
    for language in LANGUAGES:
        cases = load_cases(f"{name}:{language}")
        assert len(cases) == SIZES[name] / 2
        assert {case.expect.language for case in cases} == {language}
        told = [guess(case.prompt or "") for case in cases]
        wrong = [found for found in told if found.confidence >= 0.6 and found.language != language]
        assert len(wrong) <= len(cases) / 50  # a name or a tool's word can mislead
    assert {case.name for case in load_cases(name)} == {
        case.name for language in LANGUAGES for case in load_cases(f"{name}:{language}")
    }


def test_fewer_cases_are_the_first_of_more_on_every_machine() -> None:
    assert load_cases("train:7") == load_cases("train")[:7]
    assert load_cases("train:pt:250")[:100] == load_cases("train:pt")
    assert [case.prompt for case in load_cases("train:2")] == [
        "A freight train travels at 40 km/h for 3 hours. How far does it go?",
        "Um trem de carga viaja a 90 km/h por 4 horas. Que distância ele percorre?",
    ]


def test_a_tag_chooses_among_the_cases_and_stands_in_their_names() -> None:
    chosen = load_cases("train:en:distance:40")
    assert (len(chosen), chosen[0].name) == (40, "train-distance-en-001")
    assert all({"en", "distance", "one-step"} <= set(case.tags) for case in chosen)
    assert {case.tags[1] for case in load_cases("train:one-step")} == {"simple", "distance", "time", "speed"}
    assert all(len(case.expect.calls or ()) == 2 for case in load_cases("calls:2-calls:20"))


@pytest.mark.parametrize(
    ("reference", "sentence", "hint"),
    [
        ("trian", "no family of cases is called 'trian'", "did you mean train"),
        ("train:fr", "no case of train is tagged 'fr'", "there are"),
        ("train:distnace", "no case of train is tagged 'distnace'", "did you mean distance"),
        ("train:en:0", "1 to 1000 cases", "train:32"),
        ("train:5000", "1 to 2000 cases", "train:32"),
        ("train:5:6", "one language, one tag and one number", "train:pt:32"),
        ("robots:40", "there are 34 such cases", "robots:34"),
        ("a/b", "no family of cases is called 'a/b'", "a file ends in .yaml or .jsonl"),
    ],
)
def test_what_names_no_family_is_refused(reference: str, sentence: str, hint: str) -> None:
    with pytest.raises(InputError, match=sentence) as refused:
        family(reference)
    assert hint in refused.value.hint


def solved(case: Case) -> float:
    """The answer of a train problem, from the words of its prompt alone."""
    text = case.prompt or ""
    speeds = [int(found) for found in re.findall(r"(\d+) (?:km/h|mph)", text)]
    hours = [int(found) for found in re.findall(r"(\d+) (?:hours|horas)", text)]
    ways = [int(found) for found in re.findall(r"(\d+) (?:km(?!/h)|miles)", text)]
    metres = [int(found) for found in re.findall(r"(\d+)[ -](?:metres?|metros)\b(?! (?:per|por))", text)]
    pace = [int(found) for found in re.findall(r"(\d+) (?:metres per|metros por)", text)]
    kind = case.tags[1]
    if kind == "simple":
        return math.prod(int(found) for found in re.findall(r"\d+", text))
    if kind in ("distance", "legs"):
        return sum(speed * hour for speed, hour in zip(speeds, hours, strict=True))
    if kind in ("time", "minutes"):
        return ways[0] / speeds[0] * (60 if kind == "minutes" else 1)
    if kind in ("speed", "average"):
        return sum(ways) / sum(hours)
    if kind == "meeting":
        return next(hour for hour in range(1, 50) if hour * sum(speeds) >= ways[0])
    if kind == "chase":  # hour by hour, until the second is where the first is
        return next(hour for hour in range(1, 50) if max(speeds) * hour >= min(speeds) * (hour + hours[0]))
    if kind == "bridge":
        return sum(metres) / pace[0]
    if kind == "remaining":
        return ways[0] - speeds[0] * hours[0]
    if kind == "apart":
        return abs(speeds[0] * hours[0] - speeds[1] * hours[0])
    assert kind == "stops"
    return speeds[0] * (max(hours) - min(hours))


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_train_problem_has_the_right_whole_answer(language: str) -> None:
    cases = load_cases(f"train:{language}:400")
    assert {case.tags[1] for case in cases} == set(KINDS)
    for case in cases:
        assert math.isclose(solved(case), case.expect.number or 0, abs_tol=1e-9), case
        assert float(case.expect.number or 0).is_integer()
        assert case.expect.number > 0


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_sentence_with_the_answer_is_right_and_one_with_another_number_is_not(language: str) -> None:
    for case in load_cases(f"train:{language}"):
        number, unit = case.expect.number or 0, (case.expect.unit or "").split("|")[-1]
        sentence = (
            f"Assim, com os dados do problema, são {number:g} {unit}."
            if language == "pt"
            else f"So it is {number:g} {unit}."
        )
        assert check("answer", True, sentence, case).passed is True
        assert check("answer", True, sentence.replace(f"{number:g}", f"{number + 1:g}"), case).passed is False


SHOELACE = """
import math
def shoelace(points):
    pairs = zip(points, points[1:] + points[:1])
    return abs(sum(a * d - c * b for (a, b), (c, d) in pairs)) / 2
def regular(n, side):
    r = side / (2 * math.sin(math.pi / n))
    return shoelace([(r * math.cos(2 * math.pi * k / n), r * math.sin(2 * math.pi * k / n)) for k in range(n)])
def three(a, b, c):
    x = (a * a + b * b - c * c) / (2 * a)
    return shoelace([(0, 0), (a, 0), (x, math.sqrt(b * b - x * x))])
"""
FORMULAS = {
    "circle": "math.tau * a * a / 2", "semicircle": "math.tau * a * a / 4", "square": "regular(4, a)",
    "rectangle": "shoelace([(0, 0), (a, 0), (a, b), (0, b)])", "triangle": "shoelace([(0, 0), (a, 0), (a / 3, b)])",
    "right_triangle": "shoelace([(0, 0), (a, 0), (0, b)])", "equilateral": "regular(3, a)", "heron": "three(a, b, c)",
    "trapezoid": "shoelace([(0, 0), (a, 0), (b, c), (0, c)])",
    "parallelogram": "shoelace([(0, 0), (a, 0), (a + 1, b), (1, b)])",
    "rhombus": "shoelace([(a / 2, 0), (0, b / 2), (-a / 2, 0), (0, -b / 2)])", "ellipse": "math.tau / 2 * a * b",
    "hexagon": "regular(6, a)", "polygon": "regular(a, b)", "sector": "a * a * math.radians(b) / 2",
    "ring": "math.tau / 2 * (a + b) * (a - b)", "cube": "6 * a ** 2", "box": "2 * a * b + 2 * a * c + 2 * b * c",
    "sphere": "2 * math.tau * a * a", "cylinder": "math.tau * a * b + math.tau * a * a",
}  # fmt: skip


def solution(case: Case) -> str:
    """Code for what a case of shapes asks for, written from its tags and the name in its prompt."""
    _, shape, ask = case.tags
    name = re.search(r"`(\w+)", case.prompt or "")[1]
    letters = ", ".join(
        "abc"[: 3 if re.search(r"\bc\b", FORMULAS[shape]) else 2 if re.search(r"\bb\b", FORMULAS[shape]) else 1]
    )
    code = f"{SHOELACE}\ndef area({letters}):\n    return {FORMULAS[shape]}\n"
    places = re.search(r"(\d) (?:decimal|casas)", case.prompt or "")
    bodies = {
        "plain": f"def {name}(*x):\n    return area(*x)",
        "rounded": f"def {name}(*x):\n    return round(area(*x), {places and places[1]})",
        "refuses": f"def {name}(*x):\n    if min(x) <= 0:\n        raise ValueError(x)\n    return area(*x)",
        "total": f"def {name}(items):\n    return sum(area(*x) for x in items)",
        "larger": f"def {name}(x, y):\n    return max(area(*x), area(*y))",
        "scaled": f"def {name}(*x):\n    return area(*(each / 100 for each in x))",
        "class": f"class {name}:\n    def __init__(self, *x):\n        self.x = x\n"
        "    def area(self):\n        return area(*self.x)",
    }  # fmt: skip
    return code + bodies[ask]


def test_every_test_of_a_shape_passes_right_code_and_fails_wrong_code() -> None:
    for case in load_cases("shapes:600"):
        code, tests = solution(case), case.expect.tests or ""
        exec(compile(f"{code}\n{tests}", case.name, "exec"), {})
        wrong = code.replace("    return " + FORMULAS[case.tags[1]], f"    return 1.1 * ({FORMULAS[case.tags[1]]})")
        assert wrong != code
        with pytest.raises(AssertionError):
            exec(compile(f"{wrong}\n{tests}", case.name, "exec"), {})


def test_shapes_are_asked_for_in_every_way() -> None:
    cases = load_cases("shapes")
    assert {case.tags[1] for case in cases} == set(FORMULAS)
    assert len({case.tags[2] for case in cases}) == 7
    refusing = next(case for case in cases if case.tags[2] == "refuses")
    with pytest.raises(AssertionError, match="is not refused"):
        exec(solution(refusing).replace("raise ValueError(x)", "pass") + "\n" + (refusing.expect.tests or ""), {})


def test_a_reply_with_right_code_passes_in_a_process_of_its_own() -> None:
    for case in load_cases("shapes:2"):
        assert check("correct", True, f"Here:\n```python\n{solution(case)}\n```\n", case).passed is True
        assert check("correct", True, "```python\nraise SystemExit(0)\n```", case).passed is False


def test_the_call_that_is_expected_fits_its_tool_and_the_request_says_its_values() -> None:
    sizes = set()
    for case in load_cases("calls"):
        tools = {tool["function"]["name"]: tool["function"] for tool in case.tools}
        sizes.add(len(tools))
        assert len(tools) == len(case.tools)
        assert case.expect.calls is not None
        for call in case.expect.calls:
            schema = tools[call.name]["parameters"] | {"additionalProperties": False}
            for arguments in (call.arguments, call.arguments | call.optional):
                Draft202012Validator(schema).validate(arguments)
            for value in call.arguments.values():
                if isinstance(value, int | float) and not isinstance(value, bool):
                    assert re.search(rf"\b{value}\b", case.prompt or ""), case
        made = tuple(
            ToolCall(id=str(at), name=one.name, arguments=one.arguments) for at, one in enumerate(case.expect.calls)
        )
        assert check("correct", True, reply(tools=True, calls=made), case).passed is True
        assert (
            check(
                "correct",
                True,
                reply(tools=True, calls=(*made, ToolCall(id="x", name="set_timer", arguments={}))),
                case,
            ).passed
            is False
        )
    assert sizes == {2, 3, 4, 5, 6}
    assert {len(case.expect.calls or ()) for case in load_cases("calls")} == {0, 1, 2}


FOLLOWED: dict[str, Any] = {
    '{"words": {"max": 60}}': ("Few words.", "many words " * 40),
    '{"sentences": {"max": 1}}': ("One, and no more.", "One. And more."),
    '{"letters": "upper"}': ("SO IT IS.", "So it is."),
    '{"letters": "lower"}': ("so it is.", "So it is."),
    '{"json": "object"}': ('{"why": "so"}', '["so"]'),
    '{"absent": [","]}': ("one and two", "one, two"),
    '{"absent": ["!"]}': ("so", "so!"),
    '{"starts": ["Well,"]}': ("Well, so it is.", "So it is."),
    '{"starts": ["<<"]}': ("<<Title>>\nText", "Title\nText"),
    '{"ends": ["Isso é tudo."]}': ("É assim. Isso é tudo.", "Isso é tudo, é assim."),
    '{"ends": ["?"]}': ("Is it?", "It is."),
    '{"matches": {"regex": "(?m)^\\\\*\\\\*\\\\*\\\\s*$"}}': ("One\n***\nTwo", "One *** Two"),
    '{"matches": {"regex": "(?s)\\\\A\\".*\\"\\\\Z"}}': ('"So it\nis."', 'So "it is".'),
    '{"matches": {"regex": "(?im)^p\\\\.? ?s\\\\.?"}}': ("So it is.\nP.S. Or not.", "So it is."),
    '{"characters": {"max": 280}}': ("short", "long " * 60),
}


@pytest.mark.parametrize("rule", FOLLOWED)
def test_a_rule_of_the_instructions_is_told_kept_from_broken(rule: str) -> None:
    wanted = json.loads(rule)
    asked = [case for case in load_cases("instructions:1000") if wanted in case.expect.checks]
    assert asked, rule
    kept, broken = FOLLOWED[rule]
    alone = asked[0].model_copy(update={"expect": asked[0].expect.model_copy(update={"checks": (wanted,)})})
    assert check("correct", True, kept, alone).passed is True
    assert check("correct", True, broken, alone).passed is False


def test_instructions_have_one_two_and_three_rules_and_none_twice() -> None:
    cases = load_cases("instructions:1000")
    assert {len(case.expect.checks) for case in cases} == {1, 2, 3}
    for case in cases:
        names = [name for one in case.expect.checks for name in one]
        assert len(set(names)) == len(names), case


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("explain-en-002", "A JWT has a header, a payload with claims, and a signature.", "A JWT has three parts."),
        ("explain-pt-002", "Um JWT tem cabeçalho, payload e assinatura.", "Um JWT tem três partes."),
        ("explain-pt-009", "O cabeçalho Authorization: Bearer eyJ…", "O cabeçalho Accept."),
        ("robots-en-006", "Bip said a smile is a curve. Bop said it is a light.", "Bip was alone."),
        ("robots-pt-009", "O último robô da fábrica ficou.", "O robô ficou."),
    ],
)
def test_an_explanation_or_story_is_right_when_it_names_what_it_must(name: str, right: str, wrong: str) -> None:
    (case,) = [case for case in load_cases(name.split("-")[0]) if case.name == name]
    assert check("correct", True, right, case).passed is True
    assert check("correct", True, wrong, case).passed is False
