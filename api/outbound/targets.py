"""URLs that requests name, read once and in one way."""

from __future__ import annotations

import re
from dataclasses import dataclass

import httpcore2
import httpx2

from api.outbound.addresses import is_host

MAX_URL_CHARS = 2048
PORTS = {"http": 80, "https": 443}


class Unreachable(Exception):
    """No answer from there; the message says why and repeats nothing but the host."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where a URL leads; `host` is in ASCII, an IPv6 address without its brackets."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """Host and port as in a URL, the default port left out."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def origin(self) -> str:
        """Scheme and authority."""
        return f"{self.scheme}://{self.authority}"

    @property
    def url(self) -> str:
        """The whole URL in its one spelling, without a fragment."""
        return self.origin + self.path

    @property
    def wire(self) -> httpcore2.URL:
        """For the connection, in parts: another parser might read another host."""
        return httpcore2.URL(
            scheme=self.scheme.encode(),
            host=self.host.encode(),
            port=self.port,
            target=self.path.encode(),
        )


def parse(text: str) -> Target:
    """The target of a URL; raises Unreachable, which says what is wrong with it."""
    if len(text) > MAX_URL_CHARS:
        raise Unreachable(f"must be a URL of at most {MAX_URL_CHARS} characters")
    # Some parsers take a backslash for a slash and see another host than we do.
    if "\\" in text or not text.isprintable():
        raise Unreachable("must be a URL without control characters and backslashes")
    try:
        url = httpx2.URL(text)
        scheme, host, port = url.scheme, url.raw_host.decode("ascii"), url.port
        path = url.raw_path.decode("ascii")
    except (httpx2.InvalidURL, ValueError):
        raise Unreachable("must be a URL; this one cannot be read") from None
    if scheme not in PORTS:
        raise Unreachable("must be a URL that begins with http:// or https://")
    if "@" in re.split("[/?#]", text.partition("://")[2], maxsplit=1)[0]:
        raise Unreachable("must be a URL without a user name and password")
    if not is_host(host) or "%" in host:
        raise Unreachable("must be a URL with a host, like https://pictures.example/cat.png")
    port = PORTS[scheme] if port is None else port
    if not 0 < port < 65536:
        raise Unreachable("must be a URL with a port between 1 and 65535")
    return Target(scheme=scheme, host=host, port=port, path=path)
