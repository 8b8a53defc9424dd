"""Tokens per second beside a bare loop over the same library and beside the same wheel's own llama-server.

All in one interleaved run on the demo model: python bench/engine.py [--repeats 5] [--json FILE].
A ratio above 1 says that ours is faster.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jeito.decode.local import LocalModel
from jeito.engines.demo import demo_file
from jeito.engines.llama_binding import library
from jeito.run.open import open_model
from jeito.types import Dry, Message, Request, Sampling, Start, Token

TOKENS = 128
REPLY = 32  # tokens of each of the 16 replies to one long prompt
ASK = "Write a long story about a lighthouse keeper and the sea."
GREEDY = Sampling(temperature=0, max_new_tokens=TOKENS, min_new_tokens=TOKENS, seed=1)
KNOBS = Sampling(
    temperature=0.8, top_k=40, top_p=0.95, min_p=0.02, repetition_penalty=1.1, presence_penalty=0.1,
    frequency_penalty=0.1, dry=Dry(multiplier=0.8), max_new_tokens=TOKENS, min_new_tokens=TOKENS, seed=1,
)  # fmt: skip


class Speed(NamedTuple):
    seconds: float
    tokens: int


class Bare:
    """The least that a loop over the library can be: no memory of slots, no text, argmax for every row."""

    def __init__(self, sequences: int) -> None:
        shelf = library()
        self.lib, self.ffi = shelf.lib, shelf.ffi
        self.model = self.lib.llama_model_load_from_file(
            str(demo_file()).encode(), self.lib.llama_model_default_params()
        )
        params = self.lib.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch, params.n_seq_max = 8192, 512, 512, sequences
        params.n_threads = params.n_threads_batch = 2
        params.kv_unified, params.flash_attn_type, params.n_outputs_max_per_seq = True, 1, 512
        self.context = self.lib.llama_init_from_model(self.model, params)
        self.vocabulary = self.lib.llama_vocab_n_tokens(self.lib.llama_model_get_vocab(self.model))
        names = ("token", "position", "sequence", "count", "wanted")
        self.arrays = {name: np.zeros(512, np.int8 if name == "wanted" else np.int32) for name in names}
        self.arrays["count"][:] = 1
        self.pointers = (self.arrays["sequence"].ctypes.data + 4 * np.arange(512)).astype(np.uint64)
        self.batch = self.ffi.new("struct llama_batch *")
        self.batch.token = self.ffi.cast("int32_t *", self.arrays["token"].ctypes.data)
        self.batch.pos = self.ffi.cast("int32_t *", self.arrays["position"].ctypes.data)
        self.batch.n_seq_id = self.ffi.cast("int32_t *", self.arrays["count"].ctypes.data)
        self.batch.seq_id = self.ffi.cast("int32_t **", self.pointers.ctypes.data)
        self.batch.logits = self.ffi.cast("int8_t *", self.arrays["wanted"].ctypes.data)

    def call(self, size: int, wanted: int) -> Any:
        self.batch.n_tokens = size
        if self.lib.llama_decode(self.context, self.batch[0]):
            raise SystemExit("the bare loop failed")
        pointer = self.lib.llama_get_logits(self.context)
        flat = np.frombuffer(self.ffi.buffer(pointer, wanted * self.vocabulary * 4), np.float32)
        return flat.reshape(wanted, self.vocabulary).argmax(axis=1)

    def run(self, prompts: list[list[int]]) -> Speed:
        """One sequence a prompt; what all prompts begin with is computed once and shared, as well as it can be."""
        memory = self.lib.llama_get_memory(self.context)
        self.lib.llama_memory_clear(memory, False)
        begun = time.perf_counter()
        a, count = self.arrays, len(prompts)
        shared = min(len(prompt) for prompt in prompts) - 1 if count > 1 else 0
        while any(prompt[:shared] != prompts[0][:shared] for prompt in prompts):
            shared -= 1
        last = np.zeros(count, np.int64)
        for sequence, prompt in enumerate(prompts):
            done = shared if sequence else 0
            if done:
                self.lib.llama_memory_seq_cp(memory, 0, sequence, 0, done)
            size = len(prompt) - done
            a["token"][:size], a["position"][:size] = prompt[done:], np.arange(done, len(prompt))
            a["sequence"][:size], a["wanted"][:size] = sequence, 0
            a["wanted"][size - 1] = 1
            last[sequence] = self.call(size, 1)[0]
        a["sequence"][:count], a["wanted"][:count] = np.arange(count), 1
        for step in range(TOKENS - 1):
            a["token"][:count], a["position"][:count] = last, [len(prompt) + step for prompt in prompts]
            last = self.call(count, count)
        return Speed(time.perf_counter() - begun, TOKENS * count)


class Peer:
    """The llama-server of bench/peer.py with so many slots."""

    def __init__(self, slots: int) -> None:
        command = [sys.executable, str(Path(__file__).with_name("peer.py")), str(slots)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self.read()

    def read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        found: dict[str, Any] = json.loads(self.process.stdout.readline())
        return found

    def run(self, requests: list[dict[str, Any]]) -> Speed:
        assert self.process.stdin is not None
        print(json.dumps(requests), file=self.process.stdin, flush=True)
        found = self.read()
        return Speed(found["seconds"], found["tokens"])

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def ours(model: LocalModel, asks: Sequence[str], samplings: Sequence[Sampling]) -> Speed:
    """Separate requests, all begun before the first token, from an empty memory."""
    model.decoder.memory.forget()
    begun = time.perf_counter()
    streams = [model.stream(request(ask, sampling)) for ask, sampling in zip(asks, samplings, strict=True)]
    for stream in streams:
        next(stream)
    tokens = 0
    while streams:
        for stream in list(streams):
            event = next(stream, None)
            if event is None:
                streams.remove(stream)
            tokens += isinstance(event, Token)
    return Speed(time.perf_counter() - begun, tokens)


def request(ask: str, sampling: Sampling) -> Request:
    return Request(messages=(Message(role="user", content=ask),), sampling=sampling)


def asked(prompt: list[int], tokens: int, **more: Any) -> dict[str, Any]:
    return {"prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True, "cache_prompt": True} | more


def seeds(sampling: Sampling, n: int, tokens: int) -> list[Sampling]:
    return [
        sampling.model_copy(update={"seed": seed, "max_new_tokens": tokens, "min_new_tokens": tokens})
        for seed in range(n)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    model = open_model("demo")
    bare = Bare(8)
    eight, sixteen = Peer(8), Peer(16)
    long_ask = ASK + " " + " ".join(f"Remember that fact number {i} is {i * 37 % 101}." for i in range(88))

    def prompt_of(ask: str) -> list[int]:
        with closing(model.stream(request(ask, GREEDY))) as stream:
            started = next(stream)
        assert isinstance(started, Start)
        return model.decoder.engine.tokens(started.prompt, special=True)

    asks = [f"{ASK} Make it number {number}." for number in range(8)]
    shorts, long = [prompt_of(ask) for ask in asks], prompt_of(long_ask)
    # Another first token each time: or the server would find its own prompt in its cache.
    turn = iter(range(10_000))

    def fresh(prompt: list[int]) -> list[int]:
        return [1000 + next(turn), *prompt]

    def fresh_all(prompts: list[list[int]]) -> list[dict[str, Any]]:
        first = 1000 + next(turn)
        return [asked([first, *prompt], TOKENS) for prompt in prompts]

    runs: dict[str, Callable[[], Speed]] = {
        "bare, 1 stream": lambda: bare.run(shorts[:1]),
        "ours, 1 stream, greedy": lambda: ours(model, asks[:1], [GREEDY]),
        "ours, 1 stream, all knobs": lambda: ours(model, asks[:1], [KNOBS]),
        "llama-server, 1 stream": lambda: eight.run(fresh_all(shorts[:1])),
        "bare, 8 streams": lambda: bare.run(shorts),
        "ours, 8 streams": lambda: ours(model, asks, seeds(GREEDY, 8, TOKENS)),
        "llama-server, 8 streams": lambda: eight.run(fresh_all(shorts)),
        "ours, 16 replies": lambda: ours(model, [long_ask] * 16, seeds(GREEDY, 16, REPLY)),
        "llama-server, 16 in one call": lambda: sixteen.run([asked(fresh(long), REPLY, n=16)]),
    }
    found: dict[str, list[Speed]] = {name: [] for name in runs}
    for repeat in range(options.repeats + 1):
        for name, one in runs.items():
            speed = one()
            if repeat:  # the first round warms up
                found[name].append(speed)
    # Said before the slowest one, which takes minutes on a busy machine.
    report(found, len(long), options.json)
    found["llama-server, 16 separate"] = [sixteen.run([asked(fresh(long), REPLY)] * 16)]
    eight.close()
    sixteen.close()
    report(found, len(long), options.json)


def report(found: dict[str, list[Speed]], long: int, file: Path | None) -> None:
    rate = {name: statistics.median(s.tokens / s.seconds for s in speeds) for name, speeds in found.items()}
    for name, speeds in found.items():
        seconds = statistics.median(s.seconds for s in speeds)
        print(f"{name:32} {rate[name]:8.1f} tokens/s {seconds:8.2f} s   n={len(speeds)}")
    pairs = [
        ("ours, 1 stream, greedy", "bare, 1 stream", 0.97),
        ("ours, 1 stream, all knobs", "bare, 1 stream", 0.97),
        ("ours, 1 stream, greedy", "llama-server, 1 stream", 0.97),
        ("ours, 8 streams", "bare, 8 streams", 0.95),
        ("ours, 8 streams", "llama-server, 8 streams", 0.95),
        ("ours, 16 replies", "llama-server, 16 in one call", 1.0),
        ("ours, 16 replies", "llama-server, 16 separate", 5.0),
    ]
    print(f"\n16 replies are to one prompt of {long} tokens. Ratios, round by round, median (least, greatest):")
    ratios = {}
    for ours_, peer, wanted in pairs:
        if peer not in found:
            continue
        ones = [a.tokens / a.seconds / (b.tokens / b.seconds) for a, b in zip(found[ours_], found[peer], strict=False)]
        ratios[f"{ours_} / {peer}"] = {"median": statistics.median(ones), "wanted": wanted, "all": ones}
        verdict = "met" if statistics.median(ones) >= wanted else "missed"
        print(f"{ours_:28} / {peer:30} {statistics.median(ones):6.3f} ({min(ones):.3f}, {max(ones):.3f}); "
              f"wanted {wanted}: {verdict}")  # fmt: skip
    if file:
        file.write_text(json.dumps({"tokens_per_second": rate, "ratios": ratios}, indent=1))


if __name__ == "__main__":
    main()
