"""Memory predicted and measured: python bench/fit.py [--only wide,deep] [--in nf4] [--context 512] [--json FILE].

Random models of six shapes, made on the spot, in fp32, bf16 and NF4, and the demo model's GGUF; each in a process of
its own, with all slots filled. Weights and texts are the bytes of their tensors; the peak is what the process grows by.
"""

import argparse
import json
import logging
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

SLOTS = 4
SHARED: dict[str, Any] = {
    "num_attention_heads": 8, "num_key_value_heads": 4, "max_position_embeddings": 1024, "bos_token_id": 256,
    "eos_token_id": 257,
}  # fmt: skip
# Wide and shallow, narrow and deep, a large vocabulary, tied or not, windows, experts, no gate: what is quantised, and
# what a text takes, is another share of each.
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "wide": ("Llama", {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 12, "vocab_size": 8000}),
    "deep": ("Llama", {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 40, "vocab_size": 16000}),
    "wordy": ("Qwen2", {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 8, "vocab_size": 128000,
                        "tie_word_embeddings": True}),
    "sliding": ("Gemma3Text", {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 18, "head_dim": 128,
                               "vocab_size": 48000, "sliding_window": 128, "query_pre_attn_scalar": 128}),
    "experts": ("Qwen3Moe", {"hidden_size": 512, "intermediate_size": 1024, "moe_intermediate_size": 512,
                             "num_hidden_layers": 12, "num_experts": 16, "num_experts_per_tok": 2, "head_dim": 64,
                             "vocab_size": 16000}),
    "plain": ("GPT2", {"n_embd": 1024, "n_layer": 16, "n_head": 16, "n_positions": 1024, "vocab_size": 32000}),
}  # fmt: skip


def make(folder: Path, family: str, shape: dict[str, Any]) -> None:
    """A random model of this shape, in bf16, with a tokenizer of bytes."""
    import torch
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    shared = {} if family == "GPT2" else SHARED
    config = getattr(transformers, f"{family}Config")(**shared, **shape)
    transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    fast.save_pretrained(folder)


def fill(engine: Any, slots: int, each: int) -> None:
    """So many random tokens in every slot."""
    from random import Random

    from jeito.engines.base import Row

    draw, done = Random(1), 0
    while done < each:
        count = min(engine.card.batch // slots, each - done)
        rows = [Row(slot, [draw.randrange(engine.card.vocabulary) for _ in range(count)]) for slot in range(slots)]
        engine.extend(rows)
        done += count


def measure_folder(folder: Path, precision: str, first: Path, context: int) -> dict[str, int]:
    """In this process. `first` is loaded before: what any model makes the libraries load is no part of this one."""
    from jeito.engines.base import Loading
    from jeito.engines.meter import taken
    from jeito.engines.transformers import load, read_outline

    need = read_outline(folder).need(precision, slots=SLOTS, context=context)
    load(first, Loading(precision=precision, slots=1, context=64)).close()
    before = taken("cpu")["resident"]
    engine = load(folder, Loading(precision=precision, slots=SLOTS, context=context))
    fill(engine, SLOTS, context)
    peak = taken("cpu")["resident_peak"] - before
    found = {"weights": engine.card.bytes, "texts": engine.memory_of_slots.bytes(), "peak": peak}
    return {**found, **{f"{part}_predicted": getattr(need, part) for part in found}}


def measure_demo(context: int) -> dict[str, int]:
    """Its slots share a context."""
    from jeito.engines.demo import demo_file
    from jeito.engines.llama_file import read_outline
    from jeito.engines.llamacpp import LlamaEngine, library
    from jeito.engines.meter import taken

    need = read_outline(demo_file()).need(context=SLOTS * context)
    library()
    before = taken("cpu")["resident"]
    engine = LlamaEngine(demo_file(), context=SLOTS * context, slots=SLOTS)
    fill(engine, SLOTS, context)
    peak = taken("cpu")["resident_peak"] - before
    # The library says the bytes of its cache to nobody: what the process grew by holds it.
    return {
        "weights": engine.card.bytes, "peak": peak, "weights_predicted": need.weights, "peak_predicted": need.peak,
    }  # fmt: skip


def measured(context: int, *arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, __file__, "--context", str(context), "--measure", *arguments],
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    parts = [part for part in ("weights", "texts", "peak") if part in found]
    return found | {f"{part}_off": found[f"{part}_predicted"] / found[part] - 1 for part in parts}


def report(name: str, precision: str, found: dict[str, Any]) -> dict[str, Any]:
    said = ", ".join(
        f"{part} {found[part] / 1e6:.1f} MB ({found[f'{part}_off']:+.2%})"
        for part in ("weights", "texts", "peak")
        if part in found
    )
    print(f"{name:8} {precision:5} {said}", flush=True)
    return {"model": name, "precision": precision, **found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help="names of models, with commas")
    parser.add_argument("--in", dest="precisions", default="fp32,bf16,nf4", help="precisions, with commas")
    parser.add_argument("--context", type=int, default=512, help="tokens of each slot")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--measure", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    if options.measure is not None:
        folder, precision, first = [*options.measure, "", "", ""][:3]
        context = options.context
        found = measure_folder(Path(folder), precision, Path(first), context) if folder else measure_demo(context)
        print(json.dumps(found))
        return
    results = [report("demo", "Q4_1", measured(options.context))]
    with tempfile.TemporaryDirectory() as place:
        first = Path(place) / "first"
        small = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "vocab_size": 300}
        make(first, "Llama", small)
        for name in (options.only or ",".join(SHAPES)).split(","):
            folder = Path(place) / name
            make(folder, *SHAPES[name])
            for precision in options.precisions.split(","):
                results.append(report(name, precision, measured(options.context, str(folder), precision, str(first))))
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
