"""A real S3 server (SeaweedFS) on loopback, which can be killed and started again."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2
import obstore
import pytest
from obstore.store import S3Store

from api.storage import S3Storage
from tests.api.ports import free_ports

BUCKET = "pictures"
KEY_ID = "tester"
SECRET = "canary-secret-of-the-tests"
START_SECONDS = 60
# every port that the server would otherwise choose itself
PORTS = (
    *("s3.port", "s3.port.grpc", "filer.port", "filer.port.grpc"),
    *("master.port", "master.port.grpc", "volume.port", "volume.port.grpc"),
)
FIXED = (
    *("-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3", "-s3.port.iceberg=0", "-s3.port.lance=0"),
    *("-volume.max=8", "-master.volumeSizeLimitMB=64", "-master.telemetry=false"),
    *("-s3.autoCreateBucket=false", "-master.peers=none"),
)


class S3Server:
    """One process with one bucket; `kill` and `start` keep its data and its address."""

    def __init__(self, binary: str, folder: Path) -> None:
        self._binary = binary
        self._folder = folder
        self._ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
        self._process: subprocess.Popen[bytes] | None = None
        self.endpoint = f"http://127.0.0.1:{self._ports['s3.port']}"
        identity = {
            "name": "tests",
            "credentials": [{"accessKey": KEY_ID, "secretKey": SECRET}],
            "actions": ["Admin", "Read", "Write", "List"],
        }
        (folder / "keys.json").write_text(json.dumps({"identities": [identity]}))

    def start(self) -> None:
        """Start and wait until pictures can be put."""
        arguments = [self._binary, f"-logdir={self._folder}", "server", *FIXED]
        arguments += [f"-dir={self._folder}", f"-s3.config={self._folder / 'keys.json'}"]
        arguments += [f"-{name}={port}" for name, port in self._ports.items()]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                arguments, cwd=self._folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        deadline = time.monotonic() + START_SECONDS
        while not self._takes_pictures():
            assert self._process.poll() is None, (self._folder / "log").read_text()[-2000:]
            assert time.monotonic() < deadline, (self._folder / "log").read_text()[-2000:]
            time.sleep(0.1)

    def kill(self) -> None:
        """End at once; asked politely it takes half a minute."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def storage(self, prefix: str, **changes: Any) -> S3Storage:
        """A storage under a prefix of the bucket."""
        values: dict[str, Any] = {
            "endpoint": self.endpoint,
            "access_key_id": KEY_ID,
            "secret_access_key": SECRET,
            "timeout_seconds": 20,
        }
        return S3Storage(f"s3://{BUCKET}/{prefix}", **(values | changes))

    def client(self, **options: Any) -> S3Store:
        """A bare client for the bucket."""
        return S3Store(
            BUCKET,
            endpoint=self.endpoint,
            region="us-east-1",
            access_key_id=KEY_ID,
            secret_access_key=SECRET,
            client_options={"allow_http": True, "timeout": "5s"},
            retry_config={"max_retries": 0},
            **options,
        )

    def _takes_pictures(self) -> bool:
        client = self.client()
        try:
            made = httpx2.put(_sign_bucket(client))
            if made.status_code not in (200, 409):
                return False
            client.put("started", b"yes")
            return bytes(client.get("started").bytes()) == b"yes"
        except (httpx2.HTTPError, obstore.exceptions.BaseError, OSError):
            return False


def _sign_bucket(client: S3Store) -> str:
    return obstore.sign(client, "PUT", "", timedelta(seconds=60))


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """The server that every test of S3 shares; each takes a prefix of its own."""
    beside = Path(sys.executable).parent / "weed"
    binary = str(beside) if beside.exists() else shutil.which("weed")
    if binary is None:
        pytest.skip("no S3 server here: the command `weed` of the test extra is missing")
    server = S3Server(binary, tmp_path_factory.mktemp("s3"))
    try:
        server.start()
        yield server
    finally:
        server.kill()
