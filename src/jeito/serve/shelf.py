"""The behaviours that are served, read again when their files change. Knows nothing of models."""

import time
from contextlib import suppress
from pathlib import Path

from jeito.behaviour.load import Loaded, load, names
from jeito.errors import BehaviourError, InputError
from jeito.home import home

PAUSE = 1.0
"""Seconds between two looks at the files."""

Stamp = dict[str, tuple[int, int]]


class Shelf:
    """The behaviours of a folder, else all that have a name here. `stale`: those kept, whose files are broken now."""

    def __init__(self, folder: Path | None) -> None:
        if folder is not None and not folder.is_dir():
            raise InputError(f"there is no folder {str(folder)!r}", hint="--behaviours behaviours")
        self.loaded: dict[str, Loaded] = {}
        self.stale: set[str] = set()
        self._folder = folder
        self._folders = [Path("behaviours"), home() / "behaviours"] if folder is None else [folder]
        self._stamp: Stamp = {}
        self._looked = 0.0

    def read(self) -> dict[str, BehaviourError]:
        """Read all of them; what was wrong with which."""
        if self._folder is None:
            found = {one.name: one.name for one in names()}
        else:
            found = {file.stem: str(file) for file in sorted(self._folder.glob("*.yaml"))}
        before = self._look()
        loaded: dict[str, Loaded] = {}
        wrong: dict[str, BehaviourError] = {}
        for name, reference in found.items():
            try:
                loaded[name] = load(reference)
                loaded[name].behaviour.fingerprint()  # reads the files that it names
            except BehaviourError as error:
                wrong[name] = error
                if name in self.loaded:
                    loaded[name] = self.loaded[name]
        self.loaded, self.stale = loaded, wrong.keys() & loaded.keys()
        # What changed while it was read is to be seen as changed.
        self._stamp = now = self._look()
        self._stamp |= {file: stamp for file, stamp in before.items() if file in now}
        self._looked = time.monotonic()
        return wrong

    def is_changed(self) -> bool:
        """Is a file another than when it was read? Nothing is looked at within a second of the last look."""
        if time.monotonic() - self._looked < PAUSE:
            return False
        self._looked = time.monotonic()
        return self._look() != self._stamp

    def _look(self) -> Stamp:
        """Every file of the folders, and those that they name elsewhere: its time and size."""
        files = {str(file) for folder in self._folders for file in folder.glob("*.yaml")}
        for loaded in self.loaded.values():
            own = loaded.behaviour
            files |= {*loaded.chain, *(one.path for one in own.adapter), *(one.vector for one in own.steering)}
        found: Stamp = {}
        for file in files:
            with suppress(OSError):
                stat = Path(file).stat()
                found[file] = stat.st_mtime_ns, stat.st_size
        return found
