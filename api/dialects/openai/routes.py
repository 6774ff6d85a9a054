"""The routes of OpenAI Images; whoever asks waits for the pictures, or watches them come."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from fastapi.responses import JSONResponse, Response
from sse_starlette import EventSourceResponse
from starlette.types import Message

from api.accounts import Caller
from api.body import Body, read_body
from api.dialects.base import Desk, DeskOf, Dialect, ErrorContext
from api.dialects.callers import AskerOf, CallerOf
from api.dialects.openai import schema, translate, uploads
from api.dialects.openai.events import Told, to_stream
from api.dialects.orders import NotMade, abandon, made, once_of, place_and_stay
from api.dialects.pictures import linked_picture
from api.dialects.wire import body_docs, parse
from api.errors import BadRequest, NoCredits, NotFound
from api.orders import Order
from api.tasks import Output, Task

HEARTBEAT_SECONDS = 15
# Clients repeat what ended in a 429 or a 5xx by themselves; here that would change nothing.
NO_RETRY = {"x-should-retry": "false"}

WAYS = ("b64_json", "url")
Wire = schema.GenerationRequest | schema.VariationRequest
TaskId = Annotated[str, Path(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
Index = Annotated[int, Path(ge=0, le=1000)]
STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "all pictures at once, or as they are made with stream: true",
        "content": {"text/event-stream": {}},
    }
}
PICTURE: dict[int | str, dict[str, Any]] = {
    200: {"description": "the picture", "content": {"image/png": {}}},
    304: {"description": "the caller has it already"},
}

router = APIRouter(tags=["openai"], responses={"default": {"model": schema.Error}})


async def generate(
    request: Request, desk: Desk, caller: Caller, body: Body, *, both_ways: bool = False
) -> Response:
    """Answer a generation whose body has been read.

    Pictures come `both_ways`, as base64 and by address, if the caller does not choose.
    """
    body = translate.without_nulls(body)
    wire = parse(schema.GenerationRequest, body)
    uploads.refuse_files(body.files)
    order = translate.to_order(wire, [])
    both_ways = both_ways and "response_format" not in wire.model_fields_set
    ways = WAYS if both_ways else (wire.response_format,)
    return await _answer(request, desk, caller, body, wire, order, ways)


@router.post(
    "/v1/images/edits",
    response_model=schema.ImagesResponse,
    responses=STREAM,
    openapi_extra=body_docs(schema.EditRequest, files=("image", "mask")),
)
async def edits(request: Request, desk: DeskOf, caller: AskerOf) -> Response:
    """Change pictures by a prompt, within a mask if there is one."""
    body = translate.without_nulls(await read_body(request, desk.limits))
    wire = parse(schema.EditRequest, body)
    kept = await _kept(desk, caller, wire)
    # in a thread: a header may hold 64 MB of compressed text before it tells the size
    pictures = await asyncio.to_thread(uploads.of_edit, wire, body.files, kept)
    order = translate.to_order(wire, pictures)
    return await _answer(request, desk, caller, body, wire, order, (wire.response_format,))


@router.post(
    "/v1/images/variations",
    response_model=schema.ImagesResponse,
    openapi_extra=body_docs(schema.VariationRequest, files=("image",)),
)
async def variations(request: Request, desk: DeskOf, caller: AskerOf) -> Response:
    """Change a picture without words."""
    body = translate.without_nulls(await read_body(request, desk.limits))
    wire = parse(schema.VariationRequest, body)
    order = translate.to_variation(wire, uploads.of_variation(wire, body.files))
    return await _answer(request, desk, caller, body, wire, order, (wire.response_format,))


async def keep(desk: Desk, caller: Caller, body: Body) -> Response:
    """Answer an upload whose body has been read."""
    body = translate.without_nulls(body)
    wire = parse(schema.FileRequest, body)
    part = uploads.of_file(body.files)
    upload = await desk.uploads.keep(caller.account, part.data, field=part.name)
    return JSONResponse(translate.to_file(upload, part.file_name, wire.purpose))


@router.head(f"{translate.FILES}/{{task_id}}/{{index}}.{{extension}}", include_in_schema=False)
@router.get(
    f"{translate.FILES}/{{task_id}}/{{index}}.{{extension}}",
    response_class=Response,
    responses=PICTURE,
)
async def file(
    task_id: TaskId, index: Index, extension: str, request: Request, desk: DeskOf
) -> Response:
    """A finished picture's bytes by signed link, which is all it needs."""
    return await linked_picture(request, desk, task_id, index, f"{task_id}-{index}.{extension}")


