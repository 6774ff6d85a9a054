"""What strangers' servers answer, read as far as it is wanted."""

from __future__ import annotations

import email.utils
import time
from collections.abc import Callable

import httpcore2

from api.errors import TooLarge
from api.outbound.targets import Unreachable


def too_large(field: str, max_bytes: int) -> TooLarge:
    """The refusal of what has more bytes than it may."""
    return TooLarge(f"{field}: must lead to at most {max_bytes} bytes", field=field)


def check_reply(reply: httpcore2.Response, host: str) -> None:
    """Raise Unreachable unless the body is what was asked for, as it was asked for."""
    if 300 <= reply.status < 400:
        raise Unreachable(
            f"{host} answers with status {reply.status}; redirects are not followed, "
            "so give the URL that they lead to"
        )
    if not 200 <= reply.status < 300:
        raise Unreachable(f"{host} answers with status {reply.status}")
    if header(reply, b"content-encoding").lower() not in ("", "identity"):
        raise Unreachable(f"{host} sends it compressed although asked not to")


def length_of(reply: httpcore2.Response) -> int | None:
    """Bytes of the body, if the head tells."""
    length = header(reply, b"content-length")
    return int(length) if length.isdecimal() else None


def retry_after(reply: httpcore2.Response) -> float | None:
    """Seconds that the receiver asks to be left alone for."""
    text = header(reply, b"retry-after")
    if text.isdecimal():
        return float(text[:12])
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError, OSError):
        return None


def header(reply: httpcore2.Response, name: bytes) -> str:
    """What a header holds, without the spaces around it."""
    values = [value for key, value in reply.headers if key.lower() == name]
    return b",".join(values).decode("latin-1").strip()


async def pour(reply: httpcore2.Response, sink: Callable[[bytes], object], max_bytes: int) -> int:
    """Hand the body on as it comes, cut after so many bytes; how many that was."""
    poured = 0
    async for part in reply.aiter_stream():
        part = part[: max_bytes - poured]
        sink(part)
        poured += len(part)
        if poured == max_bytes:
            break
    return poured


async def read(reply: httpcore2.Response, max_bytes: int) -> bytes:
    """The body, cut after so many bytes."""
    data = bytearray()
    await pour(reply, data.extend, max_bytes)
    return bytes(data)
