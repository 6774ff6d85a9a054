"""The accounts of a data folder, as commands see them; a server may run on it meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from api.cli.settings import settings_of
from api.cli.terminal import Failure, UsageError, lines, out, say, speaking, stop

if TYPE_CHECKING:
    from api.accounts import Accounts

T = TypeVar("T")

DataDir = Annotated[
    Path | None, typer.Option(help="Folder of the server's database. (default: ./data)")
]


def on_books(
    data_dir: Path | None, work: Callable[[Accounts], Awaitable[T]], *, begins: bool = False
) -> T:
    """The result of `work` on the accounts; leaves with a line about what is wrong.

    Only what `begins` something makes a data folder that is not there yet.
    """
    settings = settings_of(data_dir=data_dir)
    folder, url = settings.data_dir, settings.postgres_url
    is_new = url is None and not (folder / "darkroom.db").exists()
    if is_new and not begins:
        stop(UsageError(f"{folder} holds no database of a server", "data_dir"))
    with speaking():
        done = asyncio.run(_run(folder, url, work))
    if is_new:
        say(f"in a new data folder: {folder.resolve()}")
    return done


def show(rows: list[list[str]]) -> None:
    """A table on stdout."""
    for line in lines(rows):
        out().print(line, markup=False)


def moment(epoch_ms: int | None) -> str:
    """A time to the second, in UTC; empty for none."""
    if epoch_ms is None:
        return ""
    return f"{datetime.fromtimestamp(epoch_ms / 1000, UTC):%Y-%m-%dT%H:%M:%SZ}"


async def _run(path: Path, url: str | None, work: Callable[[Accounts], Awaitable[T]]) -> T:
    from api.errors import ApiError, Unavailable, field_of
    from api.folder import DataFolder
    from api.store import DriverMissing, MigrationError
    from api.store.accounts import accounts_in

    folder = DataFolder(path)
    try:
        if url is None:
            folder.make()
        async with accounts_in(folder.database, url) as accounts:
            return await work(accounts)
    except DriverMissing as error:
        raise UsageError(str(error), "database_url") from None
    except (OSError, MigrationError) as error:
        what = f"{path} cannot be used: {error}" if url is None else str(error)
        raise UsageError(what, "data_dir" if url is None else "database_url") from None
    except Unavailable as error:
        raise Failure(str(error)) from None
    except ApiError as error:
        raise UsageError(str(error), field_of(error)) from None
