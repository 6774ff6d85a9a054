"""What a dialect hands in: the neutral wish with its pictures, and what is to become of it."""

from __future__ import annotations

import base64
import binascii
import secrets
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from api.errors import BadRequest
from api.tasks import AS_CONFIGURED, NO_EXTRAS, Delivery, Extras
from inference.job import ImageRequest, ImageRole, Job, ReferenceTag

ID_ALPHABET = string.ascii_letters + string.digits


def random_id(chars: int = 21) -> str:
    """Letters and digits: 21 are 125 bits, so that nobody guesses a task."""
    return "".join(secrets.choice(ID_ALPHABET) for _ in range(chars))


@dataclass(frozen=True, slots=True)
class Remote:
    """A picture that the server is to fetch; not checked yet."""

    url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """An input picture as it arrived: encoded bytes or an address, not yet checked.

    `field` names its part; `tag` and `weight` are of a reference.
    """

    role: ImageRole
    field: str
    data: bytes | Remote
    tag: ReferenceTag | None = None
    weight: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One request as its dialect understood it; the wish's `images` are made from `uploads`.

    `webhook_field` is what the dialect calls the address to be told, `path_field` the name of a
    copy. `new_id` makes an id of the shape that its clients expect, at most 32 characters.
    """

    request: ImageRequest
    dialect: str
    uploads: Sequence[Upload] = ()
    delivery: Delivery = AS_CONFIGURED
    extras: Extras = NO_EXTRAS
    priority: int = 0
    webhook_field: str = "webhook"
    path_field: str = "destination_path"
    new_id: Callable[[], str] = random_id


@dataclass(frozen=True, slots=True)
class Quote:
    """What an order would become: its job, and the credits for all of it."""

    job: Job
    credits: int


def is_address(text: str) -> bool:
    """Whether a text is an http(s) address, or a signed link of ours without its origin."""
    # Base64 may begin with a slash, as JPEG's does, but holds no question mark.
    is_link = text.startswith("/") and "?" in text
    return is_link or text[:8].lower().startswith(("http://", "https://"))


def picture_of(text: str, field: str) -> bytes | Remote:
    """The picture a text stands for: an address, a data URI or bare base64; raises BadRequest."""
    if is_address(text):
        return Remote(text)
    if text[:5].lower() == "data:":
        head, _, text = text.partition(",")
        if not head.lower().endswith(";base64"):
            raise BadRequest("a data URI must be ;base64", field=field)
    try:
        data = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        message = f"{field} is neither an http(s) address nor a data URI nor base64"
        raise BadRequest(message, field=field) from None
    if not data:
        raise BadRequest(f"{field} is empty", field=field)
    return data
