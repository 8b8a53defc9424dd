"""What can be said of each reply of several sides, in rows that statistics take. Knows no statistics."""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from jeito.behaviour.behaviour import Claim
from jeito.proof.checks import UNDONE, bind
from jeito.proof.features import FEATURES, features
from jeito.proof.plan import CORRECT, Planned, asked
from jeito.proof.runs import Replies
from jeito.proof.setting import Setting
from jeito.proof.values import Case

Kind = Literal["check", "feature"]
SettingOf = Callable[[Planned], Setting]


class Measure(NamedTuple):
    """A check or a feature: `values[side][place]`, none where it could not be measured. A check gives 1 or 0."""

    name: str
    kind: Kind
    values: list[list[float | None]]
    claim: Claim | None = None


def of_planned(planned: Planned) -> Setting:
    """What checks may look at where no model may be asked."""
    return Setting(language=planned.behaviour.language, cases=planned.cases)


def questions(sides: Sequence[Replies], claims: Sequence[Claim]) -> list[Claim]:
    """What is asked of every side: these claims, what any behaviour claims itself, and to be right where cases say so.

    One check with one set of keywords is asked once.
    """
    own = [claim for side in sides for claim in side.planned.behaviour.checks]
    right = [CORRECT] if any(case.expect.kinds for case in sides[0].planned.cases) else []
    return list({asked(claim): claim for claim in [*right, *own, *claims]}.values())


def measure_checks(sides: Sequence[Replies], claims: Sequence[Claim], setting_of: SettingOf) -> list[Measure]:
    """Every claim's check on every reply."""
    settings = [setting_of(side.planned) for side in sides]
    found = []
    for claim in claims:
        check = bind(claim)
        values = [
            [
                None if (passed := check(trace, case, setting).passed) is None else float(passed)
                for trace, case in zip(side.traces, cases_of(side), strict=True)
            ]
            for side, setting in zip(sides, settings, strict=True)
        ]
        found.append(Measure(asked(claim), "check", values, claim))
    return found


def measure_features(sides: Sequence[Replies]) -> list[Measure]:
    """Every feature of every reply; of a run that failed there is none."""
    rows = [
        [
            dict.fromkeys(FEATURES) if trace.finish is None or trace.finish in UNDONE else features(trace)
            for trace in side.traces
        ]
        for side in sides
    ]
    return [Measure(name, "feature", [[row[name] for row in side] for side in rows]) for name in FEATURES]


def cases_of(side: Replies) -> list[Case]:
    """The case of each place."""
    return [side.planned.case_of(place) for place in range(side.planned.plan.runs)]


def clusters_of(side: Replies) -> list[int]:
    """The number of the case of each place."""
    return [place // side.planned.plan.repeats for place in range(side.planned.plan.runs)]
