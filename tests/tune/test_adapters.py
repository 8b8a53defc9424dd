"""Adapters that have a name here: listed, named in behaviours, merged and compared."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
hf = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")
gguf = pytest.importorskip("gguf")

from jeito.behaviour.load import load  # noqa: E402
from jeito.engines.adapters import CARD, WEIGHTS  # noqa: E402
from jeito.errors import InputError  # noqa: E402
from jeito.proof.sweep import DAMAGE  # noqa: E402
from jeito.tune.adapters import find, kept  # noqa: E402
from tests.engines import tiny_gguf  # noqa: E402

# What peft still calls, of a transformers that has given it another name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
SIZES = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "max_position_embeddings": 1024}  # fmt: skip
TARGETS = ["q_proj", "k_proj", "down_proj"]


def adapt(base: Path, folder: Path, spread: float, **options: Any) -> Path:
    model = hf.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=TARGETS, **options))
    torch.manual_seed(7)
    for name, weight in adapted.named_parameters():
        if ".lora_" in name:
            torch.nn.init.normal_(weight, std=spread if ".lora_B" in name else 0.05)
    adapted.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tiny(teach: Callable[..., Path]) -> Path:
    return teach(**SIZES)


@pytest.fixture
def named(tiny: Path, warm_home: Path) -> Path:
    """An adapter called terse in home."""
    return adapt(tiny, warm_home / "adapters" / "terse", 0.3)


Jeito = Callable[..., tuple[int, str, str]]


def test_the_list_says_what_each_adapter_is_and_what_is_wrong_with_it(named: Path, tiny: Path, jeito: Jeito) -> None:
    card = {"made": "2026-01-02T03:04:05+00:00", "base": "ORG/BASE", "behaviour": "technical"}
    (named / CARD).write_text(json.dumps(card))
    broken = shutil.copytree(named, named.with_name("broken"))
    (broken / WEIGHTS).unlink()
    code, out, _ = jeito("adapters", "--json")
    one, other = json.loads(out)["adapters"]
    assert code == 0
    assert "lacks its weights" in one["why"]
    assert other | {"path": ""} == {
        "name": "terse", "path": "", "base": "ORG/BASE", "rank": 4, "targets": ["down_proj", "k_proj", "q_proj"],
        "bytes": (named / WEIGHTS).stat().st_size, "made": card["made"], "behaviour": "technical", "why": None,
    }  # fmt: skip
    (named / CARD).unlink()
    assert [one.base for one in kept() if one.why is None] == [str(tiny)], "as peft names it"


def test_a_behaviour_names_an_adapter_by_its_name_or_by_a_path_beside_it(named: Path, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("adapter: [{path: terse, scale: 0.5}]\n")
    loaded = load(str(tmp_path / "own.yaml")).behaviour
    assert loaded.adapter[0].path == str(named)
    by_name = loaded.fingerprint()
    near = shutil.copytree(named, tmp_path / "terse")
    beside = load(str(tmp_path / "own.yaml")).behaviour
    assert beside.adapter[0].path == str(near), "what lies beside the behaviour comes first"
    assert beside.fingerprint() == by_name
    assert load("plain", ["adapter=[{path: terse}]"]).behaviour.adapter[0].path == str(named)


def test_an_unknown_name_is_answered_with_those_there_are(named: Path) -> None:
    assert find("terse") == named
    with pytest.raises(InputError) as refused:
        find("tersee")
    assert refused.value.hint == "did you mean terse?"


def test_a_merged_folder_says_what_the_base_says_with_the_adapter(
    named: Path, tiny: Path, jeito: Jeito, tmp_path: Path
) -> None:
    merged = tmp_path / "merged"
    code, out, err = jeito("adapters", "merge", "terse", "-m", f"{tiny}@transformers:fp32", "--to", merged, "--json")
    assert code == 0, err
    found = json.loads(out)["parity"]
    assert found["walk"]["tokens"] > 50
    assert found["walk"]["flips"] == 0
    assert found["first"]["kl"] < 1e-6
    ours = hf.AutoModelForCausalLM.from_pretrained(merged)
    theirs = peft.PeftModel.from_pretrained(hf.AutoModelForCausalLM.from_pretrained(tiny), named).merge_and_unload()
    base = hf.AutoModelForCausalLM.from_pretrained(tiny).state_dict()
    assert any(not torch.equal(base[name], weight) for name, weight in ours.state_dict().items())
    for name, weight in theirs.state_dict().items():
        assert torch.allclose(weight, ours.state_dict()[name], atol=1e-6)
    code, _, err = jeito("adapters", "merge", "terse", "-m", tiny, "--to", merged)
    assert code == 64
    assert "is there already" in err


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A random model in a GGUF of 4 bits, and an adapter for it."""
    folder = tmp_path_factory.mktemp("small")
    family = tiny_gguf.FAMILIES["llama"]
    file = tiny_gguf.write(tiny_gguf.made(family), family, folder / "small.gguf", "Q4_0")
    tiny_gguf.adapted(family, folder / "terse", target_modules=TARGETS)
    return file, folder / "terse"


