"""`darkroom models`: what models.yaml serves, and where a running server keeps it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from api.cli.settings import own_server, secret_of, settings_of
from api.cli.terminal import UsageError, out, speaking, stop

app = typer.Typer(
    help="What models.yaml serves, and where a running server keeps it.", add_completion=False
)

Models = Annotated[
    Path | None,
    typer.Option(help="What to serve. (default: ./models.yaml, else the one Darkroom ships)"),
]
Names = Annotated[
    list[str] | None, typer.Argument(help="Models. (default: all)", show_default=False)
]
Name = Annotated[str, typer.Argument(help="The model's name in models.yaml.", show_default=False)]
Server = Annotated[
    str | None,
    typer.Option(help="The server to ask. (default: this machine's, at DARKROOM_PORT or 8000)"),
]
Key = Annotated[
    str | None,
    typer.Option(help="A key that may manage the server; DARKROOM_API_KEY shows less."),
]
Device = Annotated[
    str | None, typer.Option(help="One device alone, like cuda:1. (default: all it may be on)")
]


@app.callback(invoke_without_command=True)
def models(context: typer.Context, models: Models = None) -> None:
    """Show what models.yaml serves, where no other command follows."""
    if context.invoked_subcommand is None:
        _show(models)
    elif models is not None:
        stop(UsageError("--models goes after the command"))


@app.command("list")
def list_models(
    models: Models = None,
    server: Annotated[
        str | None,
        typer.Option(help="A running server, to show what its models are doing instead."),
    ] = None,
    key: Key = None,
) -> None:
    """Show what models.yaml serves, or what a running server's models are doing."""
    if server is None:
        _show(models)
    elif models is not None:
        stop(UsageError("--models is not for a running server, which has its own"))
    else:
        with speaking():
            _tell(server, key)


@app.command()
def check(
    names: Names = None,
    memory: Annotated[
        str | None,
        typer.Option(help="Of a card, like 24GB. (default: this machine's, or as it is set)"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Tell it as JSON.")] = False,
    models: Models = None,
) -> None:
    """Say which models can be served, what each takes, and what would make it fit.

    Reads configs and headers, and no weights.
    """
    from api.cli.check import run

    with speaking():
        run(names or (), memory, as_json, models)


@app.command()
def pull(names: Names = None, models: Models = None) -> None:
    """Fetch what the models need from the hub: verified, and resumed where it was broken off."""
    from api.cli.pull import run

    with speaking():
        run(names or (), models)


@app.command()
def schema() -> None:
    """Print the JSON Schema of models.yaml, for editors."""
    import json

    from inference.yaml_schema import schema

    out().print(json.dumps(schema(), indent=2), markup=False)


@app.command()
def load(name: Name, device: Device = None, server: Server = None, key: Key = None) -> None:
    """Bring a model to the devices of a running server, and wait until it is there."""
    _manage(name, "load", device, server, key)


@app.command()
def unload(name: Name, device: Device = None, server: Server = None, key: Key = None) -> None:
    """Send a model away once its pictures are finished; the next request loads it again."""
    _manage(name, "unload", device, server, key)


@app.command()
def pin(name: Name, device: Device = None, server: Server = None, key: Key = None) -> None:
    """Bring a model to the devices, and keep it there whatever others are asked for."""
    _manage(name, "pin", device, server, key)


@app.command()
def unpin(name: Name, device: Device = None, server: Server = None, key: Key = None) -> None:
    """Let a model be moved out for others again."""
    _manage(name, "unpin", device, server, key)


def _show(models: Path | None) -> None:
    from api.cli.models import table
    from inference.catalog import load_catalog
    from inference.errors import CatalogError

    settings = settings_of(models=models)
    try:
        catalog = load_catalog(settings.models)
    except CatalogError as error:
        stop(error)
    out().print(table(catalog))
    out().print(str(settings.models), markup=False, style="dim")


def _tell(server: str, key: str | None) -> None:
    from api.cli.remote_models import devices
    from api.cli.states import lines_of

    for line in lines_of(devices(server, secret_of(key))):
        out().print(line, markup=False)


def _manage(
    name: str, action: str, device: str | None, server: str | None, key: str | None
) -> None:
    from api.cli.remote_models import manage

    with speaking():
        try:
            for line in manage(server or own_server(), secret_of(key), name, action, device):
                out().print(line, markup=False)
        except UsageError as error:
            # its name stands in the line, and no flag set it
            raise UsageError(str(error), None if error.field == "model" else error.field) from None
