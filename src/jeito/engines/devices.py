"""Which GPUs there are, by their driver, and what torch and llama.cpp make of them. Knows nothing of models."""

import subprocess
import sys
from importlib.util import find_spec
from typing import Any, NamedTuple

from pydantic import ValidationError

from jeito.engines.llama_binding import library, version
from jeito.errors import EngineError
from jeito.types import Several, Value

# torch takes seconds to import, from a cold disk a minute.
PATIENCE = 180


class Gpu(Value):
    """One GPU, as its driver describes it; bytes, and bytes a second."""

    name: str
    memory: int
    free: int
    capability: str
    bandwidth: float | None = None


class Driver(NamedTuple):
    """NVIDIA's driver: its version, the newest CUDA that it runs, its GPUs."""

    version: str
    cuda: str
    gpus: tuple[Gpu, ...]


class TorchDevice(Value):
    """A GPU that torch computes on."""

    name: str
    capability: str


class Torch(Value):
    """What torch can do here. `cuda`: of its build; `nf4`: why bitsandbytes cannot quantise, none where it can."""

    version: str
    cuda: str | None = None
    usable: bool = False
    mps: bool = False
    kernels: Several[str] = ()
    devices: Several[TorchDevice] = ()
    nf4: str | None = None
    error: str | None = None


class Llama(Value):
    """llama.cpp's library: can it be loaded, and was it built for a GPU?"""

    version: str
    gpu: bool = False
    error: str | None = None
    remedy: str = ""


def find_driver() -> Driver | None:
    """NVIDIA's driver, asked through NVML; none where there is no driver, or no NVML to ask."""
    try:
        import pynvml
    except ModuleNotFoundError:
        return None
    try:
        pynvml.nvmlInit()
        cuda = int(pynvml.nvmlSystemGetCudaDriverVersion())
        count = int(pynvml.nvmlDeviceGetCount())
        gpus = tuple(_gpu(pynvml, pynvml.nvmlDeviceGetHandleByIndex(index)) for index in range(count))
        # 12080 is CUDA 12.8.
        return Driver(str(pynvml.nvmlSystemGetDriverVersion()), f"{cuda // 1000}.{cuda % 1000 // 10}", gpus)
    except pynvml.NVMLError:
        return None


def _gpu(nvml: Any, handle: Any) -> Gpu:
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
    return Gpu(
        name=str(nvml.nvmlDeviceGetName(handle)),
        memory=int(memory.total),
        free=int(memory.free),
        capability=f"{major}.{minor}",
        bandwidth=_bandwidth(nvml, handle),
    )


def _bandwidth(nvml: Any, handle: Any) -> float | None:
    """Of its memory: two transfers a cycle, as wide as the bus. Not every GPU says so."""
    try:
        cycles = 1e6 * nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_MEM)
        return float(2 * cycles * nvml.nvmlDeviceGetMemoryBusWidth(handle) / 8)
    except nvml.NVMLError:
        return None


def probe_torch() -> Torch | None:
    """torch and bitsandbytes, tried in a process of their own; none where torch is not installed."""
    if find_spec("torch") is None:
        return None
    command = [sys.executable, "-m", "jeito.engines.torch_probe"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    except subprocess.TimeoutExpired:
        return Torch(version="unknown", error=f"it was not loaded within {PATIENCE} seconds")
    lines = done.stdout.splitlines()
    try:
        return Torch.model_validate_json(lines[-1] if lines else "")
    except ValidationError:
        complaints = done.stderr.strip().splitlines()
        return Torch(version="unknown", error=complaints[-1] if complaints else f"it ended with {done.returncode}")


def probe_llama() -> Llama:
    """llama.cpp's library, loaded into this process."""
    try:
        return Llama(version=version(), gpu=bool(library().lib.llama_supports_gpu_offload()))
    except EngineError as error:
        return Llama(version=version(), error=str(error), remedy=error.hint)
