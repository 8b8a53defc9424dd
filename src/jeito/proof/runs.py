"""Runs of plans on one model: all share its batch, each stands in the log, and what the log holds is not run again.

Knows the `Model` protocol alone, and of a local model how many replies it makes at once.
"""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from typing import Any, NamedTuple

from jeito.behaviour.behaviour import Behaviour
from jeito.behaviour.load import Loaded
from jeito.behaviour.resolve import request, resolve
from jeito.engines.base import Model
from jeito.errors import JeitoError, LogError
from jeito.proof.plan import Planned, make_plan, unfinished, write
from jeito.proof.values import Case
from jeito.run.run import Run, run
from jeito.run.tools import Toolbox, open_tools
from jeito.trace import plans
from jeito.trace.log import Log
from jeito.types import Token, Trace

AT_ONCE = 8
"""Replies asked for at once of a model that does not say how many it makes."""


class Replies(NamedTuple):
    """A plan that was carried out whole: `traces[place]`."""

    name: str
    planned: Planned
    traces: tuple[Trace, ...]


class Asked(NamedTuple):
    """One behaviour to be asked. `name`: what its replies are called; `label`: as it was typed."""

    name: str
    label: str
    loaded: Loaded


class Asking(NamedTuple):
    """What everything is asked, and how. One seed: repeat r of a case has the same noise whatever is asked.

    `exact`, none: where the model can.
    """

    cases: Sequence[Case]
    cases_from: str
    repeats: int
    seed: int
    exact: bool | None = None
    allow_unsupported: bool = False

    def plan(self, asked: Asked, model: Model) -> Planned:
        """The plan of one behaviour on a model; all its runs are wanted. Raises InputError."""
        return make_plan(
            asked.loaded, self.cases, label=asked.label, cases_from=self.cases_from, model=model.name,
            model_fingerprint=model.fingerprint, repeats=self.repeats, seed=self.seed,
            exact=is_exact(self.exact, model), early=False, claims_needed=False,
        )  # fmt: skip


def is_exact(wanted: bool | None, model: Model) -> bool:
    """Are its replies to be exact? Where nobody says: if it can."""
    return "exact" in model.abilities if wanted is None else wanted


def gather(
    asking: Asking, asked: Sequence[Asked], model: Model, log: Log, heard: Callable[[int, int], None] | None = None
) -> list[Replies]:
    """The replies of several behaviours on one model, which share its batch.

    `heard`: how many runs there are, and how many there will be, after each. Raises InputError, UnsupportedError
    before the first run.
    """
    planned = [asking.plan(one, model) for one in asked]
    works = [
        Work(plan, one.loaded, model, log, lenient=asking.allow_unsupported)
        for plan, one in zip(planned, asked, strict=True)
    ]
    found = [_held(log, plan) for plan in planned]
    of_work = dict(zip(works, found, strict=True))
    # One pass has one set of adapters and vectors: those that have the same share it, one set after the other.
    tunings = [(one.loaded.behaviour.adapter, one.loaded.behaviour.steering) for one in asked]
    waiting = [
        (work, place)
        for tuning in dict.fromkeys(tunings)
        for place in range(len(asking.cases) * asking.repeats)
        for work, own in zip(works, tunings, strict=True)
        if own == tuning and place not in of_work[work]
    ]
    done, total = sum(map(len, found)), sum(map(len, found)) + len(waiting)
    with closing(stream(waiting, model)) as running:
        for work, place, trace in running:
            of_work[work][place] = trace
            done += 1
            if heard:
                heard(done, total)
    return [
        Replies(one.name, plan, tuple(traces[place] for place in range(plan.plan.runs)))
        for one, plan, traces in zip(asked, planned, found, strict=True)
    ]


def begun(asking: Asking, asked: Sequence[Asked], model: Model, log: Log) -> int | None:
    """The seed under which just this was begun on this model, and not ended."""
    for one in asked:
        plan = unfinished(log, asking.plan(one, model))
        if plan and len(plans.places_held(log, plan.digest)) < plan.runs:
            return plan.seed
    return None


def _held(log: Log, planned: Planned) -> dict[int, Trace]:
    write(log, planned)
    digest = planned.plan.digest
    return {place: kept(log, digest, place) for place in plans.places_held(log, digest)}


