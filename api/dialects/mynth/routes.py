"""The routes of Mynth: a creation answers at once with a task, which is then polled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Path, Request
from fastapi.responses import Response

from api.accounts import Caller
from api.body import MULTIPART, Body, FilePart, read_body
from api.dialects.base import Desk, DeskOf, Dialect
from api.dialects.callers import AskerOf, CallerOf
from api.dialects.mynth import (
    account,
    bodies,
    compat,
    destinations,
    hooks,
    replies,
    tasks,
    translate,
)
from api.dialects.mynth.callers import TaskId, no_token
from api.dialects.mynth.schema import (
    AltRequest,
    GenerateRequest,
    LookRequest,
    RateRequest,
    ReviewRequest,
)
from api.dialects.mynth.webhook import WEBHOOKS
from api.dialects.orders import once_of, to_response
from api.dialects.pictures import linked_picture
from api.dialects.wire import json_docs, parse
from api.errors import STATUS, BadRequest, NoCredits, UnsupportedMedia
from api.links import pictures_at
from api.orders import Order
from api.tasks import ImageFormat
from api.uploads import NewUpload
from inference.errors import Refused, Unsupported
from inference.sizes import TIER_SIDES_PX

PART = "images"
MOST_FILES = 10
LEAST_FILE_BYTES, MOST_FILE_BYTES = 1024, 10 * 1024**2
UPLOADED = (ImageFormat.JPEG, ImageFormat.PNG, ImageFormat.WEBP)

Look = TypeVar("Look", bound=LookRequest)
Index = Annotated[int, Path(ge=0, le=1000)]
Extension = Annotated[str, Path(pattern="^(png|jpg|webp|avif)$")]

PICTURE: dict[int | str, dict[str, Any]] = {
    200: {"description": "the picture", "content": {"image/webp": {}}},
    304: {"description": "the caller has it already"},
}
UPLOAD_FORM = {
    "type": "object",
    "required": [PART],
    "properties": {
        PART: {"type": "array", "items": {"type": "string", "format": "binary"}, "minItems": 1}
    },
}
UPLOAD_DOCS = {"requestBody": {"required": True, "content": {MULTIPART: {"schema": UPLOAD_FORM}}}}

keyed = APIRouter(dependencies=[Depends(no_token)])


@keyed.post(
    "/image/generate",
    status_code=201,
    response_model=replies.Created,
    openapi_extra=json_docs(GenerateRequest),
)
async def generate(request: Request, desk: DeskOf, caller: AskerOf) -> Response:
    """Enqueue a generation; the token in the reply lets a page poll it for two hours."""
    body = await _body(request, desk)
    wire = parse(GenerateRequest, body)
    order = _fitting(desk, caller, translate.to_order(wire, body, desk.base_url(request)))
    return await _place(request, desk, caller, body, order, has_token=wire.access.pat.enabled)


@keyed.post(
    "/image/generate/estimate",
    response_model=replies.Estimate,
    openapi_extra=json_docs(GenerateRequest),
)
async def estimate(request: Request, desk: DeskOf, caller: CallerOf) -> dict[str, Any]:
    """What the same request would cost; nothing is fetched, kept or made."""
    body = await _body(request, desk)
    wire = parse(GenerateRequest, body)
    order = _fitting(desk, caller, translate.to_order(wire, body, desk.base_url(request)))
    return bodies.to_estimate(_costs(desk, caller, order), desk.credit_usd)


@keyed.post(
    "/image/rate",
    status_code=201,
    response_model=replies.Created,
    openapi_extra=json_docs(RateRequest),
)
async def rate(request: Request, desk: DeskOf, caller: AskerOf) -> Response:
    """Rate a picture."""
    return await _look(request, desk, caller, RateRequest)


@keyed.post(
    "/image/alt",
    status_code=201,
    response_model=replies.Created,
    openapi_extra=json_docs(AltRequest),
)
async def alt(request: Request, desk: DeskOf, caller: AskerOf) -> Response:
    """Put a picture into words, for those who do not see it."""
    return await _look(request, desk, caller, AltRequest)


@keyed.post(
    "/image/review",
    status_code=201,
    response_model=replies.Created,
    openapi_extra=json_docs(ReviewRequest),
)
async def review(request: Request, desk: DeskOf, caller: AskerOf) -> Response:
    """Judge a picture."""
    return await _look(request, desk, caller, ReviewRequest)


@keyed.post("/image/upload", response_model=replies.Uploaded, openapi_extra=UPLOAD_DOCS)
async def upload(request: Request, desk: DeskOf, caller: AskerOf) -> dict[str, Any]:
    """Leave pictures here, to name them in `inputs` by the addresses in the reply."""
    body = await read_body(request, desk.limits)
    files = [NewUpload(PART, one.data) for one in checked_files(body)]
    kept = await desk.uploads.keep_all(
        caller.account, files, formats=UPLOADED, max_bytes=MOST_FILE_BYTES
    )
    base_url = desk.base_url(request)
    return {"data": {"urls": [desk.uploads.link(one, base_url) for one in kept]}}


def checked_files(body: Body) -> Sequence[FilePart]:
    """The files of an upload, if it is one; raises UnsupportedMedia or BadRequest."""
    if not body.is_form:
        raise UnsupportedMedia(f"send {MULTIPART}, each picture as a part {PART!r}")
    files = [one for one in body.files if one.name in (PART, f"{PART}[]")]
    if not files:
        raise BadRequest(f"{PART} must hold a file", field=PART)
    if len(files) > MOST_FILES:
        raise BadRequest(f"{PART} has more than {MOST_FILES} files", field=PART)
    if any(len(one.data) < LEAST_FILE_BYTES for one in files):
        raise BadRequest(f"{PART} has a file of less than {LEAST_FILE_BYTES} bytes", field=PART)
    return files


public = APIRouter()


@public.head("/image/files/{task_id}/{index}.{extension}", include_in_schema=False)
@public.get(
    "/image/files/{task_id}/{index}.{extension}", response_class=Response, responses=PICTURE
)
async def picture(
    task_id: TaskId, index: Index, extension: Extension, request: Request, desk: DeskOf
) -> Response:
    """A picture's bytes by signed link, which is all it needs; the same below the alias."""
    path = f"/image/files/{task_id}/{index}.{extension}"
    return await linked_picture(
        request, desk, task_id, index, f"{task_id}-{index}.{extension}", path
    )


