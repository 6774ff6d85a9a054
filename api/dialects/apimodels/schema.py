"""The wire types of APIModels.app.

Keys it does not know are ignored, as each model there has its own and a client must not break over
one; values of the keys it knows are checked, and what no model here can do is refused by name. A
null, and an empty text or list, are taken as left out.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

PROMPT_CHARS = 32_000
MAX_IMAGES = 16
SIZE = r"^(auto|[124][Kk]|[0-9]{1,5}x[0-9]{1,5}|[0-9]{1,4}:[0-9]{1,4})$"
RATIO = r"^(auto|custom|match_input_image|[0-9]{1,4}:[0-9]{1,4})$"
PICTURE = "an http(s) address, a data URI or base64"

State = Literal["pending", "processing", "completed", "failed"]
Quality = Literal["auto", "low", "medium", "high"]
Format = Literal["png", "jpeg", "jpg", "webp"]
ModelType = Literal["TEXT_TO_IMAGE", "IMAGE_TO_IMAGE"]


def _check_size(text: str) -> str:
    if not re.fullmatch(SIZE, text):
        raise ValueError("must be 1K, 2K, 4K, WIDTHxHEIGHT, a ratio like 16:9, or auto")
    return text


def _check_ratio(text: str) -> str:
    if not re.fullmatch(RATIO, text):
        raise ValueError("must be a ratio like 16:9, or auto")
    return text


def _as_tier(value: Any) -> Any:
    return str(value).upper() if isinstance(value, str | int) else value


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Texts = Annotated[list[str], BeforeValidator(_as_list), Field(max_length=MAX_IMAGES)]
Address = Annotated[str | None, Field(max_length=2048)]
Mask = Annotated[str | None, Field(description=f"{PICTURE}; transparent where it is to be redrawn")]


class GenerationRequest(BaseModel):
    """`POST /images/generations`, and the same at `/images/generations-sync`."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    model: Annotated[str, Field(min_length=1, max_length=200, examples=["gpt-image-2"])]
    prompt: Annotated[str, Field(min_length=1, max_length=PROMPT_CHARS, examples=["a red circle"])]
    negative_prompt: str | None = None
    image_url: Annotated[Texts, Field(description=f"the picture to change: {PICTURE}")] = []
    image_urls: Annotated[
        Texts, Field(description="the pictures to change, the main one first")
    ] = []
    image: Annotated[Texts, Field(description="the same")] = []
    images: Annotated[Texts, Field(description="the same")] = []
    mask: Mask = None
    mask_url: Mask = None
    mask_image: Mask = None
    aspect_ratio: Annotated[
        str | None,
        AfterValidator(_check_ratio),
        Field(json_schema_extra={"pattern": RATIO}, description="such as 16:9, up to 8:1"),
    ] = None
    resolution: Annotated[
        Literal["512", "1K", "2K", "4K"] | None,
        BeforeValidator(_as_tier),
    ] = None
    size: Annotated[
        str | None,
        AfterValidator(_check_size),
        Field(
            json_schema_extra={"pattern": SIZE},
            description="1K, 2K, 4K or WIDTHxHEIGHT; the model makes its nearest",
        ),
    ] = None
    width: Annotated[int | None, Field(ge=1, le=16384)] = None
    height: Annotated[int | None, Field(ge=1, le=16384)] = None
    n: Annotated[int, Field(ge=1, le=10, description="how many pictures")] = 1
    quality: Quality = "auto"
    output_format: Format = "png"
    seed: Annotated[
        int | None, Field(description="of the first picture, the next has one more")
    ] = None
    prompt_upsampling: Annotated[bool, Field(description="have the prompt written out")] = False
    lora_weights: Annotated[
        str | None, Field(max_length=200, description="the name of a LoRA of the model")
    ] = None
    lora_scale: Annotated[float, Field(ge=-1, le=3)] = 0.5
    turbo: Annotated[bool, Field(description="by the model's profile lightning")] = False
    callback_url: Address = None
    callBackUrl: Annotated[Address, Field(description="an older name of callback_url")] = None
    background: Annotated[
        Literal["auto", "opaque", "transparent"], Field(description="transparent is refused")
    ] = "auto"
    layer_decomposition: Annotated[bool, Field(description="refused")] = False
    scale: Annotated[float | None, Field(description="refused")] = None
    face_enhance: Annotated[bool, Field(description="refused")] = False
    nsfw_checker: Annotated[bool, Field(description="refused")] = False
    up_expansion_ratio: Annotated[float, Field(description="refused, as the three below")] = 0
    down_expansion_ratio: float = 0
    left_expansion_ratio: float = 0
    right_expansion_ratio: float = 0


class TaskInfo(BaseModel):
    """A task as it stands; times are epoch milliseconds.

    There are `resultUrls` once it is completed, `failMsg`, `failCode` and `retryable` if it failed.
    One that was cancelled has both, if pictures were made by then: `credits` are for those.
    """

    taskId: str
    state: State
    modelType: ModelType | None = None
    credits: int | None = None
    createTime: int | None = None
    completeTime: int | None = None
    resultUrls: list[str] | None = None
    url: str | None = None
    failMsg: str | None = None
    failCode: str | None = None
    retryable: bool | None = None


class TaskReply(BaseModel):
    """What all replies about a task are wrapped in; `code` is that of HTTP."""

    code: int
    msg: str
    data: TaskInfo


class File(BaseModel):
    """A file that was left here; `publicUrl` is for `image_url`, and holds until `expireTime`."""

    publicUrl: str
    expireTime: int


class FileReply(BaseModel):
    """The reply to an upload."""

    code: int
    msg: str
    data: File


class Balance(BaseModel):
    """What can still be spent, in dollars and in credits; without a limit if not `metered`."""

    balance: float
    credits: int
    metered: bool


class BalanceReply(BaseModel):
    """The reply about a balance."""

    code: int
    msg: str
    data: Balance


class Error(BaseModel):
    """Every error; `code` is that of HTTP."""

    code: int
    msg: str
    data: None
