"""How models.yaml says where weights lie: a source, and a path within it. No torch here.

Only the form is looked at, and whether what is built in is: the rest may come later.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

BUILTIN = "builtin:"
BUILTIN_FOLDER = Path(__file__).parent / "demo"

_ADDRESS = re.compile(r"https?://[^/]+/([\w.-]+/[\w.-]+)/?")
_FORMS = "a folder, or an id of the hub such as owner/name"


def _source(value: str) -> str:
    if not value.strip() or not value.isprintable():
        raise ValueError(f"must be {_FORMS}")
    if "://" in value:
        address = _ADDRESS.fullmatch(value)
        instead = f"; write {address[1]}" if address else ""
        raise ValueError(f"must be {_FORMS}, and no address{instead}")
    name = value.removeprefix(BUILTIN)
    if name != value and name not in (known := _built_in()):
        raise ValueError(f"there is no such built-in model, only {', '.join(known)}")
    return value


def _built_in() -> list[str]:
    """What comes with the package: whole pipelines, and what is added to one."""
    files = (*BUILTIN_FOLDER.glob("*/model_index.json"), *BUILTIN_FOLDER.glob("*/base.json"))
    return sorted(file.parent.name for file in files)


def path_within(value: str) -> str:
    """A path within a source as it is, nothing for the source itself; raises ValueError."""
    parts = value.split("/") if value else []
    if not value.isprintable() or "\\" in value or {"", ".", ".."} & {*parts}:
        raise ValueError(f"{value!r} is no path within a source, such as folder/name.safetensors")
    return value


Source = Annotated[str, Field(min_length=1), AfterValidator(_source)]
SourceOrNone = Annotated[str, AfterValidator(lambda value: value and _source(value))]
PathWithin = Annotated[str, AfterValidator(path_within)]
