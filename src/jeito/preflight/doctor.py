"""Is this machine fit to run models? Facts, measured; then findings, each with its remedy, from the facts alone.

Knows nothing of any one model. torch is asked in a process of its own.
"""

import operator
import os
import platform
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jeito.engines.devices import Gpu, Llama, Torch, find_driver, probe_llama, probe_torch
from jeito.engines.llamacpp import usable_cores
from jeito.engines.meter import free_memory
from jeito.errors import LogError
from jeito.home import home
from jeito.trace.log import Log
from jeito.types import Several, Value

OK, WARNINGS, BLOCKED = 0, 1, 2
# A 7B model in 4 bits is 4 GB on disk, and a download stands beside nothing else.
LITTLE_DISK = 5 * 10**9
# Less than this, and not even the log can grow.
NO_DISK = 50 * 10**6
# What the demo model takes, weights and cache and libraries.
LITTLE_MEMORY = 10**9
# Bytes of one thread's share of the measurement, and of all: beyond any cache, and not too much to ask for.
SHARE, MOST = 64 << 20, 1 << 30
# Seconds; the best pass counts, since a neighbour's work only ever slows one.
MEASURING = 0.5

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


class Finding(Value):
    """One thing that is not as it should be, and what to type about it."""

    level: Literal["warning", "blocker"]
    what: str
    remedy: str


class Checkup(Value):
    facts: Facts
    findings: Several[Finding]

    @property
    def code(self) -> int:
        """0 when all is well, 1 with warnings, 2 when something stops every model."""
        levels = {finding.level for finding in self.findings}
        return BLOCKED if "blocker" in levels else WARNINGS if levels else OK


def check_up() -> Checkup:
    """Look at everything, which takes as long as torch takes to import."""
    facts = gather()
    return Checkup(facts=facts, findings=tuple(findings(facts)))


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
        bandwidth=bandwidth(),
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


