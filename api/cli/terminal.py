"""How the commands speak: results on stdout, everything about them on stderr, one line a fault."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

import typer
from rich.console import Console

# What the request calls a field, and the flag that sets it.
FLAGS = {
    "prompt": "the prompt",
    "negative_prompt": "--negative",
    "width": "--size",
    "height": "--size",
    "aspect_ratio": "--ratio",
    "num_inference_steps": "--steps",
    "loras": "--lora",
    "images": "--image",
    "references": "--reference",
    "guidance_scale": "--guidance",
    "account": "the account's name",
    "name": "its name",
    "destination": "its name",
    "url": "the URL",
    "amount": "the amount",
    "scopes": "--scope",
    "rate_per_minute": "--rate",
    "max_unfinished": "--concurrent",
    "database_url": "DARKROOM_DATABASE_URL",
}


class UsageError(Exception):
    """The command cannot do what it was asked; `field` is what to change, in the API's terms."""

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class Failure(Exception):
    """The command was right and the work failed all the same."""


def out() -> Console:
    """The console of results; made anew, since tests and shells redirect streams."""
    return Console(highlight=False, soft_wrap=True)


def notes() -> Console:
    """The console of everything that is no result."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def lines(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines with aligned columns, whole however narrow the terminal is."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def say(line: str) -> None:
    """One plain line on stderr."""
    notes().print(line, markup=False)


@contextmanager
def speaking(*, interrupted: str | None = None) -> Iterator[None]:
    """Leave with one line per fault: status 2 for the command's, 1 for the work's, 130 by Ctrl-C.

    `interrupted` is the line of the last; None says nothing.
    """
    try:
        yield
    except UsageError as error:
        stop(error)
    except Failure as error:
        stop(error, code=1)
    except KeyboardInterrupt:
        if interrupted is not None:
            say(interrupted)
        raise typer.Exit(130) from None


def stop(error: Exception, code: int = 2) -> NoReturn:
    """Leave with one line per fault on stderr."""
    for line in str(error).splitlines():
        say(f"darkroom: {line}{_flag(error)}")
    raise typer.Exit(code)


def _flag(error: Exception) -> str:
    field = getattr(error, "field", None)
    if field is None:
        return ""
    # of a list, the whole list's
    name = field.partition(".")[0]
    flag = FLAGS.get(name, f"--{name.replace('_', '-')}")
    return "" if flag in str(error) else f" ({flag})"
