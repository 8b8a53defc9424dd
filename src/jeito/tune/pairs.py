"""From a behaviour and its checks to training data: replies that passed, with the instruction kept or baked in.

Cases are split before anything is asked, so what is held out is no case that was learned from. All runs are in the log,
and what it holds is not run again. Knows nothing of tokens or training.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field

from jeito.behaviour.behaviour import Behaviour
from jeito.behaviour.load import Loaded
from jeito.decode.template import placed
from jeito.engines.base import Model
from jeito.errors import InputError
from jeito.proof.checks import EXPECTATIONS, bind
from jeito.proof.plan import CORRECT, Planned, written
from jeito.proof.runs import Asked, Asking, Replies, gather
from jeito.proof.setting import Setting
from jeito.proof.values import Case
from jeito.run.agent import following
from jeito.trace.log import Log
from jeito.tune import data
from jeito.tune.data import Example, Split
from jeito.types import Message, Several, Trace, Value

SettingOf = Callable[[Planned], Setting]
"""What checks may look at beside a reply."""


class Card(Value):
    """What stands beside pairs: where they come from, and what was left out."""

    made: str = Field(description="UTC, ISO 8601")
    behaviour: str | None = Field(default=None, description="as it was typed; none: the data is a user's own")
    behaviour_fingerprint: str | None = None
    baked: bool = Field(default=False, description="was the instruction taken out, with the examples?")
    checks: Several[str] = ()
    models: dict[str, str] = Field(default_factory=dict, description="who replied, with its fingerprint")
    source: str = Field(description="the cases, or the file that was read")
    cases: int = 0
    repeats: int = 0
    seed: int = 0
    share: float = Field(description="of cases that are held out")
    replies: int
    passed: int
    refused: dict[str, int] = Field(default_factory=dict, description="replies that were not kept, by why")
    same: int = Field(default=0, description="that said what another had said")
    without: Several[str] = Field(default=(), description="cases that no reply passed")
    train: int
    held_out: int
    train_cases: int
    held_out_cases: int
    digest: str = Field(description="of both files")


class Collected(NamedTuple):
    """Pairs with their card, and the cases that were held out, whether a reply passed or not."""

    split: Split
    card: Card
    cases: tuple[Case, ...] = ()


def collect(
    asked: Asked, asking: Asking, models: Sequence[Model], log: Log, *, bake: bool, share: float,
    setting_of: SettingOf, heard: Callable[[int, int], None] | None = None,
) -> Collected:  # fmt: skip
    """Ask the first model every case; the next one, a larger, those that no reply passed. Raises InputError.

    A reply is kept if it passes every check of the behaviour, and is what its case expects.
    """
    behaviour = asked.loaded.behaviour
    if not behaviour.checks and not any(case.expect.kinds for case in asking.cases):
        raise InputError(
            f"{asked.label!r} has no checks, and the cases expect nothing: no reply could be told from another",
            hint="checks: [{lists: {numbered: true}, at_least: 0.9}] in the behaviour",
        )
    kept: list[Example] = []
    refused: Counter[str] = Counter()
    replies, left = 0, tuple(asking.cases)
    for model in models if left else ():
        found = gather(asking._replace(cases=left), [asked], model, log, heard)[0]
        passed, why = _passed(found, behaviour, setting_of)
        kept += [_example(trace, case, behaviour, bake=bake) for case, trace in passed]
        refused.update(why)
        replies += len(found.traces)
        good = {case.name for case, _ in passed}
        left = tuple(case for case in left if case.name not in good)
        if not left:
            break
    if not kept:
        raise InputError(
            f"none of {replies} replies passed: {_counted(refused)}", hint="--repeats 8, or --teacher a larger model"
        )
    pairs = data.distinct(kept)
    apart = data.held_out((_group(case) for case in asking.cases), share=share, seed=asking.seed)
    names = {case.name for case in asking.cases if _group(case) in apart}
    split = Split(
        tuple(pair for pair in pairs if pair.case not in names), tuple(pair for pair in pairs if pair.case in names)
    )
    card = Card(
        made=_now(), behaviour=asked.label, behaviour_fingerprint=behaviour.fingerprint(), baked=bake,
        checks=tuple(written(claim) for claim in behaviour.checks), models={m.name: m.fingerprint for m in models},
        source=asking.cases_from, cases=len(asking.cases), repeats=asking.repeats, seed=asking.seed, share=share,
        replies=replies, passed=len(kept), refused=dict(refused), same=len(kept) - len(pairs),
        without=tuple(case.name for case in left), **_counts(split),
    )  # fmt: skip
    return Collected(split, card, tuple(case for case in asking.cases if case.name in names))


def from_chat(path: Path, *, share: float, seed: int) -> Collected:
    """A user's own conversations, told apart and split. Raises InputError that names file and line."""
    found = data.read_chat(path)
    split = data.split(distinct := data.distinct(found), share=share, seed=seed)
    card = Card(
        made=_now(), source=str(path), seed=seed, share=share, replies=len(found), passed=len(found),
        same=len(found) - len(distinct), **_counts(split),
    )  # fmt: skip
    return Collected(split, card)


