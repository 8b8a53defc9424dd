"""Tools opened from the words of a behaviour: their schemas, and whatever they do told as data."""

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from jeito.behaviour.behaviour import Tool as Spec
from jeito.errors import InputError
from jeito.run.tools import Result, Tool, Toolbox, open_tools
from tests.run.processes import running

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="tools are processes of Linux and macOS")

Open = Callable[..., Toolbox]

FILE = '''
from __future__ import annotations
import asyncio, ctypes, dataclasses, os, subprocess, sys, time
from typing import Literal

calls = 0

@dataclasses.dataclass
class Box:
    width: float
    height: float = 1.0

def area(width: float, height: float = 2.0, unit: Literal["m", "cm"] = "m") -> str:
    """Computes the area of a rectangle,
    with its unit.

    It says nothing of circles.

    Args:
        width: how wide it is, and this
            goes on here.
        height (float): how high.
        unit: of both sides

    Returns:
        the area
    """
    return f"{width * height:g} {unit}²"

def volume(box: Box, depth: float) -> dict:
    """The volume.

    :param depth: how deep
    :param Box box: the front
    """
    return {"volume": box.width * box.height * depth}

def count() -> int:
    global calls
    calls += 1
    return calls

def nothing() -> None: ...
def prints(text: str) -> None: print(text)
def fails() -> None: raise ValueError("the moon is full")
def leaves() -> None: sys.exit(3)
def hangs() -> None: time.sleep(600)
def dies() -> None: os._exit(1)
def crashes() -> None: ctypes.string_at(0)
def floods() -> None:
    for _ in range(100): print("x" * (1 << 20))
def returns_much() -> str: return "y" * (10 << 20)
def shouts() -> str:
    os.write(1, b"{}" * 10_000); os.write(2, b"{}" * 10_000); print("not in the result")
    return "well"
def reads() -> str: return sys.stdin.read() + "nothing to read"
def odd() -> str: return "half \\ud800"
def forks() -> str:
    os.fork()
    return "forked"
def detaches() -> None:
    subprocess.Popen(["sleep", "86397.25"], start_new_session=True)
def detaches_and_hangs() -> None:
    detaches(); hangs()
async def waits(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "waited"
def untyped(x): return x
def any_number(*numbers: int): return numbers
def strange(x: object_that_is_not_there): return x
'''


@pytest.fixture
def made(tmp_path: Path) -> Any:
    """Opens functions of FILE as tools, and closes them."""
    (tmp_path / "made.py").write_text(FILE)
    opened: list[Toolbox] = []

    def make(*functions: str, **limits: Any) -> Toolbox:
        opened.append(open_tools([Spec(use=f"made.py:{each}", **limits) for each in functions], tmp_path))
        return opened[-1]

    yield make
    for box in opened:
        box.close()
    assert running(str(tmp_path)) == []


def test_a_function_of_a_file_is_described_by_its_hints_and_docstring(made: Open) -> None:
    [schema] = made("area").schemas()
    assert schema == {
        "type": "function",
        "function": {
            "name": "area",
            "description": "Computes the area of a rectangle, with its unit.",
            "parameters": {
                "type": "object",
                "properties": {
                    "width": {"type": "number", "description": "how wide it is, and this goes on here."},
                    "height": {"type": "number", "default": 2.0, "description": "how high."},
                    "unit": {"type": "string", "enum": ["m", "cm"], "default": "m", "description": "of both sides"},
                },
                "required": ["width"],
                "additionalProperties": False,
            },
        },
    }


