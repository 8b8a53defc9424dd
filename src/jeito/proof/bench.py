"""Models × behaviours × precisions over families of cases: how good, how fast, how large. Each model in its turn.

A model has a process of its own: what it takes of memory is its own then, and one that breaks takes no other with it.
"""

import multiprocessing
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from datetime import datetime
from statistics import median
from typing import Any, NamedTuple

from pydantic import Field

from jeito.behaviour.behaviour import Behaviour, Claim
from jeito.engines.base import Loading
from jeito.errors import JeitoError
from jeito.proof.comparison import Share
from jeito.proof.measured import Measure, cases_of, clusters_of, measure_checks
from jeito.proof.plan import ALPHA, CORRECT
from jeito.proof.runs import Asked, Asking, Replies, gather
from jeito.proof.setting import Setting
from jeito.proof.shares import share
from jeito.proof.stats import decide
from jeito.run.open import open_model
from jeito.trace.log import Log
from jeito.types import Several, Trace, Value

TERSE: dict[str, Any] = {"words": {"max": 60}, "at_least": 0.8}
CERTAIN: dict[str, Any] = {"absent": {"words": ["maybe|perhaps|probably|talvez|provavelmente"]}, "at_least": 0.9}
OWN_VOICE: dict[str, Any] = {"absent": {"words": ["once upon a time|era uma vez"]}, "at_least": 0.9}
VARIED: dict[str, Any] = {"distinct": {"min": 0.8}, "at_least": 0.9}
ASKED: dict[str, tuple[dict[str, Any], ...]] = {
    "technical": (TERSE,),
    "agente_tecnico": (TERSE,),
    "conservative": (TERSE, CERTAIN),
    "conservador": (TERSE, CERTAIN),
    "creative": (OWN_VOICE, VARIED),
    "criativo": (OWN_VOICE, VARIED),
}
"""What of the shipped personalities' instructions a check can see; their language is asked of every behaviour."""


class Cell(Value):
    """One behaviour on one model and one set of cases."""

    behaviour: str
    cases: str
    check: str = Field(description="what `quality` is the share of")
    quality: Share | None = Field(description="of replies that pass; unmeasured ones widen it; none: it did not run")
    passed: int
    trials: int
    clusters: int
    unmeasured: int
    tokens: int = Field(description="generated")
    tokens_per_second: float | None = Field(description="of one reply among others")
    first_token_seconds: float | None = Field(description="median: queue and prefill, in a full batch")
    plan: str | None
    error: str | None = None


class Contender(Value):
    """One model, as it was asked for, in a process of its own."""

    model: str
    engine: str | None
    precision: str | None
    device: str | None
    weight_bytes: int | None
    peak_bytes: int | None = Field(description="of a GPU where it runs on one, else of the process")
    load_seconds: float | None
    tokens_per_second: float | None = Field(description="all replies together")
    first_token_seconds: float | None
    quality: Share | None = Field(description="over all cells, the unit being the case")
    follows: Share | None = Field(description="of all that the behaviours' own claims ask of a reply: what it does")
    claims: dict[str, int] = Field(description="of the behaviours' claims, how many hold, fail, are undecided")
    on_front: bool = Field(description="no other model is better and smaller")
    cells: Several[Cell]
    error: str | None = Field(default=None, description="why it did not load, or ended early")


class Bench(Value):
    """Several models over the same behaviours, cases and seeds."""

    contenders: Several[Contender]
    behaviours: Several[str]
    cases: Several[str]
    seed: int
    alpha: float
    notes: Several[str] = ()


class Item(Value):
    """One reply and its score, for other programs."""

    model: str
    behaviour: str
    cases: str
    case: str
    repeat: int
    score: float | None = Field(description="1 passed, 0 not; none: it could not be measured")
    prompt: str
    answer: str
    target: str
    run: str


class Benched(NamedTuple):
    """One model's part of a bench, and its replies one by one."""

    contender: Contender
    items: tuple[Item, ...]


class Task(NamedTuple):
    """What every model is given."""

    behaviours: tuple[Asked, ...]
    asking: tuple[Asking, ...]
    """One for each set of cases."""
    loading: Loading
    alpha: float = ALPHA


