"""Cases from where people keep them: YAML or JSON lines, or a family that ships. Each error names file, line and field.

A YAML file is a list of cases, or a map with the key `cases`. Names must differ; a case without one is called by its
number. Knows nothing of models.
"""

import json
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

from pydantic import JsonValue, ValidationError

from jeito.behaviour.read import Node, Place, read
from jeito.errors import InputError, nearest
from jeito.proof import families
from jeito.proof.checks import against, bind_value
from jeito.proof.checks_answer import is_near
from jeito.proof.measures import pattern_of, plain
from jeito.proof.numbers import final
from jeito.proof.values import Case, Expected, ExpectedCall, Label
from jeito.types import Message, ToolCall, Value

LARGEST = 50_000_000
"""Bytes of a file of cases."""
ENDINGS = (".yaml", ".yml", ".jsonl", ".json")


class _Written(NamedTuple):
    """A case as it was read, and where."""

    value: JsonValue
    node: Node | None
    place: Place


def load_cases(reference: str) -> tuple[Case, ...]:
    """The cases of a file, or of a family: `train`, `train:pt`, `train:en`. Raises InputError."""
    if reference.endswith(ENDINGS):
        return _from_file(Path(reference))
    return families.family(reference)


def _from_file(path: Path) -> tuple[Case, ...]:
    text = _text(path)
    if path.suffix in (".yaml", ".yml"):
        written = list(_from_yaml(path, text))
    elif path.suffix == ".json":
        raise InputError(f"{str(path)!r}: cases are written as .yaml or .jsonl", hint="one JSON object a line, .jsonl")
    else:
        written = list(_from_lines(path, text))
    if not written:
        raise InputError(f"{path}:1:1: there are no cases in it", hint="- {name: one, prompt: …, expect: {number: 3}}")
    found: dict[str, tuple[Case, Place]] = {}
    for number, one in enumerate(written, 1):
        case = _case(one, str(number))
        if before := found.get(case.name):
            raise InputError(
                f"{_at(one, ('name',))}: a second case is called {case.name!r}", hint=f"the first: {before[1]}"
            )
        found[case.name] = (case, one.place)
    return tuple(case for case, _ in found.values())


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > LARGEST:
            raise InputError(f"{str(path)!r} is over {LARGEST:,} bytes", hint="split it")
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        hint = f"a file, or a family: {', '.join(families.NAMES)}"
        raise InputError(f"there is no file {str(path)!r}", hint=hint) from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{str(path)!r} cannot be read as text: {error}", hint="UTF-8, and readable") from error


def _from_yaml(path: Path, text: str) -> Iterator[_Written]:
    node = read(text, lambda line, column: Place(str(path), line, column))
    if node is not None and isinstance(node.data, dict) and node.data.keys() == {"cases"}:
        node = node.data["cases"]
    if node is None or node.data is None:
        return
    if not isinstance(node.data, list):
        raise InputError(f"{node.at}: cases are a list, not {type(node.plain()).__name__}", hint="- prompt: …")
    for item in node.data:
        assert isinstance(item.at, Place)
        yield _Written(item.plain(), item, item.at)


def _from_lines(path: Path, text: str) -> Iterator[_Written]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            column = error.colno if isinstance(error, json.JSONDecodeError) else 1
            said = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
            raise InputError(f"{path}:{number}:{column}: this is not JSON: {said}", hint="one object a line") from error
        yield _Written(value, None, Place(str(path), number, 1))


def _case(one: _Written, number: str) -> Case:
    if not isinstance(one.value, dict):
        raise InputError(f"{one.place}: a case is a map, not {one.value!r:.60}", hint="- {prompt: …}")
    try:
        case = Case.model_validate_json(json.dumps({"name": number} | one.value))
    except ValidationError as error:
        raise _complaint(one, error) from error
    try:
        refuse_contradictions(case)
    except InputError as error:
        raise InputError(f"{_at(one, ('expect',))}: case {case.name!r}: {error}", hint=error.hint) from error
    return case


