"""Files of the hub brought into its cache on this machine: resumed, verified, found offline.

The hub's own client gives up what it has of a file when it is stopped; here a file of twenty
gigabytes goes on where it ended. No torch.
"""

from __future__ import annotations

import shutil
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
from huggingface_hub.errors import RevisionNotFoundError

from inference.errors import HubFailed
from inference.hub import cache
from inference.hub.download import Download, Progress
from inference.hub.files import Wanted, needed
from inference.hub.partial import Claims, Meter, Part, PartLost, is_at, is_whole, part_of
from inference.hub.repository import HubFile, Repository, first_line, look_up, why
from inference.hub.stream import LOOK_SECONDS, complete, unless

_AT_ONCE = 4


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
    claims: Claims = field(default_factory=Claims)


class Fetcher:
    """Downloads into the hub's cache, or one of another folder, until it is `stopped`.

    A stop takes effect within a second, also while the hub says nothing; what comes of a file that
    is broken off stays for the next time. One that `trusts_cache` takes
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
            found = unless(self._stopped.is_set, lambda: self._ask(one))
            if found is None:
                raise _stopped(one.repository)
            self._repositories[key] = found
        return self._repositories[key]

    def needed(self, one: Wanted) -> dict[str, HubFile]:
        """The files that are needed, after fetching the small ones that say so."""
        place = self.look_up(one)

        def read(name: str) -> Any:
            self.fetch_all(place, [name], None)
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
        count = min(_AT_ONCE, len(waiting))
        threads = [threading.Thread(target=work, daemon=True) for _ in range(count)]
        for one in threads:
            one.start()
        try:
            self._wait_for(threads, errand)
        except BaseException:
            errand.given_up.set()
            errand.claims.let_go()
            raise
        if errand.failed:
            raise errand.failed[0]
        self._see_to_go_on(errand)

    def folder_of(self, place: Repository) -> Path:
        """Where a repository's files lie by their names, those that came."""
        return cache.snapshot(place.name, place.commit, self.cache_dir)

    def _wait_for(self, threads: Sequence[threading.Thread], errand: _Errand) -> None:
        """Until they have ended, or it is over: who waits for the hub then is left to itself."""
        while alive := [one for one in threads if one.is_alive()]:
            if self._is_over(errand):
                errand.claims.let_go()
                return
            alive[0].join(LOOK_SECONDS)

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
            self._bring(errand, name, Meter(errand.progress))
        except HubFailed:
            raise
        except PartLost:
            raise _stopped(place.name) from None
        except Exception as error:
            self._see_to_go_on(errand)
            reason = why(error, place.name) or first_line(error)
            raise HubFailed(f"{place.name}: {reason}") from error

    def _bring(self, errand: _Errand, name: str, meter: Meter) -> None:
        place, file = errand.place, errand.place.files[name]
        pointer, blob = self.folder_of(place) / name, self._blob(place, file)
        check = self._checker(errand)
        for here in (pointer, blob):
            if here.exists() and not (self._trusts_cache or is_whole(here, file, check)):
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

    def _download(self, errand: _Errand, url: str, name: str, meter: Meter) -> None:
        file = errand.place.files[name]
        blob = self._blob(errand.place, file)
        part = part_of(blob)
        part.parent.mkdir(parents=True, exist_ok=True)
        while not blob.exists():
            self._see_to_go_on(errand)
            with part.open("ab") as stream, errand.claims.claim(stream) as is_ours:
                if not is_ours:
                    # another's, who may be stopped; what comes there is ours too
                    meter.at(stream.tell())
                    errand.given_up.wait(LOOK_SECONDS)
                elif blob.exists():
                    part.unlink(missing_ok=True)
                elif is_at(stream, part):
                    self._complete(errand, url, Part(stream, errand.claims, meter), file)
                    self._accept(errand, stream, blob, name)
        meter.at(file.size_bytes)

    def _complete(self, errand: _Errand, url: str, part: Part, file: HubFile) -> None:
        if part.size_bytes > file.size_bytes:
            part.clear()
        if part.size_bytes < file.size_bytes:
            complete(part, url, self._checker(errand))

    def _accept(self, errand: _Errand, stream: BinaryIO, blob: Path, name: str) -> None:
        """While it is ours, so that nobody else has moved or thrown it away."""
        place, part = errand.place, part_of(blob)
        whole = is_whole(part, place.files[name], self._checker(errand))
        with errand.claims.changing(stream):
            if whole:
                part.replace(blob)
            else:
                part.unlink()
        if not whole:
            message = f"{name} came damaged, and was thrown away; try again"
            raise HubFailed(f"{place.name}: {message}")

    def _is_over(self, errand: _Errand) -> bool:
        return errand.given_up.is_set() or self._stopped.is_set()

    def _see_to_go_on(self, errand: _Errand) -> None:
        if self._is_over(errand):
            raise _stopped(errand.place.name)

    def _checker(self, errand: _Errand) -> Callable[[], None]:
        return lambda: self._see_to_go_on(errand)

    def _is_here(self, place: Repository, name: str) -> bool:
        blob = self._blob(place, place.files[name])
        return blob.exists() or (self.folder_of(place) / name).exists()

    def _blob(self, place: Repository, file: HubFile) -> Path:
        return cache.repository_folder(place.name, self.cache_dir) / "blobs" / file.digest

    def _check_space(self, place: Repository, missing: Iterable[HubFile]) -> None:
        parts = [(part_of(self._blob(place, file)), file.size_bytes) for file in missing]
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


def _stopped(repository: str) -> HubFailed:
    return HubFailed(f"{repository}: stopped; what came of it stays")
