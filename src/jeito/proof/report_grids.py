"""The pages of a sweep and of a benchmark: curves with bands and the plateau; quality against memory."""

import json
import shlex
from collections.abc import Sequence
from typing import NamedTuple

from pydantic import JsonValue

from jeito.proof.bench import Bench, Contender
from jeito.proof.comparison import Share
from jeito.proof.page import Facts, Figure, Figures, Mark, Page, Section, Table
from jeito.proof.plots import Bar, Line, curves, forest, scatter
from jeito.proof.plots import Point as Dot
from jeito.proof.report_parts import called, check_words, remarks, reproduction
from jeito.proof.sweep import Curve, Point, Sweep

LINES = 4
"""Lines in one drawing."""
MEGABYTE = 1e6


def sweeps_page(sweeps: Sequence[Sweep]) -> Page:
    first = sweeps[0]
    said = (
        f"{first.clusters} cases from {first.cases}, {first.repeats} repl{'ies' if first.repeats > 1 else 'y'} to each "
        f"at every point, with the same seeds at all. Bands speak of {first.meaning}; each covers its whole curve with "
        f"{100 * (1 - first.alpha):g} %."
    )
    sections = [part for at, sweep in enumerate(sweeps) for part in _sweep(sweep, at)]
    commands = [_command(sweep) for sweep in sweeps]
    notes = list(dict.fromkeys(note for sweep in sweeps for note in sweep.notes))
    facts = [("Behaviour", first.behaviour), ("Model", first.model), ("Cases", f"{first.clusters} from {first.cases}"),
             ("Replies to each", str(first.repeats)), ("Seed", str(first.seed)), ("Speaks of", first.meaning),
             ("Plans", ", ".join(plan[:12] for sweep in sweeps for plan in sweep.plans))]  # fmt: skip
    plan = Section("plan", "Plan", "Each point's runs are kept under a plan of its own.", [Facts(facts)])
    sentence = _found(first) if len(sweeps) == 1 else (
        f"{called(first.behaviour)} on {first.model}, along {', '.join(_knobs(sweep) for sweep in sweeps)}"
    )  # fmt: skip
    return Page(sentence, said, None, [*sections, plan, reproduction(commands), *remarks(notes)])


def _found(sweep: Sweep) -> str:
    if sweep.plateau:
        seen = "keeps its claims" if sweep.plateau.shown else "seems to keep its claims"
        return f"{called(sweep.behaviour)} {seen} with {_range(sweep)} on {sweep.model}"
    if any(curve.at_least is not None for curve in sweep.curves):
        return f"Nowhere along {_knobs(sweep)} does {called(sweep.behaviour)} keep its claims on {sweep.model}"
    return f"{called(sweep.behaviour)} on {sweep.model}, along {_knobs(sweep)}"


def _range(sweep: Sweep) -> str:
    assert sweep.plateau
    low, high = sweep.plateau.low, sweep.plateau.high
    return ", ".join(
        f"{axis.knob} {_said(low[axis.knob])}"
        + (f" to {_said(high[axis.knob])}" if low[axis.knob] != high[axis.knob] else "")
        for axis in sweep.axes
    )


def _sweep(sweep: Sweep, at: int) -> list[Section]:
    said = _found(sweep) + "."
    if sweep.plateau:
        how = "by the bands" if sweep.plateau.shown else "by the rates only: the bands are too wide to show it"
        middle = ", ".join(f"{knob} {_said(value)}" for knob, value in sweep.plateau.middle.items())
        said += f" The plateau has {sweep.plateau.points} points, {how}; in its middle: {middle}."
    if sweep.written:
        said += f" Written into {sweep.written}."
    checks = [curve for curve in sweep.curves if curve.kind == "check"]
    rest = [curve for curve in sweep.curves if curve.kind != "check"]
    blocks = [_figure(sweep, curve, f"curve{at}-{index}") for index, curve in enumerate([*checks, *rest])]
    name = f"sweep{at}" if at else "sweep"
    return [Section(name, _knobs(sweep), said, [Figures(blocks), _table(sweep)])]