_CLASSES: dict[str, type[Value]] = {
    "expect": Expected,
    "calls": ExpectedCall,
    "messages": Message,
    "labels": Label,
}


def _complaint(one: _Written, error: ValidationError) -> InputError:
    detail = error.errors(include_url=False)[0]
    loc = detail["loc"]
    field = ".".join(map(str, loc))
    where = _at(one, loc)
    if detail["type"] == "extra_forbidden":
        above = [step for step in loc[:-1] if isinstance(step, str)]
        kind: type[Value] = _CLASSES.get(above[-1], Case) if above else Case
        if above[:1] == ["messages"] and above[-1] == "calls":
            kind = ToolCall
        return InputError(f"{where}: a case has no {field!r}", hint=nearest(str(loc[-1]), kind.model_fields))
    said = str(detail["ctx"]["error"]) if detail["type"] == "value_error" else detail["msg"]
    return InputError(f"{where}: {f'{field}: ' if field else ''}{said}", hint="docs/checks.md shows what a case holds")


def _at(one: _Written, loc: Sequence[int | str]) -> Place:
    """The deepest place of a field that is written."""
    node, place = one.node, one.place
    for step in loc:
        if node is not None and isinstance(node.data, dict) and step in node.data:
            node = node.data[str(step)]
        elif node is not None and isinstance(node.data, list) and isinstance(step, int) and step < len(node.data):
            node = node.data[step]
        else:
            break
        place = next((at for at in (node.key, node.at) if isinstance(at, Place)), place)
    return place


def refuse_contradictions(case: Case) -> None:
    """Raises InputError for expectations that no reply meets, and for checks of its own that make no sense."""
    expect = case.expect
    own = [bind_value(name, value) for check in expect.checks for name, value in check.items()]
    for one, other in combinations(own, 2):
        if why := against(one, other):
            raise InputError(f"no reply meets both {one.check.name} and {other.check.name}: {why}", hint="remove one")
    for name in ("regex", "json_schema"):
        if (value := getattr(expect, name)) is not None:
            bind_value({"regex": "matches"}.get(name, name), {{"json_schema": "schema"}.get(name, name): value})
    for both in set(map(plain, expect.contains)) & set(map(plain, expect.absent)):
        raise InputError(f"{both!r} is expected and must be absent", hint="remove it from one list")
    for call in expect.calls or ():
        if call.name not in (offered := [_name(tool) for tool in case.tools]):
            hint = nearest(call.name, offered) if offered else "tools: [{type: function, function: …}]"
            raise InputError(f"the call {call.name!r} is of no tool that is offered", hint=hint)
        if twice := call.arguments.keys() & call.optional.keys():
            raise InputError(f"{call.name}: {min(twice)!r} is both an argument and optional", hint="keep one")
    if expect.calls and (said := [kind for kind in expect.kinds if kind in ("number", "text", "json_schema", "tests")]):
        raise InputError(f"a call is expected, and beside it {', '.join(said)}", hint="a reply is a call or an answer")
    if expect.text is not None:
        _refuse_unlike_text(expect)


def _name(tool: JsonValue) -> str:
    function = tool.get("function", tool) if isinstance(tool, dict) else {}
    return str(function.get("name", "")) if isinstance(function, dict) else ""


def _refuse_unlike_text(expect: Expected) -> None:
    """Where the whole answer is given, the other expectations can be looked up in it."""
    text = plain(expect.text or "")
    missing = [fact for fact in expect.contains if not pattern_of(fact).search(text)]
    there = [word for word in expect.absent if pattern_of(word).search(text)]
    number = final(expect.text or "", expect.unit, expect.language)
    if expect.number is not None and not (number and is_near(number, expect.number, expect.tolerance)):
        missing.append(f"{expect.number:g}")
    if missing or there:
        what = f"does not name {missing[0]!r}" if missing else f"names {there[0]!r}"
        raise InputError(f"the text {expect.text!r:.60} {what}", hint="text is the whole answer: leave one out")
