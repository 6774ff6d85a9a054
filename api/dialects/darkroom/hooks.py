"""The routes of registered webhooks: told of every generation, whoever asked for it how."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from fastapi.responses import Response

from api.body import read_body
from api.dialects.base import DeskOf
from api.dialects.callers import AskerOf, CallerOf
from api.dialects.darkroom import hooks_schema as schema
from api.dialects.darkroom import hooks_translate as translate
from api.dialects.wire import json_docs, parse

HookId = Annotated[str, Path(pattern=r"^[A-Za-z0-9_]{1,64}$")]
HERE = "darkroom"

router = APIRouter(prefix="/hooks")


@router.get("", response_model=schema.HookList)
async def list_hooks(desk: DeskOf, caller: CallerOf) -> dict[str, Any]:
    """The caller's registered webhooks, oldest first."""
    found = await desk.hooks.list(caller.account, HERE)
    return {"hooks": [translate.to_info(hook) for hook in found]}


# Counted like a creation, as the next but one: they make the server look a name up.
@router.post(
    "",
    status_code=201,
    response_model=schema.NewHook,
    openapi_extra=json_docs(schema.HookRequest),
)
async def add_hook(
    request: Request, response: Response, desk: DeskOf, caller: AskerOf
) -> dict[str, Any]:
    """Register an address; its secret is shown this once."""
    wire = parse(schema.HookRequest, await read_body(request, desk.limits))
    hook = await desk.hooks.add(
        caller.account,
        HERE,
        url=wire.url,
        events=translate.to_events(wire),
        enabled=wire.enabled,
    )
    response.headers["Location"] = f"{request.url.path}/{hook.id}"
    return translate.to_new(hook)


@router.get("/{hook_id}", response_model=schema.HookInfo)
async def read_hook(hook_id: HookId, desk: DeskOf, caller: CallerOf) -> dict[str, Any]:
    """One registered webhook, without its secret."""
    return translate.to_info(await desk.hooks.get(caller.account, HERE, hook_id))


@router.put(
    "/{hook_id}", response_model=schema.HookInfo, openapi_extra=json_docs(schema.HookRequest)
)
async def replace_hook(
    hook_id: HookId, request: Request, desk: DeskOf, caller: AskerOf
) -> dict[str, Any]:
    """Another address and other events; the secret stays, and failures are forgotten."""
    wire = parse(schema.HookRequest, await read_body(request, desk.limits))
    hook = await desk.hooks.replace(
        caller.account,
        HERE,
        hook_id,
        url=wire.url,
        events=translate.to_events(wire),
        enabled=wire.enabled,
    )
    return translate.to_info(hook)


@router.delete("/{hook_id}", status_code=204)
async def remove_hook(hook_id: HookId, desk: DeskOf, caller: CallerOf) -> None:
    """Forget a webhook; what waits to be sent to it is given up."""
    await desk.hooks.remove(caller.account, HERE, hook_id)
