"""What was told to receivers of a task's end, for the account whose task it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import structlog

from api.errors import NotFound
from api.store.outbox import Message, MessageState, Outbox

if TYPE_CHECKING:
    from api.submit import Darkroom

__all__ = ["Deliveries", "Message", "MessageState"]

log = structlog.get_logger()


class Deliveries:
    """Reads and repeats the messages of a task; `wake` makes them be looked for at once."""

    def __init__(self, darkroom: Darkroom, outbox: Outbox, wake: Callable[[], None]) -> None:
        self._darkroom = darkroom
        self._outbox = outbox
        self._wake = wake

    async def of_task(self, task_id: str, *, account: str) -> list[Message]:
        """The messages that tell of a task, none before its end; raises NotFound."""
        await self._darkroom.get(task_id, account=account)
        return await self._outbox.of_task(task_id)

    async def resend(self, task_id: str, message_id: str, *, account: str) -> Message:
        """Send a message again from the start of its schedule; one that is under way stays so.

        Raises NotFound, also for a message of another task.
        """
        await self._message(task_id, message_id, account)
        await self._outbox.resend(message_id)
        again = await self._message(task_id, message_id, account)
        self._wake()
        log.info("webhook_resent", message_id=message_id, task_id=task_id)
        return again

    async def _message(self, task_id: str, message_id: str, account: str) -> Message:
        for message in await self.of_task(task_id, account=account):
            if message.id == message_id:
                return message
        raise NotFound("this generation has no such webhook message")
