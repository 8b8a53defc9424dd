"""Problems of trains and speed, in Portuguese and English: numbers are drawn, answers are whole and computed."""

from collections.abc import Callable, Iterator, Mapping
from random import Random
from typing import Any, NamedTuple

from jeito.proof.values import Case, Expected

KM = "km|kilometers|kilometres|kilometer|kilometre|quilômetros|quilômetro"
MILES = "miles|mile|mi"
UNITS = {
    "hours": "hours|hour|hrs|hr|h|horas|hora",
    "minutes": "minutes|minute|mins|min|minutos|minuto",
    "seconds": "seconds|second|secs|sec|s|segundos|segundo",
    "km": KM,
    "miles": MILES,
    "km/h": "km/h|km / h|kmh|kph|km per hour|kilometers per hour|kilometres per hour|km por hora|quilômetros por hora",
    "mph": "mph|miles per hour|miles/hour|mi/h",
}


class Problem(NamedTuple):
    """What was drawn, the answer, and what it counts: `u` a distance, `s` a speed, or a unit of time."""

    numbers: dict[str, int]
    answer: int
    counts: str


def _simple(draw: Random) -> Problem:
    v, t = draw.randrange(20, 110, 10), draw.randint(2, 5)
    return Problem({"v": v, "t": t}, v * t, "u")


def _distance(draw: Random) -> Problem:
    v, t = draw.randrange(40, 165, 5), draw.randint(2, 6)
    return Problem({"v": v, "t": t}, v * t, "u")


def _time(draw: Random) -> Problem:
    v, t = draw.randrange(40, 165, 5), draw.randint(2, 6)
    return Problem({"v": v, "d": v * t}, t, "hours")


def _speed(draw: Random) -> Problem:
    v, t = draw.randrange(40, 165, 5), draw.randint(2, 6)
    return Problem({"d": v * t, "t": t}, v, "s")


def _minutes(draw: Random) -> Problem:
    v, minutes = draw.choice((60, 90, 120, 150, 180)), draw.randrange(8, 56, 2)
    return Problem({"v": v, "d": v * minutes // 60}, minutes, "minutes")


def _legs(draw: Random) -> Problem:
    (v, v2), t, t2 = draw.sample(range(40, 125, 5), 2), draw.randint(2, 4), draw.randint(2, 4)
    return Problem({"v": v, "t": t, "v2": v2, "t2": t2}, v * t + v2 * t2, "u")


def _average(draw: Random) -> Problem:
    t, t2 = draw.sample(range(2, 6), 2)
    average, more = draw.randrange(60, 110, 5), draw.choice((-2, -1, 1, 2)) * 5
    # What the first part is faster by, the second is slower by over its own hours: the mean stays whole.
    d, d2 = average * t + more * t2, average * t2 - more * t2
    return Problem({"d": d, "t": t, "d2": d2, "t2": t2}, (d + d2) // (t + t2), "s")


def _meeting(draw: Random) -> Problem:
    (v, v2), t = draw.sample(range(40, 125, 5), 2), draw.randint(2, 5)
    return Problem({"v": v, "v2": v2, "d": (v + v2) * t}, t, "hours")


def _chase(draw: Random) -> Problem:
    h, t, gap = draw.randint(2, 4), draw.randint(3, 6), draw.choice((10, 12, 15, 18, 20))
    return Problem({"v": gap * t, "h": h, "v2": gap * t + gap * h}, t, "hours")


def _bridge(draw: Random) -> Problem:
    m, seconds, length = draw.choice((10, 15, 20, 25, 30)), draw.randint(20, 60), draw.randrange(80, 200, 10)
    return Problem({"l": length, "m": m, "b_m": m * seconds - length}, seconds, "seconds")


def _remaining(draw: Random) -> Problem:
    v, t, left = draw.randrange(40, 125, 5), draw.randint(2, 5), draw.randrange(30, 290, 10)
    return Problem({"v": v, "t": t, "d": v * t + left}, left, "u")


def _apart(draw: Random) -> Problem:
    v, gap, t = draw.randrange(50, 110, 5), draw.randrange(5, 45, 5), draw.randint(2, 6)
    return Problem({"v": v, "v2": v + gap, "t": t}, gap * t, "u")


def _stops(draw: Random) -> Problem:
    v, h, t = draw.randrange(50, 125, 5), draw.randint(2, 3), draw.randint(5, 9)
    return Problem({"v": v, "h": h, "t": t}, v * (t - h), "u")


KINDS: dict[str, Callable[[Random], Problem]] = {
    "simple": _simple, "distance": _distance, "time": _time, "speed": _speed, "minutes": _minutes, "legs": _legs,
    "average": _average, "meeting": _meeting, "chase": _chase, "bridge": _bridge, "remaining": _remaining,
    "apart": _apart, "stops": _stops,
}  # fmt: skip
SINGLE = ("simple", "distance", "time", "speed")
"""What one step solves. Simple ones have round numbers and plain words, so that a small model is right now and then."""


def train(wording: Mapping[str, Any], language: str, draw: Random) -> Iterator[Case]:
    """Endless cases without names, one kind after the other; the same ask may come twice."""
    while True:
        for kind, make in KINDS.items():
            problem = make(draw)
            a, b = draw.sample(wording["places"][language], 2)
            is_metric = language == "pt" or draw.random() < 0.7
            words = {"u": "km", "s": "km/h"} if is_metric else {"u": "miles", "s": "mph"}
            words |= {"a": a, "b": b, "train": draw.choice(wording["trains"][language])}
            prompt = draw.choice(wording["kinds"][kind][language]).format(**words, **problem.numbers)
            unit = words.get(problem.counts, problem.counts)
            yield Case(
                name="?",
                prompt=prompt.replace("A express", "An express").replace("a express", "an express"),
                expect=Expected(number=problem.answer, unit=UNITS[unit], language=language),
                tags=(language, kind, "one-step" if kind in SINGLE else "two-steps"),
            )
