"""The wire types of Model Buffet.

Keys it does not know are ignored, as the hosted service publishes no list of those it refuses and
a client must not break over one; values of the keys it knows are checked. A null is taken as left
out.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

AspectRatio = Literal["1:1", "4:5", "2:3", "16:9", "21:9", "9:16"]
Tag = Literal["style", "character", "palette", "composition", "pose"]
Status = Literal["queued", "processing", "completed", "failed"]

PICTURE = "an http(s) address, a data URI or base64"


class Reference(BaseModel):
    """A picture that is to guide: what of it is taken over, and how strongly."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    url: Annotated[str, Field(description=PICTURE)]
    tag: Tag = "style"
    weight: Annotated[float, Field(ge=0, le=1)] = 0.5


class GenerateRequest(BaseModel):
    """`POST /v1/images/generate`."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    model: Annotated[str, Field(min_length=1, max_length=200, examples=["flux-2-max"])]
    prompt: Annotated[str, Field(min_length=1, max_length=4000, examples=["a red circle"])]
    count: Annotated[int, Field(ge=1, le=8, description="how many variations")] = 4
    aspect_ratio: Annotated[
        AspectRatio, Field(description="the model makes its nearest size; outputs tell which")
    ] = "1:1"
    references: Annotated[list[Reference], Field(max_length=6)] = []
    negative_prompt: str | None = None
    seed: Annotated[int | None, Field(description="of the first output, the next has one more")] = (
        None
    )
    webhook: Annotated[
        str | None,
        Field(min_length=1, max_length=2048, description="address to be told of the end"),
    ] = None


class EditRequest(GenerateRequest):
    """`POST /v1/images/edit`."""

    image: Annotated[str, Field(description=f"the picture to change: {PICTURE}")]
    mask: Annotated[
        str | None,
        Field(description=f"white or transparent where it is to be redrawn: {PICTURE}"),
    ] = None


class Output(BaseModel):
    """One finished picture; `url` is signed and needs nothing else until it expires."""

    url: str
    width: int
    height: int
    seed: int


class GenerationError(BaseModel):
    """Why a generation failed."""

    code: str
    message: str


class Generation(BaseModel):
    """A generation as it stands.

    There are `outputs`, and `credits_used` for them, once it is completed; one that was cancelled
    has those that were made by then. `duration_ms`, from acceptance to the end, is there once it
    has ended; `error` if it failed.
    """

    id: str
    status: Status
    model: str
    credits_used: int
    duration_ms: int
    outputs: list[Output]
    error: GenerationError | None = None


class ErrorDetail(BaseModel):
    """What is wrong; `param` names the field at fault, if it is one."""

    type: str
    code: str
    message: str
    param: str | None


class Error(BaseModel):
    """Every error."""

    error: ErrorDetail
    request_id: str
