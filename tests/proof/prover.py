"""Another process that proves: python prover.py LOG SEED. It prints a line for each run that ends, then the proof."""

import os
import sys
from pathlib import Path

from jeito.behaviour.behaviour import Claim
from jeito.behaviour.load import load
from jeito.decode.local import LocalModel
from jeito.engines.toy import ToyEngine, babble
from jeito.proof.judge import Judge, Proof
from jeito.proof.prove import Heard, prove
from jeito.proof.values import Case
from jeito.trace.log import Log

CLAIM = Claim(name="words", value={"max": 3}, at_least=0.9)


def proved(log: Log, seed: int, heard: Heard | None = None) -> Proof:
    """Twelve cases, thrice each, of a model whose replies depend on all that stands before and on their seeds."""
    cases = [Case(name=f"case {number}", prompt=f"say {number}") for number in range(12)]
    model = LocalModel(ToyEngine(babble), "toy")
    loaded = load("plain", ["max_new_tokens=24"])
    return prove(loaded, model, cases, repeats=3, log=log, seed=seed, claims=[CLAIM], early=False, heard=heard)


def _say(done: int, judge: Judge) -> None:
    # A pipe holds 64 KiB: whoever reads these lines is never far behind, however slow.
    os.write(1, f"{done:<40000}\n".encode())


if __name__ == "__main__":
    print(proved(Log(Path(sys.argv[1])), int(sys.argv[2]), _say).model_dump_json(), flush=True)
