"""Tools of real MCP servers, good and bad, in processes of their own."""

import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from jeito.behaviour.behaviour import Tool as Spec
from jeito.errors import InputError
from jeito.run.tools import Toolbox, open_tools
from tests.run.processes import running

pytest.importorskip("mcp")
SERVER = Path(__file__).with_name("mcp_server.py")


def command(*how: str) -> str:
    return "mcp:stdio:" + shlex.join([sys.executable, str(SERVER), *how])


@pytest.fixture
def box() -> Iterator[Toolbox]:
    with open_tools([Spec(use=command("good"), timeout=30, output=1000)]) as opened:
        yield opened


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    yield
    assert running(str(SERVER)) == []


def test_the_tools_of_a_server_are_described_as_it_does(box: Toolbox) -> None:
    add = box.tools["add"]
    assert add.description == "Adds two numbers."
    assert add.parameters["properties"]["a"]["type"] == "integer"
    assert add.parameters["required"] == ["a", "b"]
    assert (add.timeout, add.output) == (30, 1000)


def test_a_server_answers_and_its_errors_are_told(box: Toolbox) -> None:
    assert box.call("add", {"a": 1, "b": 2}).text == "3"
    wrong = box.call("add", {"a": "one", "b": 2})
    assert wrong.error
    assert "valid integer" in wrong.text
    failed = box.call("fail", {})
    assert failed.error
    assert "the moon is full" in failed.text


def test_what_is_no_text_is_named(box: Toolbox) -> None:
    assert box.call("picture", {}).text == "a dot\n[image image/png]"


def test_a_long_answer_is_cut(box: Toolbox) -> None:
    result = box.call("flood", {})
    assert result.cut
    assert result.text.startswith("x" * 1000 + "\n[cut")


def test_a_server_that_hangs_in_a_call_is_told_and_can_be_asked_again(box: Toolbox) -> None:
    result = box.call("hang", {}, seconds=0.5)
    assert (result.text, result.error) == ("the server gave no answer within 0.5 seconds", True)
    assert box.call("add", {"a": 1, "b": 2}).text == "3"


def test_a_server_that_dies_in_a_call_is_told_then_and_later(box: Toolbox) -> None:
    result = box.call("die", {})
    assert result.error
    assert result.text == "the server failed: Connection closed"
    later = box.call("add", {"a": 1, "b": 2})
    assert later.error
    assert "server" in later.text


def test_a_server_that_babbles_in_a_call_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    with open_tools([Spec(use=command("babbling"))]) as box:
        result = box.call("t", {}, seconds=0.5)
    assert result.error
    assert result.text == "the server gave no answer within 0.5 seconds; it also sent what is no message"
    assert capfd.readouterr() == ("", "")


def test_a_result_that_makes_no_sense_is_told() -> None:
    with open_tools([Spec(use=command("senseless"))]) as box:
        result = box.call("t", {})
        assert result.error
        assert result.text.startswith("the server failed: ")


def test_one_tool_of_a_server_can_be_picked_and_two_share_the_server() -> None:
    specs = [Spec(use=command("good") + "#add"), Spec(use=command("good") + "#fail", permission="deny")]
    with open_tools(specs) as box:
        assert [(tool.name, tool.permission) for tool in box] == [("add", "allow"), ("fail", "deny")]
        assert len([line for line in running(str(SERVER)) if "keeper.py" not in line]) == 1


def test_what_a_server_detached_is_ended_with_it() -> None:
    with open_tools([Spec(use=command("good", "detach") + "#add")]):
        assert running("sleep 86396.25")
    assert running("sleep 86396.25") == []


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("gone", "it said: I need a licence"),
        ("nonsense", "it also sent what is no message"),
        ("broken", "the schema of its tool 't' is invalid: 'no such type' is not valid"),
        ("list", "it sent tools.0.inputSchema.type: Input should be 'object'"),
        ("text", "it sent tools.0.inputSchema: "),
        ("none", "it sent tools.0.inputSchema: "),
        ("empty", "has no tools"),
        ("endless", "has no tools"),
    ],
)
def test_a_server_that_is_of_no_use_is_refused(how: str, why: str) -> None:
    with pytest.raises(InputError) as caught:
        open_tools([Spec(use="calculator"), Spec(use=command(how))])
    assert why in str(caught.value)
    assert "mcp_server.py" in str(caught.value)


def test_a_server_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jeito.run.mcp.OPENING", 1.0)
    with pytest.raises(InputError, match="cannot be used: no answer within 1 seconds"):
        open_tools([Spec(use=command("silent"))])


@pytest.mark.parametrize(
    ("use", "why"),
    [
        ("mcp:stdio:no-such-command --at all", "there is no command 'no-such-command'"),
        ("mcp:stdio:", "is no MCP server"),
        ("mcp:ftp://host", "is no MCP server"),
        ("mcp:stdio:'open quote", "cannot be used: No closing quotation"),
        ("mcp:http://127.0.0.1:9/mcp", "cannot be used"),
        (command("good") + "#subtract", "has no tool 'subtract'"),
    ],
)
def test_a_server_that_is_not_there_is_refused(use: str, why: str) -> None:
    with pytest.raises(InputError) as caught:
        open_tools([Spec(use=use)])
    assert why in str(caught.value)


def test_a_server_over_http_answers_until_it_is_gone() -> None:
    with subprocess.Popen([sys.executable, SERVER, "good", "http"], stdout=subprocess.PIPE, text=True) as server:
        try:
            port = int(server.stdout.readline())
            with open_tools([Spec(use=f"mcp:http://127.0.0.1:{port}/mcp", timeout=30)]) as box:
                assert box.call("add", {"a": 20, "b": 22}).text == "42"
                assert box.call("fail", {}).error
                assert "within 0.5 seconds" in box.call("hang", {}, seconds=0.5).text
                server.kill()
                server.wait()
                gone = box.call("add", {"a": 1, "b": 2})
                assert gone.error
                assert gone.text
        finally:
            server.kill()


def test_a_server_and_its_keeper_are_gone_when_jeito_is_killed(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import sys\nfrom jeito.behaviour.behaviour import Tool\nfrom jeito.run.tools import open_tools\n"
        f"box = open_tools([Tool(use={command('good')!r})])\nprint('open', flush=True)\nsys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as jeito:
        assert jeito.stdout.readline() == b"open\n"
        assert running(str(SERVER))
        jeito.kill()
    while running(str(SERVER)):
        pass
