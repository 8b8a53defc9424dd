"""Tools of MCP servers: a command that speaks over its standard input and output, or an address over HTTP.

The only asynchronous file of this room: one thread runs an event loop for all servers of a toolbox.
"""

import asyncio
import importlib.util
import json
import logging
import math
import re
import shlex
import shutil
import tempfile
import threading
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from pydantic import ValidationError

from jeito.errors import InputError, ToolError
from jeito.run.sandbox import kept
from jeito.run.tools import Tool

OPENING = 30.0
"""Seconds that a server may take to say which tools it has."""
CLOSING = 10.0
"""Seconds that servers have to end; the library kills a process after 4."""
PAGES = 100
"""Pages of a list of tools, so that one without an end is not read for ever."""


class Servers:
    """The servers of one toolbox, from the first that is opened until all are closed."""

    def __init__(self, root: Path) -> None:
        if importlib.util.find_spec("mcp") is None:
            raise InputError("tools of MCP servers need the package mcp", hint="pip install 'jeito[mcp]'")
        # It prints a traceback for every line that is no message; here that becomes part of an error's sentence.
        if not logging.getLogger("mcp").handlers:
            logging.getLogger("mcp").addHandler(logging.NullHandler())
        self.root = root
        self._servers: dict[str, _Server] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="jeito-mcp", daemon=True)
        self._thread.start()

    def open(self, address: str) -> list[Tool]:
        """Start or reach a server: `stdio:COMMAND …` or `http(s)://…`, with `#NAME` for one tool of it.

        Raises InputError: it cannot be started or reached, does not answer, or its tools make no sense.
        """
        if one := re.search(r"#([\w./-]+)$", address):
            address = address[: one.start()]
        if address not in self._servers:
            self._servers[address] = _Server(address, self.root, self._loop)
            self._servers[address].begin()
        tools = self._servers[address].tools
        found = [tool for tool in tools if one is None or tool.name == one[1]]
        if not found:
            missing = f"no tool {one[1]!r}" if one else "no tools"
            raise InputError(
                f"the MCP server {address!r} has {missing}", hint=f"it has: {', '.join(tool.name for tool in tools)}"
            )
        return found

    def close(self) -> None:
        """End all, and the processes that were started for them."""
        if self._loop.is_closed():
            return
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        lives = [server.life for server in self._servers.values() if server.life is not None]
        for server in self._servers.values():
            server.closing.set()
            if server.life is not None and not server.is_open:
                server.life.cancel()
        if lives:
            _, late = await asyncio.wait(lives, timeout=CLOSING)
            for life in late:
                life.cancel()
            await asyncio.wait(lives)
        # What the library left to be done, such as telling transports that their pipes are closed.
        await self._loop.shutdown_asyncgens()


