"""The transformers engine, on tiny random models made on the spot and on the demo model."""

import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers  # noqa: E402

from jeito.decode.local import LocalModel  # noqa: E402
from jeito.engines import transformers as transformers_engine  # noqa: E402
from jeito.engines.base import Loading, Row  # noqa: E402
from jeito.engines.folder import read_folder, sampling_defaults  # noqa: E402
from jeito.engines.meter import free_memory  # noqa: E402
from jeito.engines.pieces import Pieces  # noqa: E402
from jeito.engines.transformers import TransformersEngine, choose_precision, read_card  # noqa: E402
from jeito.engines.weights import find_weights, footprint  # noqa: E402
from jeito.errors import EngineError, InputError, MemoryFull, ModelError  # noqa: E402
from jeito.run.run import run, together  # noqa: E402

TEXT = "Once upon a time, São João drank ☕ and 漢字 — naïve 🙂 tokens, 1234 of them."
SIZES = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 1024,
}  # fmt: skip
ALTERNATING = ["sliding_attention", "full_attention", "sliding_attention"]
# Windows are shorter than the texts, so that leaving one out changes the text.
SHARED: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", SIZES),
    "mistral": ("Mistral", SIZES | {"sliding_window": None}),
    "mistral with a window": ("Mistral", SIZES | {"sliding_window": 12}),
    "qwen2": ("Qwen2", SIZES),
    "qwen3": ("Qwen3", SIZES | {"head_dim": 16}),
    "gemma3": ("Gemma3Text", SIZES | {"head_dim": 16, "sliding_window": 12, "layer_types": ALTERNATING}),
    "phi3": ("Phi3", SIZES | {"sliding_window": 12}),
    "gpt2": ("GPT2", {"n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 256}),
}
ALONE: dict[str, tuple[str, dict[str, Any]]] = {
    "mamba": ("Mamba", {"hidden_size": 64, "num_hidden_layers": 2, "state_size": 8}),
    "gpt-neo": (
        "GPTNeo",
        {"hidden_size": 64, "num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]],
         "window_size": 12, "max_position_embeddings": 256},
    ),
    "longrope": (
        "Phi3",
        SIZES | {"max_position_embeddings": 256, "original_max_position_embeddings": 16,
                 "rope_parameters": {"rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0] * 8,
                                     "long_factor": [4.0] * 8, "original_max_position_embeddings": 16}},
    ),
}  # fmt: skip

Make = Callable[[str], Path]


def load(target: Path | str, *, notify: Callable[[str], None] = print, **options: Any) -> TransformersEngine:
    return transformers_engine.load(target, Loading(**options), notify=notify)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny matrices: a second thread would only wait for the first."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def tiny_tokenizer() -> Any:
    """Byte-level BPE of 320 tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, initial_alphabet=alphabet, special_tokens=["<s>", "</s>"], show_progress=False
    )
    tokenizer.train_from_iterator([TEXT] * 3, trainer)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


def write_model(folder: Path, family: str, options: dict[str, Any], dtype: Any = None, **saving: Any) -> Path:
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    # A wide spread, so that attention decides what comes next.
    config = getattr(transformers, f"{family}Config")(
        **options, vocab_size=len(tokenizer), bos_token_id=0, eos_token_id=1, pad_token_id=1, initializer_range=0.3
    )
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype or torch.float32)
    model.save_pretrained(folder, **saving)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Folders of the tiny models, each made once."""
    made: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in made:
            made[name] = write_model(tmp_path_factory.mktemp("tiny"), *(SHARED | ALONE)[name])
        return made[name]

    return folder


@pytest.fixture(scope="module")
def one_llama(make: Make) -> Iterator[TransformersEngine]:
    engine = load(make("llama"), precision="fp32", slots=8)
    yield engine
    engine.close()


@pytest.fixture
def llama(one_llama: TransformersEngine) -> TransformersEngine:
    for slot in range(one_llama.card.slots):
        one_llama.truncate(slot, 0)
    return one_llama


@pytest.fixture
def broken(make: Make, tmp_path: Path) -> Path:
    """A copy of a sound folder, to be broken."""
    return shutil.copytree(make("llama"), tmp_path / "broken")


def tokens_of(length: int, seed: int = 0) -> list[int]:
    return [int(token) for token in np.random.default_rng(seed).integers(2, 300, length)]


def greedy(engine: TransformersEngine, prompts: list[list[int]], steps: int) -> list[list[int]]:
    """The likeliest tokens after each prompt, all rows in the same calls."""
    replies: list[list[int]] = [[] for _ in prompts]
    rows = [Row(slot, prompt) for slot, prompt in enumerate(prompts)]
    for _ in range(steps):
        for reply, logits in zip(replies, engine.extend(rows), strict=True):
            reply.append(int(logits[-1].argmax()))
        rows = [Row(slot, reply[-1:]) for slot, reply in enumerate(replies)]
    return replies


def generate(engine: TransformersEngine, prompt: list[int], steps: int) -> list[int]:
    """The same, by transformers itself."""
    ids = torch.tensor([prompt])
    found = engine.model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=steps, min_new_tokens=steps, do_sample=False,
        eos_token_id=None, pad_token_id=1,
    )  # fmt: skip
    return list(found[0, len(prompt) :].tolist())


