"""Requests to strangers' servers: every address is checked before it is connected to."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urljoin

import httpcore2

from api.errors import BadRequest
from api.outbound.addresses import LOOPBACK, Allowed, is_local_name, literal_of
from api.outbound.replies import check_reply, header, length_of, pour, read, retry_after, too_large
from api.outbound.targets import Target, Unreachable, parse

Resolver = Callable[[str, int], Awaitable[Sequence[str]]]

# SYNs are sent again after 1 and 3 seconds; who is silent for longer is tried at the next address.
CONNECT_SECONDS = 4.0
# All are checked, but a name with a thousand addresses shall not make us knock at each.
MOST_ADDRESSES = 4
MOST_REPLY_BYTES = 64 * 1024
# Of a file that is not where its link says: to the hub's own host, to its storage, and one more.
MOST_HOPS = 4
REDIRECTS = (301, 302, 303, 307, 308)
# Whatever unpacks a reply may be made to unpack gigabytes.
AS_IT_IS = {"accept": "*/*", "accept-encoding": "identity"}
# Of our own: a name that takes long to look up would hold threads that encode pictures.
LOOKUP_THREADS = 32
USER_AGENT = "darkroom"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What a receiver answered; `retry_after_seconds` is as it asked, not bounded."""

    status: int
    retry_after_seconds: float | None = None


