"""What Mynth's clients get: everything inside `data`, money as decimal text in dollars."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Status = Literal["pending", "completed", "failed"]
TaskType = Literal["image.generate", "image.rate", "image.alt", "image.review"]


class Access(BaseModel):
    """What pages may poll the task with, for two hours."""

    publicAccessToken: str


class CreatedData(BaseModel):
    """A task that was accepted; `access` is left out where it was not wanted."""

    taskId: str
    estimatedCost: str
    access: Access | None = None


class Created(BaseModel):
    """The reply to a creation."""

    data: CreatedData


class EstimateData(BaseModel):
    """What a request would cost; at most so much where only its source tells its size."""

    estimatedCost: str
    currency: Literal["usd"]
    estimateKind: Literal["exact", "upper_bound"]


class Estimate(BaseModel):
    """The reply to a request that is only to be priced."""

    data: EstimateData


class Fault(BaseModel):
    """What went wrong."""

    code: str
    message: str | None = None


class RatingMade(BaseModel):
    """The level of a picture, or why it has none."""

    status: Literal["success", "failed"]
    level: str | None = None
    error: Fault | None = None


class DestinationMade(BaseModel):
    """Where a copy went."""

    status: Literal["success"]
    name: str


class ImageMade(BaseModel):
    """A finished picture.

    `url` is that of the copy where one was wanted, null if the destination has no public address;
    `mynth_url` leads to this server, signed.
    """

    status: Literal["success"]
    id: str
    url: str | None
    mynth_url: str
    size: str
    cost: str
    rating: RatingMade | None = None
    destination: DestinationMade | None = None


class ImageFailed(BaseModel):
    """A picture that could not be made; the others of its task are as they would be without it."""

    status: Literal["failed"]
    error: Fault


class MagicPrompt(BaseModel):
    """The prompt that the pictures were made from."""

    positive: str
    negative: str | None = None


class GenerateResult(BaseModel):
    """What a generation made: of its pictures one at least."""

    model: str
    images: list[ImageMade | ImageFailed]
    magic_prompt: MagicPrompt | None = None


class LookResult(BaseModel):
    """What a look at a picture said: a level, a text, or a score with its reasons."""

    model_config = ConfigDict(extra="allow")

    url: str


class StatusData(BaseModel):
    """How a task stands."""

    status: Status


class TaskStatus(BaseModel):
    """The reply to a poll."""

    data: StatusData


class ResultData(StatusData):
    """A task and what came of it, null until it is completed."""

    id: str
    type: TaskType
    result: GenerateResult | LookResult | None


class TaskResult(BaseModel):
    """The reply to who asks for the result alone."""

    data: ResultData


class TaskData(ResultData):
    """All of a task; times are ISO 8601, `request` is as it was sent."""

    userId: str
    apiKeyId: str | None
    cost: str | None
    request: dict[str, Any]
    errors: list[Fault] | None = None
    createdAt: str
    updatedAt: str


class Task(BaseModel):
    """The reply to who asks for a task."""

    data: TaskData


class TaskLine(StatusData):
    """A task in a list."""

    id: str
    type: TaskType
    cost: str | None
    createdAt: str
    updatedAt: str


class TaskList(BaseModel):
    """Tasks, newest first."""

    data: list[TaskLine]


class OldImages(BaseModel):
    """Pictures as clients before June 2026 read them."""

    images: list[dict[str, Any]]


class UploadedData(BaseModel):
    """Where the uploads lie, in the order in which they were sent."""

    urls: list[str]


class Uploaded(BaseModel):
    """The reply to an upload."""

    data: UploadedData


class PerImage(BaseModel):
    """What one picture costs, at the model's base size and at 4k where it makes that."""

    model_config = ConfigDict(populate_by_name=True)

    base: str
    four_k: Annotated[str | None, Field(alias="4k")] = None


class Pricing(BaseModel):
    """What a model costs; inputs cost nothing."""

    perImage: PerImage


class ModelLine(BaseModel):
    """A model by one of its names."""

    id: str
    displayName: str | None
    pricing: Pricing | None


class ModelList(BaseModel):
    """Every name that a request may use."""

    data: list[ModelLine]


class ApiKey(BaseModel):
    """The key that was sent; of its text nothing is kept, so the preview is of its id."""

    id: str
    name: str
    keyPreview: str


class Auth(BaseModel):
    """How the caller is known."""

    method: Literal["api-key", "none"]
    apiKey: ApiKey | None = None


class MeData(BaseModel):
    """Who calls."""

    userId: str
    auth: Auth


class Me(BaseModel):
    """The reply to who asks who they are."""

    data: MeData


class Spending(BaseModel):
    """What the key that was sent may spend in its period."""

    spendingLimit: str
    spendingLimitPeriod: Literal["day", "month"]
    usedInPeriod: str
    remainingInPeriod: str


class BalanceData(BaseModel):
    """`available` is the balance without what unfinished tasks reserve."""

    balance: str
    reserved: str
    available: str
    currency: Literal["usd"]
    apiKey: Spending | None = None


class Balance(BaseModel):
    """The reply to who asks for the balance."""

    data: BalanceData


class Error(BaseModel):
    """Every error; `field` names what is at fault in a request."""

    code: str
    message: str
    field: str | None = None
