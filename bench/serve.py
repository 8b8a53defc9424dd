"""`jeito serve` beside the same wheel's own llama-server, on one file; and our HTTP layer beside the decoder alone.

python bench/serve.py [--repeats 3] [--only shared,behaviours,layer] [--json FILE], or --soak [--requests 2000].
All by HTTP, streamed, from clients in a process of their own, interleaved. A ratio of tokens/s above 1, and one of
seconds below 1, says that ours is better. The peer has memory for every slot to hold its whole prompt; ours has not.
"""

import argparse
import http.client
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

SLOTS, CONTEXT = 16, 8192
TOKENS = 64
BEHAVIOURS = 8
KNOBS = {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "max_tokens": TOKENS, "stream": True}
KNOBS |= {"stream_options": {"include_usage": True}}
# What makes both go on to the last token, and the peer take the same steps as ours.
OURS = {"min_new_tokens": TOKENS}
PEERS = {"ignore_eos": True, "samplers": ["temperature", "top_k", "top_p"], "cache_prompt": True}

Body = dict[str, Any]


class Address(NamedTuple):
    host: str
    port: int


def instruction(number: int) -> str:
    """Some 500 tokens, which differ from the first word on."""
    return (
        f"Assistant {number} answers briefly and plainly. "
        + "It never invents a fact, and says what it left out. " * 38
    )


def question(number: int) -> str:
    return f"Question {number}: how far does a train travel in {number % 9 + 2} hours at {60 + number % 50} km/h?"


# The clients: what `--client` runs, in a process of its own.


def ask(address: Address, body: Body) -> dict[str, float]:
    """One streamed reply: seconds to its first text, and its tokens."""
    connection = http.client.HTTPConnection(*address, timeout=600)
    begun, first, tokens = time.perf_counter(), 0.0, 0
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json"})
    answer = connection.getresponse()
    if answer.status != 200:
        raise SystemExit(f"{answer.status}: {answer.read()[:500]!r}")
    for line in answer:
        if not line.startswith(b"data: {"):
            continue
        chunk = json.loads(line[6:])
        if "error" in chunk:
            raise SystemExit(line.decode())
        if not first and any(choice["delta"].get("content") for choice in chunk["choices"]):
            first = time.perf_counter() - begun
        tokens = (chunk.get("usage") or {}).get("completion_tokens", tokens)
    connection.close()
    return {"first": first, "tokens": tokens}


def client() -> None:
    """Lists of bodies, one a client, from standard input; all begin together."""
    said = json.load(sys.stdin)
    address = Address(*said["address"])
    found: list[dict[str, float]] = []

    def go(bodies: Sequence[Body]) -> None:
        found.extend([ask(address, body) for body in bodies])

    threads = [threading.Thread(target=go, args=(bodies,)) for bodies in said["clients"]]
    begun = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - begun
    if len(found) < sum(map(len, said["clients"])):
        raise SystemExit("a client failed")
    print(json.dumps({"seconds": seconds, "replies": found}))


class Load(NamedTuple):
    speed: float
    """Tokens a second, all clients together."""
    first: float
    """95th percentile of the seconds to the first text."""


