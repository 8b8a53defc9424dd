"""Which models are on this machine, what they take, when they last ran; and taking one away. Loads no weights.

Knows three places: the hub's cache, our home, and the files that the log names. Only in the first two is it at home.
"""

import os
import re
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, NamedTuple

from jeito.engines import llama_file
from jeito.engines.demo import PACKAGE, demo_file
from jeito.engines.weights import find_weights
from jeito.errors import InputError, ModelError, nearest
from jeito.home import home
from jeito.preflight.gguf import ggufs_in, is_all_gguf
from jeito.trace.log import Log
from jeito.types import Value

Where = Literal["hub", "home", "package", "file", "folder"]
SHOWN = 8  # letters of a revision that tables show and people type; the hub's own pages show 7


class Kept(Value):
    """A model that is here. `model` is what to type for it; bytes are what it takes on the disk."""

    model: str
    where: Where
    path: str
    bytes: int
    revision: str | None = None
    precision: str | None = None
    why: str | None = None
    """Why no precision is known: what is wrong with its files."""
    used: str | None = None
    """UTC, ISO 8601: by the log where it ran, else when its files were last read or written."""
    runs: int = 0

    @property
    def name(self) -> str:
        """The model, and of several revisions which."""
        return f"{self.model}#{self.revision[:SHOWN]}" if self.revision else self.model


class Removal(NamedTuple):
    """What would go: these paths, and so many bytes with them."""

    kept: Kept
    bytes: int
    paths: tuple[Path, ...]
    strategy: Any = None


class _Ran(NamedTuple):
    last: str
    runs: int


def shelf(log: Log | None = None) -> list[Kept]:
    """Every model here, the last used first."""
    ran = _ran(log or Log())
    found = [*_demo(ran), *_hub(ran), *_named(ran)]
    return sorted(found, key=lambda kept: kept.used or "", reverse=True)


def find(text: str, kept: list[Kept]) -> Kept:
    """The one model that is meant; raises ModelError with the names that there are."""
    target, _, revision = text.partition("#")
    meant = [one for one in kept if target in (one.model, one.path) and (one.revision or "").startswith(revision)]
    if not meant:
        names = [one.name for one in kept]
        hint = nearest(text, names) if names else "jeito models"
        raise ModelError(f"no model here is called {text!r}", hint=hint)
    if len(meant) > 1:
        raise ModelError(
            f"{text!r} has {len(meant)} revisions here", hint=f"jeito rm {' or '.join(one.name for one in meant)}"
        )
    return meant[0]


def plan(kept: Kept) -> Removal:
    """What taking a model away would free. Raises InputError for what is not ours to take."""
    if kept.where == "package":
        raise InputError(f"{kept.model!r} is a Python package", hint=f"pip uninstall {PACKAGE}")
    if kept.where in ("file", "folder"):
        raise InputError(
            f"{kept.path!r} was put there by somebody else than jeito and the hub's cache",
            hint=f"rm {'-r ' if kept.where == 'folder' else ''}{kept.path}",
        )
    if kept.where == "home":
        removal = Removal(kept, kept.bytes, (Path(kept.path),))
        _check_within(removal, home() / "models")
        return removal
    hub: Any = import_module("huggingface_hub")
    strategy = hub.scan_cache_dir().delete_revisions(kept.revision)
    paths = (*strategy.repos, *strategy.snapshots, *strategy.refs, *strategy.blobs, *strategy.files)
    removal = Removal(kept, int(strategy.expected_freed_size), paths, strategy)
    _check_within(removal, Path(hub.constants.HF_HUB_CACHE))
    return removal


def remove(removal: Removal) -> None:
    """Take away what was planned; raises InputError for what could not be, which stays."""
    if removal.strategy is not None:
        removal.strategy.execute()
    else:
        shutil.rmtree(removal.paths[0], ignore_errors=True)
    left = [path for path in removal.paths if os.path.lexists(path)]
    if left:
        raise InputError(f"{str(left[0])!r} could not be removed", hint=f"ls -ld {left[0]}")


def _check_within(removal: Removal, folder: Path) -> None:
    """A link may lead anywhere: what lies elsewhere than it seems to is somebody's own."""
    for path in removal.paths:
        # The parent's true place, and the path's own where that is a folder: a snapshot's files are links to blobs.
        true = path.resolve() if path.is_dir() else path.parent.resolve()
        if not true.is_relative_to(folder.absolute().resolve()) or true == folder.resolve():
            raise InputError(f"{str(path)!r} leads to {str(true)!r}, outside {str(folder)!r}", hint=f"ls -ld {path}")
    root = folder.resolve()
    if removal.kept.where == "home" and not root.is_relative_to(home().resolve()):
        raise InputError(f"{str(folder)!r} leads to {str(root)!r}, outside the home", hint=f"ls -ld {folder}")


