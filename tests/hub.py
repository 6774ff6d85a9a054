"""A hub of models on this machine's loopback: enough of its API to be pulled from, and to fail."""

from __future__ import annotations

import hashlib
import json
import re
import threading
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
    # of those that have moved, and what they had before, by name and commit
    commits: dict[str, str] = field(default_factory=dict)
    past: dict[tuple[str, str], dict[str, bytes]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    # names of files: cut after so many bytes, once or for ever
    cut: dict[str, int] = field(default_factory=dict)
    down_after_cut: bool = False
    wrong_etag: set[str] = field(default_factory=set)
    damaged: set[str] = field(default_factory=set)
    wrong_size: set[str] = field(default_factory=set)
    # after each piece that is sent of what is more than one, until it is to `hurry`
    slow_seconds: float = 0.0
    in_hurry: threading.Event = field(default_factory=threading.Event)
    piece_bytes: int = _MEBIBYTE
    # of files, how much is sent before it says nothing more; and what it does not even greet for:
    # "GET", "HEAD", or "api"
    silent: dict[str, int] = field(default_factory=dict)
    mute: set[str] = field(default_factory=set)
    spoke: threading.Event = field(default_factory=threading.Event)
    knows_ranges: bool = True
    asked_at_all: int = 0
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    url: str = ""

    def add(self, name: str, folder: Path) -> None:
        self.repositories[name] = {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }

    def hurry(self) -> None:
        """Send what is on its way, and all that follows, at once."""
        self.slow_seconds = 0.0
        self.in_hurry.set()

    def move(self, name: str, commit: str, files: dict[str, bytes]) -> None:
        """Let its branch lead to another commit."""
        self.past[name, self.commit_of(name)] = self.repositories[name]
        self.repositories[name], self.commits[name] = files, commit

    def commit_of(self, name: str) -> str:
        return self.commits.get(name, COMMIT)

    def at(self, name: str, revision: str) -> dict[str, bytes] | None:
        """The files of a commit or branch."""
        if revision in ("", "main", self.commit_of(name)):
            return self.repositories.get(name)
        return self.past.get((name, revision))

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
        hub.spoke.set()
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
        self.hub.asked_at_all += 1
        path = urlsplit(self.path).path
        found = re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)(/.*)?", path)
        if ("api" if found else self.command) in self.hub.mute:
            self.hub.spoke.wait(60)
        if found:
            return self._api(found[1], found[2] or "")
        if found := re.fullmatch(r"/([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)", path):
            return self._file(found[1], found[2], found[3])
        return self._refuse(404)

    def _api(self, name: str, rest: str) -> None:
        if name not in self.hub.repositories:
            return self._refuse(401, "RepoNotFound")
        revision = rest.rpartition("/")[2]
        files = self.hub.at(name, revision)
        if files is None:
            return self._refuse(404, "RevisionNotFound")
        if rest.startswith("/tree/"):
            return self._json([self._listed(one, content) for one, content in files.items()])
        siblings = [{"rfilename": one} for one in files]
        is_past = (name, revision) in self.hub.past
        sha = revision if is_past else self.hub.commit_of(name)
        return self._json({"id": name, "modelId": name, "sha": sha, "siblings": siblings})

    def _listed(self, name: str, content: bytes) -> dict[str, Any]:
        size = len(content) + (7 if name in self.hub.wrong_size else 0)
        told: dict[str, Any] = {"type": "file", "path": name, "size": size, "oid": "0" * 40}
        if is_lfs(name):
            told["lfs"] = {"oid": digest(name, content), "size": size, "pointerSize": 130}
        else:
            told["oid"] = digest(name, content)
        return told

    def _file(self, repository: str, revision: str, name: str) -> None:
        if repository not in self.hub.repositories:
            return self._refuse(401, "RepoNotFound")
        files = self.hub.at(repository, revision)
        if files is None:
            return self._refuse(404, "RevisionNotFound")
        if repository in self.hub.gated:
            return self._refuse(401, "GatedRepo")
        if name not in files:
            return self._refuse(404, "EntryNotFound")
        self.hub.asked.append((self.command, name, self.headers.get("Range") or ""))
        is_past = (repository, revision) in self.hub.past
        commit = revision if is_past else self.hub.commit_of(repository)
        return self._send(name, files[name], commit)

    def _send(self, name: str, content: bytes, commit: str) -> None:
        etag = digest(name, content)
        if name in self.hub.wrong_etag:
            etag = "f" * len(etag)
        begin = 0
        found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if found and self.hub.knows_ranges:
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
        self.send_header("X-Repo-Commit", commit)
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
        if name in self.hub.silent:
            length = self.hub.silent.pop(name)
            self.wfile.write(body[:length])
            self.hub.spoke.wait(60)
            body = body[length:]
        piece = self.hub.piece_bytes
        for start in range(0, len(body), piece):
            self.wfile.write(body[start : start + piece])
            if len(body) > piece:
                self.hub.in_hurry.wait(self.hub.slow_seconds)

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


@contextmanager
def reached(hub: Hub, cache_dir: Path, monkeypatch: Any) -> Iterator[Hub]:
    """The hub as this process sees it, with a cache of its own, read in small pieces."""
    from huggingface_hub import constants

    address = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    with monkeypatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setattr(constants, "HF_HUB_CACHE", str(cache_dir))
        patch.setattr(constants, "ENDPOINT", hub.url)
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address)
        patch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1 << 16)
        patch.setenv("NO_PROXY", "127.0.0.1")
        yield hub


def seen(hub: Hub, name: str) -> Mapping[str, list[str]]:
    """The ranges of a file that were asked for, by method."""
    told: dict[str, list[str]] = {"GET": [], "HEAD": []}
    for method, one, span in hub.asked:
        if one == name:
            told[method].append(span)
    return told
