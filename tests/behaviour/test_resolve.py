from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jeito.behaviour.behaviour import Behaviour
from jeito.behaviour.load import Loaded, load
from jeito.behaviour.resolve import Resolved, request, resolve
from jeito.engines.base import SAMPLING_KNOBS
from jeito.errors import InputError, ModelError, UnsupportedError
from jeito.types import Message, Sampling, Sourced

EVERYTHING = SAMPLING_KNOBS | {
    "contract", "tools", "tool_choice", "parallel_calls", "adapters", "steering", "reasoning.budget", "reasoning.show",
    "guard.repetition", "guard.empty", "repair", "overflow",
}  # fmt: skip


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JEITO_HOME", str(tmp_path / "home"))
    return tmp_path


def settle(behaviour: Behaviour | Loaded | None = None, **given) -> Resolved:
    loaded = behaviour if isinstance(behaviour, Loaded) else Loaded(behaviour or Behaviour())
    return resolve(loaded, **{"defaults": {}, "abilities": EVERYTHING, "seed": 7} | given)


def from_model(**knobs) -> dict[str, Sourced]:
    return {
        knob: Sourced(value=value, source="model", file="generation_config.json", line=3)
        for knob, value in knobs.items()
    }


# --- where values come from


def test_each_value_comes_from_the_highest_that_sets_it(here):
    Path("a.yaml").write_text("sampling:\n  top_k: 20\n  top_p: 0.7\n")
    loaded = load("a.yaml", ["top_p=0.6"])
    defaults = from_model(top_k=50, top_p=0.9, temperature=0.6)
    resolved = settle(loaded, defaults=defaults)
    assert resolved.values["top_p"] == Sourced(value=0.6, source="flag")
    assert resolved.values["top_k"] == Sourced(value=20, source="behaviour", file="a.yaml", line=2)
    assert resolved.values["temperature"] == defaults["temperature"]
    assert resolved.values["min_p"] == Sourced(value=0.0, source="neutral")
    assert resolved.sampling == Sampling(temperature=0.6, top_k=20, top_p=0.6, seed=7)


def test_a_behaviour_that_sets_a_knob_to_neutral_overrides_the_model(here):
    resolved = settle(load("plain+top_k=0"), defaults=from_model(top_k=50))
    assert resolved.sampling.top_k == 0
    assert resolved.values["top_k"].source == "flag"


def test_a_parents_line_is_in_the_receipt(here):
    loaded = load("technical")
    value = settle(loaded).values["repetition_penalty"]
    assert (value.value, value.file) == (1.25, loaded.chain[1])
    assert "repetition_penalty: 1.25" in Path(value.file).read_text("utf-8").splitlines()[value.line - 1]


def test_the_receipt_has_every_knob_and_what_a_reader_always_asks_for():
    values = settle().values
    assert values.keys() == SAMPLING_KNOBS | {"system", "placement", "language", "guard.overflow"}
    assert {value.source for name, value in values.items() if name != "seed"} == {"neutral"}


def test_a_map_of_a_knob_is_told_leaf_by_leaf(here):
    Path("a.yaml").write_text("sampling:\n  dry:\n    multiplier: 0.5\n")
    values = settle(load("a.yaml", ["dry.base=2"])).values
    assert "dry" not in values
    assert values["dry.multiplier"] == Sourced(value=0.5, source="behaviour", file="a.yaml", line=3)
    assert values["dry.base"] == Sourced(value=2.0, source="flag")
    assert values["dry.allowed_length"] == Sourced(value=2, source="neutral")


def test_what_acts_beside_sampling_is_told_too(here):
    Path("a.yaml").write_text(
        "system: hi\ntools: [a.py:f]\nguard:\n  repair: 1\nlimits: {tokens: 9}\noutput: {regex: a}\n"
    )
    values = settle(load("a.yaml", ["guard.overflow=drop_oldest"])).values
    assert values["system"] == Sourced(value="hi", source="behaviour", file="a.yaml", line=1)
    assert values["guard.repair"] == Sourced(value=1, source="behaviour", file="a.yaml", line=4)
    assert values["guard.overflow"] == Sourced(value="drop_oldest", source="flag")
    assert values["limits.tokens"] == Sourced(value=9, source="behaviour", file="a.yaml", line=5)
    assert values["limits.turns"] == Sourced(value=8, source="neutral")
    assert values["tool_choice"] == Sourced(value="auto", source="neutral")
    assert (values["tools"].line, values["output"].line) == (2, 6)
    assert not {"limits.seconds", "adapter", "reasoning.budget", "guard.repetition"} & values.keys()


