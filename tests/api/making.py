"""Shared by the service's tests: jobs, submissions, a clock in the test's hand."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from api.accounts import Caller
from api.orders import Order, Upload
from api.services import Services
from api.store import Bounds, Store, Submission
from api.tasks import AS_CONFIGURED, Delivery, Output, Task
from inference.job import ImageRequest, Job, Mode
from tests.api.places import InFile, Place

AMPLE = Bounds(tasks=100_000, images=1_000_000)


@dataclass
class Clock:
    """Milliseconds that pass only when told."""

    ms: int = 1_000_000

    def __call__(self) -> int:
        return self.ms


# Accounts that the tests of the store submit under, beside that of an open server.
ACCOUNTS = ("me", "team", "x", "y", "you")


def open_store(where: Path | Place, clock: Clock | None = None) -> Store:
    """A store on a real database, a SQLite file if it is a path; with accounts."""
    place = InFile(where) if isinstance(where, Path) else where
    values = ", ".join(f"('{name}', false, 0, 0, 'whsec_', NULL, NULL, 0)" for name in ACCOUNTS)
    place.rows(f"INSERT INTO accounts VALUES {values} ON CONFLICT DO NOTHING")
    return Store(place.open(), clock) if clock else Store(place.open())


def job_of(task_id: str, *, count: int = 1, **changes: Any) -> Job:
    """A small job with seeds 0, 1, 2 …"""
    values: dict[str, Any] = {
        "id": task_id,
        "model": "paint",
        "mode": Mode.GENERATE,
        "prompt": "a red circle",
        "negative_prompt": None,
        "images": (),
        "width": 64,
        "height": 64,
        "seeds": tuple(range(count)),
        "num_inference_steps": 2,
        "guidance_scale": 1.0,
        "strength": 0.8,
    }
    return Job(**(values | changes))


async def inserted(store: Store, given: Submission, bounds: Bounds = AMPLE) -> Task:
    """The new task."""
    return (await store.accept(given, bounds)).task


async def submitted(
    services: Services,
    request: ImageRequest,
    *,
    dialect: str = "darkroom",
    account: str = "",
    uploads: Sequence[Upload] = (),
    priority: int = 0,
    delivery: Delivery = AS_CONFIGURED,
) -> Task:
    """The task of an order, made through the use cases."""
    if account:
        await services.accounts.open(account)
    order = Order(
        request=request, dialect=dialect, uploads=uploads, priority=priority, delivery=delivery
    )
    return (await services.darkroom.submit(order, Caller(account))).task


def submission(task_id: str, *, count: int = 1, **changes: Any) -> Submission:
    """A submission of `job_of` the same arguments."""
    return Submission(
        dialect="darkroom",
        request=ImageRequest(model="paint", prompt="a red circle", count=count),
        job=job_of(task_id, count=count, **changes),
        credits=3 * count,
    )


def output_of(task_id: str, index: int, attempt: int = 1) -> Output:
    """The record of a stored picture."""
    return Output(
        index=index,
        key=f"outputs/{task_id}/{attempt}-{index}.png",
        media_type="image/png",
        width=64,
        height=64,
        seed=index,
        size_bytes=100,
        sha256="0" * 64,
    )


def encoded(picture: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    """A picture as the bytes of a file."""
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def png(
    width: int = 32,
    height: int | None = None,
    *,
    mode: str = "RGB",
    colour: Any = "red",
    form: str = "PNG",
    **options: Any,
) -> bytes:
    """The file of a plain picture, a square unless it has a height; `form` makes it no PNG."""
    return encoded(Image.new(mode, (width, height or width), colour), form, **options)


def data_uri(data: bytes) -> str:
    """The bytes of a PNG as an address."""
    return "data:image/png;base64," + base64.b64encode(data).decode()


def opened(data: str | bytes | None) -> Image.Image:
    """The picture in a reply: plain base64, or the bytes themselves."""
    assert data is not None
    data = base64.b64decode(data, validate=True) if isinstance(data, str) else data
    picture = Image.open(io.BytesIO(data))
    picture.load()
    return picture
