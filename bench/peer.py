"""The same wheel's own llama-server, in a process of its own: one JSON line in, one out, for bench/engine.py.

It listens too, at the address that it says first: so bench/serve.py asks it.
"""

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import xllamacpp

from jeito.engines.demo import demo_file


def serve(slots: int) -> None:
    params = xllamacpp.CommonParams()
    params.model.path = str(demo_file())
    # Room for every slot to hold the long prompt by itself, as separate requests make it do.
    params.n_ctx, params.n_parallel = 1536 * slots, slots
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 2
    params.kv_unified = True
    server = xllamacpp.Server(params)
    print(json.dumps({"ready": slots, "address": server.listening_address}), flush=True)
    for line in sys.stdin:
        requests = json.loads(line)
        begun = time.perf_counter()
        with ThreadPoolExecutor(len(requests)) as pool:
            replies: list[dict[str, Any]] = list(pool.map(server.handle_completions, requests))
        seconds = time.perf_counter() - begun
        # With several replies to one request, `usage` counts the tokens of one of them only.
        tokens = sum(reply["usage"]["completion_tokens"] * len(reply["choices"]) for reply in replies)
        print(json.dumps({"seconds": seconds, "tokens": tokens}), flush=True)


if __name__ == "__main__":
    serve(int(sys.argv[1]))