async def _body(request: Request, desk: Desk) -> Body:
    """The JSON body, in today's words."""
    body = await read_body(request, desk.limits)
    if desk.mynth_compat and not body.is_form:
        body = Body(values=compat.modern(body.values))
    return translate.plain_json(body)


async def _look(request: Request, desk: Desk, caller: Caller, kind: type[Look]) -> Response:
    body = await _body(request, desk)
    order = translate.to_look(parse(kind, body), body, desk.base_url(request))
    return await _place(request, desk, caller, body, order, has_token=False)


async def _place(
    request: Request, desk: Desk, caller: Caller, body: Body, order: Order, *, has_token: bool
) -> Response:
    """Accept an order; whoever repeats it gets the same task, and a token that holds anew."""
    once = once_of(request, desk, body)
    try:
        accepted = await desk.darkroom.submit(order, caller, once=once)
    except NoCredits as refused:
        if desk.mynth_balance_status == STATUS[refused.kind]:
            raise
        raise translate.Unaffordable(str(refused)) from None
    task = accepted.task
    token = desk.tokens.make(task.id, task.account, caller.key_id) if has_token else None
    reply = bodies.to_created(task, desk.credit_usd, token)
    if desk.mynth_compat:
        reply = replace(reply, body=compat.beside(reply.body))
    return to_response(reply, is_replay=accepted.is_replay)


def _fitting(desk: Desk, caller: Caller, order: Order) -> Order:
    """The order, at the model's base size where that makes no 4k."""
    if order.request.resolution is None:
        return order
    try:
        is_4k = account.is_4k(desk.darkroom.quote(order, caller).job)
    except Unsupported as refused:
        if refused.field != "resolution":
            raise
        is_4k = False
    return order if is_4k else translate.at_base_size(order)


def _costs(desk: Desk, caller: Caller, order: Order) -> tuple[int, int]:
    """The least and the most credits that an order may cost: a source may decide its size."""
    costs = [desk.darkroom.quote(order, caller).credits]
    request = order.request
    if order.uploads and request.aspect_ratio is None:
        for tier in TIER_SIDES_PX:
            try:
                other = replace(order, request=replace(request, resolution=tier))
                costs.append(desk.darkroom.quote(other, caller).credits)
            except Refused:
                continue
    return min(costs), max(costs)


router = APIRouter(tags=[translate.NAME], responses={"default": {"model": replies.Error}})
router.include_router(public)
router.include_router(account.public)
router.include_router(tasks.polled)
for part in (tasks.keyed, account.keyed, hooks.router, destinations.router):
    keyed.include_router(part)
router.include_router(keyed)

DIALECT = Dialect(
    name=translate.NAME,
    owns=(
        *("/image", "/tasks", "/webhook", "/destinations"),
        *("/models", "/me", "/balance", "/openapi"),
    ),
    router=router,
    to_error=translate.to_error,
    alias="/mynth",
    webhooks=WEBHOOKS,
    linked=pictures_at(
        rf"/image/files/(?P<task>{translate.ID})/(?P<index>\d{{1,4}})\.[a-z]{{3,4}}"
    ),
    # whoever holds a picture's link may have it, pages too, which polled for it
    for_pages=(*tasks.FOR_PAGES, r"/image/files/[^/]+/[^/]+"),
)
