"""`darkroom links`: the keys that sign links to pictures, in the data folder."""

from __future__ import annotations

import typer

from api.cli.books import DataDir
from api.cli.settings import settings_of
from api.cli.terminal import UsageError, out, stop

app = typer.Typer(help="Replace the key that signs links to pictures.", no_args_is_help=True)


@app.callback()
def _root() -> None:
    """Keep `rotate` a word of its own although there is no other."""


@app.command()
def rotate(data_dir: DataDir = None) -> None:
    """Sign with a new key from now on; links of the last one hold until they expire."""
    from api.folder import DataFolder
    from api.links import rotate

    path = settings_of(data_dir=data_dir).data_dir
    folder = DataFolder(path)
    try:
        folder.make()
        key = rotate(folder.link_keys)
    except (OSError, ValueError) as error:
        stop(UsageError(f"{path} cannot be used: {error}", "data_dir"))
    out().print(key.id, markup=False)
