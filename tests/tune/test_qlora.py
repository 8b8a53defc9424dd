"""Training: the loss that it takes, what stops it, and that a killed one goes on as if nothing had been."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
hf = pytest.importorskip("transformers")
pytest.importorskip("peft")

from jeito.engines.adapters import outline_of, read_pairs  # noqa: E402
from jeito.engines.base import Loading  # noqa: E402
from jeito.errors import EngineError, InputError  # noqa: E402
from jeito.tune.adapters import kept  # noqa: E402
from jeito.tune.before_after import _weighed  # noqa: E402
from jeito.tune.checkpoint import Point  # noqa: E402
from jeito.tune.masks import Text  # noqa: E402
from jeito.tune.qlora import Trained, Training, adapt, keeps_apart, measuring  # noqa: E402
from jeito.tune.settings import Settings, rate_at, rows_of, steps_of, suited  # noqa: E402
from tests.decode.test_tool_prompts import ENDS  # noqa: E402

# What peft still calls, of a transformers that has given it another name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "max_position_embeddings": 1024}  # fmt: skip
TEXTS = [
    Text(tuple((7 * at + number) % 90 for at in range(8 + number)), (False,) * 4 + (True,) * (4 + number))
    for number in range(10)
]
PROMPTS = Path(__file__).parents[2] / "recipes" / "numbered" / "cases.jsonl"
SETTINGS = Settings(rank=4, rate=1e-2, epochs=3, batch=4, length=64, every=2, dropout=0.1, patience=100)


def tiny(**more: Any) -> Any:
    torch.manual_seed(0)
    config = hf.LlamaConfig(**{**SIZES, "vocab_size": 96, "bos_token_id": 1, "eos_token_id": 2, **more})
    return hf.AutoModelForCausalLM.from_config(config).requires_grad_(False)


def training(
    file: Path, settings: Settings = SETTINGS, held_out: Sequence[Text] = TEXTS[:3], heard: Any = None,
    model: Any = None,
) -> Training:  # fmt: skip
    made = adapt(model or tiny(), settings)
    return Training(made, settings, TEXTS[3:], held_out, file, settings.model_dump_json(), heard=heard)


def same(one: Trained, other: Trained) -> bool:
    return one.state == other.state and all(torch.equal(one.weights[name], other.weights[name]) for name in one.weights)


def test_every_epoch_learns_from_every_text_once_in_an_order_of_its_own() -> None:
    settings = Settings(epochs=2, batch=4, seed=5)
    steps = steps_of(settings, 10)
    assert [len(step) for step in steps] == [4, 4, 2, 4, 4, 2]
    first, second = [*chain(*steps[:3])], [*chain(*steps[3:])]
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second
    assert steps != steps_of(settings.model_copy(update={"seed": 6}), 10)


def test_the_rate_rises_in_a_line_and_falls_along_a_cosine() -> None:
    rates = [rate_at(Settings(rate=1.0, warm_up=0.2), step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.05)
    assert max(rates) == rates[20] == 1.0
    assert rates[60] == pytest.approx(0.5)
    assert 0 < rates[99] < 0.001
    assert all(one < other for one, other in pairwise(rates[:20]))
    assert all(one > other for one, other in pairwise(rates[20:]))


def test_rows_hold_every_text_once_and_no_more_than_fits() -> None:
    lengths = [60, 10, 33, 31, 20, 64, 5]
    rows = rows_of(lengths, 64)
    assert sorted(chain(*rows)) == list(range(7))
    assert all(sum(lengths[at] for at in row) <= 64 for row in rows)
    assert len(rows) == 4, "223 tokens in rows of 64"


def test_defaults_suit_the_size_and_what_was_given_stands() -> None:
    small, large = suited(135_000_000, 100, {}), suited(7 * 10**9, 10_000, {"rank": 64})
    assert (small.rank, small.alpha, small.rate, small.batch) == (8, 16.0, 1e-3, 10)
    assert (large.rank, large.alpha, large.rate, large.batch) == (64, 128.0, 2e-4, 16)


WINDOW = {**SIZES, "vocab_size": 96, "head_dim": 8, "sliding_window": 8}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("LlamaConfig", {**SIZES, "vocab_size": 96}),
    "windows": ("Gemma3TextConfig", WINDOW),
    "positions": ("GPT2Config", {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 96, "n_positions": 256}),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_texts_that_share_a_row_give_the_gradient_of_texts_alone(family: str, tmp_path: Path) -> None:
    kind, sizes = FAMILIES[family]
    gradients = []
    for packed in (True, False):
        torch.manual_seed(0)
        model = hf.AutoModelForCausalLM.from_config(getattr(hf, kind)(**sizes)).requires_grad_(False).eval()
        one = training(tmp_path / "none", SETTINGS.model_copy(update={"dropout": 0.0}), model=model)
        one.begin()
        assert one.packed
        one.packed = packed
        rows = one._rows(TEXTS)
        assert (len(rows) < len(TEXTS)) == packed
        with measuring(one.model):  # GPT-2 has dropout of its own
            loss = sum(one._loss(row) for row in rows)
        loss.backward()
        gradients.append([weight.grad.clone() for weight in one._weights.values()] + [loss.detach()])
    for a, b in zip(*gradients, strict=True):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-4)


def test_the_loss_is_of_learned_tokens_alone_as_transformers_counts_it(tmp_path: Path) -> None:
    one = training(tmp_path / "none", SETTINGS.model_copy(update={"dropout": 0.0}))
    one.begin()
    text = TEXTS[5]
    labels = [token if learned else -100 for token, learned in zip(*text, strict=True)]
    theirs = one.model(input_ids=torch.tensor([text.tokens]), labels=torch.tensor([labels])).loss
    assert float(one._loss([text]).detach()) / text.learns == pytest.approx(float(theirs.detach()), rel=1e-5)


def test_a_model_with_a_state_keeps_no_texts_apart_and_gets_each_alone() -> None:
    assert keeps_apart(tiny())
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 96, "state_size": 4}
    mamba = hf.AutoModelForCausalLM.from_config(hf.MambaConfig(**sizes))
    assert not keeps_apart(mamba)
    with pytest.raises(InputError, match="peft cannot adapt"):
        adapt(mamba, SETTINGS)


def test_layers_that_are_computed_twice_give_the_same_step(tmp_path: Path) -> None:
    found = []
    for again in (False, True):
        settings = SETTINGS.model_copy(update={"checkpointing": again, "dropout": 0.0, "epochs": 1})
        found.append(training(tmp_path / str(again), settings).run())
    assert torch.allclose(*(next(iter(one.weights.values())) for one in found), atol=1e-6)


class Broken(Exception):
    pass


@pytest.mark.parametrize("at", [1, 2, 3, 4, 5])
def test_a_training_that_was_broken_off_ends_bit_for_bit_as_an_undisturbed_one(at: int, tmp_path: Path) -> None:
    whole = training(tmp_path / "whole").run()

    def breaks(point: Point, steps: int) -> None:
        if point.step == at:
            raise Broken

    with pytest.raises(Broken):
        training(tmp_path / "broken", heard=breaks).run()
    assert (tmp_path / "broken").is_file() == (at >= SETTINGS.every)
    torch.manual_seed(99)  # another process draws otherwise
    steps: list[int] = []
    resumed = training(tmp_path / "broken", heard=lambda point, _: steps.append(point.step)).run()
    assert same(whole, resumed)
    assert steps[0] == at // 2 * 2 + 1, "what was learned before the checkpoint is not learned again"


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    training(tmp_path / "file").run()
    with pytest.raises(InputError, match="another base, other data or other settings") as refused:
        training(tmp_path / "file", SETTINGS.model_copy(update={"rank": 2})).run()
    assert "--restart" in refused.value.hint
    (tmp_path / "file").write_bytes(b"what is this")
    with pytest.raises(InputError, match="cannot be read"):
        training(tmp_path / "file").run()


def test_it_stops_where_the_held_out_loss_falls_no_more_and_keeps_the_best(tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"rate": 0.3, "epochs": 40, "patience": 2, "every": 1, "dropout": 0.0})
    other = [Text(tuple((31 * at * at) % 90 for at in range(20)), (True,) * 20)]
    found = training(tmp_path / "file", settings, other).run()
    assert found.finish == "early"
    losses = [point.held_out for point in found.state.curve]
    assert found.state.best_loss == min(loss for loss in losses if loss is not None)
    assert found.state.step == (found.state.best or 0) + 2
    again = training(tmp_path / "none", settings.model_copy(update={"patience": 100}), other)
    again.begin()
    again.settings = settings
    for weight, best in zip(again._weights.values(), found.weights.values(), strict=True):
        with torch.no_grad():
            weight.copy_(best)
    assert again._held_out() == pytest.approx(found.state.best_loss)


def test_a_loss_that_is_no_number_stops_it_and_what_was_good_is_kept(tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"rate": 1e30, "warm_up": 0.0})
    found = training(tmp_path / "file", settings, held_out=()).run()
    assert found.finish == "nan"
    assert 0 < found.state.step < 6
    model = tiny()
    good = training(tmp_path / "good", model=model)
    good.begin()
    for weight, kept_one in zip(good._weights.values(), found.weights.values(), strict=True):
        with torch.no_grad():
            weight.copy_(kept_one)
    assert torch.tensor(good._held_out()).isfinite(), "not those that the loss was no number with"
    broken = tiny()
    broken.model.norm.weight[0] = float("nan")
    with pytest.raises(EngineError, match="no number at the first step") as refused:
        training(tmp_path / "other", model=broken).run()
    assert "--rate" in refused.value.hint
    assert not (tmp_path / "other").exists()


def test_a_held_out_loss_that_is_no_number_is_never_the_best(tmp_path: Path) -> None:
    model = tiny()
    model.model.embed_tokens.weight[95] = float("nan")
    found = training(tmp_path / "file", held_out=[*TEXTS[:2], Text((1, 2, 95, 3), (True,) * 4)], model=model).run()
    assert (found.finish, found.state.step, found.state.best_loss) == ("nan", 1, None)
    assert not (tmp_path / "file").exists()


def test_targets_that_the_model_lacks_are_named_with_those_it_has() -> None:
    with pytest.raises(InputError, match="no linear layer is called 'q_prog'") as refused:
        adapt(tiny(), SETTINGS.model_copy(update={"targets": ("v_proj", "q_prog")}))
    assert "q_proj" in refused.value.hint
    adapted = adapt(tiny(), SETTINGS.model_copy(update={"targets": ("v_proj",)}))
    learned = {name.split(".lora_")[0].rpartition(".")[2] for name, weight in adapted.named_parameters()
               if weight.requires_grad}  # fmt: skip
    assert learned == {"v_proj"}


def test_a_look_at_what_is_held_out_leaves_nf4_weights_such_as_can_be_learned_through(
    base: Path, tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes")
    from jeito.tune.base import load_base, read_base

    found = read_base(str(base), Loading(precision="nf4"))
    one = training(tmp_path / "none", SETTINGS, model=load_base(found, "nf4", Loading()))
    one.begin()
    before = one._copy()
    for _ in range(2):
        assert one._held_out() > 0
        assert one.step(TEXTS[3:], 1e-2) is not None
    moved = [not torch.equal(before[name], weight) for name, weight in one._weights.items() if ".lora_B" in name]
    assert len(moved) == 14
    assert all(moved)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of bytes, with a template that marks turns."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    folder = tmp_path_factory.mktemp("tiny") / "base"
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: at for at, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = hf.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", additional_special_tokens=["<|im_start|>"]
    )
    fast.chat_template = ENDS["plain"][0]
    fast.save_pretrained(folder)
    tiny(vocab_size=258, bos_token_id=None, eos_token_id=256).save_pretrained(folder)
    return folder


@pytest.fixture
def chat(tmp_path: Path) -> Path:
    file = tmp_path / "chat.jsonl"
    lines = [
        [{"role": "user", "content": f"What is {n}?"}, {"role": "assistant", "content": f"It is {n}."}]
        for n in range(12)
    ]
    file.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in lines))
    return file


Jeito = Callable[..., tuple[int, str, str]]


def test_the_command_makes_an_adapter_that_says_how_it_was_made_and_what_it_changed(
    base: Path, chat: Path, tmp_path: Path, jeito: Jeito
) -> None:
    cases = [json.dumps({"name": f"case {n}", "prompt": f"What is {50 + n}?"}) + "\n" for n in range(3)]
    (tmp_path / "cases.jsonl").write_text("".join(cases))
    (tmp_path / "short.yaml").write_text(
        "system: Be short.\nsampling: {max_new_tokens: 6}\nchecks: [{words: {max: 3}, at_least: 0.5}]\n"
    )
    short = tmp_path / "short.yaml"
    code, out, err = jeito(
        "tune", short, "-m", f"{base}@transformers:fp32", "--data", chat, "--epochs", 2, "--cases",
        tmp_path / "cases.jsonl", "--repeats", 1, "--other", "plain+max_new_tokens=6", "--other-cases", "train:en:3",
        "--report", tmp_path / "page.html", "--json",
    )  # fmt: skip
    assert code == 0, err
    (adapter,) = kept()
    assert (adapter.name, adapter.rank, adapter.base, adapter.behaviour) == (
        "short", 8, f"{base}@transformers:fp32", str(short),
    )  # fmt: skip
    found = json.loads(out)
    facts = found["card"]["training"]
    assert facts["precision"] == "fp32"
    assert (facts["texts"], facts["held_out_texts"], facts["steps"]) == (9, 3, len(facts["curve"]))
    assert facts["curve"][-1]["loss"] < facts["curve"][0]["loss"]
    assert facts["memory"]["predicted"] > 0
    pairs = read_pairs(outline_of(Path(adapter.path)))
    assert len(pairs) == 14
    assert all(abs(pair.b).max() > 0 for pair in pairs.values())
    proof = found["proof"]
    assert [(one["a"], one["b"]) for one in proof["weighed"]] == [
        ("base", "adapter"), ("base + prompt", "adapter"), ("base + prompt", "adapter + prompt"),
    ]  # fmt: skip
    assert all(one["runs"] == one["cases"] == 3 for one in proof["weighed"])
    assert proof["verdict"] == "no difference shown", "of three cases"
    assert proof["saved"] > 3
    assert proof["reading"]["perplexity_a"] != proof["reading"]["perplexity_b"]
    assert proof["effects"][0]["behaviour"] == "plain+max_new_tokens=6"
    assert "adapter against base" in (tmp_path / "page.html").read_text()
    code, _, err = jeito("tune", short, "-m", base, "--data", chat)
    assert code == 64
    assert "there is an adapter 'short' already" in err


@pytest.mark.parametrize(
    ("words", "said", "hint"),
    [
        (["--budget", "200kB", "--precision", "fp32"], "and there are 0.2 MB", "--precision nf4"),
        (["--targets", "q_prog"], "no linear layer is called 'q_prog'", "q_proj"),
        (["--length", "16"], "no text of 9 to learn from fits 16 tokens", "--length 41"),
        (["--length", "100000"], "the longest text is 1024", "--length 1024"),
        (["--name", "a/b"], "no name for a folder", "--name"),
        (["-m", "toy"], "'toy' cannot be trained", "-m demo"),
        (["-m", "demo@llamacpp"], "cannot be trained", "-m demo"),
        (["--cases", "none.jsonl"], "there is no file 'none.jsonl'", "a family"),
        (["--report", "page.html"], "nothing to compare on", "--cases"),
        (["--cases", str(PROMPTS)], "'plain' has no checks, and the cases expect nothing", "--no-prove"),
        (["--rate", "-1"], "--rate -1.0: input should be greater than 0", "without --rate"),
        (["--warm-up", "1"], "--warm-up 1.0: input should be less than 1", "without --warm-up"),
        (["--precision", "fp31"], "'fp31' is no precision", "fp32"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_is_refused_with_what_would_help(
    words: list[str], said: str, hint: str, base: Path, chat: Path, jeito: Jeito
) -> None:
    given = [] if "-m" in words else ["-m", str(base)]
    code, _, err = jeito("tune", "plain", "--data", chat, *given, *words)
    assert code == 64
    assert said in err
    assert hint in err.partition("try:")[2]
    assert not kept()


def test_a_killed_command_goes_on_to_the_same_adapter(base: Path, chat: Path, home: Path, jeito: Jeito) -> None:
    words = ["tune", "plain", "-m", f"{base}@transformers:fp32", "--data", str(chat), "--epochs", "40", "--batch", "3",
             "--every", "3", "--dropout", "0.1", "--patience", "100"]  # fmt: skip
    command = [sys.executable, "-m", "jeito.cli.main", *words, "--name", "killed"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        while not process.stderr.readline().startswith("step 6 "):
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert (home / "tuning" / "killed.safetensors").is_file()
    assert jeito(*words, "--name", "killed")[0] == 0
    assert jeito(*words, "--name", "whole")[0] == 0
    one, other = (home / "adapters" / name for name in ("killed", "whole"))
    assert (one / "adapter_model.safetensors").read_bytes() == (other / "adapter_model.safetensors").read_bytes()
    curves = [json.loads((path / "jeito.json").read_text())["training"]["curve"] for path in (one, other)]
    assert curves[0] == curves[1]
    assert not (home / "tuning" / "killed.safetensors").exists()
    code, _, err = jeito(*words, "--name", "whole")
    assert code == 0
    assert "was made of just this before" in err
    assert "step 3 " not in err, "killed while it compared, it goes on with that"
    assert jeito(*words[:-2], "--name", "whole")[0] == 64, "another patience may be another adapter"


def test_a_verdict_is_an_interval_on_one_side_of_zero() -> None:
    clusters = list(range(20))
    none, all_of_them, some = [0.0] * 20, [1.0] * 20, [0.0, 1.0] * 10
    assert _weighed("a", "b", none, all_of_them, clusters, 3).verdict == "better"
    assert _weighed("a", "b", all_of_them, none, clusters, 3).verdict == "worse"
    assert _weighed("a", "b", some, some[::-1], clusters, 3).verdict == "no difference shown"
    unmeasured = _weighed("a", "b", none, [None] * 20, clusters, 3)
    assert (unmeasured.verdict, unmeasured.rate_b) == ("no difference shown", None)