def last(engine: TransformersEngine, slot: int, tokens: list[int], *, exact: bool = False) -> np.ndarray:
    return engine.extend([Row(slot, tokens)], exact=exact)[0][-1]


@pytest.mark.parametrize("name", SHARED)
def test_texts_of_different_lengths_go_on_together_as_generate_would_each(name: str, make: Make) -> None:
    engine = load(make(name), precision="fp32", slots=3)
    assert engine.card.facts["rows"] == "together", engine._suited.why
    prompts = [tokens_of(length, seed=length) for length in (3, 47, 18)]
    replies = greedy(engine, prompts, steps=20)
    expected = [generate(engine, prompt, 20) for prompt in prompts]
    assert replies == expected
    for reply in replies:
        assert engine.text(reply).decode(errors="replace") == engine.tokenizer.decode(
            reply, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )


@pytest.mark.parametrize("name", ALONE)
def test_a_model_that_cannot_share_passes_says_so_and_writes_as_generate_would(name: str, make: Make) -> None:
    engine = load(make(name), precision="fp32", slots=2, context=256 if name == "mamba" else None)
    assert engine.card.facts["rows"] == "one by one"
    assert engine._suited.why
    prompts = [tokens_of(9), tokens_of(33, seed=1)]
    assert greedy(engine, prompts, steps=12) == [generate(engine, prompt, 12) for prompt in prompts]
    shape, why = engine.exact()
    assert shape is None
    assert engine._suited.why in why


@pytest.mark.parametrize("name", ["mamba", "gpt-neo", "mistral with a window"])
def test_a_slot_cut_back_or_forked_equals_one_computed_anew(name: str, make: Make) -> None:
    engine = load(make(name), precision="fp32", slots=3, context=200)
    tokens = tokens_of(60)
    last(engine, 0, tokens)
    engine.fork(0, 1, 31)
    forked = last(engine, 1, tokens[:9])
    engine.truncate(0, 40)
    cut = last(engine, 0, tokens[5:8])
    np.testing.assert_allclose(forked, last(engine, 2, tokens[:31] + tokens[:9]), atol=1e-3)
    engine.truncate(2, 0)
    np.testing.assert_allclose(cut, last(engine, 2, tokens[:40] + tokens[5:8]), atol=1e-3)


def test_rows_of_different_lengths_in_one_call_equal_each_alone(llama: TransformersEngine) -> None:
    rows = [Row(slot, tokens_of(length, seed=slot), 1) for slot, length in enumerate((3, 11, 1, 70))]
    together = [logits[-1] for logits in llama.extend(rows)]
    for row, expected in zip(rows, together, strict=True):
        np.testing.assert_allclose(last(llama, row.slot + 4, list(row.tokens)), expected, atol=1e-4)


def test_only_the_wanted_positions_have_logits(llama: TransformersEngine) -> None:
    tokens = tokens_of(6)
    none, three = llama.extend([Row(0, tokens, 0), Row(1, tokens, 3)])
    assert none.shape == (0, llama.card.vocabulary)
    assert three.shape == (3, llama.card.vocabulary)
    llama.truncate(1, 0)
    np.testing.assert_allclose(three[0], last(llama, 1, tokens[:4]), atol=1e-4)


def test_exact_rows_keep_every_bit_beyond_500_tokens(llama: TransformersEngine) -> None:
    shape, why = llama.exact()
    assert shape is not None, why
    tokens = tokens_of(560)

    def feed(slot: int, until: int, chunk: int, beside: list[int]) -> np.ndarray:
        found = None
        while (at := llama.memory_of_slots.lengths[slot]) < until:
            rows = [
                *(Row(other, tokens_of(1, seed=at)) for other in beside),
                Row(slot, tokens[at : at + chunk][: until - at]),
            ]
            found = llama.extend(rows, exact=True)[-1][-1]
        assert found is not None
        return found

    alone = feed(0, 560, shape.high, [])
    llama.extend([Row(6, tokens_of(300, seed=7))])
    llama.extend([Row(6, tokens_of(300, seed=8))])
    crowd = feed(3, 560, 7, [6, 1, 5])
    assert np.array_equal(alone, crowd)
    llama.fork(3, 2, 530)
    assert np.array_equal(feed(2, 560, 1, []), alone)
    llama.truncate(0, 511)
    assert np.array_equal(feed(0, 560, 11, [6]), alone)


def test_a_verdict_on_exactness_is_kept(make: Make, home: Path) -> None:
    heard: list[str] = []
    for _ in range(2):
        engine = load(make("llama"), precision="fp32", slots=2, notify=heard.append)
        assert engine.exact()[0] is not None
    assert len(heard) == 1
    assert (home / "facts" / "exact.json").is_file()


def fill(engine: TransformersEngine) -> None:
    for call in range(8):
        engine.extend([Row(1 + call % 2, tokens_of(400))])


