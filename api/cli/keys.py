"""`darkroom keys`: made, listed and revoked in the data folder, whether or not a server runs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from api.cli.books import DataDir, moment, on_books, show
from api.cli.terminal import UsageError, out, say

if TYPE_CHECKING:
    from api.accounts import Accounts, Key

app = typer.Typer(help="Make, list and revoke API keys.", no_args_is_help=True)

HEADINGS = ["id", "account", "label", "scopes", "dialect", "limits", "created", "revoked"]


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="The account that pays.", show_default=False)],
    label: Annotated[str, typer.Option(help="What the key is for, to tell it from others.")] = "",
    scope: Annotated[
        list[str] | None, typer.Option(help="use, admin or metrics, or several. (default: use)")
    ] = None,
    dialect: Annotated[
        str | None, typer.Option(help="The only API it is good for. (default: every one)")
    ] = None,
    rate: Annotated[int | None, typer.Option(help="Requests for pictures a minute.")] = None,
    concurrent: Annotated[int | None, typer.Option(help="Unfinished tasks at once.")] = None,
    spend_limit: Annotated[
        int | None, typer.Option(help="Credits it may spend in a --spend-period.")
    ] = None,
    spend_period: Annotated[
        str, typer.Option(help="day or month, both by the calendar in UTC.")
    ] = "month",
    credits: Annotated[
        int | None, typer.Option(help="Credits for the account, which is metered from then on.")
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Make a key and print it, this once, alone on stdout."""

    async def work(accounts: Accounts) -> tuple[Key, str]:
        from api.accounts import Key, Period, Scope
        from api.dialects import DIALECTS

        names = [one.name for one in DIALECTS]
        key = Key(
            id="",
            account=name,
            label=label,
            scopes=frozenset(Scope(_one_of(one, Scope, "scopes")) for one in scope or ["use"]),
            dialect=None if dialect is None else _one_of(dialect, names, "dialect"),
            rate_per_minute=rate,
            max_unfinished=concurrent,
            spend_limit=spend_limit,
            spend_period=Period(_one_of(spend_period, Period, "spend_period")),
        )
        return await accounts.create_key(key, credits=credits)

    key, text = on_books(data_dir, work, begins=True)
    out().print(text, markup=False)
    say(f"key {key.id} of account {key.account}; it is not shown again, only its hash is kept")


@app.command("list")
def list_keys(data_dir: DataDir = None) -> None:
    """Show every key by its id, the revoked ones too, newest first."""

    async def work(accounts: Accounts) -> list[Key]:
        return await accounts.keys()

    show([HEADINGS, *(_row(key) for key in on_books(data_dir, work))])


@app.command()
def revoke(
    id: Annotated[str, typer.Argument(help="The key's id, as listed.", show_default=False)],
    data_dir: DataDir = None,
) -> None:
    """Make a key useless; a running server notices within a second."""

    async def work(accounts: Accounts) -> Key:
        return await accounts.revoke(id)

    key = on_books(data_dir, work)
    out().print(f"{key.id} of {key.account} is revoked since {moment(key.revoked_ms)}")


def _one_of(text: str, known: Iterable[str], field: str) -> str:
    if text not in (names := list(known)):
        raise UsageError(f"{text!r} is none of: {', '.join(names)}", field)
    return text


def _row(key: Key) -> list[str]:
    return [
        key.id,
        key.account,
        key.label or "-",
        "+".join(sorted(key.scopes)),
        key.dialect or "-",
        _limits(key) or "-",
        moment(key.created_ms),
        moment(key.revoked_ms) or "-",
    ]


def _limits(key: Key) -> str:
    limits = {
        f"{key.rate_per_minute}/min": key.rate_per_minute,
        f"{key.max_unfinished} at once": key.max_unfinished,
        f"{key.spend_limit} credits/{key.spend_period}": key.spend_limit,
    }
    return ", ".join(words for words, limit in limits.items() if limit is not None)
