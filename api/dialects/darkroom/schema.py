"""The wire types of our own API, as its OpenAPI document shows them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Int64 = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
Name = Annotated[str, Field(min_length=1, max_length=200)]
Word = Annotated[str, Field(min_length=1, max_length=40)]
State = Literal["queued", "running", "succeeded", "failed", "cancelled"]
ModeName = Literal["generate", "img2img", "inpaint", "edit"]
TagName = Literal["style", "character", "palette", "composition", "pose"]
FormatName = Literal["png", "jpeg", "webp", "avif"]


class Reference(BaseModel):
    """A picture that is to guide, and what is to be taken from it."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    image: Annotated[str, Field(description="as `image` of the request")]
    tag: TagName
    weight: Annotated[float, Field(ge=0, le=1)] = 0.5


class LoraUse(BaseModel):
    """A LoRA of the model, and how strongly it counts."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: Annotated[
        str,
        Field(
            min_length=1,
            max_length=2048,
            description="as the model lists it; also hub:…, folder:… or an https address where "
            "the model takes such",
        ),
    ]
    strength: Annotated[
        float | None, Field(description="1 is as trained, 0 is without, below 0 the opposite")
    ] = None
    rank: Annotated[
        Int64 | None, Field(description="keep only so many components of each layer")
    ] = None


class GenerationRequest(BaseModel):
    """What to make; whatever is left out, the model decides."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    model: Annotated[Name, Field(description="a model's name or an alias")] = "auto"
    prompt: Annotated[str, Field(examples=["a red circle"])]
    negative_prompt: str | None = None
    mode: Annotated[
        ModeName | None, Field(description="left out: what the given pictures imply")
    ] = None
    image: Annotated[
        str | None,
        Field(description="source picture: base64, a data URI or an address; a file in a form"),
    ] = None
    mask: Annotated[
        str | None, Field(description="white or transparent where the picture is to be redrawn")
    ] = None
    width: Annotated[Int64 | None, Field(description="pixels; together with height")] = None
    height: Annotated[Int64 | None, Field(description="pixels; together with width")] = None
    aspect_ratio: Annotated[
        Word | None, Field(description="such as 16:9; instead of width and height")
    ] = None
    resolution: Annotated[Word | None, Field(description="1k, 2k or 4k")] = None
    quality: Annotated[Word | None, Field(description="one of the model's qualities")] = None
    count: Annotated[Int64, Field(description="how many pictures")] = 1
    seed: Annotated[
        Int64 | None, Field(description="of the first picture, the next has one more")
    ] = None
    num_inference_steps: Int64 | None = None
    guidance_scale: float | None = None
    strength: Annotated[
        float | None, Field(description="how far to leave the source picture, 0 to 1")
    ] = None
    images: Annotated[
        list[str], Field(max_length=16, description="more source pictures, for models that edit")
    ] = []
    profile: Annotated[Name | None, Field(description="one of the model's profiles")] = None
    loras: Annotated[list[LoraUse], Field(max_length=16)] = []
    lora_strength: Annotated[
        float | None, Field(description="of every LoRA that says none of its own")
    ] = None
    lora_rank: Int64 | None = None
    downsizing_mp: Annotated[
        float | None,
        Field(description="millions of pixels that each input picture is shrunk to before use"),
    ] = None
    sampler: Annotated[
        Word | None, Field(description="one of the model's samplers; left out: its own")
    ] = None
    mask_blur: Annotated[
        Int64 | None, Field(description="pixels beyond the mask over which its edge fades")
    ] = None
    offloading: Annotated[
        bool | None,
        Field(
            description="whether weights are kept off the device until they are used; refused "
            "where the model's entry decides otherwise"
        ),
    ] = None
    references: Annotated[list[Reference], Field(max_length=16)] = []
    output_format: Annotated[
        FormatName | None, Field(description="left out: as the server is set up")
    ] = None
    output_quality: Annotated[
        int | None, Field(ge=1, le=100, description="of jpeg, webp and avif")
    ] = None
    destination: Annotated[
        str | None,
        Field(min_length=1, max_length=64, description="a place of the account's for copies"),
    ] = None
    destination_path: Annotated[
        str | None,
        Field(min_length=1, max_length=700, description="what the copy is called there"),
    ] = None
    webhook: Annotated[
        str | None,
        Field(min_length=1, max_length=2048, description="address to be told of the end"),
    ] = None
    priority: Annotated[int, Field(ge=-100, le=100, description="higher ones are made first")] = 0


class Picture(BaseModel):
    """One finished picture, with everything needed to make it again."""

    index: int
    url: Annotated[str, Field(description="signed; needs nothing else until it expires")]
    width: int
    height: int
    seed: int
    num_inference_steps: int
    guidance_scale: float
    media_type: str
    size_bytes: int
    sha256: str
    destination_url: Annotated[str | None, Field(description="where the copy lies, if asked for")]


class TaskError(BaseModel):
    """Why a generation failed."""

    kind: str
    message: str
    reason: Annotated[
        str | None, Field(description="why its model could not be loaded, as the server tells it")
    ]


class PictureFailure(BaseModel):
    """A picture that could not be made, of a generation whose others are."""

    index: int
    seed: int
    kind: str
    message: str


class TaskLinks(BaseModel):
    """Where a generation is read, watched and cancelled."""

    self: str
    events: str
    cancel: str


class Generation(BaseModel):
    """A generation as it stands; the values are those it is really made with."""

    id: str
    state: State
    requested_model: str
    model: str
    mode: ModeName
    prompt: str
    negative_prompt: str | None
    width: int
    height: int
    count: int
    seeds: list[int]
    num_inference_steps: int
    guidance_scale: float
    strength: float | None
    loras: list[LoraUse]
    downsizing_mp: float | None
    sampler: Annotated[str | None, Field(description="null: the model's own")]
    mask_blur: int | None
    credits: Annotated[int, Field(description="the price of all pictures")]
    cost: Annotated[
        int | None, Field(description="the price of those that were made; null until it has ended")
    ]
    attempt: int
    created_at: str
    started_at: str | None
    finished_at: str | None
    cancel_requested: bool
    error: TaskError | None
    images: list[Picture]
    failures: Annotated[
        list[PictureFailure],
        Field(description="of a generation that succeeded, what has no image is here"),
    ]
    links: TaskLinks


class GenerationPage(BaseModel):
    """Generations, newest first; `next_cursor` is null on the last page."""

    generations: list[Generation]
    next_cursor: str | None


class Queue(BaseModel):
    """How much has not ended."""

    queued_tasks: int
    running_tasks: int
    unfinished_images: int
    seconds_per_image: float | None


class Problem(BaseModel):
    """An error, by RFC 9457; `field` names what to change in the request."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    field: str | None = None
    request_id: str
