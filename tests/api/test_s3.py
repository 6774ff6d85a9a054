"""Pictures on a real S3 server: written once, signed for, and waited for while it is away."""

from __future__ import annotations

import asyncio
import hashlib
import random
import secrets
import socket
import ssl
import string
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import httpx2
import pytest

from api.errors import NotFound, Unavailable
from api.services import Services
from api.settings import Settings
from api.storage import LocalStorage, S3Storage, input_key, output_key, storage_of
from api.storage.s3 import MAX_PRESIGN_SECONDS, check_endpoint, parse_s3_url
from api.tasks import TaskState
from tests.api.making import AMPLE, submission
from tests.api.s3server import BUCKET, KEY_ID, SECRET, S3Server
from tests.api.scripted import ScriptedEngine

KEY = output_key("task1", 1, 0, "png")
HOUR_MS = 3_600_000


@pytest.fixture
def storage(s3_server: S3Server) -> S3Storage:
    """An empty storage."""
    return s3_server.storage(secrets.token_hex(8))


def now_ms() -> int:
    return time.time_ns() // 1_000_000


async def everything(storage: S3Storage, before_ms: int | None = None) -> list[str]:
    before = before_ms or now_ms() + HOUR_MS
    return sorted(
        [
            key
            for prefix in ("inputs", "outputs")
            async for key in storage.list(prefix, before_ms=before)
        ]
    )


async def test_what_is_put_is_got_until_deleted(storage: S3Storage) -> None:
    await storage.put(KEY, b"picture")
    await storage.put(input_key("task1", 0), b"source")
    assert await storage.get(KEY) == b"picture"
    await storage.delete(KEY)
    await storage.delete(KEY)
    with pytest.raises(NotFound):
        await storage.get(KEY)
    assert await storage.get(input_key("task1", 0)) == b"source"


async def test_large_pictures_come_back_whole(storage: S3Storage) -> None:
    data = random.Random(0).randbytes(20_000_000)
    await storage.put(KEY, data)
    assert await storage.get(KEY) == data


async def test_a_key_is_written_once(storage: S3Storage) -> None:
    await storage.put(KEY, b"first")
    await storage.put(KEY, b"first")
    with pytest.raises(Unavailable, match=r"AlreadyExists|PreconditionFailed"):
        await storage.put(KEY, b"second")
    assert await storage.get(KEY) == b"first"


async def test_of_many_writers_one_wins(storage: S3Storage) -> None:
    bodies = [bytes([n]) * 1000 for n in range(16)]
    results = await asyncio.gather(
        *(storage.put(KEY, body) for body in bodies), return_exceptions=True
    )
    won = [body for body, result in zip(bodies, results, strict=True) if result is None]
    assert won == [await storage.get(KEY)]


async def test_keys_are_listed_by_prefix_and_age(storage: S3Storage) -> None:
    keys = sorted(output_key(f"task{n}", 1, 0, "png") for n in range(20))
    source = input_key("task1", 0)
    for key in (*keys, source):
        await storage.put(key, b"x")
    assert await everything(storage) == [source, *keys]
    assert await everything(storage, now_ms() - HOUR_MS) == []


async def test_prefixes_do_not_see_one_another(s3_server: S3Server, storage: S3Storage) -> None:
    await storage.put(KEY, b"x")
    other = s3_server.storage(f"{secrets.token_hex(8)}/deeper")
    assert await everything(other) == []
    with pytest.raises(NotFound):
        await other.get(KEY)


@pytest.mark.parametrize("key", ["", "/etc/x", "outputs/../../x", "outputs//0.png", "x/a/0"])
async def test_only_keys_of_ours_reach_the_server(storage: S3Storage, key: str) -> None:
    for use in (storage.put(key, b""), storage.get(key), storage.delete(key)):
        with pytest.raises(AssertionError, match="not a key of ours"):
            await use
    with pytest.raises(AssertionError, match="not a key of ours"):
        storage.presign(key, 60)


WRONG = {
    "wrong secret": ({"secret_access_key": f"{SECRET}x"}, "the secret access key is wrong"),
    "unknown key": ({"access_key_id": "nobody"}, "the access key id is not known there"),
    "nobody there": ({"endpoint": "http://127.0.0.1:1"}, "it cannot be reached"),
}