def bandwidth() -> float:
    """Bytes a second that all usable cores together read from memory: what bounds tokens a second on a CPU.

    Takes half a second, and up to a GB of memory.
    """
    threads = usable_cores()
    free = free_memory("cpu") or MOST
    share = max(1 << 20, min(SHARE, MOST // threads, free // 4 // threads))
    # Written once, so that each page is there: zeros of the system are all one page.
    parts = [np.full(share // 8, thread, np.int64) for thread in range(threads)]
    best = 0.0
    with ThreadPoolExecutor(threads) as pool:
        end = time.perf_counter() + MEASURING
        while not best or time.perf_counter() < end:
            start = time.perf_counter()
            list(pool.map(np.max, parts))
            best = max(best, threads * share / (time.perf_counter() - start))
    return best


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


def findings(facts: Facts) -> Iterator[Finding]:
    """What is not as it should be, blockers first."""
    found = [finding for look in _LOOKS for finding in look(facts)]
    yield from sorted(found, key=lambda finding: finding.level != "blocker")


def _blocker(what: str, remedy: str) -> Finding:
    return Finding(level="blocker", what=what, remedy=remedy)


def _warning(what: str, remedy: str) -> Finding:
    return Finding(level="warning", what=what, remedy=remedy)


def _of_python(facts: Facts) -> Iterator[Finding]:
    if not meets(facts.python, facts.python_wanted):
        yield _blocker(
            f"this is Python {facts.python}, jeito needs {facts.python_wanted}", "make PYTHON=python3.12 setup"
        )


def _of_packages(facts: Facts) -> Iterator[Finding]:
    # Without torch the extra was not wanted: GGUF files run without it.
    wants_torch = any(package.name == "torch" and package.found for package in facts.packages)
    for package in facts.packages:
        if package.fits or (package.extra and not wants_torch):
            continue
        what = f"{package.name} {package.wanted} is needed" + (f" for {package.extra}" if package.extra else "")
        what += f", {package.found} is here" if package.found else ", and it is not here"
        remedy = f"{sys.executable} -m pip install '{package.name}{package.wanted}'"
        yield _warning(what, remedy) if package.extra else _blocker(what, remedy)


def _of_llama(facts: Facts) -> Iterator[Finding]:
    if facts.llama.error:
        yield _blocker(facts.llama.error, facts.llama.remedy)
    elif facts.gpus and not facts.llama.gpu:
        yield _warning(
            f"GGUF files run on the CPU, not on the {facts.gpus[0].name}: this build of llama.cpp knows no GPU",
            "give it one of the same version built for CUDA: export JEITO_LLAMA_LIB=FILE.so",
        )


def _of_torch(facts: Facts) -> Iterator[Finding]:
    torch = facts.torch
    if torch is None:
        return
    if torch.error:
        yield _warning(
            f"torch cannot be loaded: {torch.error}", f"{sys.executable} -m pip install --force-reinstall torch"
        )
        return
    if torch.nf4 and any(package.name == "bitsandbytes" and package.found for package in facts.packages):
        yield _warning(
            f"bitsandbytes cannot quantise here: {torch.nf4}", f"{sys.executable} -m pip install -U bitsandbytes"
        )
    yield from _of_torch_on_gpus(facts, torch)


def _of_torch_on_gpus(facts: Facts, torch: Torch) -> Iterator[Finding]:
    if not facts.gpus:
        return
    name = facts.gpus[0].name
    if torch.cuda is None:
        yield _warning(
            f"Hugging Face models run on the CPU, not on the {name}: torch {torch.version} is built without CUDA",
            f"{sys.executable} -m pip install --force-reinstall torch (built for CUDA {facts.driver_cuda} or older)",
        )
    elif not torch.usable:
        newer = facts.driver_cuda and not meets(facts.driver_cuda, f">={torch.cuda}")
        why = f"it is built for CUDA {torch.cuda}, the driver {facts.driver} runs up to {facts.driver_cuda}"
        yield _warning(
            f"torch {torch.version} finds no GPU, though the driver has the {name}" + (f": {why}" if newer else ""),
            "update NVIDIA's driver" if newer else "is it hidden? echo $CUDA_VISIBLE_DEVICES; nvidia-smi",
        )
    for device in torch.devices:
        if torch.kernels and not _has_kernels(device.capability, torch.kernels):
            yield _warning(
                f"torch {torch.version} has no kernels for the {device.name} (compute capability {device.capability})",
                f"{sys.executable} -m pip install a build of torch that has them: there are {', '.join(torch.kernels)}",
            )


def _has_kernels(capability: str, kernels: tuple[str, ...]) -> bool:
    """A cubin runs on its own major version from its minor on; PTX (compute_) on all that is newer."""
    major, minor = (int(part) for part in capability.split("."))
    for kernel in kernels:
        match = re.match(r"(sm|compute)_(\d+)(\d)[af]?$", kernel)
        if match is None:
            continue
        made = int(match[2]), int(match[3])
        if made <= (major, minor) and (match[1] == "compute" or made[0] == major):
            return True
    return False


def _of_memory(facts: Facts) -> Iterator[Finding]:
    if facts.memory is not None and facts.memory < LITTLE_MEMORY:
        yield _warning(
            f"{facts.memory / 1e9:.1f} GB of memory are free: the demo model alone takes most of 1 GB",
            "end what takes it: ps aux --sort=-rss | head",
        )


def _of_places(facts: Facts) -> Iterator[Finding]:
    if facts.home.why:
        yield _warning(f"no run can be kept: {facts.home.why}", "export JEITO_HOME=FOLDER")
    if facts.cache and facts.cache.why:
        yield _warning(f"no model can be downloaded: {facts.cache.why}", "export HF_HOME=FOLDER")
    for where in filter(None, (facts.home, facts.cache)):
        if where.free is None or where.free >= LITTLE_DISK:
            continue
        what = f"{where.free / 1e9:.1f} GB are free for {where.path!r}"
        yield (_blocker if where.free < NO_DISK else _warning)(what, "jeito models; jeito rm MODEL")


def _of_log(facts: Facts) -> Iterator[Finding]:
    if facts.log.error:
        yield _warning(facts.log.error, facts.log.remedy)


_LOOKS = (_of_python, _of_packages, _of_llama, _of_torch, _of_memory, _of_places, _of_log)
