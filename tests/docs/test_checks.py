"""The page of checks: generated, and what it shows can be used."""

import re
import subprocess
import sys
from pathlib import Path

from jeito.behaviour.load import load
from jeito.proof.cases import load_cases
from jeito.proof.checks import bind_value, check_claims
from tests.proof.replies import case, reply

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "checks.md").read_text()


def test_the_page_of_checks_is_what_the_checks_say() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "docs" / "make_checks.py", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def block(language: str) -> str:
    return re.search(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)[1]


def test_the_claims_cases_and_check_of_the_page_can_be_used(tmp_path: Path) -> None:
    (tmp_path / "brief.yaml").write_text(block("yaml"))
    assert len(check_claims(load(str(tmp_path / "brief.yaml")))) == 4
    (tmp_path / "cases.jsonl").write_text(block("jsonl"))
    assert len(load_cases(str(tmp_path / "cases.jsonl"))) == 3
    (tmp_path / "own.py").write_text(block("python"))
    own = bind_value(f"{tmp_path / 'own.py'}:shorter_than", 200)
    assert own(reply("short"), case()) == (True, "5 characters")