@pytest.mark.parametrize(("changes", "cause"), list(WRONG.values()), ids=list(WRONG))
async def test_what_is_wrong_is_named(
    s3_server: S3Server, changes: dict[str, Any], cause: str
) -> None:
    wrong = s3_server.storage("wrong", **changes)
    for use in (wrong.put(KEY, b"x"), wrong.get(KEY), wrong.delete(KEY), wrong.check()):
        with pytest.raises(Unavailable, match=cause) as caught:
            await use
        assert caught.value.retry_after_seconds
    with pytest.raises(Unavailable, match=cause):
        await everything(wrong)


async def test_a_missing_bucket_is_not_a_missing_picture(s3_server: S3Server) -> None:
    storage = S3Storage(
        "s3://no-such-bucket/x",
        endpoint=s3_server.endpoint,
        access_key_id=KEY_ID,
        secret_access_key=SECRET,
    )
    for use in (storage.put(KEY, b"x"), storage.get(KEY), storage.check()):
        with pytest.raises(Unavailable, match="there is no such bucket"):
            await use


async def test_no_secret_is_told(s3_server: S3Server, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(0)
    good = s3_server.storage("told")
    wrong = s3_server.storage("told", endpoint="http://127.0.0.1:1")
    told = [repr(good), str(good), repr(vars(good)), repr(good._store.config)]
    await good.put(output_key(secrets.token_hex(8), 1, 0, "png"), b"x")
    for use in (good.get(KEY), wrong.get(KEY), wrong.put(KEY, b"x"), wrong.check()):
        with pytest.raises((Unavailable, NotFound)) as caught:
            await use
        told += traceback.format_exception(caught.value)
    settings = s3_settings(s3_server)
    told += [repr(settings), str(settings), repr(storage_of(settings, Path("unused"))), caplog.text]
    assert not [text for text in told if SECRET in text]


async def test_check_leaves_nothing_behind(s3_server: S3Server) -> None:
    prefix = secrets.token_hex(8)
    await s3_server.storage(prefix).check()
    client = s3_server.client()
    left = [one["path"] for some in client.list(prefix) for one in some]
    assert left == []


async def test_check_needs_every_right(s3_server: S3Server, storage: S3Storage) -> None:
    await storage.check()
    with pytest.raises(Unavailable):
        await s3_server.storage("x", secret_access_key="wrong").check()


# Signed links


async def link(storage: S3Storage, ttl_seconds: int = 60) -> str:
    await storage.put(KEY, b"picture")
    signed = storage.presign(KEY, ttl_seconds)
    assert signed is not None
    return signed


async def test_a_signed_link_needs_no_credentials(storage: S3Storage) -> None:
    found = httpx2.get(await link(storage), timeout=60)
    assert (found.status_code, found.content) == (200, b"picture")
    assert found.headers["content-type"] == "image/png"


async def test_without_its_signature_nothing_is_served(storage: S3Storage) -> None:
    assert httpx2.get((await link(storage)).partition("?")[0], timeout=60).status_code == 403


async def test_no_changed_link_is_served(storage: S3Storage) -> None:
    url, _, query = (await link(storage)).partition("?")
    tried = [*changed(parse_qsl(query, keep_blank_values=True))]
    assert len(tried) >= 200
    with httpx2.Client(timeout=60) as client:
        assert [query for query in tried if served(client, f"{url}?{urlencode(query)}")] == []
        assert client.get(f"{url}?{query}").status_code == 200


def served(client: httpx2.Client, url: str) -> bool:
    try:
        return client.get(url).status_code < 400
    except httpx2.RemoteProtocolError:
        # The server hangs up on some dates that are none.
        return False


def changed(query: list[tuple[str, str]]) -> Iterator[list[tuple[str, str]]]:
    """The parameters with one character of one of them replaced, one left out, one added."""
    chance = random.Random(1)
    for place, (name, value) in enumerate(query):
        yield [*query[:place], *query[place + 1 :]]
        for _ in range(40):
            at = chance.randrange(len(value))
            other = chance.choice(sorted(set(string.ascii_letters + string.digits) - {value[at]}))
            yield [
                *query[:place],
                (name, value[:at] + other + value[at + 1 :]),
                *query[place + 1 :],
            ]
    yield [*query, ("response-content-type", "text/html")]


@pytest.mark.parametrize("method", ["PUT", "DELETE", "POST"])
async def test_a_link_is_for_getting_only(storage: S3Storage, method: str) -> None:
    signed = await link(storage)
    reply = httpx2.request(method, signed, content=b"mine", timeout=60)
    assert reply.status_code in (400, 403, 405)
    assert await storage.get(KEY) == b"picture"


async def test_a_link_is_for_one_object(storage: S3Storage) -> None:
    signed = await link(storage)
    other = output_key("task2", 1, 0, "png")
    await storage.put(other, b"other")
    assert httpx2.get(signed.replace(KEY, other), timeout=60).status_code == 403


async def test_a_link_expires(storage: S3Storage) -> None:
    lasting, signed = await link(storage, 600), await link(storage, 1)
    async with asyncio.timeout(60):
        while httpx2.get(signed, timeout=60).status_code == 200:
            await asyncio.sleep(0.2)
    assert httpx2.get(signed, timeout=60).status_code == 403
    assert httpx2.get(lasting, timeout=60).status_code == 200


@pytest.mark.parametrize(
    ("asked", "signed"), [(60, 60), (10**9, MAX_PRESIGN_SECONDS)], ids=["short", "too long"]
)
async def test_a_link_holds_as_long_as_asked(storage: S3Storage, asked: int, signed: int) -> None:
    url = await link(storage, ttl_seconds=asked)
    assert dict(parse_qsl(urlsplit(url).query))["X-Amz-Expires"] == str(signed)
    assert httpx2.get(url, timeout=60).status_code == 200


async def test_a_folder_signs_nothing(tmp_path: Path) -> None:
    assert LocalStorage(tmp_path).presign(KEY, 60) is None


# A server that fails


async def test_a_server_killed_while_it_takes_pictures_is_waited_for(
    s3_server: S3Server, storage: S3Storage
) -> None:
    taken: dict[str, bytes] = {}
    seen = asyncio.Event()

    async def put_until_it_fails(worker: int) -> Unavailable:
        for number in range(100_000):
            key, data = output_key(f"w{worker}", number, 0, "png"), secrets.token_bytes(50_000)
            try:
                await storage.put(key, data)
            except Unavailable as error:
                return error
            taken[key] = data
            if len(taken) > 40:
                seen.set()
        raise AssertionError("the server was never killed")

    workers = [asyncio.create_task(put_until_it_fails(n)) for n in range(4)]
    await asyncio.wait_for(seen.wait(), 60)
    await asyncio.to_thread(s3_server.kill)
    try:
        for error in await asyncio.wait_for(asyncio.gather(*workers), 90):
            assert error.retry_after_seconds
        for use in (storage.put(KEY, b"x"), storage.get(KEY), storage.delete(KEY)):
            with pytest.raises(Unavailable, match="cannot be reached"):
                await use
        with pytest.raises(Unavailable):
            await everything(storage)
    finally:
        await asyncio.to_thread(s3_server.start)
    for key, data in taken.items():
        assert await storage.get(key) == data
    await storage.put(KEY, b"after")
    assert await storage.get(KEY) == b"after"


async def test_no_task_succeeds_without_its_pictures(
    s3_server: S3Server, storage: S3Storage, services: Services, engine: ScriptedEngine
) -> None:
    """The server is killed while pictures are stored; they wait, and are stored when it is back."""
    is_away = engine.hold_after(8)
    services.dispatcher._shop = replace(services.dispatcher._shop, storage=storage)
    names = [f"task{number}" for number in range(20)]
    for name in names:
        await services.store.accept(replace(submission(name, count=4), credits=0), AMPLE)
    services.dispatcher.wake()
    async with asyncio.timeout(60):
        while not await everything(storage):
            await asyncio.sleep(0.01)
    await asyncio.to_thread(s3_server.kill)
    try:
        is_away.set()
        found = [await services.store.get(name) for name in names]
        assert not all(task is not None and task.state.ended for task in found)
    finally:
        await asyncio.to_thread(s3_server.start)
    for name in names:
        task = await services.darkroom.wait(name, timeout_seconds=60)
        assert task.state is TaskState.SUCCEEDED, task
        for output in task.outputs:
            data = await storage.get(output.key)
            assert hashlib.sha256(data).hexdigest() == output.sha256
    assert len(await everything(storage)) == 80


class Broken(BaseHTTPRequestHandler):
    """Takes the request and then does what the test says."""

    status: int
    body: bytes
    location: str | None
    seen: list[tuple[str, str, dict[str, str]]]

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("content-length") or 0))
        self.seen.append((self.command, self.path, dict(self.headers)))
        if self.status == 0:
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self.send_response(self.status)
        self.send_header("content-length", str(len(self.body)))
        if self.location is not None:
            self.send_header("location", self.location)
        self.end_headers()
        self.wfile.write(self.body)

    do_GET = do_PUT = do_DELETE = do_POST = answer

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def broken(
    status: int,
    body: bytes = b"",
    *,
    location: str | None = None,
    tls: ssl.SSLContext | None = None,
) -> Iterator[tuple[str, list[Any]]]:
    seen: list[Any] = []
    answers = {"status": status, "body": body, "location": location, "seen": seen}
    handler = type("Handler", (Broken,), answers)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", seen
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.parametrize(
    ("status", "body"),
    [(500, b""), (503, b"<Error><Code>SlowDown</Code></Error>"), (403, b""), (200, b"not S3"),
     (404, b"<Code>" + b"A" * 100_000), (0, b"")],
    ids=["500", "503", "403 without a word", "200 of something else", "long", "cut"],
)  # fmt: skip
async def test_a_failing_server_makes_it_unavailable(status: int, body: bytes) -> None:
    with broken(status, body) as (endpoint, seen):
        storage = S3Storage(
            "s3://bucket/x", endpoint=endpoint, access_key_id="k", secret_access_key="s"
        )
        with pytest.raises(Unavailable) as caught:
            await storage.check()
        assert len(str(caught.value)) < 200
        assert 0 < len(seen) <= 6, "tries are bounded"


