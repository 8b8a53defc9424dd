"""The doctor: facts of this very machine, and what would be said of others."""

import json
import os
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import pytest

from jeito.engines.devices import Gpu, Llama, Torch, TorchDevice, probe_torch
from jeito.engines.llamacpp import usable_cores
from jeito.preflight.doctor import Checkup, check_up, findings
from jeito.preflight.machine import Facts, LogFacts, Package, Place, meets, packages, place
from jeito.preflight.speed import measure

H100 = Gpu(name="NVIDIA H100", memory=80 * 10**9, free=79 * 10**9, capability="9.0")
TORCH = Torch(
    version="2.13.0", cuda="12.8", usable=True, kernels=("sm_80", "sm_90"),
    devices=(TorchDevice(name="NVIDIA H100", capability="9.0"),),
)  # fmt: skip
FINE = Facts(
    python="3.12.1", python_wanted=">=3.11", platform="Linux x86_64",
    packages=(
        Package(name="numpy", wanted=">=2", found="2.4.6"),
        Package(name="torch", wanted=">=2.6", extra="hf", found="2.13.0"),
        Package(name="bitsandbytes", wanted=">=0.48", extra="hf", found="0.50.2"),
    ),
    driver="570.1", driver_cuda="12.8", gpus=(H100,), torch=TORCH, llama=Llama(version="xllamacpp 1", gpu=True),
    processors=16, threads=8, memory=64 * 10**9, bandwidth=5e10,
    home=Place(path="/home/me/jeito", exists=True, free=10**12),
    cache=Place(path="/home/me/hub", exists=True, free=10**12), log=LogFacts(path="/home/me/jeito/log.db"),
)  # fmt: skip


def of(**changes: Any) -> tuple[int, str]:
    """The exit code, and all that is said, of a machine that is fine but for these facts."""
    facts = FINE.model_copy(update=changes)
    found = tuple(findings(facts))
    assert all(finding.remedy for finding in found)
    return Checkup(facts=facts, findings=found).code, "\n".join(f"{one.what}: {one.remedy}" for one in found)


def torch(**changes: Any) -> Torch:
    return TORCH.model_copy(update=changes)


def test_a_machine_that_is_fine_is_told_so() -> None:
    assert of() == (0, "")


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"python": "3.10.2"}, 2, ["Python 3.10.2", ">=3.11"]),
        ({"packages": (Package(name="numpy", wanted=">=2", found="1.26.4"),)}, 2, ["numpy", "1.26.4", "pip install"]),
        ({"packages": (Package(name="numpy", wanted=">=2"),)}, 2, ["numpy", "is not here"]),
        ({"packages": (Package(name="peft", wanted=">=1", extra="hf"), FINE.packages[1])}, 1, ["peft", "for hf"]),
        ({"llama": Llama(version="x", error="no libgomp", remedy="apt-get install libgomp1")}, 2, ["apt-get"]),
        ({"llama": Llama(version="x")}, 1, ["GGUF files run on the CPU", "H100", "JEITO_LLAMA_LIB"]),
        ({"torch": torch(error="libcudart.so.12 is missing")}, 1, ["libcudart", "reinstall"]),
        ({"torch": torch(cuda=None, usable=False, devices=())}, 1, ["built without CUDA", "12.8", "H100"]),
        ({"torch": torch(cuda="13.0", usable=False, devices=())}, 1, ["CUDA 13.0", "570.1", "update NVIDIA's driver"]),
        ({"torch": torch(usable=False, devices=())}, 1, ["finds no GPU", "CUDA_VISIBLE_DEVICES"]),
        ({"torch": torch(kernels=("sm_50", "sm_80"))}, 1, ["no kernels", "9.0", "sm_50, sm_80"]),
        ({"torch": torch(nf4="RuntimeError: no binary")}, 1, ["bitsandbytes", "no binary"]),
        ({"memory": 4 * 10**8}, 1, ["0.4 GB of memory"]),
        ({"home": Place(path="/x", exists=True, free=10**12, why="'/x' is no folder")}, 1, ["no folder", "JEITO_HOME"]),
        ({"cache": Place(path="/x", exists=True, free=10**12, why="'/x' is no folder")}, 1, ["no folder", "HF_HOME"]),
        ({"home": Place(path="/x", exists=True, free=2 * 10**9)}, 1, ["2.0 GB", "jeito rm"]),
        ({"home": Place(path="/x", exists=True, free=10**6)}, 2, ["0.0 GB"]),
        ({"log": LogFacts(path="/x", error="'/x' is no log of jeito", remedy="mv /x /y")}, 1, ["no log", "mv /x /y"]),
    ],
)  # fmt: skip
def test_each_problem_is_told_with_its_remedy(changes: dict[str, Any], code: int, words: list[str]) -> None:
    found, text = of(**changes)
    assert found == code
    assert [word for word in words if word not in text] == []


