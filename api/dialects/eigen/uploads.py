"""The pictures that come to be edited, by whichever of their names; pure, no I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from api.body import FilePart, short
from api.dialects.eigen.schema import MAX_IMAGES, PARTS, GenerateRequest
from api.errors import BadRequest
from api.orders import Remote, Upload, is_address, picture_of
from inference.job import ImageRole

T = TypeVar("T")


def inside_path(wire: GenerateRequest) -> str | None:
    """The path in the server's own folder that a picture is named by, if it is."""
    path = wire.image_path
    if path is None or is_address(path) or path[:5].lower() == "data:":
        return None
    return path


def of(
    wire: GenerateRequest, files: Sequence[FilePart], inside: bytes | None = None
) -> list[Upload]:
    """The pictures to change, `inside` being that of an inside path; raises BadRequest."""
    given: dict[str, list[bytes | Remote]] = {}
    for part in files:
        name = part.name.removesuffix("[]")
        if name not in PARTS:
            what = f"no file is taken as {short(part.name)!r}, only as {', '.join(PARTS)}"
            raise BadRequest(what, field=short(part.name))
        given.setdefault(name, []).append(part.data)
    for name in PARTS:
        if texts := getattr(wire, name):
            given[name] = [picture_of(text, name) for text in texts]
    if wire.image_path is not None:
        if inside is None:
            given["image_path"] = [picture_of(wire.image_path, "image_path")]
        else:
            given["image_path"] = [inside]
    if wire.image_url is not None:
        given["image_url"] = [picture_of(wire.image_url, "image_url")]
    name, pictures = agreed(given) or ("", [])
    if len(pictures) > MAX_IMAGES:
        what = f"{name}: send at most {MAX_IMAGES} pictures, not {len(pictures)}"
        raise BadRequest(what, field=name)
    return [Upload(role=ImageRole.SOURCE, field=name, data=data) for data in pictures]


def agreed(given: Mapping[str, T]) -> tuple[str, T] | None:
    """The first of several names of one thing, and what it says.

    Raises BadRequest if another says something else.
    """
    if not given:
        return None
    first, value = next(iter(given.items()))
    for other in given:
        if given[other] != value:
            what = f"{first} and {other} mean the same thing and differ; send one of them"
            raise BadRequest(what, field=other)
    return first, value
