"""From what people type to a behaviour: find, read, `extends`, flags. Knows nothing of models.

Look-up order of a name: the library, ./behaviours, JEITO_HOME/behaviours. Paths in a file are relative to that file.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import ValidationError

from jeito.behaviour.behaviour import Behaviour, tool_file
from jeito.behaviour.complain import complaint, shown
from jeito.behaviour.read import Node, Origin, Place, read, scalar
from jeito.errors import BehaviourError, nearest
from jeito.home import home, named
from jeito.types import Sampling

__all__ = ["Listing", "Loaded", "Place", "load", "names", "schema"]

LARGEST = 1_000_000
"""Bytes of a file: what a person writes is far smaller, and YAML is slow to read."""

_FLAG = re.compile(r"\+(?=[\w.-]+=)")
_NAME = re.compile(r"[\w.-]+")


class Loaded(NamedTuple):
    """A behaviour, and where each of its values comes from, by dotted path (`sampling.temperature`, `tools.0.use`).

    `chain`: the files, the one that was named first, then its parents. `flags`: paths whose value was typed, or came
    with a request (`typed_by`).
    """

    behaviour: Behaviour
    places: Mapping[str, Place] = {}
    chain: tuple[str, ...] = ()
    flags: frozenset[str] = frozenset()
    typed_by: Literal["flag", "request"] = "flag"


class Listing(NamedTuple):
    """A behaviour that can be named; `error`: why it cannot be used."""

    name: str
    file: str
    description: str
    where: Literal["library", "project", "home"]
    error: str | None = None


def load(reference: str, sets: Sequence[str] = ()) -> Loaded:
    """The behaviour that `NAME` or `PATH.yaml` names, with `+key=value` and `--set key=value` on top.

    Raises BehaviourError: one sentence about the first thing that is wrong, with file, line and column.
    """
    name, *changes = _FLAG.split(reference)
    tree, chain = _family(_find(name))
    for flag, change in [(f"+{text}", text) for text in changes] + [(f"--set {text}", text) for text in sets]:
        tree = _merge(tree, _change(flag, change))
    return _behaviour(tree, chain)


def names() -> list[Listing]:
    """Every behaviour that has a name here, in look-up order; a broken file is listed with what is wrong."""
    listings: dict[str, Listing] = {}
    hidden: list[Listing] = []
    for where, folder in _shelves():
        for file in sorted(folder.glob("*.yaml")):
            listing = _listing(file, where)
            if first := listings.get(listing.name):
                hidden.append(listing._replace(error=f"{first.file} has the same name and comes first"))
            else:
                listings[listing.name] = listing
    return [*listings.values(), *hidden]


def schema() -> dict[str, Any]:
    """JSON schema of a behaviour file, for editors."""
    made = Behaviour.model_json_schema()
    made |= {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "jeito behaviour"}
    made["properties"] = {
        "extends": {"title": "Extends", "type": "string", "description": "a behaviour's name, or a path from here"},
        **made["properties"],
    }
    definitions = made["$defs"]
    tool = definitions["Tool"]
    definitions["Tool"] = {"title": "Tool", "anyOf": [{"type": "string", "minLength": 1}, tool]}
    at_least = definitions["Claim"]["properties"]["at_least"]
    definitions["Claim"] |= {
        "description": "a check's name with its keywords, and the share of replies that must pass",
        "properties": {"at_least": at_least},
        "required": ["at_least"],
        "additionalProperties": True,
        "minProperties": 2,
        "maxProperties": 2,
    }
    return made


def _shelves() -> Iterator[tuple[Literal["library", "project", "home"], Path]]:
    yield "library", Path(str(resources.files("jeito.behaviour") / "library"))
    yield "project", Path("behaviours")
    yield "home", home() / "behaviours"


def _listing(file: Path, where: Literal["library", "project", "home"]) -> Listing:
    try:
        loaded = _behaviour(*_family(file))
    except BehaviourError as error:
        return Listing(file.stem, str(file), "", where, str(error))
    return Listing(file.stem, str(file), loaded.behaviour.description, where)


def _find(name: str, *, folder: Path = Path(), asked: Origin | None = None) -> Path:
    """The file of a name or path; `asked`: the place whose `extends` names it."""
    before = f"{asked}: " if asked else ""
    if name.endswith((".yaml", ".yml")):
        path = folder / name
        if not _is_there(path):
            raise BehaviourError(f"{before}there is no file {str(path)!r}", hint="jeito behaviours lists what there is")
        return path
    if not _NAME.fullmatch(name):
        hint = "changes are written +key=value" if "+" in name else "a path ends in .yaml; a name has no slashes"
        raise BehaviourError(f"{before}{name!r} names no behaviour", hint=hint)
    for _, shelf in _shelves():
        if _is_there(path := shelf / f"{name}.yaml"):
            return path
    if asked and _is_there(folder / f"{name}.yaml"):
        raise BehaviourError(f"{before}no behaviour is called {name!r}", hint=f"the file beside it: {name}.yaml")
    known = {file.stem for _, shelf in _shelves() for file in shelf.glob("*.yaml")}
    raise BehaviourError(f"{before}no behaviour is called {name!r}", hint=nearest(name, known))


def _is_there(path: Path) -> bool:
    """Not `Path.exists`, which raises for a name that is too long or not text."""
    return os.path.exists(path) and str(path).encode("utf-8", "ignore").decode() == str(path)


def _family(path: Path) -> tuple[Node, tuple[str, ...]]:
    """A file merged onto its parents, and the names of all of them."""
    trees: list[dict[str, Node]] = []
    chain: list[Path] = []
    while True:
        tree = _read_file(path)
        chain.append(path)
        keys = dict(tree)
        parent = keys.pop("extends", None)
        trees.append(keys)
        if parent is None:
            break
        if not isinstance(parent.data, str):
            raise BehaviourError(
                f"{parent.at}: extends takes one name or path, not {shown(parent.plain())}", hint="extends: plain"
            )
        path = _find(parent.data, folder=path.parent, asked=parent.at)
        if path.resolve() in [file.resolve() for file in chain]:
            circle = " → ".join(str(file) for file in [*chain, path])
            raise BehaviourError(f"{parent.at}: extends goes in a circle: {circle}", hint="remove one extends")
    # A name is its own file's: a child that says none does not answer to its parent's.
    trees[0].setdefault("name", Node(re.sub(r"[^\w.-]", "_", chain[0].stem), None))
    whole = Node({}, Place(str(chain[0]), 1, 1))
    for keys in reversed(trees):
        whole = _merge(whole, Node(keys, whole.at))
    return whole, tuple(str(file) for file in chain)


def _read_file(path: Path) -> dict[str, Node]:
    start = Place(str(path), 1, 1)
    if not path.is_file():
        raise BehaviourError(f"{start}: this is a folder or device, not a file", hint="name a .yaml file in it")
    try:
        data = path.read_bytes() if path.stat().st_size <= LARGEST else None
    except OSError as error:
        raise BehaviourError(f"{start}: cannot be read: {error.strerror}", hint="look at its permissions") from error
    if data is None:
        raise BehaviourError(f"{start}: over {LARGEST} bytes", hint="a behaviour is a short file")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8", "replace")
        where = Place(str(path), before.count("\n") + 1, len(before) - before.rfind("\n"))
        raise BehaviourError(f"{where}: this is not UTF-8 text", hint="save the file as UTF-8") from error
    node = read(text, lambda line, column: Place(str(path), line, column))
    if node is None or node.data is None:
        raise BehaviourError(f"{start}: this file is empty", hint="a behaviour has a system or sampling key, say")
    if not isinstance(node.data, dict):
        raise BehaviourError(
            f"{node.at}: a behaviour is a map of keys, not {shown(node.plain())}", hint="write key: value"
        )
    return node.data


def _merge(parent: Node, child: Node) -> Node:
    """Maps key by key; lists and scalars replace, but a flag's way down may go through a list, by a place in it."""
    if isinstance(parent.data, list) and isinstance(child.data, dict) and child.at is None:
        places = {str(at): node for at, node in enumerate(parent.data)}
        if wrong := [(key, node) for key, node in child.data.items() if key not in places]:
            key, node = wrong[0]
            raise BehaviourError(f"{node.key}: {key!r} is no place in a list of {len(places)}", hint="the first is 0")
        changed = places | {key: _merge(places[key], node) for key, node in child.data.items()}
        return Node(list(changed.values()), parent.at, parent.key)
    if not (isinstance(parent.data, dict) and isinstance(child.data, dict)):
        return child
    keys = dict(parent.data)
    for key, node in child.data.items():
        keys[key] = _merge(keys[key], node) if key in keys else node
    # A flag's way down to its leaf stands nowhere (`at` is none): what it merges onto keeps its place.
    return Node(keys, child.at or parent.at, child.key)