@pytest.mark.parametrize(
    "changes",
    [
        {"packages": (Package(name="torch", wanted=">=2.6", extra="hf"),), "torch": None},
        {"gpus": (), "driver": None, "llama": Llama(version="x"), "torch": torch(cuda=None, usable=False, devices=())},
        {"torch": torch(kernels=("sm_80", "compute_80"))},
        {"torch": torch(kernels=("sm_80", "sm_90a"))},
        {"home": Place(path="/x", exists=False, free=None)},
        {"memory": None, "cache": None},
    ],
)
def test_what_is_no_problem_is_not_told(changes: dict[str, Any]) -> None:
    assert of(**changes) == (0, "")


def test_blockers_are_told_first() -> None:
    facts = FINE.model_copy(update={"memory": 1, "home": Place(path="/x", exists=True, free=1)})
    assert [finding.level for finding in findings(facts)] == ["blocker", "warning"]


@pytest.mark.parametrize(
    ("found", "wanted", "is_met"),
    [
        ("2.6.0", ">=2.6", True), ("2.6", ">=2.6.1", False), ("2.10", ">=2.9", True), ("2.6.0+cu124", ">=2.6", True),
        ("3.0rc1", "<3", False), ("2026.10.1", "==2026.10.1", True), ("2026.10.2", "==2026.10.1", False),
        ("1.5", ">=1,<2,!=1.5", False), ("1.4", ">=1, <2, !=1.5", True), ("5", "", True),
    ],
)  # fmt: skip
def test_versions_compare_by_their_numbers(found: str, wanted: str, is_met: bool) -> None:
    assert meets(found, wanted) is is_met


def test_packages_are_read_from_metadata() -> None:
    lines = [
        "numpy>=2", 'torch>=2.6; extra == "hf"', "x-none[a,b]<3,>=1 ; python_version > '3' and extra == 'hf'", "pyyaml",
        'mypy; extra == "dev"',
    ]  # fmt: skip
    found = [(one.name, one.wanted, one.extra, one.found is not None) for one in packages(lines)]
    assert found == [
        ("numpy", ">=2", None, True), ("torch", ">=2.6", "hf", True), ("x-none", "<3,>=1", "hf", False),
        ("pyyaml", "", None, True),
    ]  # fmt: skip


def test_all_that_jeito_builds_on_is_here() -> None:
    found = list(packages(requires("jeito") or ()))
    assert {"numpy", "pydantic", "xllamacpp"} <= {package.name for package in found}
    assert [package.name for package in found if package.extra is None and not package.fits] == []


def test_memory_is_read_at_a_speed_that_memory_has() -> None:
    # From an old laptop to a big server; a cache is faster, a disk slower.
    assert 1e9 < measure() < 2e12


def test_a_place_that_is_not_made_yet_is_judged_by_what_is_above_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = place(tmp_path / "a" / "b")
    assert (found.exists, found.why) == (False, None)
    assert found.free
    assert not (tmp_path / "a").exists()
    assert "is no folder" in str(place(tmp_path / "file" / "b").why)
    if os.geteuid():  # root may write anywhere
        (tmp_path / "shut").mkdir(mode=0o500)
        assert "cannot be written" in str(place(tmp_path / "shut" / "b").why)


def test_a_torch_that_cannot_be_loaded_is_a_fact_and_no_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('libtorch is missing')")
    here = Path(check_up.__code__.co_filename).parents[2]
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{here}")
    found = probe_torch()
    assert found is not None
    assert "libtorch is missing" in str(found.error)


def test_this_machine_is_looked_at_whole_and_nothing_is_written(home: Path) -> None:
    pytest.importorskip("bitsandbytes")
    (home / "log.db").write_text("no database")
    before = sorted(home.rglob("*"))
    found = check_up()
    assert found.facts.threads == usable_cores()
    torch = found.facts.torch
    assert torch is not None
    assert (found.facts.llama.error, torch.error, torch.nf4) == (None, None, None), "both were tried"
    assert torch.usable == bool(torch.devices)
    assert found.facts.home.path == str(home)
    assert "log.db" in str(found.facts.log.error)
    assert any("log.db.old" in finding.remedy for finding in found.findings)
    assert found.code >= 1
    assert Checkup.model_validate_json(found.model_dump_json()) == found
    assert json.loads(found.model_dump_json())["facts"]["log"]["runs"] == 0
    assert sorted(home.rglob("*")) == before
