"""Copies of finished pictures to places that accounts own, on S3 servers of their choice."""

from __future__ import annotations

import asyncio
import secrets
import ssl
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Literal, Protocol
from urllib.parse import urlsplit

import httpcore2
import obstore
import structlog
from obstore.exceptions import BaseError

from api.copies import check_path, path_of, url_of
from api.destination_fields import blaming, checked
from api.errors import BadRequest, NotFound, Unavailable
from api.outbound import Unreachable
from api.outputs import EncodedPicture
from api.storage.s3 import cause_of, code_in, parse_s3_url, s3_store
from api.store.destinations import Destination, DestinationStore
from api.tasks import Task
from inference.errors import JobError

__all__ = ["Deliver", "Destination", "DestinationFailed", "Destinations", "deliver_nowhere"]

log = structlog.get_logger()

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


# Waits for so many seconds.
Pause = Callable[[float], Awaitable[object]]


class CheckHost(Protocol):
    """Raises BadRequest, naming the field, for a URL whose host must not be connected to."""

    async def __call__(self, url: str, *, field: str) -> None: ...


class DestinationFailed(JobError):
    """A copy could not be delivered; the message names the destination and the cause."""

    kind = "destination_failed"


class Deliver(Protocol):
    """Copies a picture to the destination that its task names, and returns where it lies.

    Between two tries it takes a `pause`, and whatever that raises ends them. Raises
    DestinationFailed for good, Unavailable to be asked again.
    """

    async def __call__(
        self, task: Task, index: int, picture: EncodedPicture, pause: Pause
    ) -> str: ...


async def deliver_nowhere(task: Task, index: int, picture: EncodedPicture, pause: Pause) -> str:
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
    ) -> None:
        self._store = store
        self._check_host = check_host
        self._network = network
        # Made once: to read the roots of trust takes 18 ms.
        self._tls = tls or httpcore2.default_ssl_context()
        self._pauses_seconds = pauses_seconds
        self._timeout_seconds = timeout_seconds

    async def add(self, destination: Destination) -> Destination:
        """Keep a new one, as it will be used, under a new id.

        Raises BadRequest, naming the field; as Conflict where the name is taken.
        """
        kept = await self._store.insert(await self._judged(destination))
        log.info("destination_added", account=kept.account, destination=kept.name)
        return kept

    async def replace(self, destination: Destination) -> Destination:
        """Keep another place or key under an id, or under a name where no id is given.

        Raises as `add` does, NotFound where there is none.
        """
        kept = await self._store.replace(await self._judged(destination))
        if kept is None:
            raise _missing(destination.name)
        log.info("destination_replaced", account=kept.account, destination=kept.name)
        return kept

    async def list(self, account: str) -> tuple[Destination, ...]:
        """All of an account's, by name."""
        return await self._store.list(account)

    async def get(self, account: str, name: str) -> Destination:
        """The one of that name; raises NotFound."""
        found = await self._store.get(account, name)
        if found is None:
            raise _missing(name)
        return found

    async def of_id(self, account: str, destination_id: str) -> Destination:
        """The one of that id; raises NotFound."""
        found = await self._store.of_id(account, destination_id)
        if found is None:
            raise NotFound("there is no such destination", field="destination")
        return found

    async def for_bucket(
        self, account: str, bucket: str, key: str
    ) -> tuple[Destination, str] | None:
        """Which destination an object of a bucket lies in, and its path there.

        Of several the one whose place is the closest; None if the account has none that holds it.
        """
        places = [(one, parse_s3_url(one.url)) for one in await self.list(account)]
        holding = [
            (one, place)
            for one, place in places
            if place.bucket == bucket and f"/{key}".startswith(f"/{place.prefix}".rstrip("/") + "/")
        ]
        if not holding:
            return None
        destination, place = max(holding, key=lambda found: len(found[1].prefix))
        return destination, key.removeprefix(place.prefix).removeprefix("/")

    async def remove(self, account: str, name: str) -> None:
        """Forget one, not what lies there; raises NotFound."""
        if not await self._store.delete(account, name):
            raise _missing(name)
        log.info("destination_removed", account=account, destination=name)

    async def test(self, account: str, name: str, path: str | None = None) -> None:
        """Put a small object there and delete it; raises Unavailable, telling what is wrong.

        With a path the object lies beside that, so that nothing that lies there is lost. Raises
        NotFound for an unknown name, BadRequest for a path that cannot be and a host that must not
        be connected to.
        """
        destination = await self.get(account, name)
        probe = f"darkroom-test-{secrets.token_hex(8)}"
        folder = blaming("path", check_path, path).rpartition("/")[0] if path else ""
        path = f"{folder}/{probe}" if folder else probe
        await self._send(destination, "PUT", path, b"darkroom", "text/plain")
        await self._send(destination, "DELETE", path)

    async def deliver(
        self, destination: Destination, task: Task, index: int, picture: EncodedPicture
    ) -> str:
        """Write one copy, over whatever lies there, and return where; raises as `test` does."""
        path = path_of(destination, task, index, picture.extension)
        await self._send(destination, "PUT", path, picture.data, picture.media_type)
        return url_of(destination, task, index, picture.extension)

    async def deliver_for(
        self, task: Task, index: int, picture: EncodedPicture, pause: Pause
    ) -> str:
        """Deliver a copy to the destination that the task names, and return where it lies.

        Tries again for about half a minute, with a `pause` before each; then raises
        DestinationFailed. Raises Unavailable while our own database cannot be used.
        """
        name = task.delivery.destination
        assert name is not None, "the task asks for no copy"
        try:
            destination = await self.get(task.account, name)
        except NotFound as error:
            raise DestinationFailed(str(error)) from None
        for pause_seconds in (*self._pauses_seconds, None):
            try:
                return await self.deliver(destination, task, index, picture)
            # BadRequest too: a name that is not found now may be in a moment
            except (Unavailable, BadRequest) as error:
                log.warning("delivery_failed", task_id=task.id, destination=name, reason=str(error))
                if pause_seconds is None:
                    raise DestinationFailed(f"destination {name!r}: {error}") from None
            await pause(pause_seconds)
        raise AssertionError("the last try returns or raises")

    async def _judged(self, destination: Destination) -> Destination:
        judged = checked(destination)
        await self._check_host(_endpoint_of(judged), field="endpoint")
        return judged

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
