"""What is served: each model by its id, and each behaviour that it can have. Knows nothing of HTTP."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

from jeito.behaviour.behaviour import Behaviour
from jeito.behaviour.load import Loaded, load
from jeito.behaviour.resolve import resolve
from jeito.decode.local import LocalModel
from jeito.engines.remote import Remote
from jeito.errors import InputError, JeitoError, LogError, nearest
from jeito.proof.status import Standing, proof_status
from jeito.run.open import Opened
from jeito.serve.refusal import Refusal
from jeito.serve.shelf import Shelf
from jeito.trace.log import Log
from jeito.types import Request, Sourced, Trace

_KEPT = "; it is served as it was"
TOOLS = "tools: a server offers none of its own, only those that the request brings"


class Served(NamedTuple):
    """One id. `lacking`: what of its behaviour is not honoured here."""

    id: str
    model: Opened
    loaded: Loaded
    label: str
    lacking: tuple[str, ...] = ()
    is_stale: bool = False
    """Has its file changed into what cannot be read?"""

    def about(self, created: int, log: Log | None) -> dict[str, Any]:
        """As /v1/models lists it, with what the log says is proved of it."""
        behaviour = self.loaded.behaviour
        proofs = proof_status(behaviour, self.model.fingerprint, log) if log else []
        said = {"id": self.id, "object": "model", "created": created, "owned_by": "jeito"}
        own = {
            "model": self.model.name,
            "behaviour": self.label,
            "description": behaviour.description,
            "context": self.model.context,
            "defaults": {knob: without_path(one).model_dump(mode="json") for knob, one in self.model.defaults.items()},
            "abilities": sorted(self.model.abilities),
            "model_fingerprint": self.model.fingerprint,
            "behaviour_fingerprint": behaviour.fingerprint(),
            "lacking": list(self.lacking),
            "stale": self.is_stale,
            "proofs": [_without_path(one) for one in proofs],
        }
        return said | {"jeito": own}


def without_path(sourced: Sourced) -> Sourced:
    """A value and its source without the paths of this machine."""
    value = sourced.value
    if isinstance(value, list):  # of adapters or control vectors, it may be
        value = [
            {key: _last(said) if key in ("path", "vector") else said for key, said in one.items()}
            if isinstance(one, dict)
            else one
            for one in value
        ]
    return sourced.model_copy(update={"value": value, "file": _last(sourced.file) if sourced.file else None})


def _last(path: object) -> str:
    return str(path).replace("\\", "/").rpartition("/")[2]


def _without_path(proof: Standing) -> dict[str, Any]:
    """A proof as strangers may see it: names, which may be paths of this machine, stand beside it or are cut."""
    said = proof.model_dump(exclude={"behaviour", "model"})
    return said | {"cases": proof.cases.replace("\\", "/").rpartition("/")[2]}


class Catalogue:
    """Every id of some models: `names` in their order, else the last part of what each is called.

    `left_out` says which behaviours a model cannot have, and why. Raises InputError for ids that cannot be.
    """

    def __init__(
        self, models: Iterable[Opened], folder: Path | None = None, names: Sequence[str] = (),
        notify: Callable[[str], None] = lambda text: None,
    ) -> None:  # fmt: skip
        self.models = dict(_named(list(models), names))
        self.served: dict[str, Served] = {}
        self.left_out: list[str] = []
        self._shelf = Shelf(folder)
        self._notify = notify
        self._turn = Lock()
        self._fill()

    def _fill(self) -> None:
        """Read the behaviours; what cannot be read any more is served as it was."""
        served: dict[str, Served] = {}
        wrong = self._shelf.read()
        left_out = [f"{label}: {error}{_KEPT if label in self._shelf.stale else ''}" for label, error in wrong.items()]
        plain = load("plain")
        for name, model in self.models.items():
            labelled = {name: ("plain", plain)}
            labelled |= {f"{name}:{label}": (label, loaded) for label, loaded in self._shelf.loaded.items()}
            for id, (label, loaded) in labelled.items():
                try:
                    served[id] = _served(id, model, loaded, label, is_stale=label in self._shelf.stale)
                except JeitoError as error:
                    left_out.append(f"{id}: {error}{_KEPT if id in self.served else ''}")
                    if id in self.served:
                        served[id] = self.served[id]._replace(is_stale=True)
        self.served, self.left_out = served, left_out

    def refresh(self) -> None:
        """Take in what changed in the files, which are looked at once a second at most. For any thread."""
        if not self._turn.acquire(blocking=False):
            return
        try:
            if self._shelf.is_changed():
                before = set(self.left_out)
                self._fill()
                for line in self.left_out:
                    if line not in before:
                        self._notify(line)
        finally:
            self._turn.release()

    def seen(self, behaviours: frozenset[str] | None) -> "Catalogue":
        """The catalogue as it is now, for someone to whom only these behaviours are open; none: all."""
        self.refresh()
        found = copy(self)
        if behaviours is not None:
            found.served = {id: one for id, one in self.served.items() if one.label in behaviours}
        return found

    def find(self, id: str, behaviour: str | None = None) -> Served:
        """What a request means; raises Refusal for what is not served."""
        if behaviour is not None and id in self.served and self.served[id].label != behaviour:
            if ":" in id and self.served[id].label == id.rpartition(":")[2]:
                raise Refusal(400, f"{id!r} has a behaviour, and {behaviour!r} is another", param="jeito.behaviour")
            id = f"{id}:{behaviour}"
        found = self.served.get(id)
        if found is None:
            hint = nearest(id, self.served)
            raise Refusal(404, f"there is no model {id!r}", hint=hint, param="model", code="model_not_found")
        return found

    def kept(self, log: Log | None, id: str) -> tuple[str, Trace] | None:
        """What the log has under a reply's id, and what it is served as; none for runs of what is not served."""
        run = id.partition("_" if id.startswith("resp_") else "-")[2] or id
        try:
            trace = log.get(run) if log else None
        except LogError:
            return None
        if trace is None or trace.id != run:
            return None
        same = (one.id for one in self.served.values() if (one.model.name, one.label) == (trace.model, trace.behaviour))
        return next(((served, trace) for served in same), None)


