"""From addresses to a remote model: which server it is, which models it has, and whether all have the same."""

from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from jeito.engines.base import AS_FOUND, Loading
from jeito.engines.remote import Remote
from jeito.engines.servers import Seen, look, server_of
from jeito.engines.wire import PATIENT, Patience, Wire
from jeito.errors import EngineError, InputError, JeitoError, ModelError, nearest
from jeito.home import remote_key

AT_ONCE = 32
"""Requests under way at each address whose server does not say how many it takes."""


def is_remote(target: str) -> bool:
    return target.startswith(("http://", "https://"))


def open_remote(
    text: str,
    target: str,
    name: str | None,
    loading: Loading = AS_FOUND,
    notify: Callable[[str], None] = lambda text: None,
    patience: Patience = PATIENT,
) -> Remote:
    """The model `name`, or the only one, of the server at `target`: an address, or several with commas between.

    An address that nobody answers at is left to be tried later, unless none answers. Raises InputError, ModelError,
    EngineError.
    """
    if wrong := [key for key in ("context", "budget", "device", "compute") if getattr(loading, key) is not None]:
        raise InputError(f"{target!r} is a server, which has a {wrong[0]} of its own", hint=f"leave --{wrong[0]} out")
    if loading.server != "auto":
        server_of(loading.server)
    urls = [address_of(one.strip()) for one in target.split(",")]
    keys = {url: remote_key(urlsplit(url).netloc) for url in urls}
    if len(set(keys.values())) > 1:
        raise InputError("these addresses have different keys", hint="one JEITO_REMOTE_KEY for all of one model")
    key = keys[urls[0]]
    found: list[tuple[str, Seen, Mapping[str, Any], int]] = []
    for url in urls:
        wire = Wire([url], key, patience)
        try:
            seen = Seen(loading.server, None) if loading.server != "auto" else look(url, key)
            found.append((url, seen, _listed(wire, url, name, seen), _slots(wire, url, seen)))
        except EngineError as error:
            if len(urls) == 1:
                raise
            notify(f"{error}: it is tried again later")
            last = error
        finally:
            wire.close()
    if not found:
        raise last
    wire = Wire(urls, key, patience)
    slots = loading.slots or sum(slots for *_, slots in found)
    made = [Remote(text, wire, seen, server_of(seen.kind), listed, slots=slots) for _, seen, listed, _ in found]
    if other := next((one for one in made if one.fingerprint != made[0].fingerprint), None):
        raise ModelError(
            f"these addresses do not serve the same: {made[0].seen} {made[0].served!r}, {other.seen} {other.served!r}",
            hint="several addresses are for copies of one model",
        )
    return made[0]


def address_of(url: str) -> str:
    """An address that ends in /v1, and tells no key."""
    try:
        parts = urlsplit(url)
        known = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        parts, known = urlsplit("http://?"), False
    if parts.scheme not in ("http", "https") or not known:
        raise InputError(f"{url!r} is no address", hint="-m http://host:8000/v1#NAME")
    if parts.username or parts.password or parts.query:
        raise InputError("an address holds no name, password or query: it is written to the log",
                         hint="JEITO_REMOTE_KEY=… in the environment")  # fmt: skip
    url = url.rstrip("/")
    return url if parts.path.strip("/") else f"{url}/v1"


def _listed(wire: Wire, url: str, name: str | None, seen: Seen) -> dict[str, Any]:
    """What a server says of its model of that name, or of its only one."""
    status, page = wire.get(f"{url}/models")
    data = page.get("data") if isinstance(page, dict) else None
    if status != 200 or not isinstance(data, list):
        raise InputError(f"{url} is no API: /models answers {status}", hint="an address like http://host:8000/v1")
    models = {str(one["id"]): one for one in data if isinstance(one, dict) and "id" in one}
    if name is not None:
        if name in models:
            return models[name]
        if seen.kind == "llama-server" and models:  # whatever it is called, it has one model
            return next(iter(models.values()))
        raise ModelError(f"{url} serves no {name!r}", hint=nearest(name, models) if models else "it serves none")
    # A second jeito lists each behaviour too; the model alone is what is meant.
    bare = [one for one in models.values() if one.get("jeito", {"behaviour": "plain"}).get("behaviour") == "plain"]
    bare = [one for one in bare if ":" not in str(one["id"]) or "jeito" not in one]
    if len(bare) != 1:
        names = ", ".join(sorted(str(one["id"]) for one in bare))
        raise ModelError(
            f"{url} serves {len(bare)} models", hint=f"one of them after a #: {names}" if bare else "it has to load one"
        )
    return bare[0]


def _slots(wire: Wire, url: str, seen: Seen) -> int:
    """How many replies it has room for at once."""
    if seen.kind != "llama-server":
        return AT_ONCE
    try:
        _, page = wire.get(f"{url.removesuffix('/v1')}/props")
    except JeitoError:
        return AT_ONCE
    found = page.get("total_slots") if isinstance(page, dict) else None
    return found if isinstance(found, int) and found > 0 else AT_ONCE