def test_a_flag_inside_a_map_makes_the_whole_map_the_flags(here):
    Path("a.yaml").write_text("guard: {repetition: {tokens: 8}}\n")
    value = settle(load("a.yaml", ["guard.repetition.times=3"])).values["guard.repetition"]
    assert value == Sourced(value={"action": "stop", "tokens": 8, "times": 3}, source="flag")


def test_a_behaviour_made_in_python_has_no_file_but_is_still_the_source():
    values = settle(Behaviour(system="hi", sampling={"temperature": 1.0}, guard={"overflow": "error"})).values
    assert values["system"] == Sourced(value="hi", source="behaviour")
    assert values["temperature"] == Sourced(value=1.0, source="behaviour")
    assert values["guard.overflow"].source == "behaviour"
    assert values["top_p"].source == "neutral"


@pytest.mark.parametrize("bad", [{"temperature": "hot"}, {"top_k": -1}, {"unknown": 1}, {"stop": [""]}])
def test_a_bad_default_of_a_model_is_the_models_fault_and_names_its_file(bad):
    with pytest.raises(ModelError, match=rf"generation_config.json gives {next(iter(bad))} = ") as caught:
        settle(defaults=from_model(**bad))
    assert "--set" in caught.value.hint


def test_a_bad_default_that_is_overridden_does_no_harm():
    assert settle(Behaviour(sampling={"top_k": 3}), defaults=from_model(top_k=-1)).sampling.top_k == 3


# --- seeds


def test_the_callers_seed_wins_then_the_behaviours_then_one_is_drawn():
    behaviour = Behaviour(sampling={"seed": 3})
    asked, own, drawn = settle(behaviour, seed=0), settle(behaviour, seed=None), settle(seed=None)
    assert asked.values["seed"] == Sourced(value=0, source="flag")
    assert own.values["seed"] == Sourced(value=3, source="behaviour")
    assert drawn.values["seed"] == Sourced(value=drawn.sampling.seed, source="drawn")
    assert [each.sampling.seed for each in (asked, own)] == [0, 3]


def test_drawn_seeds_differ_and_fit_31_bits():
    seeds = {settle(seed=None).sampling.seed for _ in range(20)}
    assert len(seeds) > 15
    assert all(0 <= seed < 2**31 for seed in seeds)


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_out_of_range_is_refused(seed):
    with pytest.raises(InputError, match=f"not {seed}"):
        settle(seed=seed)


def test_a_drawn_seed_needs_no_ability_but_the_receipt_says_that_it_does_nothing():
    resolved = settle(seed=None, abilities=EVERYTHING - {"seed"})
    assert resolved.sampling.seed is not None
    assert any("takes no seed" in sentence for sentence in resolved.unsupported)


def test_an_asked_seed_needs_the_ability():
    with pytest.raises(UnsupportedError, match="seed=7"):
        settle(abilities=EVERYTHING - {"seed"})


# --- what a model cannot do

DEMANDING = Behaviour(
    sampling={"temperature": 0.5, "top_n_sigma": 1.0, "dry": {"multiplier": 1.0}},
    output={"regex": "a"},
    tools=["a.py:f"],
    tool_choice="required",
    adapter=[{"path": "x"}],
    steering=[{"vector": "x"}],
    reasoning={"budget": 1, "show": True},
    guard={"repetition": {}, "repair": 2, "overflow": "drop_oldest", "empty": "refuse"},
)


def test_all_that_a_model_lacks_is_named_at_once():
    with pytest.raises(UnsupportedError) as caught:
        settle(DEMANDING, abilities=frozenset({"temperature", "seed"}))
    assert str(caught.value) == (
        "this model cannot honour adapters, contract, dry, guard.empty, guard.repetition, overflow, "
        "reasoning.budget, reasoning.show, repair, steering, tool_choice, tools, top_n_sigma=1.0"
    )
    assert "--allow-unsupported" in caught.value.hint


