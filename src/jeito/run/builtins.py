"""The tools that ship: a calculator, the time, files of one folder, Python code in a place of its own.

Each is a function whose hints and docstring are its schema. What cannot be done is a ToolError, told to the model.
"""

import ast
import math
import operator
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any
from zoneinfo import ZoneInfo

from pydantic import Field, JsonValue

from jeito.errors import ToolError

BITS = 10_000
"""Of a whole number: some 3,000 digits, so that no sum takes long."""
EXPRESSION = 1000
"""Characters of an expression."""
FILE = 16 << 20
"""Bytes of a file that is read or written."""
ENTRIES = 500
"""Entries of a folder that are listed."""


# What a model may write, so that small ones do not lose themselves; who calls the function is told more plainly.
_WRITTEN: dict[str, JsonValue] = {"pattern": r"^[0-9a-z_+*/%(),. -]+$", "maxLength": 200}


def calculator(
    expression: Annotated[str, Field(description="what to compute", json_schema_extra=_WRITTEN)],
) -> str:
    """Computes an expression of numbers, + - * / // % **, parentheses, pi, e, and functions such as sqrt, log, sin."""
    if len(expression) > EXPRESSION:
        raise ToolError(f"the expression has {len(expression)} characters; {EXPRESSION} are allowed")
    try:
        value = _value(ast.parse(expression.strip(), mode="eval").body)
    except (SyntaxError, MemoryError, RecursionError) as error:
        raise ToolError(f"{expression!r} cannot be read as an expression") from error
    except (ArithmeticError, ValueError, TypeError) as error:
        raise ToolError(f"{expression} cannot be computed: {error}") from error
    # 0.1 + 0.2 is 0.3 to 15 digits, which is all that a float knows.
    return f"{value:.15g}" if isinstance(value, float) else str(value)


def _value(node: ast.expr) -> int | float:
    value: Any
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            pass
        case ast.Name(id=name) if name in _CONSTANTS:
            value = _CONSTANTS[name]
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _OPERATORS:
            value = _OPERATORS[type(op)](_value(operand))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            value = _OPERATORS[type(op)](_value(left), _value(right))
        case ast.Call(func=ast.Name(id=name), args=given, keywords=[]) if name in _FUNCTIONS:
            value = _FUNCTIONS[name](*map(_value, given))
        case _:
            known = ", ".join([*_CONSTANTS, *_FUNCTIONS])
            raise ToolError(f"{ast.unparse(node)!r} is not known: there are + - * / // % ** (a power), {known}")
    if isinstance(value, complex) or (isinstance(value, float) and not math.isfinite(value)):
        raise ValueError("it is no real, finite number")
    if isinstance(value, int) and value.bit_length() > BITS:
        raise ValueError("the result is too large")
    return value  # type: ignore[no-any-return]


def _power(base: int | float, exponent: int | float) -> Any:
    if isinstance(base, int) and isinstance(exponent, int) and abs(base) > 1 and base.bit_length() * exponent > BITS:
        raise ValueError("the result is too large")
    return base**exponent


def _factorial(number: int) -> int:
    if number > 1000:
        raise ValueError("the result is too large")
    return math.factorial(number)


def _round(number: float, digits: int = 0) -> float:
    if abs(digits) > 300:
        raise ValueError("it has no such digit")
    return round(number, digits) if digits else round(number)


