"""The wire types of webhook messages."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

DeliveryState = Literal["waiting", "delivering", "delivered", "failed"]


class WebhookMessage(BaseModel):
    """One message to one receiver; of its address only the origin is shown."""

    id: Annotated[str, Field(description="the same in every attempt, as `webhook-id`")]
    hook_id: Annotated[str | None, Field(description="the registered webhook it is for, if any")]
    origin: Annotated[str, Field(examples=["https://hooks.example"])]
    state: DeliveryState
    attempts: Annotated[int, Field(description="begun since it was made, or sent again")]
    last_status: Annotated[int | None, Field(description="what the receiver answered")]
    last_error: Annotated[str | None, Field(description="why the last attempt failed")]
    next_attempt_at: Annotated[str | None, Field(description="null unless it waits")]
    created_at: str


class WebhookMessageList(BaseModel):
    """The messages that tell of a generation, oldest first; none before its end."""

    webhooks: list[WebhookMessage]