def _figure(sweep: Sweep, curve: Curve, name: str) -> Figure:
    title = curve.check if curve.at_least is None else f"{curve.check} at least {curve.at_least:g}"
    said = "; ".join(f"{_place(point)}: {_value(point)}" for point in curve.points)
    ends = (0.0, 1.0) if curve.kind == "check" else None
    xs = _numbers(sweep.axes[-1].values)
    lines = _lines(sweep, curve)
    if xs is None or len(xs) < 2 or len(sweep.axes) > 2 or len(lines) > LINES or not _any(lines):
        bars = [Bar(_place(point), point.low, point.mean, point.high, curve.at_least) for point in curve.points]
        return Figure(forest(name, title, said, bars, ends), title)
    plateau = sweep.plateau
    span = None
    if plateau and len(sweep.axes) == 1 and (ends_of := _numbers([*plateau.low.values(), *plateau.high.values()])):
        span = ends_of[0], ends_of[1]
    drawn = curves(
        name, title, said, xs, lines, ends=ends, target=curve.at_least, span=span, across=sweep.axes[-1].knob
    )
    key = "; ".join(f"{style}: {line.label}" for style, line in zip(STYLES, lines, strict=False))
    return Figure(drawn, f"{title}{f' ({key})' if len(lines) > 1 else ''}")


STYLES = ("solid", "dashed", "dotted", "dash and dot")


def _lines(sweep: Sweep, curve: Curve) -> list[Line]:
    width = len(sweep.axes[-1].values)
    groups = [curve.points[start : start + width] for start in range(0, len(curve.points), width)]
    return [
        Line(
            ", ".join(f"{axis.knob} {_said(group[0].at[axis.knob])}" for axis in sweep.axes[:-1]) or curve.check,
            *([getattr(point, name) for point in group] for name in ("mean", "low", "high")),
        )
        for group in groups
    ]


def _any(lines: Sequence[Line]) -> bool:
    return any(value is not None for line in lines for value in line.values)


