"""Ports for servers of the tests that are to be had again after a restart."""

from __future__ import annotations

import random
import socket
from contextlib import ExitStack

# Below those that systems give to outgoing connections, any of which could take the port of a
# server that is down for a moment.
FIRST, LAST = 10_000, 32_000


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, each another."""
    found: list[int] = []
    with ExitStack() as held:
        while len(found) < count:
            port = random.SystemRandom().randint(FIRST, LAST)
            holder = held.enter_context(socket.socket())
            try:
                holder.bind(("127.0.0.1", port))
            except OSError:
                continue
            found.append(port)
    return found


def free_port() -> int:
    """One such port."""
    (port,) = free_ports(1)
    return port
