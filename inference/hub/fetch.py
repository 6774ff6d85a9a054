"""Files of the hub brought into its cache on this machine: resumed, verified, found offline.

The hub's own client gives up what it has of a file when it is stopped; here a file of twenty
gigabytes goes on where it ended. No torch.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Self

from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
from huggingface_hub.errors import RevisionNotFoundError
from huggingface_hub.file_download import http_get
from huggingface_hub.utils._headers import build_hf_headers

from inference.errors import HubFailed
from inference.hub import cache
from inference.hub.download import Download, Progress
from inference.hub.files import Wanted, needed
from inference.hub.repository import HubFile, Repository, first_line, look_up, why

_AT_ONCE = 4
_READ_BYTES = 1 << 22
# Another process, or another model's load, is fetching the same file.
_LOOK_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Fetched:
    """What something of the hub takes on this machine, and how much of it came just now."""

    files: int
    size_bytes: int
    new_bytes: int


@dataclass(frozen=True, slots=True)
class _Errand:
    """Files of one repository on their way; what fails of one gives up the others."""

    place: Repository
    progress: Progress | None
    failed: list[BaseException] = field(default_factory=list)
    given_up: threading.Event = field(default_factory=threading.Event)


class Fetcher:
    """Downloads into the hub's cache, or one of another folder, until it is `stopped`.

    What comes of a file that is broken off stays for the next time. One that `trusts_cache` takes
    what is here as it is: files are not compared again, and a branch that has moved since is
    followed only where its old commit is gone.
    """

    def __init__(
        self,
        cache_dir: Path | None = None,
        *,
        trusts_cache: bool = False,
        stopped: threading.Event | None = None,
    ) -> None:
        self.cache_dir = cache.cache_folder(cache_dir)
        self._trusts_cache = trusts_cache
        self._stopped = stopped or threading.Event()
        self._repositories: dict[tuple[str, str | None], Repository] = {}

    def look_up(self, one: Wanted) -> Repository:
        """What the hub lists of a repository, asked once; raises HubFailed."""
        key = (one.repository, one.revision)
        if key not in self._repositories:
            self._repositories[key] = self._ask(one)
        return self._repositories[key]

    def needed(self, one: Wanted) -> dict[str, HubFile]:
        """The files that are needed, after fetching the small ones that say so."""
        place = self.look_up(one)
        errand = _Errand(place, None)

        def read(name: str) -> Any:
            self._fetch(errand, name)
            try:
                return cache.read_json(self.folder_of(place), name)
            except HubFailed as error:
                raise HubFailed(f"{place.name}: {error}") from None

        try:
            names = needed(one, list(place.files), read)
        except (KeyError, TypeError, AttributeError):
            raise HubFailed(f"{place.name}: its indexes are not those of a model") from None
        return {name: place.files[name] for name in dict.fromkeys(names)}

    def fetch(self, one: Wanted, progress: Progress) -> Fetched:
        """Bring all of it here, and see that it is whole; raises HubFailed."""
        place = self.look_up(one)
        cache.note_listing(place.name, place.commit, place.files, self.cache_dir)
        files = self.needed(one)
        missing = [file for name, file in files.items() if not self._is_here(place, name)]
        size = sum(file.size_bytes for file in files.values())
        self._check_space(place, missing)
        progress.expect(size)
        self.fetch_all(place, files, progress)
        # not before: what came last stays in use until this is whole
        cache.note_commit(place.name, one.revision, place.commit, self.cache_dir)
        return Fetched(len(files), size, sum(file.size_bytes for file in missing))

    def fetch_all(self, place: Repository, names: Iterable[str], progress: Progress | None) -> None:
        """Bring files here, several at a time; raises HubFailed."""
        errand, waiting = _Errand(place, progress), deque(names)

        def work() -> None:
            while waiting and not self._is_over(errand):
                try:
                    self._fetch(errand, waiting.popleft())
                except IndexError:
                    return
                except BaseException as error:
                    errand.failed.append(error)
                    errand.given_up.set()

        # daemons: a download that hangs must not keep the process from ending
        threads = [threading.Thread(target=work, daemon=True) for _ in range(_AT_ONCE)]
        for one in threads:
            one.start()
        try:
            for one in threads:
                one.join()
        except BaseException:
            errand.given_up.set()
            for one in threads:
                one.join()
            raise
        if errand.failed:
            raise errand.failed[0]
        self._see_to_go_on(errand)

    def folder_of(self, place: Repository) -> Path:
        """Where a repository's files lie by their names, those that came."""
        return cache.snapshot(place.name, place.commit, self.cache_dir)

    def _ask(self, one: Wanted) -> Repository:
        known = None
        if self._trusts_cache:
            known = cache.commit_of(one.repository, one.revision, self.cache_dir)
        try:
            return look_up(one.repository, known or one.revision)
        except HubFailed as error:
            if known is None or not isinstance(error.__cause__, RevisionNotFoundError):
                raise
        return look_up(one.repository, one.revision)

    def _fetch(self, errand: _Errand, name: str) -> None:
        place = errand.place
        try:
            self._bring(errand, name, _Meter(errand.progress))
        except HubFailed:
            raise
        except Exception as error:
            reason = why(error, place.name) or first_line(error)
            raise HubFailed(f"{place.name}: {reason}") from error

    def _bring(self, errand: _Errand, name: str, meter: _Meter) -> None:
        place, file = errand.place, errand.place.files[name]
        pointer, blob = self.folder_of(place) / name, self._blob(place, file)
        for here in (pointer, blob):
            if here.exists() and not (self._trusts_cache or _is_whole(here, file)):
                # what the pointer leads to first, or it would be taken for whole again
                here.resolve().unlink(missing_ok=True)
                here.unlink(missing_ok=True)
            if here is pointer and here.exists():
                meter.at(file.size_bytes)
                return
        url = hf_hub_url(place.name, name, revision=place.commit)
        if get_hf_file_metadata(url).etag != file.digest:
            raise HubFailed(f"{place.name}: the hub tells of two contents of {name}")
        self._download(errand, url, name, meter)
        hf_hub_download(place.name, name, revision=place.commit, cache_dir=self.cache_dir)

    def _download(self, errand: _Errand, url: str, name: str, meter: _Meter) -> None:
        file = errand.place.files[name]
        blob = self._blob(errand.place, file)
        part = _part_of(blob)
        part.parent.mkdir(parents=True, exist_ok=True)
        while not blob.exists():
            self._see_to_go_on(errand)
            with part.open("ab") as stream:
                if not _is_locked(stream):
                    # by another, who may be stopped; what comes there is ours too
                    meter.at(stream.tell())
                    errand.given_up.wait(_LOOK_SECONDS)
                elif blob.exists():
                    part.unlink(missing_ok=True)
                elif _is_at(stream, part):
                    self._stream(errand, url, stream, file, meter)
                    self._accept(errand.place, part, blob, name, file)
        meter.at(file.size_bytes)

    def _stream(
        self, errand: _Errand, url: str, stream: BinaryIO, file: HubFile, meter: _Meter
    ) -> None:
        # who held it before may have written more since it was opened
        if (begun := stream.seek(0, os.SEEK_END)) > file.size_bytes:
            begun = stream.truncate(0)
        meter.at(begun)
        if begun == file.size_bytes:
            return

        def advance(size_bytes: int) -> None:
            self._see_to_go_on(errand)
            meter.at(meter.size_bytes + size_bytes)

        bar: Any = partial(_Bar, advance)
        headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
        http_get(url, stream, resume_size=begun, headers=headers, tqdm_class=bar)
        stream.flush()

    def _accept(self, place: Repository, part: Path, blob: Path, name: str, file: HubFile) -> None:
        """While it is locked, so that nobody else has moved or thrown it away."""
        if not _is_whole(part, file):
            part.unlink()
            message = f"{name} came damaged, and was thrown away; try again"
            raise HubFailed(f"{place.name}: {message}")
        part.replace(blob)

    def _is_over(self, errand: _Errand) -> bool:
        return errand.given_up.is_set() or self._stopped.is_set()

    def _see_to_go_on(self, errand: _Errand) -> None:
        if self._is_over(errand):
            raise HubFailed(f"{errand.place.name}: stopped; what came of it stays")

    def _is_here(self, place: Repository, name: str) -> bool:
        blob = self._blob(place, place.files[name])
        return blob.exists() or (self.folder_of(place) / name).exists()

    def _blob(self, place: Repository, file: HubFile) -> Path:
        return cache.repository_folder(place.name, self.cache_dir) / "blobs" / file.digest

    def _check_space(self, place: Repository, missing: Iterable[HubFile]) -> None:
        parts = [(_part_of(self._blob(place, file)), file.size_bytes) for file in missing]
        size = sum(whole - (part.stat().st_size if part.exists() else 0) for part, whole in parts)
        self.cache_dir.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.cache_dir).free
        if size > free:
            raise HubFailed(
                f"{place.name} is {size / 1e9:.1f} GB more, and {self.cache_dir} has "
                f"{free / 1e9:.1f} GB left"
            )