async def test_a_given_key_is_all_that_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """What other programs left in the environment belongs to another key."""
    monkeypatch.setenv("AWS_SESSION_TOKEN", "of-somebody-else")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody-else")
    with broken(403) as (endpoint, seen):
        storage = S3Storage(
            "s3://bucket/x", endpoint=endpoint, access_key_id="mine", secret_access_key="s"
        )
        with pytest.raises(Unavailable):
            await storage.put(KEY, b"x")
    headers = {name.lower(): value for name, value in seen[0][2].items()}
    assert "Credential=mine/" in headers["authorization"]
    assert "x-amz-security-token" not in headers


async def test_without_a_key_the_environment_is_asked(
    s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY_ID)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    found = S3Storage(f"s3://{BUCKET}/{secrets.token_hex(8)}", endpoint=s3_server.endpoint)
    await found.check()


# Settings


def s3_settings(s3_server: S3Server, **changes: Any) -> Settings:
    values: dict[str, Any] = {
        "storage": f"s3://{BUCKET}/{secrets.token_hex(8)}",
        "s3_endpoint": s3_server.endpoint,
        "s3_access_key_id": KEY_ID,
        "s3_secret_access_key": SECRET,
    }
    return Settings(**(values | changes))


async def test_settings_choose_the_storage(s3_server: S3Server, tmp_path: Path) -> None:
    assert isinstance(storage_of(Settings(), tmp_path / "objects"), LocalStorage)
    chosen = storage_of(s3_settings(s3_server), tmp_path / "unused")
    assert isinstance(chosen, S3Storage)
    await chosen.check()
    assert not (tmp_path / "unused").exists()


