"""A conversation as the prompt text that a model was trained on, by its own Jinja template, in a sandbox."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache, cached_property
from typing import Any

from jeito.errors import ModelError
from jeito.types import Message, Placement

# What models without a template were mostly trained on (DialoGPT): turns with the end token between them.
PLAIN_TURNS = "{% for message in messages %}{{ message.content }}{{ eos_token }}{% endfor %}"

_PROBE = "jeito-probe"


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
    """One model's template; `name` says where it is from: `model` or `plain-turns`."""

    def __init__(self, source: str | None, special: Mapping[str, str]) -> None:
        self.name = "model" if source else "plain-turns"
        self._source = source or PLAIN_TURNS
        self._special = dict(special)

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
        from jinja2.exceptions import TemplateError

        turns = [{"role": message.role, "content": message.content} for message in messages]
        given = {"tools": list(tools)} if tools else {}
        try:
            return str(self._compiled.render(messages=turns, add_generation_prompt=opens, **given, **self._special))
        except (
            TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RecursionError
        ) as error:  # fmt: skip
            raise ModelError(f"the model's template fails on this conversation: {error}") from error

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
        ask = [Message(role="user", content="x")]
        return str(tool["function"]["name"]) in self.render(ask, [tool])

    def placement(self, wanted: Placement) -> tuple[Placement, str | None]:
        """Where an instruction can stand, and a note where that is not what was wanted."""
        if wanted != "system" or self.has_system:
            return wanted, None
        return "user_start", "the template has no system role: the instruction stands at user_start"

    def place(self, messages: Sequence[Message], system: str, placement: Placement) -> tuple[list[Message], Placement]:
        """The conversation with the instruction in it, and where it went."""
        turns = list(messages)
        if not system:
            return turns, placement
        placement, _ = self.placement(placement)
        if placement == "system":
            return [Message(role="system", content=system), *turns], "system"
        asks = [index for index, message in enumerate(turns) if message.role == "user"]
        if not asks:
            return [Message(role="user", content=system), *turns], "user_start"
        at = asks[0] if placement == "user_start" else asks[-1]
        parts = (system, turns[at].content) if placement == "user_start" else (turns[at].content, system)
        turns[at] = turns[at].model_copy(update={"content": "\n\n".join(part.strip("\n") for part in parts)})
        return turns, placement
