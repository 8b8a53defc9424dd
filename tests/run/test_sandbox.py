"""Code in a process of its own: what it may, what it may not, and that nothing of it is left."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from jeito.run.sandbox import Outcome, end, kept, run_sandboxed
from tests.run.processes import running

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the bounds are Linux's")

NO_NAMESPACES = "for kind in user net pid; do echo 0 > /proc/sys/user/max_${kind}_namespaces; done"
"""In a user namespace of its own, this forbids further ones, as some systems do for all."""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary folders are made, to see that none is left."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def lacks(what: str) -> bool:
    return any(note.startswith(what) for note in run_sandboxed("").notes)


def test_code_reads_its_input_and_prints() -> None:
    done = run_sandboxed("import sys\nprint(int(input()) * 2, 'olá')\nsys.stderr.write('hm')", stdin="21\n")
    assert (done.stdout, done.stderr, done.status, done.why) == ("42 olá\n", "hm", 0, None)
    assert Outcome.model_validate_json(done.model_dump_json()) == done


def test_an_error_is_told_with_its_line() -> None:
    done = run_sandboxed("x = 1\nraise ValueError('no')")
    assert done.status == 1
    assert "line 2" in done.stderr
    assert "raise ValueError('no')" in done.stderr
    assert run_sandboxed("import sys; sys.exit(7)").status == 7
    assert "SyntaxError" in run_sandboxed("1 +").stderr


def test_code_that_crashes_its_process_is_told_by_the_signal() -> None:
    assert run_sandboxed("import ctypes; ctypes.string_at(0)").status == -signal.SIGSEGV


def test_code_that_never_ends_is_stopped_and_what_it_printed_is_kept() -> None:
    done = run_sandboxed("print('so far')\nwhile True: pass", timeout=0.5)
    assert done.status is None
    assert done.why == "it took more than 0.5 seconds"
    assert done.stdout == "so far\n"


def test_code_that_shuts_its_streams_and_goes_on_is_stopped_too() -> None:
    done = run_sandboxed("import os, time\nos.close(1)\nos.close(2)\ntime.sleep(600)", timeout=0.5)
    assert done.why == "it took more than 0.5 seconds"


def test_code_that_prints_without_end_is_stopped_at_the_limit() -> None:
    done = run_sandboxed("while True: print('x' * 1000)", output=100_000)
    assert done.why == "it printed more than 100000 bytes"
    assert len(done.stdout) == 100_000


def test_of_endless_errors_the_end_is_kept() -> None:
    done = run_sandboxed("import sys\nfor i in range(10 ** 6): sys.stderr.write(f'{i}\\n')")
    assert done.status == 0
    assert len(done.stderr) <= 4000
    assert done.stderr.endswith("999999\n")


def test_code_that_wants_all_memory_gets_an_error() -> None:
    done = run_sandboxed("x = bytearray(300 << 20)", memory=256 << 20)
    assert done.status == 1
    assert "MemoryError" in done.stderr
    assert run_sandboxed("x = bytearray(300 << 20)", memory=512 << 20).status == 0


def test_code_cannot_fill_the_disk_with_one_file() -> None:
    done = run_sandboxed("with open('f', 'wb') as file:\n  while True: file.write(bytes(1 << 20))")
    assert done.status == 1
    assert "File too large" in done.stderr


def test_code_has_a_folder_and_an_environment_of_its_own(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_KEY", "hunter2")
    done = run_sandboxed(
        "import json, os, tempfile\nopen('a', 'w').write('x')\nos.makedirs('b/c')\nos.chmod('b', 0)\n"
        "tempfile.mkstemp()\nprint(json.dumps([os.getcwd(), dict(os.environ)]))"
    )
    folder, environment = json.loads(done.stdout)
    assert Path(folder).parent == place.resolve()
    assert environment["HOME"] == folder
    assert "hunter2" not in done.stdout
    assert list(place.iterdir()) == []


def test_code_reads_and_writes_nothing_outside_its_folder(tmp_path: Path) -> None:
    if lacks("Landlock"):
        pytest.skip("this kernel has no Landlock")
    secret = tmp_path / "secret"
    secret.write_text("secret")
    for code in (
        f"print(open({str(secret)!r}).read())",
        f"open({str(secret)!r}, 'w').write('overwritten')",
        f"open({str(tmp_path / 'new')!r}, 'w')",
        f"import os; os.unlink({str(secret)!r})",
        f"import os; os.symlink({str(secret)!r}, 'link'); print(open('link').read())",
        f"import os; os.link({str(secret)!r}, 'link')",
        f"import os; print(os.listdir({str(tmp_path)!r}))",
        f"import subprocess; subprocess.run(['cat', {str(secret)!r}], check=True)",
        f"print(open('/proc/{os.getpid()}/environ').read())",
    ):
        done = run_sandboxed(code)
        assert done.status == 1, code
        assert done.stdout == "", code
    assert secret.read_text() == "secret"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["secret", "temporary"]


def test_code_reaches_no_server() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        other.setblocking(False)
        tcp, udp = server.getsockname()[1], other.getsockname()[1]
        assert run_sandboxed(f"import socket; socket.create_connection(('127.0.0.1', {tcp}), 5)").status == 1
        done = run_sandboxed(f"import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', {udp}))")
        if not lacks("namespaces"):
            assert done.status == 1
            with pytest.raises(BlockingIOError):
                other.recv(1)


def test_code_ends_no_other_process() -> None:
    with subprocess.Popen(["sleep", "60"]) as other:
        done = run_sandboxed(f"import os; os.kill({other.pid}, 9)")
        assert done.status == 1
        assert other.poll() is None
        other.kill()


@pytest.mark.parametrize("last", ["", "time.sleep(600)", "os.kill(os.getpid(), 9)"])
def test_nothing_is_left_of_code_that_forks_and_detaches(last: str) -> None:
    code = (
        "import os, time\n"
        "reading, writing = os.pipe()\n"
        "for _ in range(5):\n"
        "    if os.fork() == 0:\n"
        "        os.setsid()\n"
        "        if os.fork() == 0:\n"
        "            os.execv('/bin/sleep', ['sleep', '86399.25'])\n"
        "        os._exit(0)\n"
        "os.close(writing)\n"
        "os.read(reading, 1)\n"  # until each is a sleep, and has shut its end
        f"print('begun')\n{last}"
    )
    done = run_sandboxed(code, timeout=2)
    assert done.stdout == "begun\n"
    assert running("86399.25") == []


def test_a_fork_bomb_soon_finds_no_more_processes() -> None:
    if lacks("root"):
        pytest.skip("root's processes cannot be counted here")
    forks = "import os, time\nwhile True:\n  if os.fork() == 0: time.sleep(600)"
    done = run_sandboxed(forks)
    assert done.status == 1
    assert "BlockingIOError" in done.stderr
    bomb = "import os\nwhile True:\n  try: os.fork()\n  except OSError: pass"
    assert run_sandboxed(bomb, timeout=0.5).why == "it took more than 0.5 seconds"
    assert running("-X utf8 main.py") == []


def test_where_namespaces_are_forbidden_it_is_said_and_nothing_is_left_all_the_same(tmp_path: Path) -> None:
    if lacks("namespaces"):
        pytest.skip("they are forbidden here: the other tests have tried it")
    code = (
        "import os\nreading, writing = os.pipe()\n"
        "if os.fork() == 0:\n  os.setsid(); os.execv('/bin/sleep', ['sleep', '86399.5'])\n"
        "os.close(writing); os.read(reading, 1); print('begun')"
    )
    program = tmp_path / "program.py"
    program.write_text(f"from jeito.run.sandbox import run_sandboxed\nprint(run_sandboxed({code!r}).model_dump_json())")
    line = f"{NO_NAMESPACES} && exec {sys.executable} {program}"
    done = subprocess.run(["unshare", "-Ur", "sh", "-c", line], capture_output=True, text=True, check=False)
    outcome = Outcome.model_validate_json(done.stdout)
    assert outcome.stdout == "begun\n"
    assert any(note.startswith("namespaces: ") for note in outcome.notes)
    assert running("86399.5") == []


def test_nothing_is_left_when_jeito_is_killed(tmp_path: Path, place: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "from jeito.run.sandbox import run_sandboxed\n"
        "run_sandboxed(\"import os; os.execv('/bin/sleep', ['sleep', '86399.75'])\", timeout=600)"
    )
    with subprocess.Popen([sys.executable, program], env={**os.environ, "TMPDIR": str(place)}) as jeito:
        while not running("sleep 86399.75"):
            assert jeito.poll() is None
        assert len(list(place.iterdir())) == 1
        jeito.kill()
    while running("sleep 86399.75") or list(place.iterdir()):  # its keeper looks twice a second
        pass


def test_a_kept_command_ends_as_it_would_alone() -> None:
    def status(*command: str) -> int:
        return subprocess.run(kept(list(command)), start_new_session=True, capture_output=True, check=False).returncode

    assert status("sh", "-c", "exit 3") == 3
    assert status("sh", "-c", "kill -TERM $$") == -signal.SIGTERM
    assert status("no-such-command-at-all") == 127


def test_a_kept_command_speaks_through_its_pipes_and_is_ended_whole() -> None:
    command = 'sleep 86398.5 & setsid sleep 86398.5 & read line; echo "got $line"; wait'
    process = subprocess.Popen(
        kept(["sh", "-c", command]), stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    with process:
        process.stdin.write(b"hello\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"got hello\n"
        assert len(running("sleep 86398.5")) >= 2
        end(process)
    assert running("sleep 86398.5") == []
