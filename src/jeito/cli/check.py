"""`jeito check`: will this model do, here? Said before a byte of its weights is downloaded."""

from typing import Annotated

import typer

from jeito.cli import options, show

_MARKS = {"ok": "ok", "warning": "warning", "blocker": "BLOCKER"}


def check(
    reference: Annotated[
        str, typer.Argument(metavar="MODEL", help="ORG/NAME[#revision], ORG/NAME:Q4_K_M, a folder, FILE.gguf or demo.")
    ],
    headers: Annotated[
        bool, typer.Option("--headers", help="Read the header of every weight file, not only where sizes leave doubt.")
    ] = False,
    json: options.Json = False,
) -> int:
    """Say what is missing or odd about a model, and what to do; no weights are read. Exit 0 ok, 1 warnings, 2 not."""
    from jeito.engines.meter import free_memory
    from jeito.preflight.find import find
    from jeito.preflight.speed import bandwidth
    from jeito.preflight.verdict import Machine, exit_code, verdict
    from jeito.run.open import parse

    asked = parse(reference)
    facts = find(asked.target, asked.within, headers=headers)
    findings = verdict(facts, Machine(free_memory("cpu"), bandwidth()))
    if json:
        show.emit(
            {
                "model": reference, "name": facts.name, "place": facts.place, "revision": facts.revision,
                "requests": facts.requests, "bytes": facts.bytes, "exit": exit_code(findings),
                "findings": [finding.model_dump(mode="json") for finding in findings],
            }
        )  # fmt: skip
        return exit_code(findings)
    at = f" at {facts.revision[:12]}" if facts.revision else ""
    rows = [(_MARKS[finding.level], finding.title, finding.evidence) for finding in findings]
    show.table(f"{facts.name}{at} ({reference})", ("level", "finding", "evidence"), rows)
    for finding in findings:
        if finding.remedy:
            print(f"{finding.level} {finding.id}: {finding.remedy}")
    if facts.place == "hub":
        show.say(f"{facts.requests} requests, {facts.bytes:,} bytes of files read")
    return exit_code(findings)
