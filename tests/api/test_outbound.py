"""Strangers' servers: what is connected to, and what is made of what they answer."""

from __future__ import annotations

import asyncio
import gzip
import random
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path

import pytest

from api.errors import BadRequest, TooLarge
from api.outbound import Outbound, Reply, Unreachable, is_public
from api.outbound.client import GuardedNetwork
from tests.api.receivers import Answer, Receiver, drips, hangs, pours, resets, says, sends

LOOPBACK = ("127.0.0.0/8",)
ENDLESS_HEAD = b"HTTP/1.1 200 OK\r\n\r\n"
MIB = 1024**2

PRIVATE = [
    *("0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.255", "100.64.0.1", "100.100.100.200"),
    *("127.0.0.1", "127.255.255.254", "169.254.0.1", "169.254.169.254", "172.16.0.1"),
    *("172.31.255.255", "192.0.0.1", "192.0.0.8", "192.0.0.9", "192.0.0.170", "192.0.2.1"),
    *("192.88.99.1", "192.168.0.1", "192.168.255.255", "198.18.0.1", "198.51.100.1"),
    *("203.0.113.1", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255"),
    *("168.63.129.16", "::", "::1", "::127.0.0.1", "::8.8.8.8", "::ffff:127.0.0.1"),
    *("::ffff:10.0.0.1", "::ffff:100.64.0.1", "::ffff:169.254.169.254", "::ffff:0:7f00:1"),
    *("64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::7f00:1", "64:ff9b:1::808:808"),
    *(
        "100::1",
        "2001::1",
        "2001:0:7f00:1::1",
        "2001:0:808:808::80ff:fffe",
        "2001:0:7f00:1::f7f7:f7f7",
        "2001:2::1",
    ),
    *("2001:10::1", "2001:20::1", "2001:db8::1", "2002:7f00:1::", "2002:a00:1::1"),
    *("2002:a9fe:a9fe::1", "3fff::1", "5f00::1", "fc00::1", "fd00:ec2::254", "fe80::1"),
    *("fec0::1", "ff02::1", "ff0e::1", "4000::1"),
]
PUBLIC = [
    *("1.1.1.1", "8.8.8.8", "93.184.215.14", "100.63.255.255", "100.128.0.0", "172.15.255.255"),
    *("172.32.0.0", "192.0.1.1", "198.17.255.255", "198.20.0.0", "223.255.255.255"),
    *("2001:4860:4860::8888", "2606:4700::1111", "2a00:1450::1", "::ffff:8.8.8.8"),
    *("64:ff9b::808:808", "2002:808:808::1", "2001:0:808:808::f7f7:f7f7"),
]
# Names that resolvers read as an address that is not public.
SPELLINGS = [
    *("2130706433", "0x7f000001", "0x7F.1", "0x7f.0.0.1", "127.1", "127.0.1", "0177.0.0.1"),
    *("017700000001", "0", "0x0", "00000000", "0x", "127.0.0.1.", "10.1", "3232235521"),
    *("0xa9fea9fe", "2852039166", "169.254.43518", "0251.0376.0251.0376", "①②⑦.0.0.1"),
    *("１２７.0.0.1", "127。0。0。1", "127．0．0．1", "127｡0｡0｡1", "⑩.0.0.1", "0ｘ7f.1"),
]


def bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def answering(*answers: Sequence[str]) -> tuple[list[str], Outbound]:
    """Hosts looked up so far, and a client whose lookups give these answers in turn."""
    asked: list[str] = []

    async def resolve(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        return answers[min(len(asked), len(answers)) - 1]

    return asked, Outbound(resolve=resolve)


@pytest.fixture
async def outbound() -> AsyncIterator[Outbound]:
    """A client that may connect to this machine."""
    client = Outbound(LOOPBACK)
    yield client
    await client.close()


async def fetch(client: Outbound, url: str, *, seconds: float = 20, most: int = MIB) -> bytes:
    return await client.fetch(url, field="image", max_bytes=most, timeout_seconds=seconds)


async def post(client: Outbound, url: str, *, seconds: float = 20) -> Reply:
    return await client.post(url, body=b"{}", headers={"x-a": "b"}, timeout_seconds=seconds)


def test_the_table_has_its_size() -> None:
    assert len({*PRIVATE, *SPELLINGS}) >= 60


@pytest.mark.parametrize("address", PRIVATE)
def test_what_is_not_public(address: str) -> None:
    assert not is_public(ip_address(address))


@pytest.mark.parametrize("address", PUBLIC)
def test_what_is_public(address: str) -> None:
    assert is_public(ip_address(address))


@pytest.mark.parametrize("host", [*PRIVATE, *SPELLINGS, "localhost", "LocalHost.", "a.localhost"])
def test_a_private_literal_is_refused_at_the_door(host: str) -> None:
    with pytest.raises(BadRequest) as refused:
        Outbound().check_url(f"https://{bracketed(host)}:8080/x?key=s3cret", field="callback")
    assert refused.value.field == "callback"
    assert str(refused.value).startswith("callback: ")
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize("host", [*PRIVATE, "2130706433", "0x7f.1", "127.1", "localhost"])
def test_the_refusal_names_the_setting(host: str) -> None:
    with pytest.raises(BadRequest, match="DARKROOM_ALLOWED_TARGETS"):
        Outbound().check_url(f"http://{bracketed(host)}/", field="callback")


@pytest.mark.parametrize("host", [*PRIVATE, *SPELLINGS, "fe80::1%eth0", "localhost"])
async def test_a_private_literal_is_refused_at_connect(host: str) -> None:
    """The guard alone, as if the door had let it pass; the lookup is the system's."""
    with pytest.raises(Unreachable):
        await GuardedNetwork(Outbound().addresses_of).connect_tcp(host, 80)


@pytest.mark.parametrize("address", PRIVATE)
async def test_a_name_that_leads_to_a_private_address_is_not_connected_to(address: str) -> None:
    asked, client = answering([address])
    with pytest.raises(BadRequest, match=r"pictures.example leads to a private address"):
        await fetch(client, "http://pictures.example/")
    with pytest.raises(Unreachable, match="private"):
        await post(client, "http://pictures.example/")
    with pytest.raises(BadRequest, match="private"):
        await client.check_host("http://pictures.example/", field="endpoint")
    assert asked == ["pictures.example"] * 3


@pytest.mark.parametrize(
    "found",
    [
        ["8.8.8.8", "127.0.0.1"],
        ["127.0.0.1", "8.8.8.8"],
        ["2606:4700::1111", "8.8.8.8", "::ffff:10.0.0.1"],
        ["8.8.8.8", "fe80::1%eth0"],
        [*["8.8.8.8"] * 20, "10.0.0.1"],
    ],
)
async def test_one_private_address_among_public_ones_is_enough(found: list[str]) -> None:
    with pytest.raises(BadRequest, match="private"):
        await fetch(answering(found)[1], "http://pictures.example/")


async def test_the_name_is_looked_up_once_and_its_checked_address_connected_to() -> None:
    """A second lookup, which is what rebinding waits for, would find another port's trap."""
    asked: list[str] = []

    async def rebinding(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        return ["127.0.0.1"] if len(asked) == 1 else ["127.6.6.6"]

    async with Receiver([says(200, b"cat")]) as receiver:
        client = Outbound(("127.0.0.1",), resolve=rebinding)
        url = f"http://pictures.example:{receiver.port}/cat.png?a=1"
        assert await fetch(client, url) == b"cat"
        assert asked == ["pictures.example"]
        with pytest.raises(BadRequest, match="private"):
            await fetch(client, url)
        assert (len(asked), receiver.connections) == (2, 1)
        headers = receiver.received[0].headers
        assert receiver.received[0].path == "/cat.png?a=1"
    assert headers["host"] == f"pictures.example:{receiver.port}"
    assert headers["accept-encoding"] == "identity"


async def test_every_request_is_checked_although_the_last_one_was(outbound: Outbound) -> None:
    keep = says(200, connection="keep-alive")
    async with Receiver([keep]) as receiver:
        for _ in range(3):
            await post(outbound, receiver.url)
        assert receiver.connections == 3


async def test_an_address_that_takes_no_connection_is_passed_over() -> None:
    async def resolve(host: str, port: int) -> Sequence[str]:
        return ["127.0.0.2", "127.0.0.1"]

    async with Receiver([says(200, b"cat")]) as receiver:
        client = Outbound(LOOPBACK, resolve=resolve)
        assert await fetch(client, f"http://pictures.example:{receiver.port}/") == b"cat"


async def test_the_systems_lookup_is_used_unless_another_is_given(outbound: Outbound) -> None:
    async with Receiver([says(200, b"cat")]) as receiver:
        named = Outbound(("localhost",))
        assert await fetch(named, f"http://localhost:{receiver.port}/") == b"cat"
        assert await fetch(outbound, f"http://2130706433:{receiver.port}/") == b"cat"
        await named.close()


@pytest.mark.parametrize(
    ("allowed", "url"),
    [
        (("10.0.0.0/8",), "http://10.1.2.3/"),
        (("10.0.0.0/8",), "http://[::ffff:10.1.2.3]/"),
        (("127.0.0.1",), "http://127.0.0.1:9000/"),
        (("fd00::/8",), "http://[fd00::1]/"),
        (("localhost",), "http://localhost:9000/"),
        (("127.0.0.0/8",), "http://localhost:9000/"),
    ],
)
def test_what_is_allowed_passes_the_door(allowed: tuple[str, ...], url: str) -> None:
    assert Outbound(allowed).check_url(url, field="image") == url


@pytest.mark.parametrize(
    ("allowed", "url"),
    [
        (("10.0.0.0/8",), "http://11.0.0.1.localhost/"),
        (("10.0.0.0/8",), "http://192.168.0.1/"),
        (("10.0.0.0/8",), "http://[64:ff9b::a00:1]/"),
        (("minio",), "http://127.0.0.1/"),
        (("127.0.0.1",), "http://127.0.0.2/"),
    ],
)
def test_what_is_not_allowed_does_not(allowed: tuple[str, ...], url: str) -> None:
    with pytest.raises(BadRequest, match="private"):
        Outbound(allowed).check_url(url, field="image")


async def test_an_allowed_name_may_lead_anywhere_and_no_name_below_it() -> None:
    async def resolve(host: str, port: int) -> Sequence[str]:
        return ["10.0.0.1"]

    client = Outbound(("MinIO.internal",), resolve=resolve)
    await client.check_host("http://minio.internal:9000/bucket", field="endpoint")
    await client.check_host("http://minio.internal.:9000/bucket", field="endpoint")
    with pytest.raises(BadRequest):
        await client.check_host("http://evil.minio.internal/", field="endpoint")


@pytest.mark.parametrize(
    "entry",
    [
        *("10.0.0.0/33", "10.1.2.3/8", "300.1.1.1", "127.1", "0x7f.1", "*", "*.internal", ""),
        *("http://minio", "minio:9000", "minio/x", "a b", "-" * 64, "[::1]"),
    ],
)
def test_a_bad_entry_is_named(entry: str) -> None:
    with pytest.raises(ValueError, match="is neither a network") as refused:
        Outbound(("10.0.0.0/8", entry))
    assert repr(entry) in str(refused.value)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("HTTPS://Pictures.Example:443/a b?c=ü#part", "https://pictures.example/a%20b?c=%C3%BC"),
        ("http://pictures.example", "http://pictures.example/"),
        ("http://pictures.example?a=1", "http://pictures.example/?a=1"),
        ("http://mü.example:8080/", "http://xn--m-eha.example:8080/"),
        ("http://a_b.example./x@y", "http://a_b.example./x@y"),
        ("http://[2606:4700::1111]:81/", "http://[2606:4700::1111]:81/"),
        ("http://8.8.8.8/", "http://8.8.8.8/"),
    ],
)
def test_a_url_is_given_back_in_one_spelling(text: str, url: str) -> None:
    assert Outbound().check_url(text, field="image") == url


@pytest.mark.parametrize(
    "text",
    [
        *("", "cat.png", "//pictures.example/", "http:", "http://", "http:///x", "http:x", "::"),
        *("ftp://pictures.example/", "file:///etc/passwd", "data:image/png;base64,AA"),
        *("gopher://pictures.example/", "javascript:alert(1)", " http://pictures.example/"),
        *("http://user:s3cret@pictures.example/", "http://user@pictures.example/", "http://@a/"),
        *("http://pictures.example:0/", "http://pictures.example:65536/", "http://a:b/"),
        *("http://pic\ntures.example/", "http://pictures.example/\r\nX: y", "http://a/\x00"),
        *(
            "http://a/\ud800",
            "http://a/\u202e",
            "http://pictures.example\\@10.0.0.1/",
            "http://a\\b/",
        ),
        *("http://1.2.3.4.5/", "http://256.1.1.1/", "http://1.2.3.999/", "http://a.0x/"),
        *("http://%31%32%37.0.0.1/", "http://a b/", "http://a..b/", "http://.a/", "http://a,b/"),
        *("http://[::1/", "http://[::1]x/", "http://[v1.x]/", "http://[fe80::1%25eth0]/"),
        *("http://" + "a" * 64 + ".example/", "http://pictures.example/" + "a" * 2048),
        "http://" + ".".join(["a" * 60] * 5) + "/",
    ],
)
def test_what_is_no_url_is_refused(text: str) -> None:
    with pytest.raises(BadRequest, match=r"^image: must be a URL") as refused:
        Outbound().check_url(text, field="image")
    assert refused.value.field == "image"
    assert "s3cret" not in str(refused.value)


async def test_post_refuses_what_the_door_refuses() -> None:
    for url in ("http://127.0.0.1/", "ftp://pictures.example/", "cat.png"):
        with pytest.raises(Unreachable):
            await post(Outbound(), url)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(outbound: Outbound, status: int) -> None:
    async with Receiver() as trap, Receiver() as receiver:
        receiver.answers = [says(status, location=trap.url)]
        with pytest.raises(BadRequest, match=f"status {status}; redirects are not followed"):
            await fetch(outbound, receiver.url)
        assert (await post(outbound, receiver.url)).status == status
        assert (receiver.connections, trap.connections) == (2, 0)


async def test_a_public_host_does_not_lead_to_a_trap_by_redirect() -> None:
    """Only the first server is allowed; the trap beside it is not."""
    async with Receiver() as trap, Receiver() as receiver:
        receiver.answers = [says(302, location=trap.url.replace("127.0.0.1", "127.0.0.2"))]
        client = Outbound(("127.0.0.1",))
        with pytest.raises(BadRequest, match="302"):
            await fetch(client, receiver.url)
        assert trap.connections == 0


@pytest.mark.parametrize("status", [400, 401, 404, 410, 500, 503])
async def test_another_status_is_told(outbound: Outbound, status: int) -> None:
    async with Receiver([says(status, b"secret inside")]) as receiver:
        with pytest.raises(BadRequest, match=f"127.0.0.1 answers with status {status}$"):
            await fetch(outbound, receiver.url + "?key=s3cret")
        assert (await post(outbound, receiver.url)).status == status


async def test_what_fits_exactly_is_fetched(outbound: Outbound) -> None:
    body = random.Random(0).randbytes(300_000)
    chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    chunked += b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    for answer in (says(200, body), sends(ENDLESS_HEAD + body), sends(chunked)):
        async with Receiver([answer]) as receiver:
            assert await fetch(outbound, receiver.url, most=len(body)) == body
            with pytest.raises(TooLarge, match=f"at most {len(body) - 1} bytes") as refused:
                await fetch(outbound, receiver.url, most=len(body) - 1)
            assert refused.value.field == "image"


async def test_a_length_over_the_limit_is_enough(outbound: Outbound) -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n"
    async with Receiver([pours(head, b"x")]) as receiver:
        with pytest.raises(TooLarge):
            await fetch(outbound, receiver.url)


async def test_an_endless_body_is_cut(outbound: Outbound) -> None:
    async with Receiver([pours(ENDLESS_HEAD, b"x" * 65536)]) as receiver:
        with pytest.raises(TooLarge):
            await fetch(outbound, receiver.url)
        async with asyncio.timeout(30):
            assert (await post(outbound, receiver.url, seconds=90)).status == 200


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "br", "identity, gzip", "x-unknown"])
async def test_a_compressed_reply_is_not_unpacked(outbound: Outbound, encoding: str) -> None:
    bomb = gzip.compress(bytes(MIB))
    async with Receiver([says(200, bomb, content_encoding=encoding)]) as receiver:
        with pytest.raises(BadRequest, match="compressed"):
            await fetch(outbound, receiver.url)


