"""A behaviour along the values of its knobs: curves with bands, and the widest plateau where its claims hold."""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from statistics import fmean
from typing import Literal

import numpy as np
from pydantic import Field, JsonValue

from jeito.behaviour.behaviour import Claim
from jeito.behaviour.load import load
from jeito.behaviour.read import scalar
from jeito.decode.local import LocalModel
from jeito.engines.base import Model
from jeito.errors import InputError
from jeito.proof import curves
from jeito.proof.intervals import symmetric
from jeito.proof.measured import (
    Kind,
    Measure,
    SettingOf,
    clusters_of,
    measure_checks,
    measure_features,
    of_planned,
    questions,
)
from jeito.proof.parity import perplexity
from jeito.proof.plan import ALPHA
from jeito.proof.runs import Asked, Asking, Replies, gather
from jeito.proof.shares import ends
from jeito.proof.stats import by_case
from jeito.trace.log import Log
from jeito.types import Request, Sampling, Several, Value

MOST_POINTS = 1000
DAMAGE = "perplexity of a text"
"""The curve beside the others where a model itself is changed."""


class Axis(Value):
    """A knob and its values, ascending where they are numbers."""

    knob: str
    values: Several[JsonValue] = Field(min_length=1)


class Point(Value):
    """One place on a curve. The band covers all points of its curve at once; none where there are too few cases."""

    at: dict[str, JsonValue] = Field(description="knob: value")
    mean: float | None = Field(description="none: nothing could be measured here")
    low: float | None
    high: float | None
    n: int
    clusters: int = Field(description="cases that could be measured; of a check all, the unmeasured at their worst")
    unmeasured: int


class Curve(Value):
    """One check or feature along a sweep."""

    check: str
    kind: Kind
    at_least: float | None = Field(description="what the claim asks for; none: a feature")
    points: Several[Point] = Field(description="in the order of the grid, the last knob fastest")


class Plateau(Value):
    """The widest stretch of neighbouring points where every claim holds."""

    low: dict[str, JsonValue]
    high: dict[str, JsonValue]
    middle: dict[str, JsonValue]
    points: int
    shown: bool = Field(description="by the bands; otherwise it was only seen, by the rates")


class Sweep(Value):
    """One knob, or a grid of several, with everything measured along it. The same seeds are used at every point."""

    behaviour: str
    model: str
    cases: str
    clusters: int = Field(description="cases")
    repeats: int
    seed: int
    meaning: Literal["cases like these"] = "cases like these"
    alpha: float
    axes: Several[Axis]
    curves: Several[Curve]
    plateau: Plateau | None
    plans: Several[str] = Field(description="of each point, in the order of the grid: the plan that holds its runs")
    written: str | None = Field(default=None, description="the file that the plateau's middle was written into")
    notes: Several[str] = ()


class Sweeps(Value):
    """Several knobs, one after the other."""

    sweeps: Several[Sweep]


def read_axis(text: str) -> Axis:
    """`KEY=LOW:HIGH:COUNT`, evenly spaced, or `KEY=a,b,c`. Raises InputError."""
    key, equals, said = text.partition("=")
    hint = "--over temperature=0.1:2.0:6, or --over top_k=1,10,100"
    if not equals or not key.strip() or not said.strip():
        raise InputError(f"{text!r} is no range of a knob", hint=hint)
    parts = said.split(":")
    if len(parts) == 3:
        values = _spaced(key.strip(), parts, text, hint)
    else:
        values = [scalar(word.strip(), text).plain() for word in said.split(",") if word.strip()]
    if all(map(_is_number, values)):
        values = sorted(values, key=_number)
    kept = [value for at, value in enumerate(values) if value not in values[:at]]
    if len(kept) < 2:
        raise InputError(f"{text!r} is {len(kept)} value, and a sweep goes over several", hint=hint)
    return Axis(knob=key.strip(), values=tuple(kept))


def _spaced(key: str, parts: Sequence[str], text: str, hint: str) -> list[JsonValue]:
    try:
        low, high, count = float(parts[0]), float(parts[1]), int(parts[2])
    except ValueError as error:
        raise InputError(f"{text!r}: {':'.join(parts)} are not two numbers and a count", hint=hint) from error
    if not (math.isfinite(low) and math.isfinite(high) and low < high and 2 <= count <= MOST_POINTS):
        raise InputError(f"{text!r} is an empty range", hint=hint)
    field = Sampling.model_fields.get(key)
    whole = field is not None and field.annotation in (int, int | None)
    spaced = (low + (high - low) * step / (count - 1) for step in range(count))
    # What is written into a file is what was run: no more digits than a person would write.
    return [round(value) if whole else float(f"{value:.6g}") for value in spaced]


def grid(axes: Sequence[Axis]) -> list[dict[str, JsonValue]]:
    """Every point of a grid, the last knob fastest. Raises InputError for a knob that is there twice, or too many."""
    knobs = [axis.knob for axis in axes]
    if twice := next((knob for at, knob in enumerate(knobs) if knob in knobs[:at]), None):
        raise InputError(f"{twice} is swept twice", hint="one --over for each knob")
    if math.prod(len(axis.values) for axis in axes) > MOST_POINTS:
        raise InputError(f"a grid of over {MOST_POINTS} points", hint="fewer values, or without --grid")
    return [dict(zip(knobs, values, strict=True)) for values in product(*(axis.values for axis in axes))]