def _numbers(values: Sequence[JsonValue]) -> list[float] | None:
    numbers = [float(value) for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    return numbers if len(numbers) == len(values) else None


def _table(sweep: Sweep) -> Table:
    columns = [*(axis.knob for axis in sweep.axes), *(curve.check for curve in sweep.curves)]
    rows = []
    for index, point in enumerate(sweep.curves[0].points if sweep.curves else ()):
        places = [_said(point.at[axis.knob]) for axis in sweep.axes]
        rows.append([*places, *(_value(curve.points[index]) for curve in sweep.curves)])
    return Table("Every point: mean, and its band", columns, rows, stacks=False)


def _value(point: Point) -> str:
    if point.mean is None:
        return "unmeasured"
    band = "" if point.low is None or point.high is None else f", {point.low:.3g} to {point.high:.3g}"
    return f"{point.mean:.3g}{band}" + (f" ({point.unmeasured} unmeasured)" if point.unmeasured else "")


def _place(point: Point) -> str:
    return ", ".join(f"{knob} {_said(value)}" for knob, value in point.at.items())


def _said(value: JsonValue) -> str:
    return f"{value:g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)


def _knobs(sweep: Sweep) -> str:
    return " × ".join(axis.knob for axis in sweep.axes)


def _command(sweep: Sweep) -> str:
    over = [word for axis in sweep.axes for word in ("--over", f"{axis.knob}={','.join(map(_said, axis.values))}")]
    checks = [
        word
        for curve in sweep.curves
        if curve.at_least is not None
        for word in check_words(curve.check, curve.at_least)
    ]
    of_what = ["-b", sweep.behaviour, "-m", sweep.model, "--cases", sweep.cases, "--limit", str(sweep.clusters)]
    return shlex.join(["jeito", "sweep", *of_what, "-n", str(sweep.repeats), "--seed", str(sweep.seed), *over, *checks])


class _Ranked(NamedTuple):
    letter: str
    one: Contender


def bench_page(found: Bench) -> Page:
    ranked = [_Ranked(_letter(at), one) for at, one in enumerate(found.contenders)]
    measured = [one for one in ranked if one.one.quality]
    best = max(measured, key=lambda one: one.one.quality.rate if one.one.quality else 0, default=None)
    sentence = "No model could be measured"
    if best and best.one.quality:
        sentence = f"{best.one.model} passes the most: {best.one.quality.rate:.0%} of replies"
        sentence += f", of {len(ranked)} models" if len(ranked) > 1 else ""
    said = (
        f"Behaviours: {', '.join(found.behaviours)}. Cases: {', '.join(found.cases)}. Every model was asked the same, "
        f"with the same seeds, in a process of its own; intervals hold with {100 * (1 - found.alpha):g} % each."
    )
    words = ["jeito", "bench", *(word for one in ranked for word in ("-m", one.one.model)),
             *(word for name in found.behaviours for word in ("-b", name)),
             *(word for name in found.cases for word in ("--cases", name)), "--seed", str(found.seed)]  # fmt: skip
    facts = Facts([("Seed", str(found.seed)), ("Plans", ", ".join(
        cell.plan[:12] for one in ranked for cell in one.one.cells if cell.plan) or "none")])  # fmt: skip
    return Page(
        sentence, said, None,
        [_front(ranked), _models(ranked), _cells(ranked), *_errors(ranked),
         Section("plan", "Plan", "Each cell's runs are kept under a plan of its own.", [facts]),
         reproduction([shlex.join(words)]), *remarks(found.notes)],
    )  # fmt: skip


def _letter(at: int) -> str:
    return (chr(65 + at // 26 - 1) if at >= 26 else "") + chr(65 + at % 26)


def _front(ranked: Sequence[_Ranked]) -> Section:
    dots = [
        Dot(letter, one.peak_bytes / MEGABYTE, one.quality.rate, one.quality.low, one.quality.high, one.on_front,
            f"{letter}: {one.model}, {one.quality.rate:.3g}, {one.peak_bytes / MEGABYTE:.0f} MB")
        for letter, one in ranked
        if one.quality and one.peak_bytes
    ]  # fmt: skip
    said = "Higher is better, further left is smaller. Full dots: nothing is better and smaller."
    blocks = []
    if dots:
        blocks.append(Figure(
            scatter("front-plot", "Quality against memory", "; ".join(dot.label for dot in dots), dots,
                    "peak memory, MB"),
            "; ".join(f"{letter}: {one.model}" for letter, one in ranked) + ". Dashed: the best for its size.",
        ))  # fmt: skip
    return Section("front", "Quality against memory", said, blocks)


def _models(ranked: Sequence[_Ranked]) -> Section:
    rows = []
    for letter, one in ranked:
        how = " ".join(filter(None, (one.engine, one.precision, one.device)))
        claims = ", ".join(
            f"{count} {'holds' if name == 'holds' else name}" for name, count in one.claims.items() if count
        )
        rows.append((
            f"{letter}: {one.model}", how or "none", _share(one.quality), _share(one.follows), claims or "none",
            _rounded(one.tokens_per_second, "tokens/s"), _rounded(one.first_token_seconds, "s"),
            _rounded(one.load_seconds, "s"), _megabytes(one.weight_bytes), _megabytes(one.peak_bytes),
        ))  # fmt: skip
    columns = ("model", "how", "quality", "follows", "claims", "speed", "first token", "load", "weights", "peak memory")
    said = "Quality: the share of replies that pass, over all cases. Follows: of what the behaviours ask, what it does."
    return Section("models", "Models", said, [Table("Every model", columns, rows)])


def _cells(ranked: Sequence[_Ranked]) -> Section:
    rows = [
        (f"{letter}: {cell.behaviour}, {cell.cases}", cell.check, _share(cell.quality),
         f"{cell.passed} of {cell.trials}" + (f", {cell.unmeasured} unmeasured" if cell.unmeasured else ""),
         str(cell.tokens), _rounded(cell.tokens_per_second, "tokens/s"), cell.error or "")
        for letter, one in ranked for cell in one.cells
    ]  # fmt: skip
    columns = ("behaviour and cases", "check", "quality", "passed", "tokens", "speed", "error")
    return Section("cells", "Cell by cell", "Every model, behaviour and set of cases.", [Table("Cells", columns, rows)])


def _errors(ranked: Sequence[_Ranked]) -> list[Section]:
    rows = [(f"{letter}: {one.model}", Mark("fails", "did not run"), one.error) for letter, one in ranked if one.error]
    table = Table("Models that did not run", ("model", "state", "why"), rows)
    return [Section("errors", "Did not run", "They are in no figure.", [table])] * bool(rows)


def _share(share: Share | None) -> str:
    return "none" if share is None else f"{share.rate:.3f}, {share.low:.3f} to {share.high:.3f}"


def _rounded(value: float | None, unit: str) -> str:
    return "none" if value is None else f"{value:.3g} {unit}"


def _megabytes(value: int | None) -> str:
    return "none" if value is None else f"{value / MEGABYTE:,.0f} MB"