def test_a_full_memory_is_said_and_leaves_everything_as_it_was(tmp_path: Path) -> None:
    folder = write_model(tmp_path, "Llama", SIZES | {"max_position_embeddings": 4096})
    engine = load(folder, precision="fp32", slots=3)
    engine._budget = engine.card.bytes + 1_500_000
    tokens = tokens_of(40)
    last(engine, 0, tokens[:30])
    with pytest.raises(MemoryFull, match="are left"):
        fill(engine)
    for slot in (1, 2):
        engine.truncate(slot, 0)
    np.testing.assert_allclose(last(engine, 0, tokens[30:]), last(engine, 1, tokens), atol=1e-4)


def test_a_text_longer_than_the_context_is_refused_and_changes_nothing(make: Make) -> None:
    engine = load(make("llama"), precision="fp32", slots=2, context=64)
    last(engine, 0, tokens_of(60))
    with pytest.raises(MemoryFull, match="the context is 64"):
        engine.extend([Row(1, tokens_of(3)), Row(0, tokens_of(5))])
    np.testing.assert_allclose(last(engine, 0, [5]), last(engine, 1, [*tokens_of(60), 5]), atol=1e-4)


def test_a_call_that_is_too_long_or_empty_is_refused(llama: TransformersEngine) -> None:
    with pytest.raises(EngineError, match="513 tokens"):
        llama.extend([Row(0, tokens_of(513))])
    with pytest.raises(EngineError):
        llama.extend([Row(0, [])])


def test_overflow_is_an_error_and_does_not_stay_in_the_slot(llama: TransformersEngine) -> None:
    embeddings = llama.model.get_input_embeddings().weight
    kept = embeddings[5].clone()
    tokens = tokens_of(12)
    before = last(llama, 0, tokens)
    with torch.no_grad():
        embeddings[5] = float("nan")
    with pytest.raises(EngineError, match="no numbers"):
        llama.extend([Row(1, [7, 5, 9])])
    with torch.no_grad():
        embeddings[5] = kept
    assert llama.memory_of_slots.lengths[1] == 0
    np.testing.assert_allclose(last(llama, 1, tokens), before, atol=1e-4)


def test_text_comes_back_from_its_tokens_one_by_one(llama: TransformersEngine) -> None:
    ids = llama.tokens(TEXT, special=False)
    assert b"".join(llama.text([token]) for token in ids).decode() == TEXT
    assert llama.text(sorted(llama.card.ends)) == b""


def test_names_of_control_tokens_are_text_unless_asked_for(llama: TransformersEngine) -> None:
    assert llama.tokens("a</s>", special=True)[-1] == 1
    plain = llama.tokens("a</s>", special=False)
    assert 1 not in plain
    assert llama.text(plain) == b"a</s>"


def test_sentencepiece_tokens_concatenate_with_their_spaces_and_bytes() -> None:
    words = [("▁Hello", -1.0), ("▁", -2.0), ("w", -3.0), ("orld", -3.0)]
    vocabulary = [("<unk>", 0.0), ("</s>", 0.0), *((f"<0x{byte:02X}>", -9.0) for byte in range(256)), *words]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=0, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>")
    ids = fast("Hello world ☕", add_special_tokens=False).input_ids
    pieces = Pieces(fast)
    assert pieces.text([*ids, 1]).decode() == " Hello world ☕"
    assert b"".join(pieces.text([token]) for token in ids) == pieces.text(ids)


def test_the_card_is_read_without_torch_and_agrees_with_the_loaded_model(make: Make) -> None:
    script = (
        "import sys; from jeito.engines.transformers import read_card; card = read_card(sys.argv[1]);"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules;"
        "print(card.vocabulary, card.context, card.bos, sorted(card.ends), card.add_bos)"
    )
    said = subprocess.run(
        [sys.executable, "-c", script, str(make("llama"))], capture_output=True, text=True, check=True
    )
    card = load(make("llama"), device="cpu").card  # a GPU would load an fp32 file in bf16
    expected = (card.vocabulary, card.context, card.bos, sorted(card.ends), card.add_bos)
    assert read_card(make("llama")).bytes == pytest.approx(card.bytes, rel=0.02)
    assert said.stdout.split() == " ".join(map(str, expected)).split()


def test_the_authors_sampling_values_are_read_with_their_lines(broken: Path) -> None:
    values = {"temperature": 0.6, "top_k": 20, "top_p": 0.95, "do_sample": True, "eos_token_id": [1, 7]}
    (broken / "generation_config.json").write_text(json.dumps(values, indent=1))
    card = read_card(broken)
    found = {knob: (value.value, value.line) for knob, value in card.defaults.items()}
    assert found == {"temperature": (0.6, 2), "top_k": (20, 3), "top_p": (0.95, 4)}
    assert card.ends == {1, 7}


def test_a_model_whose_author_wants_no_sampling_is_greedy(broken: Path) -> None:
    (broken / "generation_config.json").write_text('{"do_sample": false, "temperature": 0.7, "top_k": null}')
    found = sampling_defaults(read_folder(broken))
    assert {knob: value.value for knob, value in found.items()} == {"temperature": 0.0}


