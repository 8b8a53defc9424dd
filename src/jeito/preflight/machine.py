"""This machine, as found: Python, packages, GPUs, cores, memory, disks, log. torch is asked in a process of its own."""

import operator
import os
import platform
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path
from typing import Any

from jeito.engines.devices import Gpu, Llama, Torch, find_driver, probe_llama, probe_torch
from jeito.engines.llamacpp import usable_cores
from jeito.engines.meter import free_memory
from jeito.errors import LogError
from jeito.home import home
from jeito.preflight.speed import measure
from jeito.trace.log import Log
from jeito.types import Several, Value

_RELATIONS: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq, ">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt, "!=": operator.ne,
}  # fmt: skip


class Package(Value):
    """A package that jeito builds on: the versions it takes, and the one that is here, if any."""

    name: str
    wanted: str
    extra: str | None = None
    found: str | None = None

    @property
    def fits(self) -> bool:
        return self.found is not None and meets(self.found, self.wanted)


class Place(Value):
    """A folder that is written to, and the bytes free on its disk; `why`: what hinders writing, none where nothing."""

    path: str
    exists: bool
    free: int | None
    why: str | None = None


class LogFacts(Value):
    path: str
    bytes: int = 0
    runs: int = 0
    error: str | None = None
    remedy: str = ""


class Facts(Value):
    """This machine, as found; memory and disk in bytes, bandwidth in bytes a second."""

    python: str
    python_wanted: str
    platform: str
    packages: Several[Package]
    driver: str | None = None
    driver_cuda: str | None = None
    gpus: Several[Gpu] = ()
    torch: Torch | None = None
    llama: Llama
    processors: int
    threads: int
    memory: int | None
    bandwidth: float
    home: Place
    cache: Place | None = None
    log: LogFacts


def gather() -> Facts:
    """The facts of this machine and this Python; nothing is written."""
    driver = find_driver()
    return Facts(
        python=platform.python_version(),
        python_wanted=str(metadata("jeito")["Requires-Python"]),
        platform=f"{platform.system()} {platform.machine()}",
        packages=tuple(packages(requires("jeito") or ())),
        driver=driver.version if driver else None,
        driver_cuda=driver.cuda if driver else None,
        gpus=driver.gpus if driver else (),
        torch=probe_torch(),
        llama=probe_llama(),
        processors=os.cpu_count() or 1,
        threads=usable_cores(),
        memory=free_memory("cpu"),
        bandwidth=measure(),
        home=place(home()),
        cache=_cache(),
        log=_log(),
    )


def packages(lines: Iterable[str]) -> Iterator[Package]:
    """What these requirements of jeito's own metadata ask for, and what is here; what only its developers need is not.

    No version compares here but by `meets`: a package to read such lines would be one more to need.
    """
    for line in lines:
        match = re.match(r"([\w.-]+)(?:\[[^\]]*\])?\s*([^;]*?)\s*(?:;.*extra == ['\"](\w+)['\"].*)?$", line)
        if match is None or match[3] == "dev":
            continue
        try:
            found = version(match[1])
        except PackageNotFoundError:
            found = None
        yield Package(name=match[1], wanted=match[2], extra=match[3], found=found)


def meets(found: str, wanted: str) -> bool:
    """Is a version within `>=2,<3` and the like? By its numbers: what follows them (rc1, +cu128) is not looked at."""
    for part in filter(None, (part.strip() for part in wanted.split(","))):
        match = re.match(r"(==|>=|<=|!=|>|<)\s*([\d.]+)$", part)
        if match and not _RELATIONS[match[1]](*_numbers(found, match[2])):
            return False
    return True


def _numbers(*versions: str) -> list[list[int]]:
    """The numbers that versions begin with, made equally long: 2.6 is 2.6.0."""
    parts = [[int(number) for number in re.sub(r"[^\d.].*", "", one).split(".") if number] for one in versions]
    longest = max(map(len, parts))
    return [[*numbers, *[0] * (longest - len(numbers))] for numbers in parts]


def place(path: Path) -> Place:
    """A folder that may not be there yet: then what counts is the nearest one above it that is."""
    above = path
    while not above.exists() and above != above.parent:
        above = above.parent
    why = None
    if not above.is_dir():
        why = f"{str(above)!r} is no folder"
    elif not os.access(above, os.W_OK | os.X_OK):
        why = f"{str(above)!r} cannot be written by this user"
    try:
        free = shutil.disk_usage(above).free
    except OSError:
        free = None
    return Place(path=str(path), exists=path.is_dir(), free=free, why=why)


def _cache() -> Place | None:
    """The hub's cache, where its library says that it is; none without that library."""
    try:
        constants: Any = import_module("huggingface_hub.constants")
    except ModuleNotFoundError:
        return None
    return place(Path(constants.HF_HUB_CACHE))


def _log() -> LogFacts:
    log = Log()
    size = log.path.stat().st_size if log.path.is_file() else 0
    try:
        return LogFacts(path=str(log.path), bytes=size, runs=sum(use.runs for use in log.uses()))
    except LogError as error:
        return LogFacts(path=str(log.path), bytes=size, error=str(error), remedy=error.hint)