_OPERATORS: dict[type, Callable[..., Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv, ast.Pow: _power,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.USub: operator.neg, ast.UAdd: operator.pos,
}  # fmt: skip
_CONSTANTS = {"pi": math.pi, "e": math.e, "tau": math.tau}
_FUNCTIONS: dict[str, Any] = {"abs": abs, "max": max, "min": min, "round": _round, "factorial": _factorial}
_FUNCTIONS |= {
    name: getattr(math, name)
    for name in (
        "acos", "asin", "atan", "atan2", "cbrt", "ceil", "cos", "degrees", "exp", "floor", "gcd", "hypot", "lcm",
        "log", "log10", "log2", "radians", "sin", "sqrt", "tan",
    )
}  # fmt: skip


def now(zone: Annotated[str, Field(description="such as Europe/Lisbon or UTC; empty: here")] = "") -> str:
    """Tells the date and the time, in ISO 8601, and the day of the week."""
    try:
        time = datetime.now(ZoneInfo(zone)) if zone else datetime.now().astimezone()
    except (KeyError, ValueError, OSError) as error:
        raise ToolError(f"no time zone is called {zone!r}: write it as in Europe/Lisbon, or UTC") from error
    return f"{time.isoformat(timespec='seconds')} {time:%A}"


def python(seconds: float) -> Callable[[str], str]:
    """The tool `run_python`; code that takes longer is stopped."""
    from jeito.run.sandbox import run_sandboxed

    def run_python(code: Annotated[str, Field(description="a whole program; what it prints is the result")]) -> str:
        """Runs Python code in a fresh process, with an empty folder of its own and without a network."""
        done = run_sandboxed(code, timeout=seconds)
        printed, said = done.stdout.rstrip("\n"), done.stderr.rstrip("\n")
        if not done.why and done.status == 0:
            return "\n".join(filter(None, [printed, said and f"standard error: {said}"]))
        status = done.status or 0
        ended = f"signal {-status}" if status < 0 else f"status {status}"
        # Why it failed comes first: what comes last may be cut.
        parts = [f"it was stopped: {done.why}" if done.why else f"it ended with {ended}"]
        raise ToolError("\n".join([*parts, *filter(None, [said, printed and f"it printed:\n{printed}"])]))

    return run_python


def files(root: Path) -> dict[str, Callable[..., Any]]:
    """The tools `read_file`, `write_file` and `list_files` of one folder; nothing outside it can be reached."""
    root = Path(os.path.realpath(root))
    path_of_file = Field(description="relative to the folder")

    def read_file(
        path: Annotated[str, path_of_file],
        start: Annotated[int, Field(ge=1, description="the first line wanted, from 1")] = 1,
        lines: Annotated[int, Field(ge=1, description="how many lines")] = 200,
    ) -> str:
        """Reads lines of a text file."""
        with _opened(root, path, os.O_RDONLY) as file:
            found = os.fstat(file)
            if found.st_size > FILE:
                raise ToolError(f"{path!r} has {found.st_size} bytes; {FILE} are allowed")
            content = os.read(file, FILE) if stat.S_ISREG(found.st_mode) else b"\0"
        if b"\0" in content:
            raise ToolError(f"{path!r} is no text file")
        every = content.decode(errors="replace").splitlines(keepends=True)
        wanted = every[start - 1 : start - 1 + lines]
        end = start - 1 + len(wanted)
        whole = start == 1 and end == len(every)
        return "".join(wanted) + ("" if whole else f"\n[lines {start} to {end} of {len(every)}]")

    def write_file(path: Annotated[str, path_of_file], text: str) -> str:
        """Writes a text file, in place of what it held; folders on the way are made."""
        content = text.encode(errors="replace")
        if len(content) > FILE:
            raise ToolError(f"the text has {len(content)} bytes; {FILE} are allowed")
        with _opened(root, path, os.O_WRONLY | os.O_CREAT) as file:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                raise ToolError(f"{path!r} is no text file")
            os.truncate(file, 0)
            with os.fdopen(os.dup(file), "wb") as stream:
                stream.write(content)
        return f"{len(content)} bytes are in {path}"

    def list_files(path: Annotated[str, path_of_file] = ".") -> str:
        """Lists a folder: files with their bytes, and folders with a slash at the end."""
        with _opened(root, path, os.O_RDONLY | os.O_DIRECTORY) as folder, os.scandir(folder) as entries:
            found = sorted(
                f"{entry.name}/" if entry.is_dir() else f"{entry.name} {entry.stat(follow_symlinks=False).st_size}"
                for entry in entries
            )
        more = f"\n[{len(found) - ENTRIES} more]" if len(found) > ENTRIES else ""
        return "\n".join(found[:ENTRIES]) + more or "it is empty"

    return {"read_file": read_file, "write_file": write_file, "list_files": list_files}


@contextmanager
def _opened(root: Path, path: str, flags: int) -> Iterator[int]:
    """A descriptor of what lies at `path` under `root`. Raises ToolError: outside, not there, or not allowed.

    Links may lead about within the root. The resolved path is then walked without following any, so that a link put
    in its way meanwhile leads nowhere.
    """
    try:
        inner = Path(os.path.realpath(root / path)).relative_to(root)
    except ValueError as error:
        raise ToolError(f"{path!r} lies outside the folder") from error
    *folders, last = inner.parts or (".",)
    with ExitStack() as opened:

        def step(name: str, flags: int, folder: int | None) -> int:
            found = os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666, dir_fd=folder)
            opened.callback(os.close, found)
            return found

        try:
            where = step(str(root), os.O_RDONLY | os.O_DIRECTORY, None)
            for name in folders:
                if flags & os.O_CREAT and name not in os.listdir(where):
                    os.mkdir(name, dir_fd=where)
                where = step(name, os.O_RDONLY | os.O_DIRECTORY, where)
            # Not to wait for whoever writes into a pipe.
            yield step(last, flags | os.O_NONBLOCK, where)
        except OSError as error:
            raise ToolError(f"{path!r}: {(error.strerror or str(error)).lower()}") from error