def test_what_is_allowed_to_be_unsupported_is_left_out_and_said():
    resolved = settle(DEMANDING, abilities=frozenset({"temperature", "seed"}), allow_unsupported=True)
    assert resolved.sampling == Sampling(temperature=0.5, seed=7)
    assert resolved.behaviour.needs() == {"temperature"}
    assert resolved.behaviour.tool_choice == "auto"
    assert not resolved.behaviour.reasoning.show
    assert len(resolved.unsupported) == 13
    assert "this model cannot honour top_n_sigma=1.0" in resolved.unsupported
    assert resolved.values["top_n_sigma"] == Sourced(value=0.0, source="neutral")
    assert resolved.values["dry"] == Sourced(value=None, source="neutral")
    assert resolved.values["guard.overflow"] == Sourced(value="error", source="neutral")
    assert not {"tools", "output", "adapter", "steering", "guard.repair"} & resolved.values.keys()


def test_a_guard_that_is_half_supported_keeps_that_half():
    without = settle(DEMANDING, abilities=EVERYTHING - {"guard.repetition"}, allow_unsupported=True).behaviour.guard
    assert (without.repetition, without.empty, without.repair, without.overflow) == (None, "refuse", 2, "drop_oldest")
    without = settle(DEMANDING, abilities=EVERYTHING - {"repair"}, allow_unsupported=True).behaviour.guard
    assert (without.repetition, without.empty, without.repair) == (DEMANDING.guard.repetition, "refuse", 0)
    without = settle(DEMANDING, abilities=EVERYTHING - {"overflow"}, allow_unsupported=True).behaviour.guard
    assert (without.repetition, without.repair, without.overflow) == (DEMANDING.guard.repetition, 2, "error")


def test_a_default_of_the_model_that_it_cannot_honour_is_named_too():
    with pytest.raises(UnsupportedError, match="top_k=50"):
        settle(defaults=from_model(top_k=50), abilities=EVERYTHING - {"top_k"})


def test_a_knob_at_its_neutral_value_is_honoured_by_any_model():
    behaviour = Behaviour(sampling={"min_p": 0, "dry": {"multiplier": 0}, "repetition_penalty": 1})
    resolved = settle(behaviour, abilities=frozenset({"seed"}))
    assert resolved.unsupported == ()
    assert resolved.values["min_p"].source == "behaviour"


def test_a_context_that_is_too_small_is_refused_with_both_numbers():
    behaviour = Behaviour(requires={"context": 4096})
    with pytest.raises(UnsupportedError, match=r"requires a context of 4096 tokens, and this model has 2048"):
        settle(behaviour, context=2048)
    assert settle(behaviour, context=4096).unsupported == ()
    assert settle(behaviour, context=None).unsupported == ()
    assert "2048" in settle(behaviour, context=2048, allow_unsupported=True).unsupported[0]


@settings(deadline=None)
@given(st.frozensets(st.sampled_from(sorted(EVERYTHING))))
def test_what_is_left_needs_no_more_than_the_model_can(abilities):
    resolved = settle(DEMANDING, abilities=abilities, seed=None, allow_unsupported=True)
    assert resolved.behaviour.needs() <= abilities
    assert Behaviour(sampling=resolved.sampling).needs() <= abilities | {"seed"}
    assert len(resolved.unsupported) == len(DEMANDING.needs() - abilities) + ("seed" not in abilities)


# --- requests


def test_a_request_puts_examples_then_history_then_the_ask():
    behaviour = Behaviour(
        system="s", placement="user_end", examples=[{"user": "e", "assistant": "f"}], guard={"overflow": "drop_oldest"}
    )
    history = [Message(role="user", content="h"), Message(role="assistant", content="i")]
    resolved = settle(behaviour)
    made = request(resolved, "a", history, logprobs=3)
    assert [(turn.role, turn.content) for turn in made.messages] == [
        ("user", "e"),
        ("assistant", "f"),
        ("user", "h"),
        ("assistant", "i"),
        ("user", "a"),
    ]
    assert (made.system, made.placement, made.drop_oldest, made.logprobs) == ("s", "user_end", True, 3)
    assert made.sampling == resolved.sampling


def test_an_ask_may_be_whole_turns():
    turns = (Message(role="user", content="a"), Message(role="tool", content="", call_id="1"))
    assert request(settle(), turns).messages == turns


@pytest.mark.parametrize("ask", ["", " \n\t", [], [Message(role="user", content=" ")]])
def test_an_empty_prompt_is_refused(ask):
    with pytest.raises(InputError, match="the prompt is empty") as caught:
        request(settle(), ask)
    assert caught.value.hint


def test_a_prompt_that_is_no_text_is_refused():
    with pytest.raises(InputError, match="not text"):
        request(settle(), "a\udcff")


def test_logprobs_out_of_range_are_refused():
    with pytest.raises(InputError, match="not 101"):
        request(settle(), "a", logprobs=101)
