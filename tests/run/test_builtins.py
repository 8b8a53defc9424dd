"""The calculator, the clock and the files of one folder."""

import os
import re
import threading
from pathlib import Path

import pytest

from jeito.behaviour.behaviour import Tool as Spec
from jeito.run.builtins import BITS, ENTRIES, FILE
from jeito.run.tools import Result, Toolbox, open_tools


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder `data`, with a secret beside it."""
    (tmp_path / "secret.txt").write_text("do not read")
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


@pytest.fixture
def box(folder: Path) -> Toolbox:
    uses = ["calculator", "now", "read_file:data", "write_file:data", "list_files:data"]
    return open_tools([Spec(use=use) for use in uses], folder.parent)


def computed(box: Toolbox, expression: str) -> Result:
    return box.call("calculator", {"expression": expression})


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("80 * 3", "240"),
        ("0.1 + 0.2", "0.3"),
        ("7 / 2", "3.5"),
        ("-7 // 2", "-4"),
        ("-7 % 3", "2"),
        ("2 ** -2", "0.25"),
        ("(-1) ** 100001", "-1"),
        ("(1 + 2) * -(3 - 4)", "3"),
        ("sqrt(16) + log(e) + max(1, 2)", "7"),
        ("round(pi, 2)", "3.14"),
        ("factorial(20)", "2432902008176640000"),
        ("2 ** 1000 % 1000007", str(2**1000 % 1000007)),
    ],
)
def test_the_calculator_computes(box: Toolbox, expression: str, value: str) -> None:
    assert computed(box, expression).text == value


@pytest.mark.parametrize(
    ("expression", "why"),
    [
        ("1 / 0", "division by zero"),
        ("9 ** 9 ** 9", "too large"),
        (f"2 ** {BITS // 2} * 2 ** {BITS // 2}", "too large"),
        ("factorial(100000)", "too large"),
        ("round(5, -1000000000)", "no such digit"),
        ("(-8) ** 0.5", "no real, finite number"),
        ("1e308 * 10", "no real, finite number"),
        ("1 +", "cannot be read"),
        ("(" * 500 + "1" + ")" * 499, "cannot be read"),
        ("1" * 1001, "1001 characters"),
        ("sqrt()", "exactly one argument"),
    ],
)
def test_what_cannot_be_computed_is_said(box: Toolbox, expression: str, why: str) -> None:
    result = computed(box, expression)
    assert result.error
    assert why in result.text


@pytest.mark.parametrize(
    "expression",
    ["__import__('os').getcwd()", "open('secret.txt')", "(1).real", "[1]", "'a' * 9", "x := 1", "lambda: 1",
     "1 if 1 else 2", "True", "1j", "2 ^ 3", "pi()", "max(*[1])"],
)  # fmt: skip
def test_the_calculator_runs_no_code(box: Toolbox, expression: str) -> None:
    result = computed(box, expression)
    assert result.error
    assert "not known" in result.text or "cannot be read" in result.text


def test_the_clock_knows_zones(box: Toolbox) -> None:
    utc = box.call("now", {"zone": "UTC"})
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00 \w+day", utc.text)
    assert "+05:30" in box.call("now", {"zone": "Asia/Kolkata"}).text
    assert not box.call("now", {}).error
    for wrong in ("Atlantis", "../../etc/passwd", "/etc/localtime", "America"):
        result = box.call("now", {"zone": wrong})
        assert result.error
        assert wrong in result.text


def test_a_file_that_is_written_can_be_read_and_is_listed(box: Toolbox, folder: Path) -> None:
    assert not box.call("write_file", {"path": "notes/today.txt", "text": "olá\nmundo\n"}).error
    assert (folder / "notes" / "today.txt").read_text() == "olá\nmundo\n"
    assert box.call("read_file", {"path": "notes/today.txt"}).text == "olá\nmundo\n"
    assert box.call("list_files", {}).text == "notes/"
    assert box.call("list_files", {"path": "notes"}).text == "today.txt 11"


def test_a_shorter_text_leaves_nothing_of_the_longer_one(box: Toolbox, folder: Path) -> None:
    box.call("write_file", {"path": "a", "text": "a long text"})
    box.call("write_file", {"path": "a", "text": "short"})
    assert (folder / "a").read_text() == "short"


def test_a_part_of_a_file_says_of_how_many_lines_it_is(box: Toolbox, folder: Path) -> None:
    (folder / "long").write_text("".join(f"line {number}\n" for number in range(1, 1001)))
    part = box.call("read_file", {"path": "long", "start": 501, "lines": 2}).text
    assert part == "line 501\nline 502\n\n[lines 501 to 502 of 1000]"


@pytest.mark.parametrize(
    "path", ["../secret.txt", "{outside}", "there/secret.txt", "link", "a/../../secret.txt", "a\0b"]
)
def test_no_path_leads_out_of_the_folder(box: Toolbox, folder: Path, path: str) -> None:
    (folder / "there").symlink_to(folder.parent)
    (folder / "link").symlink_to(folder.parent / "secret.txt")
    path = path.format(outside=folder.parent / "secret.txt")
    for result in (
        box.call("read_file", {"path": path}),
        box.call("write_file", {"path": path, "text": "overwritten"}),
        box.call("list_files", {"path": path}),
    ):
        assert result.error
        assert "lies outside the folder" in result.text
    assert (folder.parent / "secret.txt").read_text() == "do not read"
    assert not (folder.parent / "b").exists()


def test_a_link_within_the_folder_may_be_followed(box: Toolbox, folder: Path) -> None:
    (folder / "real").write_text("here")
    (folder / "link").symlink_to("real")
    assert box.call("read_file", {"path": "link"}).text == "here"


def test_a_link_that_is_put_in_the_way_meanwhile_is_not_followed(box: Toolbox, folder: Path) -> None:
    """A folder turns into a link to the outside and back, as fast as it can, while a file in it is read."""
    inside, aside = folder / "inside", folder / "aside"
    inside.mkdir()
    (inside / "secret.txt").write_text("harmless")
    (folder / "way").symlink_to(folder.parent)
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            inside.rename(aside)
            (folder / "way").rename(inside)
            inside.rename(folder / "way")
            aside.rename(inside)

    swapping = threading.Thread(target=swap)
    swapping.start()
    try:
        read = {box.call("read_file", {"path": "inside/secret.txt"}).text for _ in range(2000)}
    finally:
        stop.set()
        swapping.join()
    assert "harmless" in read
    assert "do not read" not in read


def test_what_is_no_text_file_is_not_read(box: Toolbox, folder: Path) -> None:
    (folder / "binary").write_bytes(b"GGUF\0\0")
    os.mkfifo(folder / "pipe")
    (folder / "huge").touch()
    os.truncate(folder / "huge", FILE + 1)
    (folder / "inner").mkdir()
    wrong = {"binary": "no text", "pipe": "no text", "huge": "bytes", "inner": "no text", "x": "no such"}
    for path, why in wrong.items():
        result = box.call("read_file", {"path": path})
        assert result.error
        assert why in result.text
    assert box.call("write_file", {"path": "pipe", "text": "x"}).error
    assert box.call("write_file", {"path": "inner", "text": "x"}).error
    assert box.call("write_file", {"path": "a", "text": "x" * (FILE + 1)}).error
    assert not (folder / "a").exists()


def test_a_long_list_says_how_much_is_left_out(box: Toolbox, folder: Path) -> None:
    assert box.call("list_files", {}).text == "it is empty"
    for number in range(ENTRIES + 7):
        (folder / f"{number:04}").touch()
    listed = box.call("list_files", {}).text.splitlines()
    assert len(listed) == ENTRIES + 1
    assert listed[-1] == "[7 more]"
