"""A stand-in for the hub: the part of its HTTP interface that downloading a model uses, on this machine.

No hub can be reached where the tests run, so this is what `pull` is tested against. It speaks what
huggingface_hub asks for: /api/models/ID[/revision/REV], /api/models/ID/tree/REV, and HEAD and GET of
/ID/resolve/REV/FILE with ETag, X-Repo-Commit, X-Linked-Size and Range. It records every request, and can fail
in the ways that hubs fail.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit


@dataclass
class Model:
    files: dict[str, bytes]
    token: str | None = None
    """Only requests with this token see the model."""
    gated: bool = False
    commit: str = ""

    def __post_init__(self) -> None:
        self.commit = hashlib.sha1(repr(sorted(self.files.items())).encode()).hexdigest()


@dataclass
class Hub:
    """Models by id, the requests seen so far, and the faults to commit."""

    models: dict[str, Model]
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    """Method, path and headers (names in lower case) of each."""
    cut_after: int | None = None
    """Cut a file's transfer off after so many bytes ..."""
    cuts: int = 0
    """... this many times."""
    delay: float = 0.0
    """Seconds before each file's bytes."""

    def __enter__(self) -> Hub:
        hub = self

        class Handler(_Handler):
            pass

        Handler.hub = hub
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def paths(self, method: str) -> list[str]:
        return [path for verb, path, _ in self.requests if verb == method]


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.hub.requests.append((self.command, path, headers))
        parts = path.strip("/").split("/")
        is_api = parts[:2] == ["api", "models"]
        id = "/".join(parts[2:4] if is_api else parts[:2])
        model = self.hub.models.get(id)
        if model is None or (model.token and self.headers.get("Authorization") != f"Bearer {model.token}"):
            status = 404 if model is None and self.headers.get("Authorization") else 401
            return self.fail(status, "RepoNotFound", "Repository not found")
        rest = parts[4:] if is_api else parts[2:]
        if len(rest) >= 2 and rest[1] not in ("main", model.commit):
            return self.fail(404, "RevisionNotFound", f"Invalid rev id: {rest[1]}")
        if is_api:
            return self.api(id, model, rest)
        if model.gated:
            return self.fail(403, "GatedRepo", "Access to this model is restricted")
        content = model.files.get("/".join(rest[2:]))
        if rest[:1] != ["resolve"] or content is None:
            return self.fail(404, "EntryNotFound", "Entry not found")
        return self.file(model, content)

    def api(self, id: str, model: Model, rest: list[str]) -> None:
        if rest[:1] == ["tree"]:
            rows = [
                {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for name, data in sorted(model.files.items())
            ]
            return self.send(200, json.dumps(rows).encode())
        info: dict[str, Any] = {
            "id": id, "modelId": id, "sha": model.commit, "private": False,
            "tags": [], "downloads": 0, "likes": 0,
            "siblings": [{"rfilename": name} for name in sorted(model.files)],
        }  # fmt: skip
        return self.send(200, json.dumps(info).encode())

    def file(self, model: Model, content: bytes) -> None:
        etag = hashlib.sha256(content).hexdigest()
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": model.commit, "X-Linked-Size": str(len(content)),
                   "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}  # fmt: skip
        begin, status = 0, 200
        if span := self.headers.get("Range"):
            begin, status = int(span.removeprefix("bytes=").split("-")[0]), 206
            headers["Content-Range"] = f"bytes {begin}-{len(content) - 1}/{len(content)}"
        body = content[begin:]
        hub = self.hub
        if self.command == "GET":
            time.sleep(hub.delay)
            if hub.cut_after is not None and hub.cuts > 0 and len(body) > hub.cut_after:
                hub.cuts -= 1
                self.send_head(status, len(body), headers)
                self.wfile.write(body[: hub.cut_after])
                self.wfile.flush()
                self.close_connection = True
                self.connection.shutdown(2)
                return
        self.send(status, body, headers)

    def fail(self, status: int, code: str, message: str) -> None:
        headers = {"X-Error-Code": code, "X-Error-Message": message}
        self.send(status, json.dumps({"error": message}).encode(), headers)

    def send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_head(status, len(body), headers or {"Content-Type": "application/json"})
        if self.command == "GET":
            self.wfile.write(body)

    def send_head(self, status: int, length: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()
