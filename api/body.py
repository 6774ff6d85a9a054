"""Bodies at the door: read within limits, parsed strictly, refused with the field named.

FastAPI's own parsing lets NaN, lone surrogates and endless digits through to places that cannot
hold them, where they end as a 500. Nothing here leaves such a value in what it returns.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser, MultipartPart
from starlette.requests import Request

from api.errors import BadRequest, TooLarge, UnsupportedMedia

MAX_DEPTH = 64
MAX_INT_DIGITS = 20
MULTIPART = "multipart/form-data"


@dataclass(frozen=True, slots=True, kw_only=True)
class BodyLimits:
    """How large a body and its text may be, in bytes, and how many parts a form may have."""

    body_bytes: int = 64 * 1024**2
    text_bytes: int = 48 * 1024**2
    parts: int = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class FilePart:
    """One file of a form, whole; `file_name` is what the caller calls it."""

    name: str
    data: bytes
    file_name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """What arrived: `values` by field name, which are all text if `is_form`, and the files."""

    values: dict[str, Any]
    files: tuple[FilePart, ...] = ()
    is_form: bool = False

    def fingerprint(self) -> str:
        """The same for the same fields and files, however they were spelled, as hex."""
        values = json.dumps(self.values, sort_keys=True, separators=(",", ":"))
        digest = hashlib.sha256(values.encode())
        for part in self.files:
            digest.update(json.dumps([part.name, len(part.data)]).encode())
            digest.update(part.data)
        return digest.hexdigest()


async def read_body(request: Request, limits: BodyLimits) -> Body:
    """A JSON object or a multipart form.

    Raises BadRequest, TooLarge (while the body still streams in) and UnsupportedMedia.
    """
    media_type, options = parse_options_header(request.headers.get("content-type"))
    charset = options.get(b"charset", b"utf-8").lower()
    if charset not in (b"utf-8", b"utf8", b"us-ascii"):
        raise UnsupportedMedia("send the body in UTF-8")
    if request.headers.get("content-encoding", "identity").lower() not in ("", "identity"):
        raise UnsupportedMedia("send the body as it is, without a Content-Encoding")
    if media_type == MULTIPART.encode():
        return await _read_form(request, limits)
    if media_type == b"application/json" or media_type.endswith(b"+json"):
        body = b"".join([chunk async for chunk in _limited(request, limits.body_bytes)])
        return Body(values=parse_json(body))
    raise UnsupportedMedia(f"send Content-Type: application/json or {MULTIPART}")


def parse_json(body: bytes) -> dict[str, Any]:
    """The object in a JSON body; raises BadRequest for whatever has no plain meaning."""
    try:
        values = json.loads(body.decode("utf-8-sig"), parse_int=_integer, parse_float=_number)
    except UnicodeDecodeError as error:
        raise BadRequest(f"the body is not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno}"
        raise BadRequest(f"the body is not JSON: {error.msg} at {where}") from None
    except RecursionError:
        raise BadRequest(f"the body is nested more than {MAX_DEPTH} deep") from None
    if not isinstance(values, dict):
        raise BadRequest("the body must be a JSON object")
    _check_tree(values)
    return values


def short(name: str) -> str:
    """A name that a caller chose, fit to be shown in a message."""
    return repr(name if len(name) <= 60 else name[:60] + "…")[1:-1]


def _integer(digits: str) -> float:
    return int(digits) if len(digits) <= MAX_INT_DIGITS else math.inf


def _number(text: str) -> float:
    # JSON has one kind of number, so 8.0 is as good a step count as 8
    value = float(text)
    return int(value) if value.is_integer() and abs(value) < 2**53 else value


def _check_tree(values: dict[str, Any]) -> None:
    pending: list[tuple[str, Any, int]] = [("", values, 0)]
    while pending:
        path, value, depth = pending.pop()
        if depth > MAX_DEPTH:
            raise BadRequest(f"the body is nested more than {MAX_DEPTH} deep", field=path[:60])
        if isinstance(value, str):
            _check_text(value, path)
        elif isinstance(value, float) and not math.isfinite(value):
            raise BadRequest(f"{path} is NaN, infinite or too long; send a number", field=path)
        elif isinstance(value, list):
            pending += [(f"{path}[{index}]", item, depth + 1) for index, item in enumerate(value)]
        elif isinstance(value, dict):
            for key, item in value.items():
                _check_text(key, path or "a field name")
                name = short(key)
                pending.append((f"{path}.{name}" if path else name, item, depth + 1))


def _check_text(text: str, path: str) -> None:
    if "\0" in text:
        raise BadRequest(f"{path} holds a NUL character", field=path)
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError:
        message = f"{path} holds a lone surrogate, which is no character"
        raise BadRequest(message, field=path) from None


async def _limited(request: Request, limit_bytes: int) -> AsyncGenerator[bytes, None]:
    """The body in chunks; raises TooLarge before any of it, or in its midst."""
    too_large = TooLarge(f"the body is over {limit_bytes} bytes")
    declared = request.headers.get("content-length", "0")
    if not declared.isdecimal() or len(declared) > MAX_INT_DIGITS or int(declared) > limit_bytes:
        raise too_large
    received_bytes = 0
    async for chunk in request.stream():
        received_bytes += len(chunk)
        if received_bytes > limit_bytes:
            raise too_large
        yield chunk


class _FormParser(MultiPartParser):
    """Starlette's parser, which also minds whether the closing boundary came.

    A part is a file by its type too, as some clients send pictures without a plain file name.
    The files are closed whenever reading fails, so the complaint is raised from the stream.
    """

    def __init__(self, request: Request, limits: BodyLimits) -> None:
        super().__init__(
            request.headers,
            self._to_the_end(_limited(request, limits.body_bytes)),
            max_files=limits.parts,
            max_fields=limits.parts,
            max_part_size=limits.text_bytes,
        )
        self._has_ended = False

    def on_headers_finished(self) -> None:
        part = self._current_part
        _, options = parse_options_header(part.content_disposition)
        if b"filename" not in options and _holds_bytes(part):
            part.content_disposition = (part.content_disposition or b"") + b'; filename="unnamed"'
        super().on_headers_finished()

    def on_part_end(self) -> None:
        part = self._current_part
        if part.file is None and b"\0" not in part.data:
            # The base class would read what is not UTF-8 as Latin-1, and make other words of it.
            try:
                part.data.decode()
            except UnicodeDecodeError:
                name = short(part.field_name)
                raise BadRequest(f"{name} is not UTF-8", field=name) from None
        super().on_part_end()

    def on_end(self) -> None:
        self._has_ended = True

    async def _to_the_end(self, chunks: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        async for chunk in chunks:
            yield chunk
        if not self._has_ended:
            raise BadRequest("the form ends before its closing boundary")


def _holds_bytes(part: MultipartPart) -> bool:
    media_type, _ = parse_options_header(dict(part.item_headers).get(b"content-type"))
    return media_type.startswith(b"image/") or media_type == b"application/octet-stream"


async def _read_form(request: Request, limits: BodyLimits) -> Body:
    try:
        form = await _FormParser(request, limits).parse()
    except MultiPartException as error:
        if "exceeded maximum size" in error.message:
            raise TooLarge(f"a text part is over {limits.text_bytes} bytes") from None
        raise BadRequest(f"the form cannot be read: {error.message}") from None
    try:
        values: dict[str, str] = {}
        files: list[FilePart] = []
        for name, value in form.multi_items():
            _check_text(name, "a field name")
            if isinstance(value, UploadFile):
                if not value.filename and not value.size:
                    continue  # what a browser sends where no file was chosen
                data, file_name = await value.read(), value.filename or ""
                files.append(FilePart(name=name, data=data, file_name=file_name))
            else:
                if "\0" in value:
                    what = f"{short(name)} holds a NUL character; a file needs a file name"
                    raise BadRequest(what, field=short(name))
                _check_text(value, short(name))
                values[name] = value
        return Body(values=values, files=tuple(files), is_form=True)
    finally:
        await form.close()