def ask_each(label: str, points: Sequence[dict[str, JsonValue]]) -> list[Asked]:
    """The behaviour at every point. Raises BehaviourError for a knob or value that there is not."""
    labels = [label + "".join(f"+{knob}={value}" for knob, value in point.items()) for point in points]
    return [Asked(each, each, load(each)) for each in labels]


def sweep(
    label: str, axes: Sequence[Axis], asking: Asking, model: Model, log: Log, claims: Sequence[Claim] = (), *,
    setting_of: SettingOf = of_planned, alpha: float = ALPHA, heard: Callable[[int, int], None] | None = None,
) -> Sweep:  # fmt: skip
    """Run a behaviour at every point of a grid, all in one batch, and measure it there.

    The bands of all checks hold at once, at all points; those of each feature at all its points. The claims are the
    behaviour's own and these; without any, that replies are what their cases expect. Raises InputError, BehaviourError.
    """
    points = grid(axes)
    sides = gather(asking, ask_each(label, points), model, log, heard)
    asked = questions(sides, claims)
    claimed = [*sides[0].planned.behaviour.checks, *claims] or asked
    checks = measure_checks(sides, asked, setting_of)
    found = [_curve(one, sides, points, alpha / len(checks), claimed) for one in checks]
    found += [_curve(one, sides, points, alpha, claimed) for one in measure_features(sides)]
    if isinstance(model, LocalModel) and any(axis.knob.partition(".")[0] in ("adapter", "steering") for axis in axes):
        found.append(_damage(model, sides, points))
    plan = sides[0].planned.plan
    return Sweep(
        behaviour=label,
        model=plan.model,
        cases=plan.cases_from,
        clusters=plan.cases,
        repeats=plan.repeats,
        seed=plan.seed,
        alpha=alpha,
        axes=tuple(axes),
        curves=tuple(found),
        plateau=_plateau(axes, [curve for curve in found if curve.at_least is not None]),
        plans=tuple(side.planned.plan.digest for side in sides),
        notes=tuple(_notes(sides)),
    )


def _curve(
    measure: Measure, sides: Sequence[Replies], points: Sequence[dict[str, JsonValue]], alpha: float,
    claimed: Sequence[Claim],
) -> Curve:  # fmt: skip
    groups = by_case(clusters_of(sides[0]))
    rows = zip(points, measure.values, strict=True)
    return Curve(
        check=measure.name,
        kind=measure.kind,
        at_least=measure.claim.at_least if measure.claim in claimed and measure.claim else None,
        points=tuple(_point(at, values, groups, measure.kind, alpha / len(points)) for at, values in rows),
    )


def _damage(model: LocalModel, sides: Sequence[Replies], points: Sequence[dict[str, JsonValue]]) -> Curve:
    """What adapters and control vectors do to a text that has nothing to do with the behaviour: one, so no bands."""
    found = []
    for at, side in zip(points, sides, strict=True):
        said = side.planned.behaviour
        tuning = model.tuning(Request(messages=(), adapter=said.adapter, steering=said.steering))
        found.append(Point(at=at, mean=perplexity(model, tuning), low=None, high=None, n=1, clusters=1, unmeasured=0))
    return Curve(check=DAMAGE, kind="feature", at_least=None, points=tuple(found))


def _point(
    at: dict[str, JsonValue], values: Sequence[float | None], groups: Sequence[Sequence[int]], kind: Kind, alpha: float
) -> Point:
    cases = [[values[place] for place in group] for group in groups]
    known = [fmean(own) for case in cases if (own := [value for value in case if value is not None])]
    band = ends(cases, alpha) if kind == "check" else symmetric(known, alpha) if known else None
    return Point(
        at=at, mean=fmean(known) if known else None, low=band.low if band else None, high=band.high if band else None,
        n=len(values), clusters=len(cases) if kind == "check" else len(known), unmeasured=list(values).count(None),
    )  # fmt: skip


def _plateau(axes: Sequence[Axis], claims: Sequence[Curve]) -> Plateau | None:
    """By the bands where they show one anywhere, else by the rates."""
    if not claims:
        return None
    shape = [len(axis.values) for axis in axes]
    # Words have no distances: they count as neighbours in the order in which they were given.
    lines: list[list[float]] = [
        [_number(value) if all(map(_is_number, axis.values)) else float(at) for at, value in enumerate(axis.values)]
        for axis in axes
    ]
    for shown in (True, False):
        holds = [
            all(_reached(curve.points[at], curve.at_least, shown) for curve in claims) for at in range(math.prod(shape))
        ]
        if box := curves.plateau(lines, np.array(holds).reshape(shape)):
            low, high, middle = (
                {axis.knob: axis.values[line.index(end)] for axis, line, end in zip(axes, lines, ends, strict=True)}
                for ends in (box.low, box.high, box.middle)
            )
            return Plateau(low=low, high=high, middle=middle, points=box.points, shown=shown)
    return None


def _reached(point: Point, at_least: float | None, shown: bool) -> bool:
    # What was not measured has not passed.
    found = point.low if shown else (point.mean or 0) * (1 - point.unmeasured / point.n)
    return found is not None and at_least is not None and found >= at_least


def _is_number(value: JsonValue) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number(value: JsonValue) -> float:
    assert isinstance(value, int | float)
    return float(value)


def _notes(sides: Sequence[Replies]) -> Iterator[str]:
    for side in sides:
        failed = sum(trace.finish == "error" for trace in side.traces)
        if failed:
            yield f"{side.name}: {failed} runs failed"
    if not all(trace.receipt.exact.held for side in sides for trace in side.traces):
        yield "not every reply was exact, so what else ran may have changed some"