SLOW: list[Answer] = [
    hangs,
    drips(b"HTTP/1.1 200 OK\r\n" + b"x-a: b\r\n" * 999, every_seconds=0.1),
    pours(b"", b"HTTP/1.1 103 Early\r\n\r\n"),
]


@pytest.mark.parametrize("answer", SLOW)
async def test_the_timeout_is_for_the_whole_request(outbound: Outbound, answer: Answer) -> None:
    async with Receiver([answer]) as receiver:
        started = time.monotonic()
        with pytest.raises(BadRequest, match=r"127.0.0.1 timed out after 0\.5 s"):
            await fetch(outbound, receiver.url, seconds=0.5)
        with pytest.raises(Unreachable, match=r"timed out after 0\.5 s"):
            await post(outbound, receiver.url, seconds=0.5)
        assert 1.0 <= time.monotonic() - started < 60


async def test_a_body_that_drips_is_cut_and_its_status_counts(outbound: Outbound) -> None:
    async def begins_and_drips(writer: asyncio.StreamWriter) -> None:
        await sends(ENDLESS_HEAD)(writer)
        await drips(b"x" * 99_999, every_seconds=0.01)(writer)

    async with Receiver([begins_and_drips]) as receiver:
        with pytest.raises(BadRequest, match="timed out"):
            await fetch(outbound, receiver.url, seconds=1)
        started = time.monotonic()
        assert (await post(outbound, receiver.url, seconds=1)).status == 200
        assert time.monotonic() - started < 60


