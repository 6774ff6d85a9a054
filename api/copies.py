"""Where in a destination the copy of a picture lies, and the address that others reach it by."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from urllib.parse import quote, urlsplit

from api.store.destinations import Destination
from api.tasks import Task

MAX_PATH_BYTES = 700
_TOKEN = re.compile(r"\{([^{}]*)\}")
# Of a path; an address may hold the path as well.
TOKENS = ("task_id", "index", "number", "ext", "date", "year", "month", "day")
URL_TOKENS = ("path", *TOKENS)
_TELL_APART = {"index", "number"}


def path_of(destination: Destination, task: Task, index: int, extension: str) -> str:
    """The name of the object below the destination's place, the same in every attempt.

    What would be the same for all pictures of a task is numbered from 1, before its ending.
    """
    fields = _fields(task, index, extension)
    template = task.delivery.path or destination.path_template
    if template is None:
        return f"{task.id}/{index}.{extension}"
    path = template if task.delivery.path else _filled(template, fields)
    tells_apart = task.delivery.path is None and _TELL_APART.intersection(_TOKEN.findall(template))
    if len(task.job.seeds) == 1 or tells_apart:
        return path
    folder, slash, name = path.rpartition("/")
    stem, dot, ending = name.rpartition(".") if "." in name.strip(".") else (name, "", "")
    return f"{folder}{slash}{stem}-{index + 1}{dot}{ending}"


def url_of(destination: Destination, task: Task, index: int, extension: str) -> str:
    """Where a copy is reached: as the destination says, or `s3://…` where it says nothing."""
    path = path_of(destination, task, index, extension)
    fields = _fields(task, index, extension) | {"path": quote(path)}
    if destination.url_template is not None:
        return _filled(destination.url_template, fields)
    if destination.public_url is not None:
        return f"{destination.public_url}/{fields['path']}"
    return f"{destination.url}/{path}"


def check_path(text: str) -> str:
    """The name of an object as it is used; raises ValueError for one that S3 servers differ on."""
    if len(text.encode("utf-8", "replace")) > MAX_PATH_BYTES:
        raise ValueError(f"must have at most {MAX_PATH_BYTES} bytes")
    if not text.isprintable() or "\\" in text:
        raise ValueError("must hold no control characters and no backslash")
    if any(part in ("", ".", "..") for part in text.split("/")):
        raise ValueError("must be names with '/' between them, and none of them '.' or '..'")
    return text


def check_path_template(text: str) -> str:
    """A path in which tokens like {task_id} stand for what they say; raises ValueError."""
    check_path(_samples(text, TOKENS))
    return text


def check_url_template(text: str) -> str:
    """An address in which {path} and other tokens stand for what they say; raises ValueError."""
    parts = urlsplit(_samples(text, URL_TOKENS))
    if parts.scheme not in ("http", "https") or not parts.hostname or "{" in text.split("/")[2]:
        raise ValueError("must start with http:// or https:// and name a host")
    if parts.username is not None or not text.isprintable() or " " in text:
        raise ValueError("must be an address without spaces and without a user name")
    return text


def _samples(text: str, known: tuple[str, ...]) -> str:
    """The text with something in place of each token; raises ValueError for an unknown one."""
    tokens = ", ".join(f"{{{name}}}" for name in known)
    unknown = [name for name in _TOKEN.findall(text) if name not in known]
    filled = _TOKEN.sub("x", text)
    if unknown or "{" in filled or "}" in filled:
        raise ValueError(f"may hold these and no other braces: {tokens}")
    return filled


def _fields(task: Task, index: int, extension: str) -> dict[str, str]:
    # By the task's making, not by the clock: a second attempt shall write over the first.
    made = datetime.fromtimestamp(task.created_ms / 1000, UTC)
    return {
        "task_id": task.id,
        "index": str(index),
        "number": str(index + 1),
        "ext": extension,
        "date": f"{made:%Y-%m-%d}",
        "year": f"{made:%Y}",
        "month": f"{made:%m}",
        "day": f"{made:%d}",
    }


def _filled(template: str, fields: dict[str, str]) -> str:
    return _TOKEN.sub(lambda found: fields[found[1]], template)
