"""`darkroom gallery`: a sheet for each field of a request, and a page that shows them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from api.cli.own_engine import own_engine
from api.cli.paper import contact_sheet
from api.cli.sheets import SHEETS
from api.cli.studio import Studio
from api.cli.terminal import Failure, UsageError, out, say
from api.settings import Settings
from inference.catalog import load_catalog
from inference.errors import CatalogError, Refused

OPENING = """# Gallery

What each field of a request does, drawn by the models that come with Darkroom.
"""


def run(folder: Path, names: Iterable[str], settings: Settings) -> None:
    """Draw the sheets of these names, or all, into a folder; raises UsageError or Failure."""
    wanted = list(names) or list(SHEETS)
    if unknown := [name for name in wanted if name not in SHEETS]:
        raise UsageError(f"no sheet {unknown[0]!r}; there are: {', '.join(SHEETS)}", "only")
    try:
        catalog = load_catalog(settings.models)
        folder.mkdir(parents=True, exist_ok=True)
    except CatalogError as error:
        raise UsageError(str(error)) from None
    except OSError as error:
        raise UsageError(f"{folder}: {error.strerror}", "out") from None
    with own_engine(catalog, settings) as engine:
        studio = Studio(catalog, engine)
        for name in wanted:
            _draw(studio, name, folder)
    write_page(folder)


def _draw(studio: Studio, name: str, folder: Path) -> None:
    """One sheet, or a word on why these models cannot draw it."""
    path = folder / f"{name}.webp"
    try:
        cells = SHEETS[name].draw(studio)
    except Refused as error:
        say(f"{name}: left out, {error}")
        path.unlink(missing_ok=True)
        return
    try:
        contact_sheet(cells).save(path, "WEBP", quality=90, method=6)
    except OSError as error:
        raise Failure(f"{path}: {error.strerror}") from None
    out().print(f"{path}  {len(cells)} pictures", markup=False)


def write_page(folder: Path) -> None:
    """The page of every sheet that lies in the folder, beside it."""
    parts = [OPENING]
    for name, sheet in SHEETS.items():
        if (folder / f"{name}.webp").is_file():
            parts.append(f"## `{name}`\n\n{sheet.says}\n\n![{name}]({folder.name}/{name}.webp)\n")
    folder.with_suffix(".md").write_text("\n".join(parts))
