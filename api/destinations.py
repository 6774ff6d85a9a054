"""Copies of finished pictures to places that accounts own, on S3 servers of their choice."""

from __future__ import annotations

import asyncio
import re
import secrets
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Literal, Protocol, TypeVar
from urllib.parse import urlsplit

import httpcore2
import obstore
import structlog
from obstore.exceptions import BaseError

from api.errors import BadRequest, Conflict, NotFound, Unavailable
from api.outbound import Unreachable
from api.outputs import EncodedPicture
from api.storage.s3 import cause_of, check_endpoint, code_in, parse_s3_url, s3_store
from api.store.destinations import Destination, DestinationStore
from api.tasks import Task
from inference.errors import JobError

__all__ = ["Deliver", "Destination", "DestinationFailed", "Destinations", "deliver_nowhere"]

log = structlog.get_logger()

T = TypeVar("T")

_NAME = re.compile(r"[a-z0-9-]{1,64}")
# S3's own alphabet for both is wider and undocumented; what is refused here is never issued.
_REGION = re.compile(r"[a-z0-9-]{1,64}")
_CREDENTIAL = re.compile(r"[\x21-\x7e]{1,200}")
MAX_URL_CHARS = 1000
# Of one request, with all that is sent and received.
TIMEOUT_SECONDS = 30.0
_SIGNED_SECONDS = 300
_MOST_REPLY_BYTES = 64 * 1024
# Five tries in half a minute: what lasts longer is for the owner of the place to repair.
PAUSES_SECONDS = (1.0, 3.0, 8.0, 18.0)
_NO_ANSWER = (
    *(OSError, httpcore2.TimeoutException),
    *(httpcore2.NetworkError, httpcore2.ProtocolError),
)


class CheckHost(Protocol):
    """Raises BadRequest, naming the field, for a URL whose host must not be connected to."""

    async def __call__(self, url: str, *, field: str) -> None: ...


class DestinationFailed(JobError):
    """A copy could not be delivered; the message names the destination and the cause."""

    kind = "destination_failed"


class Deliver(Protocol):
    """Copies a picture to the destination that its task names, and returns where it lies.

    Raises DestinationFailed for good, Unavailable to be asked again.
    """

    async def __call__(self, task: Task, index: int, picture: EncodedPicture) -> str: ...


async def deliver_nowhere(task: Task, index: int, picture: EncodedPicture) -> str:
    """For a service that has no destinations."""
    raise DestinationFailed(f"destination {task.delivery.destination!r}: there are none here")