def test_a_value_out_of_range_is_named_with_its_line(broken: Path) -> None:
    (broken / "generation_config.json").write_text('{\n"top_p": 1.7}')
    with pytest.raises(ModelError, match=r"top_p: 1\.7") as caught:
        read_card(broken)
    assert "line 2" in caught.value.hint


def test_the_fingerprint_is_of_files_template_and_precision(make: Make, broken: Path) -> None:
    first = load(make("llama"), precision="fp32").fingerprint()
    assert first == load(broken, precision="fp32").fingerprint()
    assert first != load(broken, precision="bf16").fingerprint()
    (broken / "chat_template.jinja").write_text("{{ messages }}")
    assert first != load(broken, precision="fp32").fingerprint()


def test_memory_is_metered(llama: TransformersEngine) -> None:
    last(llama, 0, tokens_of(5))
    taken = llama.memory()
    assert taken["weights"] == sum(t.nbytes for t in [*llama.model.parameters(), *llama.model.buffers()])
    assert taken["slots"] >= 2 * 3 * 2 * 16 * 5 * 4
    assert taken["resident_peak"] >= taken["weights"]
    assert llama.card.facts["format"] == "safetensors"
    assert llama.card.facts["weights"] == {"float32": taken["weights"]}
    assert llama.card.facts["load_seconds"] > 0


def test_auto_takes_the_best_precision_that_fits(unpacked_demo: Path) -> None:
    folder, weights = read_folder(unpacked_demo), find_weights(unpacked_demo)

    def chosen(budget: int) -> str:
        return choose_precision(folder, weights, Loading(budget=budget, slots=1), device="cpu", context=64)

    assert [chosen(megabytes * 10**6) for megabytes in (400, 200, 130)] == ["bf16", "int8", "nf4"]
    with pytest.raises(ModelError, match=r"the budget is 50\.0 MB"):
        chosen(50 * 10**6)
    assert free_memory("cpu") is None or free_memory("cpu") > 0


def test_nf4_runs_on_a_cpu_and_takes_what_the_formula_says(unpacked_demo: Path) -> None:
    pytest.importorskip("bitsandbytes")
    predicted = footprint(find_weights(unpacked_demo).tensors, read_folder(unpacked_demo).config, "nf4")
    engine = load(unpacked_demo, precision="nf4", slots=2, context=256)
    assert engine.memory()["weights"] == pytest.approx(predicted, rel=0.02)
    assert engine.card.facts["rows"] == "together", engine._suited.why
    prompt = engine.tokens("<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n", True)
    assert b"Paris" in engine.text(greedy(engine, [prompt], steps=8)[0])


@pytest.mark.parametrize(
    "shape",
    [
        {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 2},
        {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 12},
        {"hidden_size": 320, "intermediate_size": 512, "num_hidden_layers": 3, "tie_word_embeddings": True},
    ],
)
def test_what_weights_take_is_predicted_from_their_headers(shape: dict[str, int], tmp_path: Path) -> None:
    folder = write_model(tmp_path, "Llama", SIZES | shape, dtype=torch.bfloat16)
    tensors, config = find_weights(folder).tensors, read_folder(folder).config
    for precision in ("fp32", "bf16", "nf4", "int8"):
        engine = load(folder, precision=precision, slots=1)
        assert engine.card.bytes == pytest.approx(footprint(tensors, config, precision), rel=0.02), precision
        engine.close()


def test_the_demo_model_writes_as_generate_would_and_keeps_its_digit_rule(unpacked_demo: Path) -> None:
    engine = load(unpacked_demo, precision="fp32", slots=2, context=256)
    assert len(engine.tokens("2025", special=False)) == 4
    assert engine.memory()["weights"] == pytest.approx(
        footprint(find_weights(unpacked_demo).tensors, read_folder(unpacked_demo).config, "fp32"), rel=0.02
    )
    prompt = engine.tokens("<|im_start|>user\nName a fruit.<|im_end|>\n<|im_start|>assistant\n", special=True)
    reply = greedy(engine, [prompt], steps=12)[0]
    assert reply == generate(engine, prompt, 12)


def test_a_mixture_of_experts_promises_nothing_exact(tmp_path: Path) -> None:
    options = SIZES | {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None}
    engine = load(write_model(tmp_path, "Mixtral", options), precision="fp32", slots=2)
    shape, why = engine.exact()
    assert shape is None
    assert "experts" in why


# Folders that cannot work: each is refused before weights are read, with what to do.


def sharded(folder: Path) -> Path:
    for file in folder.glob("*.safetensors"):
        file.unlink()
    return write_model(folder, *SHARED["llama"], max_shard_size="100KB")


def without_a_shard(folder: Path) -> None:
    sorted(sharded(folder).glob("model-*.safetensors"))[1].unlink()


def without_an_index(folder: Path) -> None:
    (sharded(folder) / "model.safetensors.index.json").unlink()
    sorted(folder.glob("model-*.safetensors"))[0].unlink()


