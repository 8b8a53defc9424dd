"""A hub on loopback that speaks the real one's API: metadata, refs, ranged reads, redirects, refusals, bad bodies."""

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
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
    """What the hub holds of one model. `bad`: file → how it is served, or a status.

    slow: half of it, then silence · short: half of it · whole: without ranges · wrong: its digest is another file's.
    Of what is asked for to its end alone: stuck: half of it, the rest when `go` is set · once: short the first time ·
    none: no byte.
    """

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
    """The server: `requests` lists every path got, `ranges` what of each was asked, `sent` counts bytes of bodies."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.renamed: dict[str, str] = {}
        self.requests: list[str] = []
        self.tokens_at_cdn: list[str] = []
        self.heads: list[str] = []
        self.ranges: dict[str, list[str]] = {}
        self.broken: set[str] = set()
        self.sent = 0
        self.sent_of: Counter[str] = Counter()
        self.stuck = threading.Event()
        self.go = threading.Event()
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
        self.go.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    served: Hub

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.served.heads.append(self.path)
        address = urlsplit(self.path)
        self._resolve(address.path, [unquote(word) for word in address.path.strip("/").split("/")])

    def do_GET(self) -> None:
        self.served.requests.append(self.path)
        address = urlsplit(self.path)
        words = [unquote(word) for word in address.path.strip("/").split("/")]
        if words[:2] == ["api", "models"]:
            self._api(words[2:], parse_qs(address.query))
        elif words[0] == "api":
            self._send(404, b"", {})
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
        files = [_listed(file, body, wrong=found.bad.get(file) == "wrong") for file, body in found.files.items()]
        return self._json(
            {"id": name, "modelId": name, "sha": found.sha, "private": found.private, "gated": found.gated and "manual",
             "disabled": found.disabled, "siblings": files, "cardData": dict(found.card), "tags": []}
        )  # fmt: skip

    def _resolve(self, path: str, words: list[str]) -> None:
        name, file = "/".join(words[:2]), "/".join(words[4:])
        found = self.served.repositories[name]
        if words[3] not in (*found.branches, found.sha):
            return self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
        if found.gated and not self._has_token():
            return self._send(401, b"gated", {"X-Error-Code": "GatedRepo"})
        body = found.files.get(file)
        if _is_lfs(file) and body is not None:
            port = self.server.server_port  # type: ignore[attr-defined]
            digest = _sha256(body, wrong=found.bad.get(file) == "wrong")
            linked = {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(_size(body)), "X-Repo-Commit": found.sha}
            return self._send(302, b"", {"Location": f"http://localhost:{port}/cdn/{name}/{file}"} | linked)
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
            start, end = int(first), min(int(last) + 1, size) if last else size
        if self.command == "GET":
            self.served.ranges.setdefault(f"{name}/{file}", []).append(asked or "")
        if bad in ("stuck", "once", "none") and not (asked or "").endswith("-"):
            bad = None
        if bad == "once":
            bad = None if self.path in self.served.broken else "short"
            self.served.broken.add(self.path)
        part = body.part(start, end) if isinstance(body, Sparse) else body[start:end]
        status = 206 if asked and bad != "whole" else 200
        headers = {"X-Repo-Commit": found.sha, "Accept-Ranges": "bytes"}
        if not _is_lfs(file):
            headers["ETag"] = f'"{_git_sha1(body)}"'
        if status == 206:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
        return self._send(status, part, headers, bad=bad, of=f"{name}/{file}")

    def _has_token(self) -> bool:
        return self.headers.get("Authorization") == "Bearer hf_let_me_in"

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(
        self, status: int, body: bytes, headers: Mapping[str, str], *, bad: str | None = None, of: str = ""
    ) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        half = len(body) // 2
        try:
            self._write(b"" if bad == "none" else body[:half] if bad in ("short", "slow", "stuck") else body, of)
            if bad == "stuck":
                self.served.stuck.set()
                self.served.go.wait()
                self._write(body[half:], of)
        except OSError:  # whoever asked has heard enough
            self.close_connection = True
        if bad == "slow":
            self.served.closing.wait()
        if bad:
            self.close_connection = True

    def _write(self, sent: bytes, of: str) -> None:
        self.wfile.write(sent)
        self.served.sent += len(sent)
        self.served.sent_of[of] += len(sent)


def _size(body: bytes | Sparse) -> int:
    return body.size if isinstance(body, Sparse) else len(body)


def _is_lfs(file: str) -> bool:
    return file.endswith((".safetensors", ".gguf", ".bin"))


def _listed(file: str, body: bytes | Sparse, *, wrong: bool) -> dict[str, Any]:
    found: dict[str, Any] = {"rfilename": file, "size": _size(body), "blobId": _git_sha1(body)}
    if _is_lfs(file):
        found["lfs"] = {"sha256": _sha256(body, wrong=wrong), "size": _size(body), "pointerSize": 134}
    return found


# What is longer nobody downloads here, so nobody adds its bytes up.
_LONGEST = 100_000_000


def _all(body: bytes | Sparse) -> bytes:
    if isinstance(body, bytes):
        return body
    return body.part(0, body.size) if body.size < _LONGEST else body.head


@cache
def _sha256(body: bytes | Sparse, *, wrong: bool) -> str:
    return hashlib.sha256(_all(body) + (b"!" if wrong else b"")).hexdigest()


@cache
def _git_sha1(body: bytes | Sparse) -> str:
    data = _all(body)
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
