"""The texts of keys and secrets: how they are made, known at a glance and kept."""

from __future__ import annotations

import base64
import hashlib
import secrets
import string
import zlib

ALPHABET = string.digits + string.ascii_letters
PREFIX = "dk_"
KEY_BYTES = 32
KEY_CHARS = 43
CHECKSUM_CHARS = 6
ID_CHARS = 10


def new_key() -> str:
    """A key's text: 256 random bits and a checksum, so that a mistyped one is known at a glance."""
    number = int.from_bytes(secrets.token_bytes(KEY_BYTES))
    body = _base62(number, KEY_CHARS)
    return f"{PREFIX}{body}{_checksum(body)}"


def new_key_id() -> str:
    """A public id for a key, good for lists and logs."""
    return "".join(secrets.choice(ALPHABET) for _ in range(ID_CHARS))


def new_webhook_secret() -> str:
    """A secret that webhooks are signed with, in the form of Standard Webhooks."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()


def is_well_formed(text: str) -> bool:
    """Whether a text can be a key of ours, without looking it up."""
    body = text[len(PREFIX) : -CHECKSUM_CHARS]
    return (
        text.startswith(PREFIX)
        and len(body) == KEY_CHARS
        and set(body) <= set(ALPHABET)
        and text[-CHECKSUM_CHARS:] == _checksum(body)
    )


def hash_of(text: str) -> str:
    """What is kept of a key, as hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def _base62(number: int, chars: int) -> str:
    digits = []
    for _ in range(chars):
        number, digit = divmod(number, len(ALPHABET))
        digits.append(ALPHABET[digit])
    return "".join(reversed(digits))


def _checksum(body: str) -> str:
    return _base62(zlib.crc32(body.encode()), CHECKSUM_CHARS)
