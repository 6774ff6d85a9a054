"""Serves the page and its files, under a policy that lets it load nothing but itself."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse

from api.errors import NotFound

FOLDER = Path(__file__).parent / "static"
FILES = {
    "page.css": "text/css",
    "page.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}
HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
}

router = APIRouter(include_in_schema=False)


@router.head("/")
@router.get("/")
async def page() -> FileResponse:
    """The page itself."""
    return FileResponse(FOLDER / "page.html", media_type="text/html", headers=HEADERS)


@router.head("/playground/{name}")
@router.get("/playground/{name}")
async def file(name: str) -> FileResponse:
    """One of the files it is made of."""
    if name not in FILES:
        raise NotFound("there is no such file")
    return FileResponse(FOLDER / name, media_type=FILES[name], headers=HEADERS)
