"""Cases that ship, by family: the seed's four tasks, tool calls and instructions that can be verified, pt and en.

`NAME`, and behind it a language, a tag, a number, each after a colon: `train`, `train:pt`, `train:en:simple:32`. They
are the same on every machine, and fewer are the first of more.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib import resources
from itertools import islice
from random import Random
from typing import Any, cast

from jeito.behaviour.read import Place, read
from jeito.errors import InputError, nearest
from jeito.proof.family_calls import calls
from jeito.proof.family_instructions import instructions
from jeito.proof.family_shapes import shapes
from jeito.proof.family_train import train
from jeito.proof.values import Case, Expected

Generator = Callable[[Mapping[str, Any], str, Random], Iterator[Case]]

LANGUAGES = ("en", "pt")
EACH = 100
"""Generated cases of a language, where nobody says how many."""
MOST = 1000
DRAWS = 20 * MOST
"""After so many, there are no more that differ."""


def _written(wording: Mapping[str, Any], language: str, draw: Random) -> Iterator[Case]:
    """Cases that were written out, each with the facts that it expects."""
    for one in wording[language]:
        expect = Expected(contains=one["contains"], language=language)
        yield Case(name="?", prompt=one["prompt"], expect=expect, tags=(language,))


FAMILIES: dict[str, Generator] = {
    "train": train, "shapes": shapes, "explain": _written, "robots": _written, "calls": calls,
    "instructions": instructions,
}  # fmt: skip
NAMES = tuple(FAMILIES)


def family(reference: str) -> tuple[Case, ...]:
    """The cases of a family; of both languages, they take turns. Raises InputError for a name that there is not."""
    name, *rest = reference.split(":")
    if name not in FAMILIES:
        hint = f"a file ends in .yaml or .jsonl; {nearest(name, NAMES)}"
        raise InputError(f"no family of cases is called {reference!r}", hint=hint)
    languages = [part for part in rest if part in LANGUAGES] or list(LANGUAGES)
    counts = [int(part) for part in rest if part.isascii() and part.isdigit()]
    tags = [part for part in rest if part not in LANGUAGES and not (part.isascii() and part.isdigit())]
    known = {tag for language in languages for case in _cases(name, language, None, EACH) for tag in case.tags}
    if unknown := next((tag for tag in tags if tag not in known), None):
        raise InputError(f"{reference!r}: no case of {name} is tagged {unknown!r}", hint=nearest(unknown, known))
    if len(tags) > 1 or len(counts) > 1:
        raise InputError(f"{reference!r}: one language, one tag and one number at most", hint=f"{name}:pt:32")
    most = MOST * len(languages)
    if counts and not 1 <= counts[0] <= most:
        raise InputError(f"{reference!r}: 1 to {most} cases", hint=f"{name}:32")
    each = -(-counts[0] // len(languages)) if counts else EACH
    made = [_cases(name, language, tags[0] if tags else None, each) for language in languages]
    turns = [case for group in zip(*made, strict=False) for case in group]
    if counts and len(turns) < counts[0]:
        raise InputError(f"{reference!r}: there are {len(turns)} such cases", hint=f"{name}:{len(turns)}")
    return tuple(turns[: counts[0]] if counts else turns)


@cache
def _cases(name: str, language: str, tag: str | None, count: int) -> tuple[Case, ...]:
    """So many cases of one language and tag, no two of which ask the same."""
    seen: dict[str | None, Case] = {}
    made = FAMILIES[name](_wording(name), language, Random(f"jeito {name} {language}"))
    stem = "-".join(filter(None, (name, tag, language)))
    # A family of fixed size ends by itself; one that is drawn repeats itself now and then.
    for case in islice(made, DRAWS):
        if case.prompt not in seen and (tag is None or tag in case.tags):
            seen[case.prompt] = case.model_copy(update={"name": f"{stem}-{len(seen) + 1:03}"})
        if len(seen) == count:
            break
    return tuple(seen.values())


@cache
def _wording(name: str) -> Mapping[str, Any]:
    text = (resources.files("jeito.proof") / f"{name}.yaml").read_text(encoding="utf-8")
    node = read(text, lambda line, column: Place(f"{name}.yaml", line, column))
    assert node is not None
    return cast("Mapping[str, Any]", node.plain())