async def test_a_lookup_that_hangs_is_cut() -> None:
    async def resolve(host: str, port: int) -> Sequence[str]:
        await asyncio.Event().wait()
        return []

    with pytest.raises(BadRequest, match="timed out"):
        await fetch(Outbound(resolve=resolve), "http://pictures.example/", seconds=0.2)


@pytest.mark.parametrize("error", [OSError(), UnicodeError(), None])
async def test_a_name_that_is_not_found(error: Exception | None) -> None:
    async def resolve(host: str, port: int) -> Sequence[str]:
        if error is not None:
            raise error
        return []

    client = Outbound(resolve=resolve)
    with pytest.raises(BadRequest, match=r"image: pictures\.example was not found"):
        await fetch(client, "http://pictures.example/")
    with pytest.raises(Unreachable, match="was not found"):
        await post(client, "http://pictures.example/")


async def test_nobody_listens(outbound: Outbound) -> None:
    async with Receiver() as receiver:
        pass
    with pytest.raises(BadRequest, match=r"127\.0\.0\.1 refuses to be connected to"):
        await fetch(outbound, receiver.url)


BROKEN = [
    resets,
    sends(b""),
    sends(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nshort"),
    sends(b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n"),
    sends(b"HTTP/1.1 200 OK\r\ncontent-length: " + b"9" * 5000 + b"\r\n\r\n"),
    sends(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nxx"),
    sends(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n"),
    sends(b"HTTP/1.1 9999 OK\r\n\r\n"),
    sends(b"SSH-2.0-OpenSSH_9.9\r\n"),
    sends(b"HTTP/1.1 200 OK\r\nx: " + b"y" * 300_000 + b"\r\n\r\n"),
    pours(b"HTTP/1.1 200 OK\r\n", b"x-a: b\r\n"),
]


@pytest.mark.parametrize("answer", BROKEN)
async def test_what_is_not_http_is_told(outbound: Outbound, answer: Answer) -> None:
    async with Receiver([answer]) as receiver:
        with pytest.raises(BadRequest, match="broke off, or did not speak HTTP"):
            await fetch(outbound, receiver.url)


async def test_nothing_a_server_says_gets_out_as_another_error(outbound: Outbound) -> None:
    chance = random.Random(1)
    whole = bytearray(
        b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\nretry-after: Fri, 20 Nov 2026 10:00:00 GMT\r\n"
        b"transfer-encoding: chunked\r\ncontent-encoding: gzip\r\n\r\n3\r\ncat\r\n0\r\n\r\n"
    )
    told = 0
    async with Receiver() as receiver:
        for _ in range(300):
            data = bytearray(whole[: chance.randrange(1, len(whole) + 1)])
            for _ in range(chance.randrange(4)):
                data[chance.randrange(len(data))] = chance.randrange(256)
            receiver.answers = [sends(bytes(data))]
            try:
                await fetch(outbound, receiver.url, seconds=30)
            except BadRequest:
                told += 1
            try:
                await post(outbound, receiver.url, seconds=30)
            except Unreachable:
                told += 1
    assert told > 100


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0),
        ("120", 120),
        ("9" * 40, 999_999_999_999),
        ("Fri, 20 Nov 2020 10:00:00 GMT", 0),
        ("soon", None),
        ("-1", None),
        ("1.5", None),
        ("", None),
        ("Fri, 99 Nov 2026 10:00:00 GMT", None),
    ],
)
async def test_retry_after(outbound: Outbound, value: str, seconds: float | None) -> None:
    async with Receiver([says(503, retry_after=value)]) as receiver:
        told = await post(outbound, receiver.url)
    assert told == Reply(status=503, retry_after_seconds=seconds)


async def test_retry_after_as_a_date(outbound: Outbound) -> None:
    later = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 1000))
    async with Receiver([says(503, retry_after=later)]) as receiver:
        told = await post(outbound, receiver.url)
    assert told.retry_after_seconds == pytest.approx(1000, abs=20)