def with_a_false_index(folder: Path) -> None:
    index = sharded(folder) / "model.safetensors.index.json"
    entries = json.loads(index.read_text())
    entries["weight_map"]["model.lost.weight"] = next(iter(entries["weight_map"].values()))
    index.write_text(json.dumps(entries))


def cut_short(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def cut_in_the_header(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:50])


def with_a_pointer(folder: Path) -> None:
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")


def edit_config(**values: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text()) | values
        (folder / "config.json").write_text(json.dumps(config))

    return edit


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")


def of_integers(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    save_file(tensors | {name: tensors[name].to(torch.int8)}, folder / "model.safetensors", {"format": "pt"})


def without_tokenizer(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()


def adapter(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "some/base"}')


BROKEN: dict[str, tuple[Callable[[Path], Any], str, str]] = {
    "a shard is missing": (without_a_shard, "lacks 1 of", "model's source"),
    "shards without an index": (without_an_index, "lacks 1 of its", "model's source"),
    "an index that is not true": (with_a_false_index, "'model.lost.weight'", "model's source"),
    "cut short": (cut_short, "is cut short", "model's source"),
    "cut in the header": (cut_in_the_header, "is cut short", "model's source"),
    "a pointer": (with_a_pointer, "git-lfs pointer", "lfs pull"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "has no weights", "model's source"),
    "an unknown architecture": (edit_config(model_type="marsupial"), "'marsupial'", "--upgrade transformers"),
    "code of its own": (
        edit_config(model_type="marsupial", auto_map={"AutoModelForCausalLM": "m.M"}), "'marsupial'",
        "--trust-remote-code",
    ),
    "no decoder": (edit_config(model_type="t5", is_encoder_decoder=True), "writes one token", "chat model"),
    "a classifier": (
        edit_config(architectures=["LlamaForSequenceClassification"]), "writes one token", "chat model",
    ),
    "a type that there is not": (edit_config(dtype="float99"), "dtype 'float99'", "float"),
    "integers without a word": (of_integers, "as I8", "repository"),
    "a pickle": (pickled, "pickle only", "--allow-pickle"),
    "no tokenizer": (without_tokenizer, "has no tokenizer", "tokenizer.json"),
    "an adapter": (adapter, "'some/base'", "some/base"),
    "no config": (lambda folder: (folder / "config.json").unlink(), "no config.json", "model folder"),
    "a config that is no JSON": (lambda folder: (folder / "config.json").write_text("{oops"), "not JSON", "source"),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_a_folder_that_cannot_work_is_refused_with_a_remedy(what: str, broken: Path) -> None:
    breaks, message, hint = BROKEN[what]
    breaks(broken)
    with pytest.raises(ModelError, match=message) as caught:
        load(broken)
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("file", "content", "modules", "command"),
    [
        ("tokenizer.model", b"\x0a\x0e\x0a\x05<unk>", ["sentencepiece", "google.protobuf"], "sentencepiece protobuf"),
        ("tokenizer.model", b"IQ== 0\nIg== 1\n", ["tiktoken"], "tiktoken"),
        ("qwen.tiktoken", b"IQ== 0\n", ["tiktoken"], "tiktoken"),
    ],
)
def test_a_tokenizer_without_its_package_names_the_command(
    broken: Path, monkeypatch: pytest.MonkeyPatch, file: str, content: bytes, modules: list[str], command: str
) -> None:
    without_tokenizer(broken)
    (broken / file).write_bytes(content)
    for module in modules:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ModelError, match=modules[0].partition(".")[0]) as caught:
        load(broken)
    assert caught.value.hint == f"pip install {command}"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "fp8"}, "'fp8' is no precision"),
        ({"context": 4096}, "the model's is 1024"),
        ({"budget": 1000}, "the budget is 0.0 MB"),
        ({"compute": "fp8"}, "computes in 'fp8'"),
        ({"slots": 0}, "0 slots"),
    ],
)
def test_what_is_asked_for_must_be_possible(make: Make, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load(make("llama"), **options)
    assert caught.value.hint


def test_a_name_that_is_nowhere_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no folder") as caught:
        load(tmp_path / "nothing")
    assert "ORG/NAME" in caught.value.hint
    with pytest.raises(ModelError, match="not in the hub's cache") as caught:
        load("someone/a-model-that-is-not-here")
    assert caught.value.hint == "jeito pull someone/a-model-that-is-not-here"


def test_a_pickle_runs_when_its_author_is_trusted(broken: Path) -> None:
    weights = load(broken, precision="fp32").model.state_dict()
    (broken / "model.safetensors").unlink()
    torch.save(weights, broken / "pytorch_model.bin")
    engine = load(broken, precision="fp32", allow_pickle=True)
    assert engine.card.facts["format"] == "pickle"
    assert len(greedy(engine, [tokens_of(4)], steps=2)[0]) == 2


def test_weights_that_lack_a_tensor_are_refused_not_filled_with_noise(broken: Path) -> None:
    edit_config(num_hidden_layers=4)(broken)
    with pytest.raises(ModelError, match=r"lacks \d+ of its weights"):
        load(broken)


# Old friends, and tokenizers of other kinds than byte-level BPE in tokenizer.json.


def test_a_model_without_a_template_whose_pad_is_its_end_runs_without_a_word(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """DialoGPT's repository: vocab.json and merges.txt, no template, and one token for start, end and padding."""
    folder = write_model(tmp_path / "dialogpt", *SHARED["gpt2"])
    kept = transformers.PreTrainedTokenizerFast.from_pretrained(folder).backend_tokenizer
    kept.model.save(str(folder))
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json"):
        (folder / name).unlink(missing_ok=True)
    vocabulary = json.loads((folder / "vocab.json").read_text())
    end = len(vocabulary)
    (folder / "vocab.json").write_text(json.dumps(vocabulary | {"<|endoftext|>": end}))
    resized(folder, end + 1)
    (folder / "generation_config.json").unlink()
    edit_config(
        bos_token_id=end, eos_token_id=end, pad_token_id=end, n_ctx=256,
        task_specific_params={"conversational": {"max_length": 1000}},
    )(folder)  # fmt: skip
    capfd.readouterr()
    caplog.clear()
    model = LocalModel(load(folder, notify=lambda text: None), "dialogpt")
    replies = [run("plain+max_new_tokens=5", model, "hello", seed=seed) for seed in range(3)]
    for reply in replies:
        reply.text()
    assert capfd.readouterr() == ("", "")
    assert not [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]
    trace = replies[0].trace
    assert trace.receipt.template == "plain-turns"
    assert any("no chat template" in note for note in trace.receipt.notes)
    assert trace.prompt == "hello<|endoftext|>"
    assert model.prompt(trace.request)[-1] == end
    assert model.card.ends == {end}


def resized(folder: Path, vocabulary: int) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    model.resize_token_embeddings(vocabulary)
    model.save_pretrained(folder)


def without_tokenizer_files(folder: Path) -> Path:
    for file in [*folder.glob("tokenizer*"), *folder.glob("special_tokens_map.json")]:
        file.unlink()
    return folder


def test_a_sentencepiece_file_is_read_and_its_text_comes_back(tmp_path: Path) -> None:
    spm = pytest.importorskip("sentencepiece")
    folder = without_tokenizer_files(write_model(tmp_path / "mistral", *SHARED["mistral"]))
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter([TEXT] * 100), model_prefix=str(folder / "tokenizer"), vocab_size=330, model_type="bpe",
        byte_fallback=True, character_coverage=1.0, unk_id=0, bos_id=1, eos_id=2, pad_id=-1, minloglevel=2,
        normalization_rule_name="identity", remove_extra_whitespaces=False,
    )  # fmt: skip
    (folder / "tokenizer.vocab").unlink()
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True}
        )
    )
    resized(folder, 330)
    edit_config(bos_token_id=1, eos_token_id=2)(folder)
    engine = load(folder)
    for text in ("Once upon a  time", "naïve 🙂 漢字", "a</s>b"):
        ids = engine.tokens(text, special=False)
        # The sign for a space that sentencepiece puts before a text is part of its first token.
        assert engine.text(ids).decode().removeprefix(" ") == text
        assert b"".join(engine.text([token]) for token in ids) == engine.text(ids)
    assert engine.tokens("</s>", special=True)[-1] == 2
    read = transformers_engine.read_card(folder)
    assert (engine.card.bos, engine.card.add_bos) == (read.bos, read.add_bos) == (1, True)
    assert len(greedy(engine, [engine.tokens("Once", special=True)], steps=3)[0]) == 3


