"""Which addresses requests may lead to: public ones, and those that the operator allows."""

from __future__ import annotations

import re
import socket
import unicodedata
from collections.abc import Sequence
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

NAT64 = IPv6Network("64:ff9b::/96")
# Everything else in IPv6 is local, multicast, reserved, or a translation of unknown length
# (64:ff9b:1::/48), so that what is inside cannot be read.
GLOBAL_UNICAST = IPv6Network("2000::/3")
# `is_global` says yes to some of these, and to which depends on the version of Python.
NEVER = tuple(
    map(
        ip_network,
        (
            "192.0.0.0/24",  # protocol assignments
            "192.88.99.0/24",  # 6to4 relays
            "168.63.129.16/32",  # a cloud's own services, at an address that looks public
            "2001::/23",  # protocol assignments
            "2001:db8::/32",  # documentation
            "3fff::/20",  # documentation
        ),
    )
)
LOOPBACK = IPv4Address("127.0.0.1")
HOST = re.compile(r"(?=.{1,253}$)[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*\.?")
NUMBER = re.compile(r"\d+|0x[0-9a-f]*", re.IGNORECASE)


def is_public(address: Address) -> bool:
    """Whether an address, or the IPv4 address that is packed into it, is anybody's on the net."""
    if isinstance(address, IPv6Address):
        packed = _packed(address)
        if packed:
            return all(map(is_public, packed))
        if address not in GLOBAL_UNICAST:
            return False
    if address.is_multicast or address.is_reserved or any(address in one for one in NEVER):
        return False
    return address.is_global


def _packed(address: IPv6Address) -> tuple[IPv4Address, ...]:
    if address in NAT64:
        return (IPv4Address(int(address) & 0xFFFFFFFF),)
    if address.teredo is not None:
        return address.teredo
    inside = address.ipv4_mapped or address.sixtofour
    return () if inside is None else (inside,)


def is_host(host: str) -> bool:
    """Whether this can be the host of a URL: a name in ASCII, or an address."""
    if ends_in_number(host):
        return literal_of(host) is not None
    return HOST.fullmatch(host) is not None or _address(host) is not None


def ends_in_number(host: str) -> bool:
    """Whether resolvers would read the host as an IPv4 address, in whatever spelling."""
    return NUMBER.fullmatch(host.rstrip(".").rpartition(".")[2]) is not None


def literal_of(host: str) -> Address | None:
    """The address that a host spells, in any way that resolvers understand; None for a name."""
    text = unicodedata.normalize("NFKC", host).replace("\u3002", ".").rstrip(".").lower()
    if (address := _address(text.strip("[]").partition("%")[0])) is not None:
        return address
    try:
        # Takes what resolvers take: 127.1, 0177.0.0.1, 0x7f.1, 2130706433.
        return IPv4Address(socket.inet_aton(text)) if ends_in_number(text) else None
    except (OSError, ValueError):
        return None


def is_local_name(host: str) -> bool:
    """Whether a name is this machine's by definition, whatever a resolver would say."""
    name = host.rstrip(".").lower()
    return name == "localhost" or name.endswith(".localhost")


def _address(text: str) -> Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None


class Allowed:
    """The networks and host names that may be connected to although they are not public.

    Raises ValueError for an entry that is neither, and names it.
    """

    def __init__(self, entries: Sequence[str]) -> None:
        self._networks: list[Network] = []
        self._names: set[str] = set()
        for entry in entries:
            self._add(entry)

    def _add(self, entry: str) -> None:
        name = entry.rstrip(".").lower()
        if "/" not in entry and not ends_in_number(name) and HOST.fullmatch(name):
            self._names.add(name)
            return
        try:
            self._networks.append(ip_network(entry))
        except ValueError:
            raise ValueError(
                f"{entry!r} is neither a network like 10.0.0.0/8 nor a host name (without a port)"
            ) from None

    def permits(self, host: str, address: Address) -> bool:
        """Whether `host` may be connected to at `address`."""
        if is_public(address) or host.rstrip(".").lower() in self._names:
            return True
        mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
        return any(address in one or (mapped or address) in one for one in self._networks)