async def test_a_post_arrives_as_it_was_given(outbound: Outbound) -> None:
    async with Receiver([says(204)]) as receiver:
        headers = {"content-type": "application/json", "webhook-id": "msg_1"}
        body = '{"prompt": "café"}'.encode()
        told = await outbound.post(
            receiver.url + "?t=1", body=body, headers=headers, timeout_seconds=20
        )
        came = receiver.received[0]
    assert told == Reply(status=204)
    assert (came.method, came.path, came.body) == ("POST", "/hook?t=1", body)
    assert headers.items() <= came.headers.items()


async def test_proxies_of_the_environment_are_not_used(
    outbound: Outbound, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Receiver() as proxy, Receiver([says(200, b"cat")]) as receiver:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        assert await fetch(outbound, receiver.url) == b"cat"
        assert proxy.connections == 0


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a certificate for pictures.example, in one file."""
    path = tmp_path_factory.mktemp("tls") / "pictures.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2"
    command += " -subj /CN=pictures.example -addext subjectAltName=DNS:pictures.example"
    made = subprocess.run(
        [*command.split(), "-keyout", str(path), "-out", f"{path}.crt"], capture_output=True
    )
    assert made.returncode == 0, made.stderr
    path.write_bytes(path.read_bytes() + Path(f"{path}.crt").read_bytes())
    return path


async def over_tls(certificate: Path, host: str, *, trusted: bool) -> tuple[str, list[str | None]]:
    """What comes of a fetch by `host`, and the server names that the receiver was asked for."""
    names: list[str | None] = []
    serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    serving.load_cert_chain(certificate)
    serving.sni_callback = lambda _socket, name, _context: names.append(name)
    tls = ssl.create_default_context(cafile=f"{certificate}.crt") if trusted else None

    async def resolve(host: str, port: int) -> Sequence[str]:
        return ["127.0.0.1"]

    async with Receiver([says(200, b"cat")], tls=serving) as receiver:
        client = Outbound(LOOPBACK, resolve=resolve, tls=tls)
        try:
            return (await fetch(client, f"https://{host}:{receiver.port}/")).decode(), names
        except BadRequest as error:
            return str(error), names


async def test_the_name_in_tls_stays_the_hosts(certificate: Path) -> None:
    told = await over_tls(certificate, "pictures.example", trusted=True)
    assert told == ("cat", ["pictures.example"])


@pytest.mark.parametrize(
    ("host", "trusted"),
    [("other.example", True), ("127.0.0.1", True), ("pictures.example", False)],
)
async def test_a_certificate_must_hold(certificate: Path, host: str, trusted: bool) -> None:
    told, _ = await over_tls(certificate, host, trusted=trusted)
    assert told == f"image: {host} has a TLS certificate that is not valid"


async def test_a_server_without_tls_is_told(outbound: Outbound) -> None:
    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 X\r\n\r\n")
        await reader.read()
        writer.close()

    async with await asyncio.start_server(plain, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(BadRequest, match=r"127\.0\.0\.1 does not speak TLS"):
            await fetch(outbound, f"https://127.0.0.1:{port}/")


async def test_a_connection_that_is_cut_while_tls_is_set_up_is_closed(outbound: Outbound) -> None:
    closed = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            await reader.read()
        closed.set()
        writer.close()

    async with await asyncio.start_server(silent, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(BadRequest, match="timed out"):
            await fetch(outbound, f"https://127.0.0.1:{port}/", seconds=0.5)
        async with asyncio.timeout(60):
            await closed.wait()


async def downloaded(client: Outbound, url: str, *, most: int = MIB, seconds: float = 20) -> bytes:
    got = bytearray()
    await client.download(url, got.extend, field="loras", max_bytes=most, timeout_seconds=seconds)
    return bytes(got)


def leads(where: str, status: int = 302) -> Answer:
    return says(status, b"not here", location=where)


class TestDownloads:
    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    async def test_a_redirect_is_followed(self, outbound: Outbound, status: int) -> None:
        body = random.Random(0).randbytes(300_000)
        async with Receiver([leads("/There?Key=A", status), says(200, body)]) as receiver:
            assert await downloaded(outbound, receiver.url) == body
            assert [one.path for one in receiver.received] == ["/hook", "/There?Key=A"]

    async def test_it_leads_to_no_private_address(self) -> None:
        """Each hop is looked up and checked like the first."""

        async def resolve(host: str, port: int) -> Sequence[str]:
            return ["127.0.0.1"]

        client = Outbound(("cdn.example",), resolve=resolve)
        async with Receiver([leads("http://inner.example/")]) as receiver:
            url = f"http://cdn.example:{receiver.port}/"
            for where in ("http://inner.example/", "http://169.254.169.254/", "http://2130706433/"):
                receiver.answers = [leads(where)]
                with pytest.raises(BadRequest, match="leads to a private address") as refused:
                    await downloaded(client, url)
                assert refused.value.field == "loras"
        await client.close()

    @pytest.mark.parametrize(
        "where", ["", "ftp://a.example/", "http://[", "\\\\a\\b", "http://a@b/"]
    )
    async def test_it_leads_to_what_is_a_url(self, outbound: Outbound, where: str) -> None:
        async with Receiver([leads(where)]) as receiver:
            with pytest.raises(BadRequest, match="loras: "):
                await downloaded(outbound, receiver.url)

    async def test_it_does_not_lead_on_for_ever(self, outbound: Outbound) -> None:
        async with Receiver([leads("/hook")]) as receiver:
            with pytest.raises(BadRequest, match="leads on and on"):
                await downloaded(outbound, receiver.url)
            assert receiver.connections == 4

    async def test_it_does_not_leave_tls(self, certificate: Path) -> None:
        serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        serving.load_cert_chain(certificate)

        async def resolve(host: str, port: int) -> Sequence[str]:
            return ["127.0.0.1"]

        tls = ssl.create_default_context(cafile=f"{certificate}.crt")
        client = Outbound(LOOPBACK, resolve=resolve, tls=tls)
        answers = [says(200, b"whole"), leads("http://pictures.example/")]
        async with Receiver(answers, tls=serving) as receiver:
            url = f"https://pictures.example:{receiver.port}/"
            assert await downloaded(client, url) == b"whole"
            with pytest.raises(BadRequest, match="an address without TLS"):
                await downloaded(client, url)
        await client.close()

    async def test_what_is_too_large_is_cut(self, outbound: Outbound) -> None:
        for answer in (pours(ENDLESS_HEAD, b"x" * 65536), says(200, bytes(MIB + 1))):
            async with Receiver([answer]) as receiver:
                with pytest.raises(TooLarge) as refused:
                    await downloaded(outbound, receiver.url)
                assert refused.value.field == "loras"
        async with Receiver([says(200, bytes(MIB))]) as receiver:
            assert len(await downloaded(outbound, receiver.url)) == MIB

    async def test_the_timeout_is_for_all_hops(self, outbound: Outbound) -> None:
        async def slowly(writer: asyncio.StreamWriter) -> None:
            await asyncio.sleep(0.4)
            await leads("/hook")(writer)

        async with Receiver([slowly]) as receiver:
            began = time.monotonic()
            with pytest.raises(BadRequest, match="timed out"):
                await downloaded(outbound, receiver.url, seconds=0.6)
            assert time.monotonic() - began < 60

    async def test_what_is_cut_short_is_told(self, outbound: Outbound) -> None:
        short = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf"
        async with Receiver([sends(short)]) as receiver:
            with pytest.raises(BadRequest, match="broke off"):
                await downloaded(outbound, receiver.url)
