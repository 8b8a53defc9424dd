"""A proof as JUnit XML, which every continuous integration reads: a test a claim, with the runs that did not pass."""

import re
from pathlib import Path
from xml.etree import ElementTree

from jeito.errors import InputError
from jeito.proof.judge import Judge, Proof
from jeito.proof.plan import written

LISTED = 50
"""Runs that a claim's output names."""
_NOT_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def write_junit(proof: Proof, judge: Judge, file: Path) -> None:
    """A claim that fails is a failure, one that is undecided an error: neither has been shown."""
    counts = {
        "tests": len(proof.findings),
        "failures": sum(finding.decision == "fails" for finding in proof.findings),
        "errors": sum(finding.decision == "undecided" for finding in proof.findings),
    }
    said = {name: str(count) for name, count in counts.items()}
    root = ElementTree.Element("testsuites", said)
    suite = ElementTree.SubElement(root, "testsuite", {"name": _text(f"{proof.behaviour} on {proof.model}"), **said})
    properties = ElementTree.SubElement(suite, "properties")
    for name, value in (
        ("plan", proof.plan.digest), ("behaviour", proof.plan.behaviour_fingerprint),
        ("model", proof.plan.model_fingerprint or "elsewhere"), ("cases", proof.plan.cases_digest),
        ("seed", str(proof.plan.seed)), *proof.environment.items(),
    ):  # fmt: skip
        ElementTree.SubElement(properties, "property", name=_text(name), value=_text(value))
    for at, finding in enumerate(proof.findings):
        test = ElementTree.SubElement(
            suite, "testcase", classname=_text(proof.behaviour), name=_text(written(finding.claim))
        )
        if finding.decision != "holds":
            kind = "failure" if finding.decision == "fails" else "error"
            message = f"{finding.passed} of {finding.trials} runs: {finding.low:.3f} to {finding.high:.3f}"
            ElementTree.SubElement(test, kind, type=finding.decision, message=message).text = _text(finding.why)
        ElementTree.SubElement(test, "system-out").text = _text("\n".join(_failed(judge, at)))
    ElementTree.indent(root)
    try:
        ElementTree.ElementTree(root).write(file, encoding="utf-8", xml_declaration=True)
    except OSError as error:
        raise InputError(f"{str(file)!r} cannot be written: {error.strerror}", hint="--junit FILE.xml") from error


def _failed(judge: Judge, claim: int) -> list[str]:
    """A line for each run that did not pass, the first ones."""
    lines = [
        f"{judge.planned.case_of(one.place).name}, run {one.run}: {one.verdicts[claim].why}"
        for one in judge.judged
        if not one.verdicts[claim].passed
    ]
    return lines[:LISTED] + ([f"and {len(lines) - LISTED} more"] if len(lines) > LISTED else [])


def _text(text: str) -> str:
    """Without what XML cannot hold."""
    return _NOT_XML.sub("\ufffd", text)