def test_a_function_is_called_with_its_arguments_made_right(made: Open) -> None:
    box = made("area", "volume", "waits")
    assert box.call("area", {"width": "80", "height": 3}).text == "240 m²"
    assert box.call("area", '{"width": 2, "unit": "cm"}').text == "4 cm²"
    assert box.call("volume", {"box": {"width": 2, "height": 3}, "depth": 4}).text == '{"volume":24.0}'
    assert box.call("waits", {"seconds": 0}).text == "waited"


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({}, "width: missing required argument"),
        ({"width": "wide"}, "width: input should be a valid number, unable to parse string as a number, not 'wide'"),
        ({"width": 1, "unit": "mile"}, "unit: input should be 'm' or 'cm', not 'mile'"),
        ({"width": 1, "length": 2}, "length: unexpected keyword argument, not 2 (the parameters are: width, height"),
        ('{"width": 1', "the arguments are no JSON"),
        ("[1]", "no JSON object"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_told(made: Open, arguments: Any, why: str) -> None:
    result = made("area").call("area", arguments)
    assert result.error
    assert why in result.text


@pytest.mark.parametrize(
    ("function", "text"),
    [
        ("fails", "ValueError: the moon is full"),
        ("leaves", "SystemExit: 3"),
        ("dies", "its process ended in the middle, without a word"),
        ("crashes", "its process ended in the middle, without a word"),
        ("hangs", "it took more than 0.5 seconds and was ended"),
    ],
)
def test_whatever_a_function_does_wrong_is_told_and_the_next_call_works(made: Open, function: str, text: str) -> None:
    box = made(function, "nothing", timeout=0.5)
    result = box.call(function, {})
    assert (result.text, result.error, result.cut) == (text, True, False)
    assert result.seconds > 0
    assert box.call("nothing", {}).text == "(no output)"


def test_a_call_may_be_given_less_time_than_its_tool(made: Open) -> None:
    assert "more than 0.25 seconds" in made("hangs", timeout=600).call("hangs", {}, seconds=0.25).text


def test_what_is_printed_counts_where_nothing_is_returned(made: Open) -> None:
    box = made("prints", "shouts", "reads", "odd")
    assert box.call("prints", {"text": "olá"}).text == "olá\n"
    assert box.call("shouts", {}).text == "well"
    assert box.call("reads", {}).text == "nothing to read"
    assert box.call("odd", {}).text == "half ?"


@pytest.mark.parametrize(("function", "letter"), [("floods", "x"), ("returns_much", "y")])
def test_a_result_that_is_too_long_is_cut_and_says_so(made: Open, function: str, letter: str) -> None:
    result = made(function, output=1000).call(function, {})
    assert result.cut
    assert not result.error
    assert result.text == letter * 1000 + "\n[cut after 1000 characters]"


def test_functions_of_one_file_share_a_process_that_remembers(made: Open, tmp_path: Path) -> None:
    box = made("count", "hangs", timeout=0.5)
    box.tools["count"].call({}, 60)
    assert box.call("count", {}).text == "2"
    assert len([line for line in running(str(tmp_path / "made.py")) if "keeper.py" not in line]) == 1
    box.call("hangs", {})
    assert box.call("count", {}).text == "1"


def test_a_function_that_forks_answers_once(made: Open) -> None:
    box = made("forks", "count")
    assert box.call("forks", {}).text == "forked"
    assert [box.call("count", {}).text for _ in range(3)] == ["1", "2", "3"]


@pytest.mark.parametrize("function", ["detaches", "detaches_and_hangs"])
def test_what_a_function_detached_is_ended_with_its_box(made: Open, function: str) -> None:
    box = made(function, timeout=0.5)
    box.call(function, {})
    box.close()
    assert running("86397.25") == []


def test_closing_from_another_thread_ends_a_call_in_the_middle(made: Open, tmp_path: Path) -> None:
    box = made("hangs", timeout=600)
    results: list[Result] = []
    calling = threading.Thread(target=lambda: results.append(box.call("hangs", {})))
    calling.start()
    while not running(str(tmp_path / "made.py")):
        pass
    box.close()
    calling.join()
    assert results[0].error


def test_no_tool_outlives_a_jeito_that_was_killed(made: Open, tmp_path: Path) -> None:
    made("nothing").close()
    program = tmp_path / "program.py"
    program.write_text(
        "from pathlib import Path\nfrom jeito.behaviour.behaviour import Tool\nfrom jeito.run.tools import open_tools\n"
        f"open_tools([Tool(use='made.py:hangs', timeout=600)], Path({str(tmp_path)!r})).call('hangs', {{}})"
    )
    with subprocess.Popen([sys.executable, program]) as jeito:
        while not running(str(tmp_path / "made.py")):
            assert jeito.poll() is None
        jeito.kill()
    while running(str(tmp_path / "made.py")):  # its keeper looks twice a second
        pass


@pytest.mark.parametrize(
    ("use", "sentence", "hint"),
    [
        ("made.py:untyped", "made.py: untyped: the parameter x has no type", "x: str"),
        ("made.py:any_number", "cannot be filled by name", "names"),
        ("made.py:strange", "its types have no JSON schema: name 'object_that_is_not_there' is not defined", "plain"),
        ("made.py:aera", "it has no function 'aera'", "did you mean area"),
        ("made.py:calls", "it has no function 'calls'", ""),
        ("other.py:area", "there is no tool file", "FILE.py:function"),
        ("broken.py:f", "broken.py: line 2: ModuleNotFoundError: No module named 'of_no_such_name'", "broken.py"),
        ("syntax.py:f", "syntax.py: line 3: SyntaxError", "syntax.py"),
        ("exits.py:f", "exits.py: line 1: SystemExit: 9", "exits.py"),
        ("calculater", "no tool is called 'calculater'", "did you mean calculator"),
        ("behaviour:no_such_one", "no_such_one", ""),
        ("read_file:nowhere", "there is no folder", "mkdir -p"),
    ],
)
def test_a_tool_that_cannot_be_had_is_refused_at_once(
    made: Open, tmp_path: Path, use: str, sentence: str, hint: str
) -> None:
    made()
    (tmp_path / "broken.py").write_text("x = 1\nimport of_no_such_name\n")
    (tmp_path / "syntax.py").write_text("x = 1\n\ndef f(:\n")
    (tmp_path / "exits.py").write_text("raise SystemExit(9)\n")
    with pytest.raises(InputError) as caught:
        open_tools([Spec(use="made.py:area"), Spec(use=use)], tmp_path)
    assert sentence in str(caught.value)
    assert hint in caught.value.hint


def test_two_tools_of_one_name_are_refused(made: Open, tmp_path: Path) -> None:
    (tmp_path / "other.py").write_text("def area(radius: float) -> float: return 3 * radius ** 2")
    made()
    with pytest.raises(InputError, match="two tools are called 'area'"):
        open_tools([Spec(use="made.py:area"), Spec(use="other.py:area")], tmp_path)


def test_a_tool_file_finds_what_lies_beside_it(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("FACTOR = 3")
    (tmp_path / "tool.py").write_text("from beside import FACTOR\ndef triple(x: int) -> int: return FACTOR * x")
    with open_tools([Spec(use=f"{tmp_path}/tool.py:triple")]) as box:
        assert box.call("triple", {"x": 4}).text == "12"


def test_unknown_and_denied_tools_are_refused_in_words(tmp_path: Path) -> None:
    specs = [Spec(use="calculator"), Spec(use="now", permission="ask"), Spec(use="write_file", permission="deny")]
    with open_tools(specs, tmp_path) as box:
        unknown = box.call("weather", {})
        assert unknown == Result(text="there is no tool 'weather'; there are: calculator, now, write_file", error=True)
        denied = box.call("write_file", {"path": "a", "text": "b"})
        assert denied == Result(text="write_file may not be called; there are: calculator, now", error=True)
        assert not (tmp_path / "a").exists()
        # Who is to be asked is the caller's affair.
        assert [tool.permission for tool in box] == ["allow", "ask", "deny"]
        assert not box.call("now", {}).error
        assert len(box.schemas()) == 3


def test_python_code_is_run_and_its_end_is_told() -> None:
    with open_tools([Spec(use="run_python", timeout=5, output=100)]) as box:
        assert box.call("run_python", {"code": "print(6 * 7)"}).text == "42"
        failed = box.call("run_python", {"code": "print('before')\nraise KeyError('k')"})
        assert failed.error
        assert failed.text.startswith("it ended with status 1\nTraceback")
        late = box.call("run_python", {"code": "while True: pass"}, seconds=0.5)
        assert late.text == "it was stopped: it took more than 0.5 seconds"
        long = box.call("run_python", {"code": "print('z' * 10000)"})
        assert long.cut
        assert not long.error
        assert box.call("run_python", {"code": 1}).text.startswith("wrong arguments: code")


def test_a_behaviour_can_be_a_tool(tmp_path: Path) -> None:
    (tmp_path / "pirate.yaml").write_text("system: Talk like a pirate.\ndescription: Says it like a pirate")
    heard: list[tuple[str, str]] = []

    def ask(behaviour: str, question: str) -> Result:
        heard.append((behaviour, question))
        return Result(text="Arr", error=question == "wrong?")

    use = str(tmp_path / "pirate.yaml")
    with open_tools([Spec(use=use, output=2), Spec(use="behaviour:creative")]) as box:
        assert "nobody here can ask it" in box.call("creative", {"question": "How are you?"}).text
        box.ask = ask
        assert [tool.name for tool in box] == ["pirate", "creative"]
        assert box.tools["pirate"].description == "Says it like a pirate"
        assert box.call("pirate", {"question": "How are you?"}).text == "Ar\n[cut after 2 characters]"
        assert box.call("creative", {"question": "wrong?"}).error
        assert box.call("pirate", {"question": 1}).error
        assert box.call("pirate", {}).error
    assert heard == [(use, "How are you?"), ("creative", "wrong?")]


def test_a_function_of_this_process_can_be_a_tool_and_can_close_over_what_is_here() -> None:
    seen = []

    def note(text: Annotated[str, Field(description="what to note")], level: Literal[1, 2] = 1) -> int:
        """Notes a text."""
        seen.append(text)
        return len(seen)

    box = Toolbox([Tool.from_function(note, permission="ask", output=10)])
    assert box.schemas()[0]["function"]["parameters"]["properties"]["text"]["description"] == "what to note"
    assert box.call("note", {"text": "a"}).text == "1"
    assert box.call("note", {"text": "a", "level": 3}).error
    assert seen == ["a"]


def test_a_function_of_this_process_that_hangs_is_left_behind() -> None:
    release = threading.Event()

    def hang() -> None:
        release.wait()

    result = Tool.from_function(hang, timeout=0.2).call({})
    assert result.text == "it took more than 0.2 seconds and was left behind"
    release.set()


def test_a_function_of_this_process_that_would_leave_it_does_not() -> None:
    def leave() -> None:
        sys.exit("bye")

    assert Tool.from_function(leave).call({}).text == "SystemExit: bye"


def test_a_closed_box_starts_nothing(made: Open, tmp_path: Path) -> None:
    box = made("count")
    box.close()
    assert box.call("count", {}).error
    assert running(str(tmp_path / "made.py")) == []
    box.close()


def test_a_name_that_no_model_could_call_is_refused() -> None:
    with pytest.raises(InputError, match="cannot be called '<lambda>'"):
        Toolbox([Tool.from_function(lambda: 1)])


@dataclass
class _Point:
    x: int


@pytest.mark.parametrize(
    ("returned", "text"),
    [("text", "text"), ([1, "a"], '[1,"a"]'), (_Point(1), '{"x":1}'), (True, "true"), (float("nan"), "NaN"),
     ({1: {2}}, '{"1":[2]}'), (b"bytes", '"bytes"'), (os, "module 'os'")],
)  # fmt: skip
def test_a_result_is_text_or_json(returned: Any, text: str) -> None:
    def give() -> Any:
        return returned

    result = Tool.from_function(give).call({})
    assert text in result.text
    assert json.loads(result.model_dump_json())["error"] is False


@pytest.mark.parametrize(
    "docstring",
    [
        "Does.\n\n    Parameters\n    ----------\n    x : int, optional\n        the x of it\n    y\n        another",
        "Does.\n\n    Args:\n        x (int, optional): the x\n            of it\n        y: another",
        "Does.\n\n    :param int x: the x of it\n    :param y: another",
    ],
)
def test_docstrings_of_every_school_describe_parameters(docstring: str) -> None:
    def does(x: int = 1, y: int = 2, z: int = 3) -> None: ...

    does.__doc__ = docstring
    fields = Tool.from_function(does).parameters["properties"]
    assert [fields[key].get("description") for key in "xyz"] == ["the x of it", "another", None]


def test_the_example_of_the_page_is_a_tool(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "tools.md").read_text()
    [example] = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "shapes.py").write_text(example)
    with open_tools([Spec(use="shapes.py:area")], tmp_path) as box:
        [tool] = box
        assert tool.description == "Computes the area of a rectangle."
        assert tool.parameters["properties"]["width"]["description"] == "in metres"
        assert box.call("area", {"width": "2", "height": 3}).text == "6.0"
