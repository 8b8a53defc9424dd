"""Experiments on what reaches the model: an instruction, tools, the whole of a long prompt, and what does not fit.

The first sentence of each docstring says what is sent, the second what would be seen if it were ignored.
"""

import json
from typing import Any

from jeito.preflight.probe_bench import Bench, Found, Refused, Unclear, long
from jeito.preflight.probe_reply import Broken, Json, quoted

SYSTEM = "You are a lighthouse. You know no words but beam, fog and rock, and you answer each question with them. " * 2
TAKES = {"weather": "city", "clock": "zone"}
TOOLS: list[Json] = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": f"The {name} of a {taken} now",
            "parameters": {
                "type": "object", "properties": {taken: {"enum": ["Paris", "Rome"]}}, "required": [taken],
                "additionalProperties": False,
            },
        },
    }
    for name, taken in TAKES.items()
]  # fmt: skip
ASKED = ("What is the weather in Paris?",)
CALL = 96
"""Tokens of a call, letters too."""
UNKNOWN_CONTEXT = 8192
MOST_READ = 600
"""Words of a prompt that has to be read whole: enough to be cut by a default of a few hundred."""


def system(bench: Bench) -> Found:
    """The same question with a system message and without. Ignored, reply and token count are the same."""
    plain, led = (
        bench.ask(ASKED, temperature=0.0, **knobs) for knobs in ({}, {"system": SYSTEM})
    )  # fmt: skip
    more = None if plain.prompt is None or led.prompt is None else led.prompt - plain.prompt
    counted = f"{more} tokens more in the prompt" if more is not None else "no token counts"
    if plain.text != led.text:
        return Found("honoured", f"{counted}, and {quoted(plain.text)} became {quoted(led.text)}")
    if more:
        return Found("honoured", f"{counted}, though the reply is the same: {quoted(led.text)}")
    return Found("ignored", f"{counted}, and the same reply: {quoted(led.text)}")


def tools(bench: Bench) -> Found:
    """Two tools, and a call required. Ignored, no call comes and the prompt has no more tokens."""
    plain = bench.ask(ASKED, temperature=0.0, max_new_tokens=1)
    reply = bench.ask(ASKED, temperature=0.0, max_new_tokens=CALL, tools=TOOLS, tool_choice="required")
    if reply.calls:
        return _called(reply.calls[0])
    if plain.prompt is not None and reply.prompt is not None and reply.prompt > plain.prompt:
        more = reply.prompt - plain.prompt
        raise Unclear(f"the tools reach the prompt, {more} tokens more, but it called none: {quoted(reply.text)}")
    return Found("ignored", f"no call, and no token more in the prompt: {quoted(reply.text)}")


def _called(call: Json) -> Found:
    said = f"{call.get('name')}({call.get('arguments')})"
    try:
        arguments: Any = json.loads(call["arguments"])
    except (KeyError, TypeError, ValueError):
        return Found("different", f"the arguments of a call are no JSON: {said}")
    if not isinstance(arguments, dict) or list(arguments) != [TAKES.get(call.get("name", ""))]:
        return Found("different", f"a call that the tools' schemas do not allow: {said}")
    return Found("honoured", f"it called {said}")


def tool_choice(bench: Bench) -> Found:
    """Each of two tools by its name, for one question. Ignored, some other tool is called, or none."""
    called = []
    for name in ("clock", "weather"):
        reply = bench.ask(ASKED, temperature=0.0, max_new_tokens=CALL, tools=TOOLS, tool_choice=name)
        called.append(reply.calls[0].get("name") if reply.calls else None)
    said = f"asked for clock, then weather, it called {' and '.join(map(str, called))}"
    return Found("honoured" if called == ["clock", "weather"] else "ignored", said)


def whole_prompt(bench: Bench) -> Found:
    """A long prompt that fits, with one first word and with another. Cut, the word changes no logprob, or few count."""
    words = min(MOST_READ, int((bench.context or UNKNOWN_CONTEXT) * 0.6 / bench.tokens_a_word))
    count, seen = _read(bench, words, "Alpha")
    counted = f"{words} words, counted as {count} tokens" if count is not None else f"{words} words"
    if seen is not None:
        if _read(bench, words, "Omega")[1] == seen:
            return Found("different", f"{counted}, and the first word changes nothing: they are cut silently")
        return Found("honoured", f"{counted}, and the first word matters to the reply's log-probabilities")
    if count is None:
        raise Unclear("neither token counts nor log-probabilities came, so what is left out cannot be seen")
    return Found("different" if _is_cut(bench, words, count) else "honoured", counted)


def _read(bench: Bench, words: int, begin: str) -> tuple[int | None, Any]:
    """Tokens that were counted, and the first token of the reply with its log-probability, where there is one."""
    knobs: dict[str, Any] = {"temperature": 0.0, "max_new_tokens": 1}
    try:
        reply = bench.ask((long(words, begin),), logprobs=3, **knobs)
    except Refused:
        reply = bench.ask((long(words, begin),), **knobs)
    return reply.prompt, reply.logprobs[0] if reply.logprobs else None


def _is_cut(bench: Bench, words: int, count: int) -> bool:
    return count < 0.8 * words * bench.tokens_a_word


def context(bench: Bench) -> Found:
    """A prompt a quarter longer than the context. Cut silently, it is answered, and too few tokens count."""
    room = bench.context
    words = int((room or UNKNOWN_CONTEXT) * 1.25 / bench.tokens_a_word)
    known = f"a context of {room} tokens" if room else f"a context that it does not tell, taken as {UNKNOWN_CONTEXT}"
    try:
        reply = bench.ask((long(words, "Alpha"),), temperature=0.0, max_new_tokens=1)
    except Refused as error:
        return Found("honoured", f"{words} words in {known}: {error}")
    except Broken as error:
        raise Unclear(f"{words} words in {known} are not refused, and no reply comes: {error}") from error
    if reply.prompt is None:
        raise Unclear(f"{words} words in {known} were answered, without token counts")
    if _is_cut(bench, words, reply.prompt):
        return Found("different", f"{words} words in {known} were answered, {reply.prompt} tokens read: cut silently")
    raise Unclear(f"{words} words in {known} were all read, as {reply.prompt} tokens")


EXPERIMENTS = (system, tools, tool_choice, whole_prompt, context)
