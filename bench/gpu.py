"""NF4 on a GPU: python bench/gpu.py [--json FILE]. Without a GPU it says so and exits 3.

Random weights in Mistral-7B's shape are made on the device and written to a temporary folder (15 GB), then loaded as
a user would load them. Measured: load, footprint against the formula, peak memory with 8 slots of 4,096 tokens, tokens
per second beside `generate` in one interleaved run, and whether exact replies are the same alone and among others; then
training on the same weights: peak memory against what was predicted, and tokens per second beside a bare peft loop.
"""

import argparse
import gc
import json
import logging
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import tune
from fit import make
from hugging_face import KNOBS, RAGGED, Bench, ratios

from jeito.engines.base import Loading, Row, Shape
from jeito.engines.folder import read_folder
from jeito.engines.meter import taken
from jeito.engines.training_needs import training_need
from jeito.engines.weights import find_weights, footprint

NO_GPU = 3
MISTRAL = {
    "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8, "vocab_size": 32000, "max_position_embeddings": 32768,
}  # fmt: skip
# The same walk on a CPU in seconds, to test this script where there is no GPU.
SMALL = {
    "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 600, "max_position_embeddings": 1024,
}  # fmt: skip
GIB = 2**30


def write(folder: Path, shape: dict[str, int], device: str) -> None:
    """Random bf16 weights, a shard for each layer, made on the device."""
    import torch
    from safetensors.torch import save_file
    from transformers import MistralConfig

    make(folder, "Llama", {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "vocab_size": 600})
    (folder / "model.safetensors").unlink()
    config = MistralConfig(**shape, sliding_window=None, bos_token_id=256, eos_token_id=257, tie_word_embeddings=False)
    config.architectures, config.dtype = ["MistralForCausalLM"], torch.bfloat16
    config.save_pretrained(folder)
    width, inner, head = shape["hidden_size"], shape["intermediate_size"], shape["hidden_size"]
    head //= shape["num_attention_heads"]
    kept = head * shape["num_key_value_heads"]

    def normal(*size: int) -> Any:
        return torch.empty(size, dtype=torch.bfloat16, device=device).normal_(0, 0.02)

    def ones(size: int) -> Any:
        return torch.ones(size, dtype=torch.bfloat16, device=device)

    parts = {
        "outer": {
            "model.embed_tokens.weight": normal(shape["vocab_size"], width), "model.norm.weight": ones(width),
            "lm_head.weight": normal(shape["vocab_size"], width),
        }
    }  # fmt: skip
    index: dict[str, str] = {}
    for number in range(shape["num_hidden_layers"]):
        name = f"model.layers.{number}"
        parts[name] = {
            f"{name}.self_attn.q_proj.weight": normal(width, width),
            f"{name}.self_attn.k_proj.weight": normal(kept, width),
            f"{name}.self_attn.v_proj.weight": normal(kept, width),
            f"{name}.self_attn.o_proj.weight": normal(width, width),
            f"{name}.mlp.gate_proj.weight": normal(inner, width),
            f"{name}.mlp.up_proj.weight": normal(inner, width),
            f"{name}.mlp.down_proj.weight": normal(width, inner),
            f"{name}.input_layernorm.weight": ones(width),
            f"{name}.post_attention_layernorm.weight": ones(width),
        }
        save_file({key: tensor.cpu() for key, tensor in parts[name].items()}, folder / f"{name}.safetensors")
        index |= dict.fromkeys(parts.pop(name), f"{name}.safetensors")
    save_file({key: tensor.cpu() for key, tensor in parts["outer"].items()}, folder / "outer.safetensors")
    index |= dict.fromkeys(parts["outer"], "outer.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))


def fill(bench: Bench, slots: int, length: int) -> float:
    """Seconds to fill every slot with a prompt of this length, and to decode 16 tokens in all of them."""
    engine, chunk = bench.engine, bench.engine.card.batch
    ids = (bench.ids * (length // len(bench.ids) + 1))[: length - 16]
    begun = time.perf_counter()
    for slot in range(slots):
        for at in range(0, len(ids), chunk):
            engine.extend([Row(slot, ids[at : at + chunk], 1)])
    for step in range(16):
        engine.extend([Row(slot, [100 + step]) for slot in range(slots)])
    seconds = time.perf_counter() - begun
    for slot in range(slots):
        engine.truncate(slot, 0)
    return seconds


def alike(bench: Bench, shape: Shape) -> dict[str, Any]:
    """Eight exact replies, each alone and then all at once: how many are the same, and tokens per second of both."""
    cases = [bench.case(index, 40 + 9 * index, 24, knobs) for index, knobs in enumerate(KNOBS)]

    def replies(chosen: list[Any]) -> list[list[int]]:
        bench.model.decoder.memory.forget()
        waiting = [bench.model.decoder.submit(case.prompt, case.sampling, shape, None) for case in chosen]
        while not all(one.done for one in waiting):
            bench.model.decoder.step()
        return [list(one.reply) for one in waiting]

    begun = time.perf_counter()
    alone = [replies([case])[0] for case in cases]
    middle = time.perf_counter()
    together = replies(cases)
    end, tokens = time.perf_counter(), sum(map(len, together))
    same = sum(one == other for one, other in zip(alone, together, strict=True))
    return {"same": same, "of": len(cases), "alone": tokens / (middle - begun), "together": tokens / (end - middle)}


def train(folder: Path, device: str, checkpointing: bool) -> dict[str, Any]:
    """Three steps of one row in NF4: the most that the device held, and what was predicted."""
    let_go(device)
    before = taken(device)
    base, settings, model = tune.opened(str(folder), "nf4", checkpointing=checkpointing)
    tune.training(model, settings, tune.rows(600, 3), Path(tempfile.mkdtemp()) / "checkpoint.safetensors").run()
    need = training_need(
        base.outline, "nf4", rank=settings.rank, targets=frozenset(), length=tune.LENGTH, learned=tune.LENGTH // 2,
        checkpointing=checkpointing, device=device,
    )  # fmt: skip
    found: dict[str, Any] = {"checkpointing": checkpointing, "predicted": need._asdict()}
    if device == "cuda":
        peak = taken(device)["peak"] - before["allocated"]
        found |= {"peak": peak, "off": need.peak / peak - 1}
    return found


def let_go(device: str) -> None:
    gc.collect()
    if device == "cuda":
        import torch

        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--small", action="store_true", help="a tiny model on the CPU: tests this script, no more")
    options = parser.parse_args()
    import torch

    if not options.small and not torch.cuda.is_available():
        print("there is no CUDA device here: nothing was measured", file=sys.stderr)
        return NO_GPU
    logging.disable(logging.WARNING)
    device = "cpu" if options.small else "cuda"
    shape, context, repeats = (SMALL, 256, 1) if options.small else (MISTRAL, 4096, 3)
    result: dict[str, Any] = {
        "device": "cpu" if options.small else torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "shape": shape,
    }
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write(folder, shape, device)
        result["writing_seconds"] = time.perf_counter() - begun
        let_go(device)
        weights, config = find_weights(folder), read_folder(folder).config
        result["predicted"] = {word: footprint(weights.tensors, config, word) for word in ("fp32", "bf16", "nf4")}
        bench = Bench(folder, Loading(precision="nf4", slots=8, context=context, device=device))
        card = bench.engine.card
        result["loaded"] = {"bytes": card.bytes, **card.facts}
        result["off"] = card.bytes / result["predicted"]["nf4"] - 1
        let_go(device)
        result["fill_seconds"] = fill(bench, 8, context)
        result["memory"] = taken(device)
        exact, why = bench.engine.exact()
        result["exact"] = {"shape": str(exact) if exact else None, "why": why}
        if exact:
            result["exact"] |= alike(bench, exact)
        plan = [
            ("nf4, 1 stream against generate", 1.0, [bench.case(1, 48, 64)]),
            ("nf4, 8 equal against its static batch", 1.0, [bench.case(i, 48, 48) for i in range(8)]),
            ("nf4, 8 ragged against its static batch", 1.5, [bench.case(i, *sizes) for i, sizes in enumerate(RAGGED)]),
        ]
        if options.small:
            plan = [(name, wanted, [bench.case(i, 12, 4) for i in range(2)]) for name, wanted, _ in plan[:1]]
        result["speed"] = [
            ratios(name, wanted, cases, bench.ours, bench.generate, repeats) for name, wanted, cases in plan
        ]
        bench.model.close()
        del bench, plan
        result["training"] = [train(folder, device, again) for again in (False, True)]
        let_go(device)
        result["training_speed"] = tune.speed("nf4", str(folder))
    result["seconds"] = time.perf_counter() - begun
    peak = result["memory"].get("peak", result["memory"].get("resident_peak", 0))
    print(
        f"{result['device']}: NF4 weights {card.bytes / GIB:.2f} GiB ({result['off']:+.2%} of the formula; bf16 "
        f"{result['predicted']['bf16'] / GIB:.2f}), peak {peak / GIB:.2f} GiB with 8 slots of {context} tokens; "
        f"exact: {result['exact']}; training: {result['training']}, {result['training_speed']}; "
        f"{result['seconds']:.0f} s in all"
    )
    if options.json:
        options.json.write_text(json.dumps(result, indent=1, default=str))
    return 0


if __name__ == "__main__":
    sys.exit(main())