def test_half_a_key_is_refused(s3_server: S3Server, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="belong together"):
        storage_of(s3_settings(s3_server, s3_secret_access_key=None), tmp_path)


@pytest.mark.parametrize(
    "url",
    ["", "local", "http://bucket/x", "s3://", "s3:///x", "s3://ab", "s3://Bucket/x", "s3://b_c/x",
     "s3://bucket/../x", "s3://bucket/a/./b", "s3://bucket/a//b", "s3://bucket/a b", "s3://bucket/%2e",
     "s3://bucket/...", "s3://bucket/é", "s3://bucket/a\0", "s3://bucket/a\n", "s3://bucket/a?x=1"],
)  # fmt: skip
def test_no_other_place_is_taken(url: str) -> None:
    with pytest.raises(ValueError, match="must be s3://bucket/prefix"):
        parse_s3_url(url)


@pytest.mark.parametrize(
    ("url", "bucket", "prefix"),
    [("s3://bucket", "bucket", ""), ("s3://my.bucket-1/", "my.bucket-1", ""),
     ("s3://bucket/a/b.c/", "bucket", "a/b.c")],
)  # fmt: skip
def test_places_are_read(url: str, bucket: str, prefix: str) -> None:
    place = parse_s3_url(url)
    assert (place.bucket, place.prefix) == (bucket, prefix)
    assert parse_s3_url(str(place)) == place


@pytest.mark.parametrize(
    "endpoint",
    ["", "s3.example", "ftp://s3.example", "https://", "https://a:b@s3.example",
     "https://s3.example/path", "https://s3.example?x", "https://s3.example#x",
     "https://s3.example:99999", "https://s3.example:0"],
)  # fmt: skip
def test_endpoints_are_origins(endpoint: str) -> None:
    with pytest.raises(ValueError):
        check_endpoint(endpoint)
    assert check_endpoint("https://s3.example:9000/") == "https://s3.example:9000"
