"""The wheel's own llama-server on loopback, in a process of its own: MODEL; its address is the first line out."""

import sys

import xllamacpp


def serve(model: str) -> None:
    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.n_parallel = model, 4096, 2
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 2
    params.hostnames, params.port, params.kv_unified = ["127.0.0.1"], 0, True
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    serve(sys.argv[1])
