"""What a server does with each knob, by experiment: claims are not asked for. The experiments stand in probe_*.py.

Knows nothing of what a behaviour needs, nor of receipts: verdicts are kept by engines/verdicts.py, for whoever asks.
"""

import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import NamedTuple

from jeito.behaviour.behaviour import Behaviour
from jeito.engines.servers import Seen, look, server_of
from jeito.engines.verdicts import Tried
from jeito.errors import EngineError, InputError, nearest
from jeito.preflight import probe_cuts, probe_penalties, probe_prompts, probe_replies
from jeito.preflight.probe_bench import WORDS, Bench, Found, Refused, Unclear
from jeito.preflight.probe_reply import Broken
from jeito.types import Value

Experiment = Callable[[Bench], Found]
EXPERIMENTS: dict[str, Experiment] = {
    experiment.__name__: experiment
    for shelf in (probe_cuts, probe_penalties, probe_replies, probe_prompts)
    for experiment in shelf.EXPERIMENTS
}
PATIENCE = 120.0
"""Seconds for one reply of a few tokens: a server that is busy with others is slow, not broken."""


class Probe(Value):
    """What was found of a server. `notes`: what is true of it whatever the knob."""

    address: str
    model: str
    kind: str
    version: str | None
    day: str
    tried: tuple[Tried, ...]
    notes: tuple[str, ...]
    requests: int
    seconds: float

    def lacking(self, needs: Iterable[str]) -> dict[str, str]:
        """Which of these knobs are not honoured, and why."""
        found = {one.knob: one for one in self.tried}
        return {
            knob: f"{found[knob].verdict}: {found[knob].evidence}"
            for knob in needs if found[knob].verdict != "honoured"
        }  # fmt: skip


def probe(
    address: str,
    *,
    model: str | None = None,
    kind: str = "auto",
    only: Iterable[str] = (),
    key: str | None = None,
    patience: float = PATIENCE,
    notify: Callable[[str], None] = lambda text: None,
) -> Probe:
    """Try every knob, or `only` these; `notify` hears each verdict as it comes. Nothing is kept.

    Raises InputError for a knob or model that there is not, EngineError where not even a plain request is answered.
    """
    chosen = set(only) or set(EXPERIMENTS)
    if unknown := sorted(chosen - EXPERIMENTS.keys()):
        raise InputError(f"there is no experiment on {unknown[0]!r}", hint=nearest(unknown[0], EXPERIMENTS))
    wanted = [knob for knob in EXPERIMENTS if knob in chosen]
    seen = look(address, key) if kind == "auto" else Seen(kind, None)
    server = server_of(seen.kind)
    began, day = time.monotonic(), datetime.now(UTC).date().isoformat()
    with Bench(address, server, model, key=key, patience=patience) as bench:
        _answers(bench)
        notify(f"{bench.address}: {server.kind} {seen.version or 'of no known version'}, model {bench.model}")
        tried = []
        for knob in wanted:
            tried.append(_try(bench, knob, day))
            notify(f"{knob}: {tried[-1].verdict}")
        notes = [*server.always]
        if bench.busy:
            notes.append(f"{bench.busy} of {bench.requests} requests were turned away as too many (429 or 503)")
        return Probe(
            address=bench.address, model=bench.model, kind=server.kind, version=seen.version, day=day,
            tried=tuple(tried), notes=tuple(notes), requests=bench.requests, seconds=time.monotonic() - began,
        )  # fmt: skip


def table() -> list[str]:
    """The rows of the first table in docs/probe.md."""
    return [f"| `{knob}` | {' '.join((run.__doc__ or '').split())} |" for knob, run in EXPERIMENTS.items()]


class Needs(NamedTuple):
    """On which knobs a behaviour depends: those that there are experiments on, and the others."""

    tried: tuple[str, ...]
    untried: tuple[str, ...]


def needed(behaviour: Behaviour) -> Needs:
    output, needs = behaviour.output, behaviour.needs()
    others = {
        "max_new_tokens": True,
        "system": bool(behaviour.system) and behaviour.placement == "system",
        "tools": bool(behaviour.tools),
        "tool_choice": behaviour.tool_choice != "auto",
        "whole_prompt": behaviour.requires.context is not None,
        **dict.fromkeys(output.kinds() if output else (), True),
    }
    tried = tuple(knob for knob in EXPERIMENTS if knob in needs or others.get(knob))
    return Needs(tried, tuple(sorted(needs - {*EXPERIMENTS, "contract"})))


def _answers(bench: Bench) -> None:
    """A request with nothing in it but a question and a length."""
    try:
        bench.ask(WORDS)
    except (Refused, Broken) as error:
        hint = "--server says what it is, --model which of its models"
        raise EngineError(f"{bench.address} answers no plain request: {error}", hint=hint) from error


def _try(bench: Bench, knob: str, day: str) -> Tried:
    before = bench.requests
    try:
        found = EXPERIMENTS[knob](bench)
    except Refused as error:
        found = Found("refused", str(error))
    except (Broken, Unclear) as error:
        found = Found("unknown", str(error))
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        # The edge to strangers: a part of the reply that is of another shape than OpenAI's.
        found = Found("unknown", f"the reply is not of OpenAI's shape: {error!r}")
    made = bench.requests - before
    return Tried(
        knob=knob, field=bench.field(knob), verdict=found.verdict, evidence=found.evidence, requests=made, day=day
    )
