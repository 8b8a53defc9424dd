"""A behaviour in another program's words: all of it, or a note that says what is lost."""

import json
import re
import shlex
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from jeito.behaviour.behaviour import Behaviour
from jeito.behaviour.export import Export, export
from jeito.behaviour.load import load
from jeito.behaviour.targets import targets
from jeito.errors import BehaviourError, InputError
from jeito.run.tools import open_tools
from jeito.types import Sampling

TARGETS = targets()
COMMENTED = ("ollama", "vllm", "llama-server", "compose", "kubernetes")
SCHEMA = {"type": "object", "properties": {"area": {"type": "number"}}, "required": ["area"]}
# A value for every key, one that is not neutral; what only comes with another brings it along.
SAID: dict[str, Any] = {
    "name": "measurer",
    "description": "Measures shapes",
    "language": "pt-BR",
    "system": "You measure shapes.",
    "placement": {"system": "You measure shapes.", "placement": "user_end"},
    "examples": [{"user": "A circle?", "assistant": "Round."}],
    "output.json_schema": SCHEMA,
    "output.regex": "[0-9]+",
    "output.choice": ["yes", "no"],
    "output.lark": "start: /[0-9]+/",
    "tools": ["calculator"],
    "tool_choice": {"tools": ["calculator"], "tool_choice": "required"},
    "parallel_calls": {"tools": ["calculator"], "parallel_calls": False},
    "dialect": "hermes",
    "limits.turns": 3,
    "limits.calls": 2,
    "limits.tokens": 900,
    "limits.seconds": 30.0,
    "reasoning.budget": 64,
    "reasoning.show": True,
    "guard.repetition": {"tokens": 24, "times": 4},
    "guard.overflow": "drop_oldest",
    "guard.empty": "refuse",
    "guard.repair": 2,
    "adapter": [{"path": "terse.gguf", "scale": 0.5}],
    "steering": [{"vector": "formal.gguf", "scale": 0.6}],
    "requires.context": 4096,
    "requires.tools": True,
    "checks": [{"words": {"max": 120}, "at_least": 0.9}],
    "sampling.temperature": 0.3,
    "sampling.top_k": 20,
    "sampling.top_p": 0.7,
    "sampling.min_p": 0.05,
    "sampling.top_n_sigma": 1.5,
    "sampling.typical_p": 0.9,
    "sampling.xtc": {"threshold": 0.1, "probability": 0.5},
    "sampling.repetition_penalty": 1.25,
    "sampling.repetition_window": 64,
    "sampling.presence_penalty": 0.5,
    "sampling.frequency_penalty": -0.5,
    "sampling.dry": {"multiplier": 0.8, "window": 256, "breakers": ["\n"]},
    "sampling.logit_bias": {"42": -2.5},
    "sampling.min_new_tokens": 3,
    "sampling.max_new_tokens": 99,
    "sampling.stop": ["END"],
    "sampling.seed": 7,
    "sampling.exact": True,
}


def behaviour(**keys: Any) -> Behaviour:
    return Behaviour.model_validate_json(json.dumps(keys))


def saying(path: str) -> Behaviour:
    above, _, leaf = path.rpartition(".")
    value = SAID[path]
    if path in ("placement", "tool_choice", "parallel_calls"):
        return behaviour(**value)
    return behaviour(**({above: {leaf: value}} if above else {leaf: value}))


def keys() -> set[str]:
    """Every key of a behaviour, those of its maps one by one."""
    maps = {"output"} | {key for key, value in Behaviour() if isinstance(value, BaseModel)}
    inner = {key: type(getattr(Behaviour(), key)) for key in maps - {"output"}} | {
        "output": type(behaviour(output={"regex": "a"}).output)
    }
    return (set(Behaviour.model_fields) - maps) | {f"{key}.{part}" for key in maps for part in inner[key].model_fields}


def without_comments(made: Export) -> str:
    return "\n".join(line for line in made.text.splitlines() if not line.startswith("#"))


def command(made: Export) -> tuple[list[str], dict[str, Any]]:
    """The words that start a server, and the body of the request after them, as a shell reads them."""
    words = shlex.split(made.text.replace("\\\n", ""), comments=True)
    at = words.index("curl")
    return words[:at], json.loads(words[words.index("-d") + 1])


