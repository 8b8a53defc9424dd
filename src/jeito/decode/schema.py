"""Is this a JSON schema that replies can be held to? What cannot be enforced is refused by name, never ignored.

Walks the schema as data; knows nothing of tokens, nor of the library that will compile it.
"""

import json
import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any
from urllib.parse import unquote

from jeito.errors import InputError, UnsupportedError, nearest

LISTS = frozenset({"anyOf", "oneOf", "allOf", "prefixItems"})
MAPS = frozenset({"properties", "patternProperties", "$defs", "definitions"})
SINGLE = frozenset({"items", "additionalItems", "additionalProperties"})
NUMBERS = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"})
PLAIN = frozenset(
    {"$ref", "const", "enum", "type", "minItems", "maxItems", "required", "minProperties", "maxProperties", "minLength",
     "maxLength", "pattern", "format"}
)  # fmt: skip
ENFORCED = LISTS | MAPS | SINGLE | NUMBERS | PLAIN
ANNOTATIONS = frozenset(
    {"$schema", "$id", "id", "$anchor", "$comment", "title", "description", "default", "example", "examples",
     "deprecated", "readOnly", "writeOnly", "contentMediaType", "contentEncoding", "discriminator"}
)  # fmt: skip
REFUSED = frozenset(
    {"not", "if", "then", "else", "contains", "minContains", "maxContains", "uniqueItems", "propertyNames",
     "dependentRequired", "dependentSchemas", "dependencies", "unevaluatedItems", "unevaluatedProperties",
     "$dynamicRef", "$dynamicAnchor", "$recursiveRef", "$recursiveAnchor", "contentSchema", "nullable"}
)  # fmt: skip
"""Keywords that mean something and that no grammar here enforces."""

# The compiler's dates know no leap years, and its times have leap seconds at any minute: here, none.
_LEAP = "(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)"
_DAY = f"(?:[0-9]{{4}}-(?:0[13-9]|1[0-2])-[0-9]{{2}}|[0-9]{{4}}-02-(?:[01][0-9]|2[0-8])|{_LEAP}-02-29)"
_TIME = "[0-9]{2}:[0-9]{2}:[0-5]"
CLOSER = {"date": f"^{_DAY}$", "time": f"^{_TIME}", "date-time": f"^{_DAY}[Tt]{_TIME}"}

# Of the control characters only these have an escape that replies may use.
_UNWRITABLE = re.compile(r"[\x00-\x07\x0b\x0e-\x1f\x7f]|[\ud800-\udfff]")

_EXAMPLE = '{"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}'

Schema = Mapping[str, Any]


def check(schema: Schema) -> str:
    """The schema as JSON text; raises InputError for what is no schema, UnsupportedError for what is not enforced."""
    try:
        copy = json.loads(json.dumps(schema))
    except RecursionError as error:
        raise InputError("json_schema is nested too deeply", hint="flatten it") from error
    for path, node in _nodes(schema):
        _check_node(path, node)
    if not _has_end(schema):
        raise InputError(
            "json_schema can never be met: each instance holds another one, without end",
            hint='leave the property that refers back out of required, or allow {"type": "null"} in its place',
        )
    return json.dumps(_closer(copy), ensure_ascii=False)


def _closer(schema: Any) -> Any:
    """The schema, changed, with what the compiler (llguidance 1.9.1) leaves out, in other words of its own."""
    for _, node in list(_nodes(schema)):
        assert isinstance(node, dict)
        pattern = CLOSER.get(node["format"]) if isinstance(node.get("format"), str) else None
        if pattern:
            node["allOf"] = [*node.get("allOf", ()), {"pattern": pattern}]
        # It takes 0 for "over 0, up to 0.5": what is over a whole number is what begins a little above it.
        for exclusive, inclusive, sign in (("exclusiveMinimum", "minimum", 1), ("exclusiveMaximum", "maximum", -1)):
            bound: Any = node.get(exclusive)
            if _is_number(bound) and bound * sign >= 0 and bound == int(bound):
                beside = bound + sign * 10.0 ** (len(str(abs(int(bound)))) - 14)
                both = [beside, *filter(_is_number, [node.get(inclusive)])]
                node[inclusive] = max(both) if sign > 0 else min(both)
                del node[exclusive]
    return schema


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _nodes(schema: Any) -> Iterator[tuple[str, Schema]]:
    """Every schema in a schema, with its path; raises InputError where something else stands in its place."""
    waiting: list[tuple[str, Any]] = [("", schema)]
    while waiting:
        path, node = waiting.pop()
        if isinstance(node, bool):
            continue
        if not isinstance(node, Mapping):
            raise InputError(
                f"json_schema: {path or 'the whole'} is {_short(node)}, which is no schema",
                hint=f"a schema is true, false, or such as {_EXAMPLE}",
            )
        yield path, node
        for key, value in node.items():
            here = f"{path}.{key}" if path else key
            if key in MAPS and isinstance(value, Mapping):
                waiting += [(f"{here}.{name}", inner) for name, inner in value.items()]
            elif (key in LISTS or key == "items") and isinstance(value, list):
                waiting += [(f"{here}.{index}", inner) for index, inner in enumerate(value)]
            elif key in SINGLE:
                waiting.append((here, value))


