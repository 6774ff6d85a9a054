"""The routes of destinations: each account's own."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from fastapi.responses import Response

from api.body import read_body
from api.dialects.base import DeskOf
from api.dialects.callers import AskerOf, CallerOf
from api.dialects.darkroom import destinations_schema as schema
from api.dialects.darkroom import destinations_translate as translate
from api.dialects.wire import json_docs, parse
from api.errors import BadRequest, Unavailable

Name = Annotated[str, Path(pattern=schema.NAME)]

router = APIRouter()


@router.get("/destinations", response_model=schema.DestinationList)
async def list_destinations(desk: DeskOf, caller: CallerOf) -> dict[str, Any]:
    """The caller's destinations, by name."""
    found = await desk.destinations.list(caller.account)
    return {"destinations": [translate.to_info(one) for one in found]}


@router.post(
    "/destinations",
    status_code=201,
    response_model=schema.DestinationInfo,
    openapi_extra=json_docs(schema.DestinationRequest),
)
async def add_destination(
    request: Request, response: Response, desk: DeskOf, caller: CallerOf
) -> dict[str, Any]:
    """Keep a new destination, without connecting to it yet; 409 if the name is taken."""
    wire = parse(schema.DestinationRequest, await read_body(request, desk.limits))
    wanted = translate.to_destination(caller.account, wire.name, wire)
    added = await desk.destinations.add(wanted)
    response.headers["Location"] = f"{request.url.path}/{added.name}"
    return translate.to_info(added)


@router.get("/destinations/{name}", response_model=schema.DestinationInfo)
async def read_destination(name: Name, desk: DeskOf, caller: CallerOf) -> dict[str, Any]:
    """One destination, without its secret."""
    return translate.to_info(await desk.destinations.get(caller.account, name))


@router.put(
    "/destinations/{name}",
    response_model=schema.DestinationInfo,
    openapi_extra=json_docs(schema.PlaceRequest),
)
async def replace_destination(
    name: Name, request: Request, desk: DeskOf, caller: CallerOf
) -> dict[str, Any]:
    """Another place or key under a name that is there; generations under way use it from now on."""
    wire = parse(schema.PlaceRequest, await read_body(request, desk.limits))
    wanted = translate.to_destination(caller.account, name, wire)
    return translate.to_info(await desk.destinations.replace(wanted))


@router.delete("/destinations/{name}", status_code=204)
async def remove_destination(name: Name, desk: DeskOf, caller: CallerOf) -> None:
    """Forget a destination, not what lies there."""
    await desk.destinations.remove(caller.account, name)


# Counted like a creation: it makes the server connect to another.
@router.post("/destinations/{name}/test", response_model=schema.DestinationTest)
async def test_destination(name: Name, desk: DeskOf, caller: AskerOf) -> dict[str, Any]:
    """Put a small object there, delete it, and tell whether that went well."""
    destination = await desk.destinations.get(caller.account, name)
    try:
        await desk.destinations.test(caller.account, destination.name)
    except (Unavailable, BadRequest) as error:
        return {"ok": False, "reason": str(error)}
    return {"ok": True, "reason": None}
