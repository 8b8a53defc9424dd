"""A conversation as the prompt text that a model was trained on, by its own Jinja template, in a sandbox.

What the template has no place for (an instruction, tools, calls, results) is written in the model's dialect instead.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import cache, cached_property
from typing import Any

from jeito.decode.dialects import PLAIN, Dialect, as_data, detect, to_json
from jeito.errors import ModelError
from jeito.types import Message, Placement, ToolCall

# What models without a template were mostly trained on (DialoGPT): turns with the end token between them.
PLAIN_TURNS = "{% for message in messages %}{{ message.content }}{{ eos_token }}{% endfor %}"

_PROBE = "jeito-probe"
_PROBE_CALL = ToolCall(id="jeito0000", name="jeito_probe_call", arguments={"jeito_key": "jeito_value"})
_PROBE_TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "jeito_probe_tool",
        "description": "x",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "string", "description": "x"}},
            "required": ["a"],
        },
    },
}
# What templates write around turns: <|im_start|>, <start_of_turn>, [INST], </s>.
_MARK = re.compile(r"<[|｜/]?[A-Za-z_][^\s<>'\"{}]*>|\[/?[A-Z_]{2,}\]")


def _json(
    value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False
) -> str:
    # transformers' filter, not Jinja's: that one escapes HTML, which no model was trained on.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: str) -> str:
    raise ModelError(
        f"the model's template refuses this conversation: {message}", hint="its author can say which it takes"
    )


@cache
def _generation_blocks() -> type:
    """`{% generation %}…{% endgeneration %}` marks for training what the assistant says; here it only encloses."""
    from jinja2 import nodes
    from jinja2.ext import Extension
    from jinja2.parser import Parser

    class Generation(Extension):
        tags = {"generation"}  # noqa: RUF012 - Jinja's own declaration

        def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
            line = next(parser.stream).lineno
            inner = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(inner).set_lineno(line)

    return Generation


class Template:
    """One model's template; `name` says where it is from: `model` or `plain-turns`.

    `marks`: texts that would become special tokens, beside those that the template itself writes: no tool's result
    can hold one.
    """

    def __init__(
        self, source: str | None, special: Mapping[str, str], dialect: Dialect | None = None, marks: Iterable[str] = ()
    ) -> None:
        self.name = "model" if source else "plain-turns"
        self.dialect = dialect or detect(source, special.values())
        self._source = source or PLAIN_TURNS
        self._special = dict(special)
        self._marks = self.dialect.marks.union(special.values(), marks, _MARK.findall(self._source))

    @cached_property
    def _compiled(self) -> Any:
        import jinja2.ext
        from jinja2.exceptions import TemplateSyntaxError
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols, _generation_blocks()]
        )
        environment.filters["tojson"] = _json
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
        try:
            return environment.from_string(self._source)
        except TemplateSyntaxError as error:
            raise ModelError(f"the model's template is broken at line {error.lineno}: {error.message}") from error
        except (SyntaxError, RecursionError) as error:  # Python's own, of what is nested too deeply for it
            raise ModelError(f"the model's template is broken: {error}") from error

    def render(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = (), *, opens: bool = True
    ) -> str:  # fmt: skip
        """The prompt text; where it `opens`, up to the assistant's reply. `tools`: JSON schemas, as OpenAI has them."""
        return self._render(self._turns(messages), tools, opens)

    def _render(self, turns: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]], opens: bool) -> str:
        from jinja2.exceptions import TemplateError

        given = {"tools": list(tools)} if tools else {}
        try:
            return str(self._compiled.render(messages=turns, add_generation_prompt=opens, **given, **self._special))
        except (
            TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RecursionError
        ) as error:  # fmt: skip
            raise ModelError(f"the model's template fails on this conversation: {error}") from error

    def _turns(self, messages: Sequence[Message]) -> list[dict[str, Any]]:
        """The messages as templates take them."""
        names = {call.id: call.name for message in messages for call in message.calls}
        turns: list[dict[str, Any]] = []
        follows_result = False
        for message in self.split(messages):
            is_result = message.role == "tool" and not self._has_results
            turn = self._turn(message, names.get(message.call_id or "", ""))
            if (is_result or follows_result) and turns and turns[-1]["role"] == turn["role"] == "user":
                # Many templates refuse two turns of the user in a row.
                turns[-1]["content"] += f"\n{turn['content']}"
            else:
                turns.append(turn)
            follows_result = is_result
        return turns

    def split(self, messages: Sequence[Message]) -> list[Message]:
        """The turns that the model is shown: where a family makes one call at a time, one for each call."""
        return list(messages) if self.dialect.is_parallel else _one_call_each(messages)

    def _turn(self, message: Message, name: str) -> dict[str, Any]:
        """One message; `name`: of the tool whose result it is."""
        turn: dict[str, Any] = {"role": message.role, "content": message.content}
        if message.role == "tool":
            content = as_data(message.content, self._marks)
            if not self._has_results:
                return {"role": "user", "content": self.dialect.result(content)}
            turn |= {"content": content, "name": name, "tool_call_id": self.dialect.fitting(message.call_id or "")}
        elif message.calls and self._has_calls:
            turn["tool_calls"] = [_call(call, self.dialect.fitting(call.id), self._has_calls) for call in message.calls]
        elif message.calls:
            turn["content"] = "\n".join(filter(None, (message.content, self.dialect.write(message.calls))))
        return turn

    def _tried_call(self, form: str) -> str:
        """What becomes of a call and of its result; nothing when the template fails."""
        call = {"role": "assistant", "content": "", "tool_calls": [_call(_PROBE_CALL, _PROBE_CALL.id, form)]}
        result = {"role": "tool", "name": _PROBE_CALL.name, "tool_call_id": _PROBE_CALL.id, "content": _PROBE}
        turns: list[dict[str, Any]] = [{"role": "user", "content": "x"}, call, result]
        for some in (turns, turns[:2]):
            with suppress(ModelError):
                return self._render(some, [_PROBE_TOOL], opens=True)
        return ""

    @cached_property
    def _has_calls(self) -> str | None:
        """Do calls reach the prompt, and with their arguments as `objects` or as `texts`? Tried, not believed."""
        if self.dialect.name == PLAIN.name:
            return None
        for form in ("objects", "texts"):
            text = self._tried_call(form)
            # An object written as Python writes it, or a text that is written as JSON once more, is not what was said.
            is_spoiled = "'jeito_key'" in text or '\\"jeito_key' in text
            if _PROBE_CALL.name in text and "jeito_value" in text and not is_spoiled:
                return form
        return None

    @cached_property
    def _has_results(self) -> bool:
        """Do results of tools reach the prompt as such? A template without calls would take `tool` for any name."""
        return self._has_calls is not None and _PROBE in self._tried_call(self._has_calls)

    @cached_property
    def has_tools(self) -> bool:
        """Do tools reach the prompt, and are the calls that follow such as we can read?"""
        with suppress(ModelError):
            return self.dialect.name != PLAIN.name and self.shows(_PROBE_TOOL)
        return False

    @cached_property
    def has_system(self) -> bool:
        """Does a system message reach the prompt? Tried, not believed."""
        try:
            text = self.render([Message(role="system", content=_PROBE), Message(role="user", content="x")])
        except ModelError:
            return False
        return self.name != "plain-turns" and _PROBE in text

    def shows(self, tool: Mapping[str, Any]) -> bool:
        """Does a tool reach the prompt? Tried, since templates drop in silence what they have no place for."""
        return str(tool["function"]["name"]) in self._render([{"role": "user", "content": "x"}], [tool], opens=True)

    def placement(self, wanted: Placement) -> tuple[Placement, str | None]:
        """Where an instruction can stand, and a note where that is not what was wanted."""
        if wanted != "system" or self.has_system:
            return wanted, None
        return "user_start", "the template has no system role: the instruction stands at user_start"

    def tools_note(self) -> str | None:
        """What a receipt says of tools that stand in the instruction."""
        if self.has_tools:
            return None
        return f"the template has no place for tools that we know: the instruction lists them ({self.dialect.name})"

    def prompt(
        self,
        messages: Sequence[Message],
        system: str,
        placement: Placement,
        tools: Sequence[Mapping[str, Any]] = (),
    ) -> tuple[str, Placement]:
        """The prompt that asks for the next turn, with the instruction in it, and where that went.

        Tools that the template has no known place for end the instruction, wherever it stands.
        """
        turns, tools, placement = self.told(messages, system, placement, tools)
        return self.render(turns, tools), placement

    def told(
        self, messages: Sequence[Message], system: str, placement: Placement, tools: Sequence[Mapping[str, Any]]
    ) -> tuple[list[Message], Sequence[Mapping[str, Any]], Placement]:
        """The turns and the tools that are rendered, and where the instruction went."""
        tools = [self._harmless(tool) for tool in tools]
        if tools and not self.has_tools:
            system = "\n\n".join(filter(None, (system.strip("\n"), self.dialect.instruction(tools))))
            tools = ()
        turns, placement = self.place(messages, system, placement)
        return turns, tools, placement

    def _harmless(self, said: Any) -> Any:
        """A tool's schema, which a stranger may have written: none of its texts is a mark."""
        if isinstance(said, Mapping):
            return {key: self._harmless(value) for key, value in said.items()}
        if isinstance(said, list | tuple):
            return [self._harmless(value) for value in said]
        return as_data(said, self._marks) if isinstance(said, str) else said

    def place(self, messages: Sequence[Message], system: str, placement: Placement) -> tuple[list[Message], Placement]:
        """The conversation with the instruction in it, and where it went."""
        return placed(messages, system, self.placement(placement)[0] if system else placement)


