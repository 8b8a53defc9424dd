"""Python functions as tools: a schema from hints and docstring, arguments checked, and files of functions in a process.

Knows nothing of who may call what, or of how much of a result is shown.
"""

import contextlib
import functools
import importlib.util
import inspect
import io
import json
import os
import re
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from socket import socketpair
from types import ModuleType
from typing import Any, NamedTuple

from jeito.errors import InputError, JeitoError, ToolError, nearest
from jeito.run.sandbox import end, kept

IMPORT = 60.0
"""Seconds that a tool's file may take to be imported."""

_CHILD = """\
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from jeito.run.functions import serve
serve(sys.argv[2])
"""


class Signature(NamedTuple):
    """What a model is told of a function, and the call with its arguments checked."""

    name: str
    description: str
    parameters: dict[str, Any]
    call: Callable[[Mapping[str, Any]], Any]


def signature(function: Callable[..., Any]) -> Signature:
    """Read a function's hints and docstring. Raises InputError for what has no schema.

    A call raises ToolError for wrong arguments, and whatever the function raises. An async function is run to its end.
    """
    from pydantic import TypeAdapter, ValidationError, validate_call
    from pydantic.errors import PydanticUserError

    name = function.__name__
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise InputError(f"{name}: {parameter} cannot be filled by name", hint="give it parameters with names")
        if parameter.annotation is parameter.empty:
            raise InputError(f"{name}: the parameter {parameter.name} has no type", hint=f"{parameter.name}: str, say")

    @functools.wraps(function)
    def bind(*given: Any, **named: Any) -> Any:
        return given, named

    try:
        checked: Any = validate_call(bind)
        schema = TypeAdapter(checked).json_schema()
    except (PydanticUserError, NameError) as error:
        sentence = str(error).partition("\n")[0]
        raise InputError(f"{name}: its types have no JSON schema: {sentence}", hint="use plain types") from error
    text = inspect.getdoc(function) or ""
    for key, field in schema["properties"].items():
        field.pop("title", None)
        if said := _described(key, text):
            field.setdefault("description", said)

    def call(arguments: Mapping[str, Any]) -> Any:
        try:
            given, named = checked(**arguments)
        except ValidationError as error:
            wrong = "; ".join(_sentence(each) for each in error.errors(include_url=False))
            known = ", ".join(schema["properties"]) or "none"
            raise ToolError(f"wrong arguments: {wrong} (the parameters are: {known})") from error
        result = function(*given, **named)
        if not inspect.iscoroutine(result):
            return result
        import asyncio

        return asyncio.run(result)

    return Signature(name, " ".join(text.split("\n\n")[0].split()), schema, call)


def _described(name: str, text: str) -> str:
    """What a docstring says of a parameter, be it written as reST, Google's way or NumPy's."""
    for pattern in (
        rf"^(?P<in>):param (?:[^:\n]+ )?{name}:[ ]*(?P<said>.+(?:\n[ ]+\S.*)*)",
        rf"^(?P<in>[ ]+){name}(?: ?\([^\n]*?\))?:[ ]+(?P<said>.+(?:\n(?P=in)[ ]+\S.*)*)",
        rf"^(?P<in>){name}(?:[ ]?:[^\n]*)?\n(?P<said>[ ]+.+(?:\n[ ]+\S.*)*)",
    ):
        if found := re.search(pattern, text, re.MULTILINE):
            return " ".join(found["said"].split())
    return ""


def _sentence(error: Mapping[str, Any]) -> str:
    place = ".".join(map(str, error["loc"]))
    was = "" if error["type"].startswith("missing") else f", not {error['input']!r:.80}"
    return f"{place}: {error['msg'][0].lower()}{error['msg'][1:]}{was}"


def told(error: BaseException) -> str:
    """An error of a tool in one sentence, as the model sees it."""
    return str(error) if isinstance(error, JeitoError) else f"{type(error).__name__}: {error}".rstrip(": ")


def as_text(result: Any) -> str:
    """What a function returned, as a model reads it: text as it is, all else as JSON."""
    from pydantic_core import to_json

    return result if isinstance(result, str) else to_json(result, fallback=str, inf_nan_mode="constants").decode()