@router.get("/v1/models", response_model=schema.ModelList)
async def models(desk: DeskOf, _: CallerOf) -> dict[str, Any]:
    """Every name that a request may use."""
    return translate.to_models(desk.catalog)


@router.get("/v1/models/{model_id:path}", response_model=schema.Model)
async def model(model_id: str, desk: DeskOf, _: CallerOf) -> dict[str, Any]:
    """One of them; its name may hold slashes."""
    return translate.to_model(desk.catalog, model_id)


async def _kept(desk: Desk, caller: Caller, wire: schema.EditRequest) -> dict[str, bytes]:
    """The pictures that a request names by their ids, by field; raises BadRequest."""
    found = {}
    for field, reference in uploads.references_in(wire).items():
        if reference.file_id is None:
            continue
        try:
            upload = await desk.uploads.get(translate.upload_id_of(reference.file_id))
            if upload.account != caller.account:
                raise NotFound("there is no such upload")
            found[field] = await desk.uploads.read(upload)
        except NotFound:
            name = f"{field}.file_id"
            raise BadRequest(f"{name}: there is no such file, or no longer", field=name) from None
    return found


async def _answer(
    request: Request,
    desk: Desk,
    caller: Caller,
    body: Body,
    wire: Wire,
    order: Order,
    ways: Sequence[str],
) -> Response:
    with _final_refusals(request):
        if isinstance(wire, schema.GenerationRequest) and wire.stream:
            return await _stream(request, desk, caller, body, wire, order)
        task = made(await place_and_stay(request, desk, caller, body, order))
    images = [await _item(request, desk, caller, ways, task, one) for one in task.pictures]
    return JSONResponse(translate.to_body(task, images, wire))


async def _item(
    request: Request, desk: Desk, caller: Caller, ways: Sequence[str], task: Task, output: Output
) -> dict[str, str]:
    item = {}
    if "b64_json" in ways:
        stored = await desk.darkroom.image(task.id, output.index, account=caller.account)
        item["b64_json"] = base64.b64encode(stored.data).decode("ascii")
    if "url" in ways:
        link = desk.link_at(desk.base_url(request))
        item["url"] = link(translate.file_path(task.id, output), output.key)
    return item


async def _stream(
    request: Request,
    desk: Desk,
    caller: Caller,
    body: Body,
    wire: schema.GenerationRequest,
    order: Order,
) -> Response:
    """What happens to a task; a repeated order is told of the task of the first from now on."""
    once = once_of(request, desk, body)
    accepted = await desk.darkroom.submit(order, caller, once=once)
    task = accepted.task
    if accepted.is_replay:
        request.state.headers["Idempotent-Replayed"] = "true"

    async def read(index: int) -> bytes:
        return (await desk.darkroom.image(task.id, index, account=caller.account)).data

    async def now() -> Task:
        return await desk.darkroom.get(task.id, account=caller.account)

    async def left(_: Message) -> None:
        await abandon(desk, caller, task)

    told = Told(
        action="image_edit" if order.uploads else "image_generation",
        task=task,
        wire=wire,
        context=ErrorContext(path=request.url.path, request_id=request.state.request_id),
        read=read,
        now=now,
    )
    return EventSourceResponse(
        to_stream(desk.darkroom.watch(task.id, account=caller.account), told),
        ping=HEARTBEAT_SECONDS,
        sep="\n",
        client_close_handler_callable=left,
    )


@contextmanager
def _final_refusals(request: Request) -> Iterator[None]:
    """Tell clients not to repeat what would fail again."""
    try:
        yield
    except (NoCredits, NotMade):
        request.state.headers.update(NO_RETRY)
        raise


DIALECT = Dialect(
    name="openai",
    owns=("/v1",),
    router=router,
    to_error=translate.to_error,
    alias="/openai",
    rate_headers=translate.rate_headers,
    linked=translate.LINKED,
    shares=(
        *("/api/v1/images/generations", "/api/v1/images/edits", "/api/v1/models"),
        *("/api/v1/files", "/v1/files"),
    ),
)
