"""Mynth's registered webhooks: told of every task of the account, signed with their own secret."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Request
from pydantic import BaseModel, BeforeValidator, Field

from api.body import read_body
from api.clock import iso_utc
from api.dialects.base import DeskOf
from api.dialects.callers import CallerOf
from api.dialects.mynth.bodies import user_id
from api.dialects.mynth.schema import Url, Wire
from api.dialects.mynth.translate import NAME, plain_json
from api.dialects.wire import json_docs, parse
from api.hooks import Hook

HookId = Annotated[str, Path(pattern="^[A-Za-z0-9_-]{1,64}$")]
Event = Literal[
    "task.image.generate.completed",
    "task.image.generate.failed",
    "task.image.rate.completed",
    "task.image.rate.failed",
    "task.image.alt.completed",
    "task.image.alt.failed",
    "task.image.review.completed",
    "task.image.review.failed",
    "task.completed",
    "task.failed",
]

router = APIRouter()


class HookRequest(Wire):
    """What is to be told of, and where; all of it replaces what was there."""

    url: Url
    events: Annotated[
        Annotated[list[Event], Field(min_length=1)] | None,
        BeforeValidator(
            lambda value: None if value in ("all", ["all"]) else value,
            json_schema_input_type=Annotated[list[Event], Field(min_length=1)] | Literal["all"],
        ),
    ]
    enabled: bool = True


class HookData(BaseModel):
    """A registered webhook; `secret` is shown this once, when it is made."""

    id: str
    userId: str
    enabled: bool
    url: str
    secret: str | None = None
    events: list[Event] | Literal["all"]
    createdAt: str
    updatedAt: str


class HookReply(BaseModel):
    """The reply to whoever makes or changes one."""

    data: HookData


class HookList(BaseModel):
    """All of an account's, oldest first."""

    data: list[HookData]


@router.post("/webhook/", status_code=201, include_in_schema=False)
@router.post(
    "/webhook",
    status_code=201,
    response_model=HookReply,
    response_model_exclude_unset=True,
    openapi_extra=json_docs(HookRequest),
)
async def add_webhook(request: Request, desk: DeskOf, caller: CallerOf) -> dict[str, Any]:
    """Register an address; the reply alone has the secret that signs what it is sent."""
    wire = parse(HookRequest, plain_json(await read_body(request, desk.limits)))
    hook = await desk.hooks.add(
        caller.account, NAME, url=wire.url, events=to_events(wire), enabled=wire.enabled
    )
    return {"data": to_data(hook) | {"secret": hook.secret}}


@router.get("/webhook/", include_in_schema=False)
@router.get("/webhook", response_model=HookList, response_model_exclude_unset=True)
async def list_webhooks(desk: DeskOf, caller: CallerOf) -> dict[str, Any]:
    """The caller's registered webhooks, without their secrets."""
    found = await desk.hooks.list(caller.account, NAME)
    return {"data": [to_data(hook) for hook in found]}


@router.get("/webhook/{hook_id}", response_model=HookReply, response_model_exclude_unset=True)
async def read_webhook(hook_id: HookId, desk: DeskOf, caller: CallerOf) -> dict[str, Any]:
    """One of them."""
    return {"data": to_data(await desk.hooks.get(caller.account, NAME, hook_id))}


@router.put(
    "/webhook/{hook_id}",
    response_model=HookReply,
    response_model_exclude_unset=True,
    openapi_extra=json_docs(HookRequest),
)
async def replace_webhook(
    hook_id: HookId, request: Request, desk: DeskOf, caller: CallerOf
) -> dict[str, Any]:
    """Another address and other events under the same id and secret."""
    wire = parse(HookRequest, plain_json(await read_body(request, desk.limits)))
    hook = await desk.hooks.replace(
        caller.account, NAME, hook_id, url=wire.url, events=to_events(wire), enabled=wire.enabled
    )
    return {"data": to_data(hook)}


@router.delete("/webhook/{hook_id}", status_code=204)
async def remove_webhook(hook_id: HookId, desk: DeskOf, caller: CallerOf) -> None:
    """Forget one."""
    await desk.hooks.remove(caller.account, NAME, hook_id)


def to_events(wire: HookRequest) -> tuple[str, ...] | None:
    """The neutral events, None for all: `generate.completed`, or `*.completed` of any task."""
    if wire.events is None:
        return None
    return tuple(
        "*." + name if "." not in name else name
        for name in (one.removeprefix("task.").removeprefix("image.") for one in wire.events)
    )


def to_data(hook: Hook) -> dict[str, Any]:
    """A `HookData`, without the secret."""
    return {
        "id": hook.id,
        "userId": user_id(hook.account),
        "enabled": hook.enabled,
        "url": hook.url,
        "events": "all" if hook.events is None else [_event(one) for one in hook.events],
        "createdAt": iso_utc(hook.created_ms),
        "updatedAt": iso_utc(hook.updated_ms),
    }


def _event(name: str) -> str:
    return f"task.{name[2:]}" if name.startswith("*.") else f"task.image.{name}"
