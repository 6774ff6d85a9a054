"""The paths that several dialects share: what comes there tells which of them is spoken."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel

from api.accounts import Caller
from api.body import MULTIPART, Body, read_body
from api.clock import iso_utc
from api.dialects.apimodels import routes as apimodels
from api.dialects.apimodels import schema as apimodels_schema
from api.dialects.base import Desk, DeskOf, Dialect, dialect_of, spoken
from api.dialects.callers import AskerOf, CallerOf
from api.dialects.modelbuffet import routes as modelbuffet
from api.dialects.modelbuffet import schema as modelbuffet_schema
from api.dialects.openai import routes as openai
from api.dialects.openai import schema as openai_schema
from api.dialects.wire import whole_schema
from api.errors import BadRequest, NotFound
from inference.errors import UnknownModel

APIMODELS, MODELBUFFET, OPENAI = apimodels.DIALECT, modelbuffet.DIALECT, openai.DIALECT

# What a generation holds that only the one or the other knows. A picture that is sent is not to be
# dropped, so the fields for pictures count, whatever they are called. `seed` and `negative_prompt`
# tell nothing: OpenAI's callers add those, too.
OF_APIMODELS = frozenset(
    {
        *("aspect_ratio", "resolution", "callback_url", "callBackUrl"),
        *("image_url", "image_urls", "image", "images"),
        *("mask_url", "mask_image", "mask"),
        *("width", "height", "turbo", "prompt_upsampling", "lora_weights", "lora_scale"),
        *("layer_decomposition", "scale", "face_enhance", "nsfw_checker"),
        *(f"{side}_expansion_ratio" for side in ("up", "down", "left", "right")),
    }
)
OF_OPENAI = frozenset(
    {
        *("response_format", "stream", "partial_images", "output_compression", "moderation"),
        *("style", "user", "safety_identifier"),
    }
)
# What an edit holds that Model Buffet does not know.
OF_APIMODELS_EDIT = OF_APIMODELS - {"aspect_ratio", "image", "mask"}
TIER = re.compile(r"[124][kK]")
PIXELS = re.compile(r"[0-9]{1,5}x[0-9]{1,5}")

router = APIRouter()


def whose_generation(
    values: Mapping[str, Any],
    *,
    told: Dialect | None,
    default: Dialect,
    sync_models: Collection[str],
) -> Dialect:
    """The dialect of a generation, by what was `told` of it, then by its fields; the first counts.

    Whoever speaks as APIModels does is answered so, which for some models is in OpenAI's shape.
    """
    sent = {name for name, value in values.items() if value is not None}
    if told is OPENAI:
        return OPENAI
    size = values.get("size")
    if sent & OF_APIMODELS or (isinstance(size, str) and TIER.fullmatch(size)):
        return APIMODELS
    is_opaque = "background" in sent and values["background"] not in ("transparent", "")
    if told is None and (sent & OF_OPENAI or is_opaque):
        return OPENAI
    return OPENAI if is_sync(values, sync_models) else told or default


def is_sync(values: Mapping[str, Any], sync_models: Collection[str]) -> bool:
    """Whether APIModels itself answers at once, in OpenAI's shape: such a model, and pixels."""
    model, size = values.get("model"), values.get("size")
    is_pixels = isinstance(size, str) and PIXELS.fullmatch(size) is not None
    return is_pixels and isinstance(model, str) and model in sync_models


def whose_edit(values: Mapping[str, Any], *, told: Dialect | None) -> Dialect:
    """The dialect of an edit, by what was `told` of it, then by its fields."""
    sent = {name for name, value in values.items() if value is not None}
    return told or (APIMODELS if sent & OF_APIMODELS_EDIT else MODELBUFFET)


def told_of(request: Request, desk: Desk, caller: Caller) -> Dialect | None:
    """The dialect that the caller's key or the path itself names, if one does."""
    here = dialect_of(request, desk.dialects)
    if caller.key is not None and caller.key.dialect is not None:
        return here
    is_alias = here.alias is not None and request.scope["path"].startswith(f"{here.alias}/")
    return here if is_alias else None


def _either(first: type[BaseModel], second: type[BaseModel], *, form: bool) -> dict[str, Any]:
    """The request body of an operation of two dialects; that of the first may be a form too."""
    schemas = [whole_schema(first), whole_schema(second)]
    content: dict[str, Any] = {"application/json": {"schema": {"anyOf": schemas}}}
    if form:
        content[MULTIPART] = {"schema": schemas[0]}
    return {"requestBody": {"required": True, "content": content}}