def _change(flag: str, text: str) -> Node:
    """One `key=value` as a tree with that one leaf."""
    key, equals, value = text.partition("=")
    if not equals:
        raise BehaviourError(f"{flag}: this sets nothing", hint="write key=value, such as temperature=0.2")
    steps = key.strip().split(".")
    if steps[0] in Sampling.model_fields:
        steps = ["sampling", *steps]
    elif steps[0] not in Behaviour.model_fields:
        known = {*Sampling.model_fields, *Behaviour.model_fields}
        raise BehaviourError(f"{flag}: there is no key {steps[0]!r}", hint=nearest(steps[0], known))
    node = _typed(value.strip(), flag)
    for step in reversed(steps):
        node = Node({step: Node(node.data, node.at, flag)}, None)
    return node


def _typed(value: str, flag: str) -> Node:
    """A quoted text, list or map is YAML; anything else is one word taken whole, so that `#` and `:` stay in it."""
    if value[:1] in ('"', "'", "[", "{"):
        return read(value, lambda line, column: flag) or Node(None, flag)
    return scalar(value, flag)


def _behaviour(tree: Node, chain: tuple[str, ...]) -> Loaded:
    places: dict[str, Place] = {}
    flags: set[str] = set()
    for path, at in _origins(tree):
        if isinstance(at, Place):
            places[path] = at
        else:
            flags.add(path)
    try:
        behaviour = Behaviour.model_validate_json(json.dumps(tree.plain()))
    except ValidationError as error:
        raise complaint(error, tree, chain) from error
    return Loaded(_anchored(behaviour, places), places, chain, frozenset(flags))


