"""`jeito sweep`: a behaviour along the values of a knob; where do its claims hold?"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jeito.cli import options, progress, show, verdict
from jeito.errors import FAILED, OK, InputError

if TYPE_CHECKING:
    from jeito.engines.base import Loading
    from jeito.proof.runs import Asking
    from jeito.proof.sweep import Axis, Curve, Sweep

CASES = 12
TOKENS = 96


@options.loads_model
def sweep(
    over: Annotated[
        list[str], typer.Option("--over", metavar="KEY=LOW:HIGH:COUNT", help="A knob and its values; or KEY=a,b,c.")
    ],
    behaviour: options.Behaviour = "plain",
    model: options.Model = "demo",
    grid: Annotated[
        bool, typer.Option("--grid", help="Several --over together, every value with every other; else in turn.")
    ] = False,
    cases: Annotated[
        str,
        typer.Option("--cases", help="A family that ships, or FILE.yaml, FILE.jsonl; else 12 robot stories."),
    ] = "",
    repeats: Annotated[int, typer.Option("--repeats", "-n", min=1, help="Replies to each case at each point.")] = 1,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Of the cases, the first so many.")] = None,
    tokens: Annotated[
        int, typer.Option("--tokens", min=1, help="At most so many a reply, where neither file nor --over says.")
    ] = TOKENS,
    checks: options.Checks = [],  # noqa: B006 - Typer copies it
    at_least: options.AtLeast = [],  # noqa: B006
    sets: options.Set = [],  # noqa: B006
    seed: options.Seed = None,
    alpha: Annotated[
        float, typer.Option("--alpha", min=1e-6, max=0.4, help="How often a band may miss, all of its points together.")
    ] = 0.05,
    exact: Annotated[
        bool | None,
        typer.Option("--exact/--no-exact", help="Replies that do not depend on what else runs; if the model can."),
    ] = None,
    write: Annotated[
        Path | None, typer.Option("--write", metavar="FILE.yaml", help="Put the middle of the plateau into this file.")
    ] = None,
    json: options.Json = False,
    report: options.Report = None,
    allow_unsupported: options.AllowUnsupported = False,
    *,
    loading: "Loading",
) -> int:
    """Curves of every check and feature over a knob's values, and the widest plateau where all claims hold."""
    from jeito.proof.runs import Asked, begun
    from jeito.proof.sweep import Sweeps, ask_each, read_axis
    from jeito.proof.sweep import grid as points_of
    from jeito.proof.sweep import sweep as run_sweep
    from jeito.run.open import open_model
    from jeito.trace.log import Log

    verdict.refuse_report(report)
    axes, claims = [read_axis(text) for text in over], verdict.claims_of(checks, at_least)
    label = _label(behaviour, sets, axes, tokens)
    asking, log = _asking(label, cases, limit, repeats, seed, exact, allow_unsupported), Log()
    together = [axes] if grid else [[axis] for axis in axes]
    if write and len(together) > 1:
        raise InputError("several sweeps have several plateaus", hint="one --over, or --grid, with --write")
    # A knob or value that there is not is refused before a model is loaded.
    asked: list[list[Asked]] = [ask_each(label, points_of(each)) for each in together]
    verdict.refuse_unknown([*claims, *asked[0][0].loaded.behaviour.checks])
    opened = open_model(model, loading=loading, notify=show.say)
    if seed is None and (found := begun(asking, [one for each in asked for one in each], opened, log)) is not None:
        show.say(f"going on with what was begun under seed {found}; --seed draws another")
        asking = asking._replace(seed=found)
    runs = sum(map(len, asked)) * len(asking.cases) * repeats
    show.say(f"{sum(map(len, asked))} points × {len(asking.cases)} cases × {repeats} = {runs} runs, seed {asking.seed}")
    made = []
    for each in together:
        with progress.bar() as heard:
            made.append(
                run_sweep(
                    label, each, asking, opened, log, claims, alpha=alpha, heard=heard,
                    setting_of=lambda planned: verdict.setting_of(planned, log, opened),
                )
            )  # fmt: skip
    if write:
        made = [_write(made[0], write, behaviour)]
    if json:
        show.emit(made[0] if len(made) == 1 else Sweeps(sweeps=tuple(made)))
    else:
        for one in made:
            _show(one)
    verdict.write_report(report, Sweeps(sweeps=tuple(made)))
    points = [point for one in made for curve in one.curves for point in curve.points]
    return FAILED if all(point.mean is None for point in points) else OK


