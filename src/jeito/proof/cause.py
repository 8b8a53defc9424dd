"""Which line or knob makes the difference? Each is switched alone, on the same cases and seeds. Runs nothing itself."""

from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from typing import Any, NamedTuple

from jeito.behaviour.behaviour import SILENT, Behaviour, Claim
from jeito.behaviour.load import Loaded
from jeito.errors import InputError
from jeito.proof.compare import Meaning, paired
from jeito.proof.comparison import Cause, Part
from jeito.proof.measured import SettingOf, measure_checks, measure_features, of_planned, questions
from jeito.proof.plan import ALPHA
from jeito.proof.runs import Asked, Replies
from jeito.types import Sampling

UNSET = "(the model's own)"
NOTHING = "(nothing)"
_APART = frozenset({"system", "sampling"}) | SILENT
"""Not switched whole: these go line by line and knob by knob, or change no reply."""
_KNOBS_APART = frozenset({"seed", "exact"})
"""A plan decides these."""


class Switched(NamedTuple):
    """A behaviour with one thing as another has it."""

    name: str
    before: str
    after: str
    loaded: Loaded


def switch_each(first: Loaded, second: Loaded) -> list[Switched]:
    """The first behaviour once for each line or knob that differs, that one alone as the second has it.

    Of a system prompt each line that only one of them has is taken out or put in; where these are several, it is
    switched as a whole too. Raises InputError where nothing differs that could change a reply.
    """
    found = [*_knobs(first, second), *_lines(first, second), *_keys(first, second)]
    if not found:
        raise InputError(
            f"{first.behaviour.name!r} and {second.behaviour.name!r} do not differ in anything that changes a reply",
            hint="two behaviours that differ: -b technical -b technical+repetition_penalty=1.0",
        )
    return found


def as_asked(label: str, switched: Sequence[Switched]) -> list[Asked]:
    """What is to be run to find a cause, beside the two sides."""
    return [Asked(one.name, f"{label} with {one.name} {one.after}", one.loaded) for one in switched]


def find_cause(
    first: Replies, second: Replies, switched: Sequence[Switched], replies: Sequence[Replies],
    claims: Sequence[Claim] = (), *, setting_of: SettingOf = of_planned, meaning: Meaning = "cases like these",
    alpha: float = ALPHA,
) -> Cause:  # fmt: skip
    """What each switch alone changed, beside what all together did; `replies` are those of `switched`, in order.

    By the checks that there are, else by features. All intervals of parts hold at once.
    """
    sides = [first, second, *replies]
    asked = questions(sides[:2], claims)
    measures = measure_checks(sides, asked, setting_of) if asked else measure_features(sides)
    total = paired(
        sides[:2], [one._replace(values=one.values[:2]) for one in measures], meaning=meaning, alpha=alpha
    )  # fmt: skip
    alone = [one._replace(values=[one.values[0], *one.values[2:]]) for one in measures]
    pairs = paired([first, *replies], alone, meaning=meaning, alpha=alpha, against_first=True)
    parts = tuple(
        Part(
            name=one.name, before=one.before, after=one.after, plan=side.planned.plan.digest,
            pairs=tuple(pair for pair in pairs if pair.b == side.name),
        )
        for one, side in zip(switched, replies, strict=True)
    )  # fmt: skip
    named = {
        measure.name: tuple(
            pair.b
            for pair in sorted(pairs, key=lambda pair: -abs(pair.difference or 0))
            if pair.check == measure.name and pair.differs
        )
        for measure in measures
    }
    return Cause(a=first.name, b=second.name, total=tuple(total), parts=parts, named=named)


def _knobs(first: Loaded, second: Loaded) -> Iterator[Switched]:
    one, other = first.behaviour.sampling, second.behaviour.sampling
    for knob in Sampling.model_fields:
        is_set = knob in other.model_fields_set
        if knob in _KNOBS_APART or (_said(one, knob), knob in one.model_fields_set) == (_said(other, knob), is_set):
            continue
        kept = {name: getattr(one, name) for name in one.model_fields_set - {knob}}
        if is_set:
            kept[knob] = getattr(other, knob)
        name = f"sampling.{knob}"
        yield Switched(name, _said(one, knob), _said(other, knob), _with(first, name, "sampling", Sampling(**kept)))


def _said(sampling: Sampling, knob: str) -> str:
    return f"{getattr(sampling, knob)}" if knob in sampling.model_fields_set else UNSET


def _lines(first: Loaded, second: Loaded) -> Iterator[Switched]:
    ours, theirs = (one.behaviour.system.splitlines(keepends=True) for one in (first, second))
    switched = []

    def switch(name: str, before: str, after: str, lines: Sequence[str]) -> None:
        made = _with(first, "system", "system", "".join(lines))
        switched.append(Switched(name, before.strip() or NOTHING, after.strip() or NOTHING, made))

    for _, a, b, c, d in SequenceMatcher(None, ours, theirs, autojunk=False).get_opcodes():
        if ours[a:b] != theirs[c:d]:
            for at in range(a, b):
                switch(f"system line {at + 1}", ours[at], "", ours[:at] + ours[at + 1 :])
            for at in range(c, d):
                switch(f"other system line {at + 1}", "", theirs[at], [*ours[:a], theirs[at], *ours[a:]])
    if len(switched) > 1:
        switch("system", "".join(ours), "".join(theirs), theirs)
    yield from switched


def _keys(first: Loaded, second: Loaded) -> Iterator[Switched]:
    for key in Behaviour.model_fields:
        before, after = getattr(first.behaviour, key), getattr(second.behaviour, key)
        if key not in _APART and before != after:
            yield Switched(key, f"{before}", f"{after}", _with(first, key, key, after))


def _with(loaded: Loaded, path: str, key: str, value: Any) -> Loaded:
    changed = loaded.behaviour.model_copy(update={key: value})
    return loaded._replace(behaviour=changed, flags=loaded.flags | {path})
