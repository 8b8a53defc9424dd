"""Which files of a repository make a model run: one format, one quantisation, and the small ones that it is read by.

Refuses what will not do before any of it comes. Knows nothing of how files come, nor of screens.
"""

import re
from collections.abc import Callable
from typing import NamedTuple, NoReturn

from jeito.errors import InputError, ModelError
from jeito.preflight.fetch import PAUSE, Cache
from jeito.preflight.find import Facts
from jeito.preflight.finding import Finding
from jeito.preflight.gguf import quantisations
from jeito.preflight.hub import WAIT
from jeito.preflight.running import is_adapter, weight_files
from jeito.preflight.verdict import verdict
from jeito.types import Value

# Config, tokenizer and template, as the makers of models name them.
_SMALL = re.compile(
    r"(?:.*config|.*token.*|.*vocab.*|merges|.*bpe.*|tekken|chat_template)\.(?:json|txt|jinja|model|model\.v\d+|codes)"
    r"|.*spiece.*\.model|.*\.tiktoken"
)
_TERMS = re.compile(r"README\.md|(?:.*LICEN[CS]E|NOTICE|COPYING|.*POLICY).*", re.IGNORECASE)


class Plan(NamedTuple):
    """What is to come. `model`: what to type for it; `revision`: its revision's name."""

    facts: Facts
    model: str
    revision: str
    files: tuple[str, ...]
    warnings: tuple[Finding, ...]

    @property
    def base(self) -> str | None:
        """What an adapter runs on."""
        found = (self.facts.adapter or {}).get("base_model_name_or_path") if is_adapter(self.facts) else None
        return found if isinstance(found, str) else None


class Pulled(Value):
    """A model that is here. `path`: its folder, or its GGUF's first part; `downloaded`: the bytes that came now."""

    model: str
    revision: str
    path: str
    files: tuple[str, ...]
    bytes: int
    downloaded: int


def plan(
    facts: Facts, revision: str | None = None, *, allow_pickle: bool = False, trust_remote_code: bool = False
) -> Plan:
    """Which files make the model run. Raises InputError for what is here, ModelError for what will not do, with why."""
    if facts.place in ("folder", "file"):
        raise InputError(f"{facts.reference!r} is here already", hint=f'jeito ask -m {facts.reference} "…"')
    # Packages may come after the model; the others are the user's to allow.
    passed = {"engine.packages": True, "weights.format": allow_pickle, "engine.code": trust_remote_code}
    findings = verdict(facts)
    blockers = [one for one in findings if one.level == "blocker" and not passed.get(one.id)]
    if blockers:
        _refuse(facts, blockers)
    weights = weight_files(facts)
    is_gguf = weights[0].endswith(".gguf")
    word = next((word for word, parts in quantisations(facts.files).items() if weights[0] in parts), "")
    model = facts.name + (f":{word}" if is_gguf else "") + (f"#{revision}" if revision else "")
    small = [name for name in facts.files if "/" not in name and _is_needed(name, is_gguf, trust_remote_code)]
    if facts.index and not is_gguf:
        small.append(facts.index.file)
    warnings = tuple(one for one in findings if one.level != "ok")
    return Plan(facts, model, revision or "main", (*small, *weights), warnings)


def _refuse(facts: Facts, blockers: list[Finding]) -> NoReturn:
    first = blockers[0]
    if facts.away:
        why = f"{facts.away}, and its cache has not all of {facts.reference!r}: {first.evidence}"
        raise ModelError(why, hint="the same again, with the hub in reach")
    known = quantisations(facts.files)
    if first.id == "weights.present" and known:
        sizes = {word: sum(facts.files.get(part) or 0 for part in parts) for word, parts in known.items()}
        listed = ", ".join(f"{word} ({size:,} bytes)" for word, size in sorted(sizes.items(), key=lambda one: one[1]))
        wanted = f"no single {facts.quantisation}" if facts.quantisation else f"{len(known)} GGUFs"
        usual = next((word for word in known if word.lower() == "q4_k_m"), next(iter(known)))
        raise ModelError(f"{facts.name!r} has {wanted}; there are: {listed}", hint=f"jeito pull {facts.name}:{usual}")
    more = f" (and {len(blockers) - 1} more: jeito check {facts.reference})" if len(blockers) > 1 else ""
    raise ModelError(f"{facts.reference!r} will not do: {first.evidence}{more}", hint=first.remedy)


def _is_needed(name: str, is_gguf: bool, with_code: bool) -> bool:
    if is_gguf or _TERMS.fullmatch(name):
        return _TERMS.fullmatch(name) is not None
    return _SMALL.fullmatch(name) is not None or (with_code and name.endswith(".py"))


def pull(
    plan: Plan,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
    notify: Callable[[str], None] = lambda text: None,
    wait: float = WAIT,
    pause: float = PAUSE,
) -> Pulled:
    """Bring what the hub's cache lacks, and check all of it. `progress` hears how many bytes are here, and of how many.

    Safe beside others that pull the same. Raises PullError; then, and when interrupted, what came waits for the next
    time. `wait`: seconds without a byte that break a request off; `pause`: seconds before it is tried again.
    """
    cache = Cache(plan.facts, plan.files, f"jeito pull {plan.model}", progress, notify, wait, pause)
    cache.fill(plan.revision)
    first = next((file for file in plan.files if file.endswith(".gguf")), None)
    return Pulled(
        model=plan.model, revision=cache.revision, path=str(cache.snapshot / first if first else cache.snapshot),
        files=plan.files, bytes=cache.total, downloaded=cache.downloaded,
    )  # fmt: skip