def flag(words: list[str], name: str) -> str:
    return words[words.index(name) + 1]


# --- nothing is dropped


def test_there_is_a_value_here_for_every_key_of_a_behaviour() -> None:
    assert set(SAID) == keys()
    assert {path.removeprefix("sampling.") for path in SAID if path.startswith("sampling.")} == set(
        Sampling.model_fields
    )


@pytest.mark.parametrize("to", TARGETS)
@pytest.mark.parametrize("path", SAID)
def test_every_key_is_in_the_output_or_in_a_note(path: str, to: str) -> None:
    made, without = export(saying(path), to), export(Behaviour(), to)
    field = TARGETS[to].field(path)
    is_noted = any(note.startswith((f"{path} = ", f"{path}.")) for note in made.notes)
    is_written = without_comments(made) != without_comments(without)
    assert is_noted or is_written
    is_in_words_of_its_own = field.place == "server" or (field.place == "request" and TARGETS[to].has_request)
    assert is_written or not is_in_words_of_its_own


@pytest.mark.parametrize("to", COMMENTED)
def test_notes_stand_as_comments_where_there_can_be_comments(to: str) -> None:
    made = export(behaviour(description="Two\nlines # and a mark", sampling={"exact": True}), to)
    assert made.notes
    assert all(f"#   {note}\n" in made.text for note in made.notes)


@pytest.mark.parametrize("to", TARGETS)
def test_a_length_is_written_though_nobody_sets_one(to: str) -> None:
    assert "512" in without_comments(export(Behaviour(), to))


def test_a_target_with_other_defaults_is_told_the_neutral_values_or_the_models() -> None:
    made = export(Behaviour(), "llama-server", model="a.gguf")
    words, _ = command(made)
    assert [flag(words, name) for name in ("--temp", "--top-k", "--top-p", "--min-p")] == ["1.0", "0", "1.0", "0.0"]
    assert "what the model's files recommend is not known" in made.notes[0]
    words, _ = command(known := export(Behaviour(), "llama-server", model="a.gguf", defaults={"top_k": 50}))
    assert flag(words, "--top-k") == "50"
    assert not any("not known" in note for note in known.notes)


def test_an_unknown_target_names_the_near_one() -> None:
    with pytest.raises(InputError) as refused:
        export(Behaviour(), "olama")
    assert "ollama" in refused.value.hint


# --- what each target is given


def test_vllm_overrides_six_knobs_and_asks_for_the_rest() -> None:
    knobs = {"temperature": 0.2, "top_p": 0.7, "repetition_penalty": 1.25, "presence_penalty": 0.5, "min_new_tokens": 3}
    made = export(
        behaviour(system="Be terse.", sampling=knobs, output={"regex": "a|b"}, guard={"repetition": {}}),
        "vllm",
        model="ORG/It's",
    )
    words, body = command(made)
    assert words[:3] == ["vllm", "serve", "ORG/It's"]
    overrides = json.loads(flag(words, "--override-generation-config"))
    assert overrides == {"temperature": 0.2, "top_p": 0.7, "repetition_penalty": 1.25, "max_new_tokens": 512}
    assert body["messages"][0] == {"role": "system", "content": "Be terse."}
    assert (body["min_tokens"], body["presence_penalty"]) == (3, 0.5)
    assert body["structured_outputs"] == {"regex": "a|b"}
    assert body["repetition_detection"] == {"min_pattern_size": 6, "max_pattern_size": 24, "min_count": 4}


def test_min_p_before_the_other_cuts_is_said_of_vllm() -> None:
    assert "before top_k and top_p" in "".join(export(saying("sampling.min_p"), "vllm").notes)


def test_an_adapter_of_vllm_is_asked_for_by_its_name() -> None:
    words, body = command(export(saying("adapter"), "vllm"))
    assert flag(words, "--lora-modules") == "adapter0=terse.gguf"
    assert "--enable-lora" in words
    assert body["model"] == "adapter0"


