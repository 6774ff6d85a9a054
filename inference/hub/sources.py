"""Where what an entry names lies: on this machine, in the hub's cache, or on the hub.

Of what is on the hub alone, configs and indexes are fetched into a folder of their own, so that the
cache looks as it did.
"""

from __future__ import annotations

import tempfile
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from inference.demo.derived import base_of
from inference.errors import HubFailed, ModelFailed
from inference.hub import cache
from inference.hub.fetch import Fetcher
from inference.hub.files import Wanted, is_hub_id, needed, sources_of
from inference.loading import locate
from inference.model_spec import ModelSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Folders with at least the configs, and how much is to be fetched beside them.

    `identities` are equal for parts of equal content. Of the parts that are `replaced` no weights
    are read.
    """

    where: str
    folders: Sequence[Path]
    missing_bytes: int = 0
    identities: Mapping[str, Hashable] = field(default_factory=dict)
    replaced: Sequence[str] = ()


class Sources:
    """Finds what entries name; a context manager, for its folder of configs."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="darkroom-check-")
        self._fetcher = Fetcher(Path(self._folder.name))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._folder.cleanup()

    def of(self, spec: ModelSpec) -> Iterator[Wanted]:
        """What an entry names."""
        return sources_of(spec)

    def find(self, wanted: Wanted) -> Place:
        """Where it is; raises HubFailed or ModelFailed where it is not, or not whole."""
        if not is_hub_id(wanted.repository):
            return self._on_this_machine(wanted)
        cached = cache.find(wanted)
        if cached is not None:
            return Place(where="in the hub's cache", folders=[cached], replaced=wanted.without)
        return self._on_the_hub(wanted)

    def _on_this_machine(self, wanted: Wanted) -> Place:
        path = Path(locate(wanted.repository)).expanduser()
        where = "built in" if wanted.repository.startswith("builtin:") else "here"
        if path.is_file():
            return Place(where=where, folders=[path.parent])
        if not path.is_dir():
            raise ModelFailed(f"{wanted.repository} is not there")
        base = base_of(path)
        if base == path:
            _see(wanted, path)
        return Place(
            where=where, folders=list(dict.fromkeys((base, path))), replaced=wanted.without
        )

    def _on_the_hub(self, wanted: Wanted) -> Place:
        files = self._fetcher.needed(wanted)
        place = self._fetcher.look_up(wanted)
        configs = [name for name in files if name.endswith(".json")]
        self._fetcher.fetch_all(place, configs, None)
        weights = {name: file for name, file in files.items() if name not in configs}
        found = self._fetcher.folder_of(place)
        digests: dict[str, list[str]] = {}
        for name, file in weights.items():
            digests.setdefault(name.rpartition("/")[0], []).append(file.digest)
        return Place(
            where="on the hub",
            folders=[found],
            missing_bytes=sum(file.size_bytes for file in weights.values()),
            identities={part: tuple(told) for part, told in digests.items()},
            replaced=wanted.without,
        )


def _see(wanted: Wanted, folder: Path) -> None:
    """That all that is read of a folder is in it; raises HubFailed."""

    names = [one.relative_to(folder).as_posix() for one in folder.rglob("*") if one.is_file()]
    try:
        needed(wanted, names, lambda name: cache.read_json(folder, name))
    except (KeyError, TypeError, AttributeError):
        raise HubFailed(f"{wanted.repository}: its indexes are not those of a model") from None
