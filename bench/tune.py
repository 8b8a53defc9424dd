"""Training measured: python bench/tune.py [speed] [memory] [kill] [--in bf16,nf4] [--json FILE].

speed: tokens a second on the demo model, ours and a bare peft loop's, turn by turn in one process on the same rows.
memory: the peak that was predicted, and what a process of its own grows by. kill: trainings of a tiny model in fp32,
each killed at a random moment and gone on with, beside one that nobody disturbed: the same adapter, bit for bit?
"""

import argparse
import ctypes
import hashlib
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

# As jeito sets them before torch is loaded.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

LENGTH, TEXTS, EACH = 512, 8, 64
"""Tokens of a row; texts in it; tokens of a text, half of which are learned."""
TURNS = 5
KILLS = 10
SHAPES: dict[str, dict[str, Any] | None] = {
    "demo": None,
    "wide": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 8, "vocab_size": 8000},
    "deep": {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 32, "vocab_size": 16000},
}
TINY = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
SHARED = {"num_attention_heads": 8, "num_key_value_heads": 4, "max_position_embeddings": 1024, "bos_token_id": 256,
          "eos_token_id": 257}  # fmt: skip


def rows(vocabulary: int, count: int) -> list[Any]:
    """Texts of random tokens; eight fill a row."""
    from jeito.tune.masks import Text

    draw = random.Random(1)
    learned = (False,) * (EACH // 2) + (True,) * (EACH // 2)
    return [Text(tuple(draw.randrange(vocabulary) for _ in range(EACH)), learned) for _ in range(count * TEXTS)]


def opened(folder: str, precision: str, **given: Any) -> tuple[Any, Any, Any]:
    """The base, settings for one row a step, and the model with an adapter on top."""
    from jeito.engines.base import Loading
    from jeito.tune.base import load_base, read_base
    from jeito.tune.qlora import adapt
    from jeito.tune.settings import suited

    base = read_base(folder, Loading(precision=precision))
    parameters = sum(tensor.parameters for tensor in base.weights.tensors)
    own = {"batch": TEXTS, "length": LENGTH, "epochs": 1, "every": 10**6, **given}
    settings = suited(parameters, TEXTS, own)
    return base, settings, adapt(load_base(base, precision, Loading()), settings)


def training(model: Any, settings: Any, texts: list[Any], file: Path) -> Any:
    from jeito.tune.qlora import Training

    return Training(model, settings, texts, [], file, "bench")


def speed(precision: str, folder: str = "demo") -> dict[str, Any]:
    """Seconds of a step of one row: ours, and what peft's users write themselves."""
    import torch

    _, settings, model = opened(folder, precision)
    texts = rows(min(40000, model.config.vocab_size), 1)
    ours = training(model, settings, texts, Path(tempfile.mkdtemp()) / "checkpoint.safetensors")
    ours.begin()
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=settings.rate)
    device = model.device
    ids = torch.tensor([[token for text in texts for token in text.tokens]], device=device)
    learned = [token if on else -100 for text in texts for token, on in zip(*text, strict=True)]
    labels = torch.tensor([learned], device=device)

    def bare() -> None:
        model(input_ids=ids, labels=labels, use_cache=False).loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, settings.clip)
        optimizer.step()
        optimizer.zero_grad()

    taken: dict[str, list[float]] = {"ours": [], "bare": []}
    for turn in range(TURNS + 1):
        for name, step in (("ours", lambda: ours.step(texts, settings.rate)), ("bare", bare)):
            start = time.perf_counter()
            step()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if turn:  # the first makes what is made once
                taken[name].append(time.perf_counter() - start)
    ratios = [b / a for a, b in zip(taken["ours"], taken["bare"], strict=True)]
    found = {name: LENGTH / statistics.median(seconds) for name, seconds in taken.items()}
    return {"precision": precision, **found, "ratio": statistics.median(ratios), "ratios": ratios}


def memory(folder: str, first: str, precision: str, again: str) -> dict[str, Any]:
    """In this process: what it grows by from before the base is loaded until after three steps.

    `first` is trained on before: what the libraries take whatever is trained is no part of it.
    """
    from jeito.engines.meter import taken
    from jeito.engines.training_needs import training_need

    checkpointing = again == "True"
    run(first, precision, checkpointing)
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = taken("cpu")["resident"]
    base, settings = run(folder, precision, checkpointing)
    peak = taken("cpu")["resident_peak"] - before
    need = training_need(
        base.outline, precision, rank=settings.rank, targets=frozenset(), length=LENGTH, learned=LENGTH // 2,
        checkpointing=checkpointing,
    )  # fmt: skip
    found = {"precision": precision, "checkpointing": checkpointing, "measured": peak}
    return {**found, "predicted": need.peak, "off": need.peak / peak - 1, "parts": need._asdict()}


def run(folder: str, precision: str, checkpointing: bool) -> tuple[Any, Any]:
    base, settings, model = opened(folder, precision, checkpointing=checkpointing)
    made = training(model, settings, rows(8000, 3), Path(tempfile.mkdtemp()) / "checkpoint.safetensors")
    made.run()
    return base, settings


