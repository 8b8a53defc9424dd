"""`jeito doctor`: is this machine fit, and what to do where it is not."""

from typing import TYPE_CHECKING

import typer

from jeito.cli import options, show

if TYPE_CHECKING:
    from jeito.preflight.machine import Facts


def doctor(json: options.Json = False) -> None:
    """Look at Python, packages, GPUs, cores, memory, disk, cache and log; say what to do about each problem.

    Exit code 0 when all is well, 1 with warnings, 2 when something stops every model.
    """
    from jeito.preflight.doctor import check_up

    found = check_up()
    if json:
        show.emit({**found.model_dump(mode="json"), "code": found.code})
        raise typer.Exit(found.code)
    show.table("This machine", ("fact", "value"), rows(found.facts))
    out = show.console()
    for finding in found.findings:
        out.print(f"\n{finding.level}: {finding.what}\n  try: {finding.remedy}", markup=False)
    if not found.findings:
        out.print("\nall is well: jeito ask 'Who are you?'", markup=False)
    raise typer.Exit(found.code)


def rows(facts: "Facts") -> list[tuple[str, str]]:
    """The facts, a line each, in words and units."""
    llama = f"{facts.llama.version}, {'GPU and CPU' if facts.llama.gpu else 'CPU only'}"
    found = [("python", f"{facts.python} (wanted {facts.python_wanted}), {facts.platform}")]
    for package in facts.packages:
        fits = "" if package.fits else " (too old or too new)" if package.found else ""
        found.append((package.name, f"{package.found or 'not here'}{fits}; wanted {package.wanted or 'any'}"))
    found += _gpus(facts)
    found += [
        (
            "llama.cpp",
            facts.llama.error or llama,
        ),
        ("processors", f"{facts.processors}; a reply is computed on {facts.threads} threads, one a core that is ours"),
        ("memory free", _gigabytes(facts.memory)),
        ("memory is read at", f"{facts.bandwidth / 1e9:.1f} GB/s"),
    ]
    for name, where in (("home", facts.home), ("hub's cache", facts.cache)):
        if where:
            exists = "" if where.exists else " (not made yet)"
            found.append((name, f"{where.path}{exists}; {_gigabytes(where.free)} free"))
    log = facts.log
    found.append(("log", log.error or f"{log.path}; {log.runs} runs, {log.bytes / 1e6:.1f} MB"))
    return found


def _gpus(facts: "Facts") -> list[tuple[str, str]]:
    torch = facts.torch
    if not facts.gpus:
        found = [("gpu", "of Apple's, by torch" if torch and torch.mps else "none that NVIDIA's driver tells of")]
    else:
        found = [("driver", f"{facts.driver}, up to CUDA {facts.driver_cuda}")]
        found += [
            (
                "gpu",
                f"{gpu.name}, compute capability {gpu.capability}, {_gigabytes(gpu.free)} free of "
                f"{_gigabytes(gpu.memory)}",
            )
            for gpu in facts.gpus
        ]
    if torch and not torch.error:
        uses = [device.name for device in torch.devices] or ["Apple's GPU" if torch.mps else "CPU"]
        found.append(("torch uses", f"{', '.join(uses)} (build: CUDA {torch.cuda or 'none'})"))
        found.append(("bitsandbytes", f"no: {torch.nf4}" if torch.nf4 else "quantises to NF4 there"))
    return found


def _gigabytes(size: int | None) -> str:
    return "unknown" if size is None else f"{size / 1e9:.1f} GB"
