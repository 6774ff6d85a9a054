"""`darkroom accounts`: balances, the ledger and the secrets that webhooks are signed with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from api.cli.books import DataDir, moment, on_books, show
from api.cli.terminal import out, say

if TYPE_CHECKING:
    from api.accounts import Account, Accounts, Entry

app = typer.Typer(help="Show and change accounts and their credits.", no_args_is_help=True)

# As a terminal shows it: whoever used the server while it asked for no keys.
NAMELESS = "(no key)"


def _name(text: str) -> str:
    return "" if text == NAMELESS else text


Name = Annotated[
    str, typer.Argument(help="The account, as `list` shows it.", show_default=False, parser=_name)
]

LEDGER = ["line", "when", "kind", "amount", "held", "task", "key", "note"]
NEWEST = 20


@app.command("list")
def list_accounts(data_dir: DataDir = None) -> None:
    """Show every account with its balance."""

    async def work(accounts: Accounts) -> list[Account]:
        return await accounts.accounts()

    rows = [
        [one.name or NAMELESS, _yes(one.metered), str(one.balance), str(one.held)]
        for one in on_books(data_dir, work)
    ]
    show([["account", "metered", "balance", "held"], *rows])


@app.command("show")
def show_account(name: Name, data_dir: DataDir = None) -> None:
    """Show an account and the newest lines of its ledger."""

    async def work(accounts: Accounts) -> tuple[Account, list[Entry]]:
        return await accounts.account(name), await accounts.entries(name, limit=NEWEST)

    account, entries = on_books(data_dir, work)
    _tell(account)
    if entries:
        out().print()
        show([LEDGER, *(_row(entry) for entry in entries)])


# or "-5" would be taken for flags
@app.command(context_settings={"ignore_unknown_options": True})
def credit(
    name: Name,
    amount: Annotated[
        int, typer.Argument(help="Credits; a negative number takes them back.", show_default=False)
    ],
    note: Annotated[str, typer.Option(help="Why, for the ledger.")] = "",
    data_dir: DataDir = None,
) -> None:
    """Add credits; the account is metered from then on."""

    async def work(accounts: Accounts) -> Account:
        return await accounts.grant(name, amount, note)

    _tell(on_books(data_dir, work))


@app.command()
def unmeter(name: Name, data_dir: DataDir = None) -> None:
    """Never refuse the account for want of credits again; its use is still written down."""

    async def work(accounts: Accounts) -> Account:
        return await accounts.unmeter(name)

    _tell(on_books(data_dir, work))


@app.command()
def secret(
    name: Name,
    rotate: Annotated[
        bool, typer.Option("--rotate", help="Make a new one; the old signs too for a day.")
    ] = False,
    data_dir: DataDir = None,
) -> None:
    """Print the secret that the account's webhooks are signed with, alone on stdout."""

    async def work(accounts: Accounts) -> Account:
        if rotate:
            return await accounts.rotate_webhook_secret(name)
        return await accounts.account(name)

    account = on_books(data_dir, work)
    out().print(account.webhook_secret, markup=False)
    if rotate:
        say("messages are signed with the secret before it as well, for 24 hours")


def _tell(account: Account) -> None:
    show(
        [
            ["account", account.name or NAMELESS],
            ["metered", _yes(account.metered)],
            ["balance", str(account.balance)],
            ["held", str(account.held)],
            ["created", moment(account.created_ms)],
        ]
    )


def _row(entry: Entry) -> list[str]:
    return [
        str(entry.id),
        moment(entry.created_ms),
        entry.kind,
        f"{entry.amount:+d}",
        f"{entry.held:+d}",
        entry.task_id or "-",
        entry.key_id or "-",
        entry.note or "-",
    ]


def _yes(fact: bool) -> str:
    return "yes" if fact else "no"
