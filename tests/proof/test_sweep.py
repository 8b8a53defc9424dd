"""Knobs along their values: on the toy, whose replies are a function of prompt and seed."""

from pathlib import Path
from typing import Any

import pytest

from jeito.behaviour.behaviour import Claim
from jeito.decode.local import LocalModel
from jeito.errors import BehaviourError, InputError
from jeito.proof.plan import find
from jeito.proof.runs import Asking
from jeito.proof.sweep import Curve, Sweep, ask_each, grid, read_axis, sweep
from jeito.proof.values import Case
from jeito.trace import plans
from jeito.trace.log import Log

LABEL = "plain+max_new_tokens=60"


def short(at_least: float) -> Claim:
    return Claim(name="characters", value={"max": 20}, at_least=at_least)


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path / "log.db")


def swept(model: LocalModel, log: Log, *over: str, claims: Any = (), count: int = 16, repeats: int = 1) -> Sweep:
    cases = [Case(name=f"case {n}", prompt=f"say {n}") for n in range(count)]
    return sweep(LABEL, [read_axis(one) for one in over], Asking(cases, "", repeats, 3), model, log, claims)


def curve(found: Sweep, check: str) -> Curve:
    (one,) = [curve for curve in found.curves if curve.check == check]
    return one


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("temperature=0.1:2.0:6", (0.1, 0.48, 0.86, 1.24, 1.62, 2.0)),
        ("temperature=0:1:3", (0.0, 0.5, 1.0)),
        ("top_k=1:100:4", (1, 34, 67, 100)),
        ("max_new_tokens=1:3:5", (1, 2, 3)),
        ("top_k=100,1,10,1", (1, 10, 100)),
        ("placement=user_end,system", ("user_end", "system")),
    ],
)
def test_an_axis_is_what_its_range_says(text: str, values: tuple[Any, ...]) -> None:
    found = read_axis(text)
    assert found.values == values
    assert [type(value) for value in found.values] == [type(value) for value in values]


@pytest.mark.parametrize(
    "text",
    ["temperature", "temperature=", "=1:2:3", "temperature=2:1:3", "temperature=1:1:3", "temperature=1:2:1",
     "temperature=a:b:3", "temperature=1:2:x", "temperature=nan:2:3", "temperature=0.5", "top_k=1,1", "top_k=,"],
)  # fmt: skip
def test_a_range_with_nothing_in_it_is_refused(text: str) -> None:
    with pytest.raises(InputError) as refused:
        read_axis(text)
    assert "--over" in refused.value.hint


def test_a_knob_that_there_is_not_and_one_that_is_there_twice_are_refused() -> None:
    with pytest.raises(BehaviourError, match="temprature"):
        ask_each("plain", grid([read_axis("temprature=0:1:2")]))
    with pytest.raises(BehaviourError, match="top_p"):
        ask_each("plain", grid([read_axis("top_p=0.5:1.5:3")]))
    with pytest.raises(InputError, match="twice"):
        grid([read_axis("top_k=1,2"), read_axis("top_k=3,4")])
    with pytest.raises(InputError, match="1000"):
        grid([read_axis("temperature=0:1:100"), read_axis("top_p=0.1:1:11")])


def test_every_point_has_the_same_seeds_and_a_plan_that_holds_its_runs(babbler: LocalModel, log: Log) -> None:
    found = swept(babbler, log, "temperature=0.5:1.5:3", count=4, repeats=2)
    seeds = []
    for digest in found.plans:
        plan = find(log, digest)
        assert plan is not None
        runs = [plans.run_at(log, digest, place) for place in range(8)]
        seeds.append([one.seed for one in runs if one])
    assert seeds[0] == seeds[1] == seeds[2]
    assert len(set(seeds[0])) == 8
    assert len(set(found.plans)) == 3


def test_a_curve_follows_its_knob_and_its_band_holds_the_mean(babbler: LocalModel, log: Log) -> None:
    found = swept(babbler, log, "max_new_tokens=4,16,60", claims=[short(0.5)])
    tokens = curve(found, "tokens")
    assert [point.at for point in tokens.points] == [{"max_new_tokens": count} for count in (4, 16, 60)]
    means = [point.mean for point in tokens.points]
    assert means == sorted(means, key=lambda mean: mean or 0)
    assert means[0] == 4
    for one in found.curves:
        for point in one.points:
            if point.low is not None and point.mean is not None and point.high is not None:
                assert point.low <= point.mean <= point.high, one.check
    passed = curve(found, 'characters {"max": 20}')
    assert (passed.at_least, tokens.at_least) == (0.5, None)
    assert passed.points[0].mean == 1


def test_the_plateau_is_the_widest_stretch_where_the_claims_hold(babbler: LocalModel, log: Log) -> None:
    over = "max_new_tokens=2,4,6,60"
    shown = swept(babbler, log, over, claims=[short(0.5)]).plateau
    assert shown is not None
    assert (shown.low, shown.high) == ({"max_new_tokens": 2}, {"max_new_tokens": 6})
    assert (shown.middle, shown.points, shown.shown) == ({"max_new_tokens": 4}, 3, True)
    # Sixteen cases cannot show 0.95, but it was seen.
    seen = swept(babbler, log, over, claims=[short(0.95)]).plateau
    assert seen is not None
    assert (seen.points, seen.shown) == (3, False)
    assert (
        swept(babbler, log, over, claims=[Claim(name="characters", value={"min": 5000}, at_least=0.5)]).plateau is None
    )
    assert swept(babbler, log, over).plateau is None, "nothing is claimed"


def test_a_point_where_nothing_can_be_measured_knows_nothing(babbler: LocalModel, log: Log) -> None:
    varied = Claim(name="distinct", value={"min": 0.0}, at_least=0.5)
    found = curve(swept(babbler, log, "max_new_tokens=1,60", claims=[varied]), 'distinct {"min": 0.0}').points[0]
    assert (found.mean, found.unmeasured, found.n) == (None, 16, 16)
    assert found.low is not None
    assert found.high is not None
    assert found.low < 0.1 < 0.9 < found.high


def test_a_plateau_is_not_where_most_could_not_be_measured(babbler: LocalModel, log: Log, tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text("def odd(trace):\n    return True if len(trace.answer) % 2 else None, 'even'\n")
    claim = Claim(name=f"{file}:odd", value=True, at_least=0.9)
    found = swept(babbler, log, "max_new_tokens=30,60", claims=[claim])
    points = curve(found, f"{file}:odd").points
    assert all(point.mean == 1 and 0 < point.unmeasured < point.n for point in points)
    assert found.plateau is None


def test_a_grid_has_every_value_with_every_other(babbler: LocalModel, log: Log) -> None:
    found = swept(babbler, log, "max_new_tokens=4,60", "temperature=0.5,1.0", claims=[short(0.5)], count=12)
    points = [tuple(point.at.values()) for point in found.curves[0].points]
    assert points == [(4, 0.5), (4, 1.0), (60, 0.5), (60, 1.0)]
    assert found.plateau is not None
    assert found.plateau.low == {"max_new_tokens": 4, "temperature": 0.5}
    assert found.plateau.high == {"max_new_tokens": 4, "temperature": 1.0}


def test_words_are_an_axis_in_the_order_in_which_they_were_given(babbler: LocalModel, log: Log) -> None:
    found = swept(
        babbler, log, "placement=user_end,system", claims=[Claim(name="words", value={"min": 0}, at_least=0.5)]
    )
    assert found.plateau is not None
    assert (found.plateau.low, found.plateau.high) == ({"placement": "user_end"}, {"placement": "system"})
