"""Runs a command and leaves no process of it behind: `python -I -S keeper.py SETTINGS COMMAND…`.

A program of its own, which imports nothing of jeito, so that it starts in 20 ms. When the command ends, when it is told
to stop (SIGTERM), or when jeito dies, every process that came of the command is killed. Told to be `alone`, the command
has no network, sees no other process, reads the paths it is given and no others, writes in one folder, and has limits;
what the system does not allow of that is written to the descriptor `notes`.
"""

import ctypes
import json
import os
import resource
import signal
import struct
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

LINUX = sys.platform == "linux"
# Of <linux/sched.h>, <linux/prctl.h>, <linux/capability.h> and <linux/landlock.h>.
_NEW_USER, _NEW_NETWORK_PROCESSES_MEMORY = 0x10000000, 0x40000000 | 0x20000000 | 0x08000000
_DIE_WITH_PARENT, _KEEP_RIGHTS, _HAS_RIGHT, _ADOPT_ORPHANS, _NO_NEW_RIGHTS, _HAND_ON, _RAISE = 1, 8, 23, 36, 38, 47, 2
_RIGHTS_VERSION, _READ_ANYTHING = 0x20080522, 2
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_FOLDER, _TRUNCATE, _IOCTL = 1, 1 << 1, 1 << 2, 1 << 3, 1 << 14, 1 << 15
_READ = _EXECUTE | _READ_FILE | _READ_FOLDER
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL
# How many kinds of access each version of Landlock knows; 16 from the fifth on.
_KINDS = {1: 13, 2: 14, 3: 15, 4: 15}
_PROCESSES = 64


def main() -> None:
    settings, command = json.loads(sys.argv[1]), sys.argv[2:]
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    alone, child, ended, status = settings.get("alone"), 0, 0, 0

    def stop(*_: object) -> None:
        if ended != child:
            os.kill(child, signal.SIGKILL)  # the first of its processes: of a namespace this ends all at once
        _kill_all(child)
        if alone and os.getppid() != settings["parent"]:
            os.execvp("rm", ["rm", "-rf", alone["write"]])  # nobody else is there to do it
        os._exit(128 + signal.SIGTERM)

    def is_jeito_there(*_: object) -> None:
        if os.getppid() != settings["parent"]:
            stop()

    if LINUX:
        _control(_ADOPT_ORPHANS, 1)
    if alone:
        apart = _try(settings, "namespaces", _enter_namespaces)
        if LINUX:
            alone["limits"]["NPROC"] = _PROCESSES if apart or os.getuid() == 0 else _threads() + _PROCESSES
        # A user that nobody else is, to be in root's place.
        alone["user"] = 40_000 + os.getpid() % 20_000
    child = os.fork()
    if child == 0:
        _become(command, settings)
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGALRM, is_jeito_there)
    signal.setitimer(signal.ITIMER_REAL, 0.5, 0.5)
    # Our copies of its pipes: while they are open, nobody sees that it ended.
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    if alone:
        os.close(settings["notes"])
    while ended != child:
        ended, status = os.wait()
    _kill_all(child)
    _end_as(os.waitstatus_to_exitcode(status))


def _become(command: list[str], settings: dict[str, Any]) -> None:
    """The child's part: bounds, then the command in place of this program."""
    try:
        os.setsid()
        # Python ignores these, and what is ignored stays ignored in the command.
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        if alone := settings.get("alone"):
            for name, limit in alone["limits"].items():
                _try(settings, f"limit {name}", partial(_limit, name, limit))
            fenced = _try(settings, "Landlock", lambda: _fence(alone["write"], alone["read"]))
            if os.getuid() == 0:
                _try(settings, "root", lambda: _give_up_root(alone["user"], alone["write"], fenced))
            os.set_inheritable(settings["notes"], False)
        if LINUX:
            # Last, since whoever changes the user loses it.
            _control(_DIE_WITH_PARENT, signal.SIGKILL)
        os.execvp(command[0], command)
    except Exception as error:
        os.write(2, f"{command[0]}: {error}\n".encode())
    finally:
        os._exit(127)


def _try(settings: dict[str, Any], what: str, do: Callable[[], None]) -> bool:
    """A bound that this system does not allow is said, not fatal."""
    try:
        do()
    except (OSError, ValueError, AttributeError) as error:
        os.write(settings["notes"], f"{what}: {error}\n".encode())
        return False
    return True