@pytest.mark.parametrize("placement", ["user_start", "user_end"])
def test_the_instruction_stands_in_the_question_where_it_is_placed(placement: str) -> None:
    examples = [{"user": "First?", "assistant": "One."}]
    made = export(behaviour(system="Be terse.\n", placement=placement, examples=examples), "openai", ask="Last?")
    contents = [turn["content"] for turn in json.loads(made.text)["messages"]]
    expected = {
        "user_start": ["Be terse.\n\nFirst?", "One.", "Last?"],
        "user_end": ["First?", "One.", "Last?\n\nBe terse."],
    }
    assert contents == expected[placement]


def test_llama_server_is_told_the_order_and_to_look_at_all_tokens() -> None:
    made = export(behaviour(sampling={"presence_penalty": 0.5, "dry": {"multiplier": 1.0}}), "llama-server")
    words, _ = command(made)
    order = flag(words, "--samplers").split(";")
    assert order.index("penalties") < order.index("dry") < order.index("temperature") < order.index("top_k")
    assert (
        order.index("top_k") < order.index("top_p") < order.index("min_p") < order.index("typ_p") < order.index("xtc")
    )
    assert int(flag(words, "--repeat-last-n")) == int(flag(words, "--dry-penalty-last-n")) > 1_000_000
    assert any(note.startswith("sampling.presence_penalty = 0.5: tokens of the prompt") for note in made.notes)


def test_no_breakers_are_not_the_servers_own() -> None:
    words, _ = command(export(behaviour(sampling={"dry": {"multiplier": 1.0, "breakers": []}}), "llama-server"))
    assert flag(words, "--dry-sequence-breaker") == "none"


def test_a_models_name_cannot_leave_its_place_in_the_shell() -> None:
    words, _ = command(export(Behaviour(), "vllm", model="--x; touch y"))
    assert words[2] == "--x; touch y"


def test_the_wheels_llama_server_knows_every_flag() -> None:
    library = Path(str(distribution("xllamacpp").locate_file("xllamacpp/xllamacpp.abi3.so"))).read_bytes()
    names = [field.name for field in TARGETS["llama-server"].fields.values() if field.place == "server"]
    assert len(names) > 20
    for name in [*names, "--samplers", "--hf-repo", "--model", "--port"]:
        assert b"\0" + name.encode() + b"\0" in library, name


PEER = """
import json, sys, xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.n_ctx, params.n_parallel, params.cpuparams.n_threads = sys.argv[1], 512, 1, 1
server = xllamacpp.Server(params)
for body in json.loads(sys.stdin.read()):
    print(json.dumps(server.handle_chat_completions(body)))
"""


def test_the_wheels_llama_server_answers_the_requests(demo: Path) -> None:
    chosen = behaviour(system="Be terse.", output={"choice": ['say "é"', "no\n"]}, sampling={"stop": ["END"]})
    formed = behaviour(output={"json_schema": SCHEMA})
    bodies = [command(export(one, "llama-server", model=str(demo)))[1] | {"max_tokens": 48} for one in (chosen, formed)]
    done = subprocess.run(
        [sys.executable, "-c", PEER, demo], input=json.dumps(bodies), capture_output=True, text=True, check=True
    )
    answers = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    texts = [answer["choices"][0]["message"]["content"] for answer in answers]
    assert texts[0] in ('say "é"', "no\n")
    assert re.match(r'\{\s*"area"\s*:', texts[1])


def test_a_modelfile_holds_instruction_examples_and_parameters() -> None:
    text = 'Say "yes".\nThen stop.'
    examples = [{"user": "Is it?", "assistant": '"Yes"'}]
    knobs = {"temperature": 0.2, "stop": ["END", "\n\n"], "repetition_window": 64}
    made = export(behaviour(system=text, examples=examples, sampling=knobs), "ollama", model="./a.gguf")
    lines = without_comments(made)
    assert lines.startswith("FROM ./a.gguf\n")
    assert f'SYSTEM """{text}"""' in lines
    assert 'MESSAGE user """Is it?"""\nMESSAGE assistant """"Yes""""' in lines
    parameters = re.findall(r'^PARAMETER (\w+) ("""[\s\S]*?"""|\S+)$', made.text, re.MULTILINE)
    assert ("temperature", "0.2") in parameters
    assert ("repeat_last_n", "64") in parameters
    assert [value for name, value in parameters if name == "stop"] == ['"""END"""', '"""\n\n"""']


