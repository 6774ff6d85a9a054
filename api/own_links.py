"""Pictures that requests name by an address: our own from the storage, others over the network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import parse_qsl, urlsplit

from api.errors import BadRequest, Forbidden, Gone, NotFound, NotReady
from api.links import LinkedPicture, Links, ReadLink
from api.storage import Storage
from api.store import Store
from api.submit import output_of
from api.uploads import PATH, Uploads


class Fetcher(Protocol):
    """What goes out to addresses that a request names; `api.outbound.Outbound` is one."""

    def check_url(self, text: str, *, field: str) -> str: ...

    async def fetch(
        self, url: str, *, field: str, max_bytes: int, timeout_seconds: float
    ) -> bytes: ...


@dataclass(frozen=True, slots=True)
class LinkedUpload:
    """What a link to an upload names; `path` is what its `query` signs."""

    path: str
    query: Mapping[str, str]
    upload_id: str


class OwnLinks:
    """Takes the signed links that this server gave out, on the strength of their signatures.

    They are never fetched: the server may be where none of its own requests are let through.
    `readers` know the links of each dialect, by its alias; `public_url` is what links begin with.
    """

    def __init__(
        self,
        *,
        links: Links,
        store: Store,
        storage: Storage,
        uploads: Uploads,
        outbound: Fetcher,
        readers: Sequence[tuple[str, ReadLink]],
        public_url: str = "",
    ) -> None:
        self._links = links
        self._store = store
        self._storage = storage
        self._uploads = uploads
        self._outbound = outbound
        self._readers = readers
        self._prefix = urlsplit(public_url).path.rstrip("/")

    def check(self, url: str, *, field: str) -> None:
        """Raise BadRequest unless the address may be asked for a picture; nothing is looked up."""
        if self._own(url, field) is None:
            self._outbound.check_url(url, field=field)

    async def fetch(self, url: str, *, field: str, max_bytes: int, timeout_seconds: float) -> bytes:
        """What lies at an address; the bounds are for the network.

        Raises TooLarge, and BadRequest for everything else that keeps it from coming.
        """
        own = self._own(url, field)
        if own is None:
            return await self._outbound.fetch(
                url, field=field, max_bytes=max_bytes, timeout_seconds=timeout_seconds
            )
        try:
            return await self._read(own)
        except (NotFound, NotReady, Gone) as error:
            raise BadRequest(f"{field}: {error}", field=field) from None

    def _own(self, url: str, field: str) -> LinkedPicture | LinkedUpload | None:
        """What a link of ours names; None for any other address. Raises BadRequest."""
        linked = self._named(url)
        if linked is None:
            return None
        # Another server of this kind has the same paths, and keys of its own.
        if not url.startswith("/") and not self._links.knows(linked.query.get("key", "")):
            return None
        try:
            self._links.verify(linked.path, linked.query)
        except Forbidden as error:
            raise BadRequest(f"{field}: {error}", field=field) from None
        return linked

    def _named(self, url: str) -> LinkedPicture | LinkedUpload | None:
        try:
            parts = urlsplit(url)
        except ValueError:
            return None
        path, query = parts.path, dict(parse_qsl(parts.query))
        if parts.scheme:
            path = path.removeprefix(self._prefix)
        if path.startswith(f"{PATH}/"):
            return LinkedUpload(path, query, path.removeprefix(f"{PATH}/"))
        read_by = (read(path.removeprefix(alias), query) for alias, read in self._readers)
        return next((linked for linked in read_by if linked is not None), None)

    async def _read(self, own: LinkedPicture | LinkedUpload) -> bytes:
        if isinstance(own, LinkedUpload):
            return await self._uploads.read(await self._uploads.get(own.upload_id))
        task = await self._store.get(own.task_id)
        if task is None:
            raise NotFound("there is no such task")
        return await self._storage.get(output_of(task, own.index).key)