def _check_node(path: str, node: Schema) -> None:
    at = f" (at {path})" if path else ""
    for key, value in node.items():
        if key in REFUSED:
            hint = 'write type: [string, "null"]' if key == "nullable" else "leave it out: docs/contracts.md has a list"
            raise UnsupportedError(f"json_schema uses {key!r}{at}, which replies cannot be held to", hint=hint)
        if key not in ENFORCED | ANNOTATIONS and (not key.startswith("x-") or key == "x-guidance"):
            hint = nearest(key, ENFORCED) if get_close_matches(key, ENFORCED) else f"a schema is such as {_EXAMPLE}"
            raise InputError(f"json_schema: {key!r}{at} is no keyword of JSON Schema", hint=hint)
        if (key in LISTS and not isinstance(value, list)) or (key in MAPS and not isinstance(value, Mapping)):
            kind = "list" if key in LISTS else "map"
            raise InputError(f"json_schema: {key!r}{at} is a {kind} of schemas, not {_short(value)}", hint="mend it")
        if key in NUMBERS or key in ("const", "enum", "required", "properties"):
            _check_literals(key, at, value)
    reference = node.get("$ref", "#")
    if not isinstance(reference, str) or not reference.startswith("#"):
        raise UnsupportedError(
            f"json_schema refers to {_short(reference)}{at}: only what is in the schema itself is followed",
            hint='copy it into "$defs" and write {"$ref": "#/$defs/…"}',
        )
    named = len({*_strings(node.get("required")), *node.get("properties", ())})
    wanted = node.get("minProperties", 0)
    if _is_number(wanted) and wanted > named + 1:
        raise UnsupportedError(
            f"json_schema uses minProperties: {wanted}{at} and names {named}: others could have one name twice",
            hint="name them in properties and required",
        )


def _check_literals(key: str, at: str, value: Any) -> None:
    """Numbers that the compiler would round, and texts that replies cannot write."""
    waiting = [*value] if key in ("required", "properties") and isinstance(value, list | Mapping) else [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, Mapping):
            waiting += [*one, *one.values()]
        elif isinstance(one, list):
            waiting += one
        elif isinstance(one, str) and _UNWRITABLE.search(one):
            raise UnsupportedError(
                f"json_schema: {key!r}{at} has a control character in {_short(one)}", hint="replies write none"
            )
        elif isinstance(one, int | float) and not _is_kept(one):
            raise UnsupportedError(
                f"json_schema: {key!r}{at} has the number {one!r}, which would be rounded",
                hint="at most 15 digits, or a whole number up to 2^53",
            )


def _is_kept(number: int | float) -> bool:
    if isinstance(number, int):
        return abs(number) <= 2**53
    return number == 0 or (1e-15 <= abs(number) <= 2**53 and float(f"{number:.15g}") == number)


def _has_end(schema: Schema) -> bool:
    """Is there an instance that is finite? Grows the set of schemas that have one until nothing is added."""
    nodes = [node for _, node in _nodes(schema)]
    if not any("$ref" in node for node in nodes):
        return True
    targets = {node["$ref"]: _target(schema, node["$ref"], nodes) for node in nodes if "$ref" in node}
    known = {id(node) for node in nodes}
    if astray := [name for name, found in targets.items() if isinstance(found, Mapping) and id(found) not in known]:
        raise UnsupportedError(
            f"json_schema refers to {_short(astray[0])}, where no schema stands", hint='put it into "$defs"'
        )
    finite: set[int] = set()
    while True:
        more = {id(node) for node in nodes if id(node) not in finite and _is_finite(node, finite, targets)}
        if not more:
            return id(schema) in finite
        finite |= more


def _is_finite(node: Schema, finite: set[int], targets: Mapping[str, Any]) -> bool:
    def has_end(inner: Any) -> bool:
        return not isinstance(inner, Mapping) or id(inner) in finite

    unions = [node[key] for key in ("anyOf", "oneOf") if key in node]
    needed = [*node.get("allOf", ()), *([targets[node["$ref"]]] if "$ref" in node else [])]
    if not all(map(has_end, needed)) or not all(any(map(has_end, union)) for union in unions):
        return False
    said = node.get("type")
    types = {said} if isinstance(said, str) else set(_strings(said))
    if not types or types - {"object", "array"} or "const" in node or "enum" in node:
        return True
    return ("object" in types and all(map(has_end, _members(node)))) or (
        "array" in types and all(map(has_end, _items(node)))
    )


def _members(node: Schema) -> list[Any]:
    """The schemas of what every instance, an object, must hold."""
    properties, others = node.get("properties", {}), node.get("additionalProperties")
    return [properties.get(name, others) for name in _strings(node.get("required"))]


def _items(node: Schema) -> list[Any]:
    least, first = node.get("minItems", 0), node.get("prefixItems", [])
    if not isinstance(least, int) or least < 1:
        return []
    return [*first[:least], *([node.get("items")] if least > len(first) else [])]


def _target(schema: Schema, reference: str, nodes: list[Schema]) -> Any:
    """What a reference names; none where it names nothing, which the compiler will say."""
    if reference != "#" and not reference.startswith("#/"):
        return next((node for node in nodes if node.get("$anchor") == reference[1:]), None)
    found: Any = schema
    for step in unquote(reference).split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(found, list) and name.isdecimal() and int(name) < len(found):
            found = found[int(name)]
        else:
            found = found.get(name) if isinstance(found, Mapping) else None
    return found


def _strings(value: Any) -> list[str]:
    return [each for each in value if isinstance(each, str)] if isinstance(value, list) else []


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:59] + "…"
