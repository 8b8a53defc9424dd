"""A reply in numbers: for comparing behaviours, telling them apart, and curves. Knows nothing of claims."""

import math
from collections.abc import Callable
from typing import NamedTuple

from jeito.proof import languages, measures
from jeito.proof.checks_answer import answer
from jeito.proof.values import Case
from jeito.types import Trace


class _Text(NamedTuple):
    """What several features look at, taken apart once."""

    trace: Trace
    words: list[str]
    sentences: list[str]


def _per(found: float, whole: float) -> float | None:
    return found / whole if whole else None


def _mean(values: list[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def _logprobs(text: _Text) -> list[float]:
    return [token.logprob for token in text.trace.tokens if token.logprob is not None and not token.forced]


def _language(language: str) -> Callable[[_Text], float | None]:
    return lambda text: languages.likelihood(text.trace.answer, language)


FEATURES: dict[str, Callable[[_Text], float | None]] = {
    "words": lambda text: float(len(text.words)),
    "sentences": lambda text: float(len(text.sentences)),
    "word_length": lambda text: _mean([float(len(word)) for word in text.words]),
    "sentence_length": lambda text: _per(len(text.words), len(text.sentences)),
    "distinct_1": lambda text: measures.distinct(text.words, 1),
    "distinct_2": lambda text: measures.distinct(text.words, 2),
    "repetition_4": lambda text: None if (found := measures.distinct(text.words, 4)) is None else 1 - found,
    "tokens": lambda text: float(text.trace.usage.generated),
    "surprisal": lambda text: None if (found := _mean(_logprobs(text))) is None else -found,
    "code_share": lambda text: _per(sum(map(len, measures.blocks(text.trace.answer))), len(text.trace.answer)),
    "list_items": lambda text: float(len(measures.ITEM.findall(measures.without_code(text.trace.answer)))),
    "digit_share": lambda text: _per(sum(map(str.isdigit, text.trace.answer)), len(text.trace.answer)),
    "capital_share": lambda text: _per(sum(map(str.isupper, text.trace.answer)), len(text.trace.answer)),
    "english": _language("en"),
    "portuguese": _language("pt"),
}
"""The features of a reply. `surprisal`: nats a drawn token in the model's own distribution, mean."""


def features(trace: Trace, case: Case | None = None) -> dict[str, float | None]:
    """Every feature of a reply; with a case that expects a number also `answer`, 1 where it is right.

    None: it cannot be measured on this reply, such as a mean over no words.
    """
    text = _Text(trace, measures.words(trace.answer.casefold()), measures.sentences(trace.answer))
    found = {name: feature(text) for name, feature in FEATURES.items()}
    if case is not None and case.expect.number is not None:
        passed = answer(trace, case).passed
        found["answer"] = None if passed is None else float(passed)
    return found
