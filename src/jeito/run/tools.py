"""What a model may call: tools, each with its schema and its limits, opened from the words of a behaviour.

Whatever a tool does is told to the model as a Result, never raised. Knows nothing of models, turns or permissions asked
of a person: it only refuses what is denied.
"""

import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field

from jeito.behaviour.behaviour import Tool as Spec
from jeito.behaviour.load import load
from jeito.errors import InputError, ToolError, nearest
from jeito.run import builtins
from jeito.run.functions import ToolFile, as_text, signature, told
from jeito.run.sandbox import run_sandboxed
from jeito.types import Value

NAME = re.compile(r"[\w.-]{1,64}", re.ASCII)
FORMS = ("FILE.py:function", "behaviour:NAME", "mcp:stdio:COMMAND", "mcp:http://host/mcp")
_FUNCTIONS: dict[str, Callable[..., str]] = {"calculator": builtins.calculator, "now": builtins.now}
_OF_FILES = ("read_file", "write_file", "list_files")


class Result(Value):
    """What came of a call, as the model is told. `cut`: the text was longer than the tool's `output`."""

    text: str
    error: bool = False
    seconds: float = 0.0
    cut: bool = False


Permission = Literal["allow", "ask", "deny"]
Act = Callable[[dict[str, Any], float], Any]
"""Arguments and seconds that it may take → what is told; it may raise anything, ToolError for a sentence of its own."""
Ask = Callable[[str, str], Result]
"""A behaviour's reference and a question → its answer."""


@dataclass(frozen=True)
class Tool:
    """One thing to call. `timeout` in seconds, `output` in characters of a result."""

    name: str
    description: str
    parameters: dict[str, Any]
    act: Act
    permission: Permission = "allow"
    timeout: float = 20.0
    output: int = 8000

    @classmethod
    def from_function(
        cls,
        function: Callable[..., Any],
        permission: Permission = "allow",
        timeout: float = 20.0,
        output: int = 8000,
    ) -> "Tool":
        """A Python function of this process. Raises InputError when its hints make no schema.

        It runs in a thread. One that takes too long is left to itself, since a thread cannot be ended; what must end
        belongs into a file.
        """
        name, description, parameters, call = signature(function)
        return cls(name, description, parameters, partial(_in_a_thread, call), permission, timeout, output)

    def schema(self) -> dict[str, Any]:
        """The tool as chat templates and OpenAI's API have it."""
        function = {"name": self.name, "description": self.description, "parameters": self.parameters}
        return {"type": "function", "function": function}

    def call(self, arguments: Mapping[str, Any] | str, seconds: float | None = None) -> Result:
        """Do it: within `seconds` or the tool's own time, whichever is less. Arguments may be JSON text."""
        begun = time.monotonic()
        allowed = self.timeout if seconds is None else min(self.timeout, seconds)
        try:
            text, error = as_text(self.act(_read(arguments), allowed)) or "(no output)", False
        except Exception as failed:  # the edge: whatever a tool does is data
            text, error = told(failed), True
        # A half of a surrogate pair is no text that can be saved.
        text = text.encode(errors="replace").decode()
        cut = len(text) > self.output
        if cut:
            text = f"{text[: self.output]}\n[cut after {self.output} characters]"
        return Result(text=text, error=error, seconds=time.monotonic() - begun, cut=cut)


class Toolbox:
    """The tools of one run, in their order. `notes`: what this machine does not allow of keeping them in bounds.

    Closing it, from any thread, ends the processes of its tools; a call in the middle then ends with an error.
    """

    def __init__(self, tools: Sequence[Tool], notes: Sequence[str] = ()) -> None:
        self.tools = {tool.name: tool for tool in tools}
        self.notes = tuple(notes)
        self.ask: Ask | None = None
        """Answers for tools that are behaviours; it bounds itself."""
        self._opened = ExitStack()
        for tool in tools:
            if not NAME.fullmatch(tool.name):
                raise InputError(f"a tool cannot be called {tool.name!r}", hint="letters, digits, _ . - and 64 at most")
            if self.tools[tool.name] is not tool:
                raise InputError(f"two tools are called {tool.name!r}", hint="of a server, take one: mcp:…#NAME")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Tool]:
        return iter(self.tools.values())

    def schemas(self) -> list[dict[str, Any]]:
        """Every tool's schema; the denied ones too, so that a proof can see whether a model keeps away from them."""
        return [tool.schema() for tool in self]

    def call(self, name: str, arguments: Mapping[str, Any] | str, seconds: float | None = None) -> Result:
        """Call a tool by its name; an unknown or a denied one is refused in words."""
        tool = self.tools.get(name)
        if tool is None:
            return Result(text=f"there is no tool {name!r}; there are: {', '.join(self.tools) or 'none'}", error=True)
        if tool.permission == "deny":
            may = [each.name for each in self if each.permission != "deny"]
            return Result(text=f"{name} may not be called; there are: {', '.join(may) or 'no others'}", error=True)
        return tool.call(arguments, seconds)

    def close(self) -> None:
        """End whatever runs for the tools; nothing happens the second time."""
        self._opened.close()