def _enter_namespaces() -> None:
    """No network but its own dead one, no sight of other processes; the first process's death ends all."""
    user, group = os.getuid(), os.getgid()
    unshare = ctypes.CDLL(None, use_errno=True).unshare
    _checked(unshare(_NEW_NETWORK_PROCESSES_MEMORY | (_NEW_USER if user else 0)))
    if user:
        # Any number but 0: else the command would have all of root's rights within.
        for name, text in (("setgroups", "deny"), ("uid_map", f"1000 {user} 1"), ("gid_map", f"1000 {group} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)


def _give_up_root(user: int, folder: str, fenced: bool) -> None:
    """Become the user, whose processes are counted, as root's are not, and own the folder.

    Within the fence all may be read that root may: Python may lie where nobody else comes.
    """
    reads = fenced and LINUX and _control(_HAS_RIGHT, _READ_ANYTHING)
    if not reads and not _is_open_to_all(os.path.realpath(sys.executable)):
        raise OSError("Python lies where only root may read")
    for path in (folder, *(entry.path for entry in os.scandir(folder))):
        os.chown(path, user, user)
    if reads:
        _control(_KEEP_RIGHTS, 1)
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)
    if reads:
        header, only = struct.pack("=Ii", _RIGHTS_VERSION, 0), 1 << _READ_ANYTHING
        _checked(ctypes.CDLL(None, use_errno=True).capset(header, struct.pack("=6I", only, only, only, 0, 0, 0)))
        _control(_HAND_ON, _RAISE, _READ_ANYTHING)


def _is_open_to_all(path: str) -> bool:
    return path == "/" or (bool(os.stat(path).st_mode & 1) and _is_open_to_all(os.path.dirname(path)))


def _limit(name: str, limit: int) -> None:
    kind = getattr(resource, f"RLIMIT_{name}")
    hard = resource.getrlimit(kind)[1]
    limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(kind, (limit, limit))


def _fence(write: str, read: list[str]) -> None:
    """Landlock: no file but these, no TCP, no signals to others; inherited, and never lifted."""
    if not LINUX:
        raise OSError("there is none here")
    version = _checked(_call(_CREATE_RULESET, None, 0, 1))
    everything = (1 << _KINDS.get(version, 16)) - 1
    size = 8 if version < 4 else 16 if version < 6 else 24
    kinds = struct.pack("=QQQ", everything, 0b11, 0b11)[:size]
    ruleset = _checked(_call(_CREATE_RULESET, kinds, size, 0))
    for path, rights in [(write, everything), ("/dev/null", _OF_FILES), *((path, _READ) for path in read)]:
        try:
            place = os.open(path, os.O_PATH)
        except OSError:
            continue
        if not os.path.isdir(path):
            rights &= _OF_FILES
        _checked(_call(_ADD_RULE, ruleset, 1, struct.pack("=Qi", rights & everything, place), 0))
        os.close(place)
    _control(_NO_NEW_RIGHTS, 1)
    _checked(_call(_RESTRICT_SELF, ruleset, 0))
    os.close(ruleset)


def _call(number: int, *arguments: object) -> int:
    numbers = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    return int(ctypes.CDLL(None, use_errno=True).syscall(ctypes.c_long(number), *numbers))


def _control(option: int, value: int, more: int = 0) -> int:
    words = [ctypes.c_ulong(each) for each in (value, more, 0, 0)]
    return _checked(ctypes.CDLL(None, use_errno=True).prctl(option, *words))


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def _threads() -> int:
    """Of the whole system: an upper bound of what its user runs now, who is counted as a whole."""
    with open("/proc/loadavg") as file:
        return int(file.read().split()[3].partition("/")[2])


def _kill_all(child: int) -> None:
    """Kill what came of the command, until nothing is left: its orphans become ours, so none is out of sight."""
    for _ in range(1000):
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        for kill, whom in [(os.kill, pid) for pid in _descendants()] if LINUX else [(os.killpg, child)]:
            try:
                kill(whom, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                continue
        time.sleep(0.002)


def _descendants() -> set[int]:
    """Children, their children and so on, as /proc has them."""
    parents: dict[int, int] = {}
    for name in os.listdir("/proc"):
        try:
            with open(f"/proc/{int(name)}/stat", "rb") as file:
                # The name of a program is in brackets, and may hold anything.
                parents[int(name)] = int(file.read().rpartition(b")")[2].split()[1])
        except (OSError, ValueError):
            continue
    found = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {os.getpid()}


def _end_as(status: int) -> None:
    """End the way the command did, by its status or its signal."""
    if status < 0:
        if -status != signal.SIGKILL:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


if __name__ == "__main__":
    main()
