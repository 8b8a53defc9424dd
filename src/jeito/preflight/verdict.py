"""From facts to findings: will this model do, here? One function a question; knows nothing of where facts come from."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

from jeito.engines.llama_needs import GgufOutline
from jeito.engines.needs import gigabytes
from jeito.home import hub_endpoint
from jeito.preflight.find import Facts, is_safe
from jeito.preflight.finding import Finding, found
from jeito.preflight.fit import outline_of, precisions_of
from jeito.preflight.prompting import template, tokens
from jeito.preflight.running import again, engine, weights
from jeito.preflight.speed import Bandwidth

# A licence that says no to common uses, by words in its name.
_NARROW = ("-nc", "noncommercial", "non-commercial", "research")
_SAMPLING = (
    "temperature", "top_k", "top_p", "min_p", "typical_p", "repetition_penalty", "do_sample", "min_new_tokens",
    "max_new_tokens",
)  # fmt: skip


class Machine(NamedTuple):
    """What a model would have here: bytes of memory that are free, none where unknown, and how fast they are read."""

    room: int | None
    speed: Bandwidth


def verdict(facts: Facts, machine: Machine | None = None) -> list[Finding]:
    """All findings, in the order in which a model meets them; where nothing may be read, only why."""
    findings = list(access(facts))
    if facts.refused and facts.refused[0] != "gated":
        return findings
    questions: tuple[Callable[[Facts], Iterator[Finding]], ...] = (files, weights)
    if not facts.refused:
        questions += (engine, tokens, template, terms, lengths)
        if machine:
            questions += (partial(costs, machine=machine),)
    else:
        questions += (terms,)
    return [*findings, *(finding for question in questions for finding in question(facts))]


def exit_code(findings: list[Finding]) -> int:
    """0 ok, 1 warnings, 2 a blocker."""
    levels = {finding.level for finding in findings}
    return 2 if "blocker" in levels else 1 if "warning" in levels else 0


def access(facts: Facts) -> Iterator[Finding]:
    """Is it there, and may it be read?"""
    kind, why, near = facts.refused or ("", "", ())
    if kind in ("absent", "revision"):
        names = " or ".join(f"{facts.asked}#{one}" if kind == "revision" else one for one in near)
        hint = f"did you mean {names}?" if near else "look for its name at the hub; if it is private: hf auth login"
        yield found("access.exists", "blocker", why, near=hint)
        return
    yield found(
        "access.exists", "ok", f"{facts.place}: {facts.name}" + (f" at {facts.revision}" if facts.revision else "")
    )
    if kind:
        yield found("access.open", "blocker", why, page=f"{hub_endpoint()}/{facts.name}")
    elif facts.gated or facts.private:
        yield found("access.open", "ok", "gated or private, and this token may read it")
    if facts.place == "hub" and facts.asked != facts.name:
        yield found("access.renamed", "warning", f"{facts.asked} is now {facts.name}", name=facts.name)
    if facts.away:
        yield found("access.hub", "warning", f"{facts.away}; what follows is of the cache")


def files(facts: Facts) -> Iterator[Finding]:
    """Do names stay inside, and could what is small be read?"""
    named = [*facts.files, *(facts.index.shards if facts.index else ())]
    outside = sorted({name for name in named if not is_safe(name)})
    if outside:
        yield found("files.safe", "blocker", f"{len(outside)} names, such as {outside[0]!r}")
    broken = {name: why for name, why in facts.unreadable.items() if not name.endswith((".safetensors", ".gguf"))}
    if broken and not facts.refused:
        more = f" (and {len(broken) - 1} more)" if len(broken) > 1 else ""
        yield found("files.readable", "blocker", next(iter(broken.values())) + more, again=again(facts))


def terms(facts: Facts) -> Iterator[Finding]:
    """What its author allows, and what it was made from."""
    licence = facts.licence or (facts.gguf or {}).get("general.license")
    if not licence and facts.gguf_file and facts.gguf is None:
        return  # it would stand in the header that cannot be read
    if not licence:
        yield found("licence", "warning", "it names none", how="ask its author: without one nothing is allowed")
    elif any(word in str(licence).lower() for word in _NARROW):
        yield found("licence", "warning", str(licence), how="read it: it narrows what the model may be used for")
    else:
        yield found("licence", "ok", str(licence))
    if facts.base:
        yield found("base", "ok", ", ".join(facts.base))


def lengths(facts: Facts) -> Iterator[Finding]:
    """How long a text may be, in what precision it runs, and which sampling values its author set."""
    if facts.config is None and facts.gguf is None:
        return
    if facts.longest:
        yield found("context", "ok", f"{facts.longest} tokens")
    else:
        yield found("context", "warning", "its files do not say how long a text may be")
    quantised = (facts.config or {}).get("quantization_config")
    if isinstance(quantised, dict):
        method = quantised.get("quant_method", "unnamed")
        bits = quantised.get("bits") or (
            4 if quantised.get("load_in_4bit") else 8 if quantised.get("load_in_8bit") else ""
        )
        yield found("precision", "warning", f"quantised already: {method}" + (f", {bits} bits" if bits else ""))
    acting = {key: facts.generation[key] for key in _SAMPLING if facts.generation.get(key) is not None}
    prefix = "general.sampling."
    acting |= {key.removeprefix(prefix): value for key, value in (facts.gguf or {}).items() if key.startswith(prefix)}
    if acting:
        said = ", ".join(f"{key}={value}" for key, value in acting.items())
        yield found("sampling", "warning", said, model=facts.reference)
    else:
        yield found("sampling", "ok", "its author set none")


# As little as is worth running: one reply, a page of text.
_LEAST = 1024


def costs(facts: Facts, machine: Machine) -> Iterator[Finding]:
    """Does it fit here at all, and how fast can it be at most?"""
    outline = outline_of(facts)
    if isinstance(outline, GgufOutline):
        need = outline.need(context=_LEAST)
        least, read = need.total, outline.weights - outline.unread
        evidence = f"weights {gigabytes(need.weights)}, a token of text {outline.token_bytes():,} bytes"
    elif outline is not None:
        words = precisions_of(outline, "auto")
        needs = {word: outline.need(word, slots=1, context=_LEAST) for word in words}
        least, read = min(need.total for need in needs.values()), outline.read(words[0])
        said = ", ".join(f"{gigabytes(need.weights)} in {word}" for word, need in needs.items())
        evidence = f"weights {said}; a token of text {outline.token_bytes(words[0]):,} bytes"
    elif facts.index and facts.index.bytes:
        least = read = facts.index.bytes
        evidence = f"weights {gigabytes(least)} as its files have them; by precision: jeito fit {facts.reference}"
    else:
        return
    if machine.room is not None and least > machine.room:
        yield found("memory", "warning", f"{evidence}; {gigabytes(machine.room)} are free", model=facts.reference)
    else:
        yield found("memory", "ok", evidence)
    bound = machine.speed.bound(read)
    if bound and outline is not None:
        gigabytes_a_second = f"{machine.speed.bytes / 1e9:.1f} GB/s, {machine.speed.how}"
        yield found("speed", "ok", f"under {bound:.3g} tokens/s for one reply: a bound, by {gigabytes_a_second}")
