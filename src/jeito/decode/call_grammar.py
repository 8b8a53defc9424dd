"""The calls that a model may write, as a grammar in llguidance's Lark: only tools that there are, with what they take.

Text outside of calls stays free. Knows nothing of matchers and masks; syntax: llguidance's docs/syntax.md.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from jeito.decode.call_reader import kinds
from jeito.decode.dialects import NAME, Dialect, to_json
from jeito.decode.grammar import JSON_FORM
from jeito.decode.schema import check
from jeito.errors import InputError, UnsupportedError, nearest
from jeito.types import Request

Schema = Mapping[str, Any]
Value = Callable[[str, Schema, Schema], str]
"""From a rule's name, a value's schema and the schema that it stands in, the right side of a rule."""

# The JSON that models learned, and that templates write again in the next turn: so what was computed is reused. Left
# free, small models also lose themselves in white space.
_STYLE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


def grammar(
    dialect: Dialect,
    tools: Sequence[Mapping[str, Any]],
    *,
    choice: str = "auto",
    parallel: bool = True,
    prompt: str = "",
    special: Mapping[str, int] | None = None,
) -> str | None:
    """The grammar of a reply, as Lark; none where nothing is constrained.

    `choice`: auto, none, required, or the name of the tool that must be called. `prompt`: where it ends inside
    reasoning or at a call's mark, the reply goes on there. `special`: ids of the tokens that no text becomes; marks
    among them are those tokens. Raises InputError for a choice that is no tool.
    """
    if choice == "none" or not tools:
        return None
    functions = {tool["function"]["name"]: tool["function"].get("parameters") or {} for tool in tools}
    if choice not in ("auto", "required"):
        if choice not in functions:
            raise InputError(f"tool_choice is {choice!r}, which is no tool", hint=nearest(choice, functions))
        functions = {choice: functions[choice]}
    lark = _Lark(dialect, special or {}, parallel and dialect.is_parallel)
    return lark.reply(functions, prompt, is_free=choice == "auto")


def of_request(dialect: Dialect, request: Request, prompt: str, special: Mapping[str, int]) -> str | None:
    """The grammar of a request's reply: calls among free text, or beside the contract that an answer must meet.

    Raises UnsupportedError for a contract in Lark, which cannot be put beside another.
    """
    choice, output = request.tool_choice, request.output

    def calls_of(choice: str) -> str | None:
        return grammar(
            dialect, request.tools, choice=choice, parallel=request.parallel_calls, prompt=prompt, special=special
        )

    if output is None or choice not in ("auto", "none"):
        return calls_of(choice)
    if output.lark is not None:
        raise UnsupportedError("a contract in Lark cannot stand beside tools", hint="write it as json_schema or regex")
    calls = calls_of("required")
    assert calls is not None, "there are tools"
    if output.json_schema is not None:
        answer = "%json " + to_json(json.loads(check(output.json_schema)) | {"x-guidance": JSON_FORM})
    elif output.choice is not None:
        answer = " | ".join(to_json(one) for one in output.choice)
    else:
        # A slash would end it there; one that is escaped already stays so.
        regex = re.sub(r"(\\.)|/", lambda found: found[1] or "\\/", output.regex or "", flags=re.DOTALL)
        answer = f"/{regex}/"
    return calls.replace("start:", "called:", 1) + f"\nstart: called | answer\nanswer: {answer}"


class _Lark:
    """Rules in the making. What methods return is the right side of a rule."""

    def __init__(self, dialect: Dialect, special: Mapping[str, int], parallel: bool) -> None:
        self._dialect, self._special, self._parallel = dialect, special, parallel
        self._tokens = re.compile("|".join(map(re.escape, sorted(special, key=len, reverse=True))) or "(?!)")
        self._rules = ["TEXT: /(.|\\n)*/", "SPACE: /[ \\n]{1,4}/"]
        prefix = dialect.begin + dialect.before.partition(NAME)[0]
        marks = (*dialect.silent, *dialect.opens, dialect.bare)
        self._mark = next(mark for mark in marks if mark and prefix.startswith(mark))

    def reply(self, functions: Mapping[str, Schema], prompt: str, *, is_free: bool) -> str:
        calls = self._rule("calls", self._calls(functions))
        is_begun = self._mark in self._dialect.opens and prompt.endswith(self._mark)
        begun = "" if is_begun else self._text(self._mark)
        thought = self._thought(prompt)
        if is_free:
            start = self._with_text(begun, calls)
        else:
            alone = self._dialect.is_grouped or not self._parallel
            again = "" if alone else f"({self._text(self._dialect.between + self._mark)} {calls})*"
            start = f"{'SPACE?' if thought else ''} {begun} {calls} {again}"
        return "\n".join([f"start: {thought} {start}", *self._rules])

    def _with_text(self, begun: str, calls: str) -> str:
        """Text, with calls or without."""
        mark = self._mark
        if mark == self._dialect.bare:
            return f"(SPACE? {begun} {calls} | {self._free(but=mark)})"
        head, free = self._head(), self._free()
        more = f"({head} {calls})* {free}"
        if not begun:
            # The prompt ends with the mark: an answer begins with what is left of a silent one.
            silent = (one.removeprefix(mark) for one in self._dialect.silent if one.startswith(mark))
            answer = " ".join(self._text(one) for one in silent) + " " + (more if self._parallel else free)
            return f"({calls} {more if self._parallel else ''} | {answer})"
        return more if self._parallel else f"({head} {calls} | {free})"

    def _calls(self, functions: Mapping[str, Schema]) -> str:
        """All that stands after a mark: one call, or a list of them."""
        dialect = self._dialect
        begin, end = ("", "") if dialect.is_grouped else (dialect.begin, dialect.end)
        each = []
        for at, (name, schema) in enumerate(functions.items()):
            before = begin + dialect.before.replace(NAME, name)
            before = before if dialect.is_grouped else before.removeprefix(self._mark)
            each.append(f"{self._text(before)} {self._arguments(at, schema)} {self._text(dialect.after + end)}")
        if not dialect.is_grouped:
            return " | ".join(each)
        one = self._rule("one", " | ".join(each))
        more = f"({self._text(dialect.between)} {one})*" if self._parallel else ""
        return f"{self._text(dialect.begin.removeprefix(self._mark))} {one} {more} {self._text(dialect.end)}"

    def _thought(self, prompt: str) -> str:
        """Reasoning before the answer: it must be closed where the prompt opened it, and need not be otherwise."""
        if self._dialect.reasoning is None:
            return ""
        opens, closes = self._dialect.reasoning
        rest = self._up_to("rest", closes)
        return rest if self._dialect.is_open(prompt) else f"({self._text(opens)} {rest})?"

    def _head(self) -> str:
        """Free text, up to a call's mark and with it."""
        if self._mark in self._special:
            return f"{self._free()} {self._text(self._mark)}"
        return self._rule("head[lazy]", f"{self._free()} {to_json(self._mark)}", "head")

    def _free(self, but: str = "") -> str:
        """Free text; not such that begins with reasoning, or after white space with the character `but`."""
        opens = self._dialect.reasoning[0] if self._dialect.reasoning else ""
        text = f"/[ \\n]*([^ \\n\\{but}](.|\\n)*)?/" if but else "TEXT"
        if opens and opens not in self._special:
            text += f" & ~({to_json(opens)} TEXT)"
        return self._rule("FREE", text)

    def _up_to(self, name: str, mark: str) -> str:
        """Any text, up to a mark and with it."""
        if self._tokens.search(mark):
            return f"TEXT {self._text(mark)}"
        return self._rule(f"{name}[lazy]", f"TEXT {to_json(mark)}", name)

    def _text(self, text: str) -> str:
        """A text as it is, with special tokens for those in it."""
        parts, at = [], 0
        for token in self._tokens.finditer(text):
            parts += [to_json(text[at : token.start()])] * (at < token.start()) + [f"<[{self._special[token[0]]}]>"]
            at = token.end()
        return " ".join(parts + [to_json(text[at:])] * (at < len(text)))

    def _rule(self, head: str, body: str, name: str = "") -> str:
        """The name of a rule, which is added once."""
        rule = f"{head}: {body}"
        if rule not in self._rules:
            self._rules.append(rule)
        return name or head

    # Arguments.

    def _arguments(self, at: int, schema: Schema) -> str:
        match self._dialect.form:
            case "python":
                return self._members(f"value_{at}", schema, schema, "{}=", ", ", self._in_python)
            case "parameters":
                return self._members(f"value_{at}", schema, schema, "<parameter={}>\n", "", self._in_tags)
            case "escaped":
                return self._members(f"value_{at}", schema, schema, "{}:", ",", self._in_escapes)
        return self._rule(f"arguments_{at}", self._json({"type": "object"} | dict(schema), schema))

    def _members(self, name: str, schema: Schema, root: Schema, key: str, comma: str, value: Value) -> str:
        """Named values in the schema's order; those that are not required may be left out."""
        required = set(schema.get("required", ()))
        first = later = ""
        for at, (its_name, its) in reversed(list(enumerate(schema.get("properties", {}).items()))):
            rule = f"{name}_{at}"
            one = self._rule(rule, f"{self._text(key.format(its_name))} {value(rule, its, root)}")
            is_optional = its_name not in required
            first, then = f"{one} {later}", first or '""'
            first = f"({first} | {then})" if is_optional else first
            later = f"({self._text(comma)} {one}){'?' if is_optional else ''} {later}"
        return first

    def _json(self, schema: Schema, root: Schema) -> str:
        """A value as JSON. References in it lead to the `root` of its schema."""
        definitions = {key: root[key] for key in ("$defs", "definitions") if key in root}
        return f"%json {to_json(definitions | dict(schema) | {'x-guidance': _STYLE})}"

    def _in_python(self, name: str, schema: Schema, root: Schema) -> str:
        words = {"boolean": '("True" | "False")', "null": '"None"'}
        each = (words.get(str(kind.get("type"))) or self._json(kind, root) for kind in kinds(schema))
        return f"({' | '.join(each)})"

    def _in_tags(self, name: str, schema: Schema, root: Schema) -> str:
        end = "\n</parameter>\n"
        if any(kind.get("type") == "string" and "enum" not in kind for kind in kinds(schema)):
            return self._up_to("to_end", end)
        each = (_choice(kind["enum"]) if _is_choice(kind) else self._json(kind, root) for kind in kinds(schema))
        return f"({' | '.join(each)}) {self._text(end)}"

    def _in_escapes(self, name: str, schema: Schema, root: Schema) -> str:
        escape = self._text("<escape>")
        if len(several := kinds(schema)) > 1:
            each = (self._in_escapes(f"{name}_{at}", kind, root) for at, kind in enumerate(several))
            return f"({' | '.join(each)})"
        if _is_choice(schema):
            return f"{escape} {_choice(schema['enum'])} {escape}"
        match schema.get("type"):
            case "string":
                return f"{escape} {self._up_to('to_escape', '<escape>')}"
            case "array":
                item = self._rule(f"{name}_item", self._in_escapes(f"{name}_item", schema.get("items", {}), root))
                return f'"[" ({item} ("," {item})*)? "]"'
            case "object":
                return '"{" ' + self._members(name, schema, root, "{}:", ",", self._in_escapes) + ' "}"'
        return self._json(schema, root)


def _is_choice(schema: Schema) -> bool:
    return bool(schema.get("enum")) and all(isinstance(one, str) for one in schema["enum"])


def _choice(texts: Iterable[str]) -> str:
    return "(" + " | ".join(map(to_json, texts)) + ")"
