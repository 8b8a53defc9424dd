"""What experiments found of a server's knobs, kept by its address, model and version. Makes no experiment itself."""

from collections.abc import Iterable
from typing import Literal

from pydantic import ValidationError

from jeito import home
from jeito.engines.servers import Server
from jeito.types import Output, Sampling, Value

Verdict = Literal["honoured", "ignored", "different", "refused", "unknown"]
KIND = "probes"
UNHONOURED = ("ignored", "refused")


class Tried(Value):
    """A knob, what the server calls it, what was found and by what. `requests`: its own, without shared controls."""

    knob: str
    field: str
    verdict: Verdict
    evidence: str
    requests: int
    day: str
    """ISO 8601, UTC."""

    @property
    def note(self) -> str:
        """As a receipt says it."""
        return f"{self.knob}: {self.verdict}, as the probe of {self.day} found ({self.evidence})"


def keep(address: str, model: str, version: str | None, tried: Iterable[Tried]) -> None:
    """Keep what was found; knobs that were not tried again stay as they were."""
    kept = recall(address, model, version) | {one.knob: one for one in tried}
    home.remember(KIND, _key(address, model, version), {knob: one.model_dump() for knob, one in kept.items()})


def recall(address: str, model: str, version: str | None) -> dict[str, Tried]:
    """What is known, by knob; nothing where this server, in this version, was never probed."""
    kept = home.recall(KIND, _key(address, model, version))
    try:
        return {str(knob): Tried.model_validate(one) for knob, one in dict(kept or {}).items()}
    except (ValidationError, TypeError, ValueError):
        return {}


def lacking(known: Iterable[Tried]) -> frozenset[str]:
    """The abilities that a server was found not to have, whatever its kind's table says."""
    unhonoured = {one.knob: one.verdict in UNHONOURED for one in known}
    contracts = [unhonoured[kind] for kind in Output.model_fields if kind in unhonoured]
    knobs = {*Sampling.model_fields, "tools", "logprobs"}
    found = {knob for knob, is_so in unhonoured.items() if is_so and knob in knobs}
    return frozenset(found | ({"contract"} if contracts and all(contracts) else set()))


def notes(known: Iterable[Tried], server: Server, sampling: Sampling) -> list[str]:
    """What a receipt says of them: what is not honoured though the server is sent it, and what means something else.

    A knob that is neutral in this reply means nothing else.
    """
    return [one.note for one in known if _is_sent(one.knob, server) and _is_told(one, sampling)]


def _is_sent(knob: str, server: Server) -> bool:
    if knob in Sampling.model_fields:
        return server.can(knob)
    return knob not in Output.model_fields or f"output.{knob}" in server.fields


def _is_told(one: Tried, sampling: Sampling) -> bool:
    is_neutral = getattr(sampling, one.knob, None) == getattr(Sampling(), one.knob, "")
    return one.verdict in UNHONOURED or (one.verdict == "different" and not is_neutral)


def _key(address: str, model: str, version: str | None) -> str:
    return f"{address.rstrip('/')}#{model} {version or 'of no version'}"