def test_what_would_end_a_text_of_a_modelfile_early_is_refused() -> None:
    with pytest.raises(BehaviourError, match="Modelfile"):
        export(behaviour(system='Write """\nand more'), "ollama")


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_transformers_takes_the_generation_config(temperature: float) -> None:
    from transformers import GenerationConfig

    knobs = {path.removeprefix("sampling."): SAID[path] for path in SAID if path.startswith("sampling.")}
    made = export(behaviour(sampling=knobs | {"temperature": temperature}, limits={"seconds": 9.0}), "transformers")
    written = json.loads(made.text)
    assert set(written) <= set(GenerationConfig().to_dict())
    config = GenerationConfig.from_dict(written)
    config.validate(strict=True)
    assert config.do_sample is (temperature > 0)
    assert (config.repetition_penalty, config.max_time, config.stop_strings) == (1.25, 9.0, ["END"])
    assert config.sequence_bias == [[[42], -2.5]]
    assert any("end tokens" in note for note in made.notes)
    assert any("do_sample false" in note for note in made.notes) is (temperature == 0)
    assert (config.temperature, config.top_p) == ((0.7, 0.7) if temperature else (None, None))


def test_every_name_of_transformers_is_one_of_its_generation_configs() -> None:
    from transformers import GenerationConfig

    names = {field.name for field in TARGETS["transformers"].fields.values() if field.place}
    assert names <= set(GenerationConfig().to_dict())


def test_an_openai_request_holds_tools_as_they_are_called() -> None:
    chosen = behaviour(tools=["calculator"], tool_choice="calculator")
    with open_tools(chosen.tools) as box:
        body = json.loads(export(chosen, "openai", tools=box.schemas()).text)
    assert body["tools"][0]["function"]["name"] == "calculator"
    assert body["tools"][0]["function"]["parameters"]["type"] == "object"
    assert body["tool_choice"] == {"type": "function", "function": {"name": "calculator"}}
    assert body["parallel_tool_calls"] is True


def test_a_compose_file_starts_vllm_with_the_overrides() -> None:
    made = export(load("technical").behaviour, "compose", model="ORG/$NAME")
    service = yaml.safe_load(made.text)["services"]["vllm"]
    assert service["image"].startswith("vllm/vllm-openai:")
    assert service["entrypoint"] == ["vllm", "serve"]
    assert service["command"][0] == "ORG/$$NAME"  # a lone dollar would be a variable
    assert json.loads(flag(service["command"], "--override-generation-config"))["repetition_penalty"] == 1.25
    assert service["deploy"]["resources"]["reservations"]["devices"][0]["capabilities"] == ["gpu"]
    assert service["ports"] == ["127.0.0.1:8000:8000"]
    assert {volume.split(":")[0] for volume in service["volumes"]} == set(yaml.safe_load(made.text)["volumes"])
    assert any(note.startswith("system = ") and "each request" in note for note in made.notes)


def test_a_kubernetes_manifest_is_a_deployment_and_its_service() -> None:
    made = export(behaviour(name="Meu_Jeito.2", requires={"context": 4096}), "kubernetes", model="ORG/NAME")
    deployment, service = yaml.safe_load_all(made.text)
    assert (deployment["apiVersion"], deployment["kind"]) == ("apps/v1", "Deployment")
    assert (service["apiVersion"], service["kind"]) == ("v1", "Service")
    assert re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", deployment["metadata"]["name"])
    pod = deployment["spec"]["template"]
    labels = pod["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == labels == service["spec"]["selector"]
    container = pod["spec"]["containers"][0]
    assert container["command"] == ["vllm", "serve"]
    assert flag(container["args"], "--max-model-len") == "4096"
    assert json.loads(flag(container["args"], "--override-generation-config")) == {"max_new_tokens": 512}
    assert container["resources"]["limits"] == {"nvidia.com/gpu": 1}
    assert container["ports"][0]["containerPort"] == service["spec"]["ports"][0]["targetPort"] == 8000
    assert {mount["name"] for mount in container["volumeMounts"]} == {
        volume["name"] for volume in pod["spec"]["volumes"]
    }
