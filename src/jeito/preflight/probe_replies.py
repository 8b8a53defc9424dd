"""Experiments on what comes back: where a reply ends, how many there are, what is said of them, and their form.

The first sentence of each docstring says what is sent, the second what would be seen if it were ignored.
"""

import json
import re
from typing import Any

from jeito.preflight.probe_bench import HOT, WORDS, Bench, Found, Unclear
from jeito.preflight.probe_reply import Broken, Json, chunks, quoted

SEA = ("Tell me about the sea.",)
FEW = 4
SCHEMA: Json = {
    "type": "object", "properties": {"zq": {"enum": ["vf7", "vf8"]}}, "required": ["zq"], "additionalProperties": False,
}  # fmt: skip


def max_new_tokens(bench: Bench) -> Found:
    """4 tokens of the reply at temperature 0. Ignored, more of it comes."""
    whole, is_steady = bench.greedy
    short = bench.ask(WORDS, temperature=0.0, max_new_tokens=FEW)
    if len(short.text) >= len(whole):
        return Found("ignored", f"with {FEW} tokens at most came {quoted(short.text)}")
    if is_steady and not whole.startswith(short.text):
        raise Unclear(f"the shorter reply is another: {quoted(short.text)}")
    if short.finish != "length":
        return Found("different", f"{quoted(short.text)} is cut off, but said to have ended by {short.finish!r}")
    return Found("honoured", f"{quoted(short.text)} of {quoted(whole)}")


