"""Numbers as inline SVG: intervals, curves with bands, points. Pure functions; colours are the page's own.

A drawing is as wide as where it stands: places across are shares of its width, and letters keep their size, so that it
can be read on a phone. Each has a title and a sentence for whoever cannot see it.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from markupsafe import Markup

Kind = Literal["holds", "fails", "undecided", "plain"]
"""How a mark looks: its shape and its colour."""
ROW, TOP, BOTTOM = 52, 8, 24
"""Pixels: of a row of intervals, over the first, and of the scale under the last."""
HEIGHT = 200
"""Pixels of the area of a curve."""
LEFT, RIGHT = 13.0, 4.0
"""Shares of the width beside it, in percent."""
LETTERS = 40
"""Of a label that a drawing 330 pixels wide has room for."""


class Bar(NamedTuple):
    """An interval in a row of its own; `at`: the estimate, `target`: what it is held against."""

    label: str
    low: float | None
    at: float | None
    high: float | None
    target: float | None = None
    kind: Kind = "plain"


class Line(NamedTuple):
    """Values over x, with bands where there are any."""

    label: str
    values: Sequence[float | None]
    lows: Sequence[float | None]
    highs: Sequence[float | None]


class Point(NamedTuple):
    """A letter at a place, with an interval upwards; `best`: nothing is better in both."""

    letter: str
    x: float
    y: float
    low: float | None
    high: float | None
    best: bool
    label: str


def forest(name: str, title: str, said: str, bars: Sequence[Bar], ends: tuple[float, float] | None = None) -> Markup:
    """Intervals under each other on one scale. `ends`: of the scale, else what the intervals need and 0 between."""
    known = [value for bar in bars for value in (bar.low, bar.at, bar.high, bar.target) if value is not None]
    # 0 is never at the edge, where it would pass for a frame.
    room = 0.1 * (max([0.0, *known]) - min([0.0, *known]))
    low, high = ends or _around([-room, room, *known])
    scale = _Scale(low, high, 2.0, 98.0)
    height = TOP + ROW * len(bars) + BOTTOM
    parts = [_grid_down(scale, height)]
    if ends is None:
        parts.append(_line(scale.at(0.0), TOP, scale.at(0.0), height - BOTTOM, "zero"))
    for index, bar in enumerate(bars):
        parts.append(_bar(bar, scale, TOP + ROW * index))
    return _drawing(name, title, said, height, parts)


def curves(
    name: str, title: str, said: str, xs: Sequence[float], lines: Sequence[Line], *, ends: tuple[float, float] | None,
    target: float | None = None, span: tuple[float, float] | None = None, across: str = "",
) -> Markup:  # fmt: skip
    """Lines with bands over x. `target`: a level to reach; `span`: a stretch of x that is marked as the plateau."""
    known = [value for line in lines for value in (*line.values, *line.lows, *line.highs) if value is not None]
    up = _Scale(*(ends or _around(known)), 100.0, 0.0)
    right = _Scale(min(xs), max(xs), 0.0, 100.0)
    inner: list[Markup] = []
    if span is not None:
        first, last = (right.at(end) for end in span)
        inner.append(Markup('<rect class="plateau" x="{}" y="0" width="{}" height="100"/>').format(
            _short(max(first - 1, 0)), _short(min(last - first + 2, 100))))  # fmt: skip
    for index, line in enumerate(lines):
        band = [(right.at(x), up.at(low), up.at(high))
                for x, low, high in zip(xs, line.lows, line.highs, strict=True)
                if low is not None and high is not None]  # fmt: skip
        around = [(x, low) for x, low, _ in band] + [(x, high) for x, _, high in reversed(band)]
        inner.append(Markup('<polygon class="band line{}" points="{}"/>').format(index % 4, _pairs(around)))
        run = [(right.at(x), up.at(y)) for x, y in zip(xs, line.values, strict=True) if y is not None]
        inner.append(Markup('<polyline class="run line{}" points="{}"/>').format(index % 4, _pairs(run)))
    parts = [_area(up, right, inner, xs, across, target)]
    for index, line in enumerate(lines):
        for x, y in zip(xs, line.values, strict=True):
            if y is not None:
                words = f"{line.label} {_number(y)} at {_number(x)}"
                parts.append(_mark(_across(right.at(x)), TOP + up.at(y) * HEIGHT / 100, "plain", index, words))
    if target is not None:
        parts.append(_text(f"{100 - RIGHT:g}%", TOP + up.at(target) * HEIGHT / 100 - 5, f"at least {target:g}", "end",
                           "soft"))  # fmt: skip
    if span is not None:
        parts.append(_text(f"{_across(right.at(sum(span) / 2)):.2f}%", TOP + 14, "plateau", "middle", "soft"))
    return _drawing(name, title, said, TOP + HEIGHT + BOTTOM + 16, parts)


def scatter(name: str, title: str, said: str, points: Sequence[Point], across: str) -> Markup:
    """Points with letters; a stair joins the best. x from 0, y in [0, 1]; more of y and less of x is better."""
    up, right = _Scale(0.0, 1.0, 100.0, 0.0), _Scale(*_around([0.0, *(point.x for point in points)]), 0.0, 100.0)
    stair: list[tuple[float, float]] = []
    for point in sorted((point for point in points if point.best), key=lambda point: (point.x, point.y)):
        if stair:
            stair.append((right.at(point.x), stair[-1][1]))
        stair.append((right.at(point.x), up.at(point.y)))
    inner = [Markup('<polyline class="stair" points="{}"/>').format(_pairs(stair))]
    parts = [_area(up, right, inner, _ticks(right.low, right.high), across, None)]
    for point in points:
        x, y = _across(right.at(point.x)), TOP + up.at(point.y) * HEIGHT / 100
        if point.low is not None and point.high is not None:
            ends = (TOP + up.at(end) * HEIGHT / 100 for end in (point.low, point.high))
            parts.append(_line(x, next(ends), x, next(ends), "whisker"))
        parts.append(_mark(x, y, "holds" if point.best else "undecided", 0, point.label))
        parts.append(_text(f"{x + 2:.2f}%", y - 7, point.letter, "start", "letter"))
    return _drawing(name, title, said, TOP + HEIGHT + BOTTOM + 16, parts)


class _Scale(NamedTuple):
    """From values to places: `low` to `start`, `high` to `end`."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        wide = self.high - self.low
        share = (value - self.low) / wide if wide else 0.5
        return self.start + min(max(share, 0.0), 1.0) * (self.end - self.start)


