"""A behaviour beside itself on a real model: how often is it found different? python bench/proof_real.py [--times 100]

Each comparison asks the same cases under two seeds of its own, so nothing differs but the draw. Of every test: in how
many comparisons it gave a false alarm at 5 %, which may be 5 in 100 and two standard errors more.
"""

import argparse
import json
import tempfile
from collections import Counter
from pathlib import Path

from jeito.behaviour.behaviour import Claim
from jeito.behaviour.load import load
from jeito.proof.cases import load_cases
from jeito.proof.compare import contrast
from jeito.proof.measured import clusters_of, measure_checks, measure_features, of_planned
from jeito.proof.paired import difference
from jeito.proof.runs import Asked, Asking, Replies, gather
from jeito.run.open import open_model
from jeito.trace.log import Log

ALPHA = 0.05
CLAIM = Claim(name="words", value={"max": 9}, at_least=0.5)
LOOKED = ("words", "surprisal")


def main() -> None:
    wanted = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("model", "demo"), ("cases", "robots:en:8"), ("behaviour", "creative"), ("times", 100),
                          ("repeats", 2), ("tokens", 12)):  # fmt: skip
        wanted.add_argument(f"--{name}", type=type(default), default=default)
    said = wanted.parse_args()
    model = open_model(said.model)
    label = f"{said.behaviour}+max_new_tokens={said.tokens}"
    asked, cases = [Asked(said.behaviour, label, load(label))], load_cases(said.cases)
    alarms: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        log = Log(Path(folder) / "log.db")
        for at in range(said.times):
            sides = [
                gather(Asking(cases, said.cases, said.repeats, 2 * at + one), asked, model, log)[0]._replace(name=name)
                for one, name in enumerate(("first", "second"))
            ]
            alarms.update(_alarms(sides))
    found = {name: count / said.times for name, count in sorted(alarms.items())}
    limit = ALPHA + 2 * (ALPHA * (1 - ALPHA) / said.times) ** 0.5
    missed = [name for name, share in found.items() if share > limit]
    print(json.dumps({"comparisons": said.times, "at most": round(limit, 4), "false alarms": found, "missed": missed}))
    raise SystemExit(1 if missed else 0)


def _alarms(sides: list[Replies]) -> dict[str, int]:
    """Of every test, 1 where it takes the sides for different."""
    made = contrast(sides, [CLAIM])
    assert made.separation is not None
    confusion = made.separation.confusion
    found = {
        f"{kind}s: {what}": any(looks(pair) for pair in made.pairs if pair.kind == kind)
        for kind in ("check", "feature")
        for what, looks in (("intervals", lambda pair: pair.differs), ("Holm", lambda pair: pair.adjusted <= ALPHA))
    }
    found["energy distance"] = made.separation.pairs[0].adjusted <= ALPHA
    found["classifier above chance"] = confusion is not None and confusion.accuracy.low > 0.5
    clusters = clusters_of(sides[0])
    (rate,) = measure_checks(sides, [CLAIM], of_planned)
    for measure in (rate, *(one for one in measure_features(sides) if one.name in LOOKED)):
        kind = "rate" if measure.kind == "check" else "number"
        repeats = sides[0].planned.plan.repeats
        early = difference(*measure.values, clusters, kind=kind, repeats=repeats, sequential=True)
        found[f"{measure.name} alone"] = difference(*measure.values, clusters, kind=kind).p <= ALPHA
        found[f"{measure.name} looked at after each case"] = early.p <= ALPHA
    return {name: int(alarm) for name, alarm in found.items()}


if __name__ == "__main__":
    main()
