"""Liveness and readiness: two different questions, asked by whoever restarts or routes."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from api.dialects.base import DeskOf

router = APIRouter(tags=["health"])


class Alive(BaseModel):
    """The event loop turns."""

    status: str


class Ready(BaseModel):
    """`checks` holds "ok" or the reason by the name of what was looked at."""

    ready: bool
    checks: dict[str, str]


@router.head("/livez", include_in_schema=False)
@router.get("/livez", response_model=Alive)
async def livez() -> dict[str, str]:
    """Whether the process should be left alone: it answers, so yes."""
    return {"status": "ok"}


UNREADY: dict[int | str, dict[str, Any]] = {
    503: {"model": Ready, "description": "not now; `checks` say why"}
}


@router.head("/readyz", include_in_schema=False)
@router.get("/readyz", response_model=Ready, responses=UNREADY)
async def readyz(desk: DeskOf) -> JSONResponse:
    """Whether work should be sent here; busy is ready."""
    health = await desk.darkroom.health()
    told = {"ready": health.ready, "checks": dict(health.checks)}
    return JSONResponse(told, status_code=200 if health.ready else 503)
