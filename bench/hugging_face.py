"""Tokens per second beside transformers' own `generate` and its continuous batching, on the demo model.

All in one process, in turns: python bench/hugging_face.py [--repeats 3] [--precisions fp32,bf16] [--json FILE].
Ours is the whole product: engine, decoder, sampler, text. A ratio above 1 says that ours is faster.
"""

import argparse
import json
import logging
import statistics
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from jeito.decode.local import LocalModel
from jeito.engines.base import Loading
from jeito.engines.transformers import TransformersEngine, load
from jeito.types import Sampling

STORY = "The lighthouse keeper looked out over the dark sea and thought of the ships that had passed. "
# Lengths of prompts, and of replies, of eight requests that came from eight people.
RAGGED = [(16, 96), (32, 24), (384, 16), (64, 64), (24, 80), (200, 32), (96, 16), (48, 48)]
KNOBS = [(0.7, 40, 0.95), (0.3, 20, 0.8), (1.0, 50, 0.9), (0.9, 0, 0.95), (0.2, 10, 0.7), (1.2, 60, 0.99),
         (0.5, 40, 0.9), (0.8, 30, 0.95)]  # fmt: skip


class Case(NamedTuple):
    """One request: tokens of the prompt, tokens of the reply, sampling."""

    prompt: list[int]
    tokens: int
    sampling: Sampling


class Bench:
    """The model, once as ours and once as its library has it."""

    def __init__(self, target: str | Path, loading: Loading) -> None:
        self.engine: TransformersEngine = load(target, loading)
        self.model = LocalModel(self.engine, str(target))
        self.ids = self.engine.tokens(STORY * 40, special=False)

    def case(self, index: int, length: int, tokens: int, knobs: tuple[float, int, float] | None = None) -> Case:
        temperature, top_k, top_p = knobs or (0.0, 0, 1.0)
        sampling = Sampling(
            temperature=temperature, top_k=top_k, top_p=top_p, min_new_tokens=tokens, max_new_tokens=tokens, seed=index
        )
        # Each begins with a token of its own, so that nothing can be shared.
        return Case([100 + index, *self.ids[index : index + length - 1]], tokens, sampling)

    def ours(self, cases: list[Case]) -> float:
        """Seconds for all; prompts are given as tokens, past the template."""
        self.model.decoder.memory.forget()
        decoder = self.model.decoder
        begun = time.perf_counter()
        waiting = [decoder.submit(case.prompt, case.sampling, None, None) for case in cases]
        while not all(one.done for one in waiting):
            decoder.step()
        seconds = time.perf_counter() - begun
        for one, case in zip(waiting, cases, strict=True):
            assert len(one.reply) == case.tokens, (len(one.reply), case.tokens)
        return seconds

    def generate(self, cases: list[Case]) -> float:
        """The same by one static batch, padded on the left; it runs until the longest reply is done."""
        import torch

        longest = max(len(case.prompt) for case in cases)
        rows = [[0] * (longest - len(case.prompt)) + case.prompt for case in cases]
        device = self.engine.model.device
        ids = torch.tensor(rows, device=device)
        mask = torch.tensor(
            [[0] * (longest - len(case.prompt)) + [1] * len(case.prompt) for case in cases],
            device=device,
        )
        tokens = max(case.tokens for case in cases)
        begun = time.perf_counter()
        found = self.engine.model.generate(
            ids, attention_mask=mask, do_sample=False, max_new_tokens=tokens, min_new_tokens=tokens, pad_token_id=0
        )
        found = found.cpu()  # a GPU may still be at it
        seconds = time.perf_counter() - begun
        assert found.shape[1] == longest + tokens
        return seconds

    def continuous(self, cases: list[Case]) -> float:
        """The same by transformers' continuous batching, with sampling values for each request."""
        from transformers import ContinuousBatchingConfig, GenerationConfig

        model = self.engine.model
        before = model.config._attn_implementation
        most = max(case.tokens for case in cases)
        config = GenerationConfig(
            do_sample=True, temperature=0.7, top_k=40, top_p=0.9, max_new_tokens=most, eos_token_id=-1, pad_token_id=0
        )
        how = ContinuousBatchingConfig(per_request_processors=True, num_blocks=64, max_batch_tokens=512)
        try:
            with model.continuous_batching_context_manager(
                generation_config=config, continuous_batching_config=how, block=True, timeout=10
            ) as manager:
                begun = time.perf_counter()
                for case in cases:
                    knobs = case.sampling
                    manager.add_request(
                        case.prompt, max_new_tokens=case.tokens, temperature=knobs.temperature,
                        top_k=knobs.top_k or 1000, top_p=knobs.top_p,
                    )  # fmt: skip
                done = 0
                while done < len(cases):
                    result = manager.get_result(timeout=120)
                    if result is None:
                        raise SystemExit("continuous batching gave no result in two minutes")
                    if result.is_finished():
                        done += 1
                return time.perf_counter() - begun
        finally:
            model.set_attn_implementation(before)


def ratios(
    name: str, wanted: float, cases: list[Case], ours: Callable[[list[Case]], float],
    theirs: Callable[[list[Case]], float], repeats: int,
) -> dict[str, Any]:  # fmt: skip
    """Both in turns, after one of each that warms them; tokens are the same, so seconds say it."""
    tokens = sum(case.tokens for case in cases)
    ours(cases), theirs(cases)
    rounds = [(ours(cases), theirs(cases)) for _ in range(repeats)]
    found = [slow / fast for fast, slow in rounds]
    result = {
        "name": name,
        "wanted": wanted,
        "ratio": statistics.median(found),
        "least": min(found),
        "greatest": max(found),
        "n": repeats,
        "ours": tokens / statistics.median(fast for fast, _ in rounds),
        "theirs": tokens / statistics.median(slow for _, slow in rounds),
    }
    verdict = "met" if result["ratio"] >= wanted else "MISSED"
    print(
        f"{name:46} {result['ratio']:6.3f} ({result['least']:.3f} to {result['greatest']:.3f}, n={repeats}) "
        f"wanted {wanted}: {verdict}; {result['ours']:.1f} against {result['theirs']:.1f} tokens/s",
        flush=True,
    )
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--precisions", default="fp32,bf16")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--no-continuous", action="store_true", help="leave out transformers' continuous batching")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    results = []
    for precision in options.precisions.split(","):
        bench = Bench("demo", Loading(precision=precision, slots=8, context=1024))
        one = [bench.case(1, 48, 64)]
        equal = [bench.case(index, 48, 48) for index in range(8)]
        ragged = [bench.case(index, *lengths) for index, lengths in enumerate(RAGGED)]
        knobs = [bench.case(index, 48, 48, knobs) for index, knobs in enumerate(KNOBS)]
        plan = [
            ("1 stream against generate", 1.0, one, bench.generate),
            ("8 equal against its static batch", 1.0, equal, bench.generate),
            ("8 ragged against its static batch", 1.5, ragged, bench.generate),
        ]
        if not options.no_continuous:
            plan.append(("8 with knobs of their own against generate_batch", 1.5, knobs, bench.continuous))
        with closing(bench.model):
            for name, wanted, cases, theirs in plan:
                results.append(ratios(f"{precision}, {name}", wanted, cases, bench.ours, theirs, options.repeats))
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
