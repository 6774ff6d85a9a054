"""A hub of models on this machine's loopback: enough of its API to be pulled from, and to fail."""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

COMMIT = "c0ffee" + "0" * 34
_MEBIBYTE = 1024**2


@dataclass
class Hub:
    """Repositories by name, each with its files; what is wrong with it; and what was asked."""

    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    # names of files: cut after so many bytes, once or for ever
    cut: dict[str, int] = field(default_factory=dict)
    down_after_cut: bool = False
    wrong_etag: set[str] = field(default_factory=set)
    damaged: set[str] = field(default_factory=set)
    wrong_size: set[str] = field(default_factory=set)
    # for each mebibyte that is sent
    slow_seconds: float = 0.0
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    url: str = ""

    def add(self, name: str, folder: Path) -> None:
        self.repositories[name] = {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }

    def environment(self, home: Path) -> dict[str, str]:
        return {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1"}


@contextmanager
def running(hub: Hub) -> Iterator[Hub]:
    class Handler(_Handler):
        pass

    Handler.hub = hub
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def is_lfs(name: str) -> bool:
    return name.endswith((".safetensors", ".bin"))


def digest(name: str, content: bytes) -> str:
    if is_lfs(name):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = urlsplit(self.path).path
        if found := re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)(/.*)?", path):
            return self._api(found[1], found[2] or "")
        if found := re.fullmatch(r"/([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)", path):
            return self._file(found[1], found[2], found[3])
        return self._refuse(404)

    def _api(self, name: str, rest: str) -> None:
        if name not in self.hub.repositories:
            return self._refuse(401, "RepoNotFound")
        if rest.startswith("/tree/"):
            return self._json([self._listed(name, one) for one in self.hub.repositories[name]])
        revision = rest.rpartition("/")[2]
        if revision not in ("", "main", COMMIT):
            return self._refuse(404, "RevisionNotFound")
        siblings = [{"rfilename": one} for one in self.hub.repositories[name]]
        return self._json({"id": name, "modelId": name, "sha": COMMIT, "siblings": siblings})

    def _listed(self, repository: str, name: str) -> dict[str, Any]:
        content = self.hub.repositories[repository][name]
        size = len(content) + (7 if name in self.hub.wrong_size else 0)
        told: dict[str, Any] = {"type": "file", "path": name, "size": size, "oid": "0" * 40}
        if is_lfs(name):
            told["lfs"] = {"oid": digest(name, content), "size": size, "pointerSize": 130}
        else:
            told["oid"] = digest(name, content)
        return told

    def _file(self, repository: str, revision: str, name: str) -> None:
        files = self.hub.repositories.get(repository)
        if files is None:
            return self._refuse(401, "RepoNotFound")
        if repository in self.hub.gated:
            return self._refuse(401, "GatedRepo")
        if name not in files:
            return self._refuse(404, "EntryNotFound")
        self.hub.asked.append((self.command, name, self.headers.get("Range") or ""))
        return self._send(name, files[name])

    def _send(self, name: str, content: bytes) -> None:
        etag = digest(name, content)
        if name in self.hub.wrong_etag:
            etag = "f" * len(etag)
        begin = 0
        if found := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or ""):
            begin = int(found[1])
        if name in self.hub.cut and self.hub.cut[name] < 0:
            return self._refuse(503)
        body = content[begin:]
        if name in self.hub.damaged:
            body = bytes(len(body))
        self.send_response(206 if begin else 200)
        if begin:
            last = len(content) - 1
            self.send_header("Content-Range", f"bytes {begin}-{last}/{len(content)}")
        self.send_header("ETag", f'"{etag}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        return self._write(name, body) if self.command == "GET" else None

    def _write(self, name: str, body: bytes) -> None:
        if name in self.hub.cut:
            length = self.hub.cut[name]
            self.hub.cut[name] = -1 if self.hub.down_after_cut else 1 << 40
            if length < len(body):
                self.close_connection = True
                body = body[:length]
        for start in range(0, len(body), _MEBIBYTE):
            self.wfile.write(body[start : start + _MEBIBYTE])
            if len(body) > _MEBIBYTE:
                time.sleep(self.hub.slow_seconds)

    def _json(self, told: Any) -> None:
        body = json.dumps(told).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _refuse(self, status: int, code: str = "") -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()


def seen(hub: Hub, name: str) -> Mapping[str, list[str]]:
    """The ranges of a file that were asked for, by method."""
    told: dict[str, list[str]] = {"GET": [], "HEAD": []}
    for method, one, span in hub.asked:
        if one == name:
            told[method].append(span)
    return told
