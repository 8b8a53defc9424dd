"""How each model family writes tool calls and reasoning: one table. Knows nothing of tokens, engines or prompts.

Where each row comes from, and what is not in the table, stands in docs/dialects.md.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from pydantic import JsonValue

from jeito.errors import BehaviourError, nearest
from jeito.types import ToolCall

NAME = "NAME"
"""In `before`: where a call's name stands."""

_RESULT = ("<tool_response>", "</tool_response>")
_OBJECT = '{"name": "NAME", "arguments": '
_WORD = r"(?P<name>[\w.-]+)"


@dataclass(frozen=True, slots=True)
class Dialect:
    """One family's way. Calls are `begin`, then each as `before`, arguments, `after`, with `between` in between, `end`.

    `form` says what a call is made of: an `object` with name and arguments; a name, then its arguments as JSON
    (`named`); a call in Python (`python`); a tag a parameter (`parameters`); bare words and `<escape>` (`escaped`).
    """

    name: str
    form: Literal["object", "named", "python", "parameters", "escaped"]
    opens: tuple[str, ...]
    """Marks after which a call is read."""
    source: str
    signs: tuple[str, ...] = ()
    """A template that holds all of these speaks so."""
    unlike: tuple[str, ...] = ()
    """One that holds one of these does not."""
    before: str = _OBJECT
    after: str = "}"
    begin: str = ""
    end: str = ""
    between: str = "\n"
    is_grouped: bool = False
    """Do `begin` and `end` enclose all calls of a reply? Otherwise each one."""
    closes: tuple[str, ...] = ()
    """Marks that may follow a call; with `joins` they are no text there."""
    joins: tuple[str, ...] = ()
    silent: tuple[str, ...] = ()
    """Marks that are no text anywhere: around a list of calls, before an answer."""
    bare: str = ""
    """The character that begins a call without any mark, where a reply begins."""
    header: str = ""
    """Of `named` calls, a regular expression: from the mark to the arguments."""
    is_sure: bool = True
    """Is whatever follows a mark a call? Otherwise text that turns out to be none is text."""
    has_short_ids: bool = False
    """Must a call's id be nine letters and digits?"""
    is_parallel: bool = True
    """Can one reply of an earlier turn hold several calls?"""
    reasoning: tuple[str, str] | None = None
    """The marks around reasoning."""

    @property
    def marks(self) -> frozenset[str]:
        """Every text that means something else than itself in this dialect."""
        return frozenset((*self.opens, *self.closes, *self.silent, *(self.reasoning or ()), *_RESULT))

    def call_id(self, number: int) -> str:
        """The id of a conversation's call, where the model gave it none."""
        return f"call{number:05d}" if self.has_short_ids else f"call-{number}"

    def fitting(self, call_id: str) -> str:
        """An id as this family's templates demand it; one that fits stays as it is."""
        if not self.has_short_ids or re.fullmatch("[A-Za-z0-9]{9}", call_id):
            return call_id
        return f"{re.sub('[^A-Za-z0-9]', '', call_id):0>9}"[-9:]

    def is_open(self, prompt: str) -> bool:
        """Does a prompt end inside reasoning, so that the reply begins there?"""
        return self.reasoning is not None and prompt.rstrip().endswith(self.reasoning[0])

    def write(self, calls: Iterable[ToolCall]) -> str:
        """Calls as the model would write them."""
        each = [self.before.replace(NAME, call.name) + self._arguments(call.arguments) + self.after for call in calls]
        if self.is_grouped:
            return self.begin + self.between.join(each) + self.end
        return self.between.join(self.begin + one + self.end for one in each)

    def _arguments(self, arguments: Mapping[str, JsonValue]) -> str:
        if self.form == "python":
            return ", ".join(f"{key}={_python(value)}" for key, value in arguments.items())
        if self.form == "parameters":
            values = {key: value if isinstance(value, str) else to_json(value) for key, value in arguments.items()}
            return "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in values.items())
        return _escaped(dict(arguments))[1:-1] if self.form == "escaped" else to_json(arguments)

    def result(self, content: str) -> str:
        """What a tool gave back, for a template without a place for it: a user's turn."""
        return f"{_RESULT[0]}\n{content}\n{_RESULT[1]}"

    def instruction(self, tools: Sequence[Mapping[str, Any]]) -> str:
        """What the model is told of its tools, for a template without a place for them."""
        form = self.write([ToolCall(id="", name=NAME, arguments={"PARAMETER": "VALUE"})])
        listed = "\n".join(to_json(tool["function"]) for tool in tools)
        return (
            f"You can use these tools:\n{listed}\n"
            f"To use one, write its name and its arguments in this form, and nothing else:\n{form}\n"
            f"Its result then comes between {_RESULT[0]} and {_RESULT[1]}."
        )


