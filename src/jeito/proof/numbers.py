"""The final number of an answer, as English and Portuguese write numbers. Knows nothing of cases."""

import re
from functools import lru_cache
from typing import NamedTuple

from jeito.proof.measures import plain

_NUMBER = re.compile(
    r"(?<![\w.,])(?P<sign>[-−+])?(?:(?P<whole>\d+)[ ])?(?P<top>\d+)/(?P<bottom>[1-9]\d*)(?![\w/])"
    r"|(?<![^\W_])(?P<minus>(?<!\w)[-−])?(?P<number>\d{1,3}(?:[\u00a0\u2009\u202f]\d{3})+(?:[.,]\d+)?(?!\d)|\d+(?:[.,]\d+)*)"
    r"(?:[eE](?P<power>[-+]?\d{1,2})(?!\d))?"
)
_SAYS = re.compile(r"####|\b(?:answer|result|resposta|resultado)(?:\s+final)?(?:\s+(?:is|é)\b|\s*[:=])", re.IGNORECASE)
_MARKS = re.compile(r"\\(?:text|mathrm|mathbf|frac|,|;|!|\s)|[*$_`{}\\]|~")


class Number(NamedTuple):
    """A number as it stands in a text: what it can mean (two readings of 1.234), and what comes after it."""

    readings: tuple[float, ...]
    text: str
    after: str


def numbers(text: str, language: str | None = None) -> list[Number]:
    """Every number of a text. `language` (pt, en) decides what 1.234 and 1,234 mean; without one both are possible."""
    found = []
    for match in _NUMBER.finditer(text):
        if match["top"]:
            value = float(match["whole"] or 0) + float(match["top"]) / float(match["bottom"])
            readings: tuple[float, ...] = (-value if match["sign"] in ("-", "−") else value,)
        else:
            scale = 10.0 ** int(match["power"] or 0) * (-1 if match["minus"] else 1)
            readings = tuple(each * scale for each in _readings(match["number"], language))
        if readings:
            found.append(Number(readings, match[0].strip(), text[match.end() : match.end() + 40]))
    return found


def final(text: str, unit: str | None = None, language: str | None = None) -> Number | None:
    """The number that an answer comes to.

    With a unit, the last one that has it; else the first after the last "answer:", "resposta é", \\boxed or ####; else
    the last of all.
    """
    cleaned = _MARKS.sub(" ", text.replace("\\boxed", "#### "))
    found = numbers(cleaned, language)
    if unit and (united := [number for number in found if _unit(unit).match(plain(number.after))]):
        return united[-1]
    if said := list(_SAYS.finditer(cleaned)):
        after = numbers(cleaned[said[-1].end() :], language)
        if after:
            return after[0]
    return found[-1] if found else None


@lru_cache(maxsize=256)
def _unit(unit: str) -> "re.Pattern[str]":
    """One of the units `a|b` behind a number: alone, not as a part of km/h or metres per second."""
    ways = "|".join(sorted((re.escape(each.strip()) for each in plain(unit).split("|")), key=len, reverse=True))
    return re.compile(rf"[\s-]*(?:{ways})(?![\w²³^/]|\s*/|\s+(?:per|por|an?\s+hour|a\s+second)\b)")


def _readings(text: str, language: str | None) -> tuple[float, ...]:
    text = re.sub(r"[\u00a0\u2009\u202f]", "", text)
    points, commas = text.count("."), text.count(",")
    if points and commas:
        decimal = "." if text.rindex(".") > text.rindex(",") else ","
        return _value(text, decimal)
    mark = "." if points else ","
    if points + commas == 0:
        return (float(text),)
    if points + commas > 1:  # 1.234.567; 1.2.3 is no number
        return _value(text, "") if re.fullmatch(r"\d{1,3}(?:[.,]\d{3})+", text) else ()
    as_decimal = _value(text, mark)
    if not re.fullmatch(r"[1-9]\d{0,2}[.,]\d{3}", text):
        return as_decimal
    grouped = _value(text, "")
    groups = {"pt": ".", "en": ","}.get(language or "")
    return (*grouped, *as_decimal) if groups is None else grouped if mark == groups else as_decimal


def _value(text: str, decimal: str) -> tuple[float, ...]:
    """The number that this decimal mark makes of it; the other marks part groups of three."""
    whole, mark, fraction = text.partition(decimal) if decimal else (text, "", "")
    if mark and re.search(r"[.,]", fraction):
        return ()
    return (float(f"{re.sub(r'[.,]', '', whole)}.{fraction or 0}"),)
