"""What the documents say is true."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from jeito.behaviour.behaviour import Behaviour
from jeito.behaviour.load import load
from jeito.decode.schema import ENFORCED, REFUSED
from jeito.types import Sampling

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
READMES = (ROOT / "README.md", ROOT / "README.pt-BR.md")
BEHAVIOURS = ROOT / "docs" / "behaviours.md"
MODELS = ROOT / "docs" / "models.md"
CONTRACTS = ROOT / "docs" / "contracts.md"
WITH_BEHAVIOURS = [page for page in PAGES if "\n```yaml\n" in page.read_text()]
NOT_YET = "this model cannot honour"


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[str]:
    return [line for block in blocks(page, "sh") for line in block.splitlines() if line.startswith("jeito ")]


def shell(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    name, arguments = command.split(" ", 1)
    assert name == "jeito"
    line = f"{sys.executable} -m jeito.cli.main {arguments}"
    return subprocess.run(line, shell=True, cwd=folder, capture_output=True, text=True, check=False)


def rows(page: Path, columns: int) -> dict[str, list[str]]:
    """The rows of tables this wide, by each name in code in their first cell."""
    found = {}
    for line in page.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| `") and len(cells) == columns:
            found |= dict.fromkeys(re.findall(r"`([\w.]+)`", cells[0]), cells)
    return found


def leaves(model: type[BaseModel]) -> set[str]:
    """The keys of a behaviour as the table of them has them: one level down, where a map is always there."""
    found = set()
    for key, field in model.model_fields.items():
        default: Any = field.get_default(call_default_factory=True)
        is_map = isinstance(default, BaseModel) and not isinstance(default, Sampling)
        found |= {f"{key}.{part}" for part in type(default).model_fields} if is_map else {key}
    return found


def test_the_page_of_commands_is_what_the_commands_say() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "docs" / "make_cli.py", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_pages_that_should_show_behaviours_show_some() -> None:
    assert {*READMES, BEHAVIOURS} <= set(WITH_BEHAVIOURS)


@pytest.mark.parametrize("page", WITH_BEHAVIOURS, ids=lambda page: page.name)
def test_every_behaviour_in_a_page_loads(page: Path, tmp_path: Path) -> None:
    for index, text in enumerate(blocks(page, "yaml")):
        file = tmp_path / f"{index}.yaml"
        file.write_text(text)
        assert load(str(file)).behaviour.system


@pytest.mark.parametrize("page", [READMES[0], BEHAVIOURS, MODELS, CONTRACTS], ids=lambda page: page.name)
def test_every_command_of_a_page_runs_in_its_order(
    page: Path, unpacked_demo: Path, warm_home: Path, tmp_path: Path
) -> None:
    found = commands(page)
    assert len(found) >= 3
    for line in found:
        done = shell(line, tmp_path)
        assert done.returncode == 0, (line, done.stderr)
        assert done.stdout, line


@pytest.mark.parametrize("page", READMES, ids=lambda page: page.name)
def test_the_readmes_own_behaviour_is_found_by_the_command_beside_it(page: Path, tmp_path: Path) -> None:
    file, command = re.search(r"`(behaviours/\w+\.yaml)`[^`]*`(jeito ask [^`]*)`", page.read_text()).groups()
    (tmp_path / "behaviours").mkdir()
    (tmp_path / file).write_text(blocks(page, "yaml")[0])
    done = shell(f"{command} -m toy", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "pira" in done.stdout  # the toy says again what it was asked, the instruction last


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_the_trees_of_the_pages_are_the_tree() -> None:
    folder = ROOT / "src" / "jeito"
    rooms = {inner.name for inner in folder.iterdir() if (inner / "__init__.py").exists()}
    for page in (*READMES, ROOT / "docs" / "architecture.md"):
        assert set(re.findall(r"[├└]── (\w+)/", page.read_text())) == rooms
    beside = {file.name for file in folder.glob("*.py")} - {"__init__.py"}
    for page in READMES:
        top = re.search(r"├── ((\w+\.py(, )?)+)", page.read_text())
        assert top
        assert set(top[1].strip().split(", ")) == beside


def test_every_module_stands_in_the_architecture() -> None:
    tree = blocks(ROOT / "docs" / "architecture.md", "text")[0]
    rooms = [room for room in (ROOT / "src" / "jeito").iterdir() if (room / "__init__.py").exists()]
    files = [file for room in rooms if room.name != "cli" for file in room.glob("*.py")]
    assert [file.name for file in files if file.stem != "__init__" and file.name not in tree] == []


def test_both_readmes_say_the_same_things() -> None:
    english, portuguese = (
        [line.split()[0] for line in page.read_text().splitlines() if re.match("#+ ", line)] for page in READMES
    )
    assert english == portuguese
    assert blocks(READMES[0], "sh") == blocks(READMES[1], "sh")
    links = [set(re.findall(r"\]\(([^)]+)\)", page.read_text())) - {page.name for page in READMES} for page in READMES]
    assert links[0] == links[1]


def test_every_key_is_explained() -> None:
    assert set(rows(BEHAVIOURS, 5)) == leaves(Behaviour) | {"extends"}


def test_every_sampling_knob_is_explained_with_its_neutral_value() -> None:
    found = rows(BEHAVIOURS, 4)
    assert set(found) == set(Sampling.model_fields)
    for knob, field in Sampling.model_fields.items():
        if isinstance(field.default, bool | int | float):
            said = found[knob][1]
            assert (
                (said == "true") is field.default if isinstance(field.default, bool) else float(said) == field.default
            )


@pytest.mark.parametrize(
    "change",
    [
        "reasoning.budget=9", "reasoning.show=true",
        'adapter=[{"path": "x"}]', 'steering=[{"vector": "x"}]',
    ],
)  # fmt: skip
def test_what_the_page_calls_refused_is_refused(change: str, tmp_path: Path) -> None:
    """When this fails because something was built: the table of docs/behaviours.md has to say so."""
    key = re.match(r"[\w.]+", change)[0]
    assert rows(BEHAVIOURS, 5)[key][4].startswith("refused")
    done = shell(f"jeito ask hi -m toy --set '{change}'", tmp_path)
    assert done.returncode == 64
    assert NOT_YET in done.stderr


def test_the_keywords_of_schemas_are_all_on_the_page() -> None:
    page = CONTRACTS.read_text()
    enforced, _, refused = page.partition("Enforced:")[2].partition("Refused by name")
    assert set(re.findall(r"`([$\w]+)`", enforced)) >= ENFORCED
    assert REFUSED - set(re.findall(r"`([$\w]+)`", refused)) <= {
        "minContains", "maxContains", "dependencies", "$dynamicAnchor", "$recursiveRef", "$recursiveAnchor",
        "contentSchema",
    }  # fmt: skip


def test_the_agent_of_the_tutorial_looks_up_what_was_measured(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "agents.md").read_text()
    (tmp_path / "behaviours").mkdir()
    (tmp_path / "thesis.py").write_text(re.search(r"```python\n(.*?)```", page, re.DOTALL)[1])
    files = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    (tmp_path / "behaviours" / "thesis.yaml").write_text(next(text for text in files if "name: thesis" in text))
    command = re.search(r"^jeito ask -b thesis .*$", page, re.MULTILINE)[0]
    done = shell(f"{command} --seed 1", tmp_path)
    assert done.returncode == 0, done.stderr
    trace = json.loads(done.stdout)
    step = trace["turns"][0]["steps"][0]
    assert (step["call"]["name"], step["call"]["arguments"]) == ("measurements", {"group": "base"})
    assert step["result"] == "[12.1,11.8,12.4]"
    assert "12.1" in trace["answer"]


def test_the_project_speaks_of_itself_alone() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    texts = {name: (ROOT / name).read_text(errors="replace") for name in tracked if (ROOT / name).is_file()}
    assert [
        name for name, text in texts.items() if re.search(r"/(work|tmp/lab|root)/", text) and "test_docs" not in name
    ] == []
