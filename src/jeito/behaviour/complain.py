"""What pydantic refuses in a behaviour, as one sentence at the place where it is written."""

import typing
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from jeito.behaviour.behaviour import Behaviour
from jeito.behaviour.read import Node, Origin, Place
from jeito.errors import BehaviourError, nearest
from jeito.types import Sampling

_KINDS = {
    "float_type": "a number",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "string_type": "text",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "dict_type": "a map",
    "model_type": "a map",
    "finite_number": "a finite number",
}
_BOUNDS = {
    "greater_than": ("over", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("under", "lt"),
    "less_than_equal": ("at most", "le"),
}
_HINTS = {
    "true or false": "true and false are the only truth values here",
    "text": "put quotes around it if text is meant",
    "a number": "write it without quotes, such as 0.7",
    "a whole number": "write it without quotes and decimals, such as 7",
    "a list": "write [one, two]",
    "a map": "write {key: value}",
}


def complaint(error: ValidationError, tree: Node, files: tuple[str, ...]) -> BehaviourError:
    """The first thing wrong: in the order of the files, top to bottom; flags last."""

    def order(detail: ErrorDetails) -> tuple[int, int, int]:
        at = _spot(detail, tree)
        return (files.index(at.file), at.line, at.column) if isinstance(at, Place) else (len(files), 0, 0)

    first = min(error.errors(), key=order)
    sentence, hint = _sentence(first)
    return BehaviourError(f"{_spot(first, tree) or files[0]}: {sentence}", hint=hint)


def _spot(detail: ErrorDetails, tree: Node) -> Origin | None:
    """Where the deepest thing that is written stands; of an unknown key, the key."""
    node, spot = tree, tree.at
    for step in detail["loc"]:
        if isinstance(node.data, dict) and str(step) in node.data:
            node = node.data[str(step)]
        elif isinstance(node.data, list) and isinstance(step, int) and step < len(node.data):
            node = node.data[step]
        else:
            break
        spot = node.at or node.key or spot
    return (node.key if detail["type"] == "extra_forbidden" else None) or spot


def _sentence(detail: ErrorDetails) -> tuple[str, str]:
    kind, value, context = detail["type"], detail["input"], detail.get("ctx", {})
    path = ".".join(str(step) for step in detail["loc"] if step != "[key]")
    if kind == "extra_forbidden":
        return _unknown(detail["loc"])
    if kind == "missing":
        return f"{path} is missing", f"add {detail['loc'][-1]}: …"
    if kind == "behaviour":
        return context["sentence"], context["hint"]
    if kind == "value_error":
        return f"{path}: {context['error']}", f"remove it from {shown(value)}"
    if kind == "literal_error":
        known = [word.strip("' ") for word in context["expected"].replace(" or ", ", ").split(", ")]
        return f"{path} cannot be {shown(value)}", nearest(str(value), known)
    if kind in _BOUNDS:
        word, bound = _BOUNDS[kind]
        return f"{path} must be {word} {_number(context[bound])}, not {shown(value)}", _range(detail["loc"])
    if kind in _KINDS:
        wanted = _KINDS[kind]
        return f"{path} must be {wanted}, not {shown(value)}", _HINTS.get(wanted, "write a smaller one")
    if kind in ("string_too_short", "too_short"):
        return f"{path} is empty", "give it a value, or leave the key out"
    if kind == "string_pattern_mismatch":
        return f"{path} cannot be {shown(value)}", f"such as {' or '.join(_field(detail['loc']).examples or ())}"
    return f"{path}: {detail['msg']}, not {shown(value)}", "jeito schema says what a file may hold"


def _unknown(loc: tuple[int | str, ...]) -> tuple[str, str]:
    *above, key = loc
    known = set(_model_at(above).model_fields) | ({"extends"} if not above else set())
    where = ".".join(map(str, above)) or "a behaviour"
    hint = f"write it under sampling: sampling.{key}" if key in Sampling.model_fields else nearest(str(key), known)
    return f"{where} has no key {str(key)!r}", hint


def _range(loc: tuple[int | str, ...]) -> str:
    """All that bounds a number, and what it is when nobody says."""
    field = _field(loc)
    bounds = [
        f"{word} {_number(getattr(bound, name))}"
        for bound in field.metadata
        for word, name in _BOUNDS.values()
        if hasattr(bound, name)
    ]
    without = "" if field.is_required() or field.default is None else f"; without it: {field.default}"
    return f"{' and '.join(bounds)}{without}"


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else str(value)


def _field(loc: tuple[int | str, ...]) -> FieldInfo:
    *above, name = loc
    return _model_at(above).model_fields[str(name)]


def _model_at(loc: list[int | str]) -> type[BaseModel]:
    """The value class that stands at a place of a behaviour."""
    model: type[BaseModel] = Behaviour
    for step in loc:
        if isinstance(step, str):
            model = next(_classes(model.model_fields[step].annotation), model)
    return model


def _classes(annotation: Any) -> typing.Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in typing.get_args(annotation):
        yield from _classes(part)


def shown(value: object) -> str:
    """A value as it may stand in a sentence: YAML's words, cut short."""
    words = {None: "null", True: "true", False: "false"}
    text = words[value] if value is None or isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else f"{text[:59]}…"
