"""`darkroom models pull`: what models.yaml names of the hub, brought to this machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from api.cli.settings import settings_of
from api.cli.terminal import Failure, UsageError, notes, out, say
from inference.catalog import Catalog, load_catalog
from inference.errors import CatalogError

ASSISTANTS = ("rater", "enhancer", "viewer")

if TYPE_CHECKING:
    from inference.hub.fetch import Fetcher
    from inference.hub.files import Wanted


def run(names: Sequence[str], models: Path | None) -> None:
    """Fetch what the named entries need, or all; raises UsageError, or Failure at the end."""
    from inference.hub.fetch import Fetcher
    from inference.hub.files import wanted

    path = settings_of(models=models).models
    try:
        catalog = load_catalog(path)
    except CatalogError as error:
        raise UsageError(str(error)) from None
    todo = wanted(catalog, *chosen(catalog, names, path))
    if not todo:
        say("nothing of it lies on the hub")
        return
    fetcher, failed = Fetcher(), 0
    with _bars() as bars:
        for one in todo:
            failed += not _fetch(fetcher, one, bars)
    if failed:
        others = "; the others are here" if failed < len(todo) else ""
        raise Failure(f"{failed} of {len(todo)} could not be had{others}")


def chosen(catalog: Catalog, names: Sequence[str], path: Path) -> tuple[list[str], list[str]]:
    """The models and assistants of the file named, all of them if none is; raises UsageError."""
    helping = [key for key in ASSISTANTS if getattr(catalog, key) is not None]
    for name in names:
        if name not in catalog.models and name not in helping:
            served = ", ".join([*catalog.models, *helping])
            raise UsageError(f"no model {name!r} in {path}, only {served}")
    models = [name for name in names or catalog.models if name in catalog.models]
    # a model may have an assistant's name, and is meant then
    return models, [name for name in names or helping if not names or name not in models]


def _fetch(fetcher: Fetcher, one: Wanted, bars: Progress) -> bool:
    from inference.errors import HubFailed

    bar = _Bar(bars, one.owner)
    try:
        done = fetcher.fetch(one, bar)
    except HubFailed as error:
        bars.console.print(f"{one.owner}: {error}", markup=False, style="red")
        return False
    finally:
        bar.remove()
    came = f"{done.new_bytes / 1e9:.2f} GB new" if done.new_bytes else "here before"
    size = f"{done.size_bytes / 1e9:.2f} GB in {done.files} files"
    out().print(f"{one.owner}: {one.repository}, {size}, verified, {came}", markup=False)
    return True


def _bars() -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=notes(),
        transient=True,
    )


class _Bar:
    """One line of progress, which downloads tell from their threads."""

    def __init__(self, bars: Progress, name: str) -> None:
        self._bars = bars
        self._line: TaskID = bars.add_task(name, total=None)

    def expect(self, size_bytes: int) -> None:
        self._bars.update(self._line, total=size_bytes)

    def advance(self, size_bytes: int) -> None:
        self._bars.advance(self._line, size_bytes)

    def remove(self) -> None:
        self._bars.remove_task(self._line)
