"""Is this machine fit to run models? Findings, each with its remedy, from its facts alone. Knows of no one model."""

import re
import sys
from collections.abc import Iterator
from typing import Literal

from jeito.engines.devices import Torch
from jeito.preflight.machine import Facts, gather, meets
from jeito.types import Several, Value

OK, WARNINGS, BLOCKED = 0, 1, 2
# A 7B model in 4 bits is 4 GB on disk, and a download stands beside nothing else.
LITTLE_DISK = 5 * 10**9
# Less than this, and not even the log can grow.
NO_DISK = 50 * 10**6
# What the demo model takes, weights and cache and libraries.
LITTLE_MEMORY = 10**9


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
