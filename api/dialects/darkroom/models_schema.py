"""The wire types of models and of the devices they are on."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from api.dialects.darkroom.schema import ModeName

ModelStateName = Literal["unloaded", "in_ram", "loading", "ready", "failed"]
LaneName = Literal["merge", "interleave", "exclusive"]
OptionName = Literal["dtype", "quantization", "attention", "compile", "vae", "cache", "offload"]
FetchedBytes = Annotated[int, Field(description="of `fetch_bytes`, what is on this machine")]
FetchBytes = Annotated[
    int, Field(description="of its files, while they are fetched from the hub; else 0")
]


class SizePx(BaseModel):
    """A size in pixels."""

    width: int
    height: int


class ModelLimits(BaseModel):
    """What a request may ask of a model; sides in pixels."""

    count: int
    num_inference_steps: int
    guidance_scale: float
    prompt_chars: int
    min_side: int
    max_side: int
    max_megapixels: float


class ModelDefaults(BaseModel):
    """What a request gets when it does not say."""

    num_inference_steps: int
    guidance_scale: float
    negative_prompt: str | None
    sampler: Annotated[str | None, Field(description="null: the checkpoint's own")]
    strength: float
    size: SizePx


class ModelQuality(BaseModel):
    """What a named quality replaces."""

    num_inference_steps: int | None
    guidance_scale: float | None


class ModelMode(BaseModel):
    """One thing a model does, and how such calls share the device once it is loaded."""

    lane: LaneName | None


class ModelLora(BaseModel):
    """A LoRA that requests may name; `trigger` is put before prompts that do not hold it."""

    strength: float
    rank: int | None
    trigger: str


class OptionState(BaseModel):
    """One option of speed or size of a model: what was asked for, and what became of it."""

    requested: str
    effective: Annotated[str, Field(description="empty until the model is loaded")]
    reason: Annotated[str, Field(description="why it is not what was asked for")]


class Model(BaseModel):
    """A served model; `sizes` is empty where any size within the limits will do."""

    name: str
    description: str
    family: str
    license: str
    state: ModelStateName
    reason: str
    fetched_bytes: FetchedBytes
    fetch_bytes: FetchBytes
    dtype: str
    options: Annotated[
        dict[OptionName, OptionState],
        Field(description="of speed and size, as models.yaml asks for them"),
    ]
    modes: dict[ModeName, ModelMode]
    sizes: list[SizePx]
    limits: ModelLimits
    defaults: ModelDefaults
    qualities: dict[str, ModelQuality]
    loras: dict[str, ModelLora]
    profiles: list[str]
    references: Annotated[list[str], Field(description="tags that it takes from pictures")]
    samplers: Annotated[list[str], Field(description="empty: its own and no other")]
    takes_negative_prompt: bool
    max_sequence_length: int | None
    price: int | dict[str, int | dict[str, int]]
    aliases: Annotated[list[str], Field(description="other names that lead here in some mode")]


class ModelList(BaseModel):
    """All served models."""

    models: list[Model]


class DeviceModel(BaseModel):
    """One model on one device."""

    name: str
    state: ModelStateName
    reason: str
    pinned: bool
    weight_bytes: Annotated[
        int, Field(description="of its files until it is loaded, then its own; 0 if not known")
    ]
    working_bytes: Annotated[
        int, Field(description="what its operations take beside the weights, once measured")
    ]
    fetched_bytes: FetchedBytes
    fetch_bytes: FetchBytes
    last_used_at: str | None
    lanes: dict[ModeName, LaneName]
    dtype: str
    token_budget: int
    options: dict[OptionName, OptionState]


class ModelPlace(DeviceModel):
    """One model on the device named."""

    device: str


class ManagedModel(BaseModel):
    """One model on every device."""

    name: str
    devices: list[ModelPlace]


class Device(BaseModel):
    """One device and its worker."""

    device: str
    name: str
    alive: bool
    idle_seconds: float
    running_images: int
    waiting_images: int
    memory_bytes: Annotated[int, Field(description="what models may take of it")]
    used_memory_bytes: int
    ram_bytes: Annotated[int, Field(description="what copies of models may take of RAM")]
    used_ram_bytes: int
    swaps: Annotated[int, Field(description="models that had to leave it for others")]
    restarts: Annotated[int, Field(description="how often its process was started again")]
    models: list[DeviceModel]


class DeviceList(BaseModel):
    """All devices."""

    devices: list[Device]