def _label(behaviour: str, sets: Sequence[str], axes: "Sequence[Axis]", tokens: int) -> str:
    """The behaviour as it could be typed, with the most tokens of a reply where nobody says."""
    from jeito.behaviour.load import load

    said = load(behaviour, sets).behaviour.sampling.model_fields_set | {axis.knob for axis in axes}
    capped = [] if "max_new_tokens" in said else [f"max_new_tokens={tokens}"]
    return "+".join([behaviour, *sets, *capped])


def _asking(
    label: str,
    cases: str,
    limit: int | None,
    repeats: int,
    seed: int | None,
    exact: bool | None,
    lenient: bool,
) -> "Asking":
    import secrets

    from jeito.behaviour.load import load
    from jeito.proof.cases import load_cases
    from jeito.proof.runs import Asking

    language = (load(label).behaviour.language or "en").partition("-")[0]
    reference = cases or f"robots:{language if language in ('en', 'pt') else 'en'}:{CASES}"
    named = str(Path(reference).resolve()) if Path(reference).is_file() else reference
    return Asking(
        load_cases(reference)[:limit], named, repeats, secrets.randbits(31) if seed is None else seed, exact, lenient
    )


def _write(found: "Sweep", file: Path, behaviour: str) -> "Sweep":
    from jeito.behaviour.write import write_values

    plateau = found.plateau
    if plateau is None:
        show.say(f"nothing is written into {file}: at no point do all claims hold")
        return found
    how = f"{'shown' if plateau.shown else 'seen, not shown,'} on {found.clusters} cases of {Path(found.cases).name}"
    spans = {knob: f"{plateau.low[knob]} to {plateau.high[knob]}: {how}" for knob in plateau.middle}
    write_values(file, plateau.middle, spans, behaviour.partition("+")[0])
    return found.model_copy(update={"written": str(file)})


def _show(found: "Sweep") -> None:
    from jeito.proof.sweep import DAMAGE

    knobs = [axis.knob for axis in found.axes]
    print(f"{found.behaviour} on {found.model}, over {', '.join(knobs)}: {found.clusters} cases × {found.repeats}")
    shown = [curve for curve in found.curves if curve.kind == "check" or curve.check == DAMAGE or _moves(curve)]
    rows = [
        (*(f"{value}" for value in shown[0].points[at].at.values()), *(_point(curve, at) for curve in shown))
        for at in range(len(shown[0].points) if shown else 0)
    ]
    show.table("Means, and bands that hold at all points at once", [*knobs, *(curve.check for curve in shown)], rows)
    quiet = len(found.curves) - len(shown)
    print(f"{quiet} features do not move surely; --json has them" if quiet else "every feature moves")
    plateau = found.plateau
    if plateau is None:
        print("at no point do all claims hold")
    else:
        spans = ", ".join(f"{knob} {plateau.low[knob]} to {plateau.high[knob]}" for knob in knobs)
        print(f"all claims {'hold' if plateau.shown else 'were kept, though it is not shown,'} at {spans}")
    if found.written:
        print(f"written into {found.written}")
    for note in found.notes:
        show.say(f"note: {note}")


def _moves(curve: "Curve") -> bool:
    """Do two bands not meet?"""
    ends = [(point.low, point.high) for point in curve.points if point.low is not None and point.high is not None]
    return bool(ends) and max(low for low, _ in ends) > min(high for _, high in ends)


def _point(curve: "Curve", at: int) -> str:
    point = curve.points[at]
    if point.mean is None:
        return ""
    band = "" if point.low is None or point.high is None else f" ({point.low:.2g} to {point.high:.2g})"
    return f"{point.mean:.3g}{band}"