def save(folder: Path, found: Collected) -> None:
    """The pairs as chat JSONL, what was held out apart, and the card. Raises InputError where it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        data.write(folder / data.TRAIN, found.split.train)
        data.write(folder / data.HELD_OUT, found.split.held_out)
        if found.cases:
            lines = [case.model_dump_json(exclude_defaults=True) + "\n" for case in found.cases]
            (folder / data.CASES).write_text("".join(lines), encoding="utf-8")
        (folder / data.CARD).write_text(found.card.model_dump_json(indent=1), encoding="utf-8")
    except OSError as error:
        raise InputError(f"{str(folder)!r} cannot be written: {error.strerror}", hint="--to another folder") from error


def _passed(
    found: Replies, behaviour: Behaviour, setting_of: SettingOf
) -> tuple[list[tuple[Case, Trace]], Counter[str]]:
    """The replies that pass, and why the others do not: the first thing that each failed at."""
    own, right = ([(claim.name, bind(claim)) for claim in claims] for claims in (behaviour.checks, (CORRECT,)))
    setting, passed, why = setting_of(found.planned), list[tuple[Case, Trace]](), Counter[str]()
    for place, trace in enumerate(found.traces):
        case = found.planned.case_of(place)
        reason = _unfit(trace)
        # A case that expects nothing is judged by the behaviour's checks alone, if there are any.
        checks = own if own and EXPECTATIONS.keys().isdisjoint(case.expect.kinds) else [*own, *right]
        for name, check in checks if reason is None else ():
            verdict = check(trace, case, setting)
            if not verdict.passed:
                reason = name if verdict.passed is False else f"{name}: not measured"
                break
        if reason is None:
            passed.append((case, trace))
        else:
            why[reason] += 1
    return passed, why


def _unfit(trace: Trace) -> str | None:
    """Why a reply teaches nothing good, whatever its checks say."""
    if trace.finish not in ("stop", "tool_calls"):
        return f"ended by {trace.finish}"
    if any(turn.repair for turn in trace.turns):
        return "had to be told what was wrong"
    return None if trace.answer.strip() or trace.calls else "said nothing"


def _example(trace: Trace, case: Case, behaviour: Behaviour, *, bake: bool) -> Example:
    """The conversation of a run; what is learned is what the model said in it, not what it was shown."""
    request = trace.request
    shown = len(request.messages)
    for number, turn in enumerate(trace.turns[:-1]):
        request = following(request, turn, trace.seed, number)
    made = {step.call.id for turn in trace.turns for step in turn.steps}
    last = Message(
        role="assistant", content=trace.answer, calls=tuple(call for call in trace.calls if call.id not in made)
    )
    messages = [*request.messages, last]
    if bake:
        first = 2 * len(behaviour.examples)
        return Example(messages=tuple(messages[first:]), tools=request.tools, case=case.name, given=shown - first)
    told, _ = placed(messages, request.system, request.placement)
    return Example(messages=tuple(told), tools=request.tools, case=case.name, given=shown + len(told) - len(messages))


def baked(loaded: Loaded) -> Loaded:
    """The behaviour without its instruction and its examples: what an adapter has to make up for."""
    behaviour = loaded.behaviour.model_copy(update={"system": "", "examples": ()})
    return loaded._replace(behaviour=behaviour)


def _group(case: Case) -> str:
    """Cases that ask the same stand on one side, whatever they are called."""
    asked = case.prompt if case.prompt is not None else case.messages[-1].content
    return " ".join(asked.split()).casefold()


def _counts(split: Split) -> dict[str, Any]:
    return {
        "train": len(split.train), "held_out": len(split.held_out),
        "train_cases": len({pair.group for pair in split.train}),
        "held_out_cases": len({pair.group for pair in split.held_out}), "digest": data.digest(split),
    }  # fmt: skip


def _counted(refused: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {why}" for why, count in sorted(refused.items(), key=lambda item: -item[1]))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
