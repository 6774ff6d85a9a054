"""Keys of objects: only the server makes them, so nothing in one is to be escaped or distrusted."""

from __future__ import annotations

import re

from api.tasks import ImageFormat

PATTERN = r"(inputs|outputs|uploads)/[A-Za-z0-9_-]{1,64}/[a-z0-9-]{1,32}(\.[a-z]{3,4})?"
_KEY = re.compile(PATTERN)
_MEDIA_TYPES = {one.extension: one.media_type for one in ImageFormat}

INPUTS, OUTPUTS, UPLOADS = "inputs", "outputs", "uploads"


def input_key(task_id: str, number: int) -> str:
    """Where an input picture of a task lies."""
    return f"{INPUTS}/{task_id}/{number}.png"


def output_key(task_id: str, attempt: int, index: int, extension: str) -> str:
    """Where a finished picture lies; the attempt keeps two workers' pictures apart."""
    return f"{OUTPUTS}/{task_id}/{attempt}-{index}.{extension}"


def upload_key(upload_id: str) -> str:
    """Where a picture lies that an account left here."""
    return f"{UPLOADS}/{upload_id}/0.png"


def owner_of(key: str) -> str:
    """The id of the task or the upload that a key was made for."""
    return key.split("/")[1]


def media_type_of(key: str) -> str:
    """The MIME type that goes with a key's ending."""
    return _MEDIA_TYPES.get(key.rpartition(".")[2], "application/octet-stream")


def is_key(text: str) -> bool:
    """Whether one of these functions could have made it."""
    return _KEY.fullmatch(text) is not None


def check_key(key: str) -> None:
    """Assert that a key is one of ours: any other is a fault of the program."""
    assert is_key(key), f"not a key of ours: {key!r}"