def bench(models: Sequence[str], task: Task, notify: Callable[[str], None]) -> list[Benched]:
    """Every model in turn, each in a fresh process. `notify` has to be a function of a module: it is called there too.

    A model that cannot be loaded, or whose process dies, is a contender with an error.
    """
    found = []
    for reference in models:
        notify(f"{reference} …")
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
            try:
                found.append(process.submit(run_model, reference, task, notify).result())
            except BrokenProcessPool:
                found.append(Benched(_unmeasured(reference, "its process died"), ()))
            except Exception as error:  # The edge: whatever broke there, the other models are still to be asked.
                found.append(Benched(_unmeasured(reference, f"{type(error).__name__}: {error}"), ()))
    return found


def run_model(reference: str, task: Task, notify: Callable[[str], None]) -> Benched:
    """Load one model here, ask it everything, and say how it did. What goes wrong is data."""
    try:
        model = open_model(reference, loading=task.loading, notify=notify)
    except JeitoError as error:
        return Benched(_unmeasured(reference, str(error)), ())
    log = Log()
    sides: list[Replies] = []
    try:
        for asking in task.asking:
            sides += gather(asking, task.behaviours, model, log)
    except JeitoError as error:
        return Benched(_unmeasured(reference, str(error)), ())
    finally:
        model.close()
    settings = {side.planned.plan.digest: _setting(side, reference, log) for side in sides}
    right = [measure_checks([side], [CORRECT], lambda planned: settings[planned.plan.digest])[0] for side in sides]
    traces = [trace for side in sides for trace in side.traces]
    where = model.environment()
    contender = Contender(
        model=reference,
        engine=where["engine"],
        precision=where.get("precision"),
        device=where.get("device"),
        weight_bytes=where.get("weight_bytes"),
        peak_bytes=_peak(traces),
        load_seconds=where.get("load_seconds"),
        tokens_per_second=_speed(traces),
        first_token_seconds=_first(traces),
        quality=_by_case(list(zip(sides, right, strict=True)), task.alpha),
        **_followed(sides, settings, task.alpha),
        on_front=False,
        cells=tuple(_cell(side, measure, task.alpha) for side, measure in zip(sides, right, strict=True)),
    )
    return Benched(contender, tuple(_items(sides, right)))


def on_front(contenders: Sequence[Contender]) -> list[Contender]:
    """The same, each saying whether no other is at least as good and as small, and one of both more so."""

    def place(one: Contender) -> tuple[float, float] | None:
        size = one.peak_bytes or one.weight_bytes
        return (one.quality.rate, -size) if one.quality and size else None

    places = [place(one) for one in contenders]

    def beats(other: tuple[float, float] | None, one: tuple[float, float]) -> bool:
        return other is not None and other != one and other[0] >= one[0] and other[1] >= one[1]

    return [
        one.model_copy(update={"on_front": own is not None and not any(beats(other, own) for other in places)})
        for one, own in zip(contenders, places, strict=True)
    ]


def claims_of(behaviour: Behaviour) -> list[Claim]:
    """What a behaviour asks of a reply: its own claims, else what of its instruction a check can see."""
    if behaviour.checks:
        return list(behaviour.checks)
    asked = [*ASKED.get(behaviour.name, ()), *([{"language": True, "at_least": 0.9}] if behaviour.language else [])]
    return [Claim.model_validate(one) for one in asked]


def _setting(side: Replies, reference: str, log: Log) -> Setting:
    planned = side.planned
    return Setting(
        language=planned.behaviour.language, cases=planned.cases, open_model=open_model, model=reference, log=log
    )


def _cell(side: Replies, measure: Measure, alpha: float) -> Cell:
    found = decide(
        [None if value is None else value == 1 for value in measure.values[0]], clusters_of(side), CORRECT.at_least,
        meaning="cases like these", repeats=side.planned.plan.repeats, sequential=False, alpha=alpha,
    )  # fmt: skip
    return Cell(
        behaviour=side.name,
        cases=side.planned.plan.cases_from,
        check=measure.name,
        quality=None if found.rate is None else Share(rate=found.rate, low=found.low, high=found.high),
        passed=found.passed,
        trials=found.trials,
        clusters=found.clusters,
        unmeasured=found.unmeasured,
        tokens=sum(trace.usage.generated for trace in side.traces),
        tokens_per_second=_own_speed(side.traces),
        first_token_seconds=_first(side.traces),
        plan=side.planned.plan.digest,
        error=next((trace.error for trace in side.traces if trace.error), None),
    )


