"""Was it worth it? Base and adapter, with and without the instruction, on cases that nobody learned from.

And what became of everything else. Knows nothing of training.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Literal, NamedTuple

from pydantic import Field

from jeito.behaviour.load import Loaded
from jeito.decode.local import LocalModel
from jeito.proof.compare import contrast
from jeito.proof.comparison import Comparison, Pair
from jeito.proof.measured import SettingOf, clusters_of, measure_checks, questions
from jeito.proof.paired import difference
from jeito.proof.parity import Reading, read_text
from jeito.proof.runs import Asked, Asking, Replies, gather
from jeito.trace.log import Log
from jeito.tune.pairs import baked
from jeito.types import Adapter, Request, Several, Value

Verdict = Literal["better", "worse", "no difference shown"]
BASE, TOLD, ADAPTER, BOTH = "base", "base + prompt", "adapter", "adapter + prompt"
COMPARED = ((BASE, ADAPTER), (TOLD, ADAPTER), (TOLD, BOTH))
"""What is compared, the first above all: a behaviour without its prompt, before and after."""


class Weighed(Value):
    """How much more often b passes all checks than a; the intervals of all of a page hold at once."""

    a: str
    b: str
    rate_a: float | None
    rate_b: float | None
    difference: float | None
    low: float | None
    high: float | None
    runs: int = Field(description="pairs of replies")
    cases: int
    verdict: Verdict


class Effect(Value):
    """What the adapter does to a behaviour that it was not made for."""

    behaviour: str
    cases: str
    weighed: Weighed | None = Field(description="none: nothing is checked there")
    changed: Several[Pair] = Field(description="features of its replies that surely changed")


class BeforeAfter(Value):
    """What an adapter changed. `verdict`: of the adapter against the base, both without the prompt."""

    verdict: Verdict
    weighed: Several[Weighed]
    effects: Several[Effect]
    reading: Reading = Field(description="a text that has nothing to do with it: a is the base, b the adapter")
    prompt_tokens: float = Field(description="of a request with the prompt, mean")
    saved: float = Field(description="of these, tokens that a request without it does not have")


class Other(NamedTuple):
    """A behaviour that the adapter was not made for, and what it is asked."""

    asked: Asked
    asking: Asking


def weigh(
    model: LocalModel, asked: Asked, adapter: Path, asking: Asking, others: Sequence[Other], log: Log, *,
    setting_of: SettingOf, heard: Callable[[int, int], None] | None = None,
) -> tuple[BeforeAfter, Comparison]:  # fmt: skip
    """Run all four sides and the others, and compare; all share seeds, case by case. Raises InputError."""
    told, bare = asked.loaded, baked(asked.loaded)
    named = [
        Asked(BASE, f"{asked.label} without its prompt", bare),
        Asked(TOLD, asked.label, told),
        Asked(ADAPTER, f"{asked.label} without its prompt, with {adapter.name}", with_adapter(bare, adapter)),
        Asked(BOTH, f"{asked.label} with {adapter.name}", with_adapter(told, adapter)),
    ]
    sides = gather(asking, named, model, log, heard)
    weighed = _weigh(sides, COMPARED, setting_of)
    effects = [_effect(model, other, adapter, log, setting_of, heard) for other in others]
    tuning = model.tuning(Request(messages=(), adapter=(Adapter(path=str(adapter)),)))
    lengths = {side.name: fmean(trace.usage.prompt or 0 for trace in side.traces) for side in sides}
    found = BeforeAfter(
        verdict=weighed[0].verdict, weighed=tuple(weighed), effects=tuple(effects),
        reading=read_text(model, model, None, (model.tuning(Request(messages=())), tuning)),
        prompt_tokens=lengths[TOLD], saved=lengths[TOLD] - lengths[BASE],
    )  # fmt: skip
    comparison = contrast(sides, setting_of=setting_of, separate_too=False)
    return found, comparison.model_copy(update={"notes": (*sentences(found), *comparison.notes)})


def with_adapter(loaded: Loaded, adapter: Path) -> Loaded:
    behaviour = loaded.behaviour
    worn = (*behaviour.adapter, Adapter(path=str(adapter)))
    return loaded._replace(behaviour=behaviour.model_copy(update={"adapter": worn}))


def _effect(
    model: LocalModel, other: Other, adapter: Path, log: Log, setting_of: SettingOf,
    heard: Callable[[int, int], None] | None,
) -> Effect:  # fmt: skip
    asked, asking = other
    adapted = Asked(ADAPTER, f"{asked.label} with {adapter.name}", with_adapter(asked.loaded, adapter))
    sides = gather(asking, [Asked(BASE, asked.label, asked.loaded), adapted], model, log, heard)
    found = contrast(sides, setting_of=setting_of, separate_too=False)
    weighed = _weigh(sides, [(BASE, ADAPTER)], setting_of)
    changed = tuple(pair for pair in found.pairs if pair.kind == "feature" and pair.differs)
    return Effect(
        behaviour=asked.label, cases=asking.cases_from, weighed=weighed[0] if weighed else None, changed=changed
    )


def _weigh(sides: Sequence[Replies], pairs: Sequence[tuple[str, str]], setting_of: SettingOf) -> list[Weighed]:
    """Does a reply pass everything that is asked of it? Nothing, where nothing is asked."""
    measures = measure_checks(sides, questions(sides, ()), setting_of)
    if not measures:
        return []
    passed = {
        side.name: [_all(values) for values in zip(*(measure.values[at] for measure in measures), strict=True)]
        for at, side in enumerate(sides)
    }
    return [_weighed(a, b, passed[a], passed[b], clusters_of(sides[0]), len(pairs)) for a, b in pairs]


def _all(values: Sequence[float | None]) -> float | None:
    return 0.0 if 0.0 in values else None if None in values else 1.0


def _weighed(
    a: str, b: str, one: list[float | None], other: list[float | None], clusters: list[int], claims: int
) -> Weighed:
    found = difference(one, other, clusters, kind="rate", claims=claims)
    better, worse = found.low is not None and found.low > 0, found.high is not None and found.high < 0
    return Weighed(
        a=a, b=b, rate_a=_rate(one), rate_b=_rate(other), difference=found.mean, low=found.low, high=found.high,
        runs=found.pairs, cases=found.clusters,
        verdict="better" if better else "worse" if worse else "no difference shown",
    )  # fmt: skip


def _rate(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def sentences(found: BeforeAfter) -> list[str]:
    """What was found, a sentence each: the verdict first."""
    said = [_sentence(one) for one in found.weighed]
    for effect in found.effects:
        if effect.weighed is not None:
            said.append(f"{effect.behaviour} on {effect.cases}: {_sentence(effect.weighed)}")
        ends = [(one.check, one.a_mean or 0.0, one.b_mean or 0.0) for one in effect.changed]
        moved = [f"{name} {a:.3g} → {b:.3g}" for name, a, b in ends if abs(b - a) >= 0.001]
        said.append(f"{effect.behaviour} on {effect.cases}: {', '.join(moved) or 'no feature surely changed'}")
    reading = found.reading
    if reading.perplexity_a is not None and reading.perplexity_b is not None:
        said.append(f"perplexity of a text: {reading.perplexity_a:.1f} → {reading.perplexity_b:.1f}")
    said.append(f"a request without the prompt has {found.saved:.0f} of {found.prompt_tokens:.0f} tokens less")
    return said


def _sentence(one: Weighed) -> str:
    if one.difference is None or one.low is None or one.high is None:
        return f"{one.b} against {one.a}: could not be measured"
    return (
        f"{one.b} against {one.a}: {one.verdict}; {one.rate_a:.0%} → {one.rate_b:.0%} pass, {one.difference:+.0%} "
        f"({one.low:+.0%} to {one.high:+.0%}; {one.runs} replies of each, {one.cases} cases)"
    )
