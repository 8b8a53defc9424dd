"""Functions for the areas of shapes, asked for in Portuguese and English, each with unit tests of its own."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from random import Random
from typing import Any

from jeito.proof.values import Case, Expected


def _heron(a: float, b: float, c: float) -> float:
    s = (a + b + c) / 2
    return math.sqrt(s * (s - a) * (s - b) * (s - c))


AREAS: dict[str, Callable[..., float]] = {
    "circle": lambda r: math.pi * r**2,
    "semicircle": lambda r: math.pi * r**2 / 2,
    "square": lambda side: side**2,
    "rectangle": lambda width, height: width * height,
    "triangle": lambda base, height: base * height / 2,
    "right_triangle": lambda a, b: a * b / 2,
    "equilateral": lambda side: math.sqrt(3) / 4 * side**2,
    "heron": _heron,
    "trapezoid": lambda a, b, height: (a + b) * height / 2,
    "parallelogram": lambda base, height: base * height,
    "rhombus": lambda d1, d2: d1 * d2 / 2,
    "ellipse": lambda a, b: math.pi * a * b,
    "hexagon": lambda side: 3 * math.sqrt(3) / 2 * side**2,
    "polygon": lambda n, length: n * length**2 / (4 * math.tan(math.pi / n)),
    "sector": lambda r, degrees: math.pi * r**2 * degrees / 360,
    "ring": lambda outer, inner: math.pi * (outer**2 - inner**2),
    "cube": lambda edge: 6 * edge**2,
    "box": lambda length, width, height: 2 * (length * width + length * height + width * height),
    "sphere": lambda r: 4 * math.pi * r**2,
    "cylinder": lambda r, height: 2 * math.pi * r * (r + height),
}
WITHOUT_LENGTHS = ("polygon", "sector")
"""Shapes one of whose numbers is no length: not asked for in other units."""


def shapes(wording: Mapping[str, Any], language: str, draw: Random) -> Iterator[Case]:
    """Endless cases without names, shape by shape, each in another way; the same ask may come twice."""
    asks = list(wording["asks"])
    turn = 0
    while True:
        for index, shape in enumerate(AREAS):
            ask = asks[(index + turn) % len(asks)]
            if not (ask == "scaled" and shape in WITHOUT_LENGTHS):
                yield _case(wording, language, shape, ask, draw)
        turn += 1


def _case(wording: Mapping[str, Any], language: str, shape: str, ask: str, draw: Random) -> Case:
    words = wording["shapes"][shape][language]
    name = draw.choice(wording["names"][language]).format(key=words["key"])
    places = draw.choice((1, 2, 3))
    class_ = "".join(part.capitalize() for part in words["key"].split("_"))
    args = ", ".join(words["given"]) + ("," if len(words["given"]) == 1 and ask in ("total", "larger") else "")
    # In Portuguese the article joins: "de um círculo", but "da superfície".
    of = f"d{words['a']}" if words["a"].startswith("a ") else f"de {words['a']}"
    prompt = draw.choice(wording["asks"][ask][language]).format(
        call=f"{name}({', '.join(words['given'])})", name=name, args=args, n=places, of=of, **words, **{"class": class_}
    )
    given = [_numbers(shape, draw) for _ in range(3)]
    tests = _tests(ask, shape, class_ if ask == "class" else name, given, places)
    return Case(name="?", prompt=prompt, expect=Expected(tests=tests, language=language), tags=(language, shape, ask))


def _numbers(shape: str, draw: Random) -> tuple[float, ...]:
    a, b, c = (draw.randint(2, 20) + draw.choice((0, 0, 0.25, 0.5)) for _ in range(3))
    if shape == "heron":
        return (a + b, b + c, a + c)  # so that two sides are always longer than the third
    if shape == "ring":
        return (a + b, b)
    if shape == "polygon":
        return (draw.randint(3, 12), b)
    if shape == "sector":
        return (a, draw.randrange(15, 346, 15))
    return (a, b, c)[: AREAS[shape].__code__.co_argcount]


def _tests(ask: str, shape: str, name: str, given: Sequence[tuple[float, ...]], places: int) -> str:
    """Python that fails where the function is wrong; floats to 1e-6, so that 3.14 for pi is wrong."""
    area = AREAS[shape]
    lines = ["import math"]
    if ask == "total":
        total = math.fsum(area(*numbers) for numbers in given)
        lines += [_close(f"{name}({list(given)})", total), f"assert {name}([]) == 0"]
    elif ask == "larger":
        for one, other in (given[:2], given[1:], given[:2][::-1]):
            lines.append(_close(f"{name}({one}, {other})", max(area(*one), area(*other))))
    for numbers in given if ask not in ("total", "larger") else ():
        call = f"{name}({', '.join(map(repr, numbers))})" + (".area()" if ask == "class" else "")
        found = area(*numbers) / (10_000 if ask == "scaled" else 1)
        if ask == "rounded":  # one unit of the last place: a half may go either way
            lines.append(f"assert abs({call} - {round(found, places)!r}) < {1.01 * 10**-places:.3g}")
            lines.append(f"assert round({call}, {places}) == {call}")
        else:
            lines.append(_close(call, found))
    if ask == "refuses":
        for bad in (0, -given[0][0]):
            call = f"{name}({', '.join(map(repr, (bad, *given[0][1:])))})"
            lines += ["try:", f"    {call}", "except ValueError:", "    pass", "else:",
                      f"    raise AssertionError({f'{call} is not refused'!r})"]  # fmt: skip
    return "\n".join(lines)


def _close(call: str, found: float) -> str:
    return f"assert math.isclose({call}, {found!r}, rel_tol=1e-6), {call!r}"
