"""Adapters and control vectors on both engines: what they do, what is refused, and that they never mix."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
hf = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")
gguf = pytest.importorskip("gguf")

from safetensors.torch import load_file, save_file  # noqa: E402

from jeito.behaviour.load import load as load_behaviour  # noqa: E402
from jeito.decode.local import LocalModel  # noqa: E402
from jeito.engines import transformers as transformers_engine  # noqa: E402
from jeito.engines.adapters import CARD, CONFIG, WEIGHTS  # noqa: E402
from jeito.engines.base import PLAIN, Loading, Row, Tuning  # noqa: E402
from jeito.engines.llama_tuning import Base, gguf_pairs, read_base, write_lora  # noqa: E402
from jeito.engines.llamacpp import LlamaEngine  # noqa: E402
from jeito.engines.transformers import TransformersEngine  # noqa: E402
from jeito.engines.transformers_tuning import Tuner  # noqa: E402
from jeito.engines.weights import find_weights  # noqa: E402
from jeito.errors import EngineError, JeitoError, UnsupportedError  # noqa: E402
from jeito.run.run import Run, run, together  # noqa: E402
from jeito.tune.base import load_base  # noqa: E402
from jeito.tune.base import read_base as read_model  # noqa: E402
from jeito.types import Adapter, Steering  # noqa: E402
from tests.engines import tiny_gguf  # noqa: E402

# What peft still calls, of a transformers that has given it another name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
SIZES = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4,
         "num_key_value_heads": 2, "max_position_embeddings": 512}  # fmt: skip
EVERYWHERE = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ASK = "What is the capital of France?"


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def tiny(unpacked_demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random llama of three layers with the demo model's tokenizer."""
    folder = shutil.copytree(
        unpacked_demo, tmp_path_factory.mktemp("tiny") / "base", ignore=shutil.ignore_patterns("*.safetensors")
    )
    torch.manual_seed(0)
    config = hf.LlamaConfig(**SIZES, vocab_size=49152, bos_token_id=1, eos_token_id=2, initializer_range=0.3)
    hf.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


