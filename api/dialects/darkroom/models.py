"""The routes about models: what is served and where, and how an operator moves it."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query

from api.dialects.base import DeskOf
from api.dialects.callers import AdminOf, CallerOf
from api.dialects.darkroom import models_schema as schema
from api.dialects.darkroom import models_translate as translate
from api.errors import NotFound, Unavailable
from inference.status import ModelAction

# a name in models.yaml may hold slashes, as a hub's do
Name = Annotated[str, Path(min_length=1, max_length=200)]
DeviceName = Annotated[
    str | None, Query(max_length=100, description="one device alone, such as cuda:1")
]

router = APIRouter()


@router.get("/models", response_model=schema.ModelList)
async def models(desk: DeskOf, _: CallerOf) -> dict[str, Any]:
    """What is served, what each model can do, and how it stands."""
    return translate.to_models(desk.catalog, desk.engine_status())


@router.get("/devices", response_model=schema.DeviceList)
async def devices(desk: DeskOf, _: CallerOf) -> dict[str, Any]:
    """Devices, their workers and what they have loaded; 503 until they are known."""
    status = desk.engine_status()
    if not status.devices:
        raise Unavailable("the engine is starting; ask again", retry_after_seconds=1)
    return translate.to_devices(status)


@router.post(
    "/admin/models/{name:path}/{action}", status_code=202, response_model=schema.ManagedModel
)
async def manage(
    name: Name, action: ModelAction, desk: DeskOf, _: AdminOf, device: DeviceName = None
) -> dict[str, Any]:
    """Load a model on every device it may be on, or on one, unload it, pin it there or unpin it.

    Answers at once, with how it stands. Loading takes room from models that nobody asks for;
    unloading waits for pictures in the making, and the next request loads the model again.
    """
    if name not in desk.catalog.models:
        known = ", ".join(desk.catalog.models)
        what = f"{name!r} is an alias" if name in desk.catalog.aliases else f"no model {name!r}"
        raise NotFound(f"{what}; the models served here are: {known}")
    desk.manage_model(name, action, device)
    return translate.to_managed(name, desk.engine_status())