def make(folder: Path, shape: dict[str, Any]) -> str:
    """A random model of this shape, in bf16, with a tokenizer of bytes."""
    import torch
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    config = transformers.LlamaConfig(**SHARED, **shape)
    transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    fast.save_pretrained(folder)
    return str(folder)


def kill(seed: int) -> dict[str, Any]:
    """Ten trainings killed at random moments and gone on with: how many give the undisturbed one's bits."""
    draw, same, moments = random.Random(seed), 0, list[float]()
    with tempfile.TemporaryDirectory() as folder:
        base = make(Path(folder) / "base", {**(SHAPES["wide"] or {}), **TINY})
        data = Path(folder) / "chat.jsonl"
        data.write_text("".join(_line(number) for number in range(40)))
        whole, seconds = _train(base, data, Path(folder) / "home")
        wanted = _digest(whole)
        while len(moments) < KILLS:
            home = Path(tempfile.mkdtemp(dir=folder))
            moment = round(draw.uniform(0.3, 1.0) * seconds, 2)
            process = subprocess.Popen(_command(base, data), env=_env(home), stderr=subprocess.PIPE, text=True)
            try:
                process.wait(moment)
                continue  # it was faster than the one before: nothing was killed
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
            finally:
                process.communicate()
            step = _step(home / "tuning" / "kept.safetensors")
            moments.append(moment)
            alike = _digest(_train(base, data, home)[0]) == wanted
            same += alike
            print(f"  killed after {moment} s, at step {step} or later: {'the same' if alike else 'OTHER'}", flush=True)
    return {"kills": KILLS, "same": same, "moments": moments, "seconds": round(seconds, 2)}


def _step(file: Path) -> int:
    """Of the checkpoint that was left; 0: none was."""
    from jeito.tune.checkpoint import read

    kept = read(file)
    return kept.state.step if kept else 0


def _line(number: int) -> str:
    said = [{"role": "user", "content": f"What is {number}?"}, {"role": "assistant", "content": f"A number: {number}."}]
    return json.dumps({"messages": said}) + "\n"


def _command(base: str, data: Path) -> list[str]:
    return [sys.executable, "-m", "jeito.cli.main", "tune", "plain", "-m", base, "--precision", "fp32", "--data",
            str(data), "--name", "kept", "--epochs", "60", "--batch", "4", "--every", "3", "--dropout", "0.1",
            "--no-prove", "--patience", "1000"]  # fmt: skip


def _env(home: Path) -> dict[str, str]:
    return {**os.environ, "JEITO_HOME": str(home)}


def _train(base: str, data: Path, home: Path) -> tuple[Path, float]:
    start = time.monotonic()
    subprocess.run(_command(base, data), env=_env(home), check=True, capture_output=True)
    return home / "adapters" / "kept", time.monotonic() - start


def _digest(adapter: Path) -> str:
    """Of the weights and the curve."""
    curve = json.loads((adapter / "jeito.json").read_text())["training"]["curve"]
    weights = (adapter / "adapter_model.safetensors").read_bytes()
    return hashlib.sha256(weights + json.dumps(curve).encode()).hexdigest()


def apart(*arguments: str) -> dict[str, Any]:
    """Measured in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--measure", *arguments], check=True, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="*", default=["speed", "memory", "kill"])
    parser.add_argument("--in", dest="precisions", default="bf16,nf4")
    parser.add_argument("--only", default=",".join(SHAPES))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--measure", nargs="+")
    asked = parser.parse_args()
    if asked.measure:
        what, *rest = asked.measure
        print(json.dumps(speed(*rest) if what == "speed" else memory(*rest)))
        return
    found: dict[str, list[Any]] = {what: [] for what in asked.what}
    folder = Path(tempfile.mkdtemp())
    shapes = {name: SHAPES[name] for name in asked.only.split(",")} if "memory" in found else {}
    folders = {name: make(folder / name, shape) if shape else "demo" for name, shape in shapes.items()}
    first = make(folder / "first", {**(SHAPES["wide"] or {}), **TINY}) if shapes else ""
    for precision in asked.precisions.split(","):
        if "speed" in found:
            one = apart("speed", precision)
            found["speed"].append(one)
            said = f"ours {one['ours']:.0f} tokens/s, bare peft {one['bare']:.0f}, ratio {one['ratio']:.2f}"
            print(f"speed {precision}: {said} (of {TURNS} turns)", flush=True)
        for name in folders:
            for again in (False, True):
                one = apart("memory", folders[name], first, precision, str(again))
                found["memory"].append({"model": name, **one})
                how = "layers twice" if again else "layers kept"
                said = f"{one['measured'] / 1e6:.0f} MB, predicted {one['predicted'] / 1e6:.0f} ({one['off']:+.1%})"
                print(f"memory {name} {precision}, {how}: {said}", flush=True)
    if "kill" in found:
        found["kill"].append(one := kill(asked.seed))
        print(f"kill: {one['same']} of {one['kills']} resumed trainings gave the undisturbed adapter, bit for bit")
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
