"""Checks of a reply's form: JSON, lists, tables, code."""

import json as reader
from functools import lru_cache
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, JsonValue

from jeito.errors import InputError
from jeito.proof import measures
from jeito.proof.bounded import in_time
from jeito.proof.keywords import Least, Most, between, unsaid
from jeito.proof.values import Case, Verdict
from jeito.types import Trace


def json_(trace: Trace, *, kind: Literal["object", "array"] | None = None, fenced: bool = True) -> Verdict:
    """The whole answer is JSON, of this kind if one is named; a fence around it is allowed unless `fenced` is false."""
    try:
        found = _json(trace.answer, fenced=fenced)
    except ValueError as error:
        return Verdict(False, f"no JSON: {error}")
    name = "object" if isinstance(found, dict) else "array" if isinstance(found, list) else "value"
    return Verdict(kind in (None, name), f"a JSON {name}")


def _json(text: str, *, fenced: bool) -> JsonValue:
    """Raises ValueError for what is not JSON, and for JSON that is not one value everywhere: NaN, a key twice."""
    text = text.strip()
    inner = measures.FENCE.fullmatch(text) if fenced else None

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(found := dict(pairs)) < len(pairs):
            raise ValueError("a key is written twice")
        return found

    def refuse(word: str) -> None:
        raise ValueError(f"{word} is no JSON")

    try:
        found: JsonValue = reader.loads(inner[2] if inner else text, object_pairs_hook=once, parse_constant=refuse)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    return found


@lru_cache(maxsize=256)
def _validator(schema: str) -> Any:
    from jsonschema import Draft202012Validator, SchemaError, validators
    from referencing import Registry

    read = reader.loads(schema)
    kind = validators.validator_for(read, default=Draft202012Validator)
    try:
        kind.check_schema(read)
    except SchemaError as error:
        raise InputError(f"this is no JSON Schema: {error.message}", hint="docs/contracts.md shows some") from error
    # An empty registry: a schema that refers to the network is refused instead of fetched.
    return kind(read, registry=Registry())


def _is_schema(schema: dict[str, JsonValue]) -> dict[str, JsonValue]:
    try:
        _validator(reader.dumps(schema))
    except InputError as error:
        raise ValueError(str(error)) from error
    return schema


def json_schema(
    trace: Trace,
    case: Case,
    *,
    schema: Annotated[dict[str, JsonValue], AfterValidator(_is_schema)] | None = None,
    fenced: bool = True,
) -> Verdict:
    """The whole answer is JSON that fits a JSON Schema; without one, the case's."""
    wanted = schema if schema is not None else case.expect.json_schema
    if wanted is None:
        return unsaid(case.name, "which schema")
    try:
        found = _json(trace.answer, fenced=fenced)
    except ValueError as error:
        return Verdict(False, f"no JSON: {error}")
    with in_time("the schema"):
        wrong = next(_validator(reader.dumps(wanted)).iter_errors(found), None)
    return Verdict(wrong is None, "it fits" if wrong is None else f"{wrong.json_path}: {wrong.message:.120}")


def lists(trace: Trace, *, min: Least = 1, max: Most = None, numbered: bool | None = None) -> Verdict:
    """Number of list items outside code; `numbered: true`: only 1. 2. 3. in their order, `false`: only bullets."""
    found = [match[1] for match in measures.ITEM.finditer(measures.without_code(trace.answer))]
    if numbered is not None:
        found = [number for number in found if (number is not None) == numbered]
    if numbered and [int(number or 0) for number in found] != list(range(1, len(found) + 1)):
        return Verdict(False, f"numbered {', '.join(str(number) for number in found)}")
    return between(len(found), min, max, "list items")


def tables(trace: Trace, *, min: Least = 1, max: Most = None, rows: Least = None, columns: Least = None) -> Verdict:
    """Number of Markdown tables; those with at least so many `rows` below the head and exactly so many `columns`."""
    found = [
        table
        for table in measures.tables(trace.answer)
        if table.rows >= (rows or 0) and columns in (None, table.columns)
    ]
    return between(len(found), min, max, "such tables")


def code(trace: Trace, *, min: Least = 1, max: Most = None, language: str | None = None) -> Verdict:
    """Number of fenced blocks of code; of one `language`, those that name no other. Python's have to parse."""
    found = measures.blocks(trace.answer, language)
    if language == "python" and (broken := [block for block in found if not measures.parses(block)]):
        return Verdict(False, f"{len(broken)} of {len(found)} blocks are no Python")
    return between(len(found), min, max, "blocks of code")


CHECKS: tuple[Any, ...] = (json_, json_schema, lists, tables, code)
