from pathlib import Path

import pytest
import yaml

from jeito.behaviour.load import load, names

EXACT = {
    "criativo": {"temperature": 0.9, "top_p": 0.95, "repetition_penalty": 1.0},
    "conservador": {"temperature": 0.3, "top_p": 0.8, "repetition_penalty": 1.2},
    "agente_tecnico": {"temperature": 0.2, "top_p": 0.7, "repetition_penalty": 1.25},
}
AGENTS = {"agente": "agent", "revisor": "reviewer", "equipe": "team"}
TWINS = {"creative": "criativo", "conservative": "conservador", "technical": "agente_tecnico"}


@pytest.mark.parametrize("name", EXACT)
def test_the_three_personalities_set_exactly_these_knobs(name):
    behaviour = load(name).behaviour
    assert behaviour.sampling.model_dump(include=behaviour.sampling.model_fields_set) == EXACT[name]
    assert behaviour.model_fields_set == {"name", "description", "language", "system", "sampling"}
    assert (behaviour.name, behaviour.language) == (name, "pt-BR")
    assert behaviour.system.strip()


@pytest.mark.parametrize("name", TWINS)
def test_a_twin_differs_in_words_alone(name):
    twin, original = load(name), load(TWINS[name]).behaviour
    assert twin.behaviour.sampling == original.sampling
    assert twin.behaviour.sampling.model_fields_set == original.sampling.model_fields_set
    assert (twin.behaviour.name, twin.behaviour.language) == (name, "en")
    assert twin.behaviour.system != original.system
    written = yaml.safe_load(Path(twin.chain[0]).read_text("utf-8"))
    assert written.keys() == {"name", "extends", "description", "language", "system"}
    assert twin.places["sampling.temperature"].file == twin.chain[1]


@pytest.mark.parametrize("name", AGENTS)
def test_an_agent_differs_from_its_english_twin_in_words_and_in_whom_it_asks(name):
    original, twin = load(name).behaviour, load(AGENTS[name]).behaviour
    assert (original.language, twin.language) == ("pt-BR", "en")
    kept = {"sampling", "limits", "tool_choice", "parallel_calls"}
    assert original.model_dump(include=kept) == twin.model_dump(include=kept)
    assert original.system != twin.system
    for behaviour in (original, twin):
        asked = [load(tool.use.partition(":")[2]).behaviour for tool in behaviour.tools if ":" in tool.use]
        assert all(one.language == behaviour.language for one in asked)


def test_plain_is_the_model_as_it_is():
    behaviour = load("plain").behaviour
    assert behaviour.system == ""
    assert behaviour.sampling.model_fields_set == set()
    assert behaviour.needs() == frozenset()


def test_the_judge_can_say_nothing_but_a_letter_and_always_says_the_same():
    behaviour = load("judge").behaviour
    assert behaviour.output.choice == ("A", "B")
    assert behaviour.sampling.temperature == 0


def test_everything_in_the_library_loads_and_describes_itself(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JEITO_HOME", str(tmp_path))
    listed = names()
    assert {*EXACT, *TWINS, *AGENTS, *AGENTS.values(), "judge", "plain"} <= {listing.name for listing in listed}
    for listing in listed:
        assert (listing.where, listing.error) == ("library", None)
        assert listing.description
        assert load(listing.name).behaviour.name == listing.name
