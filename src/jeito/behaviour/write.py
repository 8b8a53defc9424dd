"""Values put into a behaviour's file, all else of it left as a person wrote it. Knows nothing of what a key means."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

from pydantic import JsonValue

from jeito.behaviour.load import Place, load
from jeito.errors import BehaviourError
from jeito.types import Sampling

_SCALAR = re.compile(r"""(?:"(?:[^"\\]|\\.)*"|'(?:[^']|'')*'|[^\s,}\]#]+)""")
"""A quoted text, or a word, from where it begins."""
_OURS = re.compile(r"\s*# holds from .*")


def write_values(file: Path, values: Mapping[str, JsonValue], spans: Mapping[str, str], parent: str) -> None:
    """Set keys (`temperature`, `guard.repetition.tokens`), each with `# holds from …` behind it where its line ends.

    A file that is not there is made, and extends `parent`. Raises BehaviourError where it is, or would be, no
    behaviour; it is then left as it was.
    """
    try:
        before = file.read_text(encoding="utf-8") if file.exists() else None
        if before is None:
            file.write_text(f"extends: {parent}\n", encoding="utf-8")
        try:
            for key, value in values.items():
                _write(file, key, json.dumps(value, ensure_ascii=False), f"  # holds from {spans[key]}")
            load(str(file))
        except BehaviourError:
            if before is None:
                file.unlink()
            else:
                file.write_text(before, encoding="utf-8")
            raise
    except OSError as error:
        raise BehaviourError(f"{str(file)!r} cannot be written: {error.strerror}", hint="--write FILE.yaml") from error


def _write(file: Path, key: str, value: str, comment: str) -> None:
    steps = ["sampling", key] if key.split(".")[0] in Sampling.model_fields else key.split(".")
    places = {path: place for path, place in load(str(file)).places.items() if Path(place.file) == file}
    lines = file.read_text(encoding="utf-8").splitlines()
    if at := places.get(".".join(steps)):
        line, start = lines[at.line - 1], at.column - 1
        old = _SCALAR.match(line, start)
        rest = _OURS.sub("", line[old.end() if old else start :])
        is_last = not rest.split("#")[0].strip()
        lines[at.line - 1] = line[:start] + value + rest + (comment if is_last else "")
    else:
        # Into the innermost map that is there; what is missing between is made.
        depth = next((size for size in range(len(steps) - 1, 0, -1) if ".".join(steps[:size]) in places), 0)
        _insert(lines, places.get(".".join(steps[:depth])), steps[depth:], value, comment)
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _insert(lines: list[str], parent: Place | None, steps: list[str], value: str, comment: str) -> None:
    if parent and lines[parent.line - 1].startswith("{", parent.column - 1):
        line = lines[parent.line - 1]
        before, after = line[: parent.column], line[parent.column :]
        inner = ": {".join(steps) + f": {value}" + "}" * (len(steps) - 1)
        lines[parent.line - 1] = before + inner + ("" if after.lstrip().startswith("}") else ", ") + after
        return
    indent = 0
    if parent:
        below = next((one for one in lines[parent.line :] if one.strip() and not one.lstrip().startswith("#")), "")
        indent = max(len(below) - len(below.lstrip()), parent.column + 1)
    made = [f"{' ' * (indent + 2 * level)}{step}:" for level, step in enumerate(steps)]
    made[-1] += f" {value}{comment}"
    where = parent.line if parent else len(lines)
    lines[where:where] = made
