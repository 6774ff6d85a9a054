"""The wire types of Eigen AI.

Keys it does not know are ignored, as one endpoint serves models of many kinds and its clients send
what another kind takes; values of the keys it knows are checked. A null is taken as left out, and
so is an empty field of a form. A picture makes a request an edit, whatever `mode` says.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

# Names of the same thing: a request may use one, or say the same by each. The first of the numbers
# has a documented default, which gives way to another name.
STEPS = ("num_inference_steps", "sample_steps")
GUIDANCE = ("guidance_scale", "true_cfg_scale", "sample_guide_scale")
PARTS = ("image", "image_file", "images")

# The provider's default for width and height.
SIDE_PX = 1024
MAX_IMAGES = 9
LEAST_SIDE_PX, MOST_SIDE_PX = 512, 2048
SIZE = r"^[0-9]{3,4}x[0-9]{3,4}$"
S3_PATH = r"^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]/[^/\x00-\x1f\x7f](.*[^/])?$"

Side = Annotated[
    int,
    Field(
        ge=LEAST_SIDE_PX,
        le=MOST_SIDE_PX,
        description="1024 of a picture made of words; an edit of 1024x1024 is as its source",
    ),
]
Status = Literal["pending", "processing", "completed", "failed"]


def _check_size(text: str) -> str:
    if not re.fullmatch(SIZE, text):
        raise ValueError("must be WIDTHxHEIGHT, such as 1024x1536")
    if not all(LEAST_SIDE_PX <= int(side) <= MOST_SIDE_PX for side in text.split("x")):
        raise ValueError(f"must have sides from {LEAST_SIDE_PX} to {MOST_SIDE_PX} pixels")
    return text


def _check_s3_path(text: str) -> str:
    if not re.fullmatch(S3_PATH, text):
        raise ValueError("must be s3://bucket/key, such as s3://pictures/cat.png")
    return text


Size = Annotated[str, AfterValidator(_check_size), Field(json_schema_extra={"pattern": SIZE})]
S3Path = Annotated[
    str,
    AfterValidator(_check_s3_path),
    Field(max_length=1100, json_schema_extra={"pattern": S3_PATH}),
]


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Pictures = Annotated[
    list[str],
    BeforeValidator(_as_list),
    Field(max_length=MAX_IMAGES, description="files of a form; in JSON data URIs or addresses"),
]


class GenerateRequest(BaseModel):
    """`POST /api/v1/generate`."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)

    model: Annotated[str, Field(min_length=1, max_length=200, examples=["eigen-image"])]
    prompt: Annotated[str, Field(examples=["a red circle"])]
    mode: Literal["text-to-image", "image-editing"] | None = None
    seed: int | None = None
    real_time: Annotated[bool, Field(description="look the prompt up on the web first")] = False
    width: Side | None = None
    height: Side | None = None
    size: Annotated[
        Size | None, Field(description="WIDTHxHEIGHT, where neither width nor height is given")
    ] = None
    guidance_scale: float | None = None
    true_cfg_scale: Annotated[float | None, Field(description="the same")] = None
    sample_guide_scale: Annotated[float | None, Field(description="the same")] = None
    num_inference_steps: int | None = None
    sample_steps: Annotated[int | None, Field(description="the same")] = None
    negative_prompt: str | None = None
    image: Pictures = []
    image_file: Pictures = []
    images: Pictures = []
    image_path: Annotated[
        str | None,
        Field(max_length=4096, description="an https address, or a path below the server's folder"),
    ] = None
    image_url: Annotated[str | None, Field(description="an address or a data URI")] = None
    downsizing_mp: Annotated[
        float | None, Field(gt=0, description="megapixels to shrink pictures to first")
    ] = None
    weight: Annotated[
        str | None, Field(max_length=200, description="lightning, vanilla or another profile")
    ] = None
    lora_strength: Annotated[float | None, Field(description="of the profile's LoRAs")] = None
    rank: Annotated[int | None, Field(description="components kept of the profile's LoRAs")] = None
    offloading: Annotated[
        bool | None, Field(description="a hint, not followed: the model's entry decides")
    ] = None
    output_format: Literal["png", "jpg", "jpeg"] = "png"
    binary_response: Annotated[bool, Field(description="answer with the picture's bytes")] = False
    s3_output_path: Annotated[
        S3Path | None,
        Field(description="s3://bucket/key: a copy to the account's destination in that bucket"),
    ] = None
    as_job: Annotated[
        bool, Field(alias="async", description="answer at once, with a job to be polled")
    ] = False


class Generated(BaseModel):
    """The reply with the picture, as plain base64 under two names."""

    image_base64: str
    turbo_image_base64: Annotated[str | None, Field(description="the same, made of words")] = None
    edited_image_base64: Annotated[str | None, Field(description="the same, of a picture")] = None
    seed: int
    width: int
    height: int
    model: str
    request_id: str
    processing_time_seconds: float
    use_lightning: bool
    s3_output_path: str | None = None
    sources: Annotated[
        list[str] | None, Field(description="what of the web real_time made use of")
    ] = None


class Accepted(BaseModel):
    """The reply to a job."""

    task_id: str
    task_status: Status


class Job(BaseModel):
    """How a job stands; times are ISO 8601, in UTC."""

    task_id: str
    status: Status
    start_time: str | None
    end_time: str | None
    error: str | None


class Error(BaseModel):
    """Every error; the first three are the same text."""

    error: str
    message: str
    detail: str
    code: str
    request_id: str