class Destinations:
    """What accounts do with their destinations, and the delivery into them.

    `check_host` judges endpoints; `network` is what connections are made through, so that it can
    judge each address again at that moment.
    """

    # obstore only signs here. Its own requests look names up unseen, obey a proxy of the
    # environment, and follow redirects of GET and POST to wherever a stranger's server says.

    def __init__(
        self,
        store: DestinationStore,
        check_host: CheckHost,
        *,
        network: httpcore2.AsyncNetworkBackend | None = None,
        tls: ssl.SSLContext | None = None,
        pauses_seconds: tuple[float, ...] = PAUSES_SECONDS,
        timeout_seconds: float = TIMEOUT_SECONDS,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._store = store
        self._check_host = check_host
        self._network = network
        # Made once: to read the roots of trust takes 18 ms.
        self._tls = tls or httpcore2.default_ssl_context()
        self._pauses_seconds = pauses_seconds
        self._timeout_seconds = timeout_seconds
        self._sleep = sleep

    async def add(self, destination: Destination) -> Destination:
        """Keep a new one, as it will be used.

        Raises BadRequest, naming the field; as Conflict where the name is taken.
        """
        checked = await self._judged(destination)
        if not await self._store.insert(checked):
            raise Conflict(f"there is a destination {checked.name!r} already", field="name")
        log.info("destination_added", account=checked.account, destination=checked.name)
        return checked

    async def replace(self, destination: Destination) -> Destination:
        """Keep another place or key under a name; raises as `add` does, NotFound for a new name."""
        checked = await self._judged(destination)
        if not await self._store.replace(checked):
            raise _missing(checked.name)
        log.info("destination_replaced", account=checked.account, destination=checked.name)
        return checked

    async def list(self, account: str) -> tuple[Destination, ...]:
        """All of an account's, by name."""
        return await self._store.list(account)

    async def get(self, account: str, name: str) -> Destination:
        """The one of that name; raises NotFound."""
        found = await self._store.get(account, name)
        if found is None:
            raise _missing(name)
        return found

    async def remove(self, account: str, name: str) -> None:
        """Forget one, not what lies there; raises NotFound."""
        if not await self._store.delete(account, name):
            raise _missing(name)
        log.info("destination_removed", account=account, destination=name)

    async def test(self, account: str, name: str) -> None:
        """Put a small object there and delete it; raises Unavailable, telling what is wrong.

        Raises NotFound for an unknown name, BadRequest for a host that must not be connected to.
        """
        destination = await self.get(account, name)
        path = f"darkroom-test-{secrets.token_hex(8)}"
        await self._send(destination, "PUT", path, b"darkroom", "text/plain")
        await self._send(destination, "DELETE", path)

    async def deliver(
        self, destination: Destination, task_id: str, index: int, picture: EncodedPicture
    ) -> str:
        """Write one copy, over whatever lies there, and return where; raises as `test` does."""
        path = f"{task_id}/{index}.{picture.extension}"
        await self._send(destination, "PUT", path, picture.data, picture.media_type)
        if destination.public_url is not None:
            return f"{destination.public_url}/{path}"
        return f"{destination.url}/{path}"

    async def deliver_for(self, task: Task, index: int, picture: EncodedPicture) -> str:
        """Deliver a copy to the destination that the task names, and return where it lies.

        Tries again for about half a minute; then raises DestinationFailed. Raises Unavailable
        while our own database cannot be used.
        """
        name = task.delivery.destination
        assert name is not None, "the task asks for no copy"
        try:
            destination = await self.get(task.account, name)
        except NotFound as error:
            raise DestinationFailed(str(error)) from None
        for pause_seconds in (*self._pauses_seconds, None):
            try:
                return await self.deliver(destination, task.id, index, picture)
            # BadRequest too: a name that is not found now may be in a moment
            except (Unavailable, BadRequest) as error:
                log.warning("delivery_failed", task_id=task.id, destination=name, reason=str(error))
                if pause_seconds is None:
                    raise DestinationFailed(f"destination {name!r}: {error}") from None
            await self._sleep(pause_seconds)
        raise AssertionError("the last try returns or raises")

    async def _judged(self, destination: Destination) -> Destination:
        checked = _checked(destination)
        await self._check_host(_endpoint_of(checked), field="endpoint")
        return checked

    async def _send(
        self,
        destination: Destination,
        method: Literal["PUT", "DELETE"],
        path: str,
        data: bytes = b"",
        media_type: str | None = None,
    ) -> None:
        endpoint = _endpoint_of(destination)
        await self._check_host(endpoint, field="endpoint")
        url = await _sign(destination, endpoint, method, path)
        # As signed: without a port that the scheme implies.
        headers: dict[bytes | str, bytes | str] = {"host": urlsplit(url).netloc}
        headers["content-length"] = str(len(data))
        if media_type is not None:
            headers["content-type"] = media_type
        status, reply = await self._exchange(method, url, headers, data)
        if not 200 <= status < 300:
            code = code_in(reply.decode("utf-8", "replace"))
            raise Unavailable(cause_of(code) if code else f"it answers with status {status}")

    async def _exchange(
        self, method: str, url: str, headers: dict[bytes | str, bytes | str], data: bytes
    ) -> tuple[int, bytes]:
        try:
            # A connection of its own each time: one that is kept was judged for another time.
            async with (
                asyncio.timeout(self._timeout_seconds),
                httpcore2.AsyncConnectionPool(self._tls, network_backend=self._network) as pool,
                pool.stream(method, url, headers=headers, content=data) as response,
            ):
                return response.status, await _beginning_of(response)
        except Unreachable as error:
            raise Unavailable(str(error)) from None
        except _NO_ANSWER:
            raise Unavailable("it cannot be reached") from None


def _missing(name: str) -> NotFound:
    return NotFound(f"there is no destination {name!r}", field="destination")


async def _beginning_of(response: httpcore2.Response) -> bytes:
    """As much of a reply as says what is wrong; a stranger's server may send without end."""
    reply = bytearray()
    async for part in response.aiter_stream():
        reply += part[: _MOST_REPLY_BYTES - len(reply)]
        if len(reply) == _MOST_REPLY_BYTES:
            break
    return bytes(reply)


async def _sign(
    destination: Destination, endpoint: str, method: Literal["PUT", "DELETE"], path: str
) -> str:
    store = s3_store(
        parse_s3_url(destination.url),
        endpoint=endpoint,
        region=destination.region,
        access_key_id=destination.access_key_id,
        secret_access_key=destination.secret,
    )
    try:
        return await obstore.sign_async(store, method, path, timedelta(seconds=_SIGNED_SECONDS))
    except BaseError:
        raise Unavailable("its address cannot be signed for") from None


def _endpoint_of(destination: Destination) -> str:
    return destination.endpoint or f"https://s3.{destination.region}.amazonaws.com"


def _checked(destination: Destination) -> Destination:
    """The destination in the one spelling that is kept; raises BadRequest."""
    if not _NAME.fullmatch(destination.name):
        raise BadRequest("name must be 1 to 64 of a-z, 0-9 and '-'", field="name")
    for field, pattern, value in (
        ("region", _REGION, destination.region),
        ("access_key_id", _CREDENTIAL, destination.access_key_id),
        ("secret_access_key", _CREDENTIAL, destination.secret),
    ):
        if not pattern.fullmatch(value):
            raise BadRequest(f"{field} is empty, too long or holds other characters", field=field)
    place = _blaming("url", parse_s3_url, destination.url)
    endpoint, public = destination.endpoint, destination.public_url
    return replace(
        destination,
        url=str(place),
        endpoint=_blaming("endpoint", check_endpoint, endpoint) if endpoint else None,
        public_url=_blaming("public_url", _public_url, public) if public else None,
    )


def _blaming(field: str, read: Callable[[str], T], text: str) -> T:
    if len(text) > MAX_URL_CHARS:
        raise BadRequest(f"{field} has more than {MAX_URL_CHARS} characters", field=field)
    try:
        return read(text)
    except ValueError as error:
        raise BadRequest(f"{field}: {error}", field=field) from None


def _public_url(text: str) -> str:
    """Never connected to: callers get it as the beginning of a link."""
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or not text.isprintable():
        raise ValueError("must start with http:// or https:// and name a host")
    if parts.username is not None or parts.query or parts.fragment or " " in text:
        raise ValueError("must hold a host and a path and nothing else")
    return text.rstrip("/")
