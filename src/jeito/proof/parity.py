"""Is it the same model in another engine or precision? Facts about two models under one behaviour and its seeds.

A report, not a verdict: how far apart the distributions are, where replies part, and how close the call was there.
"""

import math
from collections.abc import Sequence
from importlib import resources
from itertools import zip_longest
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from jeito.decode import noise
from jeito.decode.local import LocalModel
from jeito.decode.sampler import Sampler
from jeito.engines.base import PLAIN, Tuning
from jeito.types import Several, Trace, Value

Row = NDArray[Any]


class First(Value):
    """The distribution of the first token, before any sampling value acts.

    `kl`: from a to b, in nats; none where it is infinite: a may say what b never would.
    """

    kl: float | None
    top_a: str
    top_b: str
    same_top: bool


class Parting(Value):
    """Two replies under one seed. `agree`: equal tokens before the first difference, or all.

    A margin is how much likelier the one's own token was than the other's, noise included, in nats; none where
    the other's token could not be drawn at all, or where nothing differs.
    """

    seed: int
    agree: int
    tokens_a: int
    tokens_b: int
    token_a: str | None = None
    token_b: str | None = None
    margin_a: float | None = None
    margin_b: float | None = None


class Walk(Value):
    """b, led through the replies of a: at each token, would b have drawn the same under the same noise?

    `kl`: the mean over the tokens, none where one is infinite.
    """

    tokens: int
    flips: int
    flips_per_1000: float
    kl: float | None
    same_top: float


class Reading(Value):
    """Both models on one text. Bits per byte compare tokenizers too. None: a token of it has no chance at all."""

    tokens_a: int
    tokens_b: int
    perplexity_a: float | None
    perplexity_b: float | None
    bits_per_byte_a: float | None
    bits_per_byte_b: float | None


class Parity(Value):
    """One behaviour on two models. What is none could not be measured: `why` says so."""

    behaviour: str
    a: str
    b: str
    same_prompt: bool
    same_ends: bool
    first: First | None = None
    replies: Several[Parting] = ()
    walk: Walk | None = None
    why: str | None = None


class Side(NamedTuple):
    """A model and what it replied."""

    model: LocalModel
    traces: Sequence[Trace]


def parity(a: Side, b: Side) -> Parity:
    """Two models' replies to one request under one behaviour, reply i of both under one seed.

    Reads both models again along the replies, in exact calls where they have them.
    """
    one, other = a.traces[0], b.traces[0]
    prompts = a.model.prompt(one.request), b.model.prompt(other.request)
    report: dict[str, Any] = {
        "behaviour": one.behaviour,
        "a": a.model.name,
        "b": b.model.name,
        "same_prompt": prompts[0] == prompts[1],
        "same_ends": a.model.card.ends == b.model.card.ends,
    }
    if not report["same_prompt"]:
        why = f"the prompt is {len(prompts[0])} tokens on one and {len(prompts[1])} on the other, or other ids"
        return Parity(**report, why=f"{why}: tokens cannot be compared one by one")
    if a.model.card.vocabulary != b.model.card.vocabulary:
        return Parity(**report, why="the vocabularies differ in size")
    prompt = prompts[0]
    partings, flips, total, kls, tops = [], 0, 0, [], []
    first: First | None = None
    for left, right in zip(a.traces, b.traces, strict=True):
        reply = _ids(left)
        at, same = _agreement(left, right)
        # One row for each token of the reply; the first follows the prompt.
        rows = [
            side.model.read([*prompt, *reply], len(prompt), side.model.tuning(trace.request))
            for side, trace in ((a, left), (b, right))
        ]
        samplers = [_sampler(side.model, trace, prompt) for side, trace in ((a, left), (b, right))]
        margins: tuple[float | None, float | None] = (None, None)
        for index, (mine, its) in enumerate(zip(*rows, strict=True)):
            p, q = _logs(mine), _logs(its)
            if first is None:
                first = _first(a.model, p, q)
            if index == at and not same:
                margins = _margins(samplers, (mine, its), left, right, at)
            if index == len(reply):
                break
            draw = samplers[1].draw(its)
            flips += draw is None or draw.id != reply[index]
            kls.append(_kl(p, q))
            tops.append(int(p.argmax()) == int(q.argmax()))
            total += 1
            for sampler in samplers:
                sampler.accept(reply[index])
        partings.append(_parting(a.model, left, right, at, same, margins))
    return Parity(
        **report,
        first=first,
        replies=tuple(partings),
        walk=Walk(
            tokens=total, flips=flips, flips_per_1000=1000 * flips / total, kl=_finite(np.mean(kls)),
            same_top=float(np.mean(tops)),
        ) if total else None,
        why=None if total else "no reply has a token",
    )  # fmt: skip


