"""LoRAs that a request brings by address: fetched, checked, and kept by what is in them."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import time
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, Protocol
from urllib.parse import urlsplit

import structlog

from api.errors import BadRequest, Overloaded, Unavailable
from api.settings import Settings
from inference.job import Job, Lora
from inference.loras.spec import FETCHED, is_address

log = structlog.get_logger()

FIELD = "loras"
ENDING = ".safetensors"
# What has come so lately stays: its task may be about to be kept.
FRESH_SECONDS = 600.0
# An address is not asked again for so long.
KNOWN_SECONDS = 600.0
MOST_KNOWN = 1000
MOST_AT_ONCE = 4
# Headers of whole models have less than a million bytes.
MOST_HEADER_BYTES = 16 * 1024**2


class Downloader(Protocol):
    """What goes out to addresses that a request names; `api.outbound.Outbound` is one."""

    def check_url(self, text: str, *, field: str) -> str: ...

    async def download(
        self,
        url: str,
        sink: Callable[[bytes], object],
        *,
        field: str,
        max_bytes: int,
        timeout_seconds: float,
    ) -> None: ...


class FetchedLoras:
    """A folder of files that are named by their SHA-256; those asked for least lately go first.

    `needed` tells the names that unfinished tasks hold: their files stay.
    """

    def __init__(
        self,
        folder: Path,
        *,
        settings: Settings,
        outbound: Downloader,
        needed: Callable[[], Awaitable[Collection[str]]],
        threads: Executor,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._folder = folder
        self._outbound = outbound
        self._needed = needed
        self._threads = threads
        self._settings = settings
        self._now = now
        self._known: dict[str, tuple[str, float]] = {}
        self._turns = asyncio.Semaphore(MOST_AT_ONCE)
        self._is_tidy = False

    def check(self, loras: Sequence[Lora]) -> None:
        """Raise BadRequest for an address that may not be asked; nothing is looked up."""
        for lora in loras:
            if is_address(lora.name):
                self._outbound.check_url(lora.name, field=FIELD)

    async def fetch(self, job: Job) -> Job:
        """The job with the name of what lay there in place of each address.

        Raises BadRequest, TooLarge or Overloaded.
        """
        found = [await self._name_of(lora.name) for lora in job.loras]
        if len(set(found)) < len(found):
            raise BadRequest("two of the LoRAs are the same file", field=FIELD)
        loras = [replace(lora, name=name) for lora, name in zip(job.loras, found, strict=True)]
        return replace(job, loras=tuple(loras))

    def placed(self, job: Job) -> Job:
        """The job as the engine takes it, told where the files of its fetched LoRAs lie."""
        loras = (
            replace(lora, path=str(self._path(lora.name))) if _is_fetched(lora.name) else lora
            for lora in job.loras
        )
        return replace(job, loras=tuple(loras))

    def _path(self, name: str) -> Path:
        return self._folder / (name.removeprefix(FETCHED) + ENDING)

    async def _name_of(self, asked: str) -> str:
        """The name under which a LoRA is kept: its own, unless that is an address."""
        if not is_address(asked):
            return asked
        name, since = self._known.get(asked, ("", 0.0))
        if name and self._now() - since < KNOWN_SECONDS:
            with suppress(FileNotFoundError):
                os.utime(self._path(name), (self._now(), self._now()))
                return name
        async with self._turns:
            name = await self._fetch(asked)
        self._known = dict([*self._known.items()][1 - MOST_KNOWN :]) | {asked: (name, self._now())}
        return name

    async def _fetch(self, url: str) -> str:
        with _keeping():
            self._tidy()
        # the path may hold a secret
        host, begun = urlsplit(url).hostname, time.monotonic()
        log.info("lora_fetching", host=host)
        digest = hashlib.sha256()
        with NamedTemporaryFile(dir=self._folder, suffix=".part", delete=False) as file:
            part = Path(file.name)
            try:

                def take(data: bytes) -> None:
                    with _keeping():
                        file.write(data)
                    digest.update(data)

                await self._outbound.download(
                    url,
                    take,
                    field=FIELD,
                    max_bytes=self._settings.max_lora_bytes,
                    timeout_seconds=self._settings.lora_fetch_seconds,
                )
                with _keeping():
                    await self._in_thread(_flush, file)
                    await self._in_thread(_check, part)
                    name = FETCHED + digest.hexdigest()
                    await self._make_room(part.stat().st_size, name)
                    part.replace(self._path(name))
            finally:
                part.unlink(missing_ok=True)
        size, seconds = self._path(name).stat().st_size, round(time.monotonic() - begun, 2)
        log.info("lora_fetched", host=host, name=name, bytes=size, seconds=seconds)
        return name

    async def _make_room(self, wanted_bytes: int, name: str) -> None:
        """Delete what may go until so much more fits; raises Overloaded."""
        kept = sorted((one.stat().st_mtime, one) for one in self._folder.glob(f"*{ENDING}"))
        sizes = {path: path.stat().st_size for _, path in kept if path != self._path(name)}
        over = sum(sizes.values()) + wanted_bytes - self._settings.kept_lora_bytes
        if over <= 0:
            return
        needed = {self._path(one) for one in await self._needed()}
        for since, path in kept:
            if over > 0 and path in sizes.keys() - needed and self._now() - since > FRESH_SECONDS:
                path.unlink(missing_ok=True)
                over -= sizes[path]
        if over > 0:
            raise Overloaded("there is no room for another LoRA; come back later")

    def _tidy(self) -> None:
        """Once: what a process that is no more has left half fetched."""
        if not self._is_tidy:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            for part in self._folder.glob("*.part"):
                # A young one may be in the hands of another server on this folder.
                with suppress(FileNotFoundError):
                    if self._now() - part.stat().st_mtime > FRESH_SECONDS:
                        part.unlink()
            self._is_tidy = True

    async def _in_thread(self, work: Callable[..., None], *arguments: object) -> None:
        await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)


def _is_fetched(name: str) -> bool:
    return name.startswith(FETCHED)


@contextmanager
def _keeping() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Unavailable(f"the LoRA cannot be kept: {error.strerror}") from error


def _flush(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _check(path: Path) -> None:
    """Raise BadRequest unless a file is whole and safetensors, by its header; no value is read."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
        length = int.from_bytes(head, "little")
        is_pickle = head.startswith((b"PK\x03\x04", b"\x80"))
        if not 2 <= length <= min(MOST_HEADER_BYTES, size - 8):
            what = "a pickled file, which may run anything" if is_pickle else "no safetensors file"
            raise BadRequest(f"{FIELD}: the address leads to {what}", field=FIELD)
        header = file.read(length)
    if not _fills(header, size - 8 - length):
        raise BadRequest(f"{FIELD}: the address leads to no whole safetensors file", field=FIELD)


def _fills(header: bytes, data_bytes: int) -> bool:
    """Whether the tensors that a header lists, one after the other, are all the data there is."""
    try:
        listed = json.loads(header)
        listed.pop("__metadata__", None)
        ranges = sorted(
            (begin, end) for begin, end in (one["data_offsets"] for one in listed.values())
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return False
    ends = [0, *(end for _, end in ranges)]
    return bool(ranges) and [begin for begin, _ in ranges] == ends[:-1] and ends[-1] == data_bytes