class ToolFile:
    """A file of functions in a process of its own: begun when it is needed, and anew after it was ended.

    One call at a time. Requests and replies are JSON, over the socket that is the process's standard input.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._process: subprocess.Popen[bytes] | None = None
        self._link: Connection | None = None
        self._busy = threading.Lock()
        self._closed = False

    def describe(self, function: str) -> tuple[str, str, dict[str, Any]]:
        """Name, description and parameters of a function. Raises InputError: no such file or function, or it fails."""
        if not self.file.is_file():
            raise InputError(f"there is no tool file {str(self.file)!r}", hint="use: FILE.py:function")
        try:
            said = self._ask({"function": function}, IMPORT)
        except ToolError as error:
            raise InputError(f"{self.file} cannot be imported: {error}") from error
        if "wrong" in said:
            raise InputError(f"{self.file}: {said['wrong']}", hint=said["hint"])
        return said["name"], said["description"], said["parameters"]

    def call(self, function: str, arguments: Mapping[str, Any], seconds: float, output: int) -> str:
        """What the function returned, or else what it printed; about `output` characters. Raises ToolError."""
        said = self._ask({"function": function, "arguments": arguments, "output": output}, seconds)
        if "wrong" in said:
            raise ToolError(said["wrong"])
        return str(said["text"])

    def close(self) -> None:
        """End the process and all that it started; a call in the middle ends with an error."""
        self._closed = True
        self._end()

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            end(process)

    def _ask(self, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        with self._busy:
            if self._process is None or self._process.poll() is not None:
                self._start()
            assert self._link is not None
            try:
                if self._closed:
                    raise ToolError("it is closed")
                self._link.send_bytes(json.dumps(request).encode())
                if not self._link.poll(seconds):
                    raise ToolError(f"it took more than {seconds:g} seconds and was ended")
                said: dict[str, Any] = json.loads(self._link.recv_bytes())
                return said
            except BaseException as error:
                # After Ctrl-C too: whatever it still does, nobody waits for it.
                self._end()
                if isinstance(error, EOFError | OSError):
                    raise ToolError("its process ended in the middle, without a word") from error
                raise

    def _start(self) -> None:
        path = [str(self.file.resolve().parent), *sys.path]
        command = kept([sys.executable, "-c", _CHILD, json.dumps(path), str(self.file)])
        ours, theirs = socketpair()
        if self._link is not None:
            self._link.close()
        self._link = Connection(ours.detach())
        with theirs:
            self._process = subprocess.Popen(
                command,
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )


def serve(file: str) -> None:
    """The process's part: import the file, then answer one request after another, until the link is closed."""
    link = Connection(os.dup(0))
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    me, module = os.getpid(), None
    while True:
        try:
            request = json.loads(link.recv_bytes())
        except EOFError:
            return
        try:
            module = module or import_file(Path(file))
            asked = _found(module, request["function"])
            if "arguments" in request:
                said = _called(asked, request["arguments"], request["output"])
            else:
                said = {"name": asked.name, "description": asked.description, "parameters": asked.parameters}
        except BaseException as error:
            said = {"wrong": told(error), "hint": getattr(error, "hint", "")}
        if os.getpid() != me:
            os._exit(0)  # a fork that the function made and forgot
        link.send_bytes(json.dumps(said).encode())


def _found(module: ModuleType, name: str) -> Signature:
    function = getattr(module, name, None)
    if not inspect.isroutine(function):
        here = [key for key, value in vars(module).items() if inspect.isfunction(value) and key[0] != "_"]
        raise InputError(f"it has no function {name!r}", hint=nearest(name, here))
    return signature(function)


def _called(asked: Signature, arguments: dict[str, Any], output: int) -> dict[str, Any]:
    printed = _Bounded(output)
    with contextlib.redirect_stdout(printed):
        result = asked.call(arguments)
    # One character more is the sign that there is more.
    return {"text": (printed.getvalue() if result is None else as_text(result))[: output + 1]}


class _Bounded(io.StringIO):
    """Keeps the beginning of what is printed, and one character more."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self._left = size + 1

    def write(self, text: str) -> int:
        self._left -= super().write(text[: self._left])
        return len(text)


def import_file(file: Path) -> ModuleType:
    """The file as a module under a name that no other has."""
    name = f"jeito_tool_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Data classes and pydantic look their module up.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
        line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else 1
        raise InputError(f"line {line}: {told(error)}", hint=f"try: {sys.executable} {file}") from error
    return module
