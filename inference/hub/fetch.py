"""Files of the hub brought into its cache on this machine: resumed, verified, found offline.

The hub's own client gives up what it has of a file when it is stopped; here a file of twenty
gigabytes goes on where it ended. No torch.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
import threading
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Protocol, Self

from huggingface_hub import (
    constants,
    get_hf_file_metadata,
    hf_hub_download,
    hf_hub_url,
    try_to_load_from_cache,
)
from huggingface_hub.file_download import http_get, repo_folder_name
from huggingface_hub.utils._headers import build_hf_headers

from inference.errors import HubFailed
from inference.hub.files import Wanted, needed
from inference.hub.repository import HubFile, Repository, first_line, look_up, why

_AT_ONCE = 4
_READ_BYTES = 1 << 22


class Progress(Protocol):
    """Is told, on any thread, how far a download is."""

    def expect(self, size_bytes: int) -> None:
        """So much will be there in the end, together with what is there already."""

    def advance(self, size_bytes: int) -> None:
        """So much more is there; less than nothing where it had to begin anew."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """What something of the hub takes on this machine, and how much of it came just now."""

    files: int
    size_bytes: int
    new_bytes: int


class Fetcher:
    """Downloads into the hub's cache, or one of another folder.

    What comes of a file that is broken off stays for the next time.
    """

    def __init__(self, cache_dir: Path | None = None) -> None:
        self.cache_dir = Path(cache_dir or constants.HF_HUB_CACHE).expanduser().resolve()
        self._is_stopped = threading.Event()
        self._repositories: dict[tuple[str, str | None], Repository] = {}

    def look_up(self, one: Wanted) -> Repository:
        """What the hub lists of a repository, asked once; raises HubFailed."""
        key = (one.repository, one.revision)
        if key not in self._repositories:
            cache = self.cache_dir.as_posix()
            self._repositories[key] = look_up(one.repository, one.revision, cache)
        return self._repositories[key]

    def needed(self, one: Wanted) -> dict[str, HubFile]:
        """The files that are needed, after fetching the small ones that say so."""
        place = self.look_up(one)

        def read(name: str) -> Mapping[str, Any]:
            path = self._fetch(place, name, None)
            try:
                told: Mapping[str, Any] = json.loads(path.read_bytes())
            except ValueError:
                raise HubFailed(f"{place.name}: {name} is no JSON") from None
            return told

        try:
            names = needed(one, list(place.files), read)
        except (KeyError, TypeError, AttributeError):
            raise HubFailed(f"{place.name}: its indexes are not those of a model") from None
        return {name: place.files[name] for name in dict.fromkeys(names)}

    def fetch(self, one: Wanted, progress: Progress) -> Fetched:
        """Bring all of it here, and see that it is whole; raises HubFailed."""
        files = self.needed(one)
        place = self.look_up(one)
        here = {name for name in files if self._cached(place, name) is not None}
        size = sum(file.size_bytes for file in files.values())
        missing = sum(file.size_bytes for name, file in files.items() if name not in here)
        self._check_space(place, missing)
        progress.expect(size)
        self.fetch_all(place, files, progress)
        return Fetched(len(files), size, missing)

    def fetch_all(self, place: Repository, names: Iterable[str], progress: Progress | None) -> None:
        """Bring files here, several at a time; raises HubFailed."""
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            coming = [pool.submit(self._fetch, place, name, progress) for name in names]
            try:
                for one in coming:
                    one.result()
            except BaseException:
                self._is_stopped.set()
                pool.shutdown(cancel_futures=True)
                self._is_stopped.clear()
                raise

    def folder_of(self, place: Repository) -> Path:
        """Where a repository's files lie by their names, those that came."""
        folder = repo_folder_name(repo_id=place.name, repo_type="model")
        return self.cache_dir / folder / "snapshots" / place.revision.resolved

    def _fetch(self, place: Repository, name: str, progress: Progress | None) -> Path:
        try:
            return self._bring(place, name, progress)
        except HubFailed:
            raise
        except Exception as error:
            reason = why(error, place.name) or first_line(error)
            raise HubFailed(f"{place.name}: {reason}") from error

    def _bring(self, place: Repository, name: str, progress: Progress | None) -> Path:
        file = place.files[name]
        if (cached := self._cached(place, name)) is not None:
            if _is_whole(cached, file):
                if progress is not None:
                    progress.advance(file.size_bytes)
                return cached
            # what the pointer leads to first, or it would be taken for whole again
            cached.resolve().unlink()
            cached.unlink(missing_ok=True)
        url = hf_hub_url(place.name, name, revision=place.revision.resolved)
        etag = get_hf_file_metadata(url).etag
        if etag != file.digest:
            raise HubFailed(f"{place.name}: the hub tells of two contents of {name}")
        self._download(url, self._blob(place, file), name, file, progress)
        path = hf_hub_download(place.name, name, revision=place.revision, cache_dir=self.cache_dir)
        return Path(path)

    def _download(
        self, url: str, blob: Path, name: str, file: HubFile, progress: Progress | None
    ) -> None:
        blob.parent.mkdir(parents=True, exist_ok=True)
        part = blob.with_name(f"{blob.name}.part")
        with part.open("ab") as stream:
            # of two processes that fetch the same, the second finds it done
            fcntl.flock(stream, fcntl.LOCK_EX)
            if blob.exists():
                return
            self._stream(url, stream, file, progress)
        if not _is_whole(part, file):
            part.unlink()
            raise HubFailed(f"{name} came damaged, and was thrown away; try again")
        part.replace(blob)

    def _stream(self, url: str, stream: BinaryIO, file: HubFile, progress: Progress | None) -> None:
        begun = stream.tell()
        if begun > file.size_bytes:
            stream.truncate(0)
            begun = 0
        if progress is not None:
            progress.advance(begun)
        if begun == file.size_bytes:
            return
        bar: Any = partial(_Bar, progress, self._is_stopped)
        http_get(
            url,
            stream,
            resume_size=begun,
            headers={**build_hf_headers(), "Accept-Encoding": "identity"},
            tqdm_class=bar,
        )

    def _cached(self, place: Repository, name: str) -> Path | None:
        found = try_to_load_from_cache(
            place.name, name, cache_dir=self.cache_dir, revision=place.revision.resolved
        )
        return Path(found) if isinstance(found, str) else None

    def _blob(self, place: Repository, file: HubFile) -> Path:
        folder = repo_folder_name(repo_id=place.name, repo_type="model")
        return self.cache_dir / folder / "blobs" / file.digest

    def _check_space(self, place: Repository, size_bytes: int) -> None:
        self.cache_dir.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.cache_dir).free
        if size_bytes > free:
            raise HubFailed(
                f"{place.name} is {size_bytes / 1e9:.1f} GB more, and {self.cache_dir} has "
                f"{free / 1e9:.1f} GB left"
            )


class _Bar:
    """What the hub's client takes for a progress bar."""

    def __init__(self, progress: Progress | None, is_stopped: threading.Event, **_: object) -> None:
        self._progress = progress
        self._is_stopped = is_stopped

    def update(self, size_bytes: int) -> None:
        if self._is_stopped.is_set():
            raise HubFailed("stopped")
        if self._progress is not None:
            self._progress.advance(size_bytes)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


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
