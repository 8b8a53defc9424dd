"""Does proving keep the batch full? python bench/proof_speed.py [--model demo] [--cases train] [--runs 64] [--rounds 3]

Tokens a second of a whole proof (log, checks and statistics too), beside those of the same requests handed to the
decoder all at once, with nothing else done. The two take turns; each one's best round counts, prompts computed anew.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

from jeito.behaviour.behaviour import Claim
from jeito.behaviour.load import load
from jeito.behaviour.resolve import request, resolve
from jeito.decode.local import LocalModel
from jeito.proof.cases import load_cases
from jeito.proof.plan import Planned, make_plan
from jeito.proof.prove import carry_out
from jeito.run.open import open_model
from jeito.trace.log import Log

CLAIM = Claim(name="answer", value=True, at_least=0.5)


def main() -> None:
    wanted = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("model", "demo"), ("cases", "train"), ("runs", 64), ("repeats", 4), ("rounds", 3)):
        wanted.add_argument(f"--{name}", type=type(default), default=default)
    said = wanted.parse_args()
    model = open_model(said.model)
    loaded = load("technical", ["max_new_tokens=64", "exact=true"])
    cases = load_cases(said.cases)[: said.runs // said.repeats]
    proving, decoding = [], []
    for round in range(said.rounds):
        planned = make_plan(
            loaded, cases, label="technical", cases_from=said.cases, model=model.name,
            model_fingerprint=model.fingerprint, repeats=said.repeats, seed=round, claims=[CLAIM], early=False,
        )  # fmt: skip
        _forget(model)
        decoding.append(_decode(planned, model))
        _forget(model)
        with tempfile.TemporaryDirectory() as folder:
            log = Log(Path(folder) / "log.db")
            begun = time.perf_counter()
            judge = carry_out(planned, loaded, model, log)
            seconds = time.perf_counter() - begun
            tokens = sum(log.get(one.run).usage.generated for one in judge.judged)
        proving.append(tokens / seconds)
    found = {"proving": max(proving), "decoding": max(decoding), "ratio": max(proving) / max(decoding)}
    print(json.dumps({**found, "model": said.model, "runs": said.runs, "rounds": [proving, decoding]}))


def _decode(planned: Planned, model: LocalModel) -> float:
    """Tokens a second of the plan's requests in its order, all handed over at once."""
    prompts = []
    for place in planned.order():
        resolved = resolve(
            load("technical", ["max_new_tokens=64", "exact=true"]), defaults=model.defaults,
            abilities=model.abilities, seed=planned.seed_of(place),
        )  # fmt: skip
        wanted = request(resolved, planned.case_of(place).ask)
        prompts.append((model.prompt(wanted), wanted))
    shape, _ = model.decoder.engine.exact()
    begun = time.perf_counter()
    sequences = [model.decoder.submit(tokens, wanted.sampling, shape, None) for tokens, wanted in prompts]
    while not all(sequence.done for sequence in sequences):
        model.decoder.step()
    return sum(len(sequence.reply) for sequence in sequences) / (time.perf_counter() - begun)


def _forget(model: LocalModel) -> None:
    model.decoder.memory.forget()


if __name__ == "__main__":
    main()