def to_json(value: Any) -> str:
    """JSON as templates write it, and so as models learned it."""
    return json.dumps(value, ensure_ascii=False)


def _python(value: JsonValue) -> str:
    return repr(value) if value is None or isinstance(value, bool) else to_json(value)


def _escaped(value: JsonValue) -> str:
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_escaped(its)}" for key, its in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_escaped, value)) + "]"
    return f"<escape>{value}<escape>" if isinstance(value, str) else to_json(value)


_VLLM = "vllm-project/vllm examples/tool_chat_template_"
_LLAMA_CPP = "ggml-org/llama.cpp models/templates/"

_HERMES = Dialect(
    "hermes", "object", ("<tool_call>",), f"{_VLLM}hermes.jinja; {_LLAMA_CPP}Qwen-Qwen3-0.6B.jinja",
    signs=("<tool_call>",), unlike=("<arg_key>",),
    begin="<tool_call>\n", end="\n</tool_call>", closes=("</tool_call>",),
)  # fmt: skip
PLAIN = replace(_HERMES, name="plain", source="our own, for templates without a place for tools", signs=())
_DEEPSEEK = Dialect(
    "deepseek-v3", "named", ("<｜tool▁call▁begin｜>",), f"{_VLLM}deepseekv3.jinja, …deepseekr1.jinja",
    signs=("<｜tool▁sep｜>", "```json"), begin="<｜tool▁calls▁begin｜>", end="<｜tool▁calls▁end｜>", is_grouped=True,
    before="<｜tool▁call▁begin｜>function<｜tool▁sep｜>NAME\n```json\n", after="\n```<｜tool▁call▁end｜>",
    header=rf"(?:function<｜tool▁sep｜>)?{_WORD}(?:<｜tool▁sep｜>|\s*```json)?\s*",
    closes=("<｜tool▁call▁end｜>",), joins=("```",), silent=("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"),
)  # fmt: skip
_PYTHON = Dialect(
    "pythonic", "python", ("<|python_start|>",),
    f"{_VLLM}llama4_pythonic.jinja, …llama3.2_pythonic.jinja, …gemma3_pythonic.jinja",
    signs=("func_name1(",), begin="[", before="NAME(", after=")", between=", ", end="]", is_grouped=True,
    closes=("<|python_end|>",), bare="[",
)  # fmt: skip

