"""Servers that models.yaml names, when they answer badly or never: told, and bounded."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from api.assist.wire import MOST_REPLY_BYTES, JsonWire
from api.assistants import AssistantFailed
from tests.api.assist.replies import tells
from tests.api.ports import free_port
from tests.api.receivers import (
    Answer,
    Receiver,
    drips,
    hangs,
    pours,
    resets,
    says,
    sends,
)

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n"


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as running:
        yield running


async def ask(receiver: Receiver, seconds: float = 10, key: str | None = None) -> object:
    wire = JsonWire("helper", f"http://127.0.0.1:{receiver.port}/base", seconds, key)
    try:
        return await wire.post("/ask", {"a": "ä"})
    finally:
        await wire.close()


async def test_asks_in_json_and_reads_json(receiver: Receiver) -> None:
    receiver.answers = [tells({"b": ["ö"]})]
    assert await ask(receiver, key="s3cret") == {"b": ["ö"]}
    (asked,) = receiver.received
    assert (asked.method, asked.path, json.loads(asked.body)) == ("POST", "/base/ask", {"a": "ä"})
    assert asked.headers["authorization"] == "Bearer s3cret"
    assert asked.headers["accept-encoding"] == "identity"


async def test_without_a_key_none_is_sent(receiver: Receiver) -> None:
    receiver.answers = [tells({})]
    await ask(receiver)
    assert "authorization" not in receiver.received[0].headers


async def test_one_connection_serves_many_questions(receiver: Receiver) -> None:
    receiver.answers = [tells(1, connection="close"), tells(2)]
    wire = JsonWire("helper", f"http://127.0.0.1:{receiver.port}", 10)
    assert [await wire.get("/x", {"q": "a b&c"}) for _ in range(2)] == [1, 2]
    assert [one.path for one in receiver.received] == ["/x?q=a+b%26c"] * 2
    await wire.close()


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (says(500, b"secret stack"), "the helper answered with status 500"),
        (says(404), "the helper answered with status 404"),
        (says(204), "the helper answered with status 204"),
        (says(200, b"<html>"), "the helper answered with something that is not JSON"),
        (says(200, b"\xff\xfe\x00"), "the helper answered with something that is not JSON"),
        (says(200, b""), "the helper answered with something that is not JSON"),
        (says(200, b"[" * 100_000), "the helper answered with something that is not JSON"),
        (sends(b"no http\r\n\r\n"), "the helper broke off, or does not speak HTTP"),
        (sends(b""), "the helper broke off, or does not speak HTTP"),
        (resets, "the helper broke off, or does not speak HTTP"),
        (
            says(200, gzip.compress(b"{}"), content_encoding="gzip"),
            "the helper sends its answer compressed although asked not to",
        ),
    ],
)
async def test_what_is_no_answer_is_told_by_name_alone(
    receiver: Receiver, answer: Answer, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    receiver.answers = [answer]
    with pytest.raises(AssistantFailed) as caught:
        await ask(receiver, key="s3cret")
    assert str(caught.value) == why
    assert "s3cret" not in caplog.text


async def test_an_answer_is_cut_off_where_it_is_too_long(receiver: Receiver) -> None:
    receiver.answers = [pours(HEAD, b" " * 65536)]
    with pytest.raises(AssistantFailed, match=f"more than {MOST_REPLY_BYTES} bytes"):
        await ask(receiver)


@pytest.mark.parametrize("answer", [hangs, drips(HEAD + b"{" * 999, every_seconds=0.05)])
async def test_the_time_is_for_all_of_it(receiver: Receiver, answer: Answer) -> None:
    receiver.answers = [answer]
    begin = time.monotonic()
    with pytest.raises(AssistantFailed, match=r"the helper did not answer in 0\.3 s"):
        await ask(receiver, seconds=0.3)
    assert time.monotonic() - begin < 30
    async with asyncio.timeout(60):
        while receiver.open:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_not_followed(receiver: Receiver, status: int) -> None:
    async with Receiver() as elsewhere:
        receiver.answers = [says(status, location=elsewhere.url)]
        with pytest.raises(AssistantFailed, match=f"answered with status {status}"):
            await ask(receiver, key="s3cret")
        assert elsewhere.connections == 0


async def test_proxies_and_passwords_of_the_environment_are_not_used(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login a password b")
    monkeypatch.setenv("NETRC", str(netrc))
    for name in ("HTTP_PROXY", "ALL_PROXY", "http_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    receiver.answers = [tells("here")]
    assert await ask(receiver) == "here"
    assert "authorization" not in receiver.received[0].headers


async def test_a_server_that_is_not_there_is_told() -> None:
    wire = JsonWire("helper", f"http://127.0.0.1:{free_port()}", 60)
    with pytest.raises(AssistantFailed, match=r"^the helper cannot be reached$"):
        await wire.get("/", {})
    await wire.close()