class Outbound:
    """Fetches from and posts to addresses that a request named, if they are public or allowed.

    `allowed` are networks ("10.0.0.0/8", "127.0.0.1") and host names; raises ValueError for
    another entry. `resolve` and `tls` are the system's unless given.
    """

    # Proxies of the environment are not used, for behind one nobody could check addresses.

    def __init__(
        self,
        allowed: Sequence[str] = (),
        resolve: Resolver | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._allowed = Allowed(allowed)
        self._threads = ThreadPoolExecutor(LOOKUP_THREADS, thread_name_prefix="lookup")
        self._resolve = resolve or self._look_up
        self._tls = tls or httpcore2.default_ssl_context()

    async def close(self) -> None:
        """Let go of the threads; nothing is connected between requests."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def check_url(self, text: str, *, field: str) -> str:
        """The URL in its one spelling, nothing looked up.

        Raises BadRequest for one that is none, or spells an address that is not public.
        """
        with _blaming(field):
            return self._target(text).url

    async def check_host(self, url: str, *, field: str) -> None:
        """Raise BadRequest unless every address of the URL's host may be connected to now.

        Weaker than `fetch`: who connects later looks the name up again, and may get another.
        """
        with _blaming(field):
            target = self._target(url)
            await self.addresses_of(target.host, target.port)

    async def fetch(self, url: str, *, field: str, max_bytes: int, timeout_seconds: float) -> bytes:
        """What lies at a URL; the timeout is for all of it.

        Raises TooLarge, and BadRequest for everything else that keeps it from coming.
        """
        with _blaming(field):
            target = self._target(url)
            async with self._exchange("GET", target, AS_IT_IS, None, timeout_seconds) as reply:
                check_reply(reply, target.host)
                if (length_of(reply) or 0) > max_bytes:
                    raise too_large(field, max_bytes)
                data = await read(reply, max_bytes + 1)
            if len(data) > max_bytes:
                raise too_large(field, max_bytes)
            return data

    async def download(
        self,
        url: str,
        sink: Callable[[bytes], object],
        *,
        field: str,
        max_bytes: int,
        timeout_seconds: float,
    ) -> None:
        """Hand what lies at a URL to `sink` as it comes; the timeout is for all of it.

        Redirects are followed, where they do not leave TLS, and each is checked like the first
        URL. Raises TooLarge, and BadRequest for everything else that keeps the whole from coming.
        """
        until = time.monotonic() + timeout_seconds
        with _blaming(field):
            target = self._target(url)
            for _ in range(MOST_HOPS):
                left = max(until - time.monotonic(), 0.0)
                async with self._exchange("GET", target, AS_IT_IS, None, left) as reply:
                    if reply.status not in REDIRECTS:
                        check_reply(reply, target.host)
                        whole = (length_of(reply) or 0) <= max_bytes
                        if not whole or await pour(reply, sink, max_bytes + 1) > max_bytes:
                            raise too_large(field, max_bytes)
                        return
                    target = self._next(target, header(reply, b"location"))
            raise Unreachable(f"{target.host} leads on and on")

    def _next(self, target: Target, location: str) -> Target:
        """Where a redirect leads."""
        try:
            following = self._target(urljoin(target.url, location))
        except ValueError:
            raise Unreachable(f"{target.host} leads to what is no URL") from None
        if target.scheme == "https" and following.scheme != "https":
            raise Unreachable(f"{target.host} leads to an address without TLS")
        return following

    async def post(
        self, url: str, *, body: bytes, headers: Mapping[str, str], timeout_seconds: float
    ) -> Reply:
        """The answer to a POST, whatever its status; the timeout is for all of it.

        Raises Unreachable if no status came.
        """
        target = self._target(url)
        told: Reply | None = None
        try:
            async with self._exchange("POST", target, headers, body, timeout_seconds) as reply:
                told = Reply(status=reply.status, retry_after_seconds=retry_after(reply))
                # Read at all only because many servers log an error when hung up on.
                await read(reply, MOST_REPLY_BYTES)
        except Unreachable:
            if told is None:
                raise
        return told

    async def addresses_of(self, host: str, port: int) -> list[str]:
        """Where to connect, from one lookup; raises Unreachable if any of it is not permitted."""
        found = [str(literal)] if (literal := literal_of(host)) else await self._ask(host, port)
        for address in found:
            # A zone ("%eth0") is part of local addresses only.
            if not self._allowed.permits(host, ip_address(address.partition("%")[0])):
                raise _blocked(host)
        return found

    async def _ask(self, host: str, port: int) -> list[str]:
        try:
            found = list(await self._resolve(host, port))
        except (OSError, UnicodeError):
            found = []
        if not found:
            raise Unreachable(f"{host} was not found")
        return found

    async def _look_up(self, host: str, port: int) -> Sequence[str]:
        def look_up() -> list[str]:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            return [str(address[0]) for *_, address in found]

        return await asyncio.get_running_loop().run_in_executor(self._threads, look_up)

    def _target(self, text: str) -> Target:
        target = parse(text)
        literal = LOOPBACK if is_local_name(target.host) else literal_of(target.host)
        if literal is not None and not self._allowed.permits(target.host, literal):
            raise _blocked(target.host)
        return target

    @asynccontextmanager
    async def _exchange(
        self,
        method: str,
        target: Target,
        headers: Mapping[str, str],
        content: bytes | None,
        timeout_seconds: float,
    ) -> AsyncIterator[httpcore2.Response]:
        fixed = {"host": target.authority, "user-agent": USER_AGENT, "connection": "close"}
        sent = list({**headers, **fixed}.items())
        # A connection of its own for each request: one that is kept was checked for another time.
        network = GuardedNetwork(self.addresses_of)
        connection = httpcore2.AsyncHTTPConnection(
            target.wire.origin, ssl_context=self._tls, network_backend=network
        )
        with _explaining(target.host, timeout_seconds):
            async with aclosing(network), asyncio.timeout(timeout_seconds), connection:
                sending = connection.stream(method, target.wire, headers=sent, content=content)
                async with sending as reply:
                    yield reply


class GuardedNetwork(httpcore2.AsyncNetworkBackend):
    """Connects to addresses that `addresses_of` a host gave, and to no other."""

    def __init__(self, addresses_of: Callable[[str, int], Awaitable[Sequence[str]]]) -> None:
        self._addresses_of = addresses_of
        self._sockets = httpcore2.AnyIOBackend()
        self._opened: list[httpcore2.AsyncNetworkStream] = []

    async def aclose(self) -> None:
        """Close what was opened: the library leaves it open if TLS is being set up when cut."""
        for stream in self._opened:
            await stream.aclose()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """A connection to the first checked address that takes one."""
        failed: Exception = httpcore2.ConnectError()
        for address in (await self._addresses_of(host, port))[:MOST_ADDRESSES]:
            try:
                stream = await self._sockets.connect_tcp(address, port, timeout=CONNECT_SECONDS)
                self._opened.append(stream)
                return stream
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failed = error
        raise failed


@contextmanager
def _blaming(field: str) -> Iterator[None]:
    try:
        yield
    except Unreachable as error:
        raise BadRequest(f"{field}: {error}", field=field) from None


@contextmanager
def _explaining(host: str, timeout_seconds: float) -> Iterator[None]:
    try:
        yield
    except TimeoutError:
        raise Unreachable(f"{host} timed out after {timeout_seconds:g} s") from None
    except httpcore2.ConnectTimeout:
        raise Unreachable(f"{host} timed out after {CONNECT_SECONDS:g} s of connecting") from None
    except httpcore2.ConnectError as error:
        if isinstance(error.__cause__, ssl.SSLCertVerificationError):
            raise Unreachable(f"{host} has a TLS certificate that is not valid") from None
        if isinstance(error.__cause__, ssl.SSLError):
            raise Unreachable(f"{host} does not speak TLS as it should") from None
        raise Unreachable(f"{host} refuses to be connected to") from None
    except (httpcore2.NetworkError, httpcore2.ProtocolError, OSError):
        raise Unreachable(f"{host} broke off, or did not speak HTTP") from None


def _blocked(host: str) -> Unreachable:
    return Unreachable(
        f"{host} leads to a private address; "
        "the operator can permit it with DARKROOM_ALLOWED_TARGETS"
    )
