"""What the stores need of a database: units of work, each whole or not at all."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from typing import Any, ClassVar, TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection

from api.clock import wall_clock_ms

T = TypeVar("T")
Work = Callable[[AsyncConnection], Coroutine[Any, Any, T]]
# Told of a task, by its id and a word of `api.store.company`.
Hear = Callable[[str, str], None]


class Database(ABC):
    """Runs units of work; every method raises Unavailable while the database cannot be used.

    `is_shared` says whether other servers may run on it at the same time.
    """

    is_shared: ClassVar[bool]

    @abstractmethod
    async def migrate(self) -> None:
        """Bring it to the tables this version knows.

        Raises MigrationError where it cannot be used like this, Unavailable while it cannot.
        """

    @abstractmethod
    async def write(self, work: Work[T], *, in_turn: bool = False) -> T:
        """The result of `work` once it is committed; nothing of it is kept if it raises.

        Work that is done `in_turn` meets no other such work of any server: what it counts stays so
        until it is committed, and times go up in the order of commits. It may be run more than
        once, if others got in its way. Whoever waits may be cancelled; what was begun goes on.
        """

    @abstractmethod
    async def read(self, work: Work[T]) -> T:
        """The result of `work` on one consistent state; it may be run more than once."""

    @abstractmethod
    async def close(self) -> None:
        """Let what runs end, then close every connection; later work raises Unavailable."""

    def now_ms(self) -> int:
        """Milliseconds since the epoch, by a clock that all servers on this database share."""
        return wall_clock_ms()

    async def leads(self) -> bool:
        """Whether this server is the one, of all on this database, that does what one should."""
        return True

    async def listen(self, hear: Hear) -> None:
        """From now on, tell what servers announce of tasks: a hint, nothing may rest on it."""
        return
