"""Objects in a bucket of any server that speaks S3."""

from __future__ import annotations

import re
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import S3Store

from api.errors import NotFound, Unavailable
from api.storage.keys import check_key, is_key, media_type_of

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig

# S3 refuses to sign for longer.
MAX_PRESIGN_SECONDS = 7 * 24 * 3600
TIMEOUT_SECONDS = 30
_CONNECT_SECONDS = 5
# No further try is begun after 15 s, so that a call ends within that and one time-out.
_RETRIES: RetryConfig = {
    "max_retries": 2,
    "retry_timeout": timedelta(seconds=15),
    "backoff": {"max_backoff": timedelta(seconds=2)},
}
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_ENDPOINT = re.compile(
    r"(?P<origin>https?://([A-Za-z0-9._-]{1,253}|\[[0-9a-fA-F:.]{2,45}\])(:(?P<port>\d{1,5}))?)/?"
)
_SEGMENT = re.compile(r"[A-Za-z0-9_.-]{1,200}")
_CODE = re.compile(r"<Code>([A-Za-z0-9]{1,64})</Code>")
_CAUSES = {
    "NoSuchBucket": "there is no such bucket",
    "InvalidAccessKeyId": "the access key id is not known there",
    "SignatureDoesNotMatch": "the secret access key is wrong",
    "AccessDenied": "the access key may not do that",
    "AuthorizationHeaderMalformed": "the region is wrong",
    "PermanentRedirect": "the region or the endpoint is wrong",
    "RequestTimeTooSkewed": "the clocks differ",
}


@dataclass(frozen=True, slots=True)
class S3Place:
    """A bucket and a prefix in it, without slashes around it."""

    bucket: str
    prefix: str

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")


def parse_s3_url(url: str) -> S3Place:
    """The place in "s3://bucket/prefix"; raises ValueError, telling what a place looks like."""
    scheme, _, rest = url.partition("://")
    bucket, _, prefix = rest.partition("/")
    parts = prefix.strip("/").split("/") if prefix.strip("/") else []
    plain = all(_SEGMENT.fullmatch(part) and part.strip(".") for part in parts)
    if scheme != "s3" or not _BUCKET.fullmatch(bucket) or not plain:
        raise ValueError("must be s3://bucket/prefix, of letters, digits, '.', '_' and '-'")
    return S3Place(bucket, "/".join(parts))


def check_endpoint(endpoint: str) -> str:
    """The origin, without a slash at its end; raises ValueError if it is more or less than that."""
    found = _ENDPOINT.fullmatch(endpoint)
    if found is None or not 0 < int(found["port"] or 443) < 65536:
        raise ValueError("must be http:// or https://, a host and perhaps a port, nothing else")
    return found["origin"]


def s3_store(
    place: S3Place,
    *,
    endpoint: str | None,
    region: str,
    access_key_id: str | None,
    secret_access_key: str | None,
    timeout_seconds: float = TIMEOUT_SECONDS,
) -> S3Store:
    """A client for a place; without a key, with what the environment or the machine offers.

    Plain http only where the endpoint says so. Raises ValueError for half a key.
    """
    if (access_key_id is None) != (secret_access_key is None):
        raise ValueError("an access key id and a secret access key belong together")
    options: dict[str, Any] = {"region": region, "virtual_hosted_style_request": False}
    if endpoint is not None:
        options["endpoint"] = check_endpoint(endpoint)
    if access_key_id is not None and secret_access_key is not None:
        # Given as values they would show in the store's `config`, and a session token found in the
        # environment would be sent along with them.
        options["credential_provider"] = _given(access_key_id, secret_access_key)
    client: ClientConfig = {
        "allow_http": (endpoint or "").startswith("http://"),
        "connect_timeout": timedelta(seconds=min(_CONNECT_SECONDS, timeout_seconds)),
        "timeout": timedelta(seconds=timeout_seconds),
    }
    prefix = place.prefix or None
    return S3Store(
        place.bucket, prefix=prefix, client_options=client, retry_config=_RETRIES, **options
    )


def _given(access_key_id: str, secret_access_key: str) -> Callable[[], Any]:
    def provide() -> dict[str, Any]:
        return {
            "access_key_id": access_key_id,
            "secret_access_key": secret_access_key,
            "token": None,
            "expires_at": None,
        }

    return provide