GENERATION: dict[str, Any] = {
    "response_model": openai_schema.ImagesResponse | apimodels_schema.TaskReply,
    "response_model_exclude_none": True,
    "responses": {"default": {"model": openai_schema.Error | apimodels_schema.Error}}
    | openai.STREAM,
    "openapi_extra": _either(
        openai_schema.GenerationRequest, apimodels_schema.GenerationRequest, form=True
    ),
}
EDIT: dict[str, Any] = {
    "response_model": modelbuffet_schema.Generation | apimodels_schema.TaskReply,
    "responses": {"default": {"model": modelbuffet_schema.Error | apimodels_schema.Error}}
    | modelbuffet.CREATED,
    "openapi_extra": _either(
        modelbuffet_schema.EditRequest, apimodels_schema.GenerationRequest, form=False
    ),
}
FILE: dict[str, Any] = {
    "response_model": apimodels_schema.FileReply,
    "responses": {"default": {"model": apimodels_schema.Error}},
    "openapi_extra": {
        "requestBody": {
            "required": True,
            "content": {
                MULTIPART: {
                    "schema": {
                        "type": "object",
                        "properties": {"file": {"type": "string", "format": "binary"}},
                        "required": ["file"],
                    }
                }
            },
        }
    },
}


@router.post("/apimodels/v1/images/generations", include_in_schema=False)
@router.post("/apimodels/api/v1/images/generations", include_in_schema=False)
@router.post("/openai/v1/images/generations", include_in_schema=False)
@router.post("/api/v1/images/generations", tags=["apimodels"], **GENERATION)
@router.post("/v1/images/generations", tags=["openai"], **GENERATION)
async def generations(request: Request, desk: DeskOf, caller: AskerOf) -> Response:
    """Make pictures of a prompt, at once as OpenAI does or as a task to poll for."""
    body = await read_body(request, desk.limits)
    dialect = whose_generation(
        body.values,
        told=told_of(request, desk, caller),
        default=dialect_of(request, desk.dialects),
        sync_models=desk.apimodels_sync_models,
    )
    request.state.dialect = dialect
    if dialect is APIMODELS:
        return await apimodels.generate(request, desk, caller, body)
    both_ways = is_sync(body.values, desk.apimodels_sync_models)
    return await openai.generate(request, desk, caller, body, both_ways=both_ways)


@router.post("/apimodels/v1/images/edit", include_in_schema=False)
@router.post("/modelbuffet/v1/images/edit", include_in_schema=False)
@router.post("/v1/images/edit", tags=["modelbuffet"], **EDIT)
async def edit(
    request: Request, desk: DeskOf, caller: AskerOf, prefer: modelbuffet.Prefer = None
) -> Response:
    """Change a picture, and answer when that is done."""
    body = await read_body(request, desk.limits)
    dialect = whose_edit(body.values, told=told_of(request, desk, caller))
    request.state.dialect = dialect
    if dialect is APIMODELS:
        return await apimodels.change(request, desk, caller, body)
    return await modelbuffet.edit(request, desk, caller, body, prefer)


@router.post("/apimodels/v1/files", include_in_schema=False)
@router.post("/apimodels/api/v1/files", include_in_schema=False)
@router.post("/v1/files", include_in_schema=False)
@router.post("/api/v1/files", tags=["apimodels"], **FILE)
async def files(request: Request, desk: DeskOf, caller: AskerOf) -> Response:
    """Leave a picture here for a week, to name it in requests."""
    body = await read_body(request, desk.limits)
    told = told_of(request, desk, caller)
    names = {*body.values, *(part.name for part in body.files)}
    if told is None and "content" in names:
        return await _keep_as_replicate(request, desk, caller, body)
    if told is OPENAI or (told is None and "purpose" in names):
        request.state.dialect = OPENAI
        return await openai.keep(desk, caller, body)
    return await apimodels.keep(request, desk, caller, body)


async def _keep_as_replicate(request: Request, desk: Desk, caller: Caller, body: Body) -> Response:
    """Answer an upload as Replicate does, whose clients leave their pictures before they ask."""
    if len(body.files) != 1 or body.files[0].name != "content":
        raise BadRequest("send one file, as the part named content", field="content")
    upload = await desk.uploads.keep(caller.account, body.files[0].data, field="content")
    told = {
        "id": upload.id,
        "content_type": upload.media_type,
        "size": upload.size_bytes,
        "checksums": {},
        "metadata": {},
        "created_at": iso_utc(upload.created_ms),
        "expires_at": iso_utc(upload.expires_ms),
        "urls": {"get": desk.uploads.link(upload, desk.base_url(request))},
    }
    return JSONResponse(told, status_code=201)


async def _model(model_id: str, desk: DeskOf, caller: CallerOf) -> dict[str, Any]:
    """One of the models; raises NotFound, as its name is the path here and no field."""
    try:
        return await openai.model(model_id, desk, caller)
    except UnknownModel as error:
        raise NotFound(str(error)) from None


# Below `/v1` itself that is OpenAI's.
router.add_api_route(
    "/apimodels/v1/chat/completions",
    apimodels.no_pictures,
    methods=["POST"],
    include_in_schema=False,
)
# What is the same in both, so that there is nothing to tell apart.
for base in ("/api/v1", "/apimodels/v1", "/apimodels/api/v1"):
    router.add_api_route(
        f"{base}/images/edits",
        openai.edits,
        methods=["POST"],
        dependencies=[Depends(spoken(OPENAI))],
        include_in_schema=False,
    )
    for path, read in (("/models", openai.models), ("/models/{model_id:path}", _model)):
        router.add_api_route(f"{base}{path}", read, include_in_schema=False)
