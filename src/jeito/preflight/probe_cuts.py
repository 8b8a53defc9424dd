"""Experiments on how a token is drawn: temperature, the cuts, seeds.

The first sentence of each docstring says what is sent, the second what would be seen if it were ignored.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from jeito.engines.verdicts import Verdict
from jeito.preflight.probe_bench import HOT, WORDS, Bench, Found, Unclear, needed
from jeito.preflight.probe_reply import quoted

TINY = 1e-6
CROWD = 8


def temperature(bench: Bench) -> Found:
    """0 twice and 1.5 three times. Ignored, those at 0 differ, or those at 1.5 are the one at 0."""
    text, is_steady = bench.greedy
    if not is_steady:
        return Found("ignored", f"two replies at temperature 0 differ, one begins {quoted(text)}")
    if any(hot != text for hot in bench.hot):
        return Found("honoured", f"at 0 twice {quoted(text)}, at {HOT} others")
    with needed("replies at 1.5 are the one at 0, and whether the model is that sure cannot be seen"):
        sure = bench.ask(WORDS, temperature=0.0, logprobs=0).logprobs
    if sure and min(one["logprob"] for one in sure) > -0.02:
        raise Unclear(f"the model is so sure of {quoted(text)} that no temperature would change it")
    return Found("ignored", f"three replies at temperature {HOT} are the one at 0, {quoted(text)}")


def top_k(bench: Bench) -> Found:
    """1 at temperature 1.5, three times. Ignored, the replies vary."""
    return _narrows(bench, top_k=1)


def top_p(bench: Bench) -> Found:
    """10⁻⁶ at temperature 1.5, three times. Ignored, the replies vary."""
    return _narrows(bench, top_p=TINY)


def min_p(bench: Bench) -> Found:
    """1 at temperature 1.5, three times. Ignored, the replies vary."""
    return _narrows(bench, min_p=1.0)


def top_n_sigma(bench: Bench) -> Found:
    """10⁻⁶ at temperature 1.5, three times. Ignored, the replies vary."""
    return _narrows(bench, top_n_sigma=TINY)


def typical_p(bench: Bench) -> Found:
    """10⁻⁶ at temperature 1.5, three times: one token is left, not always the likeliest. Ignored, the replies vary."""
    return _narrows(bench, is_greedy=None, typical_p=TINY)


def xtc(bench: Bench) -> Found:
    """Of the two likeliest tokens, always the lesser. Ignored, the replies vary, or are the one at temperature 0."""
    return _narrows(bench, is_greedy=False, top_k=2, xtc={"threshold": TINY, "probability": 1.0})


def _narrows(bench: Bench, *, is_greedy: bool | None = True, **knobs: Any) -> Found:
    """A value that leaves one token: replies that would vary are all the same, and the one at 0, or not, or either."""
    greedy, is_steady = bench.greedy
    if len(set(bench.hot)) == 1:
        raise Unclear(f"without it, replies at temperature {HOT} do not vary either: {quoted(bench.hot[0])}")
    texts = [bench.ask(WORDS, temperature=HOT, **knobs).text for _ in range(3)]
    kinds = len(set(texts))
    if kinds > 1:
        return Found("ignored", f"{kinds} different replies of 3, as without it")
    if is_steady and is_greedy is not None and (texts[0] == greedy) != is_greedy:
        verdict: Verdict = "different" if is_greedy else "ignored"
        return Found(verdict, f"three times {quoted(texts[0])}, and at temperature 0 {quoted(greedy)}")
    return Found("honoured", f"three times {quoted(texts[0])}; without it, {len(set(bench.hot))} different of 3")


def seed(bench: Bench) -> Found:
    """7 twice and 8 once, at temperature 1.5. Ignored, the two of seed 7 differ, or all three are the same."""
    first, second, other = (bench.ask(WORDS, temperature=HOT, seed=number).text for number in (7, 7, 8))
    if first != second:
        return Found("ignored", f"seed 7 gave {quoted(first)} and {quoted(second)}")
    if first != other:
        return Found("honoured", f"seed 7 twice {quoted(first)}, seed 8 {quoted(other)}")
    if len(set(bench.hot)) == 1:
        raise Unclear(f"without a seed, replies do not vary either: {quoted(first)}")
    return Found("ignored", f"seeds 7 and 8 both gave {quoted(first)}")


def exact(bench: Bench) -> Found:
    """Four seeded requests alone, then among eight at once. Ignored, some reply depends on what runs beside it."""
    knobs = {"exact": True} if "sampling.exact" in bench.server.fields else {}

    def ask(number: int) -> str:
        asked = f"{WORDS[0]} {'Then count them. ' * number}".strip()
        return bench.ask((asked,), temperature=1.0, seed=number, max_new_tokens=24, **knobs).text

    alone = [ask(number) for number in range(CROWD // 2)]
    if ask(0) != alone[0]:
        return Found("ignored", f"a seed does not hold even alone: {quoted(alone[0])}, then another reply")
    if len(set(alone)) == 1:
        raise Unclear(f"four prompts and seeds gave one reply, {quoted(alone[0])}")
    with ThreadPoolExecutor(CROWD) as crowd:
        together = list(crowd.map(ask, range(CROWD)))
    same = sum(map(str.__eq__, alone, together))
    if same == len(alone):
        return Found("honoured", f"{same} of {same} seeded replies the same alone and among {CROWD} at once")
    return Found("different", f"{len(alone) - same} of {len(alone)} seeded replies are others among {CROWD} at once")


EXPERIMENTS = (temperature, top_k, top_p, min_p, top_n_sigma, typical_p, xtc, seed, exact)