# The first whose signs are met speaks: what is more particular stands first.
_TABLE = (
    Dialect(
        "functiongemma", "escaped", ("<start_function_call>",),
        "https://ai.google.dev/gemma/docs/functiongemma/formatting-and-best-practices",
        signs=("<start_function_call>",), closes=("<end_function_call>",),
        before="<start_function_call>call:NAME{", after="}<end_function_call>", between="",
    ),
    _DEEPSEEK,
    replace(
        _DEEPSEEK, name="deepseek-v3.1", source=f"{_LLAMA_CPP}deepseek-ai-DeepSeek-V3.1.jinja", between="",
        signs=("<｜tool▁sep｜>",), before="<｜tool▁call▁begin｜>NAME<｜tool▁sep｜>", after="<｜tool▁call▁end｜>",
    ),
    Dialect(
        "mistral-args", "named", ("[TOOL_CALLS]",), "vllm-project/vllm vllm/tool_parsers/mistral_tool_parser.py",
        signs=("[TOOL_CALLS]", "[ARGS]"), before="[TOOL_CALLS]NAME[ARGS]", after="", between="",
        header=rf"\s*{_WORD}(?:\[CALL_ID\](?P<id>\w+))?(?:\[ARGS\])?\s*", has_short_ids=True,
    ),
    Dialect(
        "mistral", "object", ("[TOOL_CALLS]",), f"{_LLAMA_CPP}mistralai-Mistral-Nemo-Instruct-2407.jinja",
        signs=("[TOOL_CALLS]",), begin="[TOOL_CALLS][", between=", ", end="]", is_grouped=True, has_short_ids=True,
    ),
    Dialect(
        "phi4", "object", ("<|tool_call|>",), f"{_LLAMA_CPP}llama-cpp-microsoft-Phi-4-mini-instruct.jinja",
        signs=("<|tool_call|>", "<|/tool_call|>"), closes=("<|/tool_call|>",),
        begin="<|tool_call|>[", between=", ", end="]<|/tool_call|>", is_grouped=True,
    ),
    Dialect(
        "granite", "object", ("<|tool_call|>", "<tool_call>"),
        f"{_LLAMA_CPP}ibm-granite-granite-3.3-2B-Instruct.jinja",
        signs=("<|tool_call|>",), begin="<|tool_call|>[", between=", ", end="]", is_grouped=True,
    ),
    Dialect(
        "functionary", "named", (">>>",), f"{_LLAMA_CPP}meetkai-functionary-medium-v3.2.jinja",
        signs=(">>>all",), before=">>>NAME\n", after="", between="", silent=(">>>all\n",),
        header=rf"{_WORD}\n\s*", is_sure=False,
    ),
    replace(
        _HERMES, name="qwen3-coder", form="parameters", source=f"{_VLLM}qwen3coder.jinja", before="<function=NAME>\n",
        after="</function>", signs=("<tool_call>", "<function=", "<parameter="), unlike=(),
    ),
    Dialect(
        "function-tag", "named", ("<function=",), f"{_LLAMA_CPP}meetkai-functionary-medium-v3.1.jinja",
        signs=("<function=", "start_tag"), before="<function=NAME>", after="</function>", between="",
        closes=("</function>",), header=rf"{_WORD}>\s*",
    ),
    _HERMES,
    replace(
        _PYTHON, name="lfm2", opens=("<|tool_call_start|>",), source=f"{_LLAMA_CPP}llama-cpp-lfm2.jinja",
        signs=("<|tool_list_start|>",), begin="<|tool_call_start|>[", end="]<|tool_call_end|>",
        closes=("<|tool_call_end|>",), bare="",
    ),
    _PYTHON,
    Dialect(
        "llama", "object", ("<|python_tag|>",), f"{_VLLM}llama3.1_json.jinja, …llama4_json.jinja",
        signs=('"parameters": ', "ipython"), bare="{", joins=(";", ","),
        before='{"name": "NAME", "parameters": ', between="; ", is_parallel=False,
    ),
    PLAIN,
)  # fmt: skip
DIALECTS: Mapping[str, Dialect] = {dialect.name: dialect for dialect in _TABLE}

REASONING = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
    ("Here is my thought process:", "Here is my response:"),
)


def detect(template: str | None, special: Iterable[str] = (), name: str = "auto") -> Dialect:
    """The dialect of a model, with its marks of reasoning, by its template and the texts of its special tokens.

    A `name` other than `auto` decides which calls it writes. Raises BehaviourError for one that is not known.
    """
    template, tokens = template or "", " ".join(special)
    if name != "auto" and name not in DIALECTS:
        raise BehaviourError(f"no dialect is called {name!r}", hint=nearest(name, ["auto", *DIALECTS]))
    found = PLAIN if name == "auto" else DIALECTS[name]
    if name == "auto":
        # A vocabulary may hold marks that this model was never taught: they count where the template knows of tools.
        texts = (template, tokens if "tools" in template else "")
        found = next((dialect for text in texts for dialect in _TABLE if _speaks(dialect, text)), PLAIN)
    marks = next((pair for pair in REASONING if pair[1] in template or pair[1] in tokens), None)
    return replace(found, reasoning=marks)


def _speaks(dialect: Dialect, text: str) -> bool:
    return bool(dialect.signs) and all(sign in text for sign in dialect.signs) and not any(
        sign in text for sign in dialect.unlike
    )  # fmt: skip


def as_data(text: str, marks: Iterable[str]) -> str:
    """A stranger's text in which nothing is a mark any more: a backslash stands after each mark's first character.

    So `<|im_end|>` reads `<\\|im_end|>`, and is no special token. What has the shape `<|…|>` is broken up in any case.
    """
    known = sorted({re.escape(mark) for mark in marks if len(mark) > 1}, key=len, reverse=True)
    pattern = "|".join([*known, r"<[|｜][^\s<>|｜]{1,64}[|｜]>"])
    return re.sub(f"(?=(?:{pattern}))(.)", r"\1" + r"\\", text, flags=re.DOTALL)
