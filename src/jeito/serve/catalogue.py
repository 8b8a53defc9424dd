"""What is served: each model by its id, and each behaviour that it can have. Knows nothing of HTTP."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jeito.behaviour.behaviour import Behaviour
from jeito.behaviour.load import Loaded, load, names
from jeito.behaviour.resolve import resolve
from jeito.decode.local import LocalModel
from jeito.errors import BehaviourError, InputError, JeitoError, nearest
from jeito.serve.refusal import Refusal

TOOLS = "tools: a server offers none of its own, only those that the request brings"


class Served(NamedTuple):
    """One id. `lacking`: what of its behaviour is not honoured here."""

    id: str
    model: LocalModel
    loaded: Loaded
    label: str
    lacking: tuple[str, ...] = ()

    def about(self, created: int) -> dict[str, Any]:
        """As /v1/models lists it."""
        said = {"id": self.id, "object": "model", "created": created, "owned_by": "jeito"}
        own = {
            "model": self.model.name,
            "behaviour": self.label,
            "description": self.loaded.behaviour.description,
            "context": self.model.context,
            "abilities": sorted(self.model.abilities),
            "model_fingerprint": self.model.fingerprint,
            "behaviour_fingerprint": self.loaded.behaviour.fingerprint(),
            "lacking": list(self.lacking),
        }
        return said | {"jeito": own}


class Catalogue:
    """Every id; `left_out` says which behaviours a model cannot have, and why."""

    def __init__(self, models: Iterable[LocalModel], folder: Path | None = None) -> None:
        self.served: dict[str, Served] = {}
        self.left_out: list[str] = []
        behaviours = self._behaviours(folder)
        for model in models:
            name = model.name.rstrip("/").rpartition("/")[2]
            if name in self.served:
                raise InputError(f"two models would be called {name!r}", hint="serve each on a port of its own")
            self._add(Served(name, model, load("plain"), "plain"))
            for label, loaded in behaviours.items():
                self._add(Served(f"{name}:{label}", model, loaded, label))

    def _behaviours(self, folder: Path | None) -> Mapping[str, Loaded]:
        if folder is None:
            found = {one.name: one.name for one in names()}
        elif folder.is_dir():
            found = {file.stem: str(file) for file in sorted(folder.glob("*.yaml"))}
        else:
            raise InputError(f"there is no folder {str(folder)!r}", hint="--behaviours behaviours")
        loaded: dict[str, Loaded] = {}
        for name, reference in found.items():
            try:
                loaded[name] = load(reference)
                loaded[name].behaviour.fingerprint()  # reads the files that it names
            except BehaviourError as error:
                self.left_out.append(f"{name}: {error}")
        return loaded

    def _add(self, served: Served) -> None:
        if served.loaded.behaviour.tools:
            none: dict[str, Any] = {"tools": (), "tool_choice": "auto"}
            loaded = served.loaded._replace(behaviour=served.loaded.behaviour.model_copy(update=none))
            served = served._replace(loaded=loaded, lacking=(TOOLS,))
        model = served.model
        try:
            resolve(served.loaded, defaults=model.defaults, abilities=model.abilities, context=model.context)
        except JeitoError as error:
            self.left_out.append(f"{served.id}: {error}")
            return
        self.served[served.id] = served

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


def changed(loaded: Loaded, changes: Mapping[str, Any], sampling: Mapping[str, Any], flags: Iterable[str]) -> Loaded:
    """A behaviour with a request's values on top. `flags`: the paths of these values, for the receipt."""
    behaviour: Behaviour = loaded.behaviour
    own = {knob: getattr(behaviour.sampling, knob) for knob in behaviour.sampling.model_fields_set}
    made = type(behaviour.sampling)(**{**own, **sampling})
    behaviour = behaviour.model_copy(update={**changes, "sampling": made})
    typed = loaded.flags | set(flags)
    return loaded._replace(behaviour=behaviour, flags=typed, typed_by="request")
