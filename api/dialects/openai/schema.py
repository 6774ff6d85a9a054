"""The wire types of OpenAI Images.

Keys it does not know are ignored, `frame_count`, `frame_duration_ms` and `svg` among them, which
are of formats that are not made here; values of the keys it knows are checked. A null is taken as
left out, and so is an empty field of a form.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

PROMPT_CHARS = 32_000
SIZE = r"^(auto|[0-9]{1,5}x[0-9]{1,5})$"

Quality = Literal["auto", "low", "medium", "high", "xhigh", "max", "standard", "hd"]
Format = Literal["png", "jpeg", "webp", "gif", "svg"]


def _check_size(text: str) -> str:
    if not re.fullmatch(SIZE, text):
        raise ValueError("must be auto or WIDTHxHEIGHT, such as 1024x1536")
    return text


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _as_reference(value: Any) -> Any:
    return {"image_url": value} if isinstance(value, str) else value


class _Common(BaseModel):
    """What all three ways to a picture take."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    model: Annotated[str, Field(min_length=1, max_length=200)] = "auto"
    n: Annotated[int, Field(ge=1, le=10, description="how many pictures")] = 1
    size: Annotated[
        str,
        AfterValidator(_check_size),
        Field(
            description="auto or WIDTHxHEIGHT; the model makes its nearest",
            json_schema_extra={"pattern": SIZE},
        ),
    ] = "auto"
    response_format: Literal["url", "b64_json"] = "b64_json"
    user: str | None = None
    safety_identifier: Annotated[str | None, Field(description="echoed; so is user")] = None


class GenerationRequest(_Common):
    """`POST /v1/images/generations`."""

    prompt: Annotated[str, Field(min_length=1, max_length=PROMPT_CHARS, examples=["a red circle"])]
    quality: Quality = "auto"
    background: Annotated[
        Literal["transparent", "opaque", "auto"], Field(description="transparent is refused")
    ] = "auto"
    output_format: Annotated[Format, Field(description="gif and svg are refused")] = "png"
    output_compression: Annotated[
        int, Field(ge=0, le=100, description="the quality of jpeg and webp")
    ] = 100
    stream: bool = False
    partial_images: Annotated[
        int, Field(ge=0, le=3, description="of a stream; of its first picture")
    ] = 0
    moderation: Annotated[Literal["auto", "low"], Field(description="ignored")] = "auto"
    style: Annotated[Literal["vivid", "natural"] | None, Field(description="ignored")] = None
    complexity: Annotated[Literal["low", "medium", "high"] | None, Field(description="ignored")] = (
        None
    )


class ImageReference(BaseModel):
    """A picture in a JSON body."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    image_url: Annotated[str | None, Field(description="an address or a data URI")] = None
    file_id: Annotated[str | None, Field(description="of a file that was left at /v1/files")] = None


Texts = Annotated[list[str], BeforeValidator(_as_list)]
Reference = Annotated[ImageReference, BeforeValidator(_as_reference)]


class EditRequest(GenerationRequest):
    """`POST /v1/images/edits`: pictures as file parts of a form, or as `images` of a JSON body."""

    images: Annotated[list[Reference], Field(max_length=16)] = []
    image: Annotated[
        Texts, Field(max_length=16, description="instead of images: data URIs or addresses")
    ] = []
    mask: Annotated[
        Reference | None, Field(description="transparent where the first picture is to be redrawn")
    ] = None
    input_fidelity: Annotated[Literal["high", "low"] | None, Field(description="ignored")] = None


class VariationRequest(_Common):
    """`POST /v1/images/variations`: one picture, and no words."""

    image: Annotated[Texts, Field(max_length=1, description="a data URI or an address")] = []


class FileRequest(BaseModel):
    """`POST /v1/files`, beside its part `file`."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    purpose: Annotated[str, Field(min_length=1, max_length=64, description="repeated")]


class Image(BaseModel):
    """One picture, in the way that `response_format` asked for."""

    b64_json: str | None = None
    url: str | None = None


class InputTokens(BaseModel):
    """What the tokens of a request were; so are those of a reply."""

    image_tokens: int
    text_tokens: int


class Usage(BaseModel):
    """Reckoned, not metered: four bytes of prompt, or 16 × 16 pixels, are a token."""

    input_tokens: int
    input_tokens_details: InputTokens
    output_tokens: int
    output_tokens_details: InputTokens
    total_tokens: int


class ImagesResponse(BaseModel):
    """All pictures of a request; `size` is what was made, `quality` is left out if auto."""

    created: int
    data: list[Image]
    background: Literal["opaque"]
    output_format: Literal["png", "jpeg", "webp"]
    quality: Literal["low", "medium", "high"] | None = None
    size: str
    safety_identifier: str | None = None
    usage: Usage


class File(BaseModel):
    """A picture that was left here, for requests to name by its `id`; times are epoch seconds."""

    id: str
    object: Literal["file"]
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: str
    status: Literal["processed"]


class Model(BaseModel):
    """A model or alias; when it was made is not known here, so `created` is 0."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    modality: Literal["image"]
    endpoint: Literal["images/generations", "images/edits"]


class ModelList(BaseModel):
    """Every name that a request may use."""

    object: Literal["list"]
    data: list[Model]


class Fault(BaseModel):
    """What went wrong; `param` names the field to change."""

    message: str
    type: str
    param: str | None
    code: str | None


class Error(BaseModel):
    """Every error."""

    error: Fault