def _bar(bar: Bar, scale: _Scale, top: float) -> Markup:
    middle = top + 34
    label = bar.label if len(bar.label) <= LETTERS else bar.label[: LETTERS - 1] + "…"
    parts = [_text("2%", top + 17, label, "start", "label")]
    if bar.low is not None and bar.high is not None:
        low, high = scale.at(bar.low), scale.at(bar.high)
        parts.append(_line(low, middle, high, middle, f"interval {bar.kind}"))
        parts += [_line(end, middle - 5, end, middle + 5, f"interval {bar.kind}") for end in (low, high)]
    if bar.target is not None:
        parts.append(_line(scale.at(bar.target), top + 22, scale.at(bar.target), top + 46, "target"))
    if bar.at is not None:
        words = f"{bar.label}: {_number(bar.at)}"
        if bar.low is not None and bar.high is not None:
            words += f", {_number(bar.low)} to {_number(bar.high)}"
        parts.append(_mark(scale.at(bar.at), middle, bar.kind, 0, words))
    return Markup("").join(parts)


def _mark(x: float, y: float, kind: Kind, line: int, words: str) -> Markup:
    """A dot: full where it holds, hollow where it is open, a cross where it fails."""
    if kind == "fails":
        # A stroke's ends cannot be a share of the width and pixels at once: the cross is a letter.
        return Markup(
            '<text class="cross" x="{:.2f}%" y="{:.1f}" text-anchor="middle">✕<title>{}</title></text>'
        ).format(x, y + 6, words)
    return Markup('<circle class="mark {} line{}" cx="{:.2f}%" cy="{:.1f}" r="5"><title>{}</title></circle>').format(
        kind, line % 4, x, y, words
    )


