"""An MCP server, in its own process: python mcp_server.py HOW. Good ones by the library, bad ones by hand."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path


def good() -> None:
    from mcp.server.mcpserver import Image, MCPServer
    from mcp.server.mcpserver.exceptions import ToolError

    server = MCPServer("for tests")

    @server.tool()
    def add(a: int, b: int) -> int:
        """Adds two numbers."""
        return a + b

    @server.tool()
    def fail() -> str:
        raise ToolError("the moon is full")

    @server.tool()
    def die() -> str:
        os._exit(1)

    @server.tool()
    def hang() -> str:
        threading.Event().wait()
        return "never"

    @server.tool()
    def flood() -> str:
        return "x" * 5_000_000

    @server.tool()
    def picture() -> list[Image | str]:
        return ["a dot", Image(data=b"\x89PNG", format="png")]

    if "detach" in sys.argv:
        subprocess.Popen(["sleep", "86396.25"], start_new_session=True)
    if "http" in sys.argv:
        import asyncio

        import uvicorn

        async def listen() -> None:
            config = uvicorn.Config(server.streamable_http_app(), host="127.0.0.1", port=0, log_level="error")
            web = uvicorn.Server(config)
            serving = asyncio.create_task(web.serve())
            while not web.started:
                await asyncio.sleep(0)
            print(web.servers[0].sockets[0].getsockname()[1], flush=True)
            await serving

        asyncio.run(listen())
    else:
        server.run()


def bad(how: str) -> None:
    """A server of few lines, which does one thing wrong."""
    if how == "silent":
        time.sleep(600)
    if how == "gone":
        sys.exit("I need a licence")
    if how == "nonsense":
        print("Welcome to my server!", flush=True)
        sys.exit(0)
    schemas = {
        "broken": {"type": "object", "properties": {"a": {"type": "no such type"}}},
        "list": {"type": "array"},
        "text": "no schema at all",
        "none": None,
    }
    for line in sys.stdin:
        asked = json.loads(line)
        if "id" not in asked:
            continue
        answer: dict[str, object] = {"error": {"code": -32601, "message": "unknown"}}
        if asked["method"] == "initialize":
            about = {"name": "bad", "version": "1"}
            version = asked["params"]["protocolVersion"]
            answer = {"result": {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": about}}
        elif asked["method"] == "tools/list":
            tools = [] if how == "empty" else [{"name": "t", "inputSchema": schemas.get(how, {"type": "object"})}]
            answer = {"result": {"tools": tools}}
            if how == "endless":
                answer = {"result": {"tools": [], "nextCursor": "more"}}
        elif asked["method"] == "tools/call":
            answer = {"result": {"content": "not a list"}}
            if how == "babbling":
                print("Let me think about it", flush=True)
                continue
        print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], **answer}), flush=True)


if __name__ == "__main__":
    assert Path(__file__).name in sys.argv[0]
    good() if sys.argv[1] == "good" else bad(sys.argv[1])