def _followed(sides: Sequence[Replies], settings: dict[str, Setting], alpha: float) -> dict[str, Any]:
    """How much of what the behaviours ask is done, and how many of their claims hold."""
    asked = [
        (side, measure)
        for side in sides
        for measure in measure_checks(
            [side], claims_of(side.planned.behaviour), lambda planned: settings[planned.plan.digest]
        )
    ]
    together: dict[tuple[str, str], list[tuple[Replies, Measure]]] = {}
    for side, measure in asked:
        together.setdefault((side.name, measure.name), []).append((side, measure))
    counts = dict.fromkeys(("holds", "fails", "undecided"), 0)
    for group in together.values():
        outcomes = [None if value is None else value == 1 for _, measure in group for value in measure.values[0]]
        cases = [(at, case) for at, (side, _) in enumerate(group) for case in clusters_of(side)]
        claim = group[0][1].claim
        assert claim is not None, "these are checks"
        found = decide(
            outcomes, cases, claim.at_least, meaning="cases like these", sequential=False, claims=len(together),
            alpha=alpha,
        )  # fmt: skip
        counts[found.decision] += 1
    return {"follows": _by_case(asked, alpha), "claims": counts}


def _by_case(measured: Sequence[tuple[Replies, Measure]], alpha: float) -> Share | None:
    """A share over everything that was asked of each case: the unit is the case, whoever answered."""
    cases: dict[tuple[str, int], list[float | None]] = {}
    for side, measure in measured:
        for case, value in zip(clusters_of(side), measure.values[0], strict=True):
            cases.setdefault((side.planned.plan.cases_digest, case), []).append(value)
    return share(list(cases.values()), alpha) if cases else None


def _items(sides: Sequence[Replies], right: Sequence[Measure]) -> Iterable[Item]:
    for side, measure in zip(sides, right, strict=True):
        plan = side.planned.plan
        for place, (trace, case) in enumerate(zip(side.traces, cases_of(side), strict=True)):
            yield Item(
                model=plan.model, behaviour=side.name, cases=plan.cases_from, case=case.name,
                repeat=place % plan.repeats, score=measure.values[0][place], prompt=trace.prompt or "",
                answer=trace.answer, target=case.expect.model_dump_json(exclude_defaults=True), run=trace.id,
            )  # fmt: skip


def _speed(traces: Sequence[Trace]) -> float | None:
    """Tokens a second while any of these was under way, as the log tells it."""
    spans = sorted((datetime.fromisoformat(trace.time).timestamp(), trace.seconds.total) for trace in traces)
    busy, until = 0.0, float("-inf")
    for begin, seconds in spans:
        busy += max(0.0, begin + seconds - max(begin, until))
        until = max(until, begin + seconds)
    return sum(trace.usage.generated for trace in traces) / busy if busy > 0 else None


def _own_speed(traces: Sequence[Trace]) -> float | None:
    seconds = sum(trace.seconds.decode for trace in traces)
    return sum(trace.usage.generated for trace in traces) / seconds if seconds else None


def _first(traces: Sequence[Trace]) -> float | None:
    waited = [trace.seconds.queue + trace.seconds.prefill for trace in traces if trace.tokens]
    return median(waited) if waited else None


def _peak(traces: Sequence[Trace]) -> int | None:
    """The most that was taken: of a GPU's memory where it ran on one, else by the process."""
    taken = [when for trace in traces for when in trace.environment.get("memory", {}).values()]
    for kind in ("peak", "allocated", "resident_peak"):
        if found := [int(when[kind]) for when in taken if kind in when]:
            return max(found)
    return None


def _unmeasured(reference: str, error: str) -> Contender:
    return Contender(
        model=reference, engine=None, precision=None, device=None, weight_bytes=None, peak_bytes=None,
        load_seconds=None, tokens_per_second=None, first_token_seconds=None, quality=None, follows=None, claims={},
        on_front=False, cells=(), error=error,
    )  # fmt: skip
