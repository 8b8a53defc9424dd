"""Experiments on what changes the logits: penalties, bias, a least length.

The first sentence of each docstring says what is sent, the second what would be seen if it were ignored.
"""

from collections.abc import Sequence
from typing import Any

from jeito.preflight.probe_bench import LAUGH, Bench, Found, Refused, Unclear
from jeito.preflight.probe_reply import Reply, quoted

HUGE = 100.0
ALLOWED = 2.0
"""The most that OpenAI and vLLM take."""
PROSE = ("Tell me about the sea and the ships on the sea.", "Count from one to thirty.", "Write ten random digits.")
IDS = (70, 75, 400, 500, 1400, 1500, 11000, 12000)
"""Tokens that are plain text in most vocabularies; some begin with hundreds of marks."""
SAY_OK = ("Say OK.", "OK.", "Say OK.", "OK.", "Say OK.")


def repetition_penalty(bench: Bench) -> Found:
    """100 in a conversation that the reply would repeat. Ignored, it repeats it still."""
    reply = bench.ask(LAUGH, temperature=0.0, repetition_penalty=HUGE)
    if (found := _unchanged(bench, reply)) is not None:
        return found
    if reply.text.startswith(bench.laughs_first):
        return Found("different", f"tokens of the reply count, those of the prompt do not: {quoted(reply.text)}")
    return Found("honoured", f"{quoted(bench.laugh.text)} became {quoted(reply.text)}; tokens of the prompt count")


def repetition_window(bench: Bench) -> Found:
    """1, with a repetition penalty of 100. Ignored, the penalty sees more than the last token."""
    wide = bench.ask(LAUGH, temperature=0.0, repetition_penalty=HUGE, max_new_tokens=1).text
    if wide == bench.laughs_first:
        raise Unclear("a repetition penalty does not count the prompt here, so a window on it cannot be seen")
    narrow = bench.ask(LAUGH, temperature=0.0, repetition_penalty=HUGE, repetition_window=1, max_new_tokens=1).text
    if narrow == bench.laughs_first:
        return Found("honoured", f"{quoted(wide)} became {quoted(narrow)}, which stands earlier in the prompt")
    return Found("ignored", f"{quoted(narrow)} came first, where {quoted(bench.laughs_first)} lay outside the window")


def presence_penalty(bench: Bench) -> Found:
    """100, or 2 where more is refused, in a conversation that the reply would repeat. Ignored, it repeats it still."""
    return _additive(bench, "presence_penalty")


def frequency_penalty(bench: Bench) -> Found:
    """100, or 2 where more is refused, in a conversation that the reply would repeat. Ignored, it repeats it still."""
    return _additive(bench, "frequency_penalty")


def _additive(bench: Bench, knob: str) -> Found:
    value = HUGE
    try:
        reply = bench.ask(LAUGH, temperature=0.0, **{knob: value})
    except Refused:
        value = ALLOWED
        reply = bench.ask(LAUGH, temperature=0.0, **{knob: value})
    found = _unchanged(bench, reply)
    if found is not None:
        # 2 is little beside how sure a model is of a repetition: look where it is less sure.
        return _in_prose(bench, knob) if value == ALLOWED and found.verdict == "ignored" else found
    became = f"{quoted(bench.laugh.text)} became {quoted(reply.text)} with {value:g}"
    if not reply.text.startswith(bench.laughs_first):
        return Found("different", f"tokens of the prompt count too: {became}")
    return Found("honoured", f"{became}; tokens of the prompt do not count")


def _in_prose(bench: Bench, knob: str) -> Found:
    for turn in PROSE:
        plain, fined = (
            bench.ask((turn,), temperature=0.0, max_new_tokens=32, **knobs).text for knobs in ({}, {knob: ALLOWED})
        )
        if plain != fined:
            why = "whether tokens of the prompt count cannot be seen within ±2"
            return Found("honoured", f"{quoted(plain)} changed with {ALLOWED:g}; {why}")
    return Found("ignored", f"{len(PROSE) + 1} replies are the same with {ALLOWED:g} as without it")


def dry(bench: Bench) -> Found:
    """A multiplier of 100 in a conversation that the reply would repeat. Ignored, it repeats it still."""
    reply = bench.ask(LAUGH, temperature=0.0, dry={"multiplier": HUGE, "allowed_length": 1})
    changed = Found("honoured", f"{quoted(bench.laugh.text)} became {quoted(reply.text)}")
    return _unchanged(bench, reply) or changed


def _unchanged(bench: Bench, reply: Reply) -> Found | None:
    """What it means that a penalty changed nothing; none where it did."""
    plain = bench.laugh.text
    if not _repeats(plain, bench.laughs_first):
        raise Unclear(f"the reply that was to repeat itself does not: {quoted(plain)}")
    return Found("ignored", f"{quoted(reply.text)} with it as without it") if reply.text == plain else None


def _repeats(text: str, first: str) -> bool:
    return bool(first) and text.count(first) > 1


def logit_bias(bench: Bench) -> Found:
    """+100 on one token, then on others, at temperature 0. Ignored, the reply is the one without it."""
    plain, seen = bench.greedy, list[str]()
    last: Refused | None = None
    for token in IDS:
        try:
            text = bench.ask(("Write ten random words.",), temperature=0.0, max_new_tokens=4, logit_bias={token: 100.0})
        except Refused as error:  # an id beyond its vocabulary
            last = error
            continue
        seen.append(text.text)
        if _is_one_piece(text.text):
            return Found("honoured", f"+100 on token {token} gave {quoted(text.text)}, without it {quoted(plain.text)}")
    if not seen and last is not None:
        raise last
    if all(plain.text.startswith(text) for text in seen):
        return Found("ignored", f"+100 on any of {len(seen)} tokens gave {quoted(seen[0])}, as without it")
    return Found("different", f"+100 on one token gave {quoted(seen[-1])}, which is not that token again and again")


def _is_one_piece(text: str) -> bool:
    """Four times the same?"""
    size = len(text) // 4
    return size > 0 and text == text[:size] * 4


def min_new_tokens(bench: Bench) -> Found:
    """24, where the reply at temperature 0 would end sooner. Ignored, it does."""
    knobs: dict[str, Any] = {"temperature": 0.0, "max_new_tokens": 24}
    plain = bench.ask(SAY_OK, **knobs)
    if plain.finish != "stop":
        raise Unclear(f"no short reply to prolong: {quoted(plain.text)}")
    longer = bench.ask(SAY_OK, min_new_tokens=24, **knobs)
    if longer.finish == "length" and len(longer.text) >= len(plain.text):
        return Found("honoured", f"{quoted(plain.text)} became {quoted(longer.text)}")
    return Found("ignored", f"it ended with {quoted(longer.text)}, without it with {quoted(plain.text)}")


EXPERIMENTS: Sequence[Any] = (
    repetition_penalty, repetition_window, presence_penalty, frequency_penalty, dry, logit_bias, min_new_tokens,
)  # fmt: skip