def _area(
    up: _Scale, right: _Scale, inner: Sequence[Markup], marks: Sequence[float], across: str, target: float | None
) -> Markup:
    """The frame of a curve: levels with numbers, the inner drawing stretched over it, the scale under it."""
    parts = []
    for value in _ticks(up.low, up.high):
        y = TOP + up.at(value) * HEIGHT / 100
        parts += [_line(LEFT, y, 100 - RIGHT, y, "grid"), _text(f"{LEFT - 2:g}%", y + 4, _number(value), "end", "soft")]
    if target is not None:
        parts.append(_line(LEFT, TOP + up.at(target) * HEIGHT / 100, 100 - RIGHT, TOP + up.at(target) * HEIGHT / 100,
                           "target"))  # fmt: skip
    parts.append(
        Markup('<svg x="{}%" y="{}" width="{}%" height="{}" viewBox="0 0 100 100" preserveAspectRatio="none">{}</svg>')
        .format(LEFT, TOP, 100 - LEFT - RIGHT, HEIGHT, Markup("").join(inner))
    )  # fmt: skip
    for value in _thinned(marks, right):
        parts.append(_text(f"{_across(right.at(value)):.2f}%", TOP + HEIGHT + 17, _number(value), "middle", "soft"))
    parts.append(_text(f"{_across(50):.2f}%", TOP + HEIGHT + 35, across, "middle", "soft"))
    return Markup("").join(parts)


def _thinned(values: Sequence[float], scale: _Scale) -> list[float]:
    """Of the values, those whose numbers do not touch each other."""
    kept: list[float] = []
    for value in values:
        if not kept or scale.at(value) - scale.at(kept[-1]) >= 12:
            kept.append(value)
    return kept


def _across(share: float) -> float:
    return LEFT + share * (100 - LEFT - RIGHT) / 100


def _grid_down(scale: _Scale, height: float) -> Markup:
    parts = []
    for value in _ticks(scale.low, scale.high):
        x = scale.at(value)
        anchor = "start" if x < 6 else "end" if x > 94 else "middle"
        parts += [_line(x, TOP, x, height - BOTTOM, "grid"),
                  _text(f"{x:.2f}%", height - 6, _number(value), anchor, "soft")]  # fmt: skip
    return Markup("").join(parts)


def _around(values: Iterable[float]) -> tuple[float, float]:
    """Ends of a scale that hold the values, on round numbers."""
    low, high = min(values := list(values)), max(values)
    if low == high:
        low, high = low - 0.5, high + 0.5
    step = _step(low, high)
    return math.floor(low / step) * step, math.ceil(high / step) * step


def _step(low: float, high: float) -> float:
    """1, 2 or 5 times a power of ten, three to six of them between the ends."""
    rough = (high - low) / 6
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.99)


def _ticks(low: float, high: float) -> list[float]:
    step = _step(low, high)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [at * step for at in range(first, last + 1)]


def _line(x1: float, y1: float, x2: float, y2: float, style: str) -> Markup:
    return Markup('<line class="{}" x1="{:.2f}%" y1="{:.1f}" x2="{:.2f}%" y2="{:.1f}"/>').format(style, x1, y1, x2, y2)


def _text(x: str, y: float, words: str, anchor: str, style: str) -> Markup:
    return Markup('<text class="{}" x="{}" y="{:.1f}" text-anchor="{}">{}</text>').format(style, x, y, anchor, words)


def _pairs(points: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{_short(x)},{_short(y)}" for x, y in points)


def _short(value: float) -> str:
    return f"{value:.2f}"


def _number(value: float) -> str:
    return f"{0.0 if abs(value) < 1e-12 else value:.3g}"


def _drawing(name: str, title: str, said: str, height: float, parts: Sequence[Markup]) -> Markup:
    return Markup(
        '<svg role="img" aria-labelledby="{0}-title {0}-said" width="100%" height="{1:g}">'
        '<title id="{0}-title">{2}</title><desc id="{0}-said">{3}</desc>{4}</svg>'
    ).format(name, height, title, said, Markup("").join(parts))