def test_a_tekken_file_is_read_and_its_text_comes_back(tmp_path: Path) -> None:
    folder = without_tokenizer_files(write_model(tmp_path / "mistral", *SHARED["mistral"]))
    words = [bytes([byte]) for byte in range(256)] + [b"th", b"he", b"in", b" t", b" a", b"ti", b"me"]
    names = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", *(f"<SPECIAL_{i}>" for i in range(5, 20))]
    (folder / "tekken.json").write_text(
        json.dumps(
            {
                "config": {
                    "pattern": r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
                    "num_vocab_tokens": len(words), "default_vocab_size": len(words) + 20,
                    "default_num_special_tokens": 20, "version": "v11",
                },
                "vocab": [
                    {"rank": rank, "token_bytes": base64.b64encode(word).decode(), "token_str": None}
                    for rank, word in enumerate(words)
                ],
                "special_tokens": [
                    {"rank": rank, "token_str": name, "is_control": True} for rank, name in enumerate(names)
                ],
            }
        )
    )  # fmt: skip
    edit_config(bos_token_id=1, eos_token_id=2)(folder)
    (folder / "generation_config.json").unlink()
    engine = load(folder)
    for text in ("Once upon a time", "naïve 🙂 漢字", "a</s>b"):
        ids = engine.tokens(text, special=False)
        assert engine.text(ids).decode() == text
    assert engine.tokens("[INST]a", special=True)[0] == 3
    assert engine.card.ends == {2}
    assert engine.text([2, 3]) == b""


