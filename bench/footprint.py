"""Bytes of weights in memory beside those predicted from the headers: python bench/footprint.py [--json FILE].

Random models of three shapes, in fp32, bf16 and NF4, made on the spot.
"""

import argparse
import json
import logging
import tempfile
from pathlib import Path
from typing import Any

# Wide and shallow, narrow and deep, a large vocabulary: what is quantised is another share of each.
SHAPES = {
    "wide": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 6, "vocab_size": 8000},
    "deep": {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 24, "vocab_size": 16000},
    "wordy": {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 8, "vocab_size": 96000},
}
SHARED = {"num_attention_heads": 8, "num_key_value_heads": 4, "max_position_embeddings": 512}


def make(folder: Path, shape: dict[str, int]) -> None:
    """A random Llama of this shape, in bf16, with a tokenizer of bytes."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

    config = LlamaConfig(**SHARED, **shape, bos_token_id=256, eos_token_id=257, tie_word_embeddings=False)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    fast.save_pretrained(folder)


def measure(folder: Path, precision: str) -> dict[str, Any]:
    from jeito.engines.base import Loading
    from jeito.engines.folder import read_folder
    from jeito.engines.transformers import load
    from jeito.engines.weights import find_weights, footprint

    predicted = footprint(find_weights(folder).tensors, read_folder(folder).config, precision)
    engine = load(folder, Loading(precision=precision, slots=1))
    found = engine.card.bytes
    engine.close()
    return {"precision": precision, "measured": found, "predicted": predicted, "off": found / predicted - 1}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    results = []
    for name, shape in SHAPES.items():
        with tempfile.TemporaryDirectory() as folder:
            make(Path(folder), shape)
            found = {precision: measure(Path(folder), precision) for precision in ("fp32", "bf16", "nf4")}
        nf4 = found["nf4"]["measured"]
        for one in found.values():
            print(
                f"{name:6} {one['precision']:5} {one['measured'] / 1e6:8.1f} MB, predicted "
                f"{one['predicted'] / 1e6:8.1f} ({one['off']:+.2%}); NF4 takes {nf4 / one['measured']:.0%} of it",
                flush=True,
            )
            results.append({"shape": name, **one})
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
