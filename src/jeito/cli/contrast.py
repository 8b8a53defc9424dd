"""What `jeito compare` does where there are cases: coupled pairs, their differences, and why. No command of its own."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from jeito.cli import progress, show, verdict
from jeito.errors import FAILED, OK, InputError

if TYPE_CHECKING:
    from jeito.behaviour.behaviour import Claim
    from jeito.engines.base import Loading, Model
    from jeito.proof.cause import Switched
    from jeito.proof.comparison import Cause, Comparison, Pair
    from jeito.proof.plan import Planned
    from jeito.proof.runs import Asked, Asking, Replies
    from jeito.proof.setting import Setting
    from jeito.proof.values import Case
    from jeito.trace.log import Log

PAIRS = 32


class Wanted(NamedTuple):
    """What was typed."""

    behaviours: Sequence[str]
    models: Sequence[str]
    cases: str
    pairs: int | None
    sets: Sequence[str]
    seed: int | None
    exact: bool | None
    checks: Sequence[str]
    at_least: Sequence[float]
    unit: Literal["case", "run"]
    alpha: float
    cause: bool
    allow_unsupported: bool


def with_adapters(behaviours: Sequence[str], adapters: str) -> list[str]:
    """Each behaviour as it could be typed with each adapter in place of its own; `none`: without any."""
    import json

    from jeito.behaviour.load import load

    names = [name.strip() for name in adapters.split(",") if name.strip()]
    if not names:
        raise InputError("--adapters names none", hint="--adapters none,NAME; jeito adapters lists them")
    found = []
    for behaviour in behaviours:
        has_own = bool(load(behaviour).behaviour.adapter)
        for name in names:
            said = [] if name == "none" else [{"path": name}]
            changes = has_own or said
            found.append(f"{behaviour}+adapter={json.dumps(said, ensure_ascii=False)}" if changes else behaviour)
    return found


def contrast(wanted: Wanted, loading: "Loading", *, json: bool, report: Path | None) -> int:
    """Run both sides of every pair, compare, show. The exit code is a verdict only where something was claimed."""
    from jeito.proof.compare import contrast as compare
    from jeito.trace.log import Log

    verdict.refuse_report(report)
    claims, at_least = _claims(wanted.checks, wanted.at_least)
    asked, switched = _asked(wanted)
    verdict.refuse_unknown([*claims, *(claim for one in asked for claim in one.loaded.behaviour.checks)])
    asking, log = _asking(wanted), Log()
    sides, causes = _gather(wanted, asking, asked, switched, log, loading)
    meaning: Literal["these cases", "cases like these"] = "cases like these" if wanted.unit == "case" else "these cases"
    judges: dict[str, Model] = {}  # each is opened once, whichever side asks

    def setting_of(planned: "Planned") -> "Setting":
        return replace(verdict.setting_of(planned, log), opened=judges)

    found = compare(
        sides, claims, at_least=at_least, setting_of=setting_of, meaning=meaning, alpha=wanted.alpha,
    )  # fmt: skip
    if switched:
        from jeito.proof.cause import find_cause

        cause = find_cause(
            sides[0], sides[1], switched, causes, claims, meaning=meaning, alpha=wanted.alpha, setting_of=setting_of,
        )  # fmt: skip
        found = found.model_copy(update={"cause": cause})
    if json:
        show.emit(found)
    else:
        _show(found)
    verdict.write_report(report, found)
    if found.decision is not None:
        return verdict.CODES[found.decision]
    return FAILED if any(side.unmeasured == found.clusters * found.repeats for side in found.sides) else OK


def _claims(checks: Sequence[str], at_least: Sequence[float]) -> "tuple[list[Claim], dict[str, float]]":
    """Checks to compare by, and how much more of each the second side is claimed to have."""
    from jeito.proof.plan import asked

    if at_least and not checks:
        checks = ["correct"]
    if len(at_least) > 1 and len(at_least) != len(checks):
        raise InputError(f"{len(checks)} --check and {len(at_least)} --at-least", hint="one for all, or one for each")
    if wrong := next((least for least in at_least if not -1 <= least <= 1), None):
        raise InputError(f"no share differs by {wrong:g}", hint="--at-least 0.1: the second side passes 10 points more")
    # A share to pass is asked of every claim; here nobody looks at it.
    claims = verdict.claims_of(checks, [1.0] * len(checks))
    shares = list(at_least) * len(claims) if len(at_least) == 1 else list(at_least)
    return claims, {asked(claim): share for claim, share in zip(claims, shares, strict=False)}


def _asked(wanted: Wanted) -> "tuple[list[Asked], list[Switched]]":
    """The behaviours, and where the cause is wanted the first with one thing switched at a time."""
    from jeito.behaviour.load import load
    from jeito.proof.cause import switch_each
    from jeito.proof.runs import Asked

    names = list(wanted.behaviours)
    asked = [Asked(name, "+".join([name, *wanted.sets]), load(name, wanted.sets)) for name in names]
    if not wanted.cause:
        if len(asked) * len(wanted.models) < 2:
            raise InputError("one side is no comparison", hint="a second -b or -m; or --cause: against plain")
        if twice := next((one for at, one in enumerate(names) if one in names[:at]), None):
            raise InputError(f"{twice!r} is there twice", hint="leave one out")
        return asked, []
    if len(wanted.models) > 1 or len(asked) > 2:
        raise InputError("a cause is looked for between two behaviours on one model", hint="one -m, and two -b or one")
    if len(asked) == 1:
        asked.append(Asked("plain", "+".join(["plain", *wanted.sets]), load("plain", wanted.sets)))
    return asked, switch_each(asked[0].loaded, asked[1].loaded)


def _asking(wanted: Wanted) -> "Asking":
    """The pairs go over the cases, one each; where there are more pairs than cases, each case has several."""
    import secrets

    from jeito.proof.cases import load_cases
    from jeito.proof.runs import Asking

    pairs = PAIRS if wanted.pairs is None else wanted.pairs
    seed = secrets.randbits(31) if wanted.seed is None else wanted.seed
    cases: Sequence[Case] = load_cases(wanted.cases)[:pairs]
    named = str(Path(wanted.cases).resolve()) if Path(wanted.cases).is_file() else wanted.cases
    return Asking(
        cases, named, repeats=-(-pairs // len(cases)), seed=seed, exact=wanted.exact,
        allow_unsupported=wanted.allow_unsupported,
    )  # fmt: skip


def _gather(
    wanted: Wanted, asking: "Asking", asked: "Sequence[Asked]", switched: "Sequence[Switched]", log: "Log",
    loading: "Loading",
) -> "tuple[list[Replies], list[Replies]]":  # fmt: skip
    """Replies of every side, and of every switch, model by model: no two are in memory at once."""
    from jeito.proof.cause import as_asked
    from jeito.proof.runs import begun, gather
    from jeito.run.open import open_model

    several = len(wanted.models) > 1
    every = [*asked, *as_asked(asked[0].label, switched)]
    sides: list[Replies] = []
    total = len(every) * len(wanted.models) * len(asking.cases) * asking.repeats
    for number, reference in enumerate(wanted.models):
        model = open_model(reference, loading=loading, notify=show.say)
        try:
            if number == 0:
                if wanted.seed is None and (seed := begun(asking, every, model, log)) is not None:
                    show.say(f"going on with what was begun under seed {seed}; --seed draws another")
                    asking = asking._replace(seed=seed)
                show.say(
                    f"{len(asking.cases)} cases × {asking.repeats} × {len(every) * len(wanted.models)} sides = "
                    f"{total} runs, seed {asking.seed}"
                )
            with progress.bar() as heard:
                found = gather(asking, every, model, log, heard)
        except KeyboardInterrupt:
            show.say(f"what ended is kept: the same command goes on from here, with --seed {asking.seed}")
            raise
        finally:
            model.close()
        sides += [one._replace(name=f"{one.name} on {reference}") for one in found] if several else found
    ours = len(asked) * len(wanted.models)
    return sides[:ours], sides[ours:]


def _show(found: "Comparison") -> None:
    print(
        f"{' against '.join(side.name for side in found.sides)}: {found.clusters} cases × {found.repeats}, "
        f"seed {found.seed}, {found.meaning}" + (f": {found.decision}" if found.decision else "")
    )
    _table("Checks: intervals hold all at once", [pair for pair in found.pairs if pair.kind == "check"])
    features = [pair for pair in found.pairs if pair.kind == "feature"]
    differing = [pair for pair in features if pair.differs]
    _table(f"\nFeatures that differ: {len(differing)} of {len(features)}", differing)
    print()
    for one in found.divergence:
        where = "" if one.median is None else f", others after {one.median:g} tokens (median)"
        print(f"{one.a} → {one.b}: {one.identical} of {one.n} pairs are the same to the end{where}")
    if found.separation:
        for apart in found.separation.pairs:
            print(
                f"{apart.a} → {apart.b}: told apart by their features with p = {apart.adjusted:.4f} "
                f"({apart.replies} replies, {apart.clusters} cases)"
            )
        if confusion := found.separation.confusion:
            right = confusion.accuracy
            print(
                f"a classifier names the right one in {right.rate:.0%} ({right.low:.0%} to {right.high:.0%}); "
                f"chance: {1 / len(confusion.names):.0%}"
            )
    if found.cause:
        _show_cause(found.cause)
    for note in found.notes:
        show.say(f"note: {note}")


def _table(title: str, pairs: "Sequence[Pair]") -> None:
    columns = "sides", "of", "first", "second", "difference", "interval", "pairs", "cases", "p (Holm)", "variance ratio"
    rows = [
        (f"{pair.a} → {pair.b}", pair.check, _number(pair.a_mean), _number(pair.b_mean), _signed(pair.difference),
         pair.why if pair.low is None else f"{_signed(pair.low)} to {_signed(pair.high)}", pair.n, pair.clusters,
         f"{pair.adjusted:.4f}", _number(pair.variance_ratio))
        for pair in pairs
    ]  # fmt: skip
    if rows:
        show.table(title, columns, rows)
    else:
        print(title)


def _show_cause(cause: "Cause") -> None:
    print(f"\nCause: each part of {cause.a} switched alone to what {cause.b} has")
    rows = [
        (part.name, _short(part.before), _short(part.after), pair.check, _signed(pair.difference),
         pair.why if pair.low is None else f"{_signed(pair.low)} to {_signed(pair.high)}")
        for part in cause.parts for pair in part.pairs
    ]  # fmt: skip
    show.table("", ("part", "was", "became", "of", "difference", "interval"), rows)
    for total in cause.total:
        named = cause.named[total.check]
        parts = ", ".join(named) if named else "no part alone surely changes it"
        print(f"{total.check} ({_signed(total.difference)} in all): {parts}")


def _short(text: str) -> str:
    return text if len(text) <= 40 else text[:39] + "…"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _signed(value: float | None) -> str:
    return "" if value is None else f"{value:+.3g}"