class S3Storage:
    """Objects under a prefix of a bucket; raises ValueError for a place that cannot be."""

    def __init__(
        self,
        url: str,
        *,
        endpoint: str | None = None,
        region: str = "us-east-1",
        access_key_id: str | None = None,
        secret_access_key: str | None = None,
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> None:
        self._place = parse_s3_url(url)
        self._store = s3_store(
            self._place,
            endpoint=endpoint,
            region=region,
            access_key_id=access_key_id,
            secret_access_key=secret_access_key,
            timeout_seconds=timeout_seconds,
        )

    def __repr__(self) -> str:
        return f"S3Storage({str(self._place)!r})"

    async def put(self, key: str, data: bytes) -> None:
        """Keep bytes; when this returns the server has taken them."""
        check_key(key)
        try:
            await self._create(key, data)
        except AlreadyExistsError as error:
            # The reply to an earlier try of this very put may have been lost on its way.
            if await self._read(key) != data:
                raise _unavailable("write", error) from error
        except (OSError, BaseError) as error:
            raise _unavailable("write", error) from error

    async def get(self, key: str) -> bytes:
        """The bytes; raises NotFound."""
        check_key(key)
        return await self._read(key)

    async def delete(self, key: str) -> None:
        """Forget the bytes; a key that is not there is no error."""
        check_key(key)
        await self._remove(key)

    async def list(self, prefix: str, *, before_ms: int) -> AsyncIterator[str]:
        """Keys under a prefix that were written before that time, by the server's clock."""
        before = datetime.fromtimestamp(before_ms / 1000, UTC)
        try:
            async for some in obstore.list(self._store, prefix, chunk_size=500):
                for found in some:
                    if found["last_modified"] < before and is_key(found["path"]):
                        yield found["path"]
        except (OSError, BaseError) as error:
            raise _unavailable("list", error) from error

    def presign(self, key: str, ttl_seconds: int) -> str | None:
        """A link by which anybody may GET the object, with its media type, until the time is up.

        Holds for a week at most.
        """
        check_key(key)
        holds = timedelta(seconds=min(ttl_seconds, MAX_PRESIGN_SECONDS))
        try:
            # 9 µs of arithmetic; only a key that comes from the machine's role is asked for anew
            # now and then.
            return obstore.sign(self._store, "GET", key, holds)
        except (OSError, BaseError) as error:
            raise _unavailable("sign", error) from error

    async def check(self) -> None:
        """Put, get and delete an object; raises Unavailable, telling what is wrong."""
        key = f"probes/{secrets.token_hex(8)}"
        try:
            await self._create(key, b"probe")
        except (OSError, BaseError) as error:
            raise _unavailable("write", error) from error
        if await self._read(key) != b"probe":
            raise Unavailable("the storage gives other bytes than it took")
        await self._remove(key)

    async def reach(self) -> None:
        """Ask for an object that is not there, in one request; raises Unavailable."""
        try:
            with suppress(NotFound):
                await self._read("probes/none")
        except Unavailable as error:
            # A key without the right to list is not told that there is none.
            if code_in(str(error.__cause__)) != "AccessDenied":
                raise

    async def _create(self, key: str, data: bytes) -> None:
        await obstore.put_async(
            self._store,
            key,
            data,
            mode="create",
            use_multipart=False,
            attributes={"Content-Type": media_type_of(key)},
        )

    async def _read(self, key: str) -> bytes:
        try:
            found = await obstore.get_async(self._store, key)
            return bytes(await found.bytes_async())
        except FileNotFoundError as error:
            if code_in(str(error)) == "NoSuchBucket":
                raise _unavailable("read", error) from error
            raise NotFound("the picture's file is gone") from None
        except (OSError, BaseError) as error:
            raise _unavailable("read", error) from error

    async def _remove(self, key: str) -> None:
        try:
            await obstore.delete_async(self._store, key)
        except FileNotFoundError as error:
            if code_in(str(error)) == "NoSuchBucket":
                raise _unavailable("delete", error) from error
        except (OSError, BaseError) as error:
            raise _unavailable("delete", error) from error


def code_in(reply: str) -> str | None:
    """S3's own word for an error, out of its XML."""
    found = _CODE.search(reply)
    return found[1] if found else None


def cause_of(code: str) -> str:
    """What S3's word for an error says about the settings."""
    return _CAUSES.get(code, code)


def _unavailable(verb: str, error: Exception) -> Unavailable:
    code = code_in(str(error))
    if code is None:
        # Replies without a body: these two come by their class, the rest is the connection's.
        cause = "it cannot be reached" if "HTTP error" in str(error) else type(error).__name__
    else:
        cause = cause_of(code)
    return Unavailable(f"the storage cannot {verb} now: {cause}", retry_after_seconds=5)