def _ran(log: Log) -> dict[str, _Ran]:
    """When each model last ran, whatever the engine and precision; the log has the names that people typed."""
    found: dict[str, _Ran] = {}
    for use in log.uses():
        target = use.model if os.path.exists(use.model) else re.sub(r"@[\w:]+$", "", use.model)
        # The demo runs from its GGUF, unless what it says needs it unpacked.
        if target == "demo" and use.model not in ("demo", "demo@llamacpp", "demo@auto"):
            target = "demo@transformers"
        before = found.get(target, _Ran(use.last, 0))
        found[target] = _Ran(max(before.last, use.last), before.runs + use.runs)
    return found


def _kept(model: str, where: Where, path: Path, size: int, ran: _Ran | None, **more: Any) -> Kept:
    precision, why = _precision(path)
    return Kept(
        model=model, where=where, path=str(path), bytes=size, precision=precision, why=why,
        used=ran.last if ran else more.pop("touched", None) or _touched(path), runs=ran.runs if ran else 0,
        revision=more.get("revision"),
    )  # fmt: skip


def _demo(ran: dict[str, _Ran]) -> Iterator[Kept]:
    try:
        file = demo_file()
    except ModelError:
        pass
    else:
        yield _kept("demo", "package", file, file.stat().st_size, ran.get("demo"))
    for folder in sorted((home() / "models").glob("demo-*")):
        yield _kept("demo@transformers", "home", folder, _size(folder), ran.get("demo@transformers"))


def _hub(ran: dict[str, _Ran]) -> Iterator[Kept]:
    try:
        hub: Any = import_module("huggingface_hub")
    except ModuleNotFoundError:
        return
    try:
        repos = hub.scan_cache_dir().repos
    except (hub.CacheNotFound, ValueError):  # no model was ever downloaded
        return
    for repo in sorted((repo for repo in repos if repo.repo_type == "model"), key=lambda repo: str(repo.repo_id)):
        for revision in sorted(repo.revisions, key=lambda revision: str(revision.commit_hash)):
            model = _typed(repo.repo_id, Path(revision.snapshot_path))
            models = {repo.repo_id, model}
            named = {f"{one}#{ref}" for one in models for ref in (*revision.refs, revision.commit_hash)}
            if "main" in revision.refs:  # which a name without a revision means
                named |= models
            used = [ran[name] for name in named & ran.keys()]
            yield _kept(
                model, "hub", Path(revision.snapshot_path), int(revision.size_on_disk),
                _Ran(max(one.last for one in used), sum(one.runs for one in used)) if used else None,
                revision=revision.commit_hash, touched=_iso(max(repo.last_accessed, revision.last_modified)),
            )  # fmt: skip


def _typed(name: str, snapshot: Path) -> str:
    """What to type for a snapshot: where all it has to run is one GGUF, that."""
    words = list(ggufs_in(snapshot))
    return f"{name}:{words[0]}" if len(words) == 1 and is_all_gguf(snapshot) else name


def _named(ran: dict[str, _Ran]) -> Iterator[Kept]:
    """Files and folders that ran from wherever they are, if they are still there."""
    for name, one in ran.items():
        path = Path(os.path.expanduser(name))
        if name.endswith(".gguf") and os.path.isfile(path):
            yield _kept(name, "file", path, path.stat().st_size, one)
        elif os.path.isfile(path / "config.json"):
            yield _kept(name, "folder", path, _size(path), one)


def _precision(path: Path) -> tuple[str | None, str | None]:
    """What most of a model's values are kept in, by its files' headers; or why that cannot be said."""
    ggufs = [path] if path.suffix == ".gguf" else [path / parts[0] for parts in ggufs_in(path).values()]
    try:
        if ggufs:
            return ", ".join(sorted({llama_file.read_card(file).precision for file in ggufs})), None
        weights = find_weights(path, allow_pickle=True)
    except ModelError as error:
        return None, str(error)
    sizes = weights.bytes_by_dtype()
    return (max(sizes, key=lambda dtype: sizes[dtype]), None) if sizes else (weights.format, None)


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _touched(path: Path) -> str:
    found = path.stat()
    return _iso(max(found.st_atime, found.st_mtime))


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()
