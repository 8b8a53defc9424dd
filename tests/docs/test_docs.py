"""What the documents say is true."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from jeito.behaviour.load import load
from jeito.types import Sampling

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
READMES = (ROOT / "README.md", ROOT / "README.pt-BR.md")


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    pages = [READMES[0], ROOT / "docs" / "behaviours.md"]
    return [line for page in pages for block in blocks(page, "sh") for line in block.splitlines() if line]


def test_the_page_of_commands_is_what_the_commands_say() -> None:
    done = subprocess.run([sys.executable, ROOT / "docs" / "make_cli.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("page", [*READMES, ROOT / "docs" / "behaviours.md"], ids=lambda page: page.name)
def test_every_behaviour_in_a_page_loads(page: Path, tmp_path: Path) -> None:
    found = blocks(page, "yaml")
    assert found
    for index, text in enumerate(found):
        file = tmp_path / f"{index}.yaml"
        file.write_text(text)
        assert load(str(file)).behaviour.system


def test_every_command_of_the_pages_runs_in_their_order(warm_home: Path, tmp_path: Path) -> None:
    found = commands()
    assert len(found) >= 8
    for line in found:
        name, rest = line.split(" ", 1)
        assert name == "jeito"
        done = subprocess.run(
            f"{sys.executable} -m jeito.cli.main {rest}", shell=True, cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, (line, done.stderr)
        assert done.stdout, line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_the_tree_of_the_readmes_is_the_tree() -> None:
    rooms = {folder.name for folder in (ROOT / "src" / "jeito").iterdir() if (folder / "__init__.py").exists()}
    for page in READMES:
        assert set(re.findall(r"[├└]── (\w+)/", page.read_text())) == rooms


def test_both_readmes_say_the_same_things() -> None:
    english, portuguese = (
        [line.split()[0] for line in page.read_text().splitlines() if line.startswith("#")] for page in READMES
    )
    assert english == portuguese
    assert blocks(READMES[0], "sh") == blocks(READMES[1], "sh")


def test_every_sampling_knob_is_explained() -> None:
    page = (ROOT / "docs" / "behaviours.md").read_text()
    assert [knob for knob in Sampling.model_fields if f"`{knob}`" not in page] == []


def test_the_project_speaks_of_itself_alone() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    texts = {name: (ROOT / name).read_text(errors="replace") for name in tracked if (ROOT / name).is_file()}
    assert [
        name for name, text in texts.items() if re.search(r"/(work|tmp/lab|root)/", text) and "test_docs" not in name
    ] == []
