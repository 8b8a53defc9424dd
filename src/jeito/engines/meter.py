"""What memory there is, and what this process has taken of it, on the device and in the machine.

Knows nothing of models. torch is asked only where it is loaded already; NVML only where a GPU is in use.
"""

import sys
from pathlib import Path
from typing import Any


def free_memory(device: str) -> int | None:
    """Bytes that can be taken now; none where the system does not say."""
    torch = sys.modules.get("torch")
    if device.startswith("cuda") and torch is not None:
        return int(torch.cuda.mem_get_info(device)[0])
    if device.startswith("mps") and torch is not None:
        return int(torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory())
    return _free_machine_memory()


def _free_machine_memory() -> int | None:
    """What the kernel calls available, or less where the control group has a limit."""
    available = _lines(Path("/proc/meminfo")).get("MemAvailable")
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
    except (OSError, ValueError):
        return available
    if limit == "max":
        return available
    left = max(0, int(limit) - used)
    return left if available is None else min(available, left)


def taken(device: str) -> dict[str, int]:
    """Bytes: `resident` and `resident_peak` of the process; of a GPU also `allocated`, `reserved`, `peak`, `free`."""
    found = _resident()
    torch: Any = sys.modules.get("torch")
    if device.startswith("cuda") and torch is not None:
        found |= {
            "allocated": int(torch.cuda.memory_allocated(device)),
            "reserved": int(torch.cuda.memory_reserved(device)),
            "peak": int(torch.cuda.max_memory_allocated(device)),
            "free": int(torch.cuda.mem_get_info(device)[0]),
        }
    elif device.startswith("mps") and torch is not None:
        found |= {"allocated": int(torch.mps.current_allocated_memory()), "free": free_memory(device) or 0}
    return found if device == "cpu" else found | _nvml(device)


def _nvml(device: str) -> dict[str, int]:
    """What the driver says of a GPU, other processes included; nothing where there is no driver of NVIDIA's."""
    try:
        import pynvml
    except ModuleNotFoundError:
        return {}
    torch: Any = sys.modules.get("torch")
    try:
        pynvml.nvmlInit()
        if device.startswith("cuda") and torch is not None:
            # By its own number: the driver's order is not the order of CUDA_VISIBLE_DEVICES.
            handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
        else:
            handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        told = pynvml.nvmlDeviceGetMemoryInfo(handle)
    except pynvml.NVMLError:
        return {}
    return {"device_used": int(told.used), "device_free": int(told.free)}


def _resident() -> dict[str, int]:
    status = _lines(Path("/proc/self/status"))
    if "VmRSS" in status:
        return {"resident": status["VmRSS"], "resident_peak": status["VmHWM"]}
    try:
        import resource
    except ImportError:  # Windows
        return {}
    peak = int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    return {"resident_peak": peak if sys.platform == "darwin" else 1024 * peak}


def _lines(path: Path) -> dict[str, int]:
    """The lines `Name: 123 kB` of a file of the kernel, in bytes."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    parts = [line.split() for line in lines]
    return {part[0].rstrip(":"): 1024 * int(part[1]) for part in parts if len(part) == 3 and part[2] == "kB"}