def _named(models: list[Opened], names: Sequence[str]) -> Iterator[tuple[str, Opened]]:
    if len(names) > len(models):
        raise InputError(f"{len(names)} names are too many for {len(models)} models", hint="one --name for each -m")
    taken: set[str] = set()
    for index, model in enumerate(models):
        said = model.served if isinstance(model, Remote) else model.name
        name = names[index] if index < len(names) else said.rstrip("/").rpartition("/")[2]
        if not re.fullmatch(r"[\w.@#/-]+", name) and index < len(names):
            raise InputError(f"no model can be called {name!r}", hint="letters, digits and . _ - / say it")
        if name in taken:
            raise InputError(f"two models would be called {name!r}", hint="--name NAME, one for each -m")
        taken.add(name)
        yield name, model


def _served(id: str, model: Opened, loaded: Loaded, label: str, *, is_stale: bool) -> Served:
    """Raises JeitoError where the model cannot have the behaviour."""
    lacking: tuple[str, ...] = ()
    if loaded.behaviour.tools:
        none: dict[str, Any] = {"tools": (), "tool_choice": "auto"}
        loaded = loaded._replace(behaviour=loaded.behaviour.model_copy(update=none))
        lacking = (TOOLS,)
    resolve(loaded, defaults=model.defaults, abilities=model.abilities, context=model.context)
    if isinstance(model, LocalModel):
        # Adapters and control vectors are read now, and what does not fit is said to whoever serves it.
        model.tuning(Request(messages=(), adapter=loaded.behaviour.adapter, steering=loaded.behaviour.steering))
    return Served(id, model, loaded, label, lacking, is_stale)


def changed(loaded: Loaded, changes: Mapping[str, Any], sampling: Mapping[str, Any], flags: Iterable[str]) -> Loaded:
    """A behaviour with a request's values on top. `flags`: the paths of these values, for the receipt."""
    behaviour: Behaviour = loaded.behaviour
    own = {knob: getattr(behaviour.sampling, knob) for knob in behaviour.sampling.model_fields_set}
    made = type(behaviour.sampling)(**{**own, **sampling})
    behaviour = behaviour.model_copy(update={**changes, "sampling": made})
    typed = loaded.flags | set(flags)
    return loaded._replace(behaviour=behaviour, flags=typed, typed_by="request")
