"""`darkroom generate`: finds who makes the pictures, shows how far they are, writes them."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

from PIL import Image
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from api.cli import remote
from api.cli.settings import own_server
from api.cli.terminal import Failure, UsageError, notes, out, say
from api.cli.wish import Made, Step, Updates, Waiting, Wish
from api.settings import Settings

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}


def run(
    wish: Wish,
    output: Path,
    *,
    server: str | None,
    key: str | None,
    local_settings: Callable[[], Settings],
) -> None:
    """Make the pictures and write them; raises UsageError or Failure."""
    _check_output(output)
    with closing(_updates(wish, server, key, local_settings)) as updates:
        for made in _shown(updates, wish.count):
            path = path_of(output, made.index, wish.count)
            width, height = write(made.data, path)
            out().print(f"{path}  {width}x{height}  seed {made.seed}", markup=False)


def path_of(output: Path, index: int, count: int) -> Path:
    """Where picture `index` goes: the file itself, or out-1.png, out-2.png of several."""
    return output if count == 1 else output.with_stem(f"{output.stem}-{index + 1}")


def write(data: bytes, path: Path) -> tuple[int, int]:
    """Write an encoded picture in the format its file name asks for; its width and height."""
    wanted = FORMATS[path.suffix.lower()]
    with Image.open(io.BytesIO(data)) as picture:
        size = picture.size
        if picture.format != wanted:
            buffer = io.BytesIO()
            picture.convert("RGB").save(buffer, wanted, quality=95)
            data = buffer.getvalue()
    try:
        path.write_bytes(data)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}", "output") from None
    return size


def _check_output(output: Path) -> None:
    if output.suffix.lower() not in FORMATS:
        raise UsageError(f"{output}: the name must end in {', '.join(FORMATS)}", "output")
    if not output.absolute().parent.is_dir():
        raise UsageError(f"{output.parent}: no such folder", "output")


def _updates(
    wish: Wish, server: str | None, key: str | None, local_settings: Callable[[], Settings]
) -> Updates:
    """From the server if one answers, else from an engine started here."""
    # one that is named is waited for; whether there is one anyway is to be known soon
    seconds = remote.GREET_SECONDS if server is None else remote.ANSWER_SECONDS
    found = remote.find(server or own_server(), key, greet_seconds=seconds)
    if found is not None:
        return found.make(wish)
    if server is not None:
        raise UsageError(f"no Darkroom answers at {server}", "server")
    from api.cli import local

    return local.make(wish, local_settings())


def _shown(updates: Updates, count: int) -> Iterator[Made]:
    """The finished pictures, while a bar on stderr shows how far the others are."""
    console = notes()
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    missing = count
    silent = not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=silent) as bar:
        task = bar.add_task("asking", total=None)
        done: dict[int, float] = {}
        for update in updates:
            match update:
                case Waiting(why=why):
                    bar.update(task, description=why)
                    if silent:
                        say(why)
                case Step(index=index, step=step, steps=steps):
                    done[index] = step / steps
                    words = f"step {step} of {steps}"
                    bar.update(task, description=words, total=count, completed=sum(done.values()))
                case Made() as made:
                    missing -= 1
                    yield made
    if missing:
        raise Failure(f"{missing} of {count} pictures were not made")
