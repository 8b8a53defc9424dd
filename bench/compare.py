"""Do comparisons keep their word on real replies? False alarms of a behaviour against itself, and what is found.

python bench/compare.py [--json] [--only alarms|personalities|arithmetic] [--replies 400] [--times 100] [--tokens 24]

alarms: a pool of replies of one behaviour, each case under many seeds, is made once; each comparison draws two seeds of
every case without putting back, so both sides are the same behaviour under different seeds. A false alarm is any check
or feature whose interval leaves 0 out (each family of them has its 5 %), or a separation with p ≤ 5 %.
personalities: how often 32 replies a side, of three times the tokens, tell each two of the three apart, over draws
from pools of them.
arithmetic: `technical` against itself without its repetition penalty, 32 coupled pairs, and the cause that is named.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from random import Random
from typing import NamedTuple

from jeito.behaviour.behaviour import Claim
from jeito.behaviour.load import load
from jeito.decode.local import LocalModel
from jeito.proof.cases import load_cases
from jeito.proof.cause import as_asked, find_cause, switch_each
from jeito.proof.compare import contrast
from jeito.proof.comparison import Comparison
from jeito.proof.runs import Asked, Asking, Replies, gather
from jeito.run.open import open_model
from jeito.trace.log import Log

ALPHA = 0.05
SIDE = 32
CHECKS = [Claim(name="words", value={"max": 16}, at_least=1.0), Claim(name="no_loop", value=True, at_least=1.0)]


class Row(NamedTuple):
    name: str
    figure: float
    error: float | None
    at_most: float | None = None
    at_least: float | None = None

    @property
    def ok(self) -> bool:
        slack = 2 * (self.error or 0)
        return (self.at_most is None or self.figure <= self.at_most + slack) and (
            self.at_least is None or self.figure >= self.at_least - slack
        )


def rate(name: str, hits: list[bool], **wanted: float) -> Row:
    share = sum(hits) / len(hits)
    # Of the share that is allowed or wanted, not of the one that was seen: none seen is no certainty.
    expected = next(iter(wanted.values()))
    return Row(name, share, (expected * (1 - expected) / len(hits)) ** 0.5, **wanted)


def asked(name: str, tokens: int) -> Asked:
    return Asked(name, name, load(name, [f"max_new_tokens={tokens}"]))


def drawn(pool: Replies, random: Random, *, sides: int, a_case: int, names: list[str]) -> list[Replies]:
    """Several sides from one pool: other replies to the same cases on each."""
    plan = pool.planned.plan
    taken: list[list[int]] = [[] for _ in range(sides)]
    for case in range(plan.cases):
        chosen = random.sample(range(plan.repeats), sides * a_case)
        for side in range(sides):
            own = chosen[side * a_case : (side + 1) * a_case]
            taken[side] += [case * plan.repeats + repeat for repeat in own]
    planned = pool.planned._replace(plan=plan.model_copy(update={"repeats": a_case}))
    return [
        Replies(name, planned, tuple(pool.traces[place] for place in places))
        for name, places in zip(names, taken, strict=True)
    ]


def is_alarm(found: Comparison, kind: str) -> bool:
    return any(pair.differs for pair in found.pairs if pair.kind == kind)


def alarms(model: LocalModel, log: Log, args: argparse.Namespace) -> Iterator[Row]:
    """One reply to each of many cases, and four to each of few: clustered."""
    cases = load_cases("instructions:en")
    for title, count, a_case in (("32 cases × 1", SIDE, 1), ("8 cases × 4", 8, 4)):
        repeats = max(2 * a_case, args.replies // count)
        (pool,) = gather(Asking(cases[:count], title, repeats, 1), [asked("creative", args.tokens)], model, log)
        random = Random(title)
        made = [
            contrast(drawn(pool, random, sides=2, a_case=a_case, names=["a", "b"]), CHECKS, alpha=ALPHA)
            for _ in range(args.times)
        ]
        yield rate(f"alarms, checks, {title}", [is_alarm(one, "check") for one in made], at_most=ALPHA)
        yield rate(f"alarms, features, {title}", [is_alarm(one, "feature") for one in made], at_most=ALPHA)
        apart = [one.separation.pairs[0].p <= ALPHA for one in made if one.separation]
        yield rate(f"alarms, separation, {title}", apart, at_most=ALPHA)


def personalities(model: LocalModel, log: Log, args: argparse.Namespace) -> Iterator[Row]:
    cases = load_cases("robots:en")[:8]
    names = ["creative", "conservative", "technical"]
    asking = Asking(cases, "robots:en:8", max(8, args.replies // 4 // 8), 2)
    pools = gather(asking, [asked(name, 3 * args.tokens) for name in names], model, log)
    for a, b in combinations(pools, 2):
        found = []
        for time in range(args.times):
            # The same places on both sides: pairs are coupled, as those of a comparison are.
            sides = [drawn(pool, Random(time), sides=1, a_case=4, names=[pool.name])[0] for pool in (a, b)]
            separation = contrast(sides).separation
            found.append(separation is not None and separation.pairs[0].p <= ALPHA)
        yield rate(f"power, {a.name} and {b.name}, {SIDE} a side", found, at_least=0.9)
    whole = contrast(pools)
    for pair in whole.pairs:
        if pair.check == "words" and pair.variance_ratio is not None:
            yield Row(f"variance ratio of words, {pair.a} and {pair.b}", pair.variance_ratio, None)


def arithmetic(model: LocalModel, log: Log, args: argparse.Namespace) -> Iterator[Row]:
    cases = load_cases("train:en:simple")[:SIDE]
    first, second = asked("technical", 96), asked("technical+repetition_penalty=1.0", 96)
    switched = switch_each(first.loaded, second.loaded)
    every = [first, second, *as_asked(first.label, switched)]
    sides = gather(Asking(cases, "train:en:simple", 1, 1), every, model, log)
    pair = next(pair for pair in contrast(sides[:2]).pairs if pair.check == "correct")
    yield Row("arithmetic: right with the penalty", pair.a_mean or 0, None)
    yield Row("arithmetic: right without it", pair.b_mean or 0, None)
    yield Row("arithmetic: low end of the difference", pair.low or 0, None, at_least=1e-9)
    named = find_cause(sides[0], sides[1], switched, sides[2:]).named["correct"]
    yield Row("arithmetic: the penalty is named", float(named == ("sampling.repetition_penalty",)), None, at_least=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("alarms", "personalities", "arithmetic"))
    parser.add_argument("--model", default="demo")
    parser.add_argument("--replies", type=int, default=400, help="in each pool of alarms; a quarter in others")
    parser.add_argument("--times", type=int, default=100)
    parser.add_argument("--tokens", type=int, default=24, help="most of a reply")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    model = open_model(args.model)
    parts = {"alarms": alarms, "personalities": personalities, "arithmetic": arithmetic}
    with tempfile.TemporaryDirectory() as folder:
        log = Log(Path(folder) / "log.db")
        rows = [row for name, part in parts.items() if args.only in (None, name) for row in part(model, log, args)]
    if args.json:
        print(json.dumps([row._asdict() | {"ok": row.ok} for row in rows]))
    else:
        for row in rows:
            error = "" if row.error is None else f" ± {row.error:.3f}"
            print(f"{row.name:60} {row.figure:.3f}{error}  {'' if row.ok else 'MISSED'}")
    raise SystemExit(not all(row.ok for row in rows))


if __name__ == "__main__":
    main()