def stop(bench: Bench) -> Found:
    """Letters from the middle of the reply at temperature 0. Ignored, the reply goes on behind them."""
    whole, is_steady = bench.greedy
    if not is_steady or len(whole) < 8:
        raise Unclear(f"no steady reply to stop in: {quoted(whole)}")
    string = whole[len(whole) // 2 :][:4]
    before = whole[: whole.index(string)]
    reply = bench.ask(WORDS, temperature=0.0, stop=[string])
    if reply.text.rstrip() == before.rstrip():
        return Found("honoured", f"{quoted(string)} cut it to {quoted(reply.text)}")
    if reply.text == before + string:
        return Found("different", f"it ended there, but {quoted(string)} is left in the reply")
    return Found("ignored" if string in reply.text else "different", f"{quoted(string)} left {quoted(reply.text)}")


def n(bench: Bench) -> Found:
    """Two replies asked for in one request at temperature 1.5. Ignored, one comes."""
    texts = bench.ask(WORDS, temperature=HOT, n=2).texts
    if len(texts) != 2:
        return Found("ignored", f"{len(texts)} came of 2")
    if texts[0] == texts[1] and len(set(bench.hot)) > 1:
        return Found("different", f"twice {quoted(texts[0])}")
    return Found("honoured", f"{quoted(texts[0])} and {quoted(texts[1])}")


def logprobs(bench: Bench) -> Found:
    """Three alternatives for each token of a reply at temperature 0. Ignored, there are none."""
    reply = bench.ask(WORDS, temperature=0.0, max_new_tokens=FEW, logprobs=3)
    if not reply.logprobs:
        return Found("ignored", "no log-probabilities came")
    wrong = _wrong_logprobs(reply.text, reply.logprobs)
    said = f"{len(reply.logprobs)} tokens, the first {reply.logprobs[0]['logprob']:.3g}"
    return Found("different", wrong) if wrong else Found("honoured", said)


def _wrong_logprobs(text: str, found: list[Json]) -> str | None:
    tops = [[top["logprob"] for top in one.get("top_logprobs") or ()] for one in found]
    if any(value > 1e-6 for one, top in zip(found, tops, strict=True) for value in (one["logprob"], *top)):
        return "some are above 0"
    if any(len(top) < 3 for top in tops):
        return f"3 alternatives were asked for, and {min(map(len, tops))} came"
    if any(one["logprob"] < max(top) - 1e-3 for one, top in zip(found, tops, strict=True)):
        return "at temperature 0 a token came that they say is not the likeliest"
    joined = b"".join(bytes(one.get("bytes") or one["token"].encode()) for one in found)
    if not joined.decode(errors="replace").strip().startswith(text.strip()):
        return f"their tokens make {quoted(joined.decode(errors='replace'))}, and the reply is {quoted(text)}"
    return None


def usage(bench: Bench) -> Found:
    """A reply of 4 tokens, then the same with fifty words more in the prompt. Wrong, the counts do not fit these."""
    short = bench.ask(WORDS, temperature=0.0, max_new_tokens=FEW)
    longer = bench.ask((WORDS[0] + " sea" * 50,), temperature=0.0, max_new_tokens=1)
    if short.prompt is None or short.generated is None or longer.prompt is None:
        return Found("ignored", "no token counts came")
    wrong = []
    if short.finish == "length" and short.generated != FEW:
        wrong.append(f"a reply of {FEW} tokens is counted as {short.generated}")
    if not 50 <= longer.prompt - short.prompt <= 200:
        wrong.append(f"fifty words more in the prompt are counted as {longer.prompt - short.prompt} tokens more")
    if short.usage.get("total_tokens", short.prompt + short.generated) != short.prompt + short.generated:
        wrong.append(f"{short.prompt} and {short.generated} tokens are {short.usage['total_tokens']} in all")
    right = f"{short.generated} tokens of {FEW}; fifty words more in the prompt are {longer.prompt - short.prompt}"
    return Found("different", "; ".join(wrong)) if wrong else Found("honoured", right)


def stream(bench: Bench) -> Found:
    """The reply at temperature 0 in pieces. Wrong, they are broken, do not end, or make another reply."""
    whole, is_steady = bench.greedy
    lines = bench.stream(WORDS, temperature=0.0)
    if not lines or not lines[0].startswith(("data:", "event:", ":", "id:")):
        return Found("ignored", f"no events came, but {quoted(lines[0] if lines else '')}")
    try:
        pieces = list(chunks(lines))
    except Broken as error:
        return Found("different", f"the events are broken: {error}")
    choices = [choice for piece in pieces for choice in piece.get("choices") or ()]
    text = "".join((choice.get("delta") or {}).get("content") or "" for choice in choices)
    if lines[-1].removeprefix("data:").strip() != "[DONE]":
        return Found("different", f"the stream ended without [DONE], after {quoted(text)}")
    if not any(choice.get("finish_reason") for choice in choices):
        return Found("different", f"no piece says how {quoted(text)} ended")
    if is_steady and text.strip() != whole.strip():
        return Found("different", f"the pieces make {quoted(text)}, and the whole reply is {quoted(whole)}")
    counted = "with" if any(piece.get("usage") for piece in pieces) else "without"
    return Found("honoured", f"{len(pieces)} pieces, {counted} token counts at the end")


def json_schema(bench: Bench) -> Found:
    """A schema whose only answers no model would give by itself. Ignored, the answer is another text."""
    text = bench.ask(SEA, temperature=0.0, max_new_tokens=32, json_schema=SCHEMA).text
    try:
        found: Any = json.loads(text)
    except ValueError:
        return Found("ignored", f"it answered {quoted(text)}")
    if isinstance(found, dict) and found.keys() == {"zq"} and found["zq"] in ("vf7", "vf8"):
        return Found("honoured", f"it answered {quoted(text)}")
    return Found("different", f"it answered JSON, but not of the schema: {quoted(text)}")


def regex(bench: Bench) -> Found:
    """`[xz]{3}-[0-9]{4}`. Ignored, the answer is another text."""
    return _held(bench, "[xz]{3}-[0-9]{4}", regex="[xz]{3}-[0-9]{4}")


def choice(bench: Bench) -> Found:
    """`qx7` or `qx8`. Ignored, the answer is another text."""
    return _held(bench, "qx[78]", choice=["qx7", "qx8"])


def lark(bench: Bench) -> Found:
    """A grammar of `qx` and three digits. Ignored, the answer is another text."""
    return _held(bench, "qx[0-9]{3}", lark='start: "qx" /[0-9]{3}/')


def _held(bench: Bench, pattern: str, **contract: Any) -> Found:
    text = bench.ask(SEA, temperature=0.0, max_new_tokens=24, **contract).text
    return Found("honoured" if re.fullmatch(pattern, text.strip()) else "ignored", f"it answered {quoted(text)}")


EXPERIMENTS = (max_new_tokens, stop, n, logprobs, usage, stream, json_schema, regex, choice, lark)
