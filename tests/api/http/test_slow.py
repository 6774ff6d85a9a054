"""Clients that dawdle: cut at their deadline, while others are served."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
import uvicorn

from api.app import create_app
from api.build import build
from api.punctual import Deadlines, Punctual
from api.settings import Settings
from tests.api.http.served import ROOT, until
from tests.api.scripted import ScriptedEngine

# Short for who is to be cut, and longer for who is not, however slow this machine is.
DEADLINES = Deadlines(head_seconds=1.0, body_pause_seconds=1.0, body_seconds=3.0)
LONGER = Deadlines(head_seconds=3.0, body_pause_seconds=3.0, body_seconds=60.0)
HEAD = (
    b"POST /darkroom/generations HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
)
BODY = b'{"prompt": "a red circle"}'


class Impatient(Punctual):
    deadlines = DEADLINES


class Patient(Punctual):
    deadlines = LONGER


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with serving(tmp_path_factory.mktemp("data"), Impatient) as port:
        yield port


@pytest.fixture(scope="module")
def patient_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with serving(tmp_path_factory.mktemp("data"), Patient) as port:
        yield port


@contextmanager
def serving(folder: Path, http: type[Punctual]) -> Iterator[int]:
    settings = Settings(data_dir=folder, models=ROOT / "models.yaml", disk_floor_bytes=0)
    app = create_app(build(settings, engine=ScriptedEngine()))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, http=http))
    thread = threading.Thread(target=server.run)
    thread.start()
    until(lambda: server.started or not thread.is_alive())
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    thread.join(60)


async def talk(port: int, pieces: list[bytes], pause_seconds: float) -> tuple[bytes, float]:
    """What came back, and after how many seconds the connection ended."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    started = time.monotonic()

    async def send() -> None:
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(pause_seconds)

    sending = asyncio.create_task(send())
    try:
        came = await reader.read()
    except ConnectionResetError:
        came = b""
    sending.cancel()
    writer.close()
    return came, time.monotonic() - started


def client_of(port: int) -> httpx2.AsyncClient:
    url = f"http://127.0.0.1:{port}"
    return httpx2.AsyncClient(base_url=url, timeout=90, trust_env=False)


@pytest.mark.parametrize(
    ("pieces", "pause_seconds"),
    [
        pytest.param([], 0.0, id="silence"),
        pytest.param([HEAD], 0.0, id="half a head"),
        pytest.param([bytes([byte]) for byte in HEAD * 5], 0.05, id="a dripping head"),
        pytest.param([HEAD + b"Content-Length: 26\r\n\r\n{"], 0.0, id="half a body"),
        pytest.param(
            [HEAD + b"Content-Length: 1000\r\n\r\n", *[b"{"] * 900], 0.2, id="a dripping body"
        ),
    ],
)
async def test_who_dawdles_is_cut(port: int, pieces: list[bytes], pause_seconds: float) -> None:
    came, seconds = await talk(port, pieces, pause_seconds)
    assert came == b""
    assert 0.9 < seconds < 30


async def test_who_is_slow_but_steady_is_served(patient_port: int) -> None:
    """It takes longer in all than a pause may."""
    length = b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(BODY)
    pieces = [HEAD + length, *(BODY[at : at + 1] for at in range(len(BODY)))]
    came, seconds = await talk(patient_port, pieces, 0.12)
    assert came.startswith(b"HTTP/1.1 202")
    assert seconds > LONGER.body_pause_seconds


async def test_an_answer_may_take_longer_than_any_deadline(patient_port: int) -> None:
    async with client_of(patient_port) as client:
        made = (await client.post("/darkroom/generations", json={"prompt": "a"})).json()
        path = f"/darkroom/generations/{made['id']}"
        await client.get(f"{path}?wait=60")
        # the same connection, used again after a rest that is longer than a head may take
        await asyncio.sleep(LONGER.head_seconds + 0.5)
        assert (await client.get(path)).status_code == 200


async def test_others_are_served_meanwhile(port: int) -> None:
    slow = [asyncio.create_task(talk(port, [HEAD], 0.0)) for _ in range(200)]
    async with client_of(port) as client:
        assert (await client.get("/livez")).status_code == 200
    assert all(came == b"" for came, _ in await asyncio.gather(*slow))
