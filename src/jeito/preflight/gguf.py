"""The GGUFs of a repository by the names of their files: which files make one model, and what it is called.

Finds the one that is meant in the hub's cache too. Knows nothing of what is in them.
"""

import os
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from jeito.engines.llama_file import parts_of
from jeito.engines.transformers import locate
from jeito.errors import ModelError

SHARD = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.(safetensors|bin|gguf)")
HUB = re.compile(r"([\w.-]+/[\w.-]+?)(?::([\w.-]+))?")
# How makers of GGUFs write it into names: Q4_K_M, IQ3_XXS, UD-Q4_K_XL, F16; the last such word counts.
_QUANTISATION = re.compile(
    r"(?<![a-z0-9])(?:ud-)?(?:[it]?q\d|mxfp4|nvfp4|(?:bf|fp?)(?:8|16|32))\w*", re.IGNORECASE
)  # fmt: skip
# Beside a model lie what sees pictures for it, and what its quantisation was made with.
_NO_MODELS = ("mmproj", "imatrix")


def quantisations(names: Iterable[str]) -> dict[str, list[str]]:
    """What to type after `ORG/NAME:` for each GGUF → its parts."""
    models = _models(names)
    words = {whole: (_QUANTISATION.findall(whole) or [""])[-1] for whole in models}
    often = Counter(words.values())
    return {
        (words[whole] if words[whole] and often[words[whole]] == 1 else whole.rsplit("/", 1)[-1]): parts
        for whole, parts in models.items()
    }


def choose_gguf(names: Iterable[str], quantisation: str | None) -> list[str]:
    """The parts of the GGUF that a quantisation names; without one, of the only one there is, else of none."""
    known = quantisations(names)
    if quantisation:
        exact = {word: parts for word, parts in known.items() if word.lower() == quantisation.lower()}
        word = re.compile(rf"(?<![A-Za-z0-9]){re.escape(quantisation)}(?![A-Za-z0-9_])", re.IGNORECASE)
        known = exact or {other: parts for other, parts in known.items() if word.search(parts[0])}
    return next(iter(known.values())) if len(known) == 1 else []


def ggufs_in(folder: Path) -> dict[str, list[str]]:
    """The GGUFs of a folder, as `quantisations` has them."""
    return quantisations(path.relative_to(folder).as_posix() for path in folder.rglob("*.gguf"))


def is_all_gguf(folder: Path) -> bool:
    """Has a folder no weights of another format?"""
    return not any(file.suffix in (".safetensors", ".bin") for file in folder.iterdir())


def cached_gguf(target: str, revision: str | None = None) -> Path | None:
    """The GGUF in the hub's cache that ORG/NAME:QUANTISATION names, its first part; none for what is no such name.

    ORG/NAME alone means one where its snapshot holds nothing else. Raises ModelError, with the command that gets it.
    """
    match = HUB.fullmatch(target)
    if not match or os.path.exists(os.path.expanduser(target)) or target.endswith(".gguf"):
        return None
    name, quantisation = match[1], match[2]
    again = f"jeito pull {target}" + (f"#{revision}" if revision else "")
    try:
        folder, _ = locate(name, revision)
    except ModelError as error:
        if quantisation is None:
            return None  # whoever runs it otherwise says the same
        raise ModelError(f"{target!r} is not in the hub's cache", hint=again) from error
    known = ggufs_in(folder)
    if quantisation is None and not (known and is_all_gguf(folder)):
        return None
    chosen = choose_gguf((part for parts in known.values() for part in parts), quantisation)
    if not chosen and quantisation is None:
        hint = f"-m {target}:{next(iter(known))}" + (f"#{revision}" if revision else "")
        raise ModelError(f"{target!r} has {len(known)} GGUFs here: {', '.join(known)}", hint=hint)
    if not chosen:
        raise ModelError(f"{quantisation!r} is not one GGUF of {name!r} in the hub's cache", hint=again)
    lacking = [part.name for part in parts_of(folder / chosen[0]) if not part.is_file()]
    if lacking:
        raise ModelError(f"{target!r} lacks {len(lacking)} of its parts: {', '.join(lacking[:3])}", hint=again)
    return folder / chosen[0]


def _models(names: Iterable[str]) -> dict[str, list[str]]:
    """Name without its ending and number of part → parts, both in the order of names."""
    found: dict[str, list[str]] = {}
    for name in sorted(names):
        if name.endswith(".gguf") and not any(word in name for word in _NO_MODELS):
            match = SHARD.fullmatch(name)
            found.setdefault(match[1] if match else name.removesuffix(".gguf"), []).append(name)
    return found