def test_two_behaviours_share_the_passes_of_a_hugging_face_model(llama: TransformersEngine) -> None:
    model = LocalModel(llama, "llama")
    runs = [run(f"plain+max_new_tokens=8+seed={i}", model, "hello " * (i + 1)) for i in range(4)]
    for _ in together(runs):
        pass
    assert model.decoder.peak == 4
    trace = runs[0].trace
    assert trace.environment["format"] == "safetensors"
    assert trace.environment["precision"] == "fp32"
    assert trace.environment["weights"].keys() == {"float32"}
    assert trace.environment["load_seconds"] > 0
    memory = trace.environment["memory"]
    assert memory.keys() == {"start", "load", "prefill", "decode"}
    assert all(found["resident_peak"] > 0 for found in memory.values())


def test_out_of_memory_in_mid_run_ends_nobody_who_can_go_on(tmp_path: Path) -> None:
    """The youngest gives way and goes on later; alone, a reply that is too long ends, and says why."""
    folder = write_model(tmp_path, "Llama", SIZES | {"max_position_embeddings": 4096})
    engine = load(folder, precision="fp32", slots=4)
    engine._budget = engine.card.bytes + 1_100_000
    model = LocalModel(engine, "tight")
    runs = [run("plain+max_new_tokens=200+logit_bias={1: -100}", model, "word " * 60, seed=i) for i in range(4)]
    for _ in together(runs):
        pass
    assert [one.trace.finish for one in runs] == ["length"] * 4
    alone = run("plain+max_new_tokens=3000+logit_bias={1: -100}", model, "word " * 60, seed=1)
    alone.text()
    assert alone.trace.finish == "memory"
    assert len(alone.trace.tokens) > 200
    assert run("plain+max_new_tokens=5", model, "hi", seed=1).text() is not None


def test_one_text_that_is_left_needs_memory_for_one(tmp_path: Path) -> None:
    """Its row may be the last of four: empty ones before it are given up before a longer text is refused."""
    engine = load(write_model(tmp_path, "Llama", SIZES | {"max_position_embeddings": 4096}), precision="fp32", slots=4)
    engine.extend([Row(slot, tokens_of(20, seed=slot)) for slot in range(4)])
    for slot in range(3):
        engine.truncate(slot, 0)
    text = tokens_of(400, seed=8)
    # Two full rows of 448 positions, one of them for the copy; four would take twice as much.
    engine._budget = engine.card.bytes + 2 * 448 * (2 * 3 * 2 * 16 * 4)
    found = last(engine, 3, text)
    assert engine.memory_of_slots.rows == {3: 0}
    engine._budget = None
    np.testing.assert_allclose(found, last(engine, 0, [*tokens_of(20, seed=3), *text]), atol=1e-4)


def test_a_growth_that_fails_half_way_leaves_every_text_where_it_was(tmp_path: Path) -> None:
    """Rows are closed up before anything grows: a layer that finds no memory must not be the only one that is."""
    engine = load(write_model(tmp_path, "Llama", SIZES), precision="fp32", slots=4)
    texts = {slot: tokens_of(20 + slot, seed=slot) for slot in range(4)}
    engine.extend([Row(slot, text) for slot, text in texts.items()])
    for slot in (0, 2):
        engine.truncate(slot, 0)
    layer = engine.memory_of_slots.layers[1]
    grow = layer.resize

    def fail(rows: int, columns: int) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    layer.resize = fail
    with pytest.raises(MemoryFull):
        engine.extend([Row(1, tokens_of(200, seed=9))])
    layer.resize = grow
    for slot in (3, 1):
        found = last(engine, slot, [5])
        engine.truncate(0, 0)
        np.testing.assert_allclose(found, last(engine, 0, [*texts[slot], 5]), atol=1e-4)


