"""The recipes that ship: their files load, and their commands are ones that there are."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jeito.behaviour.load import load
from jeito.cli.main import app
from jeito.proof.cases import load_cases
from jeito.proof.checks import check_claims

RECIPES = Path(__file__).parents[2] / "recipes"
COMMANDS = {
    "numbered": ["pairs", "tune", "adapters", "ask", "compare", "compare"],
    "formal": ["steer make", "ask", "sweep"],
}


def test_its_behaviour_claims_something_and_its_cases_differ() -> None:
    loaded = load(str(RECIPES / "numbered" / "numbered.yaml"))
    assert len(check_claims(loaded)) == 1
    cases = load_cases(str(RECIPES / "numbered" / "cases.jsonl"))
    assert len({case.prompt for case in cases}) == len(cases) == 96


def test_two_manners_say_as_much_in_pairs() -> None:
    formal, casual = ((RECIPES / "formal" / f"{name}.txt").read_text().splitlines() for name in ("formal", "casual"))
    assert len(set(formal)) == len(set(casual)) == 10


@pytest.mark.parametrize("name", COMMANDS)
def test_its_commands_take_the_options_and_behaviours_that_it_gives_them(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(RECIPES / name)
    script = Path("run.sh").read_text().replace("\\\n", " ")
    commands = re.findall(r"^\s*jeito (steer \w+|\w+)(.*)$", script, re.MULTILINE)
    assert [command for command, _ in commands] == COMMANDS[name]
    for command, rest in commands:
        said = CliRunner().invoke(app, [*command.split(), "--help"], env={"COLUMNS": "200"}).output
        words = shlex.split(rest)
        assert all(word in said for word in words if word.startswith("-")), said
        sets = [words[at + 1] for at, word in enumerate(words) if word == "--set"]
        behaviours = [words[at + 1] for at, word in enumerate(words) if word in ("-b", "--other")]
        assert all(load(one, sets) for one in behaviours or (["plain"] if sets else []))
