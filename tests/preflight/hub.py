"""A hub on loopback that speaks the real one's API: metadata, refs, ranged reads, redirects, refusals, bad bodies."""

import hashlib
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit


class Sparse(NamedTuple):
    """A file of `size` bytes of which only the beginning is written down; the rest is zeros."""

    head: bytes
    size: int

    def part(self, start: int, end: int) -> bytes:
        return self.head[start:end].ljust(min(end, self.size) - start, b"\0")


@dataclass
class Repository:
    """What the hub holds of one model. `bad`: file → slow, short, whole (no ranges) or a status."""

    files: Mapping[str, bytes | Sparse] = field(default_factory=dict)
    card: Mapping[str, Any] = field(default_factory=lambda: {"license": "apache-2.0"})
    gated: bool = False
    private: bool = False
    disabled: bool = False
    branches: tuple[str, ...] = ("main",)
    status: int | None = None
    bad: Mapping[str, str | int] = field(default_factory=dict)

    @property
    def sha(self) -> str:
        return hashlib.sha1("\n".join(self.files).encode()).hexdigest()


class Hub:
    """The server: `requests` lists every path asked, `sent` counts bytes of bodies."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.renamed: dict[str, str] = {}
        self.requests: list[str] = []
        self.tokens_at_cdn: list[str] = []
        self.sent = 0
        self.closing = threading.Event()
        hub = self

        class Handler(_Handler):
            served = hub

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def close(self) -> None:
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    served: Hub

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.served.requests.append(self.path)
        address = urlsplit(self.path)
        words = [unquote(word) for word in address.path.strip("/").split("/")]
        if words[:2] == ["api", "models"]:
            self._api(words[2:], parse_qs(address.query))
        elif words[0] == "cdn":
            self.served.tokens_at_cdn.append(self.headers.get("Authorization", ""))
            self._file("/".join(words[1:3]), "/".join(words[3:]))
        else:
            self._resolve(address.path, words)

    def _api(self, words: list[str], query: dict[str, list[str]]) -> None:
        if not words:
            wanted = query.get("search", [""])[0].lower()
            near = [name for name in self.served.repositories if wanted[:5] in name.lower()]
            return self._json([{"id": name, "modelId": name} for name in near])
        name = "/".join(words[:2])
        if name in self.served.renamed:
            tail = self.path.split(name, 1)[1]
            return self._send(307, b"", {"Location": f"/api/models/{self.served.renamed[name]}{tail}"})
        found = self.served.repositories.get(name)
        if found is None or (found.private and not self._has_token()):
            code = 404 if self._has_token() else 401
            return self._send(code, b"{}", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
        if found.status:
            return self._send(found.status, b"{}", {"Retry-After": "7"})
        if words[2:] == ["refs"]:
            refs = [{"name": one, "ref": f"refs/heads/{one}", "targetCommit": found.sha} for one in found.branches]
            return self._json({"branches": refs, "tags": [], "converts": []})
        if words[2:3] == ["revision"] and words[3] not in (*found.branches, found.sha):
            return self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        files = [{"rfilename": file, "size": _size(body)} for file, body in found.files.items()]
        return self._json(
            {"id": name, "modelId": name, "sha": found.sha, "private": found.private, "gated": found.gated and "manual",
             "disabled": found.disabled, "siblings": files, "cardData": dict(found.card), "tags": []}
        )  # fmt: skip

    def _resolve(self, path: str, words: list[str]) -> None:
        name, file = "/".join(words[:2]), "/".join(words[4:])
        found = self.served.repositories[name]
        if found.gated and not self._has_token():
            return self._send(401, b"gated", {"X-Error-Code": "GatedRepo"})
        if file.endswith((".safetensors", ".gguf", ".bin")):
            port = self.server.server_port  # type: ignore[attr-defined]
            return self._send(302, b"", {"Location": f"http://localhost:{port}/cdn/{name}/{file}"})
        return self._file(name, file)

    def _file(self, name: str, file: str) -> None:
        found = self.served.repositories[name]
        bad, body = found.bad.get(file), found.files.get(file)
        if body is None:
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
        if isinstance(bad, int):
            return self._send(bad, b"no", {})
        size = _size(body)
        start, end = 0, size
        asked = self.headers.get("Range")
        if asked and bad != "whole":
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start, end = int(first), min(int(last) + 1, size)
        part = body.part(start, end) if isinstance(body, Sparse) else body[start:end]
        status = 206 if asked and bad != "whole" else 200
        return self._send(status, part, {"X-Repo-Commit": found.sha}, bad=bad)

    def _has_token(self) -> bool:
        return self.headers.get("Authorization") == "Bearer hf_let_me_in"

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: Mapping[str, str], *, bad: str | None = None) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        sent = body[: len(body) // 2] if bad in ("short", "slow") else body
        try:
            self.wfile.write(sent)
            self.served.sent += len(sent)
        except OSError:  # whoever asked has heard enough
            self.close_connection = True
        if bad == "slow":
            self.served.closing.wait()
        if bad:
            self.close_connection = True


def _size(body: bytes | Sparse) -> int:
    return body.size if isinstance(body, Sparse) else len(body)
