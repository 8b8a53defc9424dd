"""Replies with tool calls as each family publishes its form, made from a seed, and short words for reading them.

The writers here are apart from the code under test.
"""

import json
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from jeito.decode.call_parser import CallEnded, CallParser, Part, Said
from jeito.decode.dialects import Dialect, detect
from jeito.types import ToolCall

TEXT, NUMBER = {"type": "string"}, {"type": "number"}
WEATHER: dict[str, Any] = {
    "type": "object",
    "properties": {
        "place": TEXT,
        "days": {"type": "integer"},
        "exact": {"type": "boolean"},
        "unit": {"type": "string", "enum": ["c", "f"]},
        "tags": {"type": "array", "items": TEXT},
        "near": {
            "type": "object",
            "properties": {"x": NUMBER, "note": TEXT},
            "required": ["x"],
            "additionalProperties": False,
        },
    },
    "required": ["place"],
    "additionalProperties": False,
}
NOW: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}
TOOLS: list[dict[str, Any]] = [
    {"type": "function", "function": {"name": name, "description": "x", "parameters": schema}}
    for name, schema in (("weather", WEATHER), ("weather_now", WEATHER), ("now", NOW))
]
THINK = ("<think>", "</think>")
STRINGS = (
    "Paris", "", "São Paulo", 'a "quote"', "it's", "{brace", "]}", "a\\b", "two\nlines", "日本 🌧️", "x; y, z",
    "</tool_call>", "<tool_call>", "[TOOL_CALLS]", "```", "<|im_end|>", "name: a(b=1)", "5", "True", ")",
    "<think>", "｜sep", ">>>all\n",
)  # fmt: skip


class Case(NamedTuple):
    """A reply, and what is in it. `prompt`: how the prompt before it ends."""

    dialect: str
    text: str
    answer: str
    reasoning: str
    calls: list[tuple[str, dict[str, Any]]]
    prompt: str = ""


def dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _hermes(call: ToolCall, at: int) -> str:
    keys = [f'"name": {dumps(call.name)}', f'"arguments": {dumps(call.arguments)}']
    return "<tool_call>\n{" + ", ".join(keys if at % 2 else keys[::-1]) + "}\n</tool_call>"


def _object(call: ToolCall) -> str:
    return dumps({"name": call.name, "arguments": call.arguments})


def _parameters(call: ToolCall) -> str:
    lines = [f"<tool_call>\n<function={call.name}>"]
    for key, value in call.arguments.items():
        lines.append(f"<parameter={key}>\n{value if isinstance(value, str) else dumps(value)}\n</parameter>")
    return "\n".join([*lines, "</function>\n</tool_call>"])


def _python(call: ToolCall, at: int) -> str:
    return f"{call.name}({', '.join(f'{key}={(repr, dumps)[at % 2](value)}' for key, value in call.arguments.items())})"


def _escaped(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_escaped(value[key])}" for key in sorted(value)) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_escaped, value)) + "]"
    return f"<escape>{value}<escape>" if isinstance(value, str) else dumps(value)


def _deepseek(calls: list[ToolCall], form: str) -> str:
    each = (
        "<｜tool▁call▁begin｜>" + form.format(call.name, dumps(call.arguments)) + "<｜tool▁call▁end｜>"
        for call in calls
    )
    return "<｜tool▁calls▁begin｜>" + "\n".join(each) + "<｜tool▁calls▁end｜>"


