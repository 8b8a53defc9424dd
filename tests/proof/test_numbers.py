"""The final number of an answer, as people and models write numbers in English and Portuguese."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jeito.proof.family_train import UNITS
from jeito.proof.numbers import final, numbers
from tests.proof.replies import case, check

KM = UNITS["km"]


@pytest.mark.parametrize(
    ("text", "language", "values"),
    [
        ("1,234", "en", (1234,)),
        ("1,234", "pt", (1.234,)),
        ("1.234", "pt", (1234,)),
        ("1.234", "en", (1.234,)),
        ("1.234", None, (1234, 1.234)),
        ("0,500", None, (0.5,)),
        ("1234,5", None, (1234.5,)),
        ("78.5", "pt", (78.5,)),
        ("1.234,56", "en", (1234.56,)),
        ("1,234.56", "pt", (1234.56,)),
        ("1.234.567", None, (1234567,)),
        ("12\u202f500", None, (12500,)),
        ("-3", None, (-3,)),
        ("−2,5", None, (-2.5,)),
        ("3/4", None, (0.75,)),
        ("2 1/2", None, (2.5,)),
        ("1.5e3", None, (1500,)),
        ("R$ 20,00", None, (20,)),
        ("1.2.3", None, None),
        ("v2", None, None),
    ],
)
def test_a_number_is_read_as_it_is_written(text: str, language: str | None, values: tuple[float, ...] | None) -> None:
    found = final(text, None, language)
    assert (found and found.readings) == values


@pytest.mark.parametrize(
    ("text", "unit", "value"),
    [
        ("It goes 240 km in 3 hours.", KM, 240),
        ("It goes 240 km in 3 hours.", None, 3),
        ("At 80 km/h for 3 h it goes 80 × 3 = 240.", KM, 240),
        ("The train goes 240 kilometers at 80 km per hour.", KM, 240),
        ("**240 km**", KM, 240),
        (r"So $d = 80 \cdot 3 = 240\text{ km}$, at 80 km/h.", KM, 240),
        (r"\boxed{240} is what we get after 3 steps", None, 240),
        ("work 1 2 3\n#### 240", None, 240),
        ("The answer is 240, since 3 × 80 is that.", None, 240),
        ("A resposta é 240. Confira: 3 vezes 80.", None, 240),
        ("Resposta final: 2.400 km (em 3 horas)", None, 2400),
        ("Speed is 80 km/h", UNITS["km/h"], 80),
        ("80 quilômetros por hora, isto é, 240 km em 3 horas", UNITS["km/h"], 80),
        ("It takes 45 minutes for 60 km.", UNITS["minutes"], 45),
        ("3 hours and then some", UNITS["hours"], 3),
        ("240km", KM, 240),
        ("a 240-km trip in 3 hours", KM, 240),
    ],
)
def test_the_final_number_is_the_one_that_the_answer_comes_to(text: str, unit: str | None, value: float) -> None:
    found = final(text, unit, "pt" if "esposta" in text else "en")
    assert found is not None
    assert value in found.readings


def test_a_text_without_numbers_has_none_and_fails_instead_of_being_unmeasured() -> None:
    assert final("no idea", KM) is None
    assert check("answer", True, "no idea", case(number=240)).passed is False


def test_tolerance_is_absolute_and_its_edge_is_inside() -> None:
    asked = case(number=0.3, tolerance=0.1)
    assert check("answer", True, "0.4", asked).passed is True
    assert check("answer", True, "0.41", asked).passed is False
    assert check("answer", {"tolerance": 0}, "0.3000000000000001", asked).passed is True
    assert check("answer", {"number": 5, "unit": "m"}, "5 m of 7", asked).passed is True


def test_the_cases_language_decides_what_a_mark_means() -> None:
    assert check("answer", True, "1.200", case(number=1200, language="pt")).passed is True
    assert check("answer", True, "1.200", case(number=1200, language="en")).passed is False
    assert check("answer", True, "1.200", case(number=1200)).passed is True


@given(value=st.integers(0, 10**9), cents=st.integers(0, 99))
def test_what_is_written_in_either_way_is_read_back(value: int, cents: int) -> None:
    english = f"{value:,}.{cents:02}"
    portuguese = english.translate(str.maketrans(",.", ".,"))
    for text, language in ((english, "en"), (portuguese, "pt")):
        found = final(f"So it is {text}.", None, language)
        assert found is not None
        assert found.readings == (float(f"{value}.{cents:02}"),)


@given(st.text("0123456789.,-+/ eE×^{}", max_size=40))
def test_no_row_of_digits_and_marks_is_too_much(text: str) -> None:
    for number in numbers(text):
        assert all(isinstance(reading, float) for reading in number.readings)
