"""What the fields of a destination may hold, and the one spelling in which they are kept."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar
from urllib.parse import urlsplit

from api.copies import check_path_template, check_url_template
from api.errors import BadRequest
from api.storage.s3 import check_endpoint, parse_s3_url
from api.store.destinations import Destination

T = TypeVar("T")

_NAME = re.compile(r"[a-z0-9-]{1,64}")
# S3's own alphabet for both is wider and undocumented; what is refused here is never issued.
_REGION = re.compile(r"[a-z0-9-]{1,64}")
_PROVIDER = re.compile(r"[a-z0-9-]{1,16}")
_CREDENTIAL = re.compile(r"[\x21-\x7e]{1,200}")
MAX_URL_CHARS = 1000


def checked(destination: Destination) -> Destination:
    """The destination in the one spelling that is kept; raises BadRequest, naming the field."""
    if not _NAME.fullmatch(destination.name):
        raise BadRequest("name must be 1 to 64 of a-z, 0-9 and '-'", field="name")
    for field, pattern, value in (
        ("region", _REGION, destination.region),
        ("provider", _PROVIDER, destination.provider),
        ("access_key_id", _CREDENTIAL, destination.access_key_id),
        ("secret_access_key", _CREDENTIAL, destination.secret),
    ):
        if not pattern.fullmatch(value):
            raise BadRequest(f"{field} is empty, too long or holds other characters", field=field)
    return replace(
        destination,
        url=str(blaming("url", parse_s3_url, destination.url)),
        endpoint=_if_any("endpoint", check_endpoint, destination.endpoint),
        public_url=_if_any("public_url", _public_url, destination.public_url),
        path_template=_if_any("path_template", check_path_template, destination.path_template),
        url_template=_if_any("url_template", check_url_template, destination.url_template),
    )


def blaming(field: str, read: Callable[[str], T], text: str) -> T:
    """What `read` makes of a text; its ValueError as a BadRequest that names the field."""
    if len(text) > MAX_URL_CHARS:
        raise BadRequest(f"{field} has more than {MAX_URL_CHARS} characters", field=field)
    try:
        return read(text)
    except ValueError as error:
        raise BadRequest(f"{field}: {error}", field=field) from None


def _if_any(field: str, read: Callable[[str], str], text: str | None) -> str | None:
    return blaming(field, read, text) if text else None


def _public_url(text: str) -> str:
    """Never connected to: callers get it as the beginning of a link."""
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or not text.isprintable():
        raise ValueError("must start with http:// or https:// and name a host")
    if parts.username is not None or parts.query or parts.fragment or " " in text:
        raise ValueError("must hold a host and a path and nothing else")
    return text.rstrip("/")
