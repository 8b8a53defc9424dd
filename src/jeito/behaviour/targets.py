"""What other programs call the values of a behaviour: the tables of targets.yaml, and how values become theirs."""

from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any, NamedTuple

import yaml

from jeito.engines.servers import Make, servers


class Field(NamedTuple):
    """Where a target keeps a value: `server`, `request` or nowhere; `name` as it is called there.

    `note`: what is lost there, or means something else. `make`: from our value to theirs.
    """

    place: str
    name: str
    note: str
    make: Make


class Target(NamedTuple):
    """A program's table, by path. `neutral`: knobs that are written though nobody set them. `text`: a template."""

    fields: Mapping[str, Field]
    elsewhere: Mapping[str, str]
    neutral: tuple[str, ...]
    has_request: bool
    text: str = ""

    def field(self, path: str) -> Field:
        return self.fields.get(path) or Field("", "", self.elsewhere.get(path, "no counterpart"), _same)


@cache
def targets() -> dict[str, Target]:
    tables = yaml.safe_load(resources.files("jeito.behaviour").joinpath("targets.yaml").read_text("utf-8"))
    elsewhere = tables.pop("elsewhere")
    made: dict[str, Target] = {}
    for name, table in tables.items():
        if "like" in table:
            made[name] = made[table["like"]]._replace(has_request=False, text=table["text"])
            continue
        asked = servers()[name]
        notes = {**asked.notes, **table["notes"]}
        make = {path: field.make for path, field in asked.fields.items()} | _MAKE.get(name, {})
        fields = {path: Field("", "", note, _same) for path, note in notes.items()}
        for path, theirs in table.get("server", {}).items():
            fields[path] = Field("server", theirs, notes.get(path, ""), make.get(path, _same))
        for path in table.get("request", ()):
            theirs = asked.fields[path].name if path in asked.fields else "messages"
            fields[path] = Field("request", theirs, notes.get(path, ""), make.get(path, _same))
        made[name] = Target(fields, elsewhere, tuple(table.get("neutral", ())), "request" in table)
    return made


def _same(value: Any) -> Any:
    return value


def _scaled(files: list[dict[str, Any]]) -> str:
    return ",".join(f"{file.get('path') or file.get('vector')}:{file['scale']}" for file in files)


_MAKE: dict[str, dict[str, Make]] = {
    "vllm": {"adapter": lambda adapters: [f"adapter{index}={one['path']}" for index, one in enumerate(adapters)]},
    "llama-server": {
        "sampling.logit_bias": lambda bias: [f"{token}{value:+}" for token, value in bias.items()],
        "adapter": _scaled,
        "steering": _scaled,
    },
    "ollama": {
        "sampling.repetition_window": lambda window: -1 if window is None else window,
        "adapter": lambda adapters: [one["path"] for one in adapters],
    },
}