class _Server:
    """One server. Its connection lives in one task, since it must be closed by whom it was opened."""

    def __init__(self, address: str, root: Path, loop: asyncio.AbstractEventLoop) -> None:
        self.address, self.root = address, root
        self.tools: list[Tool] = []
        self.life: asyncio.Task[None] | None = None
        self.closing = asyncio.Event()
        self.is_open = False
        self._loop = loop
        self._nonsense = ""

    def begin(self) -> None:
        """Open the connection and ask for the tools. Raises InputError."""
        asyncio.run_coroutine_threadsafe(self._begin(), self._loop).result()

    async def _begin(self) -> None:
        opened: asyncio.Future[None] = self._loop.create_future()
        self.life = asyncio.create_task(self._live(opened))
        await opened

    async def _live(self, opened: asyncio.Future[None]) -> None:
        import anyio
        from mcp import Client

        with tempfile.TemporaryFile("w+", errors="replace") as said:
            try:
                with anyio.fail_after(OPENING) as patience:
                    async with Client(self._transport(said), message_handler=self._heard) as client:
                        await self._list(client)
                        patience.deadline = math.inf
                        self.is_open = True
                        opened.set_result(None)
                        await self.closing.wait()
            except Exception as error:
                if opened.done():
                    self._nonsense = f": {_sentence(error)}"
                else:
                    opened.set_exception(self._wrong(error, said))
            finally:
                self.is_open = False
                opened.cancel()

    async def _heard(self, message: object) -> None:
        """What the server sent besides answers; a line that is no message comes as an error."""
        if isinstance(message, Exception):
            self._nonsense = "; it also sent what is no message"

    async def _list(self, client: Any) -> None:
        cursor = None
        for _ in range(PAGES):
            page = await client.list_tools(cursor=cursor)
            self.tools += [self._offered(client, tool) for tool in page.tools]
            cursor = page.next_cursor
            if cursor is None:
                return

    def _offered(self, client: Any, tool: Any) -> Tool:
        from jsonschema import Draft202012Validator, SchemaError
        from jsonschema.validators import validator_for

        schema = tool.input_schema
        try:
            validator_for(schema, Draft202012Validator).check_schema(schema)
        except SchemaError as error:
            raise ToolError(f"the schema of its tool {tool.name!r} is invalid: {error.message}") from error

        return Tool(tool.name, tool.description or "", schema, partial(self._call, client, tool.name))

    def _call(self, client: Any, name: str, arguments: dict[str, Any], seconds: float) -> str:
        async def call() -> Any:
            async with asyncio.timeout(seconds):
                return await client.call_tool(name, arguments)

        if not self.is_open:
            raise ToolError(f"its server has ended{self._nonsense}")
        self._nonsense = ""
        asked = asyncio.run_coroutine_threadsafe(call(), self._loop)
        try:
            answer = asked.result()
        except TimeoutError as error:
            raise ToolError(f"the server gave no answer within {seconds:g} seconds{self._nonsense}") from error
        except Exception as error:
            raise ToolError(f"the server failed: {_sentence(error)}{self._nonsense}") from error
        finally:
            asked.cancel()
        text = "\n".join(map(_text, answer.content))
        if not text and answer.structured_content is not None:
            text = json.dumps(answer.structured_content, ensure_ascii=False)
        if answer.is_error:
            raise ToolError(text or "the tool failed, and did not say why")
        return text

    def _transport(self, said: TextIO) -> Any:
        from mcp.client.stdio import StdioServerParameters, stdio_client
        from mcp.client.streamable_http import streamable_http_client

        if self.address.startswith(("http://", "https://")):
            return streamable_http_client(self.address)
        kind, _, rest = self.address.partition(":")
        command = shlex.split(rest)
        if kind != "stdio" or not command:
            raise InputError(f"{self.address!r} is no MCP server", hint="mcp:stdio:COMMAND or mcp:http://host/mcp")
        if shutil.which(command[0]) is None and not (self.root / command[0]).is_file():
            raise InputError(
                f"there is no command {command[0]!r}, which the MCP server {self.address!r} needs", hint=""
            )
        name, *arguments = kept(command)
        return stdio_client(StdioServerParameters(command=name, args=arguments, cwd=self.root), errlog=said)

    def _wrong(self, error: Exception, said: TextIO) -> InputError:
        """Why it could not be opened: what happened, and the last line of its standard error."""
        if isinstance(error, InputError):
            return error
        said.seek(0)
        lines = said.read().split("\n")
        last = next((f"; it said: {line.strip()}" for line in reversed(lines) if line.strip()), "")
        what = f"no answer within {OPENING:g} seconds" if isinstance(error, TimeoutError) else _sentence(error)
        return InputError(f"the MCP server {self.address!r} cannot be used: {what}{self._nonsense}{last}")


def _sentence(error: BaseException) -> str:
    """The first cause, since the library wraps errors in groups, in one line."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"it sent {'.'.join(map(str, first['loc']))}: {first['msg']}"
    return (str(error) or type(error).__name__).partition("\n")[0]


def _text(block: Any) -> str:
    """A piece of an answer as text; what is none is named."""
    content = getattr(block, "resource", block)
    if hasattr(content, "text"):
        return str(content.text)
    said = [block.type, content.mime_type, getattr(content, "uri", None)]
    return f"[{' '.join(str(each) for each in said if each)}]"
