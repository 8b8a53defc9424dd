from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from jeito.behaviour.behaviour import Adapter, Behaviour, Claim, Output, Steering, Tool, is_neutral, tool_file
from jeito.engines.base import SAMPLING_KNOBS
from jeito.errors import BehaviourError
from jeito.types import Dry, Sampling, Xtc

UNREADABLE = "/proc/self/mem"


def test_a_behaviour_refuses_keys_it_does_not_know():
    with pytest.raises(ValidationError):
        Behaviour(temprature=0.2)


def test_a_behaviour_does_not_change():
    with pytest.raises(ValidationError):
        Behaviour().system = "other"


def test_no_top_level_field_is_called_like_a_sampling_knob():
    assert not set(Behaviour.model_fields) & set(Sampling.model_fields)


def test_an_output_has_one_contract_at_most():
    assert Output().kinds() == []
    assert Output(regex="a+", lark=None).kinds() == ["regex"]
    with pytest.raises(ValidationError, match="only one of json_schema, choice"):
        Output(json_schema={}, choice=["a"])


def test_a_tool_is_a_name_or_a_map():
    named, mapped = Behaviour(tools=["shapes.py:area", {"use": "mcp:stdio:x", "permission": "ask", "timeout": 5}]).tools
    assert named == Tool(use="shapes.py:area", permission="allow", timeout=20.0, output=8000)
    assert (mapped.permission, mapped.timeout) == ("ask", 5.0)


def test_a_claim_is_saved_as_it_is_written():
    written = [{"words": {"max": 120}, "at_least": 0.9}, {"language": "pt", "at_least": 1}]
    claims = Behaviour(checks=written).checks
    assert claims[0] == Claim(name="words", value={"max": 120}, at_least=0.9)
    assert (claims[1].name, claims[1].value, claims[1].at_least) == ("language", "pt", 1.0)
    assert Behaviour(checks=written).model_dump(mode="json")["checks"] == written


@pytest.mark.parametrize(
    "claim",
    [
        {"at_least": 0.9},
        {"words": {}, "characters": {}, "at_least": 0.9},
        {"words": {}},
        {"words": {}, "at_least": 0},
        {"words": {}, "at_least": 1.01},
        {"words": {}, "at_least": "0.9"},
        {"no name": {}, "at_least": 0.9},
        "words",
    ],
)
def test_a_claim_that_is_none_is_refused(claim):
    with pytest.raises(ValidationError):
        Behaviour(checks=[claim])


def test_a_saved_behaviour_is_the_same_when_read_again():
    behaviour = Behaviour(
        sampling={"temperature": 1.0, "dry": {"multiplier": 0.8}, "logit_bias": {42: -1}, "stop": ["\n"]},
        tools=["a.py:f"],
        checks=[{"words": {"max": 3}, "at_least": 0.5}],
        output={"choice": ["yes", "no"]},
    )
    again = Behaviour.model_validate_json(behaviour.model_dump_json())
    assert again == behaviour
    assert again.sampling.model_fields_set == {"temperature", "dry", "logit_bias", "stop"}
    assert again.fingerprint() == behaviour.fingerprint()


# --- needs


def test_a_plain_behaviour_needs_nothing():
    assert Behaviour(system="Be brief.").needs() == frozenset()


def test_every_knob_that_is_not_neutral_is_needed():
    different = {"temperature": 0.5, "top_k": 3, "top_p": 0.5, "min_p": 0.1, "top_n_sigma": 1.0, "typical_p": 0.5}
    different |= {"xtc": Xtc(threshold=0.1, probability=0.5), "dry": Dry(multiplier=0.8), "logit_bias": {1: 1.0}}
    different |= {"repetition_penalty": 1.2, "repetition_window": 64, "presence_penalty": 1.0, "frequency_penalty": 1.0}
    different |= {"min_new_tokens": 1, "max_new_tokens": 9, "stop": ("x",), "seed": 0, "exact": True}
    assert set(different) == SAMPLING_KNOBS
    for knob, value in different.items():
        assert Behaviour(sampling=Sampling(**{knob: value})).needs() == {knob}


def test_a_knob_at_its_neutral_value_is_not_needed():
    neutral = {knob: getattr(Sampling(), knob) for knob in SAMPLING_KNOBS}
    assert Behaviour(sampling=Sampling(**neutral)).needs() == frozenset()
    assert is_neutral("dry", Dry(multiplier=0))
    assert is_neutral("xtc", Xtc(threshold=0.1, probability=0))


@pytest.mark.parametrize(
    ("fields", "needs"),
    [
        ({"output": {"regex": "a"}}, {"contract"}),
        ({"output": {}}, set()),
        ({"tools": ["a.py:f"]}, {"tools"}),
        ({"tools": ["a.py:f"], "tool_choice": "required"}, {"tools", "tool_choice"}),
        ({"tools": ["a.py:f"], "parallel_calls": False}, {"tools", "parallel_calls"}),
        ({"requires": {"tools": True}}, {"a place for tools"}),
        ({"adapter": [{"path": "x"}]}, {"adapters"}),
        ({"steering": [{"vector": "x"}]}, {"steering"}),
        ({"reasoning": {"budget": 0}}, {"reasoning.budget"}),
        ({"reasoning": {"show": True}}, {"reasoning.show"}),
        ({"dialect": "hermes"}, {"dialect"}),
        ({"guard": {"repetition": {}}}, {"guard.repetition"}),
        ({"guard": {"empty": "refuse"}}, {"guard.empty"}),
        ({"guard": {"empty": "allow"}}, set()),
        ({"guard": {"repair": 1}}, {"repair"}),
        ({"guard": {"overflow": "drop_oldest"}}, {"overflow"}),
        ({"guard": {"overflow": "error"}}, set()),
    ],
)
def test_each_feature_needs_its_ability(fields, needs):
    assert Behaviour(**fields).needs() == needs