def read_text(
    a: LocalModel, b: LocalModel, text: str | None, tunings: tuple[Tuning, Tuning] = (PLAIN, PLAIN)
) -> Reading:
    """Perplexity of a text, its first token given; the beginning of Alice's Adventures in Wonderland if none is."""
    one, other = _read(a, text, tunings[0]), _read(b, text, tunings[1])
    return Reading(
        tokens_a=one[0], perplexity_a=one[1], bits_per_byte_a=one[2],
        tokens_b=other[0], perplexity_b=other[1], bits_per_byte_b=other[2],
    )  # fmt: skip


def perplexity(model: LocalModel, tuning: Tuning) -> float | None:
    """Of the beginning of Alice's Adventures in Wonderland; none where a token of it has no chance at all."""
    return _read(model, None, tuning)[1]


def _read(model: LocalModel, text: str | None, tuning: Tuning) -> tuple[int, float | None, float | None]:
    """Tokens, perplexity, bits per byte."""
    if text is None:
        text = resources.files("jeito.proof").joinpath("alice.txt").read_text(encoding="utf-8")
    tokens = model.tokens(text)[: model.card.context]
    rows = model.read(tokens[:-1], 1, tuning)
    losses = [-_logs(row)[token] for row, token in zip(rows, tokens[1:], strict=True)]
    bits = np.sum(losses) / math.log(2) / len(model.text(tokens[1:]))
    return len(losses), _finite(np.exp(np.mean(losses))), _finite(bits)


def _ids(trace: Trace) -> list[int]:
    ids = [token.id for token in trace.tokens if token.id is not None]
    assert len(ids) == len(trace.tokens), "a model in this process names its tokens"
    return ids


def _agreement(left: Trace, right: Trace) -> tuple[int, bool]:
    """How many tokens agree from the beginning, and whether all do."""
    for at, (one, other) in enumerate(zip_longest(left.tokens, right.tokens)):
        if one is None or other is None or one.id != other.id:
            return at, False
    return len(left.tokens), True


def _sampler(model: LocalModel, trace: Trace, prompt: Sequence[int]) -> Sampler:
    sampling = trace.request.sampling
    return Sampler(sampling, trace.seed, prompt, ends=model.card.ends, text=lambda token: model.text([token]))


def _logs(row: Row) -> Row:
    values = row.astype(np.float64)
    values -= values.max()
    found: Row = values - np.log(np.exp(values).sum())
    return found


def _kl(p: Row, q: Row) -> float:
    held = np.isfinite(p)
    return float(np.sum(np.exp(p[held]) * (p[held] - q[held])))


def _finite(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def _first(model: LocalModel, p: Row, q: Row) -> First:
    tops = [int(p.argmax()), int(q.argmax())]
    texts = [model.text([token]).decode(errors="replace") for token in tops]
    return First(kl=_finite(_kl(p, q)), top_a=texts[0], top_b=texts[1], same_top=tops[0] == tops[1])


def _margins(
    samplers: Sequence[Sampler], rows: Sequence[Row], left: Trace, right: Trace, at: int
) -> tuple[float | None, float | None]:
    """By how much each side preferred its own token where they part."""
    if at >= len(left.tokens) or at >= len(right.tokens):
        return None, None
    ids = left.tokens[at].id, right.tokens[at].id
    found = []
    for sampler, row, own, its in zip(samplers, rows, ids, reversed(ids), strict=True):
        support, logs = sampler.distribution(row)
        score = {
            int(token): float(value)
            for token, value in zip(support, logs + noise.noise(left.seed, at, support), strict=True)
            if token in ids
        }
        found.append(score[own] - score[its] if own in score and its in score else None)
    return found[0], found[1]


def _parting(
    model: LocalModel, left: Trace, right: Trace, at: int, same: bool, margins: tuple[float | None, float | None]
) -> Parting:
    def text(trace: Trace) -> str | None:
        # Not the token's own text in the trace: that is what was safe to show with it.
        is_there = not same and at < len(trace.tokens)
        return model.text([_ids(trace)[at]]).decode(errors="replace") if is_there else None

    return Parting(
        seed=left.seed, agree=at, tokens_a=len(left.tokens), tokens_b=len(right.tokens), token_a=text(left),
        token_b=text(right), margin_a=margins[0], margin_b=margins[1],
    )  # fmt: skip