def _origins(node: Node, path: str = "") -> Iterator[tuple[str, Origin]]:
    if path and node.at is not None:
        yield path, node.at
    inside = (
        node.data.items()
        if isinstance(node.data, dict)
        else enumerate(node.data)
        if isinstance(node.data, list)
        else ()
    )
    for step, child in inside:
        yield from _origins(child, f"{path}.{step}" if path else str(step))


def _anchored(behaviour: Behaviour, places: Mapping[str, Place]) -> Behaviour:
    """The files that a behaviour names, seen from here instead of from the file that names them.

    A word that names no file there may be the name of an adapter or a control vector in home.
    """

    def near(name: str, leaf: str) -> str:
        return str(Path(places[leaf].file).parent / name) if leaf in places else name

    def kept(kind: str, name: str, leaf: str) -> str:
        found = near(name, leaf)
        return found if Path(found).exists() else str(named(kind, name) or found)

    def tool(use: str, index: int) -> str:
        file, rest = tool_file(use)
        leaf = f"tools.{index}.use" if f"tools.{index}.use" in places else f"tools.{index}"
        return near(file, leaf) + rest if file else use

    moved = {
        "adapter": tuple(
            each.model_copy(update={"path": kept("adapters", each.path, f"adapter.{index}.path")})
            for index, each in enumerate(behaviour.adapter)
        ),
        "steering": tuple(
            each.model_copy(update={"vector": kept("steering", each.vector, f"steering.{index}.vector")})
            for index, each in enumerate(behaviour.steering)
        ),
        "tools": tuple(
            each.model_copy(update={"use": tool(each.use, index)}) for index, each in enumerate(behaviour.tools)
        ),
        "checks": tuple(
            each.model_copy(update={"name": near(file, f"checks.{index}") + rest})
            if (file := tool_file(each.name)[0]) and (rest := tool_file(each.name)[1])
            else each
            for index, each in enumerate(behaviour.checks)
        ),
    }
    return behaviour.model_copy(update={key: value for key, value in moved.items() if value})
