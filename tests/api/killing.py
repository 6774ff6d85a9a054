"""A real server to be killed, and clients who write down everything it tells them."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from http.client import HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.api.ports import free_port

ORDER = {"queued": 0, "running": 1, "succeeded": 2, "failed": 2, "cancelled": 2}


class Server:
    """`darkroom serve` as a process of its own, always on the same folder and port."""

    def __init__(
        self, folder: Path, models: Path, name: str = "server", **settings: object
    ) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"
        self.data_dir = folder / "data"
        self.log = folder / f"{name}.log"
        self._models = models
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None and self._process.poll() is None:
            self.end(signal.SIGKILL)

    def start(self) -> float:
        """Start it; the seconds until it answered."""
        environment = os.environ | {
            f"DARKROOM_{name.upper()}": str(value) for name, value in self._settings.items()
        }
        command = [sys.executable, "-c", "from api.cli.commands import main; main()", "serve"]
        command += ["--port", self.url.rsplit(":", 1)[1]]
        command += ["--data-dir", str(self.data_dir), "--models", str(self._models)]
        started = time.monotonic()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        while call(self.url, "GET", "/livez") is None:
            assert self._process.poll() is None, self.log.read_text()[-3000:]
            assert time.monotonic() - started < 60, "the server does not answer"
            time.sleep(0.02)
        return time.monotonic() - started

    def end(self, how: signal.Signals) -> int:
        """Send a signal and wait; the exit status."""
        assert self._process is not None
        self._process.send_signal(how)
        return self._process.wait(timeout=60)


class Ear:
    """A receiver of webhooks, on a thread: it answers 200 and keeps what it was sent."""

    def __init__(self) -> None:
        self.heard: list[tuple[dict[str, str], bytes]] = []
        ear = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                size = int(self.headers["content-length"])
                body = self.rfile.read(size)
                if len(body) < size:
                    return  # killed in the middle of it
                ear.heard.append(({name.lower(): one for name, one in self.headers.items()}, body))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/told?by=darkroom"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def __enter__(self) -> Ear:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


@dataclass
class Order:
    """One accepted request and what its client has seen of it since."""

    id: str
    count: int
    seed: int
    to_cancel: bool = False
    cancel_sent: bool = False
    states: list[str] = field(default_factory=list)

    @property
    def ended(self) -> bool:
        return bool(self.states) and ORDER[self.states[-1]] == 2


class Client(threading.Thread):
    """Submits, polls and sometimes cancels, at any of the servers, whether they live or not.

    A submission that was not answered is sent again with its idempotency key, until it is.
    """

    def __init__(
        self, urls: Sequence[str], seed: int, *, webhook: str, most_open: int = 12
    ) -> None:
        super().__init__(daemon=True)
        self.orders: list[Order] = []
        self.leaving = threading.Event()
        self.broke: AssertionError | None = None
        self.unanswered: dict[str, Any] | None = None
        self.repeated = 0
        self._urls = urls
        self._webhook = webhook
        self._random = random.Random(seed)
        self._most_open = most_open

    @property
    def _url(self) -> str:
        return self._random.choice(self._urls)

    @property
    def open(self) -> list[Order]:
        return [order for order in self.orders if not order.ended]

    def run(self) -> None:
        try:
            while not self.leaving.is_set():
                self.act()
        except AssertionError as error:
            self.broke = error

    def act(self) -> None:
        """Perhaps submit, look at a few, rest a little."""
        if self.unanswered is not None:
            self.repeated += 1
            self.submit(self.unanswered)
        elif len(self.open) < self._most_open and self._random.random() < 0.5:
            self.submit(self.wish())
        for order in self._random.sample(self.open, min(4, len(self.open))):
            self.poll(order)
        time.sleep(self._random.uniform(0.02, 0.2))

    def wish(self) -> dict[str, Any]:
        return {
            "model": "tiny",
            "prompt": "a red circle",
            "count": self._random.randint(1, 3),
            "seed": self._random.randrange(2**32 - 3),
            "num_inference_steps": self._random.choice((2, 10, 60)),
            "webhook": self._webhook,
        }

    def submit(self, wish: dict[str, Any]) -> None:
        once = f"{wish['seed']}"
        answer = call(self._url, "POST", "/darkroom/generations", wish, once=once)
        self.unanswered = wish if answer is None else None
        if answer is not None:
            to_cancel = self._random.random() < 0.1
            order = Order(answer["id"], wish["count"], wish["seed"], to_cancel)
            order.states.append(answer["state"])
            self.orders.append(order)

    def poll(self, order: Order) -> None:
        path = f"/darkroom/generations/{order.id}"
        if order.to_cancel and self._random.random() < 0.2:
            order.to_cancel, order.cancel_sent = False, True
            answer = call(self._url, "POST", f"{path}/cancel", {})
        else:
            answer = call(self._url, "GET", path)
        if answer is not None:
            order.states.append(answer["state"])


def call(
    url: str,
    method: str,
    path: str,
    body: object = None,
    *,
    once: str | None = None,
    patience_seconds: float = 10,
) -> Any:
    """The parsed answer of a 2xx; None if there was no whole answer. Any other status raises."""
    headers = {"Content-Type": "application/json"}
    if once is not None:
        headers["Idempotency-Key"] = once
    request = urllib.request.Request(
        url + path,
        method=method,
        data=json.dumps(body).encode() if body is not None else None,
        headers=headers,
    )
    try:
        with urllib.request.urlopen(request, timeout=patience_seconds) as response:
            return json.load(response)
    except urllib.error.HTTPError as refused:
        raise AssertionError(f"{method} {path}: {refused.code} {refused.read()!r}") from None
    except (OSError, ValueError, HTTPException):
        return None
