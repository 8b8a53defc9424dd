"""Memory predicted and measured, what fits a budget, the catalogue, and what past loads say."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from jeito import home as places
from jeito.cli.main import _run
from jeito.engines import llama_file
from jeito.engines.llama_needs import GgufOutline
from jeito.engines.needs import Outline, layers_of, longest, token_bytes
from jeito.engines.transformers import read_outline
from jeito.engines.weights import Tensor, is_quantised
from jeito.errors import InputError
from jeito.preflight import loads
from jeito.preflight.catalogue import candidates, entries
from jeito.preflight.find import find
from jeito.preflight.fit import Ask, Fit, fit, outline_of
from jeito.preflight.loads import Past
from jeito.preflight.speed import Bandwidth

SPEED = Bandwidth(bytes=1e10, how="for this test")
GB = 10**9
BENCH = Path(__file__).parents[2] / "bench" / "fit.py"
MISTRAL = {
    "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8, "vocab_size": 32000, "max_position_embeddings": 32768, "tie_word_embeddings": False,
}  # fmt: skip


def test_what_was_predicted_is_what_models_take(tmp_path: Path, demo: Path) -> None:
    """One of the bench's random models, quantised, and the demo's GGUF; all slots filled."""
    kept = tmp_path / "fit.json"
    subprocess.run(
        [sys.executable, str(BENCH), "--only", "wordy", "--in", "nf4", "--context", "128", "--json", str(kept)],
        check=True,
        capture_output=True,
    )
    results = json.loads(kept.read_text())
    assert len(results) == 2
    for found in results:
        what = f"{found['model']} in {found['precision']}: {found}"
        assert abs(found["weights_off"]) <= 0.02, what
        assert abs(found.get("texts_off", 0)) <= 0.01, what
        assert abs(found["peak_off"]) <= 0.1, what


def demo_fit(**asked: Any) -> Fit:
    facts = find("demo")
    outline = outline_of(facts)
    assert outline is not None
    return fit(outline, Ask(**asked), most=facts.longest, speed=SPEED, past=Past(0))


def test_the_parts_of_a_gguf_make_its_whole(demo: Path) -> None:
    found = demo_fit(budget=GB)
    row = found.rows[0]
    assert row.total == row.weights + row.texts + row.work == row.totals[found.context]
    assert row.fits
    assert row.longest == 8192
    assert found.code == 0
    # All matrices are read for a token, and the embedding is the head.
    assert row.bound == pytest.approx(1e10 / row.weights)


def test_what_a_text_takes_is_what_the_library_allots(demo: Path) -> None:
    outline = llama_file.read_outline(demo)
    assert outline.token_bytes() == 30 * 3 * (64 + 64) * 2


def test_where_a_gguf_does_not_fit_the_longest_context_that_does_is_offered(demo: Path) -> None:
    found = demo_fit(budget=170_000_000, context=8192)
    assert (found.code, found.rows[0].fits) == (1, False)
    shorter = int(found.instead[0].removeprefix("--context "))
    assert demo_fit(budget=170_000_000, context=shorter).code == 0
    assert demo_fit(budget=170_000_000, context=shorter + 64).code == 1
    assert demo_fit(budget=90_000_000).code == 2


def test_a_longer_context_than_the_model_has_is_refused(demo: Path) -> None:
    with pytest.raises(InputError, match="9,000 tokens"):
        demo_fit(budget=GB, context=9000)


def shaped(**config: Any) -> Outline:
    """Mistral-7B's own shape, tensor by tensor."""
    said = MISTRAL | config
    wide, inner = said["hidden_size"], said["intermediate_size"]
    narrow = wide // said["num_attention_heads"] * said["num_key_value_heads"]
    tensors = [Tensor(name, "BF16", (said["vocab_size"], wide)) for name in ("embed_tokens.weight", "lm_head.weight")]
    for layer in range(said["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        for part, shape in {
            "self_attn.q_proj": (wide, wide), "self_attn.k_proj": (narrow, wide), "self_attn.v_proj": (narrow, wide),
            "self_attn.o_proj": (wide, wide), "mlp.gate_proj": (inner, wide), "mlp.up_proj": (inner, wide),
            "mlp.down_proj": (wide, inner), "input_layernorm": (wide,), "post_attention_layernorm": (wide,),
        }.items():  # fmt: skip
            tensors.append(Tensor(f"{at}{part}.weight", "BF16", shape))
    return Outline("mistral", said, tensors)


def test_mistral_7b_in_nf4_takes_what_was_measured_of_it_and_fits_15_gb_with_8_slots() -> None:
    outline = shaped()
    assert outline.weights("nf4") / 2**30 == pytest.approx(3.84, rel=0.01)
    found = fit(outline, Ask(15 * GB, "nf4", slots=8, context=4096), most=32768, speed=SPEED, past=Past(0))
    assert found.code == 0
    assert found.token_bytes == 2 * 32 * 8 * 128 * 2
    assert found.rows[0].classes.keys() == {"attention", "embeddings and head", "feed-forward", "norms and biases"}
    assert sum(found.rows[0].classes.values()) == found.rows[0].weights


def test_each_precision_offers_its_own_longest_context() -> None:
    found = fit(shaped(), Ask(15 * GB, slots=8, context=8192), most=32768, speed=SPEED, past=Past(0))
    by_precision = {row.precision: row for row in found.rows}
    assert list(by_precision) == ["bf16", "int8", "nf4"]
    assert [row.fits for row in found.rows] == [False, False, True]
    longest_ones = [row.longest or 0 for row in found.rows]
    assert longest_ones == sorted(longest_ones)
    for row in found.rows:
        if row.longest:
            again = fit(shaped(), Ask(15 * GB, row.precision, 8, row.longest), most=32768, speed=SPEED, past=Past(0))
            assert again.code == 0


def test_the_bound_of_speed_counts_what_a_token_reads() -> None:
    outline = shaped()
    embedding = 2 * 32000 * 4096
    assert outline.read("bf16") == outline.weights("bf16") - embedding
    assert shaped(tie_word_embeddings=True).read("bf16") == shaped(tie_word_embeddings=True).weights("bf16")


def test_of_experts_only_those_that_act_are_read_and_none_is_quantised() -> None:
    experts = [Tensor(f"model.layers.0.mlp.experts.{n}.up_proj.weight", "BF16", (64, 64)) for n in range(8)]
    router = Tensor("model.layers.0.mlp.gate.weight", "BF16", (8, 64))
    config = {"num_experts": 8, "num_experts_per_tok": 2, "num_hidden_layers": 1, "hidden_size": 64}
    outline = Outline("moe", config, [*experts, router])
    assert outline.read("bf16") == 2 * (2 * 64 * 64 + 8 * 64)
    assert not any(is_quantised(tensor) for tensor in [*experts, router])
    assert outline.weights("nf4") == outline.weights("bf16")


@pytest.mark.parametrize("value", ["x", [], ["a"], {}, -1, 1.5, float("nan"), True, 10**30])
def test_what_is_no_count_says_nothing(value: Any) -> None:
    keys = (*MISTRAL, "head_dim", "kv_lora_rank", "num_experts", "num_kv_shared_layers", "attn_layer_period")
    for key in keys:
        for config in (MISTRAL | {key: value}, {"text_config": MISTRAL | {key: value}}):
            fit(Outline("odd", config, shaped().tensors), Ask(GB), most=4096, speed=SPEED, past=Past(0))
    said = {f"llama.{key}": 2 for key in ("block_count", "attention.head_count", "embedding_length")}
    for key in (*said, "llama.attention.head_count_kv", "llama.feed_forward_length", "llama.attention.key_length"):
        odd = GgufOutline("odd", {"general.architecture": "llama", **said, key: value}, 100)
        fit(odd, Ask(GB), most=4096, speed=SPEED, past=Past(0))


def test_a_feed_forward_by_layer_counts_by_its_widest() -> None:
    by_layer = Outline("gemma-3n", MISTRAL | {"intermediate_size": [100, 14336]}, shaped().tensors)
    assert by_layer.need("bf16", slots=1, context=1024) == shaped().need("bf16", slots=1, context=1024)


def test_heads_that_a_config_leaves_to_the_code_are_read_off_the_headers() -> None:
    silent = {key: value for key, value in MISTRAL.items() if "heads" not in key}
    outline = Outline("gemma-3", {"text_config": silent}, shaped().tensors)
    assert outline.token_bytes("bf16") == shaped().token_bytes("bf16")


def test_what_is_quantised_already_is_offered_no_other_precision() -> None:
    outline = shaped(quantization_config={"quant_method": "awq"})
    found = fit(outline, Ask(6 * GB), most=32768, speed=SPEED, past=Past(0))
    assert found.instead == ("take a smaller model",)


def test_the_same_weights_in_a_second_layout_are_counted_once(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    (tmp_path / "config.json").write_text(json.dumps(MISTRAL))
    for name in ("model.safetensors", "consolidated.safetensors"):
        save_file({"embed_tokens.weight": torch.zeros(64, 8)}, tmp_path / name)
    outline = outline_of(find(str(tmp_path)))
    assert isinstance(outline, Outline)
    assert outline.weights("fp32") == 64 * 8 * 4


def test_loads_kept_by_another_version_are_passed_over(warm_home: Path) -> None:
    sound = {"engine": "x", "device": "cpu", "weights": 1, "weights_predicted": 1, "growth": 2, "growth_predicted": 2}
    for key, entry in {"a": sound, "b": 3, "c": {}, "d": sound | {"growth_predicted": 0}}.items():
        places.remember("loads", key, entry)
    assert loads.past("x", "cpu") == Past(1, 0.0, 0.0, 0.0)


KINDS: dict[str, tuple[dict[str, Any], tuple[int, int, int, int]]] = {
    "full": ({}, (4, 0, 0, 0)),
    "a window on all": ({"sliding_window": 512}, (0, 4, 0, 0)),
    "a window that is switched off": ({"sliding_window": 512, "use_sliding_window": False}, (4, 0, 0, 0)),
    "mixed": ({"sliding_window": 512, "layer_types": ["sliding_attention", "full_attention"] * 2}, (2, 2, 0, 0)),
    "shared": ({"num_kv_shared_layers": 1}, (3, 0, 1, 0)),
    "linear": ({"layer_types": ["linear_attention"] * 3 + ["full_attention"]}, (1, 0, 0, 3)),
    "jamba": ({"attn_layer_period": 4, "attn_layer_offset": 2}, (1, 0, 0, 3)),
    "nemotron": ({"hybrid_override_pattern": "M*M-"}, (1, 0, 0, 3)),
    "mamba": ({"num_attention_heads": 0}, (0, 0, 0, 4)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_layers_are_counted_by_what_they_keep(kind: str) -> None:
    said, (full, sliding, shared, fixed) = KINDS[kind]
    config = {"num_hidden_layers": 4, "num_attention_heads": 2, "head_dim": 8, "num_key_value_heads": 1} | said
    found = layers_of(config)
    assert (found.full, found.sliding, found.shared, found.fixed) == (full, sliding, shared, fixed)
    # Sliding layers are kept whole, so that a text can be cut; the others keep nothing a token.
    assert token_bytes(config, "bf16") == (full + sliding) * 2 * 8 * 2


def test_the_longest_is_found_wherever_it_lies() -> None:
    for limit in (255, 256, 257, 1000, 4095):
        expected = limit // 64 * 64 if limit >= 256 else None
        assert longest(lambda length, limit=limit: length <= limit, 10**6) == expected  # type: ignore[misc]
    assert longest(lambda _: True, 1000) == 960


def ask_once(context: int) -> None:
    """In a process of its own: what one has loaded before is no measure of a load."""
    asked = [sys.executable, "-m", "jeito.cli.main", "ask", "hi", "--context", str(context)]
    subprocess.run([*asked, "--set", "max_new_tokens=1"], check=True, capture_output=True)


def test_past_loads_are_kept_and_correct_the_next_prediction(warm_home: Path, demo: Path) -> None:
    (places.home() / "facts" / "loads.json").unlink(missing_ok=True)
    assert loads.past("llamacpp", "cpu") == Past(0)
    for context in (256, 512, 1024):
        ask_once(context)
    past = loads.past("llamacpp", "cpu")
    assert past.loads == 3
    assert past.error is not None
    assert abs(past.error) < 0.2
    assert past.correction == 1 + max(0.0, past.error)
    # The same load again is the same entry.
    ask_once(1024)
    assert loads.past("llamacpp", "cpu").loads == 3
    kept = next(iter(places.all_of("loads").values()))
    assert kept["weights"] == kept["weights_predicted"]


def test_every_entry_of_the_catalogue_is_sound() -> None:
    names = {entry.name: entry for entry in entries()}
    assert len(names) == len(entries()) >= 40
    for entry in entries():
        assert entry.source, entry.name
        assert 1e8 <= entry.parameters <= 33e9, entry.name
        assert entry.heads % entry.kv_heads == 0, entry.name
        if entry.smaller:
            assert names[entry.smaller].parameters < entry.parameters, entry.name
        # Norms, biases and learned positions are what the shape leaves out.
        counted = sum(tensor.parameters for tensor in entry.outline().tensors)
        assert counted == pytest.approx(entry.parameters, rel=0.015), entry.name


def test_the_catalogue_says_of_the_demo_model_what_its_headers_say(unpacked_demo: Path) -> None:
    entry = next(entry for entry in entries() if entry.name.endswith("SmolLM2-135M-Instruct"))
    real = read_outline(unpacked_demo)
    for precision in ("fp32", "bf16", "nf4"):
        assert entry.outline().weights(precision) == pytest.approx(real.weights(precision), rel=0.001)
        assert entry.outline().token_bytes(precision) == real.token_bytes(precision)


def test_of_the_catalogue_what_fits_is_listed_largest_first() -> None:
    ask = Ask(15 * GB, slots=1, context=4096)
    found = candidates(ask, speed=SPEED, past=Past(0))
    sizes = [one.entry.parameters for one in found]
    assert sizes == sorted(sizes, reverse=True)
    assert all(one.row is not None and one.row.total <= 15 * GB for one in found)
    left_out = {entry.name for entry in entries()} - {one.entry.name for one in found}
    for entry in entries():
        if entry.name in left_out:
            assert entry.outline().need("nf4", slots=1, context=4096).total > 15 * GB, entry.name


def test_a_language_narrows_the_catalogue() -> None:
    found = candidates(Ask(15 * GB, slots=1), speed=SPEED, past=Past(0), language="pt")
    assert found
    assert all("pt" in one.entry.languages for one in found)
    with pytest.raises(InputError, match="'xx'"):
        candidates(Ask(15 * GB), speed=SPEED, past=Past(0), language="xx")


def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["jeito", *words])
    code = _run()
    said = capsys.readouterr()
    return code, said.out, said.err


def test_the_command_says_what_fits_and_what_to_give_up(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], warm_home: Path, unpacked_demo: Path
) -> None:
    code, out, _ = command(monkeypatch, capsys, "fit", "demo", "--budget", "1GB", "--json")
    assert code == 0
    assert json.loads(out)["rows"][0]["fits"]
    code, out, _ = command(monkeypatch, capsys, "fit", "demo@transformers", "--budget", "400MB")
    assert code == 1
    assert "give up first: --" in out
    code, out, err = command(monkeypatch, capsys, "fit", "demo@nf4", "--budget", "50MB")
    assert (code, err) == (2, "")
    assert "take a smaller model" in out


@pytest.mark.parametrize("words", [("--precision", "foo"), ("--device", "gpu"), ("--device", "cuda:99")])
def test_what_is_not_there_is_not_planned_for(
    words: tuple[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], warm_home: Path
) -> None:
    code, _, err = command(monkeypatch, capsys, "fit", "demo", *words)
    assert code == 64
    assert words[1] in err


def test_the_command_lists_the_catalogue(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = command(monkeypatch, capsys, "fit", "--budget", "15GB", "--json")
    assert code == 0
    models = json.loads(out)["models"]
    assert len(models) >= 40
    assert all(one["source"] and one["fits"]["bound"] > 0 for one in models)
    code, out, _ = command(monkeypatch, capsys, "fit", "--budget", "15GB")
    assert "smaller" in out


def test_what_has_no_headers_says_what_to_type(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(MISTRAL))
    code, _, err = command(monkeypatch, capsys, "fit", str(tmp_path), "--budget", "15GB")
    assert code == 64
    assert f"jeito check {tmp_path}" in err