def test_a_merged_gguf_says_nearly_what_the_base_says_with_the_adapter(
    small: tuple[Path, Path], jeito: Jeito, tmp_path: Path
) -> None:
    base, adapter = small
    code, out, err = jeito("adapters", "merge", adapter, "-m", base, "--to", tmp_path / "merged.gguf", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert set(found["turned"].values()) == {"Q8_0"}
    assert found["parity"]["first"]["kl"] < 0.05
    assert found["parity"]["walk"]["kl"] < 0.05
    assert found["parity"]["walk"]["same_top"] > 0.85
    # All else is there bit for bit.
    before, after = (gguf.GGUFReader(file) for file in (base, tmp_path / "merged.gguf"))
    held = {tensor.name: tensor for tensor in after.tensors}
    changed = {one.name for one in before.tensors if one.data.tobytes() != held[one.name].data.tobytes()}
    assert changed == found["turned"].keys()
    assert len(changed) == 9, "three in each of three layers"
    assert {field: before.fields[field].contents() for field in before.fields if not field.startswith("GGUF.")} == {
        field: after.fields[field].contents() for field in after.fields if not field.startswith("GGUF.")
    }


def test_one_question_is_answered_with_and_without_an_adapter(small: tuple[Path, Path], jeito: Jeito) -> None:
    base, adapter = small
    words = ["compare", "Hi!", "-m", base, "-b", "plain+max_new_tokens=8", "--seed", 1, "--json"]
    code, out, err = jeito(*words, "--adapters", f"none,{adapter}")
    assert code == 0, err
    one, other = json.loads(out)["runs"]
    assert one["seed"] == other["seed"]
    assert one["answer"] != other["answer"]
    assert one["behaviour"] == "plain+max_new_tokens=8"
    assert [each["path"] for each in other["request"]["adapter"]] == [str(adapter)]
    # In place of its own, and none at all.
    words[5] = other["behaviour"]
    code, out, _ = jeito(*words, "--adapters", "none,terse-that-is-not-there")
    bare, lost = json.loads(out)["runs"]
    assert bare["answer"] == one["answer"]
    assert code == 70
    assert "there is no adapter" in lost["error"]


def test_cases_are_compared_with_and_without_an_adapter_in_coupled_pairs(
    small: tuple[Path, Path], jeito: Jeito, tmp_path: Path
) -> None:
    base, adapter = small
    cases = "".join(json.dumps({"name": f"{n}", "prompt": f"{n}!"}) + "\n" for n in range(4))
    (tmp_path / "cases.jsonl").write_text(cases)
    code, out, err = jeito(
        "compare", "-m", base, "-b", "plain+max_new_tokens=6", "--adapters", f"none,{adapter}", "--cases",
        tmp_path / "cases.jsonl", "-n", 4, "--check", "words: {max: 3}", "--json",
    )  # fmt: skip
    assert code == 0, err
    found = json.loads(out)
    assert found["sides"][0]["name"] == "plain+max_new_tokens=6"
    assert found["divergence"][0]["identical"] < 4
    (check,) = [pair for pair in found["pairs"] if pair["kind"] == "check"]
    assert (check["n"], check["clusters"]) == (4, 4)
    seeds = [run["seed"] for run in found["runs"]]
    assert seeds[:4] == seeds[4:]
    assert [bool(run["request"]["adapter"]) for run in found["runs"]] == [False] * 4 + [True] * 4


def test_a_sweep_over_a_scale_shows_what_it_does_and_what_it_breaks(
    small: tuple[Path, Path], jeito: Jeito, tmp_path: Path
) -> None:
    base, adapter = small
    (tmp_path / "mine.yaml").write_text(f"adapter: [{{path: {adapter}}}]\nsampling: {{max_new_tokens: 6}}\n")
    code, out, err = jeito(
        "sweep", "-b", tmp_path / "mine.yaml", "-m", base, "--over", "adapter.0.scale=0,1,4", "--limit", 2, "--check",
        "words: {max: 3}", "--at-least", 0.5, "--seed", 1, "--json",
    )  # fmt: skip
    assert code == 0, err
    found = json.loads(out)
    curves = {curve["check"]: curve["points"] for curve in found["curves"]}
    (checked,) = [curve["points"] for curve in found["curves"] if curve["check"].startswith("words {")]
    assert [point["at"] for point in checked] == [{"adapter.0.scale": n} for n in (0, 1, 4)]
    damage = [point["mean"] for point in curves[DAMAGE]]
    code, out, _ = jeito("compare", "x", "-m", base, "-m", base, "-b", "plain+max_new_tokens=1", "--json")
    assert damage[0] == json.loads(out)["readings"][0]["perplexity_a"], "a scale of 0 is no adapter"
    assert len({round(one, 3) for one in damage}) == 3
    code, out, _ = jeito(
        "sweep", "-b", tmp_path / "mine.yaml", "-m", base, "--over", "adapter.0.scale=0,1", "--limit", 2
    )
    assert code == 0
    assert DAMAGE in out


def test_quantised_weights_are_not_merged_into(tiny: Path, named: Path, jeito: Jeito, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    code, _, err = jeito(
        "adapters", "merge", named, "-m", f"{tiny}@transformers:nf4", "--compute", "fp32", "--to", tmp_path / "merged"
    )
    assert code == 64, err
    assert "--precision bf16" in err
    assert not (tmp_path / "merged").exists()


def test_a_gguf_is_not_merged_into_a_folder(warm_home: Path, named: Path, jeito: Jeito, tmp_path: Path) -> None:
    code, _, err = jeito("adapters", "merge", "terse", "-m", "demo", "--to", tmp_path / "merged")
    assert code == 64
    assert "--to merged.gguf" in err
