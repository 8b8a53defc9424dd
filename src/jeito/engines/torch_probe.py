"""What torch and bitsandbytes can do here, printed as JSON: a program, so that a broken library breaks only itself."""

import json
from importlib import import_module
from typing import Any


def _nf4(torch: Any) -> str | None:
    """Why quantising to NF4 fails on the best device, or none: tried, not believed."""
    try:
        functional: Any = import_module("bitsandbytes.functional")
        device = "cuda" if torch.cuda.is_available() else "cpu"
        values = torch.linspace(-1, 1, 64 * 64, device=device).reshape(64, 64)
        packed, state = functional.quantize_4bit(values, quant_type="nf4")
        furthest = float((functional.dequantize_4bit(packed, state) - values).abs().max())
    # The edge: whatever a library without its binary raises is the answer.
    except Exception as error:
        return f"{type(error).__name__}: {error}".splitlines()[0]
    # NF4's widest step is 0.30, between -1 and -0.696.
    return None if furthest < 0.2 else f"values came back up to {furthest:.2g} off"


def _devices(torch: Any) -> list[dict[str, Any]]:
    found = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        found.append({"name": properties.name, "capability": f"{properties.major}.{properties.minor}"})
    return found


def main() -> None:
    """Print one line, the last."""
    torch: Any = import_module("torch")
    usable = bool(torch.cuda.is_available())
    said = {
        "version": str(torch.__version__),
        "cuda": torch.version.cuda,
        "usable": usable,
        "mps": bool(torch.backends.mps.is_available()),
        "kernels": list(torch.cuda.get_arch_list()) if usable else [],
        "devices": _devices(torch) if usable else [],
        "nf4": _nf4(torch),
    }
    print(json.dumps(said))


if __name__ == "__main__":
    main()