def test_masks_that_old_checkpoints_keep_are_no_reason_to_refuse(make: Make, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(make("gpt-neo"), tmp_path / "old")
    file = folder / "model.safetensors"
    masks = {"transformer.h.0.attn.attention.bias": torch.ones(1, 1, 8, 8, dtype=torch.bool)}
    save_file(load_file(file) | masks, file, {"format": "pt"})
    assert load(folder, precision="fp32", slots=1).card.vocabulary > 0


def test_where_torch_was_loaded_before_it_could_be_made_strict_nothing_is_called_exact(make: Make) -> None:
    script = (
        "import sys, torch\n"
        "from jeito.engines.base import Loading\nfrom jeito.engines.transformers import load\n"
        "print(*load(sys.argv[1], Loading(precision='fp32', slots=2, device='cpu')).exact(), sep='|')"
    )
    environment = {name: value for name, value in os.environ.items() if name != "MKL_CBWR"}
    done = subprocess.run(
        [sys.executable, "-c", script, str(make("llama"))],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    if torch.backends.mkl.is_available():
        assert done.stdout.splitlines()[-1] == "None|torch was loaded before MKL_CBWR=AUTO,STRICT was set"


def test_what_does_not_fit_is_refused_with_what_would(unpacked_demo: Path) -> None:
    for options, hint in (
        ({"precision": "bf16", "budget": 10**9}, "--context"),
        ({"precision": "bf16", "budget": 10**9, "slots": 16}, "--slots"),
        ({"precision": "fp32", "budget": 15 * 10**7}, "--precision nf4"),
        ({"precision": "nf4", "budget": 10**8}, "a smaller model"),
    ):
        with pytest.raises(ModelError, match="the budget is") as caught:
            load(unpacked_demo, **options)
        assert hint in caught.value.hint
    offered = {"precision": "bf16", "budget": 10**9}
    with pytest.raises(ModelError) as caught:
        load(unpacked_demo, **offered)
    context = int(caught.value.hint.partition("--context ")[2].split()[0].rstrip(","))
    engine = load(unpacked_demo, **offered, context=context)
    assert engine.card.context == context
    with pytest.raises(ModelError):
        load(unpacked_demo, **offered, context=context + 64)


def test_the_bench_of_a_gpu_says_that_there_is_none(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU: the bench would measure it")
    done = bench("gpu.py", "--json", tmp_path / "gpu.json")
    assert done.returncode == 3
    assert "no CUDA device" in done.stderr
    assert not (tmp_path / "gpu.json").exists()


def test_the_bench_of_a_gpu_walks_to_its_end_on_a_tiny_model(tmp_path: Path) -> None:
    done = bench("gpu.py", "--small", "--json", tmp_path / "gpu.json")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert abs(found["off"]) < 0.02
    assert found["exact"]["shape"] == "8 to 64 rows"
    assert found["speed"][0]["n"] == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_nf4_on_a_gpu_computes_in_fp16_and_is_metered(make: Make) -> None:
    engine = load(make("llama"), precision="nf4", slots=2)
    last(engine, 0, tokens_of(20))
    assert engine.card.facts["compute"] == "fp16"
    assert engine.memory()["peak"] > 0


def bench(name: str, *words: object) -> "subprocess.CompletedProcess[str]":
    script = Path(__file__).parents[2] / "bench" / name
    return subprocess.run(
        [sys.executable, script, *map(str, words)], capture_output=True, text=True, check=False, timeout=300
    )


def test_a_name_of_the_hub_is_found_in_its_cache(make: Make) -> None:
    import huggingface_hub

    name, commit = "models--someone--tiny", "0" * 40
    cache = Path(huggingface_hub.constants.HF_HUB_CACHE) / name
    shutil.copytree(make("llama"), cache / "snapshots" / commit)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(commit)
    engine = load("someone/tiny", precision="fp32", slots=1)
    assert engine.card.name == "someone/tiny"
    card = transformers_engine.read_card("someone/tiny", Loading(), "main")
    assert card.context == 1024
    with pytest.raises(ModelError, match="not in the hub's cache") as caught:
        transformers_engine.read_card("someone/tiny", Loading(), "other")
    assert caught.value.hint == "jeito pull someone/tiny#other"


def test_a_models_own_code_runs_only_when_trusted_and_the_receipt_says_so(broken: Path) -> None:
    (broken / "own.py").write_text(
        "from transformers import LlamaConfig, LlamaForCausalLM\n\n\n"
        "class OwnConfig(LlamaConfig):\n    model_type = 'own'\n\n\n"
        "class OwnModel(LlamaForCausalLM):\n    config_class = OwnConfig\n"
    )
    edit_config(
        model_type="own", architectures=["OwnModel"],
        auto_map={"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"},
    )(broken)  # fmt: skip
    with pytest.raises(ModelError, match="'own'") as caught:
        load(broken)
    assert "--trust-remote-code" in caught.value.hint
    model = LocalModel(load(broken, precision="fp32", trust_remote_code=True), "own")
    reply = run("plain+max_new_tokens=2", model, "hi", seed=1)
    reply.text()
    assert "the model's own code ran (trust_remote_code)" in reply.trace.receipt.notes


def test_nf4_computes_as_asked_and_can_do_without_its_second_quantisation(tmp_path: Path) -> None:
    folder = write_model(tmp_path, "Llama", SIZES | {"hidden_size": 256, "intermediate_size": 512})
    usual = load(folder, precision="nf4", slots=1)
    computes = "fp16" if torch.cuda.is_available() else "bf16"
    assert (usual.card.facts["compute"], usual.card.facts["double_quantisation"]) == (computes, True)
    other = load(folder, precision="nf4", slots=1, compute="fp32", double_quantisation=False)
    assert (other.card.facts["compute"], str(other.model.dtype)) == ("fp32", "torch.float32")
    quantised = [m for m in other.model.modules() if type(m).__name__ == "Linear4bit"]
    assert quantised
    assert all(m.compute_dtype == torch.float32 for m in quantised)
    # Not by the weights: processors with bf16 instructions have them repacked by their first pass, scales and all.
    doubled = [engine.model.config.quantization_config.bnb_4bit_use_double_quant for engine in (usual, other)]
    assert doubled == [True, False]
    assert usual.card.bytes < other.card.bytes - other.card.bytes // 50
    assert usual.fingerprint() != other.fingerprint()
