"""The routes of webhook messages: what was told of a generation, and telling it again."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path

from api.dialects.base import DeskOf
from api.dialects.callers import AskerOf, CallerOf
from api.dialects.darkroom import deliveries_schema as schema
from api.dialects.darkroom import deliveries_translate as translate

TaskId = Annotated[str, Path(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
MessageId = Annotated[str, Path(pattern=r"^[A-Za-z0-9_]{1,64}$")]

router = APIRouter(prefix="/generations/{task_id}/webhooks")


@router.get("", response_model=schema.WebhookMessageList)
async def list_webhooks(task_id: TaskId, desk: DeskOf, caller: CallerOf) -> dict[str, Any]:
    """What was told of a generation's end, to whom, and how that went."""
    found = await desk.deliveries.of_task(task_id, account=caller.account)
    return {"webhooks": [translate.to_message(message) for message in found]}


# Counted like a creation: it makes the server connect to another.
@router.post("/{message_id}/resend", response_model=schema.WebhookMessage)
async def resend_webhook(
    task_id: TaskId, message_id: MessageId, desk: DeskOf, caller: AskerOf
) -> dict[str, Any]:
    """Send a message again from the start of its schedule; one that is under way stays so."""
    message = await desk.deliveries.resend(task_id, message_id, account=caller.account)
    return translate.to_message(message)
