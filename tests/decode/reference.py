"""The sampler as SEMANTICS section 3 words it, in plain Python: slow, and written without a look at the fast one.

Steps 1 to 5 round to float32 after each operation, as the rules demand; the rest is float64.
"""

import math
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from jeito.types import Sampling

WORD = 2**64


def mix(x: int) -> int:
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % WORD
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % WORD
    return x ^ (x >> 31)


def uniform(seed: int, position: int, token: int) -> float:
    key = mix((seed + mix(position + 1) * 0x9E3779B97F4A7C15) % WORD)
    x = mix((key + token * 0xD1B54A32D192ED03) % WORD)
    return (2 * (x >> 12) + 1) / 2**53


def gumbel(seed: int, position: int, token: int) -> float:
    return -math.log(-math.log(uniform(seed, position, token)))


def single(x: float) -> float:
    """Rounded to float32."""
    return float(struct.unpack("f", struct.pack("f", x))[0])


@dataclass
class Reply:
    """All that a draw may depend on."""

    sampling: Sampling
    seed: int
    prompt: list[int]
    said: list[int]
    ends: frozenset[int]
    text: Callable[[int], bytes]


class Margins:
    """How near the decisions were to going the other way: float32 and float64 may differ there."""

    def __init__(self) -> None:
        self.least = math.inf

    def add(self, distances: Iterable[float]) -> None:
        self.least = min(self.least, *distances, math.inf)


def draw(
    reply: Reply, row: Sequence[float], allowed: Sequence[bool] | None
) -> tuple[int | None, dict[int, float], float]:
    """(token or none, log-probability of each survivor, the least margin)."""
    logits = adjusted(reply, row, allowed)
    margins = Margins()
    if max(logits) == -math.inf:
        return None, {}, math.inf
    if reply.sampling.temperature == 0:
        likeliest = logits.index(max(logits))
        return likeliest, {likeliest: 0.0}, math.inf
    tempered = [single(x / single(reply.sampling.temperature)) for x in logits]
    position = len(reply.said)
    left = cut(reply.sampling, tempered, uniform(reply.seed, position, 2**32 - 1), margins)
    logs = normalised({i: tempered[i] for i in left})
    scores = {i: logs[i] + gumbel(reply.seed, position, i) for i in left}
    best = max(scores.values())
    margins.add(1e3 * (best - score) for score in scores.values() if score < best)
    return min(i for i in left if scores[i] == best), logs, margins.least


def adjusted(reply: Reply, row: Sequence[float], allowed: Sequence[bool] | None) -> list[float]:
    sampling, whole = reply.sampling, reply.prompt + reply.said
    logits = list(row)
    for i, bias in sampling.logit_bias.items():
        logits[i] = single(logits[i] + single(bias))
    for i in range(len(logits)):
        if (allowed is not None and not allowed[i]) or (len(reply.said) < sampling.min_new_tokens and i in reply.ends):
            logits[i] = -math.inf
    window = len(whole) if sampling.repetition_window is None else sampling.repetition_window
    factor = single(sampling.repetition_penalty)
    for i in set(whole[max(0, len(whole) - window) :]):
        logits[i] = single(logits[i] / factor if logits[i] > 0 else logits[i] * factor)
    for i, count in Counter(reply.said).items():
        lost = sampling.presence_penalty + sampling.frequency_penalty * count
        logits[i] = single(logits[i] - single(lost))
    for i, length in repeats(reply, whole).items():
        dry = sampling.dry
        assert dry
        logits[i] = single(logits[i] - single(dry.multiplier * dry.base ** (length - dry.allowed_length)))
    return logits


def repeats(reply: Reply, whole: list[int]) -> dict[int, int]:
    """Token → length of the longest earlier match that it followed."""
    dry = reply.sampling.dry
    if not dry:
        return {}
    if dry.window >= 0:
        whole = whole[max(0, len(whole) - dry.window) :]

    def breaks(token: int) -> bool:
        return any(breaker.encode() in reply.text(token) for breaker in dry.breakers)

    longest: dict[int, int] = {}
    for end in range(len(whole) - 1):
        length = 0
        while length <= end and whole[end - length] == whole[-1 - length] and not breaks(whole[end - length]):
            length += 1
        follower = whole[end + 1]
        if length >= dry.allowed_length and not breaks(follower):
            longest[follower] = max(length, longest.get(follower, 0))
    return longest


def normalised(logits: dict[int, float]) -> dict[int, float]:
    top = max(logits.values())
    total = top + math.log(math.fsum(math.exp(x - top) for x in logits.values()))
    return {i: x - total for i, x in logits.items()}


def cut(sampling: Sampling, tempered: list[float], coin: float, margins: Margins) -> list[int]:
    left = {i: x for i, x in enumerate(tempered) if x > -math.inf}
    mean = math.fsum(left.values()) / len(left)
    sigma = math.sqrt(math.fsum((x - mean) ** 2 for x in left.values()) / len(left))

    def narrow(keep: Iterable[int]) -> None:
        nonlocal left
        left = {i: left[i] for i in keep}

    if sampling.top_k:
        last = sorted(left.values(), reverse=True)[min(sampling.top_k, len(left)) - 1]
        narrow([i for i in left if left[i] >= last])
    if sampling.top_p < 1:
        narrow(top_p(left, sampling.top_p, margins))
    if sampling.min_p > 0:
        logs = normalised(left)
        best = max(logs.values())
        margins.add(abs(x - best - math.log(sampling.min_p)) for x in logs.values() if x < best)
        narrow([i for i in left if logs[i] - best >= math.log(sampling.min_p)])
    if sampling.top_n_sigma:
        bar = max(left.values()) - sampling.top_n_sigma * sigma
        margins.add(abs(x - bar) for x in left.values() if x < max(left.values()))
        narrow([i for i in left if left[i] >= bar or left[i] == max(left.values())])
    if sampling.typical_p < 1:
        narrow(typical_p(left, sampling.typical_p, margins))
    if sampling.xtc and coin < sampling.xtc.probability and sampling.xtc.threshold <= 0.5:
        logs = normalised(left)
        margins.add(abs(math.exp(x) - sampling.xtc.threshold) for x in logs.values())
        order = sorted(left, key=lambda i: (-left[i], i))
        reach = [i for i in order if math.exp(logs[i]) >= sampling.xtc.threshold]
        narrow([i for i in left if i not in reach[:-1]])
    return sorted(left)


def top_p(left: dict[int, float], share: float, margins: Margins) -> list[int]:
    logs, mass, kept = normalised(left), 0.0, []
    for i in sorted(left, key=lambda i: (-left[i], i)):
        kept.append(i)
        mass += math.exp(logs[i])
        margins.add([abs(mass - share)])
        if mass >= share:
            break
    return kept


def typical_p(left: dict[int, float], share: float, margins: Margins) -> list[int]:
    logs = normalised(left)
    entropy = -math.fsum(x * math.exp(x) for x in logs.values())
    order = sorted(left, key=lambda i: abs(logs[i] + entropy))
    mass, last = 0.0, order[-1]
    for i in order:
        mass += math.exp(logs[i])
        if mass >= share:
            last = i
            break
    bar = abs(logs[last] + entropy)
    margins.add([abs(mass - share)])
    margins.add(1e3 * abs(abs(logs[i] + entropy) - bar) for i in left if left[i] != left[last])
    return [i for i in left if abs(logs[i] + entropy) <= bar or left[i] == left[last]]
