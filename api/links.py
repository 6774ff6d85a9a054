"""Signed links: whoever holds one may do one thing to one path until it expires."""

from __future__ import annotations

import hmac
import json
import os
import re
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

from api.errors import Forbidden

# The URL of a picture, from the path at which it is served and the key it is stored under.
PictureLink = Callable[[str, str], str]
# A link that the storage itself has signed, from the key; None where it is not to.
Presign = Callable[[str], str | None]


@dataclass(frozen=True, slots=True)
class LinkedPicture:
    """Which finished picture a link names; `path` is what its `query` signs."""

    path: str
    query: Mapping[str, str]
    task_id: str
    index: int


# What a link of a dialect names, from its path and query; None where it is none of them.
ReadLink = Callable[[str, Mapping[str, str]], LinkedPicture | None]

SECRET_BYTES = 32
PARAMETERS = ("expires", "key", "signature")
# Within a twelfth of their time links to one thing are the same, so that browsers can cache it.
SHARES = 12
# How often the file of keys is looked at: a key made on the command line counts from then on.
LOOK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class LinkKey:
    """One secret under a public id; several may be valid at once, so that they can be replaced."""

    id: str
    secret: bytes


@dataclass(frozen=True, slots=True)
class Links:
    """Signs with the first key, accepts any of them; `keys` are read anew for every link."""

    keys: Callable[[], tuple[LinkKey, ...]]
    ttl_seconds: int
    now_seconds: Callable[[], float] = time.time

    def sign(self, path: str, *, ttl_seconds: int | None = None) -> str:
        """The path with expiry, key id and signature as its query; holds `ttl_seconds` or more."""
        key, holds = self.keys()[0], ttl_seconds or self.ttl_seconds
        share = max(1, holds // SHARES)
        expires = str(-(-(int(self.now_seconds()) + holds) // share) * share)
        signature = _signature(key, "GET", path, expires)
        return (
            f"{path}?{urlencode(dict(zip(PARAMETERS, (expires, key.id, signature), strict=True)))}"
        )

    def knows(self, key_id: str) -> bool:
        """Whether one of the keys has that id."""
        return any(key.id == key_id for key in self.keys())

    def verify(self, path: str, query: Mapping[str, str], *, method: str = "GET") -> None:
        """Raise Forbidden, always with the same message, unless the link holds.

        A link for GET serves HEAD too.
        """
        expires, key_id, given = (query.get(name, "") for name in PARAMETERS)
        key = next((key for key in self.keys() if key.id == key_id), None)
        # An unknown key costs the same work as a known one.
        trusted = key or LinkKey(key_id, bytes(SECRET_BYTES))
        wanted = _signature(trusted, "GET" if method == "HEAD" else method, path, expires)
        # As text, not decoded: no second spelling of the same signature passes.
        genuine = hmac.compare_digest(wanted.encode(), given.encode("utf-8", "replace"))
        if not (key and genuine and int(expires) > self.now_seconds()):
            raise Forbidden("this link is not valid, or no longer")


def pictures_at(pattern: str) -> ReadLink:
    """Reads links that sign their own path, which has that form with groups `task` and `index`."""
    form = re.compile(pattern)

    def read(path: str, query: Mapping[str, str]) -> LinkedPicture | None:
        found = form.fullmatch(path)
        if found is None:
            return None
        return LinkedPicture(path, query, found["task"], int(found["index"]))

    return read


def _signature(key: LinkKey, method: str, path: str, expires: str) -> str:
    # JSON keeps the fields apart whatever they hold.
    message = json.dumps(["darkroom-link-1", key.id, method, path, expires]).encode()
    return hmac.digest(key.secret, message, "sha256").hex()


class KeyFile:
    """A file of `id secret` lines, newest first, mode 0600; what another process writes is noticed.

    A file that has become unreadable changes nothing: links must go on to hold.
    """

    def __init__(self, path: Path, now_seconds: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._now_seconds = now_seconds
        self._keys = _read(path)
        self._read = self._stamp()
        self._looked_seconds = now_seconds()

    def __call__(self) -> tuple[LinkKey, ...]:
        """The keys as the file has them, or had them a second ago."""
        now = self._now_seconds()
        if now >= self._looked_seconds + LOOK_SECONDS:
            self._looked_seconds = now
            if (stamp := self._stamp()) != self._read:
                with suppress(OSError, ValueError):
                    self._keys, self._read = _read(self._path), stamp
        return self._keys

    def _stamp(self) -> tuple[int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ino


def load_links(path: Path, *, ttl_seconds: int) -> Links:
    """Links by the keys in a file, which is made on the first start.

    Raises ValueError for a file that is not a list of keys.
    """
    return Links(key_file(path), ttl_seconds)


def key_file(path: Path) -> KeyFile:
    """The keys in a file, which is made if there is none; raises ValueError for another file."""
    if not path.exists():
        _create(path)
    return KeyFile(path)


def rotate(path: Path) -> LinkKey:
    """Put a new key before those in the file, and keep the last one of them; it is returned.

    Links that were signed with the last key hold until they expire; those of older keys no more.
    """
    old = _read(path) if path.exists() else ()
    new = LinkKey(secrets.token_hex(4), secrets.token_bytes(SECRET_BYTES))
    fresh = _written(path, (new, *old[:1]))
    fresh.replace(path)
    _flush(path.parent)
    return new


def _read(path: Path) -> tuple[LinkKey, ...]:
    keys = tuple(_parse(line, path) for line in path.read_text(encoding="ascii").splitlines())
    if not keys:
        raise ValueError(f"{path}: holds no key")
    return keys


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
    fresh = _written(path, [LinkKey(secrets.token_hex(4), secrets.token_bytes(SECRET_BYTES))])
    try:
        # A link, unlike a rename, never replaces a secret that links were signed with.
        os.link(fresh, path)
    except FileExistsError:
        pass
    finally:
        fresh.unlink()
    _flush(path.parent)


def _written(path: Path, keys: Sequence[LinkKey]) -> Path:
    """A file beside `path` that holds the keys, on the disk."""
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        lines = "".join(f"{key.id} {key.secret.hex()}\n" for key in keys)
        os.write(handle, lines.encode("ascii"))
        os.fsync(handle)
    finally:
        os.close(handle)
    return fresh


def _flush(folder: Path) -> None:
    directory = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
