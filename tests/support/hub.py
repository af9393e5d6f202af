"""A server on this machine that speaks the hub's file API, for folders of one's own."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit


@dataclass
class Hub:
    """What the server has.

    Attributes:
        repositories: Folders by hub id and revision.
        gated: Hub ids whose files nobody gets.
        cut: Files that are sent half, the connection closed after it.
        asked: Paths that were asked for, in order.
        url: Where it listens.
    """

    repositories: dict[str, dict[str, Path]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    cut: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    url: str = ""

    def commit(self, name: str, revision: str) -> str:
        """The commit that a revision stands for."""
        return hashlib.sha1(f"{name}@{revision}".encode()).hexdigest()

    def find(self, name: str, revision: str) -> tuple[str, Path] | None:
        """Commit and folder of a revision, given by its name or commit."""
        for known, folder in self.repositories[name].items():
            sha = self.commit(name, known)
            if revision in (known, sha):
                return sha, folder
        return None


@contextmanager
def serving() -> Iterator[Hub]:
    """The server, for as long as the block runs."""
    hub = Hub()

    class Answer(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *words: Any) -> None:
            """Says nothing."""

        def do_GET(self) -> None:
            _answer(self, hub, body=True)

        def do_HEAD(self) -> None:
            _answer(self, hub, body=False)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def _answer(to: BaseHTTPRequestHandler, hub: Hub, body: bool) -> None:
    path = unquote(urlsplit(to.path).path)
    hub.asked.append(path)
    words = path.strip("/").split("/")
    if words[:2] == ["api", "models"]:
        name, rest = "/".join(words[2:4]), words[4:]
        revision = rest[1] if len(rest) > 1 else "main"
    else:
        name, rest = "/".join(words[:2]), words[2:]
        revision = rest[1] if len(rest) > 1 else "main"
    if name not in hub.repositories:
        return _refuse(to, 404, "RepoNotFound")
    found = hub.find(name, revision)
    if found is None:
        return _refuse(to, 404, "RevisionNotFound")
    sha, folder = found
    files = {str(p.relative_to(folder)): p for p in sorted(folder.rglob("*")) if p.is_file()}
    if words[0] == "api" and rest[:1] == ["tree"]:
        listed = [
            {"type": "file", "path": f, "size": p.stat().st_size, "oid": _etag(p)} for f, p in files.items()
        ]
        return _say(to, json.dumps(listed).encode(), {"Content-Type": "application/json"}, body)
    if words[0] == "api":
        siblings = [{"rfilename": file} for file in files]
        told = {"id": name, "modelId": name, "sha": sha, "siblings": siblings, "private": False, "tags": []}
        return _say(to, json.dumps(told).encode(), {"Content-Type": "application/json"}, body)
    if name in hub.gated:
        return _refuse(to, 403, "GatedRepo")
    file = "/".join(rest[2:])
    if file not in files:
        return _refuse(to, 404, "EntryNotFound")
    data = files[file].read_bytes()
    half = file in hub.cut and body
    headers = {"ETag": f'"{_etag(files[file])}"', "X-Repo-Commit": sha, "Accept-Ranges": "none"}
    _say(to, data, headers, body, data[: len(data) // 2] if half else None)
    if half:
        to.close_connection = True
    return None


def _etag(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()


def _refuse(to: BaseHTTPRequestHandler, status: int, code: str) -> None:
    to.send_response(status)
    to.send_header("X-Error-Code", code)
    to.send_header("X-Error-Message", code)
    to.send_header("Content-Length", "0")
    to.end_headers()


def _say(
    to: BaseHTTPRequestHandler, data: bytes, headers: dict[str, str], body: bool, sent: bytes | None = None
) -> None:
    to.send_response(200)
    for key, value in headers.items():
        to.send_header(key, value)
    to.send_header("Content-Length", str(len(data)))
    to.end_headers()
    if body:
        to.wfile.write(data if sent is None else sent)