class Work:
    """A plan's runs on a model, one at a time. Made only where every case can be asked."""

    def __init__(self, planned: Planned, loaded: Loaded, model: Model, log: Log, *, lenient: bool = False) -> None:
        self.planned, self.model = planned, model
        self._log, self._lenient = log, lenient
        self._loaded = _exact(loaded) if planned.plan.exact else loaded
        self._box: Toolbox | None = None
        # How likely the drawn token was, no alternatives: features and reports read it.
        self._logprobs = 0 if "logprobs" in model.abilities else None
        resolved = self._resolve(self._loaded, planned.plan.seed)
        for case in planned.cases:
            request(resolved, case.ask)

    def begin(self, place: int) -> tuple[Run, Iterator[Token]]:
        """The run at a place, which the log knows from now on."""
        one = self._run(place)
        plans.take_places(self._log, self.planned.plan.digest, {place: one.trace.id})
        stream = iter(one)
        with suppress(JeitoError):  # its error stands in its trace
            one.start()
        return one, stream

    def close(self) -> None:
        if self._box:
            self._box.close()

    def _run(self, place: int) -> Run:
        case, seed = self.planned.case_of(place), self.planned.seed_of(place)
        label = self.planned.plan.behaviour
        if not case.tools:
            if self._box is None and self._loaded.behaviour.tools:
                self._box = open_tools(self._loaded.behaviour.tools)
            return run(
                self._loaded, self.model, case.ask, seed=seed, case=case.name, log=self._log, label=label,
                tools=self._box, allow_unsupported=self._lenient, logprobs=self._logprobs,
            )  # fmt: skip
        # The tools that a case offers are nobody's to call: a call ends the reply and stands in its trace.
        none: dict[str, Any] = {"tools": (), "tool_choice": "auto"}
        bare = self._loaded._replace(behaviour=self._loaded.behaviour.model_copy(update=none))
        resolved = self._resolve(bare, seed)
        wanted = request(resolved, case.ask, logprobs=self._logprobs, tools=case.tools)
        return Run(self.model, resolved, wanted, name=label, case=case.name, log=self._log)

    def _resolve(self, loaded: Loaded, seed: int) -> Any:
        model = self.model
        return resolve(
            loaded, defaults=model.defaults, abilities=model.abilities, seed=seed, context=model.context,
            allow_unsupported=self._lenient,
        )  # fmt: skip


def stream(waiting: Iterable[tuple[Work, int]], model: Model) -> Generator[tuple[Work, int, Trace]]:
    """The runs at these places as they end. As many as the model makes at once are always under way.

    One that fails is data. Closing gives up those under way.
    """
    rest = iter(waiting)
    under_way: dict[tuple[Work, int], tuple[Run, Iterator[Token]]] = {}
    works: set[Work] = set()

    def begin(count: int) -> None:
        for _, (work, place) in zip(range(count), rest, strict=False):
            works.add(work)
            under_way[work, place] = work.begin(place)

    try:
        begin(getattr(model, "slots", AT_ONCE))
        while under_way:
            for (work, place), (one, tokens) in list(under_way.items()):
                try:
                    next(tokens)
                except (StopIteration, JeitoError):
                    del under_way[work, place]
                    # Before anybody looks at what has ended: the batch stays full.
                    begin(1)
                    if one.losses:
                        raise LogError(one.losses[0], hint="the same command goes on from here") from None
                    yield work, place, one.trace
    finally:
        for one, _ in under_way.values():
            one.close()
        for work in works:
            work.close()


def kept(log: Log, plan: str, place: int) -> Trace:
    """The run at a place of a plan, which the log held a moment ago."""
    trace = plans.run_at(log, plan, place)
    if trace is None:
        raise LogError(f"run {place} of plan {plan[:12]} has left the log", hint="the same command runs it again")
    return trace


def _exact(loaded: Loaded) -> Loaded:
    behaviour: Behaviour = loaded.behaviour
    own = {knob: getattr(behaviour.sampling, knob) for knob in behaviour.sampling.model_fields_set}
    sampling = type(behaviour.sampling)(**{**own, "exact": True})
    return loaded._replace(
        behaviour=behaviour.model_copy(update={"sampling": sampling}), flags=loaded.flags | {"sampling.exact"}
    )
