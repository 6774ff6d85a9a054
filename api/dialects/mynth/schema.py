"""What Mynth's clients send.

Keys it does not know are ignored, as the hosted service publishes no list of those it refuses and
a client must not break over one; values of the keys it knows are checked. A null is taken as left
out. Where a field has a short spelling, it is read as the long one that it stands for.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

AspectRatio = Literal[
    "1:1", "2:3", "3:2", "3:4", "4:3", "4:5", "5:4", "9:16", "16:9", "21:9", "2:1", "1:2"
]
Preset = Literal["square", "portrait", "landscape", "portrait_tall", "landscape_wide"]
Role = Literal["auto", "person", "garment", "pose", "source", "reference"]
Effort = Literal["low", "high"]

# The provider names these and gives no numbers; so do most who have such names.
PRESETS: dict[str, AspectRatio] = {
    "square": "1:1",
    "portrait": "3:4",
    "landscape": "4:3",
    "portrait_tall": "9:16",
    "landscape_wide": "16:9",
}
SUFFIX_4K = "_4k"
METADATA_BYTES = 2048


def _address(text: str, hint: str = "") -> str:
    if not text[:8].lower().startswith(("http://", "https://")):
        raise ValueError(f"must be an http(s) address{hint}")
    return text


def _of_picture(text: str) -> str:
    return _address(text, "; POST /image/upload makes one of a file")


# The bounds come before the check: behind it they would be told as those of a list.
AddressText = Annotated[
    str,
    Field(
        min_length=1,
        max_length=2048,
        json_schema_extra={"format": "uri"},
        description="an http(s) address",
        examples=["https://pictures.example/cat.png"],
    ),
]
Url = Annotated[AddressText, AfterValidator(_address)]
PictureUrl = Annotated[AddressText, AfterValidator(_of_picture)]


class Wire(BaseModel):
    """What all of them have in common."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Output(Wire):
    """The files that pictures become; `quality` changes nothing about a png."""

    format: Literal["png", "jpg", "webp"] = "webp"
    quality: Annotated[int, Field(ge=1, le=100)] = 80


class Size(Wire):
    """The model's own size, or a ratio: at `4k` where the model can, else at its base size."""

    type: Literal["auto", "aspect_ratio"]
    aspectRatio: AspectRatio | None = None
    scale: Literal["base", "4k"] = "base"

    @model_validator(mode="after")
    def _agree(self) -> Size:
        if (self.type == "aspect_ratio") != (self.aspectRatio is not None):
            raise ValueError("type aspect_ratio and aspectRatio belong together")
        return self


def _long_size(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if value == "auto":
        return {"type": "auto"}
    name = value.removesuffix(SUFFIX_4K)
    ratio = PRESETS.get(name, name)
    if ratio not in get_args(AspectRatio):
        raise ValueError(f"must be {SIZE_NAMES}")
    return {
        "type": "aspect_ratio",
        "aspectRatio": ratio,
        "scale": "base" if name == value else "4k",
    }


RATIOS = ", ".join(get_args(AspectRatio))
SIZE_NAMES = f"auto, {', '.join(PRESETS)}, {RATIOS}; each ratio may end in {SUFFIX_4K}"
AnySize = Annotated[
    Size,
    BeforeValidator(
        _long_size,
        json_schema_input_type=Annotated[
            Preset | AspectRatio | Literal["auto", "16:9_4k"] | Size, Field(description=SIZE_NAMES)
        ],
    ),
]


class Source(Wire):
    """Where a picture lies."""

    type: Literal["url"] = "url"
    url: PictureUrl


class Input(Wire):
    """A picture, and `as` what it goes in."""

    model_config = ConfigDict(extra="ignore", frozen=True, serialize_by_alias=True)

    type: Literal["image"] = "image"
    role: Annotated[Role, Field(alias="as")] = "auto"
    source: Source


def _long_input(value: Any) -> Any:
    return {"source": {"url": value}} if isinstance(value, str) else value


class RatingLevel(Wire):
    """One answer that a rating may give."""

    value: Annotated[str, Field(min_length=1, max_length=24)]
    description: Annotated[str, Field(max_length=150)]


class RatingFields(Wire):
    """By what a picture is rated: as sfw or nsfw, or by levels of the caller's own."""

    mode: Literal["nsfw_sfw", "custom"] | None = None
    levels: Annotated[
        Annotated[list[RatingLevel], Field(min_length=2, max_length=7)] | None,
        Field(validate_default=True),
    ] = None

    @field_validator("levels")
    @classmethod
    def _agree(
        cls, levels: list[RatingLevel] | None, info: ValidationInfo
    ) -> list[RatingLevel] | None:
        mode = info.data.get("mode")
        if mode == "custom" and levels is None:
            raise ValueError("are needed by mode custom")
        if mode == "nsfw_sfw" and levels is not None:
            raise ValueError("need mode custom")
        values = [level.value for level in levels or ()]
        if len(set(values)) < len(values):
            raise ValueError("must have different values")
        return levels


def _long_rating(value: Any) -> Any:
    return ({"mode": "nsfw_sfw"} if value else None) if isinstance(value, bool) else value


Rating = Annotated[
    RatingFields | None,
    BeforeValidator(_long_rating, json_schema_input_type=Literal[True] | RatingFields),
]


class CustomWebhook(Wire):
    """An address that is told of this task's end; what it is sent is not signed."""

    url: Url


class Webhook(Wire):
    """Who is told of the end; without `dashboard`, no registered webhook is."""

    custom: Annotated[list[CustomWebhook], Field(max_length=5)] = []
    dashboard: bool = True


class Pat(Wire):
    """Whether the reply has a token for pages."""

    enabled: bool = True


class Access(Wire):
    """What the reply gives to others than the caller."""

    pat: Pat = Pat()


def _small(values: dict[str, Any]) -> dict[str, Any]:
    text = json.dumps(values, ensure_ascii=False, separators=(",", ":"))
    if len(text.encode()) > METADATA_BYTES:
        raise ValueError(f"must be {METADATA_BYTES} bytes of JSON or fewer")
    return values


Prompt = Annotated[str, Field(min_length=1, max_length=8192)]


class GenerateRequest(Wire):
    """`POST /image/generate`."""

    prompt: Annotated[Prompt, Field(examples=["a red circle"])]
    negative_prompt: Prompt | None = None
    magic_prompt: Annotated[bool, Field(description="have the prompt written out")] = False
    model: Annotated[str, Field(min_length=1, max_length=200, examples=["auto"])] = "auto"
    count: Annotated[int, Field(ge=1, le=20)] = 1
    size: AnySize = Size(type="auto")
    output: Output = Output()
    inputs: Annotated[
        list[
            Annotated[
                Input, BeforeValidator(_long_input, json_schema_input_type=PictureUrl | Input)
            ]
        ],
        Field(max_length=20),
    ] = []
    rating: Rating = None
    destination: Annotated[str | None, Field(min_length=1, max_length=64)] = None
    metadata: Annotated[
        dict[str, Any] | None,
        AfterValidator(lambda values: values and _small(values)),
        Field(description="comes back with the task"),
    ] = None
    webhook: Webhook = Webhook()
    access: Access = Access()


class LookRequest(Wire):
    """A picture to be looked at."""

    url: PictureUrl


class RateRequest(LookRequest, RatingFields):
    """`POST /image/rate`."""


class AltRequest(LookRequest):
    """`POST /image/alt`."""


class ReviewRequest(LookRequest):
    """`POST /image/review`."""

    effort: Effort = "high"
