"""Signed links: whoever holds one may do one thing to one path until it expires."""

from __future__ import annotations

import hmac
import json
import os
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

from api.errors import Forbidden

# The URL of a picture, from the path at which it is served and the key it is stored under.
PictureLink = Callable[[str, str], str]
# A link that the storage itself has signed, from the key; None where it is not to.
Presign = Callable[[str], str | None]

SECRET_BYTES = 32
PARAMETERS = ("expires", "key", "signature")
# Within a twelfth of their time links to one thing are the same, so that browsers can cache it.
SHARES = 12


@dataclass(frozen=True, slots=True)
class LinkKey:
    """One secret under a public id; several may be valid at once, so that they can be replaced."""

    id: str
    secret: bytes


@dataclass(frozen=True, slots=True)
class Links:
    """Signs with the first key, accepts any of them."""

    keys: tuple[LinkKey, ...]
    ttl_seconds: int
    now_seconds: Callable[[], float] = time.time

    def sign(self, path: str, *, method: str = "GET", ttl_seconds: int | None = None) -> str:
        """The path with expiry, key id and signature as its query; holds `ttl_seconds` or more."""
        key, holds = self.keys[0], ttl_seconds or self.ttl_seconds
        share = max(1, holds // SHARES)
        expires = str(-(-(int(self.now_seconds()) + holds) // share) * share)
        signature = _signature(key, method, path, expires)
        return (
            f"{path}?{urlencode(dict(zip(PARAMETERS, (expires, key.id, signature), strict=True)))}"
        )

    def verify(self, path: str, query: Mapping[str, str], *, method: str = "GET") -> None:
        """Raise Forbidden, always with the same message, unless the link holds.

        A link for GET serves HEAD too.
        """
        expires, key_id, given = (query.get(name, "") for name in PARAMETERS)
        key = next((key for key in self.keys if key.id == key_id), None)
        # An unknown key costs the same work as a known one.
        trusted = key or LinkKey(key_id, bytes(SECRET_BYTES))
        wanted = _signature(trusted, "GET" if method == "HEAD" else method, path, expires)
        # As text, not decoded: no second spelling of the same signature passes.
        genuine = hmac.compare_digest(wanted.encode(), given.encode("utf-8", "replace"))
        if not (key and genuine and int(expires) > self.now_seconds()):
            raise Forbidden("this link is not valid, or no longer")


def _signature(key: LinkKey, method: str, path: str, expires: str) -> str:
    # JSON keeps the fields apart whatever they hold.
    message = json.dumps(["darkroom-link-1", key.id, method, path, expires]).encode()
    return hmac.digest(key.secret, message, "sha256").hex()


def load_links(path: Path, *, ttl_seconds: int) -> Links:
    """The keys in a file of `id secret` lines, newest first; made on the first start, mode 0600.

    Raises ValueError for a file that is not such a list.
    """
    if not path.exists():
        _create(path)
    keys = tuple(_parse(line, path) for line in path.read_text(encoding="ascii").splitlines())
    if not keys:
        raise ValueError(f"{path}: holds no key")
    return Links(keys, ttl_seconds)


def _parse(line: str, path: Path) -> LinkKey:
    key_id, _, secret = line.partition(" ")
    try:
        key = LinkKey(key_id, bytes.fromhex(secret))
    except ValueError:
        raise ValueError(f"{path}: a line is not an id and a hexadecimal secret") from None
    if not key.id or len(key.secret) < SECRET_BYTES:
        raise ValueError(f"{path}: a secret is shorter than {SECRET_BYTES} bytes")
    return key


def _create(path: Path) -> None:
    """Write the first key so that a crash leaves either no file or a whole one."""
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    line = f"{secrets.token_hex(4)} {secrets.token_hex(SECRET_BYTES)}\n"
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(handle, line.encode("ascii"))
        os.fsync(handle)
    finally:
        os.close(handle)
    try:
        # A link, unlike a rename, never replaces a secret that links were signed with.
        os.link(fresh, path)
    except FileExistsError:
        pass
    finally:
        fresh.unlink()
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