def open_tools(specs: Sequence[Spec], root: Path | None = None) -> Toolbox:
    """The tools that a behaviour names, ready to be called: files imported, servers started. Close it afterwards.

    `root` is the folder that relative names start from, and that the tools for files keep to; none: the current one.
    Raises InputError for a tool that cannot be had.
    """
    with ExitStack() as opened:
        opening = _Opening(root or Path(), opened)
        tools = [
            replace(tool, permission=spec.permission, timeout=spec.timeout, output=spec.output)
            for spec in specs
            for tool in opening.tools(spec)
        ]
        # Once, before it matters: does it work here, and what does it not keep out?
        tried = run_sandboxed("") if any(spec.use == "run_python" for spec in specs) else None
        if tried and tried.status != 0:
            raise InputError(f"run_python does not work here: {tried.stderr or tried.why}", hint="leave it out")
        box = Toolbox(tools, tried.notes if tried else ())
        opening.box = box
        box._opened = opened.pop_all()
        return box


class _Opening:
    """One toolbox being opened: a file and its functions share a process, all servers share a thread."""

    def __init__(self, root: Path, opened: ExitStack) -> None:
        self.root, self.opened = root, opened
        self.box: Toolbox | None = None
        self.files: dict[Path, ToolFile] = {}
        self.servers: Any = None

    def tools(self, spec: Spec) -> list[Tool]:
        """What one `use` stands for: several tools where it is a server."""
        use = spec.use
        kind, _, rest = use.partition(":")
        if kind == "mcp":
            return self._of_server(rest)
        if found := re.fullmatch(r"(.+\.py):(\w+)", use):
            return [self._of_file(self.root / found[1], found[2], spec.output)]
        if kind == "behaviour" or use.endswith((".yaml", ".yml")):
            return [self._of_behaviour(rest if kind == "behaviour" else use)]
        if kind in _OF_FILES:
            folder = self.root / rest
            if not folder.is_dir():
                raise InputError(f"{use}: there is no folder {str(folder)!r}", hint=f"mkdir -p {folder}")
            return [Tool.from_function(builtins.files(folder)[kind])]
        if use == "run_python":
            asked = signature(builtins.python(spec.timeout))
            return [Tool(*asked[:3], lambda arguments, seconds: signature(builtins.python(seconds)).call(arguments))]
        if use in _FUNCTIONS:
            return [Tool.from_function(_FUNCTIONS[use])]
        raise InputError(
            f"no tool is called {use!r}", hint=nearest(use, [*_FUNCTIONS, *_OF_FILES, "run_python", *FORMS])
        )

    def _of_file(self, path: Path, function: str, output: int) -> Tool:
        file = self.files.get(path)
        if file is None:
            file = self.files[path] = ToolFile(path)
            self.opened.callback(file.close)
        return Tool(
            *file.describe(function),
            act=lambda arguments, seconds: file.call(function, arguments, seconds, output),
        )

    def _of_server(self, address: str) -> list[Tool]:
        if self.servers is None:
            from jeito.run.mcp import Servers

            self.servers = Servers(self.root)
            self.opened.callback(self.servers.close)
        found: list[Tool] = self.servers.open(address)
        return found

    def _of_behaviour(self, reference: str) -> Tool:
        behaviour = load(reference).behaviour

        def answer(question: Annotated[str, Field(description="all that is needed to answer it")]) -> str:
            ask = self.box.ask if self.box else None
            if ask is None:
                raise ToolError(f"{reference} is a behaviour, and nobody here can ask it")
            answered = ask(reference, question)
            if answered.error:
                raise ToolError(answered.text)
            return answered.text

        asked = signature(answer)
        about = behaviour.description or f"Answers as {behaviour.name}."
        return Tool(behaviour.name, about, asked.parameters, lambda arguments, seconds: asked.call(arguments))


def _read(arguments: Mapping[str, Any] | str) -> dict[str, Any]:
    if isinstance(arguments, Mapping):
        return dict(arguments)
    try:
        read = json.loads(arguments)
    except ValueError as error:
        raise ToolError(f"the arguments are no JSON: {error}") from error
    if not isinstance(read, dict):
        raise ToolError("the arguments are no JSON object of names and values")
    return read


def _in_a_thread(call: Callable[[dict[str, Any]], Any], arguments: dict[str, Any], seconds: float) -> Any:
    """The call's result; raises ToolError for whatever it raised, and when it is left behind after `seconds`."""
    done: list[Any] = []
    failed = [f"it took more than {seconds:g} seconds and was left behind"]

    def work() -> None:
        try:
            done.append(call(arguments))
        except BaseException as error:  # one that ends its thread is told too
            failed[:] = [told(error)]

    thread = threading.Thread(target=work, name="jeito-tool", daemon=True)
    thread.start()
    thread.join(seconds)
    if not done:
        raise ToolError(failed[0])
    return done[0]