def load(address: Address, clients: Sequence[Sequence[Body]]) -> Load:
    said = json.dumps({"address": address, "clients": clients})
    done = subprocess.run([sys.executable, __file__, "--client"], input=said, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    found = json.loads(done.stdout)
    firsts = sorted(reply["first"] for reply in found["replies"])
    tokens = sum(reply["tokens"] for reply in found["replies"])
    return Load(tokens / found["seconds"], firsts[min(len(firsts) - 1, int(0.95 * len(firsts)))])


# The two servers.


@contextmanager
def jeito(*words: str) -> Iterator[tuple[Address, "subprocess.Popen[str]"]]:
    command = [sys.executable, "-m", "jeito.cli.main", "serve", "-m", "demo", "--port", "0", "--no-log", *words]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if " on http://" in line:
                break
        else:
            raise SystemExit("jeito serve did not begin")
        threading.Thread(target=process.stderr.read, daemon=True).start()
        yield Address("127.0.0.1", int(line.rpartition(":")[2].partition("/")[0])), process
    finally:
        process.terminate()
        process.wait()


@contextmanager
def peer() -> Iterator[Address]:
    command = [sys.executable, str(Path(__file__).with_name("peer.py")), str(SLOTS)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        address = json.loads(process.stdout.readline())["address"]
        yield Address("127.0.0.1", int(address.rpartition(":")[2].strip("/")))
    finally:
        process.stdin.close()
        process.wait()


def against(repeats: int, only: set[str], counts: list[int], rounds: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        for number in range(BEHAVIOURS):
            (Path(folder) / f"b{number}.yaml").write_text(f"system: {instruction(number)}\n")
        room = ("--slots", str(SLOTS), "--context", str(CONTEXT), "--behaviours", folder)
        with jeito(*room) as (ours, _), peer() as theirs:
            both = Both(ours, theirs, rounds)
            both.shared(0, 1)  # a first run of each counts for nothing
            found: dict[str, list[dict[str, float]]] = {}
            for repeat in range(1, repeats + 1):
                for clients in counts if "shared" in only else ():
                    found.setdefault(f"shared by {clients}", []).append(both.shared(repeat, clients))
                if "behaviours" in only:
                    found.setdefault("8 behaviours, 16 clients", []).append(both.behaviours(repeat))
    return {name: middle(runs) for name, runs in found.items()}


class Both(NamedTuple):
    ours: Address
    theirs: Address
    rounds: int
    """Requests of each client, one after the other."""

    def shared(self, repeat: int, clients: int) -> dict[str, float]:
        """One instruction for all, which neither has seen before."""

        def bodies(model: str, own: Body) -> list[list[Body]]:
            system = {"role": "system", "content": instruction(1000 + 100 * repeat + clients)}
            numbers = iter(range(10_000 * repeat, 10_000 * repeat + 1000))
            return [
                [body(model, [system], number, own) for number, _ in zip(numbers, range(self.rounds), strict=False)]
                for _ in range(clients)
            ]

        return self._ratios(repeat, bodies("demo", OURS), bodies("demo", PEERS))

    def behaviours(self, repeat: int) -> dict[str, float]:
        """Every client goes from behaviour to behaviour."""
        ours, theirs = [], []
        for client_ in range(16):
            rounds = [
                (repeat * 10_000 + client_ * 10 + at, (client_ + 3 * at) % BEHAVIOURS) for at in range(self.rounds)
            ]
            ours.append([body(f"demo:b{which}", [], number, OURS) for number, which in rounds])
            systems = [{"role": "system", "content": instruction(which)} for _, which in rounds]
            theirs.append(
                [body("demo", [system], number, PEERS) for (number, _), system in zip(rounds, systems, strict=True)]
            )
        return self._ratios(repeat, ours, theirs)

    def _ratios(self, repeat: int, ours: list[list[Body]], theirs: list[list[Body]]) -> dict[str, float]:
        sides = [(self.ours, ours), (self.theirs, theirs)]
        loads = [load(*side) for side in (sides if repeat % 2 else reversed(sides))]
        mine, other = loads if repeat % 2 else reversed(loads)
        return {
            "ours": mine.speed, "theirs": other.speed, "speed_ratio": mine.speed / other.speed,
            "first_ours": mine.first, "first_theirs": other.first, "first_ratio": mine.first / other.first,
        }  # fmt: skip


def body(model: str, before: list[Body], number: int, own: Body) -> Body:
    return {
        "model": model,
        "messages": [*before, {"role": "user", "content": question(number)}],
        "seed": number,
        **KNOBS,
    } | own


def middle(runs: list[dict[str, float]]) -> dict[str, Any]:
    found: dict[str, Any] = {key: round(statistics.median(run[key] for run in runs), 3) for key in runs[0]}
    ratios = sorted(run["speed_ratio"] for run in runs)
    return found | {"speed_ratio_range": [round(ratios[0], 3), round(ratios[-1], 3)], "n": len(runs)}


# Our HTTP layer beside the decoder alone.


def layer(repeats: int) -> dict[str, Any]:
    from jeito.behaviour.load import load as load_behaviour
    from jeito.engines.base import Loading
    from jeito.run.open import open_model
    from jeito.run.run import run, together
    from jeito.serve.app import Server
    from jeito.serve.catalogue import Catalogue
    from jeito.serve.door import Door
    from jeito.serve.keys import Keys
    from jeito.serve.server import Serving, bind

    model = open_model("demo", loading=Loading(slots=SLOTS, context=CONTEXT))
    server = Server(Catalogue([model]), keys=Keys(), log=None)
    door = Door(server.metrics)
    door.open(server.app())
    bound = bind("127.0.0.1", 0, has_keys=False)
    serving = Serving(door, bound)
    address = Address("127.0.0.1", bound.getsockname()[1])
    knobs = {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "max_new_tokens": 128, "min_new_tokens": 128}
    loaded = load_behaviour("plain", [f"{knob}={value}" for knob, value in knobs.items()])

    def alone(number: int) -> float:
        runs = [run(loaded, model, f"{instruction(number)} {question(at)}", seed=at) for at in range(16)]
        begun = time.perf_counter()
        for _ in together(runs):
            pass
        return sum(one.trace.usage.generated for one in runs) / (time.perf_counter() - begun)

    def served(number: int) -> float:
        own = {"max_tokens": 128, "min_new_tokens": 128}
        asks = [f"{instruction(number)} {question(at)}" for at in range(16)]
        bodies = [
            [body("demo", [], at, own) | {"messages": [{"role": "user", "content": ask}]}]
            for at, ask in enumerate(asks)
        ]
        return load(address, bodies).speed

    try:
        alone(0), served(1)
        found = []
        for repeat in range(1, repeats + 1):
            before, with_http, after = alone(repeat * 10), served(repeat * 10 + 1), alone(repeat * 10 + 2)
            found.append({"ours": with_http, "alone": (before + after) / 2})
            found[-1]["speed_ratio"] = found[-1]["ours"] / found[-1]["alone"]
    finally:
        serving.stop()
        bound.close()
        model.close()
    return middle(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--clients", default="1,4,16", help="of the shared instruction")
    parser.add_argument("--rounds", type=int, default=3, help="requests of each client")
    parser.add_argument("--only", default="shared,behaviours,layer")
    parser.add_argument("--soak", action="store_true")
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--client", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.client:
        return client()
    only = set(given.only.split(","))
    if given.soak:
        from soak import soak

        with jeito("--slots", "8", "--queue", "20") as (address, process):
            found = soak(address, process.pid, given.requests)
    else:
        counts = [int(count) for count in given.clients.split(",")]
        servers = only & {"shared", "behaviours"}
        found = against(given.repeats, only, counts, given.rounds) if servers else {}
        if "layer" in only:
            found["HTTP layer, 16 clients"] = layer(given.repeats)
    text = json.dumps(found, indent=1)
    print(text)
    if given.json:
        with suppress(OSError):
            given.json.write_text(text)


if __name__ == "__main__":
    main()