# --- fingerprints

CHANGES = {
    "system": "Be brief.",
    "placement": "user_end",
    "examples": [{"user": "a", "assistant": "b"}],
    "sampling": {"temperature": 0.5},
    "output": {"regex": "a"},
    "tools": ["a.py:f"],
    "dialect": "hermes",
    "limits": {"turns": 1},
    "reasoning": {"budget": 1},
    "guard": {"repair": 1},
    "adapter": [{"path": "x"}],
    "steering": [{"vector": "x"}],
    "tool_choice": "none",
    "parallel_calls": False,
}
SILENCES = {
    "name": "other",
    "description": "other",
    "language": "pt",
    "requires": {"context": 9},
    "checks": [{"a": {}, "at_least": 0.5}],
}


def test_every_field_either_changes_the_fingerprint_or_cannot_change_a_reply():
    assert CHANGES.keys() | SILENCES.keys() == set(Behaviour.model_fields)
    prints = [Behaviour().fingerprint(), *(Behaviour(**{key: value}).fingerprint() for key, value in CHANGES.items())]
    assert len(set(prints)) == len(prints)
    assert {Behaviour(**{key: value}).fingerprint() for key, value in SILENCES.items()} == {Behaviour().fingerprint()}


def test_a_fingerprint_is_sha256_in_hex():
    assert len(Behaviour().fingerprint()) == 64
    assert int(Behaviour().fingerprint(), 16) >= 0


def test_a_knob_set_to_neutral_differs_from_one_left_to_the_model():
    assert Behaviour(sampling={"top_k": 0}).fingerprint() != Behaviour().fingerprint()


def test_whole_numbers_and_decimals_have_one_fingerprint():
    ones = [Behaviour(sampling={"temperature": value}).fingerprint() for value in (1, 1.0)]
    assert ones[0] == ones[1]


def test_the_claims_have_their_own_fingerprint():
    one, other = (Behaviour(system="x", checks=[{"words": {"max": n}, "at_least": 0.5}]) for n in (1, 2))
    assert one.checks_fingerprint() != other.checks_fingerprint()
    assert one.checks_fingerprint() == one.model_copy(update={"system": "y"}).checks_fingerprint()


def test_the_contents_of_named_files_are_in_the_fingerprint_but_not_their_names(tmp_path):
    vector = tmp_path / "one.gguf"
    vector.write_bytes(b"1")
    before = Behaviour(steering=[Steering(vector=str(vector))]).fingerprint()
    moved = vector.rename(tmp_path / "two.gguf")
    assert Behaviour(steering=[Steering(vector=str(moved))]).fingerprint() == before
    moved.write_bytes(b"2")
    assert Behaviour(steering=[Steering(vector=str(moved))]).fingerprint() != before


def test_an_adapter_folder_is_fingerprinted_with_everything_in_it(tmp_path):
    folder = tmp_path / "adapter"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "weights").write_bytes(b"1")
    prints = [Behaviour(adapter=[Adapter(path=str(folder))]).fingerprint()]
    (folder / "config").write_bytes(b"")
    prints.append(Behaviour(adapter=[Adapter(path=str(folder))]).fingerprint())
    (folder / "deep" / "weights").write_bytes(b"2")
    prints.append(Behaviour(adapter=[Adapter(path=str(folder))]).fingerprint())
    assert len(set(prints)) == 3


def test_a_tool_file_that_changes_changes_the_fingerprint(tmp_path):
    file = tmp_path / "shapes.py"
    file.write_text("def area(): ...\ndef side(): ...\n")
    area, side = (Behaviour(tools=[f"{file}:{function}"]).fingerprint() for function in ("area", "side"))
    file.write_text("def area(): return 1\n")
    assert len({area, side, Behaviour(tools=[f"{file}:area"]).fingerprint()}) == 3


@pytest.mark.skipif(not Path(UNREADABLE).exists(), reason="no file here that even root cannot read")
def test_a_named_file_that_cannot_be_read_is_said():
    with pytest.raises(BehaviourError, match=f"'{UNREADABLE}' cannot be read"):
        Behaviour(steering=[Steering(vector=UNREADABLE)]).fingerprint()


def test_a_tool_names_a_file_or_none():
    assert tool_file("a/shapes.py:area") == ("a/shapes.py", ":area")
    assert tool_file("./other.yaml") == ("./other.yaml", "")
    for none in ("technical", "mcp:stdio:python server.py:main", "mcp:stdio:run it.yaml"):
        assert tool_file(none) == ("", none)


@settings(deadline=None)
@given(st.text())
def test_any_tool_name_is_split_without_loss(use):
    assert "".join(tool_file(use)) == use
