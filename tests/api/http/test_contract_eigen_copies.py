"""Eigen's contract, copies of pictures on S3: on a real S3 server.

`S2` in an id is the provider's own page; `INF` is what we do where it is silent.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from inference.errors import OutOfMemory
from tests.api.http.eigen import LEAST, PATH, Send, ask, ended, fault, made, send
from tests.api.http.served import Served, serving
from tests.api.making import opened
from tests.api.s3server import BUCKET, KEY_ID, SECRET, S3Server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("data")
    with serving(folder, allowed_targets=("127.0.0.1",)) as running:
        yield running


@pytest.fixture
def place(client: httpx2.Client, s3_server: S3Server) -> Iterator[str]:
    """A prefix of the bucket that the account has a destination for."""
    prefix = f"eigen-{secrets.token_hex(6)}"
    body = {
        **{"name": prefix, "url": f"s3://{BUCKET}/{prefix}", "endpoint": s3_server.endpoint},
        **{"access_key_id": KEY_ID, "secret_access_key": SECRET},
    }
    assert client.post("/darkroom/destinations", json=body).status_code == 201
    yield prefix
    client.delete(f"/darkroom/destinations/{prefix}")


def stored(s3_server: S3Server, key: str) -> bytes:
    return bytes(s3_server.client().get(key).bytes())


@pytest.mark.parametrize("how", [pytest.param(ask, id="S2 JSON"), pytest.param(send, id="S2 form")])
@pytest.mark.parametrize("key", ["banana_example.png", "a b/ü.png"])
def test_a_copy_lies_where_it_is_asked(
    client: httpx2.Client, s3_server: S3Server, place: str, how: Send, key: str
) -> None:
    path = f"s3://{BUCKET}/{place}/{key}"

    body = made(how(client, s3_output_path=path))

    assert body["s3_output_path"] == path
    copy = opened(stored(s3_server, f"{place}/{key}"))
    assert copy.tobytes() == opened(body["image_base64"]).tobytes()


def test_a_job_leaves_a_copy_too__INF(
    client: httpx2.Client, s3_server: S3Server, place: str
) -> None:
    path = f"s3://{BUCKET}/{place}/deep/job.jpg"
    wish: dict[str, Any] = {"async": True, "output_format": "jpg", "s3_output_path": path}

    told = ended(client, made(ask(client, **wish))["task_id"])

    assert told["status"] == "completed"
    assert opened(stored(s3_server, f"{place}/deep/job.jpg")).format == "JPEG"


def test_a_copy_is_made_though_its_caller_has_left__INF(
    served: Served, s3_server: S3Server, place: str
) -> None:
    served.script.gate.clear()
    path = f"s3://{BUCKET}/{place}/left.png"
    task_id = served.leave(PATH, LEAST | {"s3_output_path": path})
    served.script.gate.set()

    assert served.end(task_id)["state"] == "succeeded"
    assert opened(stored(s3_server, f"{place}/left.png")).format == "PNG"


@pytest.mark.parametrize(
    "path",
    [
        pytest.param("s3://another-bucket/a.png", id="INF another bucket"),
        pytest.param(f"s3://{BUCKET}/elsewhere/a.png", id="INF another prefix"),
    ],
)
def test_a_bucket_that_is_not_set_up_is_told(client: httpx2.Client, place: str, path: str) -> None:
    reply = ask(client, s3_output_path=path)

    assert reply.status_code == 400
    assert "s3_output_path" in fault(reply)
    assert "darkroom destinations add" in fault(reply)
    assert place not in fault(reply)


@pytest.mark.parametrize("key", ["a/../b.png", "a//b.png", "a\\b.png", "x" * 900, "./a.png"])
def test_a_key_that_servers_differ_on_is_refused__INF(
    client: httpx2.Client, place: str, key: str
) -> None:
    reply = ask(client, s3_output_path=f"s3://{BUCKET}/{place}/{key}")

    assert reply.status_code == 400
    assert fault(reply).startswith("s3_output_path")


def test_a_picture_that_is_not_made_leaves_no_copy__INF(
    served: Served, s3_server: S3Server, place: str
) -> None:
    served.script.fails = lambda job, index: OutOfMemory("too large")

    reply = ask(served.client, s3_output_path=f"s3://{BUCKET}/{place}/none.png")

    assert reply.status_code == 500
    with pytest.raises(FileNotFoundError):
        stored(s3_server, f"{place}/none.png")