def bring(one: Wanted, download: Download | None = None) -> Path:
    """The folder of the hub's cache with all that is needed, fetched first where it is not here.

    The hub is not asked where it is. Raises HubFailed.
    """
    if (found := cache.find(one)) is not None:
        return found
    download = download or Download()
    fetcher = Fetcher(trusts_cache=True, stopped=download.stopped)
    try:
        fetcher.fetch(one, download)
    except HubFailed:
        if (found := cache.find(one, is_hub_away=True)) is None:
            raise
        return found
    return fetcher.folder_of(fetcher.look_up(one))


class _Meter:
    """How much of one file is here, told as it changes."""

    def __init__(self, progress: Progress | None) -> None:
        self.size_bytes = 0
        self._progress = progress

    def at(self, size_bytes: int) -> None:
        """So much of it is here by now."""
        if self._progress is not None and size_bytes != self.size_bytes:
            self._progress.advance(size_bytes - self.size_bytes)
        self.size_bytes = size_bytes


class _Bar:
    """What the hub's client takes for a progress bar."""

    def __init__(self, advance: Any, **_: object) -> None:
        self.update = advance

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def _part_of(blob: Path) -> Path:
    return blob.with_name(f"{blob.name}.part")


def _is_locked(stream: BinaryIO) -> bool:
    """Whether it is ours from now on, until it is closed."""
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(stream: BinaryIO, path: Path) -> bool:
    """Whether a file that was open when another renamed or deleted it still has its name."""
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(stream.fileno()), there)


def _is_whole(path: Path, file: HubFile) -> bool:
    """Whether a file has the content that the hub lists."""
    if path.stat().st_size != file.size_bytes:
        return False
    is_git = len(file.digest) == 40
    told = hashlib.sha1() if is_git else hashlib.sha256()
    if is_git:
        told.update(b"blob %d\0" % file.size_bytes)
    with path.open("rb") as stream:
        while piece := stream.read(_READ_BYTES):
            told.update(piece)
    return told.hexdigest() == file.digest
