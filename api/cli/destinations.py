"""`darkroom destinations`: places that get copies of an account's pictures, in the data folder."""

from __future__ import annotations

import getpass
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from api.cli.accounts import NAMELESS
from api.cli.books import DataDir, on_books, show
from api.cli.settings import settings_of
from api.cli.terminal import UsageError, out

if TYPE_CHECKING:
    from api.accounts import Accounts
    from api.destinations import Destination, Destinations
    from api.settings import Settings

T = TypeVar("T")

app = typer.Typer(
    help="Keep, test and forget places that get copies of pictures.", no_args_is_help=True
)

Account = Annotated[str, typer.Argument(help="The account.", show_default=False)]
Name = Annotated[str, typer.Argument(help="What requests call it.", show_default=False)]

HEADINGS = ["name", "url", "endpoint", "region", "access key id", "public url"]


@app.command()
def add(
    account: Account,
    name: Name,
    url: Annotated[str, typer.Argument(help="The place: s3://bucket/prefix.", show_default=False)],
    access_key_id: Annotated[str, typer.Option(help="The S3 key's id.", show_default=False)],
    secret_access_key: Annotated[
        str | None,
        typer.Option(help="Its secret. (default: asked for, or a line of stdin, which shows less)"),
    ] = None,
    endpoint: Annotated[
        str | None, typer.Option(help="The S3 server's origin. (default: AWS's own)")
    ] = None,
    region: Annotated[str, typer.Option(help="What the server calls its region.")] = "us-east-1",
    public_url: Annotated[
        str | None, typer.Option(help="Where others reach the place; links begin with it.")
    ] = None,
    path_template: Annotated[
        str | None,
        typer.Option(help="What copies are called there. (default: {task_id}/{index}.{ext})"),
    ] = None,
    url_template: Annotated[
        str | None, typer.Option(help="Their address, such as https://cdn.example/{path}.")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Change the one of that name, which must be there.")
    ] = False,
    data_dir: DataDir = None,
) -> None:
    """Keep a destination of an account; `test` tells whether it works."""
    secret = secret_access_key if secret_access_key is not None else _secret()

    async def work(places: Destinations) -> Destination:
        from api.destinations import Destination

        wanted = Destination(
            account=account,
            name=name,
            url=url,
            endpoint=endpoint,
            region=region,
            access_key_id=access_key_id,
            secret=secret,
            public_url=public_url,
            path_template=path_template,
            url_template=url_template,
        )
        return await (places.replace(wanted) if replace else places.add(wanted))

    kept = _on_places(data_dir, account, work)
    out().print(f"{kept.name} of {kept.account or NAMELESS} is {kept.url}", markup=False)


@app.command("list")
def list_destinations(account: Account, data_dir: DataDir = None) -> None:
    """Show an account's destinations, without their secrets."""

    async def work(places: Destinations) -> tuple[Destination, ...]:
        return await places.list(account)

    show([HEADINGS, *(_row(one) for one in _on_places(data_dir, account, work))])


@app.command()
def test(account: Account, name: Name, data_dir: DataDir = None) -> None:
    """Put a small object there and delete it, from this machine."""

    async def work(places: Destinations) -> None:
        await places.test(account, name)

    _on_places(data_dir, account, work)
    out().print(f"{name} of {account or NAMELESS} takes pictures", markup=False)


@app.command()
def remove(account: Account, name: Name, data_dir: DataDir = None) -> None:
    """Forget a destination, not what lies there; generations that still need it fail."""

    async def work(places: Destinations) -> None:
        await places.remove(account, name)

    _on_places(data_dir, account, work)
    out().print(f"{name} of {account or NAMELESS} is forgotten", markup=False)


def _on_places(
    data_dir: Path | None, account: str, work: Callable[[Destinations], Awaitable[T]]
) -> T:
    """The result of `work` for an account that is there; leaves with what is wrong."""
    from api.logs import configure_logging

    settings = settings_of(data_dir=data_dir)
    # The result is told in words; unconfigured, events would be printed beside it.
    configure_logging("warning")

    async def run(accounts: Accounts) -> T:
        await accounts.account(account)
        async with _places(settings) as places:
            return await work(places)

    return on_books(data_dir, run)


@asynccontextmanager
async def _places(settings: Settings) -> AsyncIterator[Destinations]:
    from api.destinations import Destinations
    from api.folder import DataFolder
    from api.outbound import Outbound
    from api.outbound.client import GuardedNetwork
    from api.store.destinations import destinations_in

    try:
        outbound = Outbound(settings.allowed_targets)
    except ValueError as error:
        raise UsageError(f"DARKROOM_ALLOWED_TARGETS: {error}") from None
    try:
        path = DataFolder(settings.data_dir).database
        async with destinations_in(path, settings.postgres_url) as store:
            network = GuardedNetwork(outbound.addresses_of)
            yield Destinations(store, outbound.check_host, network=network)
    finally:
        await outbound.close()


def _secret() -> str:
    if not sys.stdin.isatty():
        return sys.stdin.readline().strip()
    try:
        return getpass.getpass("Secret access key: ")
    except (KeyboardInterrupt, EOFError):
        raise typer.Exit(130) from None


def _row(destination: Destination) -> list[str]:
    return [
        destination.name,
        destination.url,
        destination.endpoint or "-",
        destination.region,
        destination.access_key_id,
        destination.public_url or "-",
    ]
