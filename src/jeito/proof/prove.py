"""From a plan to its runs and its proof. Knows the `Model` protocol alone."""

import secrets
from collections.abc import Callable, Sequence
from contextlib import closing

from jeito.behaviour.behaviour import Claim
from jeito.behaviour.load import Loaded, load
from jeito.engines.base import Model
from jeito.proof.judge import Judge, Proof, keep
from jeito.proof.plan import ALPHA, Planned, Unit, find, make_plan, write
from jeito.proof.runs import Work, is_exact, kept, stream
from jeito.proof.setting import Setting
from jeito.proof.values import Case
from jeito.trace import plans
from jeito.trace.log import Log
from jeito.types import Trace

Heard = Callable[[int, Judge], None]
"""Hears how many runs are there, whenever one has ended, and who judges them in plan order."""


def prove(
    behaviour: Loaded | str,
    model: Model,
    cases: Sequence[Case],
    *,
    repeats: int,
    log: Log,
    seed: int | None = None,
    exact: bool | None = None,
    claims: Sequence[Claim] = (),
    unit: Unit = "case",
    alpha: float = ALPHA,
    early: bool = True,
    label: str | None = None,
    cases_from: str = "",
    allow_unsupported: bool = False,
    heard: Heard | None = None,
) -> Proof:
    """Does the behaviour keep its claims, and these, on this model? All it takes is in the log, the proof too.

    `label`, `cases_from`: what was typed for behaviour and cases. `exact`, none: if the model can. Raises InputError,
    UnsupportedError before the first run, LogError where nothing can be kept.
    """
    loaded = load(behaviour) if isinstance(behaviour, str) else behaviour
    planned = make_plan(
        loaded, cases, label=label or (behaviour if isinstance(behaviour, str) else loaded.behaviour.name),
        cases_from=cases_from, model=model.name, model_fingerprint=model.fingerprint, repeats=repeats,
        seed=secrets.randbits(31) if seed is None else seed, exact=is_exact(exact, model), claims=claims,
        unit=unit, greedy=is_greedy(loaded, model), alpha=alpha, early=early,
    )  # fmt: skip
    return keep(log, carry_out(planned, loaded, model, log, allow_unsupported=allow_unsupported, heard=heard))


def is_greedy(loaded: Loaded, model: Model | None) -> bool:
    """Is nothing drawn, so that one reply to a case is all that there are? Without a model its files say nothing."""
    sampling = loaded.behaviour.sampling
    own = model.defaults.get("temperature") if model and "temperature" not in sampling.model_fields_set else None
    return (own.value if own else sampling.temperature) == 0


def carry_out(
    planned: Planned, loaded: Loaded, model: Model, log: Log, *, allow_unsupported: bool = False,
    setting: Setting | None = None, heard: Heard | None = None,
) -> Judge:  # fmt: skip
    """Run what is left of a plan, in its order, until every claim is decided or nothing is left."""
    work = Work(planned, loaded, model, log, lenient=allow_unsupported)
    plan, before = planned.plan, find(log, planned.plan.digest)
    judge = Judge(planned, written=before.plan if before else None, setting=setting)
    write(log, planned)
    held, arrived = plans.places_held(log, plan.digest), dict[int, Trace]()
    order, ended = planned.order(), 0
    with closing(stream([(work, place) for place in order if place not in held], model)) as running:
        for place in order:
            while place not in held and place not in arrived:
                _, found, trace = next(running)
                arrived[found] = trace
                ended += 1
                if heard:
                    heard(len(held) + ended, judge)
            judge.add(place, arrived.pop(place) if place in arrived else kept(log, plan.digest, place))
            if plan.early and judge.is_decided:
                break
    return judge