WRITERS: dict[str, Callable[[list[ToolCall]], str]] = {
    "hermes": lambda calls: "\n".join(_hermes(call, at) for at, call in enumerate(calls)),
    "plain": lambda calls: "\n".join(_hermes(call, 1) for call in calls),
    "qwen3-coder": lambda calls: "\n".join(map(_parameters, calls)),
    "mistral": lambda calls: f"[TOOL_CALLS] [{', '.join(map(_object, calls))}]",
    "mistral-args": lambda calls: "".join(
        f"[TOOL_CALLS]{call.name}{'[CALL_ID]abcdefgh' + str(at) if at else ''}[ARGS]{dumps(call.arguments)}"
        for at, call in enumerate(calls)
    ),
    "llama": lambda calls: ("<|python_tag|>" if len(calls) > 1 else "") + "; ".join(
        dumps({"name": call.name, "parameters": call.arguments}) for call in calls
    ),
    "pythonic": lambda calls: f"[{', '.join(_python(call, at) for at, call in enumerate(calls))}]",
    "lfm2": lambda calls: f"<|tool_call_start|>[{', '.join(_python(call, 1) for call in calls)}]<|tool_call_end|>",
    "phi4": lambda calls: f"<|tool_call|>[{', '.join(map(_object, calls))}]<|/tool_call|>",
    "granite": lambda calls: f"<|tool_call|>[{', '.join(map(_object, calls))}]",
    "functiongemma": lambda calls: "".join(
        f"<start_function_call>call:{call.name}{_escaped(call.arguments)}<end_function_call>" for call in calls
    ),
    "deepseek-v3": lambda calls: _deepseek(calls, "function<｜tool▁sep｜>{}\n```json\n{}\n```"),
    "deepseek-v3.1": lambda calls: _deepseek(calls, "{}<｜tool▁sep｜>{}"),
    "functionary": lambda calls: "".join(f">>>{call.name}\n{dumps(call.arguments)}" for call in calls),
    "function-tag": lambda calls: "".join(
        f"<function={call.name}>{dumps(call.arguments)}</function>" for call in calls
    ),
}  # fmt: skip
BARE = ("llama", "pythonic")
"""Whoever speaks these says nothing beside a call."""


def _arguments(chance: random.Random) -> dict[str, Any]:
    some: dict[str, Any] = {
        "place": chance.choice(STRINGS),
        "days": chance.randrange(-9, 99),
        "exact": chance.random() < 0.5,
        "unit": chance.choice("cf"),
        "tags": [chance.choice(STRINGS) for _ in range(chance.randrange(3))],
        "near": {"x": chance.choice([0, -2.5, 1e-7]), "note": chance.choice(STRINGS)},
    }
    return {key: value for key, value in some.items() if key == "place" or chance.random() < 0.3}


def cases(each: int = 24, seed: int = 0) -> Iterator[Case]:
    """As many replies of each dialect: one call or two, text before and after, reasoning, also begun in the prompt."""
    for dialect, write in WRITERS.items():
        chance = random.Random(f"{seed} {dialect}")
        for number in range(each):
            calls = [
                ToolCall(id="", name=name, arguments=_arguments(chance) if name != "now" else {})
                for name in chance.choices(("weather", "weather_now", "now"), (3, 1, 1), k=1 + number % 2)
            ]
            before = "" if dialect in BARE else chance.choice(["", "Let me see.", "Olá, {x}: [1] <b>", "a < b"])
            after = "" if dialect in BARE or number % 3 else "Done, then."
            reasoning = chance.choice(["", "", "I'd call\n<tool_call>{} now[]", "はい"])
            prompt = "<think>\n" if reasoning and number % 2 else ""
            thought = f"{'' if prompt else THINK[0]}\n{reasoning}\n{THINK[1]}\n\n" if reasoning else ""
            shown = [before, after]
            if dialect == "functionary":
                prompt = prompt if reasoning else ">>>"
                before, after = (f"all\n{before}" if prompt == ">>>" else f">>>all\n{before}"), f">>>all\n{after}"
            text = thought + before + ("\n" if before and dialect != "mistral-args" else "") + write(calls)
            yield Case(dialect, f"{text}\n{after}", "".join(shown), reasoning,
                       [(call.name, call.arguments) for call in calls], prompt)  # fmt: skip


def of(dialect: str) -> list[Case]:
    return [case for case in cases() if case.dialect == dialect]


def thinking(name: str) -> Dialect:
    return detect("</think>", name=name)


def read(dialect: Dialect, pieces: Iterable[str], prompt: str = "") -> list[Part]:
    parser = CallParser(dialect, TOOLS, prompt=prompt)
    parts = [part for piece in pieces for part in parser.feed(piece)]
    return parts + parser.finish()


def said(parts: Sequence[Part], channel: str = "answer") -> str:
    return "".join(part.text for part in parts if isinstance(part, Said) and part.channel == channel)


def calls(parts: Sequence[Part]) -> list[tuple[str, dict[str, Any]]]:
    return [(part.call.name, part.call.arguments) for part in parts if isinstance(part, CallEnded)]