def placed(messages: Sequence[Message], system: str, placement: Placement) -> tuple[list[Message], Placement]:
    """A conversation with an instruction where it was wanted, and where it went."""
    turns = list(messages)
    if not system:
        return turns, placement
    if placement == "system":
        return [Message(role="system", content=system), *turns], "system"
    asks = [index for index, message in enumerate(turns) if message.role == "user"]
    if not asks:
        return [Message(role="user", content=system), *turns], "user_start"
    at = asks[0] if placement == "user_start" else asks[-1]
    parts = (system, turns[at].content) if placement == "user_start" else (turns[at].content, system)
    turns[at] = turns[at].model_copy(update={"content": "\n\n".join(part.strip("\n") for part in parts)})
    return turns, placement


def _call(call: ToolCall, call_id: str, form: str) -> dict[str, Any]:
    """A call as templates take it."""
    arguments = dict(call.arguments) if form == "objects" else to_json(call.arguments)
    return {"id": call_id, "type": "function", "function": {"name": call.name, "arguments": arguments}}


def _one_call_each(messages: Sequence[Message]) -> list[Message]:
    """Turns with several calls as several turns, each followed by its result: some templates take one call a turn."""
    results = {message.call_id: message for message in messages if message.role == "tool"}
    split = {call.id for message in messages if len(message.calls) > 1 for call in message.calls}
    turns: list[Message] = []
    for message in messages:
        if len(message.calls) < 2:
            turns += [] if message.role == "tool" and message.call_id in split else [message]
            continue
        for at, call in enumerate(message.calls):
            turns.append(message.model_copy(update={"content": "" if at else message.content, "calls": (call,)}))
            turns += [results[call.id]] if call.id in results else []
    return turns