Make = Callable[..., Path]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Writes an adapter as peft does, with random weights large enough to change a reply; `spread` is of its B."""

    def write(base: Path, name: str, seed: int, spread: float, **options: Any) -> Path:
        folder = tmp_path_factory.mktemp("adapters") / name
        model = hf.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        config = peft.LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": EVERYWHERE, **options})
        adapted = peft.get_peft_model(model, config)
        torch.manual_seed(seed)
        for key, weight in adapted.named_parameters():
            if ".lora_" in key:
                torch.nn.init.normal_(weight, std=spread if ".lora_B" in key else 0.05)
        adapted.save_pretrained(folder)
        return folder

    return write


@pytest.fixture(scope="module")
def of_tiny(tiny: Path, make: Make) -> dict[str, Path]:
    return {name: make(tiny, name, seed, 0.3) for seed, name in enumerate(("a", "b"))}


LLAMA = tiny_gguf.FAMILIES["llama"]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalModel]:
    """A random GGUF of 4 bits."""
    file = tmp_path_factory.mktemp("small") / "small.gguf"
    engine = LlamaEngine(tiny_gguf.write(tiny_gguf.made(LLAMA), LLAMA, file, "Q4_0"))
    yield LocalModel(engine, "small")
    engine.close()


@pytest.fixture(scope="module")
def of_small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {name: tmp_path_factory.mktemp("of_small") / name for name in ("a", "b")}
    for seed, folder in enumerate(folders.values()):
        tiny_gguf.adapted(LLAMA, folder, seed=seed)
    return folders


@pytest.fixture(scope="module")
def of_demo(unpacked_demo: Path, make: Make) -> dict[str, Path]:
    return {name: make(unpacked_demo, name, seed, 0.08) for seed, name in enumerate(("a", "b"))}


@pytest.fixture(scope="module")
def one_tiny_engine(tiny: Path) -> Iterator[TransformersEngine]:
    engine = transformers_engine.load(tiny, Loading(precision="fp32"))
    yield engine
    engine.close()


@pytest.fixture
def tiny_engine(one_tiny_engine: TransformersEngine) -> TransformersEngine:
    for slot in range(one_tiny_engine.card.slots):
        one_tiny_engine.truncate(slot, 0)
    return one_tiny_engine


@pytest.fixture(scope="module")
def demo_as_folder(unpacked_demo: Path) -> Iterator[TransformersEngine]:
    engine = transformers_engine.load(unpacked_demo, Loading(precision="fp32", context=512))
    yield engine
    engine.close()


def said(*paths: Path, scale: float = 1.0) -> list[Adapter]:
    return [Adapter(path=str(path), scale=scale) for path in paths]


def logits(engine: Any, tuning: Tuning, text: str = ASK, want: int = 1) -> Any:
    """[want, vocabulary] after a text, in an empty slot."""
    tokens = engine.tokens(text, special=True)
    engine.truncate(0, 0)
    found = engine.extend([Row(0, tokens, want or len(tokens), tuning)])[0].astype(np.float64)
    engine.truncate(0, 0)
    return found


def kl(p: Any, q: Any) -> float:
    p, q = (row - row.max() - np.log(np.exp(row - row.max()).sum()) for row in (p, q))
    return float((np.exp(p) * (p - q)).sum())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_rslora": True, "r": 9},
        {"rank_pattern": {"v_proj": 2}, "alpha_pattern": {r"layers\.1\.self_attn\.q_proj": 40, "o_proj": 1}},
    ],
    ids=["alike", "rslora", "patterns"],
)
def test_an_adapter_does_what_peft_does_with_it(
    tiny: Path, tiny_engine: TransformersEngine, make: Make, options: dict[str, Any]
) -> None:
    folder = make(tiny, "one", 5, 0.3, **options)
    before = logits(tiny_engine, PLAIN, want=0)
    found = logits(tiny_engine, tiny_engine.tune(said(folder), []), want=0)
    theirs = peft.PeftModel.from_pretrained(hf.AutoModelForCausalLM.from_pretrained(tiny), folder)
    with torch.no_grad():
        expected = theirs(torch.tensor([tiny_engine.tokens(ASK, special=True)])).logits[0].numpy()
    assert np.abs(found - before).max() > 1
    assert np.allclose(found, expected, atol=1e-3)
    assert np.array_equal(logits(tiny_engine, PLAIN, want=0), before), "nothing of it is left"


def test_several_adapters_act_together_each_at_its_scale(
    tiny: Path, tiny_engine: TransformersEngine, of_tiny: dict[str, Path]
) -> None:
    wanted = [*said(of_tiny["a"], scale=0.5), *said(of_tiny["b"], scale=-1.5)]
    found = logits(tiny_engine, tiny_engine.tune(wanted, []))
    model = hf.AutoModelForCausalLM.from_pretrained(tiny)
    for one in wanted:
        held = load_file(Path(one.path) / WEIGHTS)
        for name in [name for name in held if ".lora_A" in name]:
            module = model.get_submodule(name.removeprefix("base_model.model.").removesuffix(".lora_A.weight"))
            module.weight.data += one.scale * 2 * held[name.replace(".lora_A", ".lora_B")] @ held[name]
    with torch.no_grad():
        expected = model(torch.tensor([tiny_engine.tokens(ASK, special=True)])).logits[0, -1:].numpy()
    assert np.allclose(found, expected, atol=2e-3)


@pytest.mark.parametrize("precision", ["nf4", "int8"])
def test_quantised_weights_take_an_adapter_as_peft_gives_it(
    tiny: Path, of_tiny: dict[str, Path], precision: str
) -> None:
    pytest.importorskip("bitsandbytes")
    loading = Loading(precision=precision, compute="fp32")
    model = load_base(read_model(str(tiny), loading), precision, loading)
    tuner = Tuner(model, "tiny", lambda: "")

    def ask(asked: Any) -> Any:
        with torch.no_grad():
            return asked(torch.tensor([[1, *range(400, 420)]])).logits[0].float().numpy()

    before = ask(model)
    tuner.use(tuner.tune(said(of_tiny["a"]), []))
    found = ask(model)
    tuner.use(PLAIN)
    expected = ask(peft.PeftModel.from_pretrained(model, of_tiny["a"]))
    assert np.abs(found - before).max() > 1
    assert np.corrcoef((found - before).ravel(), (expected - before).ravel())[0, 1] > 0.99


def test_an_adapter_named_twice_acts_twice_as_strongly(
    tiny_engine: TransformersEngine, of_tiny: dict[str, Path]
) -> None:
    twice = tiny_engine.tune(said(of_tiny["a"], of_tiny["a"], scale=0.5), [])
    assert twice == tiny_engine.tune(said(of_tiny["a"]), [])


def test_both_engines_give_an_adapter_the_same_first_token(
    demo_as_folder: TransformersEngine, demo_model: LocalModel, of_demo: dict[str, Path], warm_home: Path
) -> None:
    llama = demo_model.decoder.engine
    noise = kl(logits(demo_as_folder, PLAIN)[0], logits(llama, PLAIN)[0])
    for wanted in (said(of_demo["a"]), said(of_demo["b"], scale=-0.7), said(*of_demo.values())):
        one, other = (logits(engine, engine.tune(wanted, []))[0] for engine in (demo_as_folder, llama))
        assert kl(one, logits(demo_as_folder, PLAIN)[0]) > 0.1, "it does something"
        assert kl(one, other) < 3 * noise + 0.01


def test_queries_and_keys_are_interleaved_only_where_llamacpp_turns_neighbours(
    of_tiny: dict[str, Path], demo: Path
) -> None:
    shapes = {"attn_q": (64, 64), "attn_k": (32, 64), "attn_v": (32, 64), "attn_output": (64, 64),
              "ffn_gate": (128, 64), "ffn_up": (128, 64), "ffn_down": (64, 128)}  # fmt: skip
    held = next(iter(read_base(demo).tensors.values()))
    tensors = {f"blk.{n}.{key}.weight": held._replace(shape=shape) for key, shape in shapes.items() for n in range(3)}
    bases = [Base(name, 3, 64, 4, 2, tensors, turns) for name, turns in (("llama", True), ("qwen2", False))]
    interleaved, halves = (gguf_pairs(of_tiny["a"], base, "tiny") for base in bases)
    for name, pair in halves.items():
        rows = np.arange(len(pair.b))
        if name.endswith(("attn_q.weight", "attn_k.weight")):
            # Head by head (16 rows each), the first half's rows alternate with the second's.
            rows = np.concatenate([start + np.arange(16).reshape(2, 8).T.ravel() for start in rows[::16]])
        assert np.array_equal(interleaved[name].b, pair.b[rows])
        assert np.array_equal(interleaved[name].a, pair.a)


def test_a_converted_adapter_is_kept_and_a_changed_one_is_converted_anew(
    small: LocalModel, of_small: dict[str, Path], home: Path, tmp_path: Path
) -> None:
    engine = LlamaEngine(small.decoder.engine.path, context=64, slots=1)
    folder = shutil.copytree(of_small["a"], tmp_path / "mine")
    first = engine.tune(said(folder), [])
    (file,) = (home / "loras").iterdir()
    written = file.stat().st_mtime_ns
    assert engine.tune(said(folder), []) == first
    assert file.stat().st_mtime_ns == written
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | {"lora_alpha": 80}))
    assert engine.tune(said(folder), []) != first
    assert len(list((home / "loras").iterdir())) == 2
    engine.close()


def test_a_lora_that_is_a_gguf_already_is_taken_as_it_is(
    small: LocalModel, of_small: dict[str, Path], tmp_path: Path
) -> None:
    engine = small.decoder.engine
    file = tmp_path / "mine.gguf"
    write_lora(gguf_pairs(of_small["a"], read_base(engine.path), "small"), "llama", file)
    expected = logits(engine, engine.tune(said(of_small["a"]), []))
    assert np.array_equal(logits(engine, engine.tune(said(file), [])), expected)


def behaviour(*adapters: Adapter, steering: tuple[Steering, ...] = (), tokens: int = 12, exact: str = "true") -> Any:
    loaded = load_behaviour("plain", [f"max_new_tokens={tokens}", f"exact={exact}"])
    changed = loaded.behaviour.model_copy(update={"adapter": adapters, "steering": steering})
    return loaded._replace(behaviour=changed)


def ids(one: Run) -> list[int]:
    return [token.id for token in one.trace.tokens]


@pytest.fixture(params=["llamacpp", "transformers"])
def model_and_adapters(request: pytest.FixtureRequest) -> tuple[LocalModel, dict[str, Path]]:
    if request.param == "llamacpp":
        return request.getfixturevalue("small"), request.getfixturevalue("of_small")
    return LocalModel(request.getfixturevalue("tiny_engine"), "tiny"), request.getfixturevalue("of_tiny")


def test_replies_under_different_adapters_at_once_are_what_each_is_alone(
    model_and_adapters: tuple[LocalModel, dict[str, Path]],
) -> None:
    model, adapters = model_and_adapters
    a, b = said(*adapters.values())
    kinds = [behaviour(), behaviour(a), behaviour(b), behaviour(a.model_copy(update={"scale": 0.5}))]
    alone = []
    for kind in kinds:
        for seed in (0, 1):
            model.decoder.memory.forget()
            one = run(kind, model, ASK, seed=seed)
            one.text()
            alone.append(ids(one))
    assert len({tuple(reply) for reply in alone}) > 4
    crowd = [run(kind, model, ASK, seed=seed) for kind in kinds for seed in (0, 1)]
    list(together(crowd))
    assert [ids(one) for one in crowd] == alone
    assert all(one.trace.receipt.exact.held for one in crowd)
    assert model.decoder.peak == 8


def test_a_prefix_is_reused_only_under_the_same_adapters_and_scale(
    model_and_adapters: tuple[LocalModel, dict[str, Path]],
) -> None:
    model, adapters = model_and_adapters
    model.decoder.memory.forget()
    a, b = said(*adapters.values())

    def cached(*wanted: Adapter) -> int | None:
        one = run(behaviour(*wanted, tokens=1, exact="false"), model, ASK, seed=0)
        one.text()
        return one.trace.usage.cached

    assert cached() == 0
    assert cached(a) == 0
    assert cached(a.model_copy(update={"scale": 2.0})) == 0
    assert cached(a, b) == 0
    assert cached(a)
    assert cached()


def test_the_receipt_names_the_digest_and_the_scale(tiny_engine: TransformersEngine, of_tiny: dict[str, Path]) -> None:
    one = run(behaviour(*said(of_tiny["a"], scale=0.5)), LocalModel(tiny_engine, "tiny"), ASK, seed=0)
    one.text()
    (applied,) = tiny_engine.tune(said(of_tiny["a"], scale=0.5), []).adapters
    assert f"adapter 'a': sha256 {applied.digest[:12]}, scale 0.5" in one.trace.receipt.notes


def test_a_call_has_one_tuning(tiny_engine: TransformersEngine, of_tiny: dict[str, Path]) -> None:
    tuned = tiny_engine.tune(said(of_tiny["a"]), [])
    with pytest.raises(EngineError, match="one pass has one"):
        tiny_engine.extend([Row(0, [5], 1, tuned), Row(1, [5], 1)])


def test_a_model_that_takes_no_adapter_refuses_the_behaviour(toy: LocalModel, of_tiny: dict[str, Path]) -> None:
    with pytest.raises(UnsupportedError, match="adapters"):
        run(behaviour(*said(of_tiny["a"])), toy, ASK)


def _config(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / CONFIG).write_text(json.dumps(json.loads((folder / CONFIG).read_text()) | changes))

    return change


def _tensors(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        held = load_file(folder / WEIGHTS)
        change(held)
        save_file(held, folder / WEIGHTS)

    return apply


def _pickle(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "adapter_model.bin")


def _nan(held: dict[str, Any]) -> None:
    next(iter(held.values()))[0, 0] = float("nan")


def _other_layer(held: dict[str, Any]) -> None:
    for name in [name for name in held if ".layers.2." in name]:
        held[name.replace(".layers.2.", ".layers.99.")] = held.pop(name)


def _wider(held: dict[str, Any]) -> None:
    name = next(name for name in held if "q_proj.lora_A" in name)
    held[name] = torch.zeros(4, 640)


def _half(held: dict[str, Any]) -> None:
    del held[next(name for name in held if "lora_B" in name)]


def _magnitude(held: dict[str, Any]) -> None:
    held["base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector"] = torch.zeros(64)


BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "no folder": (shutil.rmtree, "there is no adapter"),
    "no config": (lambda folder: (folder / CONFIG).unlink(), "has no adapter_config.json"),
    "no weights": (lambda folder: (folder / WEIGHTS).unlink(), "lacks its weights"),
    "a pickle": (_pickle, "as a pickle only"),
    "another kind": (_config(peft_type="IA3"), "'IA3' adapter"),
    "dora": (_config(use_dora=True), "use_dora"),
    "whole modules": (_config(modules_to_save=["lm_head"]), "modules_to_save"),
    "bias": (_config(bias="all"), "bias"),
    "another base": (_config(init_lora_weights="pissa_niter_4"), "init_lora_weights=pissa_niter_4"),
    "another tensor": (_tensors(_magnitude), "lora_magnitude_vector"),
    "half a pair": (_tensors(_half), "do not fit together"),
    "no numbers": (_tensors(_nan), "no numbers"),
    "layers that are not there": (_tensors(_other_layer), "that .* lacks, such as"),
    "another shape": (_tensors(_wider), "does not fit"),
    "a cut file": (lambda folder: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-9]), "is cut short"),
    "a broken card": (lambda folder: (folder / CARD).write_text('{"made": 3}'), "cannot be read"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.parametrize("engine", ["llamacpp", "transformers"])
def test_what_cannot_be_used_is_refused_by_name(
    kind: str, engine: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    if engine == "llamacpp":
        made, inner = request.getfixturevalue("of_small"), request.getfixturevalue("small").decoder.engine
    else:
        made, inner = request.getfixturevalue("of_tiny"), request.getfixturevalue("tiny_engine")
    folder = shutil.copytree(made["b"], tmp_path / "mine")
    breaks, message = BROKEN[kind]
    breaks(folder)
    with pytest.raises(JeitoError, match=message) as refused:
        inner.tune(said(folder), [])
    assert refused.value.hint
    assert np.isfinite(logits(inner, PLAIN)).all(), "the engine goes on"


def test_an_adapter_made_on_other_weights_is_refused_by_its_card(
    tiny: Path, tiny_engine: TransformersEngine, of_tiny: dict[str, Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(of_tiny["a"], tmp_path / "mine")
    card = {"made": "2026-01-01T00:00:00+00:00", "base": "ORG/OTHER", "base_digest": "0" * 64}
    (folder / CARD).write_text(json.dumps(card))
    with pytest.raises(JeitoError, match=r"'ORG/OTHER'.*other weights"):
        tiny_engine.tune(said(folder), [])
    (folder / CARD).write_text(json.dumps(card | {"base_digest": find_weights(tiny).digest()}))
    assert tiny_engine.tune(said(folder), [])


def test_a_gguf_that_is_no_adapter_or_for_another_model_is_refused(
    small: LocalModel, tiny_engine: TransformersEngine, of_small: dict[str, Path], tmp_path: Path
) -> None:
    engine = small.decoder.engine
    pairs = gguf_pairs(of_small["a"], read_base(engine.path), "small")
    write_lora(pairs, "qwen2", tmp_path / "other.gguf")
    write_lora({name.replace("blk.2", "blk.77"): pair for name, pair in pairs.items()}, "llama", tmp_path / "far.gguf")
    for file, message in (
        (engine.path, "is no adapter"),
        (tmp_path / "other.gguf", "'qwen2'"),
        (tmp_path / "far.gguf", r"blk\.77.*there is no such tensor"),
    ):
        with pytest.raises(JeitoError, match=message):
            engine.tune(said(file), [])
    with pytest.raises(JeitoError, match="takes an adapter's folder"):
        tiny_engine.tune(said(tmp_path / "far.gguf"), [])


def test_an_architecture_whose_rows_may_lie_otherwise_is_not_guessed_at(of_tiny: dict[str, Path]) -> None:
    with pytest.raises(JeitoError, match="'falcon'"):
        gguf_pairs(of_tiny["a"], Base("falcon", 3, 64, 4, 2, {}, False), "other")


def write_vector(file: Path, directions: dict[int, Any], architecture: str = "controlvector") -> Path:
    writer = gguf.GGUFWriter(file, architecture)
    for layer, direction in directions.items():
        writer.add_tensor(f"direction.{layer}", direction)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def directions_of(layers: int, width: int, size: float, at: range) -> dict[int, Any]:
    draw = np.random.default_rng(3)
    return {layer: (size * draw.normal(size=width)).astype(np.float32) for layer in at if layer < layers}


def test_both_engines_steer_alike(
    demo_as_folder: TransformersEngine, demo_model: LocalModel, warm_home: Path, tmp_path: Path
) -> None:
    llama = demo_model.decoder.engine

    def change(engine: Any, number: int, at: range) -> Any:
        file = write_vector(tmp_path / f"{number}.gguf", dict(zip(at, directions, strict=False)))
        wanted = [Steering(vector=str(file), scale=-2.0)]
        return logits(engine, engine.tune([], wanted))[0] - logits(engine, PLAIN)[0]

    directions = list(directions_of(30, 576, 2.0, range(10)).values())
    for number, at in enumerate((range(1, 2), range(10, 20), range(28, 29))):
        one, other = (change(engine, number, at) for engine in (demo_as_folder, llama))
        assert np.corrcoef(one, other)[0, 1] > 0.98
        assert abs(np.std(one) / np.std(other) - 1) < 0.1
        beside = change(demo_as_folder, number + 10, range(at.start + 1, at.stop + 1))
        assert np.corrcoef(beside, other)[0, 1] < 0.95, "it matters which layer a direction is for"


def test_a_direction_is_added_to_what_its_layer_passes_on(tiny_engine: TransformersEngine, tmp_path: Path) -> None:
    last = directions_of(3, 64, 1.0, range(2, 3))
    file = write_vector(tmp_path / "last.gguf", last)
    tokens = tiny_engine.tokens(ASK, special=True)
    state = tiny_engine.tuner.states(tokens)[2, -1]
    model = tiny_engine.model
    with torch.no_grad():
        expected = model.lm_head(model.model.norm(torch.from_numpy(state + 0.5 * last[2]))).numpy()
    found = logits(tiny_engine, tiny_engine.tune([], [Steering(vector=str(file), scale=0.5)]))[0]
    assert np.allclose(found, expected, atol=1e-3)


def test_steered_and_adapted_replies_at_once_are_what_each_is_alone(
    tiny_engine: TransformersEngine, of_tiny: dict[str, Path], tmp_path: Path
) -> None:
    file = write_vector(tmp_path / "v.gguf", directions_of(3, 64, 8.0, range(1, 3)))
    vectors = tuple(Steering(vector=str(file), scale=scale) for scale in (1.0, -1.0))
    adapters = said(of_tiny["a"])
    kinds = [behaviour(*one, steering=two) for one in ((), adapters) for two in ((), vectors[:1], vectors[1:])]
    model = LocalModel(tiny_engine, "tiny")
    alone = []
    for kind in kinds:
        one = run(kind, model, ASK, seed=3)
        one.text()
        alone.append(ids(one))
    assert len({tuple(reply) for reply in alone}) == len(kinds)
    crowd = [run(kind, model, ASK, seed=3) for kind in kinds]
    list(together(crowd))
    assert [ids(one) for one in crowd] == alone


@pytest.mark.parametrize(
    ("directions", "architecture", "message"),
    [
        (None, "", "there is no control vector"),
        ({1: np.ones(64, np.float32)}, "llama", "no control vector"),
        ({0: np.ones(64, np.float32)}, "controlvector", "no direction"),
        ({1: np.ones(64, np.float16)}, "controlvector", "no direction"),
        ({1: np.full(64, np.nan, np.float32)}, "controlvector", "numbers"),
        ({}, "controlvector", "no directions"),
        ({1: np.ones(65, np.float32)}, "controlvector", "65 values"),
        ({3: np.ones(64, np.float32)}, "controlvector", "layers up to 3"),
    ],
)
def test_a_control_vector_that_is_none_or_for_another_model_is_refused(
    tiny_engine: TransformersEngine, directions: Any, architecture: str, message: str, tmp_path: Path
) -> None:
    file = tmp_path / "v.gguf"
    if directions is not None:
        write_vector(file, directions, architecture)
    with pytest.raises(JeitoError, match=message) as refused:
        tiny_engine.tune([], [Steering(vector=str(file))])
    assert refused.value.hint
